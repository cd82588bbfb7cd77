"""A backend that runs the model in this process."""

from collections.abc import Iterator
from typing import Any

from hdvl.backends.base import Job, Row
from hdvl.chosen_model import pipeline_of
from hdvl.data.questions import PreparedQuestions
from hdvl.data.threads import ThreadLoader
from hdvl.inference import Pipeline
from hdvl.inference.batch import answer_fields, answer_questions
from hdvl.inference.selection import Budget


class LocalBackend:
    """The model that the config names, in this process.

    Args:
        **options: options of :class:`hdvl.inference.engine.Engine`.
    """

    runs_model = True

    def __init__(self, **options: Any) -> None:
        self.options = options
        self._pipe: Pipeline | None = None

    def identity(self) -> dict[str, Any]:
        """Nothing: the options of the engine do not change answers."""
        return {}

    def rows(self, job: Job) -> Iterator[Row]:
        """Load the model and yield the rows in their order."""
        self._pipe = pipeline_of({**job.cfg, "engine": self.options}, job.overrides)
        yield from answered(self._pipe, job)

    def hit_rate(self) -> float | None:
        """The share of images whose visual tokens were cached."""
        return None if self._pipe is None else hit_rate_of(self._pipe)


def answered(pipe: Pipeline, job: Job) -> Iterator[Row]:
    """The rows of ``job``, answered by ``pipe``, in their order."""
    cfg = job.cfg
    budget = Budget(cfg["max_tiles"], cfg["select"], cfg["select_tiles"])
    prepared = ThreadLoader(
        PreparedQuestions(job.questions, pipe.processor.limited(budget.max_tiles)),
        [[number] for number in job.remaining],
        collate=lambda items: items[0],
        num_workers=cfg["num_workers"],
    )
    asked = answer_questions(
        pipe,
        prepared,
        in_flight=2 * pipe.engine.counters.slots,
        seed=cfg["seed"],
        budget=budget,
        # The probabilities of the answer's ids, for its confidence.
        logprobs=0,
        **cfg["generation"],
    )
    for row, answer in asked:
        if answer is None:
            yield Row.bad(row.number, row.fields, row.error)
            continue
        yield Row(
            row.number,
            {**row.fields, **answer_fields(answer)},
            images=len(answer.images),
            new_tokens=answer.numbers.new_tokens,
        )


def hit_rate_of(pipe: Pipeline) -> float:
    """The share of images whose visual tokens the engine of ``pipe`` had cached."""
    counters = pipe.engine.counters
    return counters.image_cache_hits / max(
        1, counters.image_cache_hits + counters.image_cache_misses
    )
