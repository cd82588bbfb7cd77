"""A judge at an OpenAI-compatible URL. Replies are stored, so that no query is sent twice.

Replies are appended to a JSONL file, each with the name of the judge, its settings and the messages. The key
of a reply is a hash of these. A file of replies can be replayed without the judge.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import IO, Any

from hdvl.appended import append_row, end_torn_line, whole_rows
from hdvl.evaluation.samples import digest
from hdvl.files import hold

Readable = Callable[[str], bool]


@dataclass(frozen=True)
class Query:
    """One question to the judge.

    Attributes:
        messages: pairs of a role and a text.
        settings: options of the request, such as ``temperature`` and ``max_tokens``.
    """

    messages: tuple[tuple[str, str], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def key(self, model: str) -> str:
        """The hash under which the reply of ``model`` is stored."""
        said = json.dumps([self.messages, self.settings], sort_keys=True, ensure_ascii=False)
        return digest(model, said)[:32]


Chain = Sequence[Query]
"""Queries that are sent in order until a reply can be parsed."""


class Judge:
    """A judge; a context manager that locks its file of replies for this process.

    Args:
        url: base URL of an OpenAI-compatible API, such as ``http://localhost:8001/v1``.
        model: the name of the model there. With ``replay`` it may be ``None`` if the file has one judge.
        key_variable: the environment variable that holds the key of the API; if it is not
            set, no key is sent.
        record: JSONL file of replies, which is read and appended to.
        replay: JSONL file of replies to use in place of the API.
        settings: options that replace those of the benchmark; ``None`` removes one.
        num_concurrent: the largest number of concurrent queries.
        timeout: seconds that a reply may take.

    Raises:
        ValueError: neither a URL with a model nor ``replay`` is given, or another process writes ``record``.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        model: str | None = None,
        key_variable: str = "HDVL_JUDGE_KEY",
        record: str | Path | None = None,
        replay: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        num_concurrent: int = 4,
        timeout: float = 60.0,
    ) -> None:
        if replay is None and (url is None or model is None or record is None):
            raise ValueError(
                "this protocol needs a judge: give judge.url and judge.model, and judge.record for its "
                "replies, or judge.replay with replies that were recorded; or choose another protocol"
            )
        if replay is not None and not Path(replay).is_file():
            raise ValueError(f"judge.replay must be a file, there is none at {str(replay)!r}")
        self.url, self.replayed = url, replay is not None
        self.path = Path(replay if replay is not None else record or "")
        self.model = model if replay is None else _only_judge(Path(replay), model)
        self.key_variable, self.timeout = key_variable, timeout
        self.settings, self.num_concurrent = dict(settings or {}), num_concurrent
        self.known: dict[str, str] = {}
        self.asked = 0
        self._file: IO[bytes] | None = None
        self._lock = Lock()
        self._client: Any = None

    def __enter__(self) -> "Judge":
        path = self.path
        if not self.replayed:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            if not hold(self._file):
                self._file.close()
                raise ValueError(
                    f"{path} is being written by another process; wait for it, or change judge.record"
                )
            end_torn_line(self._file, path)
        self.known = {row["key"]: row["reply"] for _, _, row in whole_rows(path) if "key" in row}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def replies(self, chains: Iterable[Chain], readable: Readable) -> list[str]:
        """The reply to each chain: the first that can be read, or the last.

        Raises:
            ValueError: a reply is not in the replayed file, or the API gave none; those that came are kept.
        """
        names = list[tuple[str, ...]]()
        different = dict[tuple[str, ...], Chain]()  # equal queries are sent once
        for chain in chains:
            names.append(tuple(one.key("") for one in chain))
            different.setdefault(names[-1], chain)
        with ThreadPoolExecutor(self.num_concurrent) as pool:
            replies = pool.map(lambda one: self._guarded(one, readable), different.values())
            found = dict(zip(different, replies, strict=True))
        errors = [error for _, error in found.values() if error]
        if errors:
            remedy = (
                "ask for the others with judge.url and judge.record"
                if self.replayed
                else "the replies that came are kept, and the same command asks for the others"
            )
            raise ValueError(
                f"{len(errors)} of {len(found)} different answers could not be judged, and the task has no "
                "score: "
                f"{errors[0]}; {remedy}"
            )
        return [found[name][0] for name in names]

    def _guarded(self, chain: Chain, readable: Readable) -> tuple[str, str]:
        try:
            return self._reply(chain, readable), ""
        except (ValueError, OSError) as error:
            return "", " ".join(str(error).split())

    def _reply(self, chain: Chain, readable: Readable) -> str:
        reply = ""
        for query in chain:
            reply = self._one(query)
            if readable(reply):
                return reply
        return reply

    def _one(self, query: Query) -> str:
        merged = {**query.settings, **self.settings}
        asked = Query(
            query.messages, {key: merged[key] for key in merged if merged[key] is not None}
        )
        assert self.model is not None
        key = asked.key(self.model)
        if key in self.known:
            return self.known[key]
        if self.replayed:
            raise ValueError(
                f"{self.path} has no reply of {self.model} to {asked.messages[-1][1][-80:]!r}"
            )
        served, reply = self._request(asked)
        with self._lock:
            assert self._file is not None
            append_row(
                self._file,
                {
                    "key": key,
                    "judge": self.model,
                    "served": served,
                    "settings": dict(asked.settings),
                    "messages": [list(one) for one in asked.messages],
                    "reply": reply,
                },
            )
            self.known[key] = reply
            self.asked += 1
        return reply

    def _request(self, query: Query) -> tuple[str, str]:
        import openai

        with self._lock:
            if self._client is None:
                key = os.environ.get(self.key_variable) or "none"
                self._client = openai.OpenAI(
                    base_url=self.url, api_key=key, timeout=self.timeout, max_retries=3
                )
        messages = [{"role": role, "content": text} for role, text in query.messages]
        try:
            said = self._client.chat.completions.create(
                model=self.model, messages=messages, **query.settings
            )
        except openai.OpenAIError as error:
            raise ValueError(f"the judge at {self.url} gave no reply: {error}") from None
        # The client neither checks the type nor the form of a reply with status 200.
        choices = said.choices if isinstance(said, openai.types.chat.ChatCompletion) else None
        message = choices[0].message if choices else None
        text = (message.content or "") if message is not None else None
        if not isinstance(text, str):
            raise ValueError(
                f"the judge at {self.url} must reply with a chat completion that has a text, got "
                f"{str(said)[:200]!r}"
            )
        return str(said.model), text


def judge_of(cfg: Mapping[str, Any], record: Path | None = None) -> Judge:
    """The judge that a command line chooses; ``record`` keeps its replies unless it names a file for them."""
    chosen = dict(cfg["judge"])
    return Judge(**{**chosen, "record": chosen["record"] or record})


def _only_judge(path: Path, model: str | None) -> str:
    """The judge whose replies are replayed."""
    found = sorted({str(row.get("judge")) for _, _, row in whole_rows(path)})
    if model is None and len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(
            f"judge.replay must be a file of replies, {path} holds none; record some first"
        )
    if model not in found:
        raise ValueError(
            f"judge.model must be one whose replies {path} has ({', '.join(found)}), got {model or 'null'}"
        )
    return model
