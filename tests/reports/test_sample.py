"""Percentiles and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from loadtest.histogram import RELATIVE_ERROR, Histogram
from reports.sample import MINIMUM_BATCHES, Sample, conversation_effect, rank, sample_rows, student_t


def one_stratum(batches: int) -> np.ndarray:
    return np.zeros(batches, np.int64)


@pytest.mark.parametrize("freedom", [4, 5, 7, 12, 29, 200])
def test_t_quantile_is_that_of_scipy(freedom: int) -> None:
    assert student_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-3)


def test_t_quantile_refuses_too_few_batches() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        student_t(3)


def test_rank_is_nearest_rank() -> None:
    # 0.99 * 100 is 99.00000000000001 in floating point, and must not ask for the hundredth.
    assert [rank(q, 100) for q in (0.001, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=300), st.floats(0.001, 1.0))
def test_quantile_of_rows_is_that_of_the_histogram(values: list[int], q: float) -> None:
    histogram = Histogram()
    histogram.record(values)
    exact = sample_rows(values, np.zeros(len(values)), one_stratum(1)).quantile(q)
    assert histogram.quantile(q) == pytest.approx(exact, rel=RELATIVE_ERROR, abs=1)


def test_empty_sample_has_no_figures() -> None:
    empty = sample_rows([], [], one_stratum(1))
    assert (empty.n, empty.mean, empty.quantile(0.5), empty.estimate(0.5)) == (0, None, None, None)


def test_absent_values_are_left_out() -> None:
    assert sample_rows([1.0, np.nan, 3.0], [0, 0, 0], one_stratum(1)).mean == 2.0


def test_no_interval_from_too_few_batches() -> None:
    batches = MINIMUM_BATCHES - 1
    values = np.arange(1000.0)
    estimate = sample_rows(values, values % batches, one_stratum(batches)).estimate(0.5)
    assert estimate is not None
    assert (estimate.low, estimate.high) == (None, None)


def test_interval_of_independent_values_is_about_the_binomial_one() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=20_000)
    estimate = sample_rows(values, rng.integers(0, 30, 20_000), one_stratum(30)).estimate(0.5)
    assert estimate is not None
    assert estimate.low is not None
    assert estimate.high is not None
    half = (estimate.high - estimate.low) / 2
    assert half == pytest.approx(1.96 * np.sqrt(np.pi / 2 / 20_000), rel=0.6)


def clustered(rng: np.random.Generator, batches: int, tokens: int) -> Sample:
    """Tokens of conversations that each have their own speed, ten conversations a batch."""
    speed = rng.normal(size=(batches, 10, 1))
    values = speed + rng.normal(scale=0.3, size=(batches, 10, tokens))
    return sample_rows(values.ravel(), np.repeat(np.arange(batches), 10 * tokens), one_stratum(batches))


def test_interval_covers_the_truth_although_tokens_are_clustered() -> None:
    rng = np.random.default_rng(11)
    truth, spread = 0.0, np.sqrt(1 + 0.3**2)
    hits = {0.5: 0, 0.9: 0}
    for _ in range(300):
        sample = clustered(rng, 20, 50)
        for q in hits:
            estimate = sample.estimate(q)
            assert estimate is not None
            known = truth + spread * stats.norm.ppf(q)
            hits[q] += (estimate.low is None or estimate.low <= known) and (estimate.high is None or known <= estimate.high)
    # Nominal 95 % of 300 is 285; counting every token as independent would cover about 20 %.
    assert all(count >= 270 for count in hits.values()), hits


def test_strata_keep_steps_out_of_the_spread() -> None:
    rng = np.random.default_rng(2)
    step = np.repeat(np.arange(10), 500) >= 5
    values = rng.normal(size=5000) + 100 * step
    batch = np.repeat(np.arange(10), 500)
    together = sample_rows(values, batch, one_stratum(10)).estimate(0.4)
    apart = sample_rows(values, batch, (np.arange(10) >= 5).astype(np.int64)).estimate(0.4)
    assert together is not None
    assert apart is not None
    # Without strata the interval reaches from one step into the other.
    assert together.high is not None
    assert together.high > 90
    assert apart.high is not None
    assert apart.high < 3


def test_a_bound_that_the_data_do_not_set_is_unknown() -> None:
    estimate = sample_rows(np.arange(50.0), np.arange(50) % 5, one_stratum(5)).estimate(0.99)
    assert estimate is not None
    assert estimate.high is None
    assert estimate.low is not None


def test_same_data_give_the_same_interval_in_any_order() -> None:
    rng = np.random.default_rng(3)
    values, batch = rng.integers(0, 20, 900).astype(float), rng.integers(0, 9, 900)
    order = rng.permutation(900)
    one = sample_rows(values, batch, one_stratum(9)).estimate(0.9)
    assert one == sample_rows(values[order], batch[order], one_stratum(9)).estimate(0.9)


@pytest.mark.parametrize(("own_speed", "expected"), [(0.0, 1.0), (10.0, 50.0)])
def test_design_effect_of_conversations(own_speed: float, expected: float) -> None:
    rng = np.random.default_rng(4)
    tokens = 100 + own_speed * rng.normal(size=(400, 1)) + 0.1 * rng.normal(size=(400, 50))
    whole = sample_rows(tokens.ravel(), np.zeros(tokens.size), one_stratum(1))
    # Tokens that are all alike within a conversation are worth one each conversation.
    assert conversation_effect(np.full(400, 50), tokens.mean(axis=1), whole) == pytest.approx(expected, abs=1.5)


def test_design_effect_without_conversations_is_one() -> None:
    assert conversation_effect([], [], sample_rows([1.0], [0], one_stratum(1))) == 1.0
