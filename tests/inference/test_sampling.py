"""Options that only sampling uses turn it on, or are refused; none is ignored."""

import math
from typing import Any

import pytest

from hdvl.inference.sampling import SamplingParams


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({}, {"do_sample": False}),
        ({"temperature": 0.7}, {"do_sample": True, "temperature": 0.7}),
        ({"temperature": 1.0}, {"do_sample": True, "temperature": 1.0}),
        ({"temperature": 3, "top_p": 1}, {"do_sample": True, "temperature": 3.0, "top_p": 1.0}),
        ({"temperature": 0}, {"do_sample": False}),
        ({"temperature": 0.0, "top_p": 0.9, "top_k": 5}, {"do_sample": False}),
        ({"top_p": 0.9}, {"do_sample": True, "top_p": 0.9}),
        ({"top_k": 5}, {"do_sample": True, "top_k": 5}),
        ({"top_p": 1.0, "top_k": 0}, {"do_sample": False}),
        ({"do_sample": True}, {"do_sample": True}),
        ({"do_sample": True, "top_k": 5}, {"do_sample": True, "top_k": 5}),
        ({"do_sample": False, "temperature": 0}, {"do_sample": False}),
        ({"do_sample": False, "temperature": 1.0, "top_p": 1.0}, {"do_sample": False}),
        (
            {"do_sample": None, "temperature": None, "max_new_tokens": 3},
            {"do_sample": False, "max_new_tokens": 3},
        ),
    ],
)
def test_what_is_sampled(given: dict[str, Any], options: dict[str, Any]) -> None:
    found = SamplingParams.of(**given)
    for name, value in options.items():
        assert getattr(found, name) == value


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": -0.5}, "temperature must be a number of at least 0, got -0.5"),
        ({"temperature": math.nan}, "temperature must be a number of at least 0, got nan"),
        ({"temperature": math.inf}, "temperature must be a number of at least 0, got inf"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"top_k": -1}, "top_k must be a whole number of at least 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1, got 0"),
        ({"min_p": 1.5}, "min_p must be between 0 and 1, got 1.5"),
        ({"repetition_penalty": 0}, "repetition_penalty must be above 0, got 0"),
        ({"frequency_penalty": math.inf}, "frequency_penalty must be a finite number, got inf"),
        ({"logprobs": 21}, "logprobs must be at most 20, got 21"),
        ({"seed": 2**64}, "seed must be a whole number of 64 bits"),
        ({"stop": [""]}, "stop strings must not be empty"),
        (
            {"do_sample": True, "temperature": 0},
            "temperature=0 takes the likeliest token, which do",
        ),
        (
            {"do_sample": False, "temperature": 0.7, "top_k": 5},
            "do_sample=False takes the likeliest token, which temperature=0.7, top_k=5 contradicts",
        ),
    ],
)
def test_contradictions_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingParams.of(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": "0.7"}, "temperature must be a number, got '0.7'"),
        ({"top_p": True}, "top_p must be a number, got True"),
        ({"top_k": 2.5}, "top_k must be a whole number, got 2.5"),
        ({"max_new_tokens": "3"}, "max_new_tokens must be a whole number, got '3'"),
        ({"do_sample": "yes"}, "do_sample must be true or false, got 'yes'"),
        ({"num_beams": 3}, "got num_beams; answers are sampled or greedy, there is no beam search"),
        ({"logit_bias": [1]}, "logit_bias must map ids to numbers"),
        ({"stop_ids": ["a"]}, "each of stop_ids must be a whole number, got 'a'"),
        ({"guided": "a+"}, "guided must be a Guided, got 'a\\+'"),
    ],
)
def test_values_of_another_kind(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        SamplingParams.of(**given)
