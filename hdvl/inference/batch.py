"""Answers to many prepared questions, in batches of bounded size."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from hdvl.inference.answer import Answer
from hdvl.inference.pipeline import Pipeline
from hdvl.processor import Sample
from hdvl.protocols import Message


@runtime_checkable
class Question(Protocol):
    """A conversation that ends with a question, as it is and as the model reads it."""

    @property
    def messages(self) -> Sequence[Message]: ...

    @property
    def sample(self) -> Sample | None: ...


Asked = TypeVar("Asked", bound=Question)


def answer_batches(
    pipe: Pipeline,
    questions: Iterable[Asked],
    *,
    batch_size: int,
    batch_tokens: int,
    **generation: Any,
) -> Iterator[tuple[Asked, Answer | None]]:
    """Yield each question with its answer, in order; questions without a sample have none.

    Args:
        pipe: the model.
        questions: read one batch ahead at most.
        batch_size: the largest number of questions in a batch.
        batch_tokens: the largest number of ids in a batch, padding included. A question that is longer
            is asked alone.
        **generation: see :meth:`hdvl.inference.Pipeline.generate`.
    """
    if batch_size < 1 or batch_tokens < 1:
        raise ValueError(
            f"batch_size and batch_tokens must be at least 1, got {batch_size} and {batch_tokens}"
        )
    for batch in _batches(questions, batch_size, batch_tokens):
        samples = [question.sample for question in batch]
        asked = [place for place, sample in enumerate(samples) if sample is not None]
        answers = pipe.answer_samples(
            [batch[place].messages for place in asked],
            [sample for sample in samples if sample is not None],
            **generation,
        )
        found = dict(zip(asked, answers, strict=True))
        for place, question in enumerate(batch):
            yield question, found.get(place)


def _batches(questions: Iterable[Asked], size: int, tokens: int) -> Iterator[list[Asked]]:
    batch, longest = list[Asked](), 0
    for question in questions:
        length = 0 if question.sample is None else len(question.sample.ids)
        if batch and (len(batch) == size or max(longest, length) * (len(batch) + 1) > tokens):
            yield batch
            batch, longest = [], 0
        batch.append(question)
        longest = max(longest, length)
    if batch:
        yield batch


def answer_fields(answer: Answer) -> dict[str, Any]:
    """An answer as a row of JSON: text, boxes in pixels of their image, and what it took."""
    numbers = answer.numbers
    fields: dict[str, Any] = {
        "answer": answer.text,
        "boxes": [
            {
                "label": found.label,
                "box": [round(value, 2) for value in found.box],
                "image": found.image,
            }
            for found in answer.boxes
        ],
    }
    if answer.malformed:
        fields["malformed_boxes"] = list(answer.malformed)
    fields["numbers"] = {
        "tiles": numbers.tiles,
        "visual_tokens": numbers.visual_tokens,
        "prompt_tokens": numbers.prompt_tokens,
        "new_tokens": numbers.new_tokens,
    }
    return fields
