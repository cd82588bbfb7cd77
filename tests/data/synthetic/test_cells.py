"""Dense labels: the class and the place of the glyph in every cell."""

from hdvl.data.synthetic import SyntheticDocuments
from hdvl.data.synthetic.cells import cell_labels, classes, token_labels


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


def test_every_glyph_of_many_documents_has_a_class():
    documents = SyntheticDocuments(seed=5, width=(400, 600), height=(300, 400), chinese=0.5)
    known = set(classes())
    assert all(glyph.char in known for index in range(30) for glyph in documents[index].glyphs)
