"""Judging of answers: queries to a judge, and values parsed from its replies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.judging.judge import Chain, Judge, Query
from hdvl.evaluation.samples import Sample, digest


@runtime_checkable
class Judging(Protocol):
    """How a benchmark asks its judge."""

    def wording(self, folder: DataFolder) -> Mapping[str, str]:
        """The fixed texts of the queries, which are read from files in the folder of the benchmark.

        Raises:
            FileNotFoundError: such a file is missing.
        """
        ...

    def chains(
        self, wording: Mapping[str, str], samples: Sequence[Sample], answers: Mapping[str, str]
    ) -> Mapping[str, Sequence[Chain]]:
        """The queries about each answer that is to be judged, by the id of its question."""
        ...

    def read(self, reply: str) -> Any:
        """What a reply says; ``None`` if it cannot be read."""
        ...


@dataclass
class Verdicts:
    """What the judge said.

    Attributes:
        read: the value parsed from the replies about each judged answer, by the id of its question.
        model: the name of the judge.
        wording: a short hash of the fixed texts of the queries.
        settings: the options that replaced those of the benchmark.
        asked: the number of replies that this run requested; the others were stored.
        unparsed: ids of answers about which a reply could not be read.
    """

    read: Mapping[str, tuple[Any, ...]]
    model: str = ""
    wording: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    asked: int = 0
    unparsed: Sequence[str] = ()

    def first(self, name: str) -> Any:
        """What was read out of the first reply about an answer; ``None`` without one."""
        return self.read.get(name, (None,))[0]

    def summary(self) -> dict[str, Any]:
        """The facts for a report, without the number of requested replies, which differs between runs."""
        return {
            "judge": self.model,
            "wording": self.wording,
            "settings": dict(self.settings),
            "replies": sum(map(len, self.read.values())),
            "unparsed": len(self.unparsed),
        }


def judge_answers(
    judging: Judging,
    judge: Judge,
    samples: Sequence[Sample],
    answers: Mapping[str, str],
    folder: DataFolder,
) -> Verdicts:
    """Ask ``judge`` about the answers, as ``judging`` says. The judge must have been entered.

    Raises:
        FileNotFoundError: a file with the words of the queries is missing.
        ValueError: some replies did not come.
    """
    words = judging.wording(folder)
    chains = judging.chains(words, samples, answers)
    flat = [(name, chain) for name, several in chains.items() for chain in several]
    replies = judge.replies(
        [chain for _, chain in flat], lambda reply: judging.read(reply) is not None
    )
    found: dict[str, tuple[Any, ...]] = {}
    for (name, _), reply in zip(flat, replies, strict=True):
        found[name] = (*found.get(name, ()), judging.read(reply))
    return Verdicts(
        found,
        judge.model or "",
        digest(*(part for item in words.items() for part in item))[:12],
        judge.settings,
        judge.asked,
        [name for name, several in found.items() if None in several],
    )


def query(text: str, system: str = "", **settings: Any) -> Query:
    """A query of one turn, with a system message unless it is empty."""
    turns = (("system", system),) if system else ()
    return Query((*turns, ("user", text)), settings)
