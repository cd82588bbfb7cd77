"""Questions: their answers are what the document says."""

import random

from hdvl.data.synthetic import (
    SyntheticDocuments,
    absent,
    compare,
    count,
    locate,
    make_questions,
    read,
    transcribe,
)
from hdvl.data.synthetic.questions import refusal, worded, wordings
from hdvl.templates import Norm1000

DOCUMENTS = SyntheticDocuments(seed=2, width=(400, 500), height=(300, 400), entries=(2, 6))


def test_reading_asks_for_the_value():
    field = DOCUMENTS[0].fields[0]
    question = read(field)
    assert (question.task, question.text, question.answer) == ("read", field.question, field.value)


def test_locating_answers_with_a_box_that_decodes_to_the_field():
    document = DOCUMENTS[1]
    field = document.fields[-1]
    question = locate(field, document, Norm1000())
    (found,) = Norm1000().decode(question.answer, [document.image.size])
    assert found.label == field.name
    width, height = document.image.size
    for got, wanted, side in zip(found.box, field.box, (width, height, width, height), strict=True):
        assert abs(got - wanted) <= side / 1000 + 1e-6


def test_counting_counts_the_values():
    document = DOCUMENTS[2]
    assert count(document).answer == str(len(document.fields))


def test_comparing_names_the_fuller_image():
    documents = [DOCUMENTS[index] for index in range(12)]
    sizes = [len(document.fields) for document in documents]
    for first in range(11):
        answer = compare(documents[first], documents[first + 1]).answer
        difference = sizes[first] - sizes[first + 1]
        assert any(mark in answer for mark in ("same", "一样")) == (difference == 0)
        assert ("1" in answer) == (difference > 0) and ("2" in answer) == (difference < 0)


def test_transcribing_gives_all_lines_in_order():
    document = DOCUMENTS[0]
    lines = transcribe(document).answer.split("\n")
    assert lines == list(document.lines)
    tops = [
        min(glyph.box[1] for glyph in document.glyphs if glyph.char == line[0]) for line in lines
    ]
    assert tops[0] == min(tops)
    for field in document.fields:
        assert any(field.value in line for line in lines)


def test_asking_mixes_tasks_by_their_shares():
    document, rng = DOCUMENTS[3], random.Random(0)
    all_locate = make_questions(document, rng, Norm1000(), turns=50, locate_share=1.0)
    assert {question.task for question in all_locate} == {"locate"}
    assert len(all_locate) == len(document.fields)
    counted = make_questions(document, rng, Norm1000(), turns=2, count_share=1.0)
    assert sum(question.task == "count" for question in counted) == 1


def test_what_is_asked_for_in_vain_is_not_on_the_page():
    rng = random.Random(1)
    for index in range(6):
        document = DOCUMENTS[index]
        shown = " ".join(document.lines).lower()
        for _ in range(20):
            question = absent(document, rng, "{name}")
            assert question.answer == refusal(document.language)
            assert question.text.lower() not in shown


def test_questions_come_in_other_words():
    field = DOCUMENTS[0].fields[0]
    assert read(field, "{NAME}?").text == f"{field.name.upper()}?"
    assert worded("What is the {Name}?", "tax") == "What is the Tax?"
    for language in ("en", "zh"):
        assert all(worded(form, "x") for form in wordings("read", language))


def test_shares_of_absent_and_reworded_questions():
    document, rng = DOCUMENTS[3], random.Random(0)
    vain = make_questions(document, rng, Norm1000(), turns=50, absent_share=1.0)
    assert {question.task for question in vain} == {"absent"}
    known = {field.question for field in document.fields}
    others = make_questions(document, rng, Norm1000(), turns=50, reworded_share=1.0)
    assert not {question.text for question in others} & known
    assert {question.answer for question in others} == {field.value for field in document.fields}


def test_a_picture_without_fields_is_asked_in_vain():
    picture = SyntheticDocuments(seed=2, kinds="picture", width=(40, 50), height=(40, 50))[0]
    asked = make_questions(picture, random.Random(0), Norm1000(), turns=4, locate_share=0.5)
    assert asked and {question.answer for question in asked} == {refusal(picture.language)}
