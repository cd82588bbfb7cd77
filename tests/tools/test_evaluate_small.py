"""How answers about held-out pages are judged."""

from types import SimpleNamespace

import pytest
from evaluate_small import _judge, summarise

BOX = [0.0, 0.0, 10.0, 10.0]


@pytest.mark.parametrize(("text", "right"), [("42", True), (" 42 ", True), ("4.2", False)])
def test_reading_is_exact(text: str, right: bool) -> None:
    row = _judge({"task": "read", "truth": "42"}, SimpleNamespace(text=text), 0.1)
    assert row["right"] is right


@pytest.mark.parametrize(
    ("boxes", "iou", "right"),
    [
        ([(0.0, 0.0, 10.0, 6.0), (50.0, 0.0, 60.0, 6.0)], 0.6, True),
        ([(5.0, 0.0, 15.0, 10.0)], 0.333, False),
        ([], 0.0, False),
    ],
)
def test_the_best_box_counts(boxes: list, iou: float, right: bool) -> None:
    answer = SimpleNamespace(text="", boxes=[SimpleNamespace(box=box) for box in boxes])
    row = _judge({"task": "locate", "box": BOX}, answer, 0.1)
    assert (row["iou"], row["right"]) == (iou, right)


def test_shares_by_kind_and_language() -> None:
    rows = [
        {"task": "read", "kind": "form", "language": language, "right": right}
        for language, right in (("en", True), ("en", False), ("zh", True))
    ]
    found = summarise(rows)["read"]
    assert found["all"] == {"right": 0.6667, "of": 3}
    assert found["en"]["right"] == 0.5
    assert found["zh"]["of"] == 1
