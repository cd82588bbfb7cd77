"""Pairing of predictions with questions; bad input is reported, or refused as by the official scorer."""

import pytest

from hdvl.evaluation.metrics.anls import anls
from hdvl.evaluation.metrics.answer_sets import score_set
from hdvl.evaluation.metrics.joining import Rules, join
from hdvl.evaluation.metrics.official_rules import RULES

NAN = float("nan")
BAD: list[tuple[int, object]] = [(1, "a"), (1, "b"), (7, "x"), (3, NAN)]


def test_bad_input_is_named_and_counted() -> None:
    joined = join([1, 2, 3], BAD, Rules("X"), partial=True)
    assert joined.answers == {1: "b"}
    assert joined.problems.counts() == {
        **{"missing": 1, "duplicate": 1, "unknown": 1},
        **{"not_text": 1, "empty": 0},
    }
    assert joined.problems.lines() == [
        "missing: 1 (2)",
        "duplicate: 1 (1)",
        "unknown: 1 (7)",
        "not_text: 1 (3)",
    ]


def test_a_file_is_refused_where_the_official_scorer_refuses_it() -> None:
    wanted = (
        r"predictions of VQA v2 must answer every question once with a text, got missing 1 \(2\)"
    )
    with pytest.raises(ValueError, match=wanted):
        join([1, 2, 3], BAD, RULES["VQA v2"])
    with pytest.raises(
        ValueError, match=r"duplicate 1 \(1\); correct the file, or set partial=true"
    ):
        join([1], [(1, "a"), (1, "b")], RULES["DocVQA"])


def test_what_is_not_refused_is_scored_as_the_official_scorer_does() -> None:
    assert join([1, 2], [(1, "a"), (1, "b"), (7, "x")], RULES["ScienceQA"]).answers == {
        1: "b",
        2: "",
    }
    assert join([1, 2], [(2, NAN)], RULES["MMBench"]).answers == {2: "nan"}
    assert join([1, 2], [(2, "b")], RULES["MMMU"]).answers == {2: "b"}


def test_a_later_answer_that_is_no_text_replaces_the_earlier_one() -> None:
    joined = join([1], [(1, "a"), (1, None)], Rules("X"), partial=True)
    assert joined.answers == {}
    assert (joined.problems.missing, joined.problems.not_text) == ([], [1])


def test_empty_texts_are_counted_and_scored() -> None:
    joined = join([1, 2, 3], [(1, ""), (2, " "), (3, "a")], Rules("X"))
    assert joined.problems.empty == [1, 2] and joined.answers[1] == ""


def test_many_ids_are_cut_short_in_messages() -> None:
    with pytest.raises(ValueError, match=r"missing 9 \(0, 1, 2, 3, 4, \.\.\.\)"):
        join(range(9), [], Rules("X"))


def test_answers_come_in_the_order_of_the_questions() -> None:
    assert list(join([3, 1, 2], [(1, ""), (2, ""), (3, "")], Rules("X")).answers) == [3, 1, 2]


def test_a_set_is_scored_with_its_problems() -> None:
    answers = {1: ["new york"], 2: ["b"], 3: ["c"]}
    given: list[tuple[int, object]] = [(1, "New York"), (2, "x"), (9, "y")]
    score = score_set(anls, answers, given, RULES["DocVQA"], partial=True)
    assert score.mean == 0.5
    assert score.scores == {1: 1.0, 2: 0.0}
    assert (score.problems.missing, score.problems.unknown) == ([3], [9])
    with pytest.raises(ValueError, match="predictions of DocVQA must answer every question once"):
        score_set(anls, answers, given, RULES["DocVQA"])
    assert score_set(anls, {}, [], RULES["DocVQA"]).mean == 0
