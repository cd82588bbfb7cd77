"""N-grams of tokenised captions, shared by CIDEr-D and BLEU."""

from collections import Counter

LONGEST = 4
NGram = tuple[str, ...]


def ngram_counts(sentence: str, longest: int = LONGEST) -> Counter[NGram]:
    """Return the number of occurrences of each n-gram of one to ``longest`` words."""
    words = sentence.split()
    sizes = range(1, longest + 1)
    return Counter(
        tuple(words[start : start + size])
        for size in sizes
        for start in range(len(words) - size + 1)
    )
