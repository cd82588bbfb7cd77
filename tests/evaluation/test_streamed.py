"""Large files are scored in little memory as small ones are, and JSON is read item by item."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hdvl.evaluation import answer_table, json_stream, streamed
from hdvl.evaluation.answer_table import AnswerTable
from hdvl.evaluation.json_stream import holds_mapping, json_items, json_pairs
from hdvl.evaluation.metrics.joining import Rules, join
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.scorers.short_answers import short_answer_scores
from hdvl.evaluation.statistics import uncertainty
from tests.evaluation.made_up import write


def questions(count: int) -> list[Sample]:
    return [
        Sample(
            str(n),
            "q",
            answers=(f"word {n}", "other"),
            categories={"kind": "ab"[n % 2]},
            group=str(n // 3),
        )
        for n in range(count)
    ]


def test_a_stream_is_scored_as_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "ROWS", 7)
    monkeypatch.setattr(answer_table, "TOGETHER", 3)
    samples = questions(50)
    answers = {one.id: f"wodr {one.id}"[: int(one.id) % 9] for one in samples}
    whole = short_answer_scores(samples, answers, metric="anls")
    each = (tmp_path / "each").open("w+")
    with AnswerTable(Rules("x"), iter(answers.items())) as table:
        totals = streamed.score_stream(iter(samples), table, "anls", each=each)
        assert table.finish(partial=False).counts() == dict.fromkeys(table.counts, 0)
    scores = totals.scores("ANLS")
    assert scores.value == pytest.approx(whole.value) and scores.tables == {
        "kind": pytest.approx(whole.tables["kind"])
    }
    wanted = vars(uncertainty(samples, whole.correct, scale=100))
    found = vars(totals.uncertainty())
    assert found["standard_error"] == pytest.approx(wanted["standard_error"])
    assert found["groups"] == wanted["groups"] and found["low"] < scores.value < found["high"]
    each.close()
    assert json.loads(f"{{{(tmp_path / 'each').read_text()[1:]}}}") == whole.correct
    with AnswerTable(Rules("x"), []) as table, pytest.raises(ValueError, match="occur twice"):
        streamed.score_stream([samples[0], samples[0]], table, "anls")


PREDICTIONS: list[tuple[str, object]] = [
    *(("1", "a"), ("2", "b"), ("1", "c"), ("9", "x"), ("9", "y"), ("3", None), ("4", "d")),
    *(("4", float("nan")), ("5", None), ("5", "e"), ("6", "\udc80")),
]


@pytest.mark.parametrize("missing", ["refuse", "skip", "empty"])
@pytest.mark.parametrize("not_text", ["refuse", "str"])
def test_answers_are_joined_as_by_join(missing: Any, not_text: Any) -> None:
    rules = Rules("x", missing=missing, not_text=not_text)
    names = [str(n) for n in range(1, 9)]
    wanted = join(names, PREDICTIONS, rules, partial=True)
    with AnswerTable(rules, PREDICTIONS) as table:
        found = dict(zip(names, table.take(names), strict=True))
        problems = table.finish(partial=True)
        assert {name: text for name, text in found.items() if text is not None} == wanted.answers
        assert problems.missing == wanted.problems.missing
        assert sorted(problems.duplicate) == sorted(wanted.problems.duplicate)
        assert sorted(problems.not_text) == sorted(wanted.problems.not_text)
        assert problems.unknown == ["9"] and table.counts["missing"] == len(problems.missing)
        if "refuse" in (missing, not_text):
            with pytest.raises(ValueError, match="must answer every question once"):
                table.finish(partial=False)


def pieces(path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    return json_items(path, "data")


def test_json_is_read_item_by_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [{"a": "é\u2028]"}, 12, -1.5, [], {}, "x,y", None, [1, [2, {"b": "}"}]]]
    text = json.dumps({"info": {"n": [1]}, "data": items, "end": 3}, indent=1, ensure_ascii=False)
    path = write(tmp_path / "a.json", f"\ufeff{text}")
    for chunk in (1, 2, 7, 1 << 20):
        assert list(pieces(path, chunk, monkeypatch)) == items
        assert [key for key, _ in json_pairs(path)] == ["info", "data", "end"]
    assert holds_mapping(path) and not holds_mapping(write(tmp_path / "b.json", [1]))
    assert list(json_items(write(tmp_path / "c.json", " [ ] "))) == []
    assert list(json_pairs(write(tmp_path / "d.json", "{}"))) == []
    with pytest.raises(ValueError, match="must have the key 'rows'"):
        list(json_items(path, "rows"))
    with pytest.raises(ValueError, match="must hold a list of rows, got dict"):
        list(json_items(path))
    with pytest.raises(ValueError, match="must hold a list of rows, got int"):
        list(json_items(path, "end"))
    for broken in ("[1, 2", "[1 2]", "[1, }", '["a', "", "[tru]", "[1x]"):
        with pytest.raises(ValueError, match="must"):
            list(json_items(write(tmp_path / "e.json", broken)))
