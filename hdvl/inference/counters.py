"""The counters of an engine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Counters:
    """Counts of an engine since its creation, and its current state.

    Attributes:
        requests: requests that were submitted.
        finished: the number of finished requests by finish reason.
        prompt_tokens, new_tokens: ids of finished requests.
        steps: steps of the engine.
        waiting: requests that have no slot yet.
        slots_in_use, slots: the number of sequences being decoded, and its maximum.
        image_cache_hits, image_cache_misses, image_cache_evictions, image_cache_bytes: cache of visual
            tokens.
        image_cache_file_hits, image_cache_file_evictions, image_cache_file_bytes: visual tokens in files, if
            there is a folder for them. The hits are included in ``image_cache_hits``.
        prefix_cache_hits, prefix_cache_misses, prefix_cache_evictions, prefix_cache_bytes: cache of prompts.
        prefix_cache_tokens: positions of prompts that were taken from the cache.
    """

    requests: int
    finished: dict[str, int]
    prompt_tokens: int
    new_tokens: int
    steps: int
    waiting: int
    slots_in_use: int
    slots: int
    image_cache_hits: int
    image_cache_misses: int
    image_cache_evictions: int
    image_cache_bytes: int
    prefix_cache_hits: int
    prefix_cache_misses: int
    prefix_cache_evictions: int
    prefix_cache_bytes: int
    prefix_cache_tokens: int
    image_cache_file_hits: int = 0
    image_cache_file_evictions: int = 0
    image_cache_file_bytes: int = 0
