"""A model that is served: its engine in a thread of its own, and requests that wait without a thread."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from hdvl.decoding import SamplingParams
from hdvl.inference import Pipeline
from hdvl.inference.generation import Delta, Generation, Request
from hdvl.protocols import Message
from hdvl.serving.errors import APIError, bad_request
from hdvl.serving.settings import Settings

Result = TypeVar("Result")

RETRY_SECONDS = 1
_PREPARING_THREADS = 4


@dataclass(eq=False)
class _Waiter:
    """A request that waits: for what, and what tells it."""

    ready: Callable[[], bool]
    told: asyncio.Future[None]


@dataclass
class ServedModel:
    """A model under the name that clients use for it.

    Attributes:
        id: the name, the checkpoint as it was given.
        pipe: the model.
    """

    id: str
    pipe: Pipeline
    _waiters: list["_Waiter"] = field(default_factory=list)
    _open: int = 0
    _started: bool = False
    _rung: bool = False

    def start(self) -> None:
        """Let the engine run, and wake the requests of this event loop when there is something for them."""
        if self._started:
            return
        loop = asyncio.get_running_loop()
        self._threads = anyio.CapacityLimiter(_PREPARING_THREADS)

        def changed() -> None:
            # The loop may close meanwhile; nobody waits in it then.
            with suppress(RuntimeError):
                # One call wakes all that are ready, however many steps ring before it runs.
                if not self._rung and any(one.ready() for one in list(self._waiters)):
                    self._rung = True
                    loop.call_soon_threadsafe(self._wake)

        self.pipe.engine.listen(changed)
        self.pipe.engine.start()
        self._started = True

    def stop(self) -> None:
        """End the engine's thread after its current step."""
        if self._started:
            self.pipe.engine.stop()

    @property
    def healthy(self) -> bool:
        """Whether the engine runs."""
        return self.pipe.engine.running

    def _wake(self) -> None:
        self._rung = False  # first: what changes from here on rings again
        for one in self._waiters:
            if one.ready() and not one.told.done():
                one.told.set_result(None)

    def question(
        self, messages: Sequence[Message], options: dict[str, Any], *, continue_final_message: bool
    ) -> Request:
        """Cut the images of a conversation and write its ids.

        Raises:
            APIError: the conversation does not fit the model.
            ValueError: likewise, or an option does not.
        """
        request = self.pipe.request(
            messages, continue_final_message=continue_final_message, **options
        )
        self._check_length(request)
        return request

    def text_question(self, text: str, options: dict[str, Any]) -> Request:
        """Write the ids of a plain text, which is not put into the template of the model.

        Raises:
            APIError: the text does not fit the model.
            ValueError: likewise, or an option does not.
        """
        if not text:
            raise ValueError("prompt must not be empty")
        ids = self.pipe.tokenizer(text, return_tensors="pt").input_ids[0]
        if bool((ids == self.pipe.model.image_token_id).any()):
            raise ValueError("prompt must not hold the token of images; use /v1/chat/completions")
        request = Request(ids, (), (), SamplingParams.of(**options))
        self._check_length(request)
        return request

    def _check_length(self, request: Request) -> None:
        context, length = self.pipe.model.llm.context, len(request.ids)
        room = self.pipe.engine.scheduler.max_tokens
        for name, bound in (("context", context), ("room of the server's cache", room)):
            if bound is not None and length >= bound:
                raise bad_request(
                    f"the prompt must leave room in the {name}, {bound} ids, got {length}; send shorter "
                    "messages, smaller images, or max_tiles",
                    "messages",
                    "context_length_exceeded",
                )

    async def submit(
        self, questions: Callable[[], Sequence[Request]], asked: int, count: int, settings: Settings
    ) -> list[Generation]:
        """Let the engine answer questions, each ``count`` times.

        Args:
            questions: makes the questions; it reads images and runs in a thread.
            asked: the number of questions that it makes.
            count: the number of answers to each.
            settings: bounds.

        Raises:
            APIError: too many requests wait already, or a question is refused.
        """
        places = asked * count
        bound = self.pipe.engine.scheduler.max_slots + settings.max_waiting
        if self._open + places > bound:
            raise APIError(
                429,
                f"too many requests wait, at most {settings.max_waiting}; try again later",
                code="queue_full",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        made = list[Generation]()
        abandoned = threading.Event()

        def run() -> None:
            for question in questions():
                made.extend(self.pipe.engine.submit_branches(question, count))
            if abandoned.is_set():
                _cancel(made)

        self._open += places
        submitted = False
        try:
            with self.pipe.engine.expecting(places):
                await self.in_thread(run, settings.prepare_seconds)
            submitted = True
        finally:
            if not submitted:
                # A thread cannot be interrupted. One that is still at work cancels what it submits.
                abandoned.set()
                _cancel(made)
                self._open -= places
        return made

    async def in_thread(self, run: Callable[[], Result], seconds: float) -> Result:
        """What ``run`` returns, which reads images and runs in a thread.

        Raises:
            APIError: it takes longer than ``seconds`` from when it begins, or a request is refused.
        """
        async with self._threads:
            try:
                with anyio.fail_after(seconds):
                    return await anyio.to_thread.run_sync(run, abandon_on_cancel=True)
            except TimeoutError:
                raise bad_request(
                    f"reading the request took longer than {seconds:g} seconds; send smaller images or "
                    "less text",
                    "messages",
                ) from None
            except (ValueError, TypeError, OSError) as error:
                raise bad_request(str(error)) from None
            except MemoryError as error:
                raise APIError(413, str(error)) from None

    def close(self, generations: Sequence[Generation]) -> None:
        """Free the places of answers, and end those that are not complete."""
        self._open -= len(generations)
        _cancel(generations)

    async def wait(self, generations: Sequence[Generation], seconds: float) -> None:
        """Wait until all answers are complete.

        Raises:
            APIError: it takes longer than ``seconds``, or the model failed.
        """
        await self._until(
            lambda: all(generation.done for generation in generations),
            generations,
            asyncio.get_running_loop().time() + seconds,
            seconds,
        )
        for generation in generations:
            check(generation)

    async def deltas(
        self, generations: Sequence[Generation], seconds: float
    ) -> AsyncIterator[tuple[int, Delta | None, bool]]:
        """What is new of each answer as it comes: its index, what is new, and whether it is complete.

        Raises:
            APIError: it takes longer than ``seconds``, or the model failed.
        """
        end = asyncio.get_running_loop().time() + seconds
        left = dict(enumerate(generations))
        while left:
            await self._until(
                lambda: any(generation.has_news for generation in left.values()),
                generations,
                end,
                seconds,
            )
            for index, generation in list(left.items()):
                done = generation.done
                delta = generation.take()
                if done:
                    check(generation)
                    del left[index]
                if delta is not None or done:
                    yield index, delta, done

    async def _until(
        self,
        ready: Callable[[], bool],
        generations: Sequence[Generation],
        end: float,
        seconds: float,
    ) -> None:
        """Wait until ``ready``, which the thread of the engine asks after each of its steps."""
        waiter = _Waiter(ready, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            if (
                not ready()
            ):  # checked after the request was submitted to the engine, so that no step is missed
                async with asyncio.timeout_at(end):
                    await waiter.told
        except TimeoutError:
            raise self._late(generations, seconds) from None
        finally:
            self._waiters.remove(waiter)

    def _late(self, generations: Sequence[Generation], seconds: float) -> APIError:
        if not any(generation.ids for generation in generations):
            return APIError(
                503,
                f"the request waited longer than {seconds:g} seconds for its turn; try again later",
                code="busy",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        return APIError(
            504,
            f"the answer took longer than {seconds:g} seconds; ask for fewer tokens",
            code="timeout",
        )


def _cancel(generations: Sequence[Generation]) -> None:
    for generation in generations:
        generation.cancel()  # nothing happens if it is done


def check(generation: Generation) -> None:
    """Raise what went wrong with an answer.

    Raises:
        APIError: with status 400 if the request is to blame, else 500.
    """
    error = generation.error
    if isinstance(error, ValueError):
        raise bad_request(str(error))
    if error is not None:
        raise APIError(
            500, f"the model failed: {type(error).__name__}; try again", code="model_error"
        )
