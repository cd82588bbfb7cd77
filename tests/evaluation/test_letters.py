"""The rules of multiple choice read what the scripts that they are named after read, and no more."""

import pytest

from hdvl.evaluation.metrics.ocrbench import ocrbench_hit
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.scorers.choices import subcategory_scores
from hdvl.evaluation.scorers.conversions import internvl_mme_answer, qwen_gqa_answer
from hdvl.evaluation.scorers.letters import RULES
from hdvl.evaluation.scorers.short_answers import METRICS
from hdvl.evaluation.scorers.verdicts import pope_scores

OPTIONS = {"A": "a dog", "B": "two dogs"}
READ = {
    "identical": {"A": "A", "A ": None, "a": None},
    "first": {"Both": "B", " A": None, "": None},
    "first_any_case": {" both": "B", "C": None, "": None},
    "leading_or_text": {"B. x": "B", " two dogs": "B", "I see a dog": "A", "b": None, "": None},
    "scienceqa_internvl": {" (B) x": "B", "(B) a dog": "A", "(E)": None},
    "mme_realworld": {"Best option: none": "B", "two dogs": "B", "": "A"},
    "mme_realworld_lmms_eval": {"Best option: none": None, "b": "B", "a dog": None},
    "mme_realworld_vlmevalkit": {"<answer>\nb\n</answer> or A": "B", "A": "A"},
    "lmms_eval": {
        "B, not A.": "B",  # a letter at the start counts more than one at the end
        "Either (A) or: the best option is B or A": "A",  # the end
        "My answer is (B) because of that": "B",
        "A. or B. as you like": "A",
        "Is it A) or B) then": "B",  # the last one
        "DATA": "A",
        "none": None,
    },
    "mmvp": {
        "(b)": "B",
        "Option a": "A",
        "The answer is b!": "B",
        "I see an umbrella": "A",  # a letter before white space counts, also at the end of a word
        "apples": "A",
        "": None,
        "zero": None,
    },
    "scienceqa_lmms_eval": {"b": "B", "B. two": "B", "b. two": None, "(B)": None},
    "ai2d_lmms_eval": {" B. two": "B", "(b)": "B", "B two": None},
}


@pytest.mark.parametrize("rule", READ)
def test_a_rule_reads_a_letter(rule: str) -> None:
    assert {text: RULES[rule](text, OPTIONS) for text in READ[rule]} == READ[rule]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Is it red? It is red, or is it", "it red? it"),  # between the first "is " and the second
        ("A banana split!", "banan"),
        ("The top of the hill", "top"),
    ],
)
def test_gqa_as_qwen_vl_cuts_it(said: str, kept: str) -> None:
    assert qwen_gqa_answer(said) == kept


@pytest.mark.parametrize(
    ("said", "kept"), [("不是", "no"), ("是的\n", "yes"), ("It is true", "it is yes")]
)
def test_mme_as_internvl_rewrites_it(said: str, kept: str) -> None:
    assert internvl_mme_answer(said) == kept


def test_metrics_as_lmms_eval_and_vlmevalkit_have_them() -> None:
    assert METRICS["exact_lmms_eval"][1](["t-shirt"], "T shirt.") is False
    assert METRICS["exact_lmms_eval"][1](["t-shirt"], "TShirt.") is True
    assert METRICS["relaxed_vlmevalkit"][1](["blue"], " Blue\n") is True
    assert METRICS["relaxed"][1](["blue"], " Blue\n") is False
    assert ocrbench_hit("svt", ["ＡＢ１"], "ab1", fold_width=True)
    assert not ocrbench_hit("svt", ["ＡＢ１"], "ab1")
    assert not ocrbench_hit("HME100k", ["Ａ"], "A", fold_width=True)


def test_pope_as_lmms_eval_scores_it() -> None:
    said = {"1": " Yes", "2": "Yes.", "3": "no", "4": "yes"}
    samples = [Sample(name, "q", answers=("no" if name == "4" else "yes",)) for name in said]
    found = pope_scores(samples, said, rule="lmms_eval")
    assert found.values == pytest.approx(
        {"accuracy": 25, "precision": 50, "recall": 50, "f1": 50, "yes_ratio": 75}
    )
    assert found.unparsed == ["2"]


def test_mmstar_as_lmms_eval_averages_it() -> None:
    kinds = {"1": "x", "2": "x", "3": "y"}
    samples = [
        Sample(name, "q", answers=("A",), options=OPTIONS, categories={"l2-category": kind})
        for name, kind in kinds.items()
    ]
    answers = {"1": "A", "2": "B", "3": "A"}
    found = subcategory_scores(samples, answers, rule="lmms_eval")
    assert found.value == 75 and found.values["accuracy"] == pytest.approx(200 / 3)
    with pytest.raises(ValueError, match="needs the column l2_category"):
        subcategory_scores([Sample("1", "q", answers=("A",))], {"1": "A"}, rule="lmms_eval")
