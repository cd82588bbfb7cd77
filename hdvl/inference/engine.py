"""The engine: one way to make tokens, for one question, a stream, a batch or a server.

Requests of different lengths, images and options are answered together (continuous batching, see
:mod:`hdvl.decoding.scheduler`). An image is encoded once: its visual tokens are kept by content, and so are
the keys and values of prompts, which the next turn of a chat, other questions about the same images
and further answers to the same question begin with.

Names follow vLLM where it has them: ``SamplingParams``, ``Request``, ``finish_reason``, ``logprobs``. An
answer that is being generated is a :class:`~hdvl.inference.generation.Generation`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from queue import Empty, SimpleQueue

from jaxtyping import Int
from torch import Tensor

from hdvl.decoding import Sampler, Scheduler, end_ids, guide_of
from hdvl.decoding import Sequence as Decoding
from hdvl.inference.counters import Counters
from hdvl.inference.generation import Generation, ImageUsage, Request
from hdvl.inference.image_cache import ImageCache, WeightsWatch
from hdvl.inference.image_prompt import ImagePrompt
from hdvl.inference.text import Detokenizer
from hdvl.model import VLM
from hdvl.protocols import FeatureCache

IMAGE_CACHE_BYTES = 512 * 2**20
"""Bytes of visual tokens that an engine keeps by default."""

PREFIX_BYTES = 1024 * 2**20
"""Bytes of keys and values of prompts that an engine keeps by default."""


class Engine:
    """Answers requests to one model. All methods may be called from any thread.

    Without :meth:`start`, whoever waits for an answer steps the engine for all.

    Args:
        model: the model, in evaluation mode.
        max_slots: the most requests that are answered together.
        max_tokens: the most positions of all slots together, which bounds the memory of keys and values;
            ``None`` for no bound. Requests wait until there is room.
        prefill_chunk: the most positions of prompts that one step reads, between two tokens of the
            answers that are being generated.
        image_cache_bytes: the most bytes of visual tokens that are kept; 0 keeps none.
        prefix_cache_bytes: the most bytes of keys and values of prompts that are kept; 0 keeps none.
        compile: compile decoding steps by ``torch.compile``, which takes about a minute at the first answer.
            Only for models on a CUDA device. Without it the steps there are CUDA graphs all the same.
        feature_cache: cache of encoder features, for images whose visual tokens are not kept.
        gather_seconds: how long an idle engine of :meth:`start` waits for requests that are being prepared
            (:meth:`expecting`), so that they are answered together with the first one.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        model: VLM,
        *,
        max_slots: int = 8,
        max_tokens: int | None = None,
        prefill_chunk: int = 2048,
        image_cache_bytes: int = IMAGE_CACHE_BYTES,
        prefix_cache_bytes: int = PREFIX_BYTES,
        compile: bool = False,
        feature_cache: FeatureCache | None = None,
        gather_seconds: float = 0.1,
    ) -> None:
        if gather_seconds < 0:
            raise ValueError(f"gather_seconds must be at least 0, got {gather_seconds}")
        self.gather_seconds, self._expected = gather_seconds, 0
        self.model, self.feature_cache = model, feature_cache
        self.image_cache = ImageCache(image_cache_bytes)
        self.scheduler = Scheduler(
            model.llm,
            max_slots=max_slots,
            max_tokens=max_tokens,
            prefill_chunk=prefill_chunk,
            prefix_cache_bytes=prefix_cache_bytes,
            compile=compile,
        )
        self._inbox: SimpleQueue[Generation] = SimpleQueue()
        self._open: list[Generation] = []
        self._stepping, self._changed = threading.Lock(), threading.Condition()
        self._count, self._turn = 0, 0
        self._finished: dict[str, int] = {}
        self._tokens = (0, 0)
        self._weights = WeightsWatch(model)
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever something changed, from the thread that steps. It must not wait."""
        self._listeners.append(listener)

    def submit(self, request: Request) -> Generation:
        """Let ``request`` be answered, and return its answer at once, before it is generated.

        Raises:
            ValueError: the prompt does not fit its images, or an option does not fit the model.
        """
        generation = self._generation(request)
        self._inbox.put(generation)
        self.wake()
        return generation

    @contextmanager
    def expecting(self, count: int) -> Iterator[None]:
        """Context in which ``count`` requests are prepared and submitted."""
        with self._changed:
            self._expected += count
        try:
            yield
        finally:
            with self._changed:
                self._expected -= count
            self.wake()

    def submit_branches(self, request: Request, count: int) -> list[Generation]:
        """Let ``request`` be answered ``count`` times; the prompt is read once.

        The seed of each answer is that of the request plus its index.
        """
        if count < 1:
            raise ValueError(f"count of answers must be at least 1, got {count}")
        seed = request.params.seed
        return [
            self.submit(
                request
                if seed is None
                else replace(request, params=replace(request.params, seed=seed + index))
            )
            for index in range(count)
        ]

    def score(self, request: Request, targets: int) -> list[float]:
        """Return the log-probabilities of the last ``targets`` ids of a prompt, each after those before.

        Nothing is generated. Raises what :meth:`submit` raises.
        """
        if not 1 <= targets < len(request.ids):
            raise ValueError(
                f"targets must be at least 1 and leave an id before them, got {targets} of "
                f"{len(request.ids)} ids"
            )
        given = replace(request, ids=request.ids[:-1])
        generation = self._generation(given, request.ids[-targets:])
        self._inbox.put(generation)
        self.wake()
        return generation.wait().decoding.target_logprobs

    def _generation(self, request: Request, targets: Int[Tensor, " t"] | None = None) -> Generation:
        prompt = ImagePrompt(
            self.model,
            request.ids,
            request.pixels,
            request.plans,
            self.image_cache,
            self.feature_cache,
        )
        params, tokenizer = request.params, self.model.llm.tokenizer
        detokenizer = None
        if tokenizer is not None:
            detokenizer = Detokenizer.of(tokenizer, self.model.template, tuple(params.stop))
        if params.stop_ids is not None:
            stop_ids = tuple(params.stop_ids)
        else:
            stop_ids = end_ids(self.model.llm) if detokenizer is None else detokenizer.end_ids
        ended = request.ended
        if detokenizer is not None and params.stop:
            ended = _either(ended, detokenizer.just_stopped)
        decoding = Decoding(
            prompt,
            Sampler(params, guide_of(self.model.llm, params, stop_ids)),
            stop_ids=stop_ids,
            ended=ended,
            targets=targets,
        )
        images = tuple(
            ImageUsage(plan.width, plan.height, plan.count, count, plan.missing)
            for plan, count in zip(request.plans, prompt.counts, strict=True)
        )
        return Generation(self, request, decoding, images, detokenizer)

    def step(self) -> bool:
        """Do one step: read some of the prompts that wait, and one token of each answer.

        Returns:
            Whether there is more to do.
        """
        with self._stepping:
            return self._step()

    def _step(self) -> bool:
        arrived = False
        while True:
            try:
                generation = self._inbox.get_nowait()
            except Empty:
                break
            arrived = True
            self._open.append(generation)
            self.scheduler.add(generation.decoding)
        if arrived:
            self._check_weights()
        more = self.scheduler.step()
        still = [generation for generation in self._open if not generation.done]
        if len(still) < len(self._open):
            for generation in self._open:
                if generation.done:
                    self._note(generation)
            self._open = still
        self.wake()
        return more or not self._inbox.empty()

    def _note(self, generation: Generation) -> None:
        reason = str(generation.finish_reason)
        self._finished[reason] = self._finished.get(reason, 0) + 1
        read, new = self._tokens
        decoding = generation.decoding
        self._tokens = read + decoding.prompt.length, new + len(decoding.ids)
        self._count += 1

    def _check_weights(self) -> None:
        """Forget what was computed with other weights."""
        if self._weights.changed():
            self.image_cache.clear()
            self.scheduler.renew()

    def run_until_done(self) -> None:
        """Step until every request is answered."""
        self.wait(lambda: self._inbox.empty() and not self._open and self.scheduler.idle, None)

    def wait(self, ready: Callable[[], bool], timeout: float | None) -> None:
        """Wait until ``ready``; step the engine meanwhile if no other thread does.

        Raises:
            TimeoutError: ``timeout`` seconds have passed.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while not ready():
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"the answer was not ready after {timeout} seconds")
            turn = self._turn
            if self._thread is None and self._stepping.acquire(blocking=False):
                try:
                    if not ready():
                        self._step()
                finally:
                    self._stepping.release()
                continue
            with self._changed:
                if turn == self._turn and not ready():
                    self._changed.wait(0.05)

    def wake(self) -> None:
        """Tell all waiting threads that something changed."""
        with self._changed:
            self._turn += 1
            self._changed.notify_all()
        for listener in self._listeners:
            listener()

    def start(self) -> None:
        """Step in a thread of the engine's own, as a server needs it, until :meth:`stop`."""
        if self._thread is not None:
            raise ValueError("the engine runs already")
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="hdvl-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread of :meth:`start` after its current step; requests stay where they are."""
        thread, self._stopping = self._thread, True
        self.wake()
        if thread is not None:
            thread.join()
        self._thread = None

    @property
    def running(self) -> bool:
        """Whether the thread of :meth:`start` is alive."""
        return self._thread is not None and self._thread.is_alive()

    def _loop(self) -> None:
        try:
            while not self._stopping:
                self._gather()
                turn = self._turn
                if not self.step():
                    with self._changed:
                        if turn == self._turn - 1 and not self._stopping and self._inbox.empty():
                            self._changed.wait(0.5)
        finally:  # after an error too, so that those who wait step for themselves and see it
            self._thread = None
            self.wake()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let no step run meanwhile, so that the caller can use the model."""
        with self._stepping:
            yield

    def _gather(self) -> None:
        """Wait for requests that are being prepared, if there is only a new request to begin with.

        Short answers would otherwise be generated one after the other, as their requests arrive.
        """
        if self._open or self._inbox.empty():
            return
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._stopping
                    or self._expected == 0
                    or self._inbox.qsize() >= self.scheduler.max_slots
                ),
                self.gather_seconds,
            )

    def clear_caches(self) -> None:
        """Free the visual tokens and the prompts that are kept, and the slots if none is in use."""
        with self._stepping:
            self.image_cache.clear()
            self.scheduler.release()

    @property
    def counters(self) -> Counters:
        """What the engine has done and is doing."""
        scheduler, images, prefixes = self.scheduler, self.image_cache, self.scheduler.prefixes
        waiting = self._inbox.qsize() + len(scheduler.waiting)
        return Counters(
            requests=self._count + waiting + scheduler.active,
            finished=dict(self._finished),
            prompt_tokens=self._tokens[0],
            new_tokens=self._tokens[1],
            steps=scheduler.steps,
            waiting=waiting,
            slots_in_use=scheduler.active,
            slots=scheduler.max_slots,
            image_cache_hits=images.hits,
            image_cache_misses=images.misses,
            image_cache_evictions=images.evictions,
            image_cache_bytes=images.bytes,
            prefix_cache_hits=prefixes.hits,
            prefix_cache_misses=prefixes.misses,
            prefix_cache_evictions=prefixes.evictions,
            prefix_cache_bytes=prefixes.bytes,
            prefix_cache_tokens=prefixes.tokens_reused,
            **images.in_files,
        )


def _either(
    first: Callable[[list[int]], bool] | None, second: Callable[[list[int]], bool]
) -> Callable[[list[int]], bool]:
    if first is None:
        return second
    return lambda ids: first(ids) or second(ids)
