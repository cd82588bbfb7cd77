"""The uncertainty of scores: standard errors clustered by image, bootstrap intervals, and paired tests."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from hdvl.evaluation.samples import Sample
from hdvl.evaluation.scores import Resampling, ratio

RESAMPLES = 2000
CONFIDENCE = 0.95
MOST_DRAWN = 20_000
"""Groups of a mean up to which intervals are drawn; that of more groups is the normal distribution's."""
DEVIATIONS = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""Half the width of the interval of a normal distribution, in standard deviations."""
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Uncertainty:
    """Of a score.

    Attributes:
        standard_error: that of a mean clustered by the groups of its questions (Liang and Zeger, 1986), that
            of another score by the bootstrap; NaN for one group, and where all groups score alike.
        low, high: the bootstrap interval of 95 per cent, groups being drawn with replacement. Where all
            groups score alike, which a bootstrap takes for certain, it is Wilson's interval for that number
            of groups if the score is a share, otherwise NaN.
        groups: the number of groups.
    """

    standard_error: float
    low: float
    high: float
    groups: int


def group_sums(samples: Sequence[Sample], values: Mapping[str, float]) -> tuple[Array, Array]:
    """The sum of the values of each group (g,), and the number of its questions (g,)."""
    sums: dict[str, list[float]] = {}
    for sample in samples:
        if sample.id in values:
            sums.setdefault(sample.group or sample.id, []).append(values[sample.id])
    found = list(sums.values())
    return np.array([sum(one) for one in found], float), np.array(
        [len(one) for one in found], float
    )


def uncertainty(
    samples: Sequence[Sample], values: Mapping[str, float], *, scale: float, seed: int = 0
) -> Uncertainty:
    """The uncertainty of ``scale`` times the mean of ``values``.

    Needs scipy (``pip install 'hdvl[evaluation]'``).
    """
    return mean_uncertainty(*group_sums(samples, values), scale=scale, seed=seed)


def mean_uncertainty(sums: Array, counts: Array, *, scale: float, seed: int = 0) -> Uncertainty:
    """The uncertainty of ``scale`` times a mean, from the sums (g,) and counts (g,) of the groups."""
    groups, total = len(sums), counts.sum()
    if not total:
        return Uncertainty(math.nan, math.nan, math.nan, groups)
    mean = float(sums.sum() / total)
    if _alike(sums / counts):
        low, high = wilson_interval(mean, groups)
        return Uncertainty(math.nan, scale * low, scale * high, groups)
    residuals = sums - mean * counts
    error = math.sqrt(groups / (groups - 1) * float((residuals**2).sum())) / total
    if groups > MOST_DRAWN:
        half = DEVIATIONS * error
        return Uncertainty(scale * error, scale * (mean - half), scale * (mean + half), groups)
    low, high, _ = _bootstrap(ratio(1.0), (sums, counts), seed)
    return Uncertainty(scale * error, scale * low, scale * high, groups)


def resampled_uncertainty(resampling: Resampling, *, seed: int = 0) -> Uncertainty:
    """The uncertainty of a score that is not a mean over questions, by the bootstrap only.

    Needs scipy (``pip install 'hdvl[evaluation]'``).
    """
    sizes = [len(one) for one in resampling.data]
    groups = sizes[0] if resampling.paired else sum(sizes)
    low = high = error = math.nan
    if min(sizes) > 1:
        low, high, error = _bootstrap(
            resampling.statistic, resampling.data, seed, paired=resampling.paired
        )
    if min(sizes) < 2 or low == high:
        value = float(resampling.statistic(*resampling.data))
        share = value / 100 if resampling.is_share else math.nan
        low, high = (100 * bound for bound in wilson_interval(share, groups))
        error = math.nan
    return Uncertainty(error, low, high, groups)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's interval of 95 per cent for a share of ``count`` independent draws; NaN if it is no share.

    >>> [round(bound, 4) for bound in wilson_interval(1.0, 4)]
    [0.5101, 1.0]
    """
    if not 0 <= share <= 1:
        return math.nan, math.nan
    squared = DEVIATIONS**2 / count
    middle = share + squared / 2
    half = math.sqrt(squared * (share * (1 - share) + squared / 4))
    return max(0.0, (middle - half) / (1 + squared)), min(1.0, (middle + half) / (1 + squared))


def _alike(values: Array) -> bool:
    return float(np.ptp(values)) < 1e-9


def _bootstrap(
    statistic: Any, data: tuple[Array, ...], seed: int, *, paired: bool = True
) -> tuple[float, float, float]:
    """The interval of 95 per cent and the standard error."""
    from scipy.stats import bootstrap

    batch = max(1, min(RESAMPLES, 20_000_000 // sum(map(len, data))))
    found = bootstrap(
        data,
        statistic,
        n_resamples=RESAMPLES,
        batch=batch,
        paired=paired,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    interval = found.confidence_interval
    return float(interval.low), float(interval.high), float(found.standard_error)


@dataclass(frozen=True)
class PairedTest:
    """Two runs compared on the questions that both answered.

    Attributes:
        questions: how many these are.
        difference: the mean of the second run minus that of the first.
        low, high: its bootstrap interval of 95 per cent, clustered by the groups of the questions; where all
            groups change alike, what Wilson's interval for the share of changed groups allows.
        better, worse: questions on which the second run has a higher or a lower value.
        p_value: of the exact test of McNemar if all values are 0 or 1, else of a sign test on the questions
            whose values differ; both are the binomial test of ``better`` among ``better + worse``.
        test: which of the two it is.
    """

    questions: int
    difference: float
    low: float
    high: float
    better: int
    worse: int
    p_value: float
    test: str


def paired_test(
    first: Mapping[str, float],
    second: Mapping[str, float],
    groups: Mapping[str, str],
    *,
    scale: float,
    seed: int = 0,
) -> PairedTest:
    """Compare the values of two runs question by question.

    Args:
        first, second: the value of each question by its id.
        groups: the group of each question.
        scale: factor of the difference and its interval.

    Raises:
        ValueError: the runs have no question in common.
    """
    from scipy.stats import binomtest

    common = [name for name in first if name in second]
    if not common:
        raise ValueError("the runs must have questions in common, they have none; compare others")
    changes = {name: second[name] - first[name] for name in common}
    better = sum(change > 0 for change in changes.values())
    worse = sum(change < 0 for change in changes.values())
    samples = [Sample(name, "", group=groups.get(name, "")) for name in common]
    sums, counts = group_sums(samples, changes)
    mean = float(sums.sum() / counts.sum())
    if _alike(sums / counts):
        low, high = _equal_changes(mean, len(sums))
    else:
        low, high, _ = _bootstrap(ratio(1.0), (sums, counts), seed)
    binary = {*first.values(), *second.values()} <= {0.0, 1.0}
    p_value = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    test = "McNemar, exact" if binary else "sign test"
    return PairedTest(
        len(common), scale * mean, scale * low, scale * high, better, worse, p_value, test
    )


def _equal_changes(change: float, groups: int) -> tuple[float, float]:
    """The interval of a mean change if each of the groups has this change.

    Where nothing changed, the groups that may change are as many as Wilson's interval allows, either way.
    """
    low, high = wilson_interval(abs(change), groups)
    if not change:
        return -high, high
    return (low, high) if change > 0 else (-high, -low)
