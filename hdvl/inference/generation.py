"""Requests to the engine, and answers that are being generated."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from hdvl.decoding import FinishReason, SamplingParams, TokenLogprob
from hdvl.decoding import Sequence as Decoding
from hdvl.inference.text import Detokenizer, TextStream
from hdvl.protocols import Pixels, TilePlan


@runtime_checkable
class Runner(Protocol):
    """Protocol of the engine, which generates answers.

    * ``wait``: waits until a condition holds, and generates in the meantime if no other thread does.
    * ``wake``: wakes all waiting threads, so that they check their condition again.
    """

    def wait(self, ready: Callable[[], bool], timeout: float | None) -> None: ...
    def wake(self) -> None: ...


@dataclass(frozen=True)
class Request:
    """One question to a model, as ids and views.

    Attributes:
        ids: the prompt (s,), with the image token in the image slots.
        pixels: the views of all images.
        plans: how each image was cut, in order of appearance.
        params: the options of the answer.
        ended: function of the new ids so far that returns whether the answer ends, beside ``params``.
    """

    ids: Int[Tensor, " s"]
    pixels: Pixels
    plans: tuple[TilePlan, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    ended: Callable[[list[int]], bool] | None = None


@dataclass(frozen=True)
class ImageUsage:
    """The size of one image of a prompt in pixels, and its numbers of tiles and visual tokens.

    Attributes:
        width: in pixels.
        height: in pixels.
        tiles: tiles that the model read, the thumbnail included.
        visual_tokens: tokens of the image.
        missing_tiles: windows that were left out, because they are blank or were not selected.
    """

    width: int
    height: int
    tiles: int
    visual_tokens: int
    missing_tiles: int = 0


@dataclass(frozen=True)
class Usage:
    """Numbers of tokens, and times, of an answer.

    Attributes:
        prompt_tokens: the ids of the prompt, those of the images included.
        cached_tokens: ids of the prompt that were known from earlier prompts.
        new_tokens: the ids of the answer, its end marker included.
        images: sizes and numbers of tokens of each image.
        first_token_seconds: from the submission to the first new id; ``None`` before it.
        seconds: from the submission to the last new id, or until now.
    """

    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    images: tuple[ImageUsage, ...]
    first_token_seconds: float | None
    seconds: float


@dataclass(frozen=True)
class Delta:
    """The new text and ids of an answer and, if requested, the log-probabilities of the ids.

    The text of an id may be in a later delta than the id, because it is held back while further ids can
    change it.
    """

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]


class Generation:
    """An answer that is being generated. Its methods may be called from any thread.

    Iterating yields a :class:`Delta` whenever there is something new. If no thread steps the engine, the
    caller that waits does.

    Attributes:
        request: the request.
    """

    def __init__(
        self,
        runner: Runner,
        request: Request,
        decoding: Decoding,
        images: tuple[ImageUsage, ...],
        detokenizer: Detokenizer | None,
    ) -> None:
        self.request, self._runner, self.decoding = request, runner, decoding
        self._images, self._detokenizer = images, detokenizer
        self._stream = None if detokenizer is None else TextStream(detokenizer)
        self._lock = threading.Lock()
        self._submitted = time.perf_counter()
        self._taken = (0, "")

    @property
    def ids(self) -> list[int]:
        """A copy of the new ids so far, the one that ended the answer included."""
        return list(self.decoding.ids)

    @property
    def logprobs(self) -> list[TokenLogprob]:
        """A copy of the log-probabilities of the new ids so far, if they were asked for."""
        return list(self.decoding.logprobs)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the answer ended; ``None`` before that."""
        return self.decoding.finish_reason

    @property
    def done(self) -> bool:
        """Whether the answer is complete, cancelled or failed."""
        return self.decoding.done

    @property
    def error(self) -> Exception | None:
        """The error, if the finish reason is ``error``."""
        return self.decoding.error

    @property
    def text(self) -> str:
        """The text so far, as far as no further id can change it; the whole text if done."""
        if self._stream is None or self._detokenizer is None:
            raise ValueError("text needs a tokenizer, this model was loaded without one")
        done = self.done
        return self._text(self.ids, done)

    def _text(self, ids: list[int], done: bool) -> str:
        assert self._stream is not None and self._detokenizer is not None
        if done:
            return self._detokenizer.text(self._detokenizer.own_ids(ids))
        with self._lock:
            return self._stream.extend(ids)

    @property
    def usage(self) -> Usage:
        """Numbers of tokens, and times, so far."""
        first, last = self.decoding.first_token_time, self.decoding.last_time
        return Usage(
            prompt_tokens=self.decoding.prompt.length,
            cached_tokens=self.decoding.cached_tokens,
            new_tokens=len(self.decoding.ids),
            images=self._images,
            first_token_seconds=None if first is None else first - self._submitted,
            seconds=(last if last is not None else time.perf_counter()) - self._submitted,
        )

    def cancel(self) -> None:
        """End the answer before its next id and free its slot; nothing happens if it is done."""
        self.decoding.cancelled = True
        self._runner.wake()

    def wait(self, timeout: float | None = None) -> "Generation":
        """Wait until the answer is done, and return it.

        Raises:
            TimeoutError: it is not done after ``timeout`` seconds.
            Exception: an error of the model.
        """
        self._runner.wait(lambda: self.done, timeout)
        if self.error is not None:
            raise self.error
        return self

    def _has_more(self, seen: int) -> bool:
        return self.done or len(self.decoding.ids) > seen

    @property
    def has_news(self) -> bool:
        """Whether there are ids since the last :meth:`take`, or the answer is done."""
        return self._has_more(self._taken[0])

    def take(self) -> Delta | None:
        """Return the delta since the last call without waiting; ``None`` if there is nothing new."""
        done = self.done  # read first: what it says of the ids below is complete
        ids, logprobs = self.ids, self.logprobs
        text = "" if self._stream is None else self._text(ids, done)
        seen, sent = self._taken
        if not text.startswith(sent):
            raise RuntimeError(f"decoded text changed behind what was sent: {sent!r}, {text!r}")
        if len(ids) == seen and len(text) == len(sent):
            return None
        self._taken = len(ids), text
        return Delta(text[len(sent) :], tuple(ids[seen:]), tuple(logprobs[seen:]))

    def __iter__(self) -> Iterator[Delta]:
        """Yield deltas until the answer is done.

        Raises:
            Exception: an error of the model, after the deltas that were generated before it.
        """
        done = False
        while not done:
            self._runner.wait(partial(self._has_more, self._taken[0]), None)
            done = self.done
            delta = self.take()
            if delta is not None:
                yield delta
        if self.error is not None:
            raise self.error
