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
        picture_hits, picture_misses, picture_evictions, picture_bytes: cache of visual tokens.
        picture_file_hits, picture_file_evictions, picture_file_bytes: visual tokens in files, if there is a
            folder for them; the hits are among ``picture_hits``.
        prefix_hits, prefix_misses, prefix_evictions, prefix_bytes: cache of prompts.
        prefix_tokens: positions of prompts that were taken from the cache.
    """

    requests: int
    finished: dict[str, int]
    prompt_tokens: int
    new_tokens: int
    steps: int
    waiting: int
    slots_in_use: int
    slots: int
    picture_hits: int
    picture_misses: int
    picture_evictions: int
    picture_bytes: int
    prefix_hits: int
    prefix_misses: int
    prefix_evictions: int
    prefix_bytes: int
    prefix_tokens: int
    picture_file_hits: int = 0
    picture_file_evictions: int = 0
    picture_file_bytes: int = 0
