"""The exact test: the table of critical values, agreement with enumeration and with scipy, bounds that decide as the test does."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.signed_rank import critical, estimate, lower_bound, p_greater, pairs, tail, upper_bound, walsh_averages

FAIL = 0.01 / 9
PASS = 0.05 / 3


@pytest.mark.parametrize(
    ("blocks", "fail", "lower_place", "passing", "upper_place"),
    [(10, 55, 1, 49, 7), (20, 184, 27, 162, 49), (30, 377, 89, 336, 130)],
)
def test_the_table_of_the_three_looks(blocks: int, fail: int, lower_place: int, passing: int, upper_place: int) -> None:
    assert critical(blocks, FAIL) == fail
    assert critical(blocks, PASS) == passing
    d = np.random.default_rng(blocks).normal(size=blocks)
    averages = walsh_averages(d)
    assert len(averages) == pairs(blocks)
    assert lower_bound(d, FAIL) == averages[lower_place - 1]
    assert upper_bound(d, PASS) == averages[-upper_place]


def test_too_few_blocks_can_never_tell() -> None:
    assert [n for n in range(1, 12) if critical(n, FAIL) is not None] == [10, 11]
    assert lower_bound([0.5] * 9, FAIL) is None
    assert upper_bound([0.5] * 5, PASS) is None
    # With a fourth gate, 10 blocks could never fail.
    assert critical(10, 0.01 / 12) is None


def test_the_distribution_against_all_signs() -> None:
    for n in range(1, 11):
        sums = [sum(rank for rank, up in enumerate(signs, start=1) if up) for signs in itertools.product((False, True), repeat=n)]
        for w in range(pairs(n) + 2):
            assert tail(n, w) == sum(total >= w for total in sums) / 2**n


@pytest.mark.parametrize("n", [10, 20, 30])
def test_p_agrees_with_scipy(n: int) -> None:
    draw = np.random.default_rng(7 + n)
    for shift in (-0.3, 0.0, 0.2, 1.0):
        d = draw.normal(shift, 1.0, n)
        expected = stats.wilcoxon(d - 0.02, alternative="greater", method="exact").pvalue
        assert p_greater(d, 0.02) == pytest.approx(expected, rel=1e-12)


def test_p_is_exact_with_ties_too() -> None:
    d = np.array([1.0, 1.0, -1.0, 2.0, 2.0, 3.0, -3.0, 4.0, 0.0])
    kept = d[d != 0]
    ranks = stats.rankdata(np.abs(kept))
    w = ranks[kept > 0].sum()
    sums = [sum(r for r, up in zip(ranks, signs, strict=True) if up) for signs in itertools.product((False, True), repeat=len(kept))]
    assert p_greater(d) == sum(total >= w for total in sums) / 2 ** len(kept)


def test_nothing_to_rank_says_nothing() -> None:
    assert p_greater([]) == 1.0
    assert p_greater([0.02, 0.02], 0.02) == 1.0


@given(st.lists(st.floats(-1, 1), min_size=10, max_size=30, unique_by=abs), st.floats(-0.5, 0.5))
def test_a_bound_decides_as_the_test_does(d: list[float], tolerance: float) -> None:
    averages = walsh_averages(d)
    # Where an average stands on the tolerance itself, or two differences tie about it, rounding decides.
    gaps = np.abs(np.subtract.outer(np.abs(np.array(d) - tolerance), np.abs(np.array(d) - tolerance)))
    if np.abs(averages - tolerance).min() < 1e-9 or gaps[np.triu_indices(len(d), 1)].min() < 1e-9:
        return
    for alpha in (FAIL, PASS):
        low, high = lower_bound(d, alpha), upper_bound(d, alpha)
        assert low is not None
        assert high is not None
        assert (low > tolerance) == (p_greater(d, tolerance) <= alpha)
        assert (high < tolerance) == (p_greater(-np.array(d), -tolerance) <= alpha)
        assert low <= estimate(d) <= high


def test_the_estimate_shifts_with_the_data() -> None:
    d = np.random.default_rng(3).normal(size=20)
    assert estimate(d + 0.1) == pytest.approx(estimate(d) + 0.1)
    assert estimate(-d) == pytest.approx(-estimate(d))
