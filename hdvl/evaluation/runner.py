"""Questions of a task answered by a model: in batches, over several ranks, and once each."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import timedelta
from itertools import groupby
from typing import Any

from hdvl.data.rows import SKIPPABLE
from hdvl.data.threads import ThreadLoader
from hdvl.evaluation.samples import Sample, digest, image_bytes, image_name
from hdvl.evaluation.store import AnswerStore
from hdvl.evaluation.task import Protocol
from hdvl.inference import Answer, Pipeline
from hdvl.inference.batch import answer_fields, answer_questions
from hdvl.inference.progress import AskingProgress
from hdvl.processor import Processor
from hdvl.processor import Sample as Prepared
from hdvl.protocols import Message, TilePlan

QUESTION_ERRORS = (*SKIPPABLE, OSError)
"""Errors that concern one question; the run continues with the others."""


@dataclass(frozen=True)
class Ranks:
    """The rank of this process and the number of processes, as set by torchrun."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def of_environment(cls) -> "Ranks":
        """The rank and the number of ranks that torchrun set, or those of a single process."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    def connect(self) -> None:
        """Connect the ranks over gloo, so that the first can collect the answers of all."""
        import torch.distributed as dist

        if self.world_size > 1 and not dist.is_initialized():
            dist.init_process_group("gloo", timeout=timedelta(days=7))

    def gather(self, value: Any) -> list[Any]:
        """The value of each rank. Every rank must call this."""
        import torch.distributed as dist

        if self.world_size == 1:
            return [value]
        found = [None] * self.world_size
        dist.all_gather_object(found, value)
        return found


@dataclass(frozen=True)
class Question:
    """A prepared question, or the reason why it cannot be asked.

    Attributes:
        number: its number among the samples of the task.
        origin: the question of the benchmark.
        key: hash of all that the answer depends on; empty if an image could not be read.
        messages: the conversation.
        sample: the ids and pixels for the model; ``None`` if it is not asked.
        row: the answer that an earlier run has stored.
        error: why the question cannot be asked.
    """

    number: int
    origin: Sample
    key: str = ""
    messages: Sequence[Message] = ()
    sample: Prepared | None = None
    row: dict[str, Any] | None = None
    error: str = ""

    def said(self) -> dict[str, Any]:
        """The fields that are stored with the answer."""
        return {"key": self.key, "id": self.origin.id, "prompt": self.messages[-1].text}


@dataclass
class Questions:
    """``questions[i]`` reads the images of sample ``i`` and prepares it, unless its answer is known.

    Attributes:
        samples: the questions of the benchmark.
        protocol: how they are worded.
        processor: the preprocessing of the model.
        identity: a text that differs if the model or the options of generation do.
        known: rows of earlier runs by their key.
        system: the system message; ``None`` for that of the template.
    """

    samples: Sequence[Sample]
    protocol: Protocol
    processor: Processor
    identity: str
    known: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    system: str | None = None

    def __getitem__(self, number: int) -> Question:
        sample = self.samples[number]
        try:
            text = self.protocol.text(sample)
            images = [image_bytes(image) for image in sample.images]
        except QUESTION_ERRORS as error:
            return Question(number, sample, error=_reason(sample, error))
        candidates = self.protocol.candidates_of(sample) if self.protocol.candidates else {}
        changes = sample.extra.get("tiler", {})
        said = [text, str(self.system), json.dumps(candidates)]
        if changes:
            said.append(json.dumps(changes))
        key = digest(self.identity, *said, *images)[:32]
        if key in self.known:
            return Question(number, sample, key, row=self.known[key])
        messages = [Message("user", text, tuple(images))]
        if self.system is not None:
            messages.insert(0, Message("system", self.system))
        if candidates:
            return Question(number, sample, key, messages)
        try:
            prepared = with_tiler(self.processor, changes)(messages, add_generation_prompt=True)
        except QUESTION_ERRORS as error:
            return Question(number, sample, key, messages, error=_reason(sample, error))
        return Question(number, sample, key, messages, prepared)


def with_tiler(processor: Processor, changes: Mapping[str, Any]) -> Processor:
    """``processor`` with other values of its tiler, such as ``{"max_tiles": 4}``.

    Raises:
        ValueError: the tiler has no such value, or does not take it.
    """
    if not changes:
        return processor
    tiler: Any = processor.tiler
    known = {one.name for one in fields(tiler)} if is_dataclass(tiler) else set()
    for name in changes:
        if name not in known:
            raise ValueError(
                f"the question changes {name} of the tiler, {type(tiler).__name__} has none; leave out the "
                "factor"
            )
    return replace(processor, tiler=replace(tiler, **changes))


def _reason(sample: Sample, error: BaseException) -> str:
    names = ", ".join(map(image_name, sample.images)) or "no image"
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        said = f"there is no file {error.filename}"
    else:
        said = " ".join(str(error).split()) or type(error).__name__
    return f"question {sample.id} ({names}): {said}"


@dataclass
class Answers:
    """The results of a run for the questions of a task.

    Attributes:
        rows: the stored row of each answered question, by the id of the question.
        failed: the error of each other question, by its id.
    """

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def own_questions(samples: Sequence[Sample], ranks: Ranks) -> list[int]:
    """Numbers of the samples that this rank answers: whole groups, the questions of each together."""
    groups: dict[str, list[int]] = {}
    for number, sample in enumerate(samples):
        groups.setdefault(sample.group or f"{number} {sample.id}", []).append(number)
    own = list(groups.values())[ranks.rank :: ranks.world_size]
    return [number for group in own for number in group]


def large_groups(samples: Sequence[Sample], slots: int) -> set[str]:
    """Names of the groups that are answered without questions of other groups.

    They are those with at least half as many questions as there are slots. If all prompts of a batch begin
    with the same images, a step reads the keys and values of these images once, and otherwise once for each
    prompt.
    """
    counts = Counter(sample.group for sample in samples if sample.group)
    return {name for name, count in counts.items() if 2 * count >= slots and count > 1}


def answer_samples(
    pipe: Pipeline,
    samples: Sequence[Sample],
    protocol: Protocol,
    store: AnswerStore | None,
    *,
    identity: str,
    ranks: Ranks,
    num_workers: int = 2,
    system: str | None = None,
) -> Answers:
    """Answer the questions of this rank that have no stored answer, and return the answers of all ranks.

    Args:
        pipe: the model.
        samples: all questions of the task, the same on every rank.
        protocol: the protocol with its prompt and options.
        store: where answers are kept; ``None`` keeps none, and asks every question.
        identity: see :class:`Questions`.
        ranks: this process among others.
        num_workers: threads that read and cut images ahead.
        system: the system message.
    """
    chosen = [protocol.generation, protocol.candidates, protocol.per_token]
    settings = json.dumps(chosen, sort_keys=True)
    whole = digest(identity, settings)
    known = {} if store is None else store.known
    questions = Questions(samples, protocol, pipe.processor, whole, known, system)
    numbers = own_questions(samples, ranks)
    prepared = ThreadLoader(
        questions,
        [[number] for number in numbers],
        collate=lambda items: items[0],
        num_workers=num_workers,
        prefetch_factor=pipe.engine.counters.slots,
    )
    alone = large_groups([samples[number] for number in numbers], pipe.engine.counters.slots)
    asked = (
        _likelihoods(pipe, prepared, protocol)
        if protocol.candidates
        else _answers(pipe, prepared, protocol.generation, alone)
    )
    found = Answers()
    with AskingProgress(len(numbers)) as progress:
        for question, answer, cost in asked:
            error = question.error
            if question.row is not None:
                found.rows[question.origin.id] = question.row
            elif error:
                found.failed[question.origin.id] = error
            else:
                row = {**question.said(), **cost}
                if store is not None:
                    store.append(row)
                found.rows[question.origin.id] = row
            shown = (0, 0) if answer is None else (len(answer.images), answer.numbers.new_tokens)
            progress.add(images=shown[0], new_tokens=shown[1], error=error)
    return _merged(ranks.gather(found), samples)


def _merged(parts: Sequence[Answers], samples: Sequence[Sample]) -> Answers:
    """The answers of all ranks in the order of the samples."""
    rows = {name: row for part in parts for name, row in part.rows.items()}
    failed = {name: reason for part in parts for name, reason in part.failed.items()}
    names = [sample.id for sample in samples]
    return Answers(
        {name: rows[name] for name in names if name in rows},
        {name: failed[name] for name in names if name in failed},
    )


Asked = Iterator[tuple[Question, Answer | None, dict[str, Any]]]


def _answers(pipe: Pipeline, prepared: Any, options: Mapping[str, Any], alone: Set[str]) -> Asked:
    def batch(question: Question) -> str:
        return question.origin.group if question.origin.group in alone else ""

    in_flight = 2 * pipe.engine.counters.slots
    for _, together in groupby(prepared, batch):
        for question, answer in answer_questions(pipe, together, in_flight=in_flight, **options):
            yield question, answer, {} if answer is None else _answer_row(pipe, answer, options)


def _answer_row(pipe: Pipeline, answer: Answer, options: Mapping[str, Any]) -> dict[str, Any]:
    fields = answer_fields(answer)
    fields["images"] = [image_fields(pipe, plan) for plan in answer.plans]
    fields["truncated"] = answer.numbers.new_tokens >= options.get("max_new_tokens", 256)
    return fields


def _likelihoods(pipe: Pipeline, prepared: Any, protocol: Protocol) -> Asked:
    for question in prepared:
        if question.row is not None or question.error:
            yield question, None, {}
            continue
        candidates = protocol.candidates_of(question.origin)
        values = pipe.likelihood(
            question.messages, list(candidates.values()), per_token=protocol.per_token
        )
        scores = dict(zip(candidates, values, strict=True))
        plans = [plan for plan in pipe.request(question.messages).plans]
        yield (
            question,
            None,
            {
                "answer": max(scores, key=lambda letter: scores[letter]),
                "log_probabilities": scores,
                "images": [image_fields(pipe, plan) for plan in plans],
                "truncated": False,
            },
        )


def image_fields(pipe: Pipeline, plan: TilePlan) -> dict[str, Any]:
    """The cost of an image of a question: its size, the size it was resized to, tiles and visual tokens."""
    left, top, right, bottom = plan.content
    return {
        "size": [plan.width, plan.height],
        "resized": [right - left, bottom - top],
        "tiles": plan.count,
        "tile_boxes": [[round(side, 1) for side in box] for box in plan.boxes],
        "visual_tokens": pipe.model.merger.token_count(plan),
    }
