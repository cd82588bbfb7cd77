"""Made-up rank files, and the merging rule that defines what they mean."""

import base64
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

from hdvl.llms.texts import TEXTS

Ranks = dict[bytes, int]


def learn_ranks(count: int = 200, *, seed: int | None = None) -> Ranks:
    """Bytes, then the most frequent pairs of the built-in sentences; shuffled ranks with a ``seed``.

    Shuffled, some tokens come before their parts and can never be reached by merging, and several
    ways lead to one token.
    """
    words = [[bytes([b]) for b in word.encode()] for text in TEXTS for word in text.split()]
    learnt: list[bytes] = []
    while len(learnt) < count:
        pairs = Counter(pair for word in words for pair in pairwise(word))
        best = b"".join(max(pairs, key=lambda pair: (pairs[pair], pair)))
        learnt.append(best)
        words = [_join(word, best) for word in words]
    learnt = list(dict.fromkeys(learnt))
    if seed is not None:
        random.Random(seed).shuffle(learnt)
    return {token: rank for rank, token in enumerate([*(bytes([b]) for b in range(256)), *learnt])}


def _join(word: list[bytes], token: bytes) -> list[bytes]:
    joined: list[bytes] = []
    for part in word:
        if joined and joined[-1] + part == token:
            joined[-1] = token
        else:
            joined.append(part)
    return joined


def merge_by_rank(word: bytes, ranks: Ranks) -> list[int]:
    """Ids of one word: again and again the two neighbours whose union has the lowest rank, leftmost first."""
    if word in ranks:
        return [ranks[word]]
    parts = [bytes([b]) for b in word]
    while True:
        found = [
            (ranks[a + b], place) for place, (a, b) in enumerate(pairwise(parts)) if a + b in ranks
        ]
        if not found:
            return [ranks[part] for part in parts]
        place = min(found)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def write_ranks(folder: Path, ranks: Ranks) -> Path:
    """``qwen.tiktoken`` in ``folder``, which is given back."""
    lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()]
    (folder / "qwen.tiktoken").write_bytes(b"".join(lines))
    return folder
