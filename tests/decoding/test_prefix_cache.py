"""The longest common prefix is found, within the limit of memory."""

import numpy as np
import pytest
import torch

from hdvl.decoding.prefix_cache import PrefixCache, common_length


def keys(text: str) -> np.ndarray:
    found = np.zeros((len(text), 2), np.int64)
    found[:, 0] = [ord(letter) for letter in text]
    return found


def keep(cache: PrefixCache, text: str) -> None:
    start = cache.known(keys(text))
    values = torch.tensor([float(ord(letter)) for letter in text[start:]])
    cache.insert(keys(text), start, [values[None, :, None].clone()])


def found(cache: PrefixCache, text: str, most: int = 100) -> str:
    pieces = cache.lookup(keys(text), most)
    assert all(count == parts[0].shape[1] for count, parts in pieces)
    return "".join(chr(int(value)) for _, (part,) in pieces for value in part[0, :, 0])


def test_the_longest_common_prefix_is_found() -> None:
    cache = PrefixCache(4 * 1000)
    for text in ("the cat sat", "the cat ran", "a dog", "the", "the cat sat down"):
        keep(cache, text)
    assert cache.bytes == 4 * len("the cat satrana dog down")  # what is shared is kept once
    assert found(cache, "the cat sang") == "the cat sa"
    assert found(cache, "the cat sat down", most=13) == "the cat sat d"
    assert found(cache, "a cow") == "a "
    assert found(cache, "zebra") == ""
    assert (cache.hits, cache.misses, cache.tokens_reused) == (3, 1, 10 + 13 + 2)


def test_the_least_recently_used_go_first() -> None:
    cache = PrefixCache(4 * 12)
    for text in ("one...", "two...", "one...", "axe..."):
        found(cache, text)
        keep(cache, text)
    assert found(cache, "one...") == "one..." and found(cache, "axe...") == "axe..."
    assert found(cache, "two...") == ""
    assert cache.evictions == 1 and cache.bytes <= 48
    keep(cache, "x" * 13)  # larger than the bound: not kept
    assert found(cache, "xx") == "" and cache.bytes <= 48
    cache.clear()
    assert cache.bytes == 0 and found(cache, "one...") == ""


def test_keys_hold_two_numbers() -> None:
    cache = PrefixCache(1000)
    keep(cache, "ab")
    other = keys("ab")
    other[1, 1] = 5  # the same first number, of an image
    assert cache.known(other) == 1


def test_nothing_is_kept_without_room() -> None:
    cache = PrefixCache(0)
    keep(cache, "abc")
    assert cache.known(keys("abc")) == 0
    with pytest.raises(ValueError, match="must be at least 0, got -3"):
        PrefixCache(-3)


def test_prompts_have_their_first_positions_in_common() -> None:
    cases = [
        (["the cat", "the cow", "the cats"], 5),
        (["a", "b"], 0),
        (["abc", "abc"], 3),
        (["abc"], 0),
    ]
    for texts, length in cases:
        assert common_length([keys(text) for text in texts]) == length
    assert common_length([keys("abc"), None]) == 0
