"""The held-out photographs are asked about once with their own kind and once with another."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from score_laptop import ask, read_rows, share, swapped

from hdvl.messages import as_messages

ROWS = [(f"{number}.jpeg", kind) for number, kind in enumerate(["fruit"] * 3 + ["meat"] * 2)]


def test_rows_and_the_control(tmp_path: Path) -> None:
    turns = [[{"value": "<image>\nWhat is it?"}, {"value": kind}] for _, kind in ROWS]
    stored = [
        {"image": name, "conversations": turn} for (name, _), turn in zip(ROWS, turns, strict=True)
    ]
    (tmp_path / "held_out.json").write_text(json.dumps(stored))
    question, rows = read_rows(tmp_path)
    assert (question, rows) == ("What is it?", ROWS)
    shown = dict(rows)
    control = swapped(rows)
    assert [kind for _, kind in control] == [kind for _, kind in rows]
    assert all(shown[name] != kind for name, kind in control)


def test_answers_are_compared_with_the_kind(tmp_path: Path) -> None:
    asked: list[Any] = []

    def generate(conversations: list[Any], **options: Any) -> list[Any]:
        asked.extend(conversations)
        return [SimpleNamespace(text=" fruit\n") for _ in conversations]

    answers = ask(SimpleNamespace(generate=generate), tmp_path, "What is it?", ROWS)
    assert asked[1][0]["content"][0] == {
        "type": "image",
        "image": str(tmp_path / "pictures" / "1.jpeg"),
    }
    assert all(as_messages(conversation) for conversation in asked)
    assert share(answers, ROWS) == 0.6
