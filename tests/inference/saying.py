"""A pipeline whose model generates the text that the test chooses."""

from collections.abc import Iterator
from itertools import chain, cycle, repeat

import torch
from torch import Tensor

from hdvl.inference import Generation, Pipeline, Request


class Script:
    """Slots whose sequences say the rows one after the other, and then their end marker."""

    reusable, bytes_per_token = False, 0

    def __init__(self, rows: list[list[int]], vocabulary: int, end: int) -> None:
        self.rows, self.vocabulary, self.end = cycle(rows), vocabulary, end
        self.saying: dict[int, Iterator[int]] = {}

    def renew(self) -> None:
        """Nothing depends on the weights."""

    def compile(self) -> None:
        """Nothing is compiled."""

    def reserve(self, count: int, length: int) -> None:
        """Nothing is stored."""

    def release(self) -> None:
        """Nothing is stored."""

    def prefill(
        self, embeddings: Tensor, slot: int, start: int, total: int, keep: int = 1
    ) -> Tensor:
        if start + len(embeddings) == total:
            self.saying[slot] = chain(next(self.rows), repeat(self.end))
        return self._logits([slot]).expand(keep, -1)

    def prefill_rows(self, parts: list[Tensor], first: int, starts: list[int]) -> Tensor:
        raise AssertionError("nothing is reusable")

    def decode(self, embeddings: Tensor, lengths: list[int], shared: int = 0) -> Tensor:
        return self._logits(list(range(len(lengths))))

    def _logits(self, slots: list[int]) -> Tensor:
        logits = torch.full((len(slots), self.vocabulary), -1e4)
        for row, slot in enumerate(slots):
            logits[row, next(self.saying[slot])] = 0
        return logits

    def copy_out(self, slot: int, start: int, end: int) -> list[Tensor]:
        raise AssertionError("nothing is reusable")

    def copy_in(self, slot: int, start: int, parts: list[Tensor]) -> None:
        raise AssertionError("nothing is reusable")

    def move(self, source: int, target: int, length: int) -> None:
        self.saying[target] = self.saying.pop(source)


def say(pipe: Pipeline, *texts: str, end: str = "<|im_end|>") -> list[Request]:
    """Let ``pipe`` answer ``texts``, one a conversation; the requests are recorded."""
    return say_ids(
        pipe, *(pipe.tokenizer(text + end, add_special_tokens=False)["input_ids"] for text in texts)
    )


def say_ids(pipe: Pipeline, *rows: list[int]) -> list[Request]:
    """Let ``pipe`` answer these ids."""
    end = pipe.tokenizer.eos_token_id
    pipe.engine.scheduler._slots = Script(list(rows), len(pipe.tokenizer), int(end))
    calls: list[Request] = []
    submit = type(pipe.engine).submit

    def recorded(request: Request) -> Generation:
        calls.append(request)
        return submit(pipe.engine, request)

    pipe.engine.submit = recorded  # type: ignore[method-assign]
    return calls
