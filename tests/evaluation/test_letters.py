"""The rules of multiple choice read what the scripts that they are named after read, and no more."""

import pytest

from hdvl.evaluation.scorers.conversions import internvl_mme_answer, qwen_gqa_answer
from hdvl.evaluation.scorers.letters import RULES

OPTIONS = {"A": "a dog", "B": "two dogs"}
READ = {
    "identical": {"A": "A", "A ": None, "a": None},
    "first": {"Both": "B", " A": None, "": None},
    "first_any_case": {" both": "B", "C": None, "": None},
    "leading_or_text": {"B. x": "B", " two dogs": "B", "I see a dog": "A", "b": None, "": None},
    "scienceqa_internvl": {" (B) x": "B", "(B) a dog": "A", "(E)": None},
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
