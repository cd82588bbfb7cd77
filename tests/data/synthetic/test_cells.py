"""Dense labels: the class and the position of the glyph in every cell."""

import torch

from hdvl.data.synthetic import SyntheticDocuments, turned
from hdvl.data.synthetic.cells import (
    _by_token,
    cell_labels,
    classes,
    token_boxes,
    token_labels,
    token_words,
)


def test_labels_name_the_glyph_over_the_centre_of_a_cell():
    document = SyntheticDocuments(seed=0, width=(320, 320), height=(240, 240), entries=(3, 5))[0]
    labels, geometry = cell_labels(document, cell=8)
    assert labels.shape == (30, 40) and geometry.shape == (30, 40, 3)
    by_class = {index: char for char, index in classes().items()}
    inked = labels.nonzero().tolist()
    assert inked
    for row, col in inked:
        centre = (col + 0.5) * 8, (row + 0.5) * 8
        char = by_class[int(labels[row, col])]
        dx, dy, height = geometry[row, col].tolist()
        near = [
            glyph
            for glyph in document.glyphs
            if glyph.char == char
            and abs((glyph.box[0] + glyph.box[2]) / 2 - centre[0] - dx * 8) < 1e-3
            and abs((glyph.box[1] + glyph.box[3]) / 2 - centre[1] - dy * 8) < 1e-3
        ]
        assert near and abs(near[0].box[3] - near[0].box[1] - height * 8) < 1e-3


def test_token_labels_hold_the_characters_of_a_token_in_reading_order():
    document = SyntheticDocuments(seed=0, width=(320, 320), height=(240, 240), entries=(3, 5))[0]
    labels = token_labels(document, token=(16, 320), slots=40)
    assert labels.shape == (15, 1, 40)
    by_class = {index: char for char, index in classes().items()} | {0: ""}
    rows = ["".join(by_class[int(c)] for c in row) for row in labels[:, 0]]
    said = {line.replace(" ", "") for line in document.lines}
    assert {row for row in rows if row} <= said
    narrow = token_labels(document, token=(16, 16), slots=4)
    assert int((narrow > 0).sum()) >= 0.95 * len(document.glyphs)


def test_token_boxes_are_the_ink_of_the_characters_of_a_token():
    document = SyntheticDocuments(seed=0, width=(320, 320), height=(240, 240), entries=(3, 5))[0]
    boxes = token_boxes(document, token=(16, 16))
    written = token_labels(document, token=(16, 16))[..., 0] > 0
    assert boxes.shape == (15, 20, 4)
    assert (boxes[..., 0].isfinite() == written).all()
    grey = torch.frombuffer(bytearray(document.image.convert("L").tobytes()), dtype=torch.uint8)
    grey = grey.view(240, 320)
    paper = grey.flatten().mode().values
    for row, col in written.nonzero().tolist():
        x0, y0, x1, y1 = (boxes[row, col] + torch.tensor([col, row, col, row])).mul(16).tolist()
        ink = grey[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] != paper
        assert ink.any() and x0 < x1 and y0 < y1
        assert ink[0].any() or ink[1].any()  # the box begins where the ink does


def test_token_words_are_the_words_that_a_token_is_part_of():
    document = SyntheticDocuments(seed=1, width=(320, 320), height=(240, 240), chinese=0.0)[0]
    found = token_words(document, token=(16, 16))
    shown_words = {word for line in document.lines for word in line.lower().split()}
    assert set().union(*found.values()) == shown_words
    assert set(found) == {
        tuple(place) for place in (token_labels(document)[..., 0] > 0).nonzero().tolist()
    }


def test_every_glyph_of_many_documents_has_a_class():
    documents = SyntheticDocuments(seed=5, width=(400, 600), height=(300, 400), chinese=0.5)
    known = set(classes())
    assert all(glyph.char in known for index in range(30) for glyph in documents[index].glyphs)


def test_on_a_turned_page_the_characters_of_a_word_keep_their_order() -> None:
    document = turned(SyntheticDocuments(seed=1, kinds="form")[0], 4.0)
    numbers = {id(glyph): number for number, glyph in enumerate(document.glyphs)}
    labels, longest = token_labels(document), 0
    for place, found in _by_token(document, (16, 16)).items():
        if len({glyph.word for glyph in found}) == 1:
            in_order = sorted(found, key=lambda glyph: numbers[id(glyph)])[:4]
            shown = [number for number in labels[place].tolist() if number]
            assert shown == [classes()[glyph.char] for glyph in in_order]
            longest = max(longest, len(shown))
    assert longest > 1
