"""One sequence that is decoded: its prompt, its options and its new ids."""

import time
from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdvl.decoding.prefix_cache import Keys
from hdvl.decoding.sampler import Sampler, TokenLogprob

FinishReason = Literal["stop", "length", "cancelled", "error"]


@runtime_checkable
class Prompt(Protocol):
    """The prompt of a sequence.

    * ``length``: the number of positions.
    * ``keys``: the keys of the positions in the prefix cache; ``None`` to bypass the cache.
    * ``embeddings``: the embeddings of the positions from ``start`` on, called once.
    """

    @property
    def length(self) -> int: ...
    @property
    def keys(self) -> Keys | None: ...
    def embeddings(self, start: int) -> Float[Tensor, "s e"]: ...


class EmbeddedPrompt:
    """A prompt given by its embeddings, such as a row of a batch."""

    keys = None

    def __init__(self, embeddings: Float[Tensor, "s e"]) -> None:
        self._embeddings = embeddings

    @property
    def length(self) -> int:
        """The number of positions."""
        return len(self._embeddings)

    def embeddings(self, start: int) -> Float[Tensor, "s e"]:
        """Return the embeddings from ``start`` on."""
        return self._embeddings[start:]


class Sequence:
    """One sequence that is decoded.

    Args:
        prompt: the prompt.
        sampler: chooses its ids, and holds its options.
        stop_ids: ids that end it.
        ended: function of the new ids so far that returns whether they end here.
        targets: ids (t,) that follow the last t positions of the prompt's embeddings, position by
            position. If given, nothing is generated, and ``target_logprobs`` are computed instead.

    Attributes:
        ids: the new ids so far, the one that ended the sequence included.
        logprobs: the log-probability of each new id, if the options ask for it.
        finish_reason: why it ended; ``None`` before that.
        error: the exception, if ``finish_reason`` is ``error``.
        cached_tokens: positions of the prompt that were taken from the prefix cache.
        target_logprobs: log-probabilities (t,) of ``targets``.
        first_token_time, last_time: the times of the first and the newest id, by
            ``time.perf_counter``; ``None`` before.
    """

    def __init__(
        self,
        prompt: Prompt,
        sampler: Sampler,
        *,
        stop_ids: tuple[int, ...] = (),
        ended: Callable[[list[int]], bool] | None = None,
        targets: Int[Tensor, " t"] | None = None,
    ) -> None:
        self.prompt, self.sampler = prompt, sampler
        self.stop_ids, self.ended = frozenset(stop_ids), ended
        self.targets = targets
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: FinishReason | None = None
        self.error: Exception | None = None
        self.cancelled = False
        self.cached_tokens = 0
        self.limit = sampler.params.max_new_tokens
        self.target_logprobs: list[float] = []
        self.first_token_time: float | None = None
        self.last_time: float | None = None

    @property
    def done(self) -> bool:
        """Whether the sequence has ended."""
        return self.finish_reason is not None

    @property
    def length(self) -> int:
        """Positions that the model has read once the prompt is complete: all but the newest id."""
        return self.prompt.length + max(0, len(self.ids) - 1)

    def append(self, token: int, logprob: TokenLogprob | None) -> None:
        """Add a new id, and note whether it is the last one."""
        self.ids.append(token)
        self.last_time = time.perf_counter()
        if self.first_token_time is None:
            self.first_token_time = self.last_time
        if logprob is not None:
            self.logprobs.append(logprob)
        if token in self.stop_ids or (self.ended is not None and self.ended(self.ids)):
            self.finish("stop")
        elif len(self.ids) >= self.limit:
            self.finish("length")

    def finish(self, reason: FinishReason, error: Exception | None = None) -> None:
        """End the sequence; only the first call has an effect."""
        if self.finish_reason is None:
            self.error, self.finish_reason = error, reason

    def score(self, logits: Float[Tensor, "t v"]) -> None:
        """Set the log-probabilities of ``targets``, by the logits at their positions, and end."""
        assert self.targets is not None
        found = logits.float().log_softmax(-1)
        places = self.targets.to(found.device)[:, None]
        self.target_logprobs = torch.gather(found, 1, places)[:, 0].tolist()
        self.finish("length")
