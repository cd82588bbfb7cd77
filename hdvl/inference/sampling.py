"""Options of answers; see :class:`SamplingParams`. They are made in :mod:`hdvl.decoding.sampling`."""

from hdvl.decoding.sampling import MAX_LOGPROBS, Guided, SamplingParams

__all__ = ["MAX_LOGPROBS", "Guided", "SamplingParams"]
