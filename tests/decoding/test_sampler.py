"""The options of sampling are compared with their definitions."""

import math
from collections import Counter
from typing import Any

import pytest
import torch

from hdvl.decoding import Guided, Sampler, SamplingParams

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 3.0])


def drawn(count: int = 400, **options: Any) -> Counter[int]:
    """Ids of independent answers of one id."""
    return Counter(
        Sampler(SamplingParams.of(seed=seed, **options)).choose(LOGITS)[0] for seed in range(count)
    )


def test_greedy_is_the_most_likely_id() -> None:
    assert drawn(3) == {4: 3}
    assert drawn(3, temperature=0) == {4: 3}


@pytest.mark.slow
def test_shares_are_the_probabilities() -> None:
    found = drawn(1000, temperature=1.0)
    wanted = LOGITS.softmax(0)
    assert all(abs(found[i] / 1000 - float(wanted[i])) < 0.05 for i in range(5))
    flat = drawn(500, temperature=100.0)
    assert min(flat.values()) > 60


@pytest.mark.parametrize(
    ("option", "kept"),
    [
        ({"top_k": 2}, {4, 0}),
        ({"top_p": 0.6}, {4}),  # the first id has 0.64 already
        ({"top_p": 0.7}, {4, 0}),
        ({"min_p": 0.3}, {4, 0}),  # exp(-1) = 0.37 of the largest, exp(-2) = 0.14
        ({"min_p": 1.0}, {4}),
        ({"min_p": 1.0, "top_p": 5e-324}, {4}),
        ({"temperature": 1e-30}, {4}),
        ({"temperature": 5e-324}, {4}),  # by which no logit can be divided
        ({"temperature": 1.0, "logit_bias": {2: 1e308}}, {2}),
        ({"temperature": 1.0, "logit_bias": {4: -math.inf, 0: -math.inf, 1: -math.inf}}, {2, 3}),
    ],
)
def test_ids_that_may_be_sampled(option: dict[str, Any], kept: set[int]) -> None:
    assert set(drawn(150, **option)) == kept


def test_penalties_count_the_answer() -> None:
    sampler = Sampler(SamplingParams.of(presence_penalty=1.5))
    assert [sampler.choose(LOGITS)[0] for _ in range(4)] == [4, 0, 4, 4]  # 1.5, 0.5: once alone
    sampler = Sampler(SamplingParams.of(frequency_penalty=1.5))
    assert [sampler.choose(LOGITS)[0] for _ in range(5)] == [4, 0, 4, 1, 0]
    sampler = Sampler(SamplingParams.of(repetition_penalty=4.0))
    assert [sampler.choose(LOGITS)[0] for _ in range(4)] == [4, 0, 1, 4]


def test_logprobs_are_those_of_the_model() -> None:
    token, report = Sampler(SamplingParams.of(logprobs=2, logit_bias={3: 50.0})).choose(LOGITS)
    wanted = LOGITS.log_softmax(0)
    assert token == 3 and report is not None
    assert report.logprob == pytest.approx(float(wanted[3]))
    assert [place for place, _ in report.top] == [4, 0]
    assert report.top[0][1] == pytest.approx(float(wanted[4]))


def test_without_a_seed_the_global_generator_decides() -> None:
    def said() -> list[int]:
        sampler = Sampler(SamplingParams.of(temperature=5.0))
        return [sampler.choose(LOGITS)[0] for _ in range(12)]

    torch.manual_seed(3)
    first = said()
    assert said() != first
    torch.manual_seed(3)
    assert said() == first


def test_a_form_has_one_kind() -> None:
    with pytest.raises(ValueError, match="exactly one of regex, json_schema and grammar, got none"):
        Guided()
    with pytest.raises(ValueError, match="got regex, grammar"):
        Guided(regex="a", grammar="start: /a/")
