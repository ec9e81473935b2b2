"""Percentiles with an honest interval: weighted values in batches of time, nearest rank, cluster-robust confidence.

Why batches of time: tokens of one conversation are correlated, and a hiccup of server or machine strikes many conversations at
once. Batches of whole seconds, each at least as long as a typical conversation, carry both kinds of clustering; a bootstrap over
conversations would carry the first alone. The interval is Woodruff's: the standard error of the share of values at or below the
percentile is estimated between batches, and the percentiles at that share plus and minus t standard errors are read from the data
(R. S. Woodruff, "Confidence intervals for medians and other position measures", JASA 47, 1952; the ratio estimator after
L. Kish, "Survey Sampling", 1965). It draws no random numbers: the same data give the same interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
"""Every interval is a two-sided 95 % interval."""
MINIMUM_BATCHES = 5
"""Below five batches the t quantile is so wide, and the estimate of spread so poor, that no interval is stated."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def student_t(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Two-sided quantile of Student's t, freedom >= 4 (Abramowitz and Stegun 26.7.5; within 0.1 % there)."""
    if freedom < MINIMUM_BATCHES - 1:
        raise ValueError(f"expected at least {MINIMUM_BATCHES - 1} degrees of freedom, got {freedom}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    series = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / float(freedom) ** power for power, term in enumerate(series, start=1))


def rank(q: float, n: int) -> int:
    """Nearest rank of the q-quantile among n values, 1..n (as ``Histogram.quantiles``)."""
    return min(n, max(1, math.ceil(round(q * n, 9))))


@dataclass(frozen=True, slots=True)
class Estimate:
    """One percentile in the metric's unit; ``low`` or ``high`` is None where the data set no bound there."""

    q: float
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Sample:
    """Values in rising order with counts, the batch of each (-1: in no batch), and the stratum of each batch.

    Strata keep intended changes (the steps of a ladder) out of the spread between batches. ``total``, ``minimum`` and ``maximum``
    are exact also where values are the middles of histogram buckets.
    """

    values: Floats
    counts: Ints
    batch: Ints
    strata: Ints
    total: float
    minimum: float
    maximum: float

    @property
    def n(self) -> int:
        """How many values."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float | None:
        """Exact arithmetic mean; None when empty."""
        return self.total / self.n if self.n else None

    def quantile(self, q: float) -> float | None:
        """Nearest-rank quantile, clipped to the exact extremes; None when empty."""
        return self._at_rank(rank(q, self.n), np.cumsum(self.counts)) if self.n else None

    def _at_rank(self, wanted: int, cumulative: Ints) -> float:
        if wanted in (1, int(cumulative[-1])):
            # The first and the last are known exactly.
            return self.minimum if wanted == 1 else self.maximum
        position = int(np.searchsorted(cumulative, wanted))
        return float(min(self.maximum, max(self.minimum, self.values[position])))

    def variance(self) -> float:
        """Population variance of the values (bucket middles where they come from histograms)."""
        n = self.n
        mean = float((self.values * self.counts).sum()) / n if n else 0.0
        return float((self.counts * (self.values - mean) ** 2).sum()) / n if n else 0.0

    def estimate(self, q: float) -> Estimate | None:
        """The q-quantile, and its 95 % interval; None when empty."""
        n = self.n
        if not n:
            return None
        cumulative = np.cumsum(self.counts)
        wanted = rank(q, n)
        value = self._at_rank(wanted, cumulative)
        # Of equal values all lie at or below the percentile.
        position = int(np.searchsorted(self.values, self.values[np.searchsorted(cumulative, wanted)], "right")) - 1
        error, freedom = self.share_error(position, int(cumulative[position]) / n)
        if error is None or freedom < MINIMUM_BATCHES - 1:
            return Estimate(q, value, None, None)
        # Batches that happen to agree must not promise more than independent values could give.
        reach = student_t(freedom) * max(error, math.sqrt(q * (1 - q) / n))
        low = self._at_rank(rank(q - reach, n), cumulative) if q - reach > 0 else None
        high = self._at_rank(rank(q + reach, n), cumulative) if q + reach < 1 else None
        return Estimate(q, value, low, high)

    def share_error(self, position: int, share: float) -> tuple[float | None, int]:
        """Standard error of the share of values up to ``position``, between batches within strata, and its degrees of freedom."""
        batches = len(self.strata)
        if batches < 2:
            return None, 0
        inside = self.batch >= 0
        sizes = np.bincount(self.batch[inside], weights=self.counts[inside], minlength=batches)
        head = inside[: position + 1]
        below = np.bincount(self.batch[: position + 1][head], weights=self.counts[: position + 1][head], minlength=batches)
        residual = below - share * sizes
        members = np.bincount(self.strata)
        centre = np.bincount(self.strata, weights=residual) / np.maximum(members, 1)
        spread = np.bincount(self.strata, weights=(residual - centre[self.strata]) ** 2)
        inflation = np.where(members > 1, members / np.maximum(members - 1, 1), 0.0)
        freedom = int(np.maximum(members - 1, 0).sum())
        if freedom < 1 or not sizes.sum():
            return None, 0
        return math.sqrt(float((spread * inflation).sum())) / float(sizes.sum()), freedom


def sample_rows(values: npt.ArrayLike, batch: npt.ArrayLike, strata: Ints) -> Sample:
    """A sample of exact values, one a row; NaN rows are left out."""
    array = np.asarray(values, dtype=np.float64)
    batches = np.asarray(batch, dtype=np.int64)
    present = ~np.isnan(array)
    array, batches = array[present], batches[present]
    order = np.argsort(array)
    array, batches = array[order], batches[order]
    if not len(array):
        return Sample(array, np.zeros(0, np.int64), batches, strata, 0.0, 0.0, 0.0)
    return Sample(array, np.ones(len(array), np.int64), batches, strata, float(array.sum()), float(array[0]), float(array[-1]))


def conversation_effect(sizes: npt.ArrayLike, means: npt.ArrayLike, whole: Sample) -> float:
    """Design effect of whole conversations on the mean: 1 + (m - 1) rho, rho by one-way analysis of variance (Kish 1965, 5.4).

    ``sizes``: gaps in each conversation, ``means``: their mean (tpot), ``whole``: all gaps. At least 1.
    """
    size, mean = np.asarray(sizes, dtype=np.float64), np.asarray(means, dtype=np.float64)
    sound = (size > 0) & ~np.isnan(mean)
    size, mean = size[sound], mean[sound]
    clusters, total = len(size), float(size.sum())
    if clusters < 2 or total <= clusters:
        return 1.0
    grand = float((size * mean).sum()) / total
    between = float((size * (mean - grand) ** 2).sum())
    within = max(0.0, whole.variance() * total - between) / (total - clusters)
    typical = (total - float((size**2).sum()) / total) / (clusters - 1)
    mean_between = between / (clusters - 1)
    spread = mean_between + (typical - 1) * within
    rho = (mean_between - within) / spread if spread > 0 else 0.0
    return max(1.0, 1 + (float((size**2).sum()) / total - 1) * max(0.0, rho))
