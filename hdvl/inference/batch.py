"""Answers to many prepared questions, several at a time."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Protocol, TypeVar, runtime_checkable

from hdvl.inference.answer import Answer
from hdvl.inference.pipeline import Pipeline
from hdvl.inference.sampling import SamplingParams
from hdvl.inference.selection import WHOLE, Budget, encode_prompt, select_windows
from hdvl.processor import Sample
from hdvl.protocols import Message


@runtime_checkable
class Question(Protocol):
    """A conversation that ends with a question, as it is and as the model reads it."""

    @property
    def number(self) -> int: ...

    @property
    def messages(self) -> Sequence[Message]: ...

    @property
    def sample(self) -> Sample | None: ...


Asked = TypeVar("Asked", bound=Question)


def answer_questions(
    pipe: Pipeline,
    questions: Iterable[Asked],
    *,
    in_flight: int,
    seed: int = 0,
    budget: Budget = WHOLE,
    **options: Any,
) -> Iterator[tuple[Asked, Answer | None]]:
    """Yield each question with its answer, in order; questions without a sample have none.

    An answer does not depend on the other questions, also if it is sampled: the seed of each question is
    ``seed`` plus its number.

    Args:
        pipe: the model.
        questions: read as they are needed.
        in_flight: the most questions whose images are in memory at a time.
        seed: the seed of question 0.
        budget: the windows that the model reads; the samples were made with its ``max_tiles``.
        **options: options of the answers, see :class:`hdvl.inference.SamplingParams`.
    """
    waiting, processor = deque[Asked](), pipe.processor.limited(budget.max_tiles)

    def prompts() -> Iterator[tuple[tuple[Message, ...], Sample, SamplingParams]]:
        for question in questions:
            waiting.append(question)
            if question.sample is not None:
                params = SamplingParams.of(**options, seed=seed + question.number)
                messages, sample = tuple(question.messages), question.sample
                sample = select_windows(
                    pipe.engine, processor, messages, sample, encode_prompt, budget
                )
                yield messages, sample, params

    for answer in pipe.answers(prompts(), in_flight=in_flight):
        while waiting[0].sample is None:
            yield waiting.popleft(), None
        yield waiting.popleft(), answer
    for question in waiting:
        yield question, None


def answer_fields(answer: Answer) -> dict[str, Any]:
    """An answer as a row of JSON: text, boxes in pixels of their image, and what it took."""
    numbers, boxes = answer.numbers, answer.boxes
    fields: dict[str, Any] = {
        "answer": answer.text,
        "boxes": [written_box(found.label, found.box, found.image) for found in boxes],
    }
    if answer.malformed:
        fields["malformed_boxes"] = list(answer.malformed)
    fields["finish_reason"] = answer.finish_reason
    fields["numbers"] = written_numbers(
        tiles=numbers.tiles,
        visual_tokens=numbers.visual_tokens,
        prompt_tokens=numbers.prompt_tokens,
        new_tokens=numbers.new_tokens,
        missing_tiles=sum(plan.missing for plan in answer.plans),
    )
    if answer.confidence is not None:
        fields["confidence"] = written_confidence(**asdict(answer.confidence))
    return fields


def written_box(label: str, box: Sequence[float], image: int) -> dict[str, Any]:
    """A box as rows have it."""
    return {"label": label, "box": [round(value, 2) for value in box], "image": image}


def written_numbers(
    *, tiles: int, visual_tokens: int, prompt_tokens: int, new_tokens: int, missing_tiles: int
) -> dict[str, int]:
    """The numbers of an answer as rows have them; ``missing_tiles`` only if tiles were left out."""
    numbers = {
        "tiles": tiles,
        "visual_tokens": visual_tokens,
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
    }
    return numbers | ({"missing_tiles": missing_tiles} if missing_tiles else {})


def written_confidence(value: float, calibrated: bool, low: bool) -> dict[str, Any]:
    """The confidence in an answer as rows have it."""
    return {"value": round(value, 4), "calibrated": calibrated, "low": low}
