"""Whether an answer is sampled: what the options of a question say together."""

import math
from collections.abc import Mapping
from typing import Any

NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
"""Values that leave the model's probabilities as they are."""


def sampling_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with ``do_sample`` decided; those that are ``None`` count as not given.

    A temperature above 0 means sampling, as in other servers, and so does a ``top_p`` or ``top_k`` that
    leaves tokens out; a temperature of 0 means the likeliest token. ``do_sample`` says it outright.

    Raises:
        ValueError: an option is out of its range, or ``do_sample`` contradicts the others.
    """
    given = {name: value for name, value in options.items() if value is not None}
    _check_ranges(given)
    narrow = {name for name in NEUTRAL if given.get(name, NEUTRAL[name]) != NEUTRAL[name]}
    temperature = given.get("temperature")
    sample = given.pop("do_sample", None)
    if sample is None:
        sample = temperature > 0 if temperature is not None else bool(narrow)
    elif sample and temperature == 0:
        raise ValueError(
            "temperature=0 takes the likeliest token, which do_sample=True contradicts; give a "
            "temperature above 0, or leave do_sample out"
        )
    elif not sample and narrow - ({"temperature"} if temperature == 0 else set()):
        said = ", ".join(f"{name}={given[name]}" for name in NEUTRAL if name in narrow)
        raise ValueError(
            f"do_sample=False takes the likeliest token, which {said} contradicts; leave one out"
        )
    if not sample:
        return {"do_sample": False} | {k: v for k, v in given.items() if k not in NEUTRAL}
    floats = [name for name in ("temperature", "top_p") if name in given]
    return {"do_sample": True, **given, **{str(name): float(given[name]) for name in floats}}


def _check_ranges(given: Mapping[str, Any]) -> None:
    temperature, top_p, top_k = (given.get(name, value) for name, value in NEUTRAL.items())
    for name, value in (("temperature", temperature), ("top_p", top_p)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be a number of at least 0, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 0:
        raise ValueError(f"top_k must be a whole number of at least 0 (0 for all), got {top_k}")
