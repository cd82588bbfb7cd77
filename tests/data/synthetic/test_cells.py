"""Dense labels: the class and the place of the glyph in every cell."""

from hdvl.data.synthetic import SyntheticDocuments
from hdvl.data.synthetic.cells import cell_labels, classes, word_labels


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


def test_word_labels_spell_the_word_that_starts_in_a_cell():
    document = SyntheticDocuments(seed=0, width=(320, 320), height=(240, 240), entries=(3, 5))[0]
    labels = word_labels(document, cell=(16, 32), slots=12)
    assert labels.shape == (15, 10, 12)
    by_class = {index: char for char, index in classes().items()} | {0: ""}
    spelt = {"".join(by_class[int(c)] for c in cell) for cell in labels.flatten(0, 1)} - {""}
    said = {word[:12] for line in document.lines for word in line.split()}
    assert spelt <= said and len(spelt) >= 0.8 * len(said)


def test_every_glyph_of_many_documents_has_a_class():
    documents = SyntheticDocuments(seed=5, width=(400, 600), height=(300, 400), chinese=0.5)
    known = set(classes())
    assert all(glyph.char in known for index in range(30) for glyph in documents[index].glyphs)
