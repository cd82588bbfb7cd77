"""Mixtures: exact shares, shuffled epochs of every source, any position at once."""

from collections import Counter

import pytest

from hdvl.data.mixture import Mixture, interleave
from hdvl.protocols import Message


class Numbers:
    def __init__(self, name, length):
        self.name_, self.length = name, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return [Message("user", f"{self.name_}{index}"), Message("assistant", "x")]


LENGTHS = {"a": 7, "b": 100, "c": 3}


def mixture(**weights):
    weights = weights or {"a": 0.5, "b": 0.3, "c": 0.2}
    sources = {name: lambda boxes, name=name: Numbers(name, LENGTHS[name]) for name in weights}
    return Mixture(sources=sources, weights=weights)


def said(data, seed, stop, start=0):
    order = data.order(seed)
    return [data[order(position)][0].text for position in range(start, stop)]


def test_shares_are_exact_over_every_window_of_the_pattern():
    texts = said(mixture(), 0, 1000)
    for start in range(990):
        counts = Counter(text[0] for text in texts[start : start + 10])
        assert counts == {"a": 5, "b": 3, "c": 2}


@pytest.mark.parametrize("weights", [[1, 1, 1], [0.7, 0.2, 0.1], [5, 1, 1, 13], [0.123, 0.877]])
def test_any_stretch_holds_each_share_within_two(weights):
    pattern = interleave(weights) * 3
    for number, weight in enumerate(weights):
        share, prefix = weight / sum(weights), [0]
        for found in pattern:
            prefix.append(prefix[-1] + (found == number))
        drift = [count - share * place for place, count in enumerate(prefix)]
        assert max(drift) - min(drift) < 2
        assert prefix[-1] == pytest.approx(share * len(pattern), abs=1e-9)


def test_every_source_comes_in_shuffled_epochs():
    texts = said(mixture(), 4, 140)
    own = [text for text in texts if text[0] == "a"]
    epochs = [own[start : start + 7] for start in range(0, 70, 7)]
    assert all(sorted(epoch) == [f"a{i}" for i in range(7)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 5


@pytest.mark.slow
def test_any_position_follows_from_the_seed_alone():
    whole = said(mixture(), 1, 300)
    for start in (0, 1, 9, 10, 101, 299):
        assert said(mixture(), 1, 300, start) == whole[start:]
    assert said(mixture(), 2, 300) != whole
    order = mixture().order(1)
    backwards = [order(position) for position in range(299, -1, -1)]
    assert backwards[::-1] == [mixture().order(1)(position) for position in range(300)]


def test_a_source_keeps_its_order_beside_others():
    alone = said(mixture(a=1), 5, 50)
    mixed = [text for text in said(mixture(), 5, 100) if text[0] == "a"]
    assert mixed == alone


def test_without_shuffling_sources_come_in_their_own_order():
    data = mixture(a=1, c=1)
    order = data.order(0, shuffle=False)
    said = [data[order(position)][0].text for position in range(8)]
    assert said == ["a0", "c0", "a1", "c1", "a2", "c2", "a3", "c0"]


def test_names_are_the_sources_own():
    assert mixture().name(8) == "conversation 1"
    with pytest.raises(IndexError, match=r"conversation 110 is not in 0..109"):
        mixture()[110]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 0, "b": 1}, "weights must be above 0"),
        ({"a": float("nan"), "b": 1}, "weights must be above 0"),
        ({"a": 0.1234567, "b": 1}, "round them"),
    ],
)
def test_wrong_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        mixture(**weights)
    with pytest.raises(ValueError, match=r"weights must name the sources \['a'\], got \['b'\]"):
        Mixture(sources={"a": lambda boxes: Numbers("a", 1)}, weights={"b": 1})
