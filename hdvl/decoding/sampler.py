"""Choosing the next id of one answer from its logits."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hdvl.decoding.guidance import Guide
from hdvl.decoding.sampling import SamplingParams

_LOW_TEMPERATURE = 1e-6
"""Below it, logits divided by the temperature may be infinite."""


@dataclass(frozen=True)
class TokenLogprob:
    """The log-probability of a new id, before penalties, bias and temperature.

    Attributes:
        token_id: the id.
        logprob: its natural logarithm of probability.
        top: (id, log-probability) of the most likely ids, as many as were requested.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the ids of one answer. Its random numbers depend only on its own seed.

    Args:
        params: the options of the answer.
        guide: restricts the text to a form; ``None`` for free text.
    """

    def __init__(self, params: SamplingParams, guide: Guide | None = None) -> None:
        self.params, self.guide = params, guide
        self._counts: dict[int, int] = {}
        self._generator: torch.Generator | None = None
        if params.do_sample:
            self._generator = torch.Generator()
            seed = params.seed
            # Without a seed the global generator is used, so that torch.manual_seed has an effect.
            self._generator.manual_seed(
                int(torch.randint(2**62, ()).item()) if seed is None else seed
            )

    def choose(self, logits: Float[Tensor, " v"]) -> tuple[int, TokenLogprob | None]:
        """Return the next id, and its log-probability if the options ask for it.

        Raises:
            ValueError: the form of guided text allows no id.
        """
        logits = logits.float()
        scores = self._penalised(logits)
        if self.guide is not None:
            scores = self.guide.masked(scores)
        token = self._drawn(scores) if self.params.do_sample else int(scores.argmax())
        self._counts[token] = self._counts.get(token, 0) + 1
        if self.guide is not None:
            self.guide.accept(token)
        return token, self._report(logits, token)

    def _penalised(self, logits: Tensor) -> Tensor:
        params = self.params
        if self._counts and (
            params.repetition_penalty != 1.0 or params.frequency_penalty or params.presence_penalty
        ):
            seen = torch.tensor(list(self._counts), device=logits.device)
            counts = torch.tensor(list(self._counts.values()), device=logits.device)
            own = logits[seen]
            strength = params.repetition_penalty
            own = torch.where(own > 0, own / strength, own * strength)
            own = own - params.presence_penalty - params.frequency_penalty * counts
            logits = logits.index_put((seen,), own)
        if params.logit_bias:
            places = torch.tensor(list(params.logit_bias), device=logits.device)
            values = torch.tensor(list(params.logit_bias.values()), device=logits.device)
            if int(places.max()) >= len(logits):
                raise ValueError(
                    f"ids of logit_bias must be below the {len(logits)} rows of the vocabulary, got "
                    f"{int(places.max())}"
                )
            # Infinite numbers would have no probabilities; minus infinity excludes an id.
            most = torch.finfo(logits.dtype).max
            logits = logits.index_add(0, places, values.float()).clamp(max=most)
        return logits

    def _drawn(self, scores: Tensor) -> int:
        """Sample an id by inverse transform sampling: one uniform number, ids sorted by probability."""
        params = self.params
        if params.temperature is not None and params.temperature < _LOW_TEMPERATURE:
            scores = scores - scores.max()  # 0 at the most likely ids, which no division changes
        temperature = 1.0 if params.temperature is None else params.temperature
        scores = scores / max(temperature, torch.finfo(scores.dtype).tiny)
        if params.top_k and params.top_k < len(scores):
            ordered, ids = scores.topk(params.top_k)
        else:
            ordered, ids = scores.sort(descending=True, stable=True)
        shares = ordered.double().softmax(0)
        if params.min_p:
            shares = torch.where(shares >= params.min_p * shares[0], shares, 0.0)
        sums = shares.cumsum(0)
        if params.top_p < 1:  # the first id that reaches top_p is the last one that may be drawn
            kept = sums - shares < params.top_p * sums[-1]
            kept[0] = True  # the product may be 0
            shares = torch.where(kept, shares, 0.0)
            sums = shares.cumsum(0)
        drawn = torch.rand((), dtype=torch.float64, generator=self._generator).to(sums.device)
        place = int(torch.searchsorted(sums, drawn * sums[-1], right=True))
        last = int(shares.nonzero()[-1])  # rounding may lead past the last one
        return int(ids[min(place, last)])

    def _report(self, logits: Tensor, token: int) -> TokenLogprob | None:
        count = self.params.logprobs
        if count is None:
            return None
        found = logits.log_softmax(0)
        best, ids = found.topk(min(count, len(found)))
        top = tuple(zip(ids.tolist(), best.tolist(), strict=True))
        own = float(found[token])
        return TokenLogprob(token, own if math.isfinite(own) else -math.inf, top)
