"""Samples answers of the model at each validation and compares them with the expected ones."""

import json
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import lightning.pytorch as pl
from torch.distributed.tensor import DTensor

from hdvl.callbacks.loggers import show_table
from hdvl.callbacks.terminal import columns, print_line, shorten
from hdvl.callbacks.trainer import TrainingData, training_data
from hdvl.data.conversations import name_of
from hdvl.data.faults import SkippedRow, attempt
from hdvl.files import write_text
from hdvl.inference.pipeline import Pipeline
from hdvl.protocols import Conversation, Message, first_of
from hdvl.templates.base import IMAGE
from hdvl.training.module import VLMModule

HEAD = ("row", "question", "answer", "truth")


class Answers(pl.Callback):
    """Answers the first question of some validation conversations after each validation, by greedy decoding.

    Each answer is appended to ``folder/answers.jsonl`` as ``{step, row, question, answer, truth}``. The
    loggers get a table.

    Args:
        folder: the run folder.
        count: number of conversations, spread over the validation data; always the same ones.
        max_new_tokens: maximum length of an answer.
        shown: number of answers that are printed.
    """

    def __init__(
        self, *, folder: str, count: int = 4, max_new_tokens: int = 64, shown: int = 2
    ) -> None:
        if count < 1 or max_new_tokens < 1 or shown < 0:
            raise ValueError(
                "count and max_new_tokens must be at least 1 and shown at least 0, got "
                f"{count}, {max_new_tokens} and {shown}"
            )
        self.shown = shown
        self.path = Path(folder) / "answers.jsonl"
        self.count, self.max_new_tokens = count, max_new_tokens
        self._refused = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Answer on the first rank, and write the answers."""
        if not trainer.is_global_zero or self._sharded(pl_module):
            return
        data, step = training_data(trainer), trainer.global_step
        assert data.validation is not None  # validation takes place only with validation data
        chosen = readable(data, spread(len(data.validation), self.count))
        if not chosen:
            return
        prompts = [prompt_of(messages) for messages in chosen.values()]
        pipe = Pipeline(model=pl_module.vlm, feature_cache=pl_module.feature_cache)
        answers = pipe.generate(prompts, max_new_tokens=self.max_new_tokens)
        rows = [
            (name, prompt[-1].text, answer.text, messages[len(prompt)].text)
            for (name, messages), prompt, answer in zip(
                chosen.items(), prompts, answers, strict=True
            )
        ]
        append(self.path, step, rows)
        for row in rows[: self.shown]:
            print_line(answer_line(row))
        show_table(trainer.loggers, "answers", HEAD, rows, step)

    def _sharded(self, pl_module: VLMModule) -> bool:
        """Return whether the weights are sharded, so that no single rank can generate; print it once."""
        sharded = any(isinstance(parameter, DTensor) for parameter in pl_module.parameters())
        if sharded and not self._refused:
            print_line("no answers are sampled: each rank holds a share of the weights")
            self._refused = True
        return sharded


def answer_line(row: Sequence[str]) -> str:
    """A row of :data:`HEAD` on one line of the terminal."""
    _, question, answer, truth = (text.replace(IMAGE, " ") for text in row)
    compared = "right" if answer.strip() == truth.strip() else f"expected {shorten(truth, 40)!r}"
    room = columns() - len(compared) - 12
    asked = shorten(question, room // 2)
    return f"  {asked}  -> {shorten(answer, room - len(asked))!r}  {compared}"


def readable(data: TrainingData, places: Sequence[int]) -> dict[str, Sequence[Message]]:
    """Return the validation conversations at ``places`` by their names.

    Conversations that validation skips are skipped here, too, and counted together with them.
    """
    source = data.validation
    assert source is not None

    def checked(conversation: Conversation) -> Sequence[Message]:
        data.processor(conversation)
        return first_of(conversation)

    found = dict[str, Sequence[Message]]()
    for place in places:
        made = attempt(source, place, checked)
        if isinstance(made, SkippedRow):
            data.bad.record([(made.name, made.reason)])
        else:
            found[name_of(source, place)] = made
    return found


def spread(length: int, count: int) -> list[int]:
    """Return ``count`` different numbers below ``length`` at even distances.

    >>> spread(10, 4)
    [0, 2, 5, 7]
    """
    count = min(count, length)
    return [index * length // count for index in range(count)]


def prompt_of(messages: Sequence[Message]) -> list[Message]:
    """The conversation up to its first answer."""
    return list(takewhile(lambda message: message.role != "assistant", messages))


def append(path: Path, step: int, rows: Sequence[Sequence[str]]) -> None:
    """Replace the lines of ``step`` and later steps, which a resumed run repeats, by those of ``rows``."""
    old = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in old if json.loads(line)["step"] < step]
    new = [
        json.dumps({"step": step, **dict(zip(HEAD, row, strict=True))}, ensure_ascii=False)
        for row in rows
    ]
    write_text(path, "\n".join([*kept, *new]) + "\n")
