"""MMMU, CMMMU, VLMEvalKit's inference, CircularEval, ScienceQA and MMStar: whole sets and random choices."""

import math

import pytest

from hdvl.evaluation.metrics import cmmmu, mmmu
from hdvl.evaluation.metrics.circular import (
    ChoiceRow,
    options_of,
    report,
    score_circular,
    score_vanilla,
)
from hdvl.evaluation.metrics.cmmmu import CMMMUSample, score_cmmmu
from hdvl.evaluation.metrics.mmmu import PARSERS, MMMUSample, score_mmmu
from hdvl.evaluation.metrics.mmstar import mmstar_hit, score_mmstar
from hdvl.evaluation.metrics.option_inference import can_infer
from hdvl.evaluation.metrics.scienceqa import ScienceQAProblem, parse_scienceqa, score_scienceqa

OPTIONS = {"A": "a cat", "B": "a dog", "C": "a cow", "D": "a bird"}
COLOURS = {"A": "red", "B": "green", "C": "dark blue", "D": "yellow"}


def art(number: int, response: str, answer: str = "A") -> MMMUSample:
    return MMMUSample(f"validation_Art_Theory_{number}", answer, response, OPTIONS)


def test_mmmu_reports_what_it_cannot_read_and_counts_it_wrong() -> None:
    samples = [art(1, "(A)"), art(2, "?"), MMMUSample("validation_Math_1", "7", "so it is 7.0")]
    score = score_mmmu(samples)
    assert score.unparsed == ["validation_Art_Theory_2"]
    assert score.subjects == {"Art_Theory": 0.5, "Math": 1.0}
    assert score.accuracy == pytest.approx(2 / 3)
    assert list(score.correct.values()) == [True, False, True]
    assert score.domains == {"Art and Design": 0.5, "Science": 1.0}


def test_mmmu_repeats_the_official_draw_in_order() -> None:
    drawn = "AACBBBAA"  # by the official code for eight unreadable responses
    samples = [art(number, "?", answer) for number, answer in enumerate(drawn)]
    score = score_mmmu(samples, official_random_seed=42)
    assert score.accuracy == 1
    assert len(score.unparsed) == 8
    assert score_mmmu(samples).accuracy == 0
    assert score_mmmu([art(0, "B"), *samples], official_random_seed=42).accuracy == 8 / 9


def test_mmmu_draws_subject_after_subject() -> None:
    later, sooner = MMMUSample("test_Music_1", "A", "?", OPTIONS), art(1, "?")
    drawn = score_mmmu([later, sooner, art(2, "?", "C")], official_random_seed=42)
    assert drawn.correct == {sooner.id: True, "validation_Art_Theory_2": False, later.id: False}


def test_mmmu_of_no_sample_is_zero() -> None:
    assert score_mmmu([]).accuracy == 0


@pytest.mark.parametrize(
    "response, parsed",
    [
        ("(A) or (B)", "B"),
        ("A cat is on the mat", "A"),
        ("**D**", None),
        ("a dog", None),  # too short to be searched for an option's text
        ("I am quite sure it is a dog", "B"),
        ("'.C.'", None),  # marks are stripped one kind after the other
    ],
)
def test_mmmu_choices(response: str, parsed: str | None) -> None:
    assert mmmu.parse_choice(response, list(OPTIONS), OPTIONS) == parsed


@pytest.mark.parametrize(
    ("parser", "response", "parsed"),
    [
        ("lmms_eval", "A DNA B or", "B"),  # "A ", at the end of DNA too, and "B "
        ("lmms_eval", "C.B.x", "B"),  # neither stands alone
        ("lmms_eval", "one two three four blue six", "B"),
        ("lmms_eval", "blue", None),
        ("internvl", "Blue", "B"),
        ("internvl", "a green one", "C"),
        ("internvl", "x", None),
    ],
)
def test_mmmu_choices_of_other_protocols(parser: str, response: str, parsed: str | None) -> None:
    options = {"A": "red", "B": "blue", "C": "green"}
    assert PARSERS[parser](response, list(options), options) == parsed


def test_mmmu_answers_may_be_several() -> None:
    assert mmmu.choice_correct(["A", "B"], "B")
    assert not mmmu.choice_correct("A", None)
    assert mmmu.open_correct(["6", "six"], mmmu.parse_open("six apples"))


def test_cmmmu_scores_its_three_kinds() -> None:
    samples = [
        CMMMUSample("1", "选择", "AC", "A和C", OPTIONS, "科学"),
        CMMMUSample("2", "填空", "1000", "结果等于1000", category="科学"),
        CMMMUSample("3", "判断", "错", "不对", category="商业"),  # read as 对 by the official rule
        CMMMUSample("4", "判断", "对", "我不知道", category="商业"),
        CMMMUSample("5", "选择", "A", "", OPTIONS, "商业"),
    ]
    score = score_cmmmu(samples)
    assert score.categories == {"商业": 0.0, "科学": 1.0}
    assert score.accuracy == pytest.approx(0.4)
    assert score.unparsed == ["4", "5"]
    assert list(score.correct) == ["3", "4", "5", "1", "2"]  # by category, as the official script


def test_cmmmu_draws_but_not_for_an_empty_choice() -> None:
    unread = [CMMMUSample(str(n), "判断", "对", "我不知道") for n in range(4)]
    empty = CMMMUSample("empty", "选择", "A", "", OPTIONS)
    score = score_cmmmu([empty, *unread], official_random_seed=42)
    assert list(score.correct.values()) == [False, True, True, False, True]
    assert len(score.unparsed) == 5


def test_cmmmu_answers_read_before() -> None:
    assert cmmmu.given_answer_correct("选择", "AC", "AC")
    assert not cmmmu.given_answer_correct("判断", "对", "正确")
    assert cmmmu.given_answer_correct("填空", "3.14", "3.141")
    assert not cmmmu.given_answer_correct("填空", "北京", "上海")


def test_cmmmu_judges_by_majority_without_the_ambiguous() -> None:
    assert cmmmu.judge(["正确", "错", "错误"]) == "错"
    assert cmmmu.judge(["是否正确"]) is None
    assert cmmmu.judge(["正确", "错"]) is None


@pytest.mark.parametrize(
    "response, option",
    [
        ("A and B", None),
        ("#A", "A"),
        ("The color is green", "B"),
        ("Cannot determine the answer", "Z"),
        ("Z", "Z"),
        ("A long explanation that starts with A and goes on", None),
        ("The correct answer is **B**. It is neither A nor anything that one might expect", "B"),
        ("Failed to obtain answer via API. green", "B"),
        (float("nan"), None),
    ],
)
def test_option_inference(response: object, option: str | None) -> None:
    assert can_infer(response, COLOURS) == option


def test_the_choices_are_left_as_they_were() -> None:
    choices = {"A": "Red", "B": 5}
    assert can_infer("red", choices) == "A"
    assert choices == {"A": "Red", "B": 5}


def row(index: int, answer: str, prediction: object, category: str = "x") -> ChoiceRow:
    return ChoiceRow(index, answer, prediction, COLOURS, category, "coarse_perception", "dev")


def test_circular_needs_every_rotation() -> None:
    rows = [
        row(1, "A", "A"),
        row(1_000_001, "B", "b"),
        row(2, "A", "(A)"),
        row(1_000_002, "D", "D"),
    ]
    score = score_circular([*rows, row(3_000_009, "A", "A")])
    assert score.hits == {1: 0, 2: 1}
    assert score.orphans == [3_000_009]
    assert score.unparsed == [1_000_001]
    assert report(score) == [{"split": "dev", "Overall": 0.5, "CP": 0.5, "x": 0.5}]
    assert score_vanilla(rows).hits == {1: 1, 1_000_001: 0, 2: 1, 1_000_002: 1}


def test_a_split_without_a_category_has_no_score_of_it() -> None:
    other = ChoiceRow(5, "A", "B", COLOURS, "y", split="test")
    table = report(score_vanilla([row(1, "A", "A"), other]))
    assert table[1]["Overall"] == 0
    assert math.isnan(float(table[0]["y"]))


def test_empty_cells_are_no_options() -> None:
    cells = {"A": "None", "B": "NA", "C": float("nan"), "D": None, "E": 1.0, "question": "?"}
    assert options_of(cells) == {"A": "None", "B": "NA", "E": 1.0}


def test_scienceqa_reads_three_forms_only() -> None:
    assert [parse_scienceqa(text, 3) for text in ("A", "B. x", "The answer is C.")] == [0, 1, 2]
    assert parse_scienceqa("The answer is A", 3) == -1
    assert parse_scienceqa("The answer is A\n", 3) == -1
    assert parse_scienceqa("D", 3) == -1


def test_scienceqa_counts_missing_predictions_as_wrong() -> None:
    problems = {
        "1": ScienceQAProblem(["a", "b"], 0, image=True),
        "2": ScienceQAProblem(["a", "b"], 1),
        "3": ScienceQAProblem(["a", "b"], 1, image=True),
    }
    score = score_scienceqa(problems, {"1": "A", "2": "(B)"})
    assert (score.correct, score.total) == (1, 3)
    assert score.accuracy == pytest.approx(100 / 3)
    assert score.image_accuracy == 50
    assert score.unparsed == ("2", "3")


@pytest.mark.parametrize("prediction", ["A", "apple", "(a) x", "Option A", "the answer is A."])
def test_mmstar_hits(prediction: str) -> None:
    assert mmstar_hit(prediction, "A")


@pytest.mark.parametrize("prediction", ["", "(", "**A**", "The answer is: A", "option ", "B"])
def test_mmstar_misses(prediction: str) -> None:
    assert not mmstar_hit(prediction, "A")


def test_mmstar_divides_by_constants() -> None:
    score = score_mmstar([("A", "A", "math", "geometry"), ("B", "A", "math", "numeric")])
    assert score.final == pytest.approx(1 / 1500)
    assert score.categories == {"math": 1 / 250}
    assert score.rescaled == 0.5
    assert score.rescaled_categories == {"math": 0.5}
    assert score.subcategories == {("math", "geometry"): 1.0, ("math", "numeric"): 0.0}
    assert score_mmstar([]).rescaled == 0
