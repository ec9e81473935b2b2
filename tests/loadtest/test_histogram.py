"""Histograms: exact where they promise it, within the stated error elsewhere, and the same however the values were shared out."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.histogram import MAX_VALUE, RELATIVE_ERROR, SUB_BUCKETS, Histogram, bucket_bounds, bucket_index

# Every order of magnitude equally often, with the edges of the powers of two among them.
VALUES = st.one_of(
    st.integers(0, 2 * SUB_BUCKETS),
    st.integers(0, 61).flatmap(lambda bits: st.integers(1 << bits, (2 << bits) - 1)),
    st.builds(lambda bits, off: max(0, min(MAX_VALUE, (1 << bits) + off)), st.integers(0, 62), st.integers(-2, 2)),
)
BATCHES = st.lists(st.lists(VALUES, max_size=20), max_size=6)


def made_of(*batches: list[int]) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.record(batch)
    return histogram


def merged(*parts: Histogram) -> Histogram:
    whole = Histogram()
    for part in parts:
        whole.merge(part)
    return whole


def contents(histogram: Histogram) -> tuple[object, ...]:
    return histogram.encode(), histogram.count, histogram.total, histogram.minimum, histogram.maximum


# -- geometry ----------------------------------------------------------------------------------------------------------


@given(VALUES)
def test_a_value_lies_in_its_own_bucket_and_in_no_other(value: int) -> None:
    index = int(bucket_index([value])[0])
    low, high = (int(bound[0]) for bound in bucket_bounds([index]))
    assert low <= value <= high
    if index:
        assert int(bucket_bounds([index - 1])[1][0]) == low - 1


@given(VALUES)
def test_the_middle_of_a_bucket_is_within_the_stated_error(value: int) -> None:
    low, high = (int(bound[0]) for bound in bucket_bounds(bucket_index([value])))
    assert abs((low + high) // 2 - value) <= Fraction(value) * Fraction(RELATIVE_ERROR)


def test_buckets_follow_one_another_without_a_gap() -> None:
    last = int(bucket_index([MAX_VALUE])[0])
    low, high = bucket_bounds(np.arange(last + 1))
    assert low[0] == 0
    assert np.array_equal(low[1:], high[:-1] + 1)
    assert high[-1] == MAX_VALUE
    assert np.array_equal(bucket_index(low), np.arange(last + 1))
    assert np.array_equal(bucket_index(high), np.arange(last + 1))


def test_small_values_are_exact() -> None:
    assert np.array_equal(bucket_index(np.arange(1024)), np.arange(1024))
    assert bucket_index([]).size == 0


@pytest.mark.parametrize("values", [[-1], [MAX_VALUE + 1], [5, -7], [1 << 63], [1 << 80]])
def test_values_without_a_bucket_are_refused_and_nothing_is_recorded(values: list[int]) -> None:
    histogram = made_of([5])
    with pytest.raises(ValueError, match=f"expected values in 0..{MAX_VALUE}"):
        histogram.record(values)
    with pytest.raises(ValueError, match="clamp them and count the clamping"):
        bucket_index(values)
    assert contents(histogram) == contents(made_of([5]))


# -- counting and merging ----------------------------------------------------------------------------------------------


@given(BATCHES)
def test_count_sum_and_extremes_are_exact(batches: list[list[int]]) -> None:
    histogram, flat = made_of(*batches), [value for batch in batches for value in batch]
    assert histogram.count == len(flat)
    assert histogram.total == sum(flat)
    assert (histogram.minimum, histogram.maximum) == ((min(flat), max(flat)) if flat else (None, None))
    assert histogram.mean() == (sum(flat) / len(flat) if flat else None)
    assert sum(histogram.encode()[1]) == len(flat)


def test_the_sum_of_a_batch_may_exceed_sixty_four_bits() -> None:
    histogram = made_of([MAX_VALUE] * 5)
    assert histogram.total == 5 * MAX_VALUE
    assert histogram.mean() == float(MAX_VALUE)
    assert histogram.quantile(0.5) == MAX_VALUE


@given(BATCHES)
def test_how_values_are_shared_out_makes_no_difference(batches: list[list[int]]) -> None:
    at_once = made_of([value for batch in batches for value in batch])
    assert contents(made_of(*batches)) == contents(at_once)
    assert contents(merged(*(made_of(batch) for batch in batches))) == contents(at_once)


@given(*[st.lists(VALUES, max_size=20)] * 3)
def test_merging_is_commutative_and_associative(a: list[int], b: list[int], c: list[int]) -> None:
    x, y, z = made_of(a), made_of(b), made_of(c)
    assert contents(merged(x, y)) == contents(merged(y, x))
    assert contents(merged(merged(x, y), z)) == contents(merged(x, merged(y, z)))
    assert contents(merged(x, Histogram())) == contents(x)
    # What was merged is as it was.
    assert contents(x) == contents(made_of(a))


@given(BATCHES)
def test_encoded_counts_give_the_same_histogram_again(batches: list[list[int]]) -> None:
    whole = Histogram()
    for part in (made_of(batch) for batch in batches):
        index, counts = part.encode()
        assert index == sorted(set(index))
        whole.add_counts(index, counts, part.total, part.minimum or 0, part.maximum or 0)
    assert contents(whole) == contents(made_of(*batches))


@pytest.mark.parametrize(
    ("index", "counts"),
    [
        ([-1], [1]),  # no such bucket
        ([int(bucket_index([MAX_VALUE])[0]) + 1], [1]),  # beyond the last
        ([3], [0]),  # a bucket without a value is not written
        ([3], [-2]),
        ([3, 4], [1]),
        ([], [1]),
    ],
)
def test_damaged_counts_are_refused(index: list[int], counts: list[int]) -> None:
    histogram = made_of([7])
    with pytest.raises(ValueError, match="damaged"):
        histogram.add_counts(index, counts, 3, 3, 3)
    assert contents(histogram) == contents(made_of([7]))


def test_arrays_of_any_shape_are_batches() -> None:
    histogram = Histogram()
    histogram.record(np.array([[1, 2], [3, 4]], dtype=np.int32))
    assert contents(histogram) == contents(made_of([1, 2, 3, 4]))


# -- quantiles ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 1023), min_size=1, max_size=60), st.integers(1, 64))
def test_small_values_have_the_nearest_rank_that_numpy_has(values: list[int], sixty_fourths: int) -> None:
    q = sixty_fourths / 64  # no rounding on the way to a rank
    assert made_of(values).quantile(q) == np.quantile(values, q, method="inverted_cdf")


@given(st.lists(VALUES, min_size=1, max_size=60), st.sampled_from(["0.5", "0.9", "0.95", "0.99", "0.999", "0.07", "0.29", "1"]))
def test_any_value_has_the_nearest_rank_within_the_stated_error(values: list[int], q: str) -> None:
    true = sorted(values)[math.ceil(Fraction(q) * len(values)) - 1]
    found = made_of(values).quantile(float(q))
    assert found is not None
    assert abs(found - true) <= Fraction(true) * Fraction(RELATIVE_ERROR)
    assert min(values) <= found <= max(values)


@pytest.mark.parametrize("q", ["0.07", "0.29", "0.57", "0.58", "0.9", "0.95", "0.99", "0.999"])
@pytest.mark.parametrize("n", [100, 1000])
def test_a_product_that_is_a_whole_number_is_the_rank_itself(n: int, q: str) -> None:
    # 0.07 * 100 is 7.000000000000001 to a computer, and the eighth of a hundred is not the seventh.
    assert made_of(list(range(1, n + 1))).quantile(float(q)) == math.ceil(Fraction(q) * n)


def test_the_last_quantile_is_the_exact_maximum() -> None:
    histogram = made_of([3, 123_456_789, 987_654_321])
    assert histogram.quantiles([1.0, 0.001]) == [987_654_321, 3]


def test_an_empty_histogram_has_no_quantiles() -> None:
    assert Histogram().quantiles([0.5, 1.0]) == [None, None]
    assert Histogram().quantile(0.5) is None
    assert Histogram().mean() is None
    assert Histogram().count_above(0) == 0


@pytest.mark.parametrize("q", [0.0, -0.5, 1.0001, float("nan")])
def test_quantiles_outside_their_range_are_refused(q: float) -> None:
    with pytest.raises(ValueError, match=r"expected quantiles in \(0, 1\]"):
        made_of([1]).quantile(q)


@given(st.lists(st.integers(0, 1023), max_size=40), st.integers(0, 1023))
def test_how_many_lie_above_a_threshold(values: list[int], threshold: int) -> None:
    assert made_of(values).count_above(threshold) == sum(value > threshold for value in values)


def test_count_above_decides_a_bucket_by_its_middle() -> None:
    histogram = made_of([1_000_000] * 3 + [2_000_000] * 2)
    assert histogram.count_above(1_500_000) == 2
    assert histogram.count_above(999_000) == 5
