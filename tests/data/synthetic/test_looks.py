"""Pictures of pages: turned with their boxes, reproducible; and pictures that are no documents."""

import random

import numpy as np
import pytest

from hdvl.data.synthetic import SyntheticDocuments, turned
from hdvl.data.synthetic.looks import photographed

SIZES = {"width": (420, 500), "height": (320, 400), "entries": (2, 6)}


@pytest.mark.parametrize("degrees", [-5.0, 3.0])
def test_boxes_turn_with_the_page(degrees):
    document = SyntheticDocuments(seed=2, kinds="form", chinese=0.0, **SIZES)[1]
    tilted = turned(document, degrees)
    assert tilted.image.size == document.image.size and tilted.fields
    pixels = np.asarray(tilted.image).astype(int)
    for field in tilted.fields:
        x0, y0, x1, y1 = (round(edge) for edge in field.box)
        off = np.abs(pixels[y0:y1, x0:x1] - pixels[2, 2]).sum(-1) > 120
        # Ink reaches from edge to edge, but for the corners that a turned box leaves empty.
        assert off.any(axis=0).mean() > 0.6 and off.any(axis=1).mean() > 0.7
        glyphs = tilted.glyphs[slice(*field.span)]
        for glyph in glyphs:
            centre = (glyph.ink[0] + glyph.ink[2]) / 2, (glyph.ink[1] + glyph.ink[3]) / 2
            assert x0 - 2 <= centre[0] <= x1 + 2 and y0 - 2 <= centre[1] <= y1 + 2


def test_a_page_that_is_not_turned_stays_where_it_is():
    document = SyntheticDocuments(seed=2, **SIZES)[0]
    still = turned(document, 0.0)
    for one, other in zip(document.fields, still.fields, strict=True):
        assert one.box == pytest.approx(other.box)


def test_photographs_differ_from_the_page_and_follow_from_the_seed():
    document = SyntheticDocuments(seed=2, **SIZES)[0]
    one, other = (photographed(document, random.Random(5)) for _ in range(2))
    assert one.image.tobytes() == other.image.tobytes() != document.image.tobytes()
    assert one.image.mode == "RGB"


def test_pictures_have_nothing_to_ask_for():
    documents = SyntheticDocuments(seed=2, kinds="picture", width=(60, 90), height=(50, 70))
    images = [documents[number] for number in range(25)]
    assert all(not document.fields and not document.glyphs for document in images)
    assert {document.image.mode for document in images} == {"RGB"}
    spread = [np.asarray(document.image).std() for document in images]
    assert min(spread) == 0 and max(spread) > 20  # blank ones and others
