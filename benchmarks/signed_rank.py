"""Exact signed-rank statistics: by how much do paired differences lie above a bound, and how sure is that?

W+ is the sum of the ranks of |d| over the positive d (Wilcoxon 1945). Under the null hypothesis every sign is a fair coin, so its
distribution is counted, not approximated. Bounds are ordered Walsh averages (d_i + d_j) / 2, i <= j (Tukey 1949; Hollander and Wolfe,
Nonparametric Statistical Methods, 3.3): the number of those above a bound is W+ of d minus that bound.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def pairs(n: int) -> int:
    """The largest W+ of ``n`` differences, which is also the number of their Walsh averages."""
    return n * (n + 1) // 2


@functools.cache
def _ways(ranks: tuple[int, ...]) -> tuple[int, ...]:
    """In how many of the 2^n choices of signs the positive ones' ranks add up to 0, 1, 2, ..."""
    ways = [1] + [0] * sum(ranks)
    for rank in ranks:
        for total in range(len(ways) - 1, rank - 1, -1):
            ways[total] += ways[total - rank]
    return tuple(ways)


def tail(n: int, w: int) -> float:
    """P(W+ >= w) of ``n`` differences without ties, when every sign is a fair coin."""
    return sum(_ways(tuple(range(1, n + 1)))[max(0, w) :]) / (1 << n)


@functools.cache
def critical(n: int, alpha: float) -> int | None:
    """The smallest w with P(W+ >= w) <= alpha; None where even n(n+1)/2, all signs alike, is likelier than that."""
    reached = [w for w in range(pairs(n) + 1) if tail(n, w) <= alpha]
    return reached[0] if reached else None


def p_greater(differences: Sequence[float] | Floats, bound: float = 0.0) -> float:
    """The exact one-sided p: how likely is such a W+ of d - ``bound`` or a larger one by chance alone?

    Zeros are left out, as Wilcoxon did; tied ones share their mean rank and the distribution is counted with those ranks, so that p is
    exact with ties too. 1 where nothing is left.
    """
    shifted = np.asarray(differences, dtype=np.float64) - bound
    shifted = shifted[shifted != 0.0]
    if not shifted.size:
        return 1.0
    _, place, sizes = np.unique(np.abs(shifted), return_inverse=True, return_counts=True)
    # Doubled, mean ranks are whole numbers: the last rank of a group of ties, twice, minus its size plus one.
    doubled = (2 * np.cumsum(sizes) - sizes + 1)[place]
    w = int(doubled[shifted > 0].sum())
    return sum(_ways(tuple(sorted(doubled.tolist())))[w:]) / (1 << len(shifted))


def walsh_averages(differences: Sequence[float] | Floats) -> Floats:
    """All n(n+1)/2 averages (d_i + d_j) / 2, i <= j, in order."""
    values = np.asarray(differences, dtype=np.float64)
    i, j = np.triu_indices(values.size)
    return np.sort((values[i] + values[j]) / 2)


def estimate(differences: Sequence[float] | Floats) -> float:
    """The Hodges-Lehmann estimate of the shift: the median of the Walsh averages."""
    return float(np.median(walsh_averages(differences)))


def lower_bound(differences: Sequence[float] | Floats, alpha: float) -> float | None:
    """The shift lies above this with confidence 1 - alpha; None where so few differences cannot say so.

    It is above a tolerance exactly when W+ of d - tolerance reaches ``critical(n, alpha)``.
    """
    n = len(differences)
    w = critical(n, alpha)
    return None if w is None else float(walsh_averages(differences)[pairs(n) - w])


def upper_bound(differences: Sequence[float] | Floats, alpha: float) -> float | None:
    """The shift lies below this with confidence 1 - alpha: the mirror of ``lower_bound``."""
    mirrored = lower_bound(-np.asarray(differences, dtype=np.float64), alpha)
    return None if mirrored is None else -mirrored
