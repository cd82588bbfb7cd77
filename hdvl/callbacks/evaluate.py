"""Scores the model on a few questions of some benchmarks while it trains."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn
from torch.distributed.tensor import DTensor

from hdvl.callbacks.terminal import print_line
from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.results import result_rows, write_lines
from hdvl.evaluation.runner import Answers, Ranks, answer_samples
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.summary import HEADS, score_line, task_summary
from hdvl.evaluation.task import Task, first_questions
from hdvl.inference.pipeline import Pipeline
from hdvl.processor import Batch
from hdvl.training.module import VLMModule


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Context that leaves the modes of submodules and the states of random generators as they were."""
    modes = [(one, one.training) for one in module.modules()]
    with isolate_rng(), torch.no_grad():
        try:
            yield
        finally:
            for one, training in modes:
                one.training = training


class Evaluate(pl.Callback):
    """Answers the first questions of some tasks and logs the scores as ``evaluation/TASK``.

    It is off unless ``task`` is given. Each rank answers its share of the questions, and the first one
    scores all of them. Answers with their scores are written to ``folder/evaluation/stepN/TASK.jsonl``.
    Training is not changed by it: random states, modes and gradients are left as they were.

    Args:
        folder: the run folder.
        task: tasks by name, as in :mod:`hdvl.evaluate`.
        data_dir: folder with the files of the tasks; not needed for generated tasks.
        limit: number of questions of each task; ``None`` for all of them.
        every_n_steps: optimizer steps between two evaluations; ``None`` for one after each validation.

    Raises:
        ValueError: a number is less than 1, or a task that reads files has no ``data_dir``, or one asks a
            judge.
    """

    def __init__(
        self,
        *,
        folder: str,
        task: Mapping[str, Task] | None = None,
        data_dir: str | None = None,
        limit: int | None = 100,
        every_n_steps: int | None = None,
    ) -> None:
        self.tasks = list((task or {}).values())
        for name, value in {"limit": limit, "every_n_steps": every_n_steps}.items():
            if value is not None and value < 1:
                raise ValueError(
                    f"callbacks.evaluate.{name} must be at least 1 or null, got {value}"
                )
        for one in self.tasks:
            if one.chosen.judge is not None:
                raise ValueError(
                    f"task={one.name} asks a judge under protocol {one.protocol}, training has none; "
                    f"choose another by task.{one.name}.protocol, or another task"
                )
            if data_dir is None and not one.generated:
                raise ValueError(
                    f"callbacks.evaluate.data_dir must be given, task={one.name} reads files; it is the "
                    "folder with the files of the benchmarks"
                )
        self.folder, self.data_dir = Path(folder), Path(data_dir or ".")
        self.limit, self.every_n_steps = limit, every_n_steps
        self._samples: dict[str, list[Sample]] = {}
        self._step, self._refused = 0, False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Read the questions, so that a missing file is named before the first step."""
        for task in self.tasks:
            samples = task.samples(DataFolder(self.data_dir))
            self._samples[task.name] = list(first_questions(task, samples, self.limit))

    def on_train_start(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Begin to count at the step that a run is resumed from."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: VLMModule,
        outputs: STEP_OUTPUT,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Evaluate after every ``every_n_steps`` steps."""
        step, every = trainer.global_step, self.every_n_steps
        if every is not None and step != self._step and step % every == 0:
            self.evaluate(trainer, pl_module)
        self._step = step

    def on_validation_end(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Evaluate after each validation, unless ``every_n_steps`` is given."""
        if self.every_n_steps is None and not trainer.sanity_checking:
            self.evaluate(trainer, pl_module)

    def evaluate(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Answer, score and report all tasks. Every rank must call this."""
        if not self.tasks or self._sharded(pl_module):
            return
        ranks = Ranks(trainer.global_rank, trainer.world_size)
        with undisturbed(pl_module):
            pipe = Pipeline(model=pl_module.vlm, feature_cache=pl_module.feature_cache)
            for task in self.tasks:
                samples = self._samples[task.name]
                answers = answer_samples(
                    pipe, samples, task.chosen, None, identity="training", ranks=ranks
                )
                if trainer.is_global_zero:
                    self._report(trainer, task, samples, answers)

    def _report(
        self, trainer: pl.Trainer, task: Task, samples: list[Sample], answers: Answers
    ) -> None:
        step = trainer.global_step
        if answers.failed:
            reason = next(iter(answers.failed.values()))
            print_line(
                f"step {step}: {task.name} has no score, {len(answers.failed)} of {len(samples)} questions "
                f"could not be asked: {reason}"
            )
            return
        texts = {name: task.chosen.answer(row) for name, row in answers.rows.items()}
        scores = None if task.hidden else task.score(samples, texts)
        place = self.folder / "evaluation" / f"step{step:06}"
        place.mkdir(parents=True, exist_ok=True)
        write_lines(place / f"{task.name}.jsonl", result_rows(samples, answers.rows, scores))
        if scores is None:
            return
        for logger in trainer.loggers:
            logger.log_metrics({f"evaluation/{task.name}": scores.value}, step=step - 1)
        line = dict(
            zip(
                HEADS,
                score_line(task.name, task_summary(samples, answers.rows, scores)),
                strict=True,
            )
        )
        print_line(
            f"step {step}: {task.name} {line['metric']} {line['score']}, {line['questions']} questions, "
            f"{line['tiles/image']} tiles and {line['tokens/image']} tokens an image"
        )

    def _sharded(self, pl_module: VLMModule) -> bool:
        """Whether the weights are sharded, so that a single rank cannot generate; this is printed once."""
        sharded = any(isinstance(parameter, DTensor) for parameter in pl_module.parameters())
        if sharded and not self._refused:
            print_line("no task is evaluated: each rank holds a share of the weights")
            self._refused = True
        return sharded
