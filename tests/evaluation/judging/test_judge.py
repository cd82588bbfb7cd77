"""A judge is asked once, its replies are kept and replayed, and a lacking reply is an error."""

import json
from pathlib import Path
from typing import Any

import pytest

from hdvl.evaluation.judging.judge import Judge
from hdvl.evaluation.judging.judging import query
from tests.evaluation.judging.fake_judge import Raw, fake_judge

CHAINS = [[query(f"Question {n}", "Be just.", temperature=0.5, max_tokens=3)] for n in range(6)]


def last_word(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"].split()[-1])


def test_replies_are_kept_and_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "key-7")
    path = tmp_path / "judge.jsonl"
    with fake_judge(last_word) as server:
        given: dict[str, Any] = {"url": server.url, "model": "m", "record": path}
        with Judge(**given, key_variable="SECRET") as judge:
            assert judge.replies(CHAINS[:4], str.isdigit) == ["0", "1", "2", "3"]
        assert server.keys[0] == "Bearer key-7" and "key-7" not in path.read_text()
        assert server.asked[0]["temperature"] == 0.5 and len(server.asked[0]["messages"]) == 2
        path.write_bytes(path.read_bytes()[:-9])  # killed while it wrote the last reply
        with Judge(**given) as judge:
            assert judge.replies(CHAINS, str.isdigit) == list("012345") and judge.asked == 3
        assert len(server.asked) == 7
        with Judge(**given, settings={"temperature": None, "seed": 1}) as judge:
            judge.replies(CHAINS[:1], str.isdigit)
        assert "temperature" not in server.asked[-1] and server.asked[-1]["seed"] == 1
    row = json.loads(path.read_text().splitlines()[0])
    assert {"key", "judge", "served", "settings", "messages", "reply"} == set(row)
    assert row["served"] == "served-m"
    with Judge(replay=path) as judge:  # the server is gone
        assert judge.model == "m" and judge.replies(CHAINS, str.isdigit) == list("012345")
        with pytest.raises(
            ValueError, match=r"1 of 1 different answers .* no reply of m to 'Other'; ask for"
        ):
            judge.replies([[query("Other")]], str.isdigit)


def test_the_next_query_of_a_chain_is_asked_while_replies_cannot_be_read(tmp_path: Path) -> None:
    with fake_judge(last_word) as server:
        with Judge(url=server.url, model="m", record=tmp_path / "j") as judge:
            chain = [query("say what"), query("say 5"), query("say 6")]
            assert judge.replies([chain, chain[:1], chain], str.isdigit) == ["5", "what", "5"]


def test_what_a_judge_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"give judge\.url and judge\.model"):
        Judge()
    with pytest.raises(ValueError, match="there is none at"):
        Judge(replay=tmp_path / "none")
    two = tmp_path / "two.jsonl"
    two.write_text(
        '{"key": "a", "judge": "m", "reply": ""}\n{"key": "b", "judge": "n", "reply": ""}\n'
    )
    with pytest.raises(ValueError, match=r"one whose replies .* has \(m, n\), got null"):
        Judge(replay=two)

    def refuse(body: dict[str, Any]) -> str:
        if "3" in body["messages"][-1]["content"]:
            raise ValueError("quota")
        return last_word(body)

    path = tmp_path / "judge.jsonl"
    with fake_judge(refuse) as server, Judge(url=server.url, model="m", record=path) as judge:
        with pytest.raises(ValueError, match=r"1 of 6 different answers .* no score: .* quota"):
            judge.replies(CHAINS, str.isdigit)
        with pytest.raises(ValueError, match="being written by another process"):
            Judge(url=server.url, model="m", record=path).__enter__()
    assert len(path.read_text().splitlines()) == 5


NO_COMPLETION = {
    "a page": Raw(b"<html>busy</html>", content_type="text/html"),
    "a list": Raw(b"[1]"),
    "no JSON": Raw(b"{oops"),
    "an error": Raw(b'{"error": {"message": "overloaded"}}'),
    "no message": Raw(b'{"id": "1", "choices": [{"index": 0, "message": null}]}'),
    "parts": Raw(b'{"choices": [{"message": {"content": [{"type": "text", "text": "7"}]}}]}'),
}


@pytest.mark.parametrize("kind", NO_COMPLETION)
def test_a_reply_that_is_no_completion_is_an_error_and_not_kept(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "judge.jsonl"

    def say(body: dict[str, Any]) -> str | Raw:
        return NO_COMPLETION[kind] if last_word(body) == "1" else last_word(body)

    with fake_judge(say) as server, Judge(url=server.url, model="m", record=path) as judge:
        with pytest.raises(ValueError, match=r"1 of 2 different answers could not be judged"):
            judge.replies(CHAINS[:2], str.isdigit)
    assert [json.loads(line)["reply"] for line in path.read_text().splitlines()] == ["0"]


def test_a_busy_judge_is_asked_again_and_an_empty_reply_is_a_reply(tmp_path: Path) -> None:
    busy = iter((Raw(b"{}", 429, headers={"Retry-After-Ms": "1"}), Raw(b"", 500), "0"))
    again = {"Retry-After-Ms": "1"}

    def say(body: dict[str, Any]) -> str | Raw:
        if last_word(body) == "0":
            return next(busy)
        return "" if last_word(body) == "1" else Raw(b"{}", 503, headers=again)

    path = tmp_path / "judge.jsonl"
    with fake_judge(say) as server:
        given: dict[str, Any] = {"url": server.url, "model": "m", "record": path}
        with Judge(**given) as judge:
            assert judge.replies(CHAINS[:2], str.isdigit) == ["0", ""]
            with pytest.raises(ValueError, match=r"1 of 3 different answers .* Error code: 503"):
                judge.replies(CHAINS[:3], str.isdigit)
        asked = len(server.asked)
        with Judge(**given) as judge:  # the empty reply is not asked for again
            assert judge.replies(CHAINS[:2], str.isdigit) == ["0", ""] and judge.asked == 0
        assert len(server.asked) == asked
