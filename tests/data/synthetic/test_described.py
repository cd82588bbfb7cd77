"""Layouts described as data: they draw, say what stands on the page, and keep what is held out apart."""

import random

import pytest

from hdvl.data.synthetic import SyntheticDocuments
from hdvl.data.synthetic.described import described, layout_names
from hdvl.data.synthetic.fonts import SETS, font_files
from hdvl.data.synthetic.values import draw_value, vocabulary

SIZES = {"width": (420, 560), "height": (320, 400), "entries": (2, 6)}


def test_there_are_many_layouts_and_those_for_evaluation_are_others():
    trained, foreign = layout_names(foreign=False), layout_names(foreign=True)
    assert len(trained) >= 25 and len(foreign) >= 8
    assert not set(trained) & set(foreign)
    drawn = {SyntheticDocuments(seed=1, kinds="described", **SIZES)[n].kind for n in range(20)}
    assert len(drawn) > 5 and drawn <= set(trained)


@pytest.mark.parametrize("name", sorted(described()))
def test_every_layout_says_what_it_shows(name):
    document = SyntheticDocuments(seed=4, kinds=name, **SIZES)[0]
    assert document.kind == name and document.fields
    names = [field.name for field in document.fields]
    assert len(set(names)) == len(names)
    width, height = document.image.size
    for field in document.fields:
        x0, y0, x1, y1 = field.box
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        shown = "".join(glyph.char for glyph in document.glyphs[slice(*field.span)])
        assert shown == field.value.replace(" ", "")
        assert field.question.endswith("?")


def test_the_same_number_gives_the_same_document():
    one, other = (SyntheticDocuments(seed=4, kinds="described", **SIZES)[3] for _ in range(2))
    assert one.image.tobytes() == other.image.tobytes() and one.fields == other.fields


def test_invented_labels_are_on_the_page_and_in_the_questions():
    known = {
        name.lower()
        for group in vocabulary()["groups"].values()
        for names in group.values()
        for name in names
    }
    documents = SyntheticDocuments(seed=4, kinds="bank_statement", invented=1.0, **SIZES)
    for document in (documents[n] for n in range(3)):
        for field in document.fields:
            assert field.name not in known
            assert field.name.split()[0] in field.question
            assert field.name.split()[0] in " ".join(document.lines).lower()
    plain = SyntheticDocuments(seed=4, kinds="bank_statement", **SIZES)[0]
    assert {field.name.split(" of ")[0] for field in plain.fields} & known


def test_every_kind_of_value_that_the_vocabulary_names_can_be_drawn():
    groups = vocabulary()["groups"].values()
    kinds = {kind for group in groups for kind in group} - {"any"}
    kinds |= {kind for _, names in vocabulary()["letters"] for kind in names.values()}
    for kind in kinds:
        assert draw_value(random.Random(1), kind).strip()


def test_fonts_that_are_held_out_are_in_no_other_set():
    for language in ("en", "zh"):
        held_out = {file for _, file in SETS["held_out"][language]}
        assert held_out and not held_out & {file for _, file in SETS["many"][language]}


def test_a_set_of_fonts_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"fonts must be one of .*got 'all'"):
        SyntheticDocuments(fonts="all")
    with pytest.raises(ValueError, match="fonts must be one of"):
        font_files("en", "all")


def test_repeated_characters_are_two_at_most():
    for seed in range(20):
        value = draw_value(random.Random(seed), "repeated")
        bare = value.replace("-", "").replace(" ", "")
        assert 4 <= len(bare) <= 9 and len(set(bare)) <= 2
