"""Decoding: from the embeddings of prompts to new ids, for many sequences at once.

This package deals with language models only, not with images or text; :mod:`hdvl.inference` adds these.
"""

from hdvl.decoding.batch import end_ids, generate, guide_of
from hdvl.decoding.sampler import Sampler, TokenLogprob
from hdvl.decoding.sampling import Guided, SamplingParams
from hdvl.decoding.scheduler import Scheduler
from hdvl.decoding.sequence import EmbeddedPrompt, FinishReason, Prompt, Sequence

__all__ = [
    "EmbeddedPrompt",
    "FinishReason",
    "Guided",
    "Prompt",
    "Sampler",
    "SamplingParams",
    "Scheduler",
    "Sequence",
    "TokenLogprob",
    "end_ids",
    "generate",
    "guide_of",
]
