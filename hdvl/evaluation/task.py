"""A benchmark: where its questions come from, and the protocols under which they are asked and scored."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.identifying import Identify
from hdvl.evaluation.judging.judging import Judging, Verdicts
from hdvl.evaluation.prompts import prompt_of
from hdvl.evaluation.samples import Sample, digest, duplicates
from hdvl.evaluation.scores import Scores

PROTOCOLS = ("official", "llava", "vlmevalkit", "lmms_eval", "qwen_vl", "internvl", "quick")
"""Names of protocols; ``quick`` is the official one with rules in place of its judge."""
SampleReader = Callable[[DataFolder, str], Iterable[Sample]]


class Protocol:
    """The prompts of a task and the scoring of its answers.

    Args:
        prompt: see :func:`hdvl.evaluation.prompts.prompt_of`.
        score: function of samples and answers that scores them.
        generation: options of generation, which is greedy by default.
        option: one line of the options in the prompt.
        candidates: ask for the likelihood of each option instead of an answer: ``"letter"`` or ``"text"``,
            the part of an option that is the candidate. The answer is the letter of the most likely one.
        per_token: divide the likelihood of a candidate by the number of its tokens.
        where: the questions that the protocol asks, as accepted values of fields in ``extra``.
        judge: how a judge is asked about the answers; see :class:`~hdvl.evaluation.judging.judging.Judging`.
            ``score`` then takes its verdicts as ``verdicts``.
        boxes: score the boxes that the model's template finds in an answer, as a JSON list of boxes in pixels
            of the original image, in place of its text.
    """

    def __init__(
        self,
        *,
        prompt: str | Sequence[str],
        score: Callable[..., Scores],
        generation: Mapping[str, Any] | None = None,
        option: str = "{letter}. {text}",
        candidates: str | None = None,
        per_token: bool = False,
        where: Mapping[str, Sequence[str]] | None = None,
        judge: Judging | None = None,
        boxes: bool = False,
    ) -> None:
        if candidates not in (None, "letter", "text"):
            raise ValueError(f"candidates must be letter, text or null, got {candidates!r}")
        self.prompt, self.score, self.option = prompt, score, option
        self.generation, self.candidates = dict(generation or {}), candidates
        self.per_token, self.where = per_token, dict(where or {})
        self.boxes, self.judge = boxes, judge

    def asks(self, sample: Sample) -> bool:
        """Whether the protocol includes a question of the benchmark."""
        return not self.where or all(
            str(sample.extra.get(key)) in names for key, names in self.where.items()
        )

    def answer(self, row: Mapping[str, Any]) -> str:
        """The text of a stored answer that is scored."""
        if self.boxes:
            return json.dumps([found["box"] for found in row["boxes"]])
        return str(row["answer"])

    def text(self, sample: Sample) -> str:
        """The prompt for a question."""
        return prompt_of(self.prompt, sample, self.option)

    def candidates_of(self, sample: Sample) -> dict[str, str]:
        """The candidates of a likelihood question, by their letters."""
        if self.candidates == "letter":
            return {letter: letter for letter in sample.options}
        return dict(sample.options)


@dataclass
class Task:
    """One benchmark.

    Attributes:
        name: its name.
        read: function of a :class:`DataFolder` and a split that returns the questions.
        protocols: the protocols that it can be run under; each is plain data with ``_target_``.
        protocol: the one to use.
        split: the part of the benchmark.
        hidden_splits: splits whose answers are not published: they are answered and written for the
            server of the benchmark, and not scored.
        rules: entry of ``official_rules.RULES``: what the official scorer does with an incomplete file of
            predictions; ``None`` refuses it.
        identify: how questions are named in files of predictions without their ids; see
            :mod:`hdvl.evaluation.identifying`.
        folders: whether predictions may be a folder of text files, as MME's official tool reads them.
        submission: function that writes answers in the form that the server takes.
        published: scores of published models, by model, as their papers report them.
        generated: whether the questions are generated, so that no files are needed.
        curves: whether the accuracy is drawn against every kind of category.
    """

    name: str
    read: SampleReader
    protocols: Mapping[str, Any]
    protocol: str = "official"
    split: str = "val"
    hidden_splits: Sequence[str] = ()
    rules: str | None = None
    identify: Identify | None = None
    folders: bool = False
    submission: Callable[..., Path] | None = None
    published: Mapping[str, float] = field(default_factory=dict)
    generated: bool = False
    curves: bool = False

    def __post_init__(self) -> None:
        if self.protocol not in self.protocols:
            known = ", ".join(self.protocols)
            raise ValueError(
                f"protocol of {self.name} must be one of {known}, got {self.protocol!r}; set "
                f"task.{self.name}.protocol"
            )

    @property
    def chosen(self) -> Protocol:
        """The protocol in use."""
        found: Protocol = self.protocols[self.protocol]
        return found

    @property
    def hidden(self) -> bool:
        """Whether the answers of the split are not published."""
        return self.split in self.hidden_splits

    def stream(self, folder: DataFolder) -> Iterator[Sample]:
        """The questions, one after the other as far as the files can be read so."""
        return (one for one in self.read(folder, self.split) if self.chosen.asks(one))

    def samples(self, folder: DataFolder) -> list[Sample]:
        """The questions.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: an id occurs twice, or there is no question.
        """
        found = list(self.stream(folder))
        twice = duplicates(found)
        if twice:
            raise ValueError(
                f"ids of {self.name} must be unique, got {len(twice)} twice, such as {twice[0]!r}; "
                "restore the file"
            )
        if not found:
            fix = f"task.{self.name}.read" if self.generated else "the file"
            raise ValueError(f"{self.name} has no question in split {self.split!r}; check {fix}")
        return found

    def score(
        self,
        samples: Sequence[Sample],
        answers: Mapping[str, str],
        verdicts: Verdicts | None = None,
    ) -> Scores:
        """Score the answer to every one of ``samples``; ``verdicts`` are those of a judged protocol."""
        if self.chosen.judge is None:
            return self.chosen.score(samples, answers)
        if verdicts is None:
            raise ValueError(
                f"protocol {self.protocol} of {self.name} needs the verdicts of a judge"
            )
        return self.chosen.score(samples, answers, verdicts=verdicts)


def protocol_hash(node: Mapping[str, Any], name: str) -> str:
    """A short hash of all that protocol ``name`` of a task's config says."""
    said = json.dumps(node["protocols"][name], sort_keys=True, ensure_ascii=False)
    return digest(name, said)[:12]


def every_id(task: Task, folder: DataFolder) -> Iterator[str]:
    """The ids of all questions of the split, those included that the protocol does not ask."""
    return (one.id for one in task.read(folder, task.split))


def first_questions(task: Task, samples: Iterable[Sample], limit: int | None) -> Iterator[Sample]:
    """The first ``limit`` questions of a task.

    Those after them that are about the same images as these are added, because some metrics count whole
    groups of questions; not for generated questions, which are scored one by one.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 or null, got {limit}")
    if limit is None:
        return iter(samples)
    return islice(samples, limit) if task.generated else _first(samples, limit)


def _first(samples: Iterable[Sample], limit: int) -> Iterator[Sample]:
    groups = set[str]()
    for number, sample in enumerate(samples):
        if number < limit:
            if sample.group:
                groups.add(sample.group)
            yield sample
        elif sample.group in groups:
            yield sample
