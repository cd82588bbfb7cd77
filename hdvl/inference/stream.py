"""Text as it is generated: the model runs in a thread, the pieces come out of an iterator."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from torch import Tensor

from hdvl.inference.answer import Answer
from hdvl.inference.text import Detokenizer


class _StoppedError(RuntimeError):
    """Nobody reads any more: ends the generation from within."""


class _Pieces:
    """Takes ids as transformers hands them to its streamers, and queues the text that is stable."""

    def __init__(self, detokenizer: Detokenizer, queue: "SimpleQueue[str | None]") -> None:
        self.detokenizer, self.queue = detokenizer, queue
        self.ids: list[int] = []
        self.sent = ""
        self.unread = False

    def put(self, value: Tensor) -> None:
        """New ids; the first call brings the prompt's, of which there are none with embeddings."""
        if self.unread:
            raise _StoppedError
        self.ids += value.flatten().tolist()
        self._send(self.detokenizer.stable_prefix(self.ids))

    def end(self) -> None:
        """The answer is complete."""
        self._send(self.detokenizer.text(self.detokenizer.own_ids(self.ids)))

    def _send(self, text: str) -> None:
        if not text.startswith(self.sent):
            raise RuntimeError(
                f"decoded text changed behind what was sent: {self.sent!r}, {text!r}"
            )
        if len(text) > len(self.sent):
            self.queue.put(text[len(self.sent) :])
            self.sent = text


class AnswerStream:
    """Pieces of an answer's text, once; joined they are ``answer.text``.

    An error of the model comes out of the iterator. Leaving the iteration early ends the generation
    at its next token.
    """

    def __init__(self, run: Callable[[Any], Answer], detokenizer: Detokenizer) -> None:
        self._run, self._detokenizer = run, detokenizer
        self._answer: Answer | None = None
        self._started = False

    @property
    def answer(self) -> Answer:
        """The whole answer, after the last piece."""
        if self._answer is None:
            raise ValueError("the answer is there when the stream was read to its end")
        return self._answer

    def __iter__(self) -> Iterator[str]:
        if self._started:
            raise ValueError("a stream can be read once; call stream(...) again")
        self._started = True
        return self._read()

    def _read(self) -> Iterator[str]:
        queue: SimpleQueue[str | None] = SimpleQueue()
        pieces = _Pieces(self._detokenizer, queue)
        with ThreadPoolExecutor(1, thread_name_prefix="hdvl-stream") as pool:
            future: Future[Answer] = pool.submit(self._run, pieces)
            future.add_done_callback(lambda _: queue.put(None))  # also when it failed: no hang
            try:
                while (piece := queue.get()) is not None:
                    yield piece
            finally:
                pieces.unread = True
            self._answer = future.result()
