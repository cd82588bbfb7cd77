"""MME, POPE, HallusionBench, GQA, OCRBench, MathVista and judged benchmarks: whole sets."""

from dataclasses import replace

import pytest

from hdvl.evaluation.metrics.boxes import grit_refexp, parse_corners, refcoco_overlap
from hdvl.evaluation.metrics.gqa import GQAQuestion, llava_answer, score_gqa
from hdvl.evaluation.metrics.hallusionbench import HallusionItem, score_hallusionbench
from hdvl.evaluation.metrics.llava_bench import parse_review, score_llava_bench, summary
from hdvl.evaluation.metrics.mathvista import (
    MathVistaProblem,
    normalised_answer,
    quick_extraction,
    score_mathvista,
)
from hdvl.evaluation.metrics.mme import parse_mme, score_mme, score_task
from hdvl.evaluation.metrics.ocrbench import OCRBenchItem, ocrbench_hit, score_ocrbench
from hdvl.evaluation.metrics.pope import parse_pope, score_pope
from hdvl.evaluation.metrics.touchstone import Round, parse_reply, score_touchstone


@pytest.mark.parametrize(
    "text, answer",
    [
        ("Yes, it is", "yes"),
        ("None", "no"),
        ("know", "no"),
        ("I think yes", "other"),
        ("   yes", "other"),
    ],
)
def test_mme_reads_four_characters(text: str, answer: str) -> None:
    assert parse_mme(text) == answer


def test_mme_scores_pairs_by_their_order() -> None:
    rows = [
        ("1.jpg", "?", "Yes", "yes"),
        ("1.jpg", "?", "No", "no"),
        ("2.jpg", "?", "Yes", "yes"),
        ("2.jpg", "?", "No", "well"),
    ]
    score = score_mme({"count": rows, "code_reasoning": rows[:2]})
    assert score.tasks["count"].score == 125
    assert score.tasks["count"].other == 1
    assert (score.perception, score.cognition) == (125, 200)
    assert len(score.missing) == 12


def test_mme_refuses_an_odd_count_and_other_answers() -> None:
    with pytest.raises(ValueError, match=r"count needs two rows for each image, .* got 1 rows"):
        score_task([("1.jpg", "?", "Yes", "yes")], "count")
    with pytest.raises(
        ValueError, match=r"answers of MME must be yes or no, got 'maybe' for 1\.jpg"
    ):
        score_task([("1.jpg", "?", "maybe", "yes")] * 2)


@pytest.mark.parametrize("text", ["NO", "", "None", "\nNo", "Yes. No dog", "There isn't"])
def test_pope_takes_all_else_for_yes(text: str) -> None:
    assert parse_pope(text) == "yes"


def test_pope_names_the_scores_that_are_not_defined() -> None:
    score = score_pope(["No", "no,"], ["yes", "no"])
    assert score.undefined == ["precision", "f1"]
    assert (score.precision, score.recall, score.f1, score.accuracy) == (0, 0, 0, 0.5)
    assert score_pope(["No"], ["no"]).undefined == ["precision", "recall", "f1"]
    assert score_pope(["Yes"], ["yes"]).undefined == []
    with pytest.raises(ValueError, match="got 1 predictions and 2 labels; give one prediction"):
        score_pope(["Yes"], ["yes", "no"])


ITEM = HallusionItem("VS", "chart", "0", "0", "0", visual_input=0, truth=1, code=2)


def test_uncertain_is_right_without_a_figure() -> None:
    figure = replace(ITEM, figure_id="1", visual_input=1)
    score = score_hallusionbench([ITEM, figure])
    assert score.all_accuracy == 50
    assert score.pair_accuracy == 0
    assert score.figure_accuracy == 0
    assert score.hard_pairs is None
    assert score.question_causes == {"LH": 0, "VI": 1, "Mix": 0}


def test_hallusionbench_with_no_error_has_no_ratio_of_errors() -> None:
    score = score_hallusionbench([ITEM])
    assert score.false_positive_ratio is None
    assert score.figure_accuracy is None
    assert score.figures["score"] == 0


def test_hallusionbench_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(ValueError, match="each question once for each figure, got 2 answers to 1"):
        score_hallusionbench([ITEM, ITEM])
    with pytest.raises(ValueError, match=r"code must be 0 \(wrong\), .* got 3 for VS_chart_0_0_0"):
        score_hallusionbench([replace(ITEM, code=3)])
    with pytest.raises(ValueError, match="got none for VS_chart_0_0 and 0 more; add them"):
        score_hallusionbench([replace(ITEM, figure_id="1")])


def gqa_question(answer: str, kind: str, group: str | None, entailed: list[str]) -> GQAQuestion:
    return {
        "question": "What is it?",
        "answer": answer,
        "isBalanced": True,
        "types": {"structural": kind, "semantic": "attr"},
        "groups": {"global": group},
        "semantic": [
            {"operation": "exist", "argument": "?"},
            {"operation": "select", "argument": "x"},
        ],
        "entailed": entailed,
    }


def test_gqa_scores_by_type_with_consistency_and_distribution() -> None:
    questions = {
        "1": gqa_question("red", "query", "color", ["1", "2", "9"]),
        "2": gqa_question("yes", "verify", None, []),
        "3": gqa_question("blue", "query", "color", []),
        "4": {**gqa_question("left", "choose", None, []), "isBalanced": False},
    }
    score = score_gqa(questions, {"1": "red", "2": "no", "3": "red", "9": "unknown id"})
    assert score.accuracy == pytest.approx(100 / 3)
    assert (score.binary, score.open, score.consistency) == (0, 50, 0)
    assert score.structural == {"query": 50, "verify": 0}
    assert score.steps == {1: score.accuracy}
    assert score.words == {3: score.accuracy}
    # red: (2 - 1)² / 1, blue: (0 - 1)² / 1; one group of two questions
    assert score.distribution == pytest.approx(0.02)
    assert score_gqa({"2": questions["2"]}, {"2": "yes"}).distribution is None
    alone = score_gqa({"3": questions["3"]}, {"3": "blue"})
    assert (alone.accuracy, alone.consistency, alone.distribution) == (100, None, 0)
    with pytest.raises(
        ValueError, match=r"every balanced question, got none for 2 \('2', '3'\); add"
    ):
        score_gqa(questions, {"1": "red"})


def test_llava_strips_periods_at_the_end() -> None:
    assert llava_answer("T.V. Stand..") == "t.v. stand"


def test_ocrbench_hits() -> None:
    assert ocrbench_hit("docVQA", ["12"], "2012")
    assert ocrbench_hit("docVQA", "New York", "new\nyork")
    assert not ocrbench_hit("docVQA", ["coca-cola"], "coca cola")
    assert ocrbench_hit("HME100k", ["x ^ 2"], "$x^2$")
    assert not ocrbench_hit("HME100k", ["X"], "x")
    assert not ocrbench_hit("docVQA", [], "x")


def test_ocrbench_counts_unanswered_items() -> None:
    items = [
        OCRBenchItem("IIIT5K", "Regular Text Recognition", "a", "A"),
        OCRBenchItem("IIIT5K", "Regular Text Recognition", "a", None),
        OCRBenchItem("IAM", "Handwriting Recognition", "a", "a"),
        OCRBenchItem("HME100k", "Handwritten Mathematical Expression Recognition", "a", "b"),
    ]
    score = score_ocrbench(items)
    assert (score.final, score.unanswered) == (2, 1)
    assert score.groups["Text Recognition"] == 2
    assert score.datasets == {"IIIT5K": 0.5, "IAM": 1.0, "HME100k": 0.0}


CHOICE = MathVistaProblem("multi_choice", "text", "no", ["yes", "no"])
FLOAT = MathVistaProblem(
    "free_form", "float", "1.5", precision=1.0, metadata={"skills": ["a", "b"]}
)
WHOLE = MathVistaProblem("free_form", "integer", "12", metadata={"skills": ["a"], "task": "count"})


@pytest.mark.parametrize(
    "response, problem, extraction",
    [
        ("no", CHOICE, "no"),
        ("12", WHOLE, "12"),
        ("12.0", WHOLE, None),
        ("1.50", FLOAT, "1.5"),
        ('So it is. The answer is "x".', WHOLE, "x"),
        ("", WHOLE, ""),
        ("No.", CHOICE, None),
    ],
)
def test_mathvista_extracts_without_a_judge(
    response: str, problem: MathVistaProblem, extraction: str | None
) -> None:
    assert quick_extraction(response, problem) == extraction


def test_mathvista_scores_groups() -> None:
    score = score_mathvista([(FLOAT, "1.46"), (WHOLE, "x"), (CHOICE, "")])
    assert score.accuracy == pytest.approx(2 / 3)
    assert score.groups["skills"] == {"a": 0.5, "b": 1.0}
    assert score.groups["task"] == {"count": 0.0}
    assert score.groups["answer_type"] == {"float": 1.0, "integer": 0.0, "text": 1.0}


def test_mathvista_normalises_to_nothing_what_it_cannot() -> None:
    assert normalised_answer("inf", WHOLE) is None
    assert normalised_answer(None, WHOLE) is None
    assert normalised_answer("1", replace(FLOAT, precision=None)) is None
    assert normalised_answer("x", replace(WHOLE, answer_type="text")) is None
    with pytest.raises(ValueError, match="a multi_choice problem needs choices, got none"):
        normalised_answer("A", replace(CHOICE, choices=None))


def test_boxes_on_the_grid_are_those_of_the_original_image() -> None:
    found = refcoco_overlap("<box>(0,0),(500,999)</box>", [0, 0, 640, 480], width=640, height=480)
    assert found.box == pytest.approx((0, 0, 320.32, 480), abs=0.01)
    assert found.correct and found.iou == pytest.approx(0.5005, abs=1e-4)
    assert not refcoco_overlap("(0,0),(499,999)", [0, 0, 640, 480], width=640, height=480).correct


def test_malformed_and_swapped_boxes_score_nothing() -> None:
    for answer in ("", "(1,2)", "(1,2),(3)", "(1,2,3),(4,5)", "(x,1),(2,3)"):
        assert parse_corners(answer) == (0, 0, 0, 0)
    assert refcoco_overlap("(900,900),(0,0)", [0, 0, 9, 9], width=9, height=9).iou == 0
    assert not refcoco_overlap("(1,1),(1,1)", [5, 5, 5, 5], width=9, height=9).correct  # nan


def test_grit_asks_for_more_than_half() -> None:
    assert grit_refexp([[0, 0, 5, 10]], [[0, 0, 10, 10]]) == 0
    assert grit_refexp([[0, 0, 5.01, 10]], [[0, 0, 10, 10]]) == 1
    assert grit_refexp([], [[0, 0, 10, 10]]) == 0


def test_touchstone_leaves_failed_rounds_out() -> None:
    rounds = [Round(("gpt4", "m"), (8, 6)), Round(("m", "gpt4"), (0, 0), failed=True)]
    score = score_touchstone([("A,B", rounds), ("B", [Round(("m", "gpt4"), (9, 10))])])
    assert score.overall == {"gpt4": 900, "m": 750}
    assert score.categories == {"A": {"gpt4": 800, "m": 600}, "B": {"gpt4": 900, "m": 750}}
    assert score.failed == 1


@pytest.mark.parametrize(
    "reply, scores",
    [(" 8 7\nwhy", (8, 7)), ("8", None), ("8 7 6", None), ("a b", None), ("", None)],
)
def test_touchstone_replies(reply: str, scores: tuple[float, float] | None) -> None:
    assert parse_reply(reply) == scores


def test_llava_bench_averages_unread_reviews_in_unless_told() -> None:
    reviews = [("conv", (8.0, 6.0)), (None, parse_review("Assistant 1: 8"))]
    table = score_llava_bench(reviews)
    assert list(table) == ["all", "conv"]
    assert (table["all"].relative, table["all"].unread) == (71.4, 1)
    assert score_llava_bench(reviews, without_unread=True)["all"].relative == 75.0
    assert summary([(0.0, 5.0)]).relative is None
    with pytest.raises(ValueError, match="needs a review that can be read, got 1 that cannot"):
        summary([(-1.0, -1.0)], without_unread=True)


@pytest.mark.parametrize(
    "review, scores",
    [("8, 7", (-1, -1)), ("8,7\nx", (8, 7)), ("8.5 6", (8.5, 6)), ("[8 7]", (-1, -1))],
)
def test_llava_bench_reviews(review: str, scores: tuple[float, float]) -> None:
    assert parse_review(review) == scores
