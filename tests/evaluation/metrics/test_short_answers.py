"""VQA accuracy and its variants, ANLS and relaxed accuracy: details that change scores."""

from itertools import pairwise

import pytest

from hdvl.evaluation.metrics.anls import anls, anls_m4c, anls_mp_docvqa, anls_pix2struct
from hdvl.evaluation.metrics.exact_match import exact_match
from hdvl.evaluation.metrics.relaxed_accuracy import (
    relaxed_accuracy,
    relaxed_correct,
    relaxed_correct_swapped,
)
from hdvl.evaluation.metrics.vizwiz import (
    normalised_vizwiz,
    unanswerable_f1,
    unanswerable_precision,
    vizwiz_accuracy,
)
from hdvl.evaluation.metrics.vqa_accuracy import (
    lmms_eval_accuracy,
    m4c_accuracy,
    vlmevalkit_accuracy,
    vqa_accuracy,
    vqa_accuracy_of_records,
    vqa_means,
)
from hdvl.evaluation.metrics.vqa_text import RESTORED, normalised, normalised_m4c


@pytest.mark.parametrize("agree, accuracy", [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0)])
def test_each_annotator_is_left_out_once(agree: int, accuracy: float) -> None:
    answers = ["red"] * agree + ["blue"] * (10 - agree)
    assert vqa_accuracy(answers, "red") == pytest.approx(accuracy)


def test_identical_answers_are_not_normalised_in_vqa_v2_alone() -> None:
    answers = ["red"] * 10
    assert vqa_accuracy(answers, "Red.") == 0
    assert vqa_accuracy(answers, " red\n") == 1
    assert vqa_accuracy([*answers[:9], "blue"], "The Red.") == 1
    assert m4c_accuracy(answers, "Red.") == vlmevalkit_accuracy(answers, "Red.") == 1
    assert lmms_eval_accuracy(answers, "Red.") == 1


def test_records_without_ids_are_left_out_together() -> None:
    bare: list[dict[str, object]] = [{"answer": "red"}] * 2 + [{"answer": "blue"}] * 8
    numbered = [{**record, "answer_id": number} for number, record in enumerate(bare)]
    assert vqa_accuracy_of_records(numbered, "red") == pytest.approx(0.6)
    assert vqa_accuracy_of_records(bare, "red") == pytest.approx(0.5333333)


@pytest.mark.parametrize(
    "raw, text",
    [
        ("3.", "3"),  # the period rule means to keep it and does not
        ("3.5", "3.5"),
        ("a-b", "b"),  # the hyphen becomes a space, the article goes
        ("1,000 (x-y)", "1000 xy"),  # the comma of a number removes every mark
        ("dont", "don't"),
        ("Im", "im"),  # a key with a capital never applies
        ("lets", "lets"),
        ("somebody'd", "somebodyd"),
        ("None of THE ten", "0 of 10"),
        ("." * 40, "." * 8),  # 32 substitutions, not all
    ],
)
def test_normalisation_of_vqa_v2(raw: str, text: str) -> None:
    assert normalised(raw) == text


def test_normalisation_of_m4c_takes_commas_first() -> None:
    assert normalised_m4c("Dog's, 1,5?") == "dog 's 15"


def test_contractions_are_found_without_one_apostrophe() -> None:
    assert RESTORED["couldn'tve"] == RESTORED["couldnt've"] == "couldn't've"
    assert "couldntve" not in RESTORED
    assert len(RESTORED) == 114


def test_m4c_needs_ten_answers() -> None:
    with pytest.raises(ValueError, match="TextVQA needs ten answers for each question, got 9"):
        m4c_accuracy(["a"] * 9, "a")


def test_means_by_type_are_rounded_per_cent() -> None:
    answers = ["red"] * 2 + ["blue"] * 8
    rows = [(answers, "red", "what", "other"), (answers, "blue", "which", "other")]
    means = vqa_means(rows)
    assert means.table() == {"": 80.0}
    assert means.table("question_type") == {"what": 60.0, "which": 100.0}
    assert means.table("answer_type") == {"other": 80.0}


def test_vizwiz_normalises_the_prediction_alone() -> None:
    assert normalised_vizwiz("It isnt the two") == "it isn\u2019t 2"
    assert normalised_vizwiz("cant") == "can't"
    assert vizwiz_accuracy(["Red"] * 10, "Red") == 0
    assert vizwiz_accuracy(["red"] * 2 + ["Red"] * 8, "The red.") == pytest.approx(0.6)


def test_vizwiz_unanswerable_questions() -> None:
    answerable, predicted = [0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.9, 0.4]
    assert unanswerable_precision(answerable, predicted) == pytest.approx((1 + 2 / 3) / 2)
    assert unanswerable_f1(answerable, predicted) == pytest.approx(2 * 2 / (2 * 2 + 2))
    assert unanswerable_precision([0, 1], [0.5, 0.5]) == pytest.approx(0.5)  # a tie counts as one
    assert unanswerable_f1([1, 1], [0.9, 0.9]) == 0


def test_a_similarity_of_one_half_is_kept_by_anls_alone() -> None:
    assert anls(["abxy"], "abcd") == anls_m4c(["abxy"], "abcd") == 0.5
    assert anls_mp_docvqa(["abxy"], "abcd") == 0.5
    assert anls_pix2struct(["abxy"], "abcd") == 0


def test_lengths_of_anls_are_those_of_the_raw_texts() -> None:
    assert anls(["newyork"], "new york ") == pytest.approx(8 / 9)
    assert anls(["xxxxxxxxxx y"], "xxxxxxxxxx   y") == 1
    assert anls(["Paris", "Rome"], "rome") == 1


def test_empty_texts_and_none() -> None:
    assert anls([""], "") == 1
    assert anls_mp_docvqa(["none"], "None") == 0
    assert anls(["none"], "None") == 1
    with pytest.raises(
        ValueError, match="divides by zero when answer and prediction are both empty"
    ):
        anls_pix2struct([""], "")


@pytest.mark.parametrize(
    "target, prediction, correct, swapped",
    [
        ("100", "95", True, False),
        ("100", "105.2", False, True),
        ("0", "0.0", False, False),
        ("5%", "0.05", True, True),
        ("5%", "5", False, False),
        ("2019", "1919", True, False),
        ("1,000", "1000", False, False),
        ("Yes", "yes", True, True),
        ("nan", "nan", False, False),
        ("7", " 7 ", True, True),
    ],
)
def test_relaxed_accuracy(target: str, prediction: str, correct: bool, swapped: bool) -> None:
    assert relaxed_correct(target, prediction) is correct
    assert relaxed_correct_swapped(target, prediction) is swapped


def test_relaxed_accuracy_takes_any_of_the_answers() -> None:
    assert relaxed_accuracy([["a", "100"], ["b"]], ["95", "c"]) == 0.5
    assert relaxed_accuracy([["a", "100"], ["b"]], ["95", "c"], swapped=True) == 0


def test_exact_match() -> None:
    assert exact_match(["Oxford ", "Cambridge"], " oxford")
    assert not exact_match(["Oxford"], "oxford.")


def test_periods_of_normalised_texts_only_stay_before_digits() -> None:
    text = normalised("a.b .5 6. 7.8")
    assert all(after.isdigit() for one, after in pairwise(text) if one == ".")
