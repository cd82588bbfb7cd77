"""Synthetic documents are reproducible and legible, and their boxes are exact."""

import hashlib

import numpy as np
import pytest

from hdvl.data.synthetic import SyntheticDocuments
from hdvl.data.synthetic.layouts import LAYOUTS


def small(**options):
    sizes = {"width": (300, 420), "height": (240, 360), "entries": (2, 5)}
    return SyntheticDocuments(**{"seed": 3, **sizes, **options})


def test_the_same_seed_and_index_give_the_same_document():
    one, other = small()[5], small()[5]
    assert one.image.tobytes() == other.image.tobytes()
    assert one.fields == other.fields and one.glyphs == other.glyphs


def test_pages_of_the_first_kinds_are_those_of_earlier_versions():
    digest = hashlib.sha256(b"".join(small()[index].image.tobytes() for index in range(8)))
    assert digest.hexdigest() == "055a08282a25a8b3465b2a813c264a4e05aa19a9800f59b12743422af27bf2ef"


def test_another_seed_or_index_gives_another_document():
    first = small()[5].image.tobytes()
    assert small()[6].image.tobytes() != first
    assert small(seed=4)[5].image.tobytes() != first


@pytest.mark.parametrize("kind", sorted(LAYOUTS))
@pytest.mark.parametrize("chinese", [0.0, 1.0])
def test_every_kind_has_documents_in_both_languages(kind, chinese):
    document = small(kinds=(kind,), chinese=chinese)[0]
    assert document.kind == kind and document.language == ("zh" if chinese else "en")
    assert document.fields
    for field in document.fields:
        assert field.value and field.question.endswith("?")


@pytest.mark.parametrize("kind", sorted(LAYOUTS))
def test_the_box_of_a_value_holds_its_ink_and_nothing_beside_it_changes(kind):
    document = small(kinds=(kind,), chinese=0.0)[1]
    pixels = np.asarray(document.image).astype(int)
    for field in document.fields:
        x0, y0, x1, y1 = (round(edge) for edge in field.box)
        assert 0 <= x0 < x1 <= document.image.width and 0 <= y0 < y1 <= document.image.height
        inside = pixels[y0:y1, x0:x1]
        paper = pixels[max(0, y0 - 2), min(x1 + 1, pixels.shape[1] - 1)]
        ink = np.abs(inside - paper).sum(-1) > 120
        assert ink.any(axis=1).sum() >= 0.8 * (y1 - y0)
        assert ink.any(axis=0).sum() >= 0.3 * (x1 - x0)


def test_text_asked_for_is_at_most_18_px_high():
    documents = SyntheticDocuments(seed=1)
    heights = [f.box[3] - f.box[1] for index in range(20) for f in documents[index].fields]
    assert max(heights) <= 18


def test_pages_have_the_sizes_asked_for():
    document = SyntheticDocuments(seed=0, width=(900, 900), height=(700, 700))[0]
    assert document.image.size == (900, 700)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ("poem",)}, "kinds must be taken from .*got"),
        ({"kinds": ()}, "kinds must be taken from"),
        ({"chinese": 1.5}, "chinese must be a share in 0..1, got 1.5"),
        ({"width": (5, 2)}, "width must be a range"),
        ({"font_size": (0, 2)}, "font_size must be a range"),
        ({"photographed": 2.0}, "photographed must be a share in 0..1, got 2.0"),
        ({"turn": 90.0}, "turn must be in 0..45 degrees, got 90.0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SyntheticDocuments(**options)
