"""Rows are answered by Ray Data: actors on one machine or on many, each of which holds the model.

Needs ``pip install 'hdvl[ray]'``. Inputs, checkpoint and ``hdvl`` itself must be found under the same paths
on every machine.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hdvl.backends.base import Job, Row, questions_of
from hdvl.backends.local import answered
from hdvl.chosen_model import pipeline_of


class RayBackend:
    """Actors of Ray Data.

    A row whose actor is lost is answered by another. Rows come in the order in which they are done.

    Args:
        address: the cluster; ``None`` starts Ray on this machine and ends it afterwards.
        actors: the number of actors.
        num_cpus: the CPUs of an actor.
        num_gpus: the GPUs of an actor.
        batch_size: the rows that an actor takes at a time.
        **options: options of :class:`hdvl.inference.engine.Engine`.

    Raises:
        ValueError: a number is out of its range.
    """

    runs_model = True

    def __init__(
        self,
        *,
        address: str | None = None,
        actors: int = 2,
        num_cpus: float = 1,
        num_gpus: float = 0,
        batch_size: int = 16,
        **options: Any,
    ) -> None:
        for name, value in (("actors", actors), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"engine.{name} must be at least 1, got {value}")
        if num_cpus < 0 or num_gpus < 0:
            raise ValueError(
                f"engine.num_cpus and num_gpus must be at least 0, got {num_cpus} and {num_gpus}"
            )
        self.address, self.actors, self.batch_size = address, actors, batch_size
        self.resources = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        self.options = options

    def identity(self) -> dict[str, Any]:
        """Nothing: neither the actors nor the options of the engine change answers."""
        return {}

    def hit_rate(self) -> float | None:
        """Unknown, since the actors have the caches."""
        return None

    def rows(self, job: Job) -> Iterator[Row]:
        """Yield each row when its answer is there.

        Raises:
            ImportError: Ray is not installed.
            ValueError: the actors cannot load the model.
        """
        try:
            import ray
        except ImportError as error:
            raise ImportError(
                "engine=ray needs Ray Data; install it with: pip install 'hdvl[ray]'"
            ) from error
        started = not ray.is_initialized()
        if started:
            ray.init(
                address=self.address,
                include_dashboard=None if self.address else False,
                log_to_driver=False,
                runtime_env={"env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}},
            )
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            yield from self._rows(ray, job)
        except ray.exceptions.RayError as error:
            # Its text is the traceback of the actor, which ends with the reason.
            reason = str(error).strip().splitlines()[-1][:500]
            raise ValueError(
                f"an actor of engine=ray failed: {reason}; run the same command to continue"
            ) from error
        finally:
            if started:
                ray.shutdown()

    def _rows(self, ray: Any, job: Job) -> Iterator[Row]:
        blocks = max(1, min(len(job.remaining), -(-len(job.remaining) // self.batch_size)))
        numbers = ray.data.from_items(
            [{"number": number} for number in job.remaining], override_num_blocks=blocks
        )
        cfg = {**job.cfg, "engine": self.options}
        asked = numbers.map_batches(
            PipelineActor,
            fn_constructor_args=(cfg, list(job.overrides)),
            compute=ray.data.ActorPoolStrategy(size=self.actors),
            batch_size=self.batch_size,
            **self.resources,
        )
        for made in asked.iter_rows():
            row = json.loads(made["row"])
            yield Row(**row)


class PipelineActor:
    """An actor of Ray Data: holds a model and the rows, and answers the rows of given numbers.

    Args:
        cfg: the config of ``hdvl infer``.
        overrides: the arguments of its command line.
    """

    def __init__(self, cfg: Mapping[str, Any], overrides: Sequence[str]) -> None:
        self.cfg, self.overrides = cfg, overrides
        self.questions = questions_of(cfg)
        self.pipe = pipeline_of(cfg, overrides)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """The rows of ``batch["number"]``, as JSON."""
        left = [int(number) for number in batch["number"]]
        job = Job(self.cfg, self.overrides, self.questions, left)
        return {"row": [json.dumps(vars(row)) for row in answered(self.pipe, job)]}
