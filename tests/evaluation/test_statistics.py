"""Standard errors, intervals and paired tests against numbers that are known."""

import math

import numpy as np
import pytest

from hdvl.evaluation.samples import Sample
from hdvl.evaluation.statistics import paired_test, uncertainty


def test_the_standard_error_of_single_questions_is_the_usual_one() -> None:
    values = {str(n): float(v) for n, v in enumerate([1, 0, 1, 1, 0, 1, 0, 1, 1, 1])}
    samples = [Sample(name, "q") for name in values]
    found = uncertainty(samples, values, scale=100)
    expected = 100 * np.std(list(values.values()), ddof=1) / math.sqrt(10)
    assert found.standard_error == pytest.approx(expected)
    assert found.low < 70 < found.high and found.groups == 10


def test_questions_about_one_image_do_not_count_as_independent() -> None:
    values = {f"{group}-{n}": float(group % 2) for group in range(6) for n in range(4)}
    samples = [Sample(name, "q", group=name.split("-")[0]) for name in values]
    clustered = uncertainty(samples, values, scale=1)
    # All questions of an image are equal, so that the error is that of six values.
    assert clustered.standard_error == pytest.approx(np.std([0, 1] * 3, ddof=1) / math.sqrt(6))
    assert clustered.groups == 6


def test_one_image_has_no_standard_error() -> None:
    found = uncertainty([Sample("a", "q")], {"a": 1.0}, scale=100)
    assert math.isnan(found.standard_error) and found.low == found.high == 100


def test_the_paired_test_is_that_of_mcnemar() -> None:
    first = {str(n): 0.0 for n in range(20)}
    second = {str(n): float(n < 8) for n in range(20)}
    first["19"] = 1.0
    found = paired_test(first, second, {}, scale=100)
    assert (found.better, found.worse, found.questions) == (8, 1, 20)
    assert found.p_value == pytest.approx(2 * (1 + 9) / 2**9)
    assert found.test == "McNemar, exact" and found.difference == pytest.approx(35)
    assert found.low <= found.difference <= found.high
    assert paired_test({"a": 0.25}, {"a": 0.5}, {}, scale=1).test == "sign test"
    with pytest.raises(ValueError, match="questions in common"):
        paired_test({"a": 1.0}, {"b": 1.0}, {}, scale=1)
