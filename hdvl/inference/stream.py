"""The text of one answer, piece by piece."""

from collections.abc import Callable, Iterator

from hdvl.inference.answer import Answer
from hdvl.inference.generation import Generation


class AnswerStream:
    """Iterator over the pieces of an answer's text; joined they are ``answer.text``.

    Errors of the model are raised by the iterator. Leaving the iteration early ends the generation before
    its next id.

    Args:
        generation: the answer that is being generated.
        finish: converts it to the complete answer.
    """

    def __init__(self, generation: Generation, finish: Callable[[Generation], Answer]) -> None:
        self._generation, self._finish = generation, finish
        self._answer: Answer | None = None
        self._started = False

    @property
    def answer(self) -> Answer:
        """The complete answer, after the last piece."""
        if self._answer is None:
            raise ValueError("the answer is there when the stream was read to its end")
        return self._answer

    def __iter__(self) -> Iterator[str]:
        if self._started:
            raise ValueError("a stream can be read once; call stream(...) again")
        self._started = True
        return self._read()

    def _read(self) -> Iterator[str]:
        try:
            for delta in self._generation:
                if delta.text:
                    yield delta.text
            self._answer = self._finish(self._generation)
        finally:
            self._generation.cancel()  # nothing happens if it is done
