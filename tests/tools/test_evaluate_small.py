"""How answers about held-out pages are judged, and what is asked about them."""

import pytest
from evaluate_small import HELD_OUT_SEED, document_of, judge, questions, summarise

from hdvl.data.synthetic import Question
from hdvl.templates import Norm1000

WHERE = Question("locate", "Where?", "", (0.0, 0.0, 10.0, 10.0))


@pytest.mark.parametrize(("text", "right"), [("42", True), (" 42 ", True), ("4.2", False)])
def test_reading_is_exact(text: str, right: bool) -> None:
    assert judge(Question("read", "What?", "42"), text, []) is right


@pytest.mark.parametrize(
    ("boxes", "right"),
    [
        ([(0.0, 0.0, 10.0, 6.0), (50.0, 0.0, 60.0, 6.0)], True),
        ([(5.0, 0.0, 15.0, 10.0)], False),
        ([], False),
    ],
)
def test_the_best_box_counts(boxes: list[tuple[float, ...]], right: bool) -> None:
    assert judge(WHERE, "", boxes) is right


def test_a_refusal_may_be_in_either_language() -> None:
    question = Question("absent", "What is the tax?", "Not on the page.")
    assert judge(question, "页面上没有。", []) and judge(question, "Not on the page.", [])
    assert not judge(question, "Not", []) and not judge(question, "3.13", [])


def test_every_set_asks_what_it_is_for() -> None:
    for pages, tasks in {
        "own": ["read", "locate", "absent"],
        "turned": ["read", "locate"],
        "reworded": ["read"],
        "pictures": ["absent"],
    }.items():
        document = document_of(pages, 1, HELD_OUT_SEED)
        assert document.image.width >= 896
        assert [q.task for q in questions(pages, document, 1, Norm1000())] == tasks


def test_shares_by_kind_and_language() -> None:
    rows = [
        {"set": "own", "task": "read", "kind": "form", "language": language, "right": right}
        for language, right in (("en", True), ("en", False), ("zh", True))
    ]
    found = summarise(rows)["own read"]
    assert found["all"] == {"right": 0.6667, "of": 3}
    assert found["en"]["right"] == 0.5
    assert found["zh"]["of"] == 1
