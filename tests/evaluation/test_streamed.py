"""Large files are scored in little memory as small ones are, and JSON is read item by item."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hdvl.evaluation import answer_table, json_stream, streamed
from hdvl.evaluation.answer_table import AnswerTable
from hdvl.evaluation.json_stream import holds_mapping, json_items, json_pairs
from hdvl.evaluation.metrics.joining import Rules, join
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.scorers.boxes import box_scores
from hdvl.evaluation.scorers.choices import choice_scores
from hdvl.evaluation.scorers.short_answers import gqa_scores, short_answer_scores
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
        scorer = streamed.streamed(partial(short_answer_scores, metric="anls"), each)
        assert scorer is not None
        streamed.score_stream(lambda: samples, table, scorer)
        empty = sum(not text for text in answers.values())
        wanted_counts = {**dict.fromkeys(table.counts, 0), "empty": empty}
        assert table.finish(partial=False).counts() == wanted_counts and empty == 6
    scores, totals = scorer.scores(), scorer.totals
    assert scores.value == pytest.approx(whole.value) and scores.tables == {
        "kind": pytest.approx(whole.tables["kind"])
    }
    wanted = vars(uncertainty(samples, whole.correct, scale=100))
    found = vars(totals.uncertainty())
    assert found["standard_error"] == pytest.approx(wanted["standard_error"])
    assert found["groups"] == wanted["groups"] and found["low"] < scores.value < found["high"]
    each.close()
    assert json.loads(f"{{{(tmp_path / 'each').read_text()[1:]}}}") == whole.correct
    twice = [samples[1], samples[0], samples[0]]
    message = "got 1 more than once, such as '0'"
    with AnswerTable(Rules("x"), []) as table, pytest.raises(ValueError, match=message):
        streamed.score_stream(lambda: twice, table, scorer)


def gqa_sample(number: int, draw: random.Random) -> Sample:
    question = {
        "question": "Is " * draw.randint(1, 3),
        "answer": draw.choice(["yes", "no", "red"]),
        "isBalanced": number % 5 > 0,
        "types": {"structural": draw.choice(["query", "verify"]), "semantic": draw.choice("ab")},
        "groups": {"global": draw.choice(["colour", "place", None])},
        "semantic": [{"operation": "select", "argument": "x"}] * draw.randint(0, 2),
        "entailed": [str(draw.randint(0, 70)) for _ in range(draw.randint(0, 3))],
    }
    group = f"image {number // 3}"
    answers = (str(question["answer"]),)
    return Sample(str(number), "q", answers=answers, extra={"gqa": question}, group=group)


def test_gqa_and_choices_are_scored_as_whole_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "ROWS", 7)
    draw = random.Random(0)
    options = {"A": "x", "B": "y"}
    choices = [replace(one, answers=("A",), options=options) for one in questions(20)]
    for samples, score, texts in (
        (
            [gqa_sample(n, draw) for n in range(50)],
            partial(gqa_scores, convert="llava"),
            "yes no Red.",
        ),
        (choices, partial(choice_scores, rule="letter"), "A B C"),
    ):
        given = {one.id: draw.choice(texts.split()) for one in samples}
        whole, scorer = score(samples, given), streamed.streamed(score)
        assert scorer is not None
        with AnswerTable(Rules("x"), iter(given.items())) as table:
            streamed.score_stream(lambda found=samples: found, table, scorer)
        found = scorer.scores()
        assert found.values == pytest.approx(whole.values) and found.unparsed == whole.unparsed
        for kind, rows in whole.tables.items():
            assert found.tables[kind] == pytest.approx(rows)
    assert streamed.streamed(partial(box_scores, form="grit")) is None


PREDICTIONS: list[tuple[str, object]] = [
    *(("1", "a"), ("2", "b"), ("1", "c"), ("9", "x"), ("9", "y"), ("3", None), ("4", "d")),
    *(
        ("8", ""),
        ("4", float("nan")),
        ("5", None),
        ("5", "e"),
        ("6", "\udc80"),
        ("7", 5),
        ("7", 0.5),
    ),
]


@pytest.mark.parametrize("missing", ["refuse", "skip", "empty"])
@pytest.mark.parametrize("not_text", ["refuse", "str"])
@pytest.mark.parametrize("duplicate", ["refuse", "last", "repeat", "each"])
def test_answers_are_joined_as_by_join(missing: Any, not_text: Any, duplicate: Any) -> None:
    rules = Rules("x", missing=missing, not_text=not_text, duplicate=duplicate)
    names = [str(n) for n in (*range(1, 9), 10)]
    wanted = join(names, PREDICTIONS, rules, partial=True)
    with AnswerTable(rules, PREDICTIONS) as table:
        found = [(names[place], text) for place, text in table.take(names)]
        problems = table.finish(partial=True)
        assert dict(found) == wanted.answers
        assert sorted(found) == sorted([*wanted.answers.items(), *wanted.earlier])
        assert bool(wanted.earlier) == (duplicate in ("repeat", "each"))
        assert problems.missing == wanted.problems.missing
        assert problems.empty == wanted.problems.empty == ["8"]
        assert sorted(problems.duplicate) == sorted(wanted.problems.duplicate)
        assert sorted(problems.not_text) == sorted(wanted.problems.not_text)
        assert set(problems.unknown) == {"9"} and table.counts["missing"] == len(problems.missing)
        if "refuse" in (missing, not_text, duplicate):
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
