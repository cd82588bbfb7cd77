"""Options that only sampling reads mean sampling, or are refused; none is ignored."""

import math
from typing import Any

import pytest

from hdvl.inference.sampling import sampling_options


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
    found = sampling_options(given)
    assert found == options
    assert all(type(found[name]) is float for name in ("temperature", "top_p") if name in found)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": -0.5}, "temperature must be a number of at least 0, got -0.5"),
        ({"temperature": math.nan}, "temperature must be a number of at least 0, got nan"),
        ({"temperature": math.inf}, "temperature must be a number of at least 0, got inf"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"top_k": -1}, "top_k must be a whole number of at least 0"),
        ({"top_k": 2.5}, "top_k must be a whole number of at least 0"),
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
        sampling_options(given)


@pytest.mark.parametrize("given", [{"temperature": "0.7"}, {"top_p": True}])
def test_values_that_are_no_numbers(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(TypeError, match=f"{name} must be a number, got"):
        sampling_options(given)
