"""Standard errors, intervals and paired tests against numbers that are known."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from hdvl.evaluation.samples import Sample
from hdvl.evaluation.scores import Resampling, ratio
from hdvl.evaluation.statistics import paired_test, resampled_uncertainty, uncertainty


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


@pytest.mark.parametrize(("value", "count"), [(1.0, 1), (1.0, 12), (0.0, 12), (1.0, 30_000)])
def test_groups_that_score_alike_have_the_interval_of_wilson(value: float, count: int) -> None:
    names = [str(number) for number in range(count)]
    found = uncertainty(
        [Sample(name, "q") for name in names], dict.fromkeys(names, value), scale=100
    )
    wilson = binomtest(round(value * count), count).proportion_ci(0.95, method="wilson")
    assert math.isnan(found.standard_error)
    assert (found.low, found.high) == pytest.approx((100 * wilson.low, 100 * wilson.high))


def test_values_that_are_no_shares_have_no_interval_if_they_are_alike() -> None:
    found = uncertainty([Sample("a", "q"), Sample("b", "q")], {"a": 3.0, "b": 3.0}, scale=1)
    assert math.isnan(found.low) and math.isnan(found.high)


def test_other_scores_that_are_drawn_alike_are_not_certain() -> None:
    every = (np.ones(5), np.ones(5))
    share = resampled_uncertainty(Resampling(every, ratio(), is_share=True))
    assert (share.low, share.high) == pytest.approx((100 * 5 / (5 + 1.96**2), 100), rel=1e-4)
    other = resampled_uncertainty(Resampling(every, ratio()))
    assert math.isnan(other.low) and math.isnan(other.standard_error)


def test_equal_runs_may_still_differ() -> None:
    same = {str(number): float(number % 2) for number in range(10)}
    found = paired_test(same, same, {}, scale=1)
    assert found.difference == 0 and -found.low == found.high == pytest.approx(0.2775, abs=1e-4)
    wrong, right = (dict.fromkeys(same, value) for value in (0.0, 1.0))
    gained, lost = (paired_test(*pair, {}, scale=1) for pair in ((wrong, right), (right, wrong)))
    assert (gained.low, gained.high) == pytest.approx((0.7225, 1), abs=1e-4)
    assert (lost.low, lost.high) == pytest.approx((-1, -0.7225), abs=1e-4)


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
