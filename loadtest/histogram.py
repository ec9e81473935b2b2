"""A log-linear histogram of non-negative integers (nanoseconds, or counts).

Geometry: values below 1024 have a bucket each; above, every power of two is cut into 512 equal buckets. A bucket is therefore
never wider than 1/512 of its lower edge, and its middle is never further than 1/1024 (0.098 %) from any value inside:
``RELATIVE_ERROR``. Counts are exact, merging adds them, and percentiles are read only from merged counts, never merged themselves.
The scheme is HdrHistogram's (log-linear buckets), with the index computed in bulk by numpy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

SUB_BITS = 9
SUB_BUCKETS = 1 << SUB_BITS
RELATIVE_ERROR = 1 / (2 * SUB_BUCKETS)
MAX_VALUE = (1 << 62) - 1
"""Largest value with a bucket (146 years of nanoseconds); larger ones are refused."""

Ints = npt.NDArray[np.int64]


def _integers(values: npt.ArrayLike) -> Ints:
    try:
        return np.asarray(values, dtype=np.int64)
    except OverflowError:
        raise ValueError(f"expected values in 0..{MAX_VALUE}, got one beyond 64 bits; clamp them and count the clamping") from None


def bucket_index(values: npt.ArrayLike) -> Ints:
    """Bucket numbers of ``values`` (int64, 0..MAX_VALUE); ValueError outside that range."""
    array = _integers(values)
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if int(array.min()) < 0 or int(array.max()) > MAX_VALUE:
        found = f"{int(array.min())}..{int(array.max())}"
        raise ValueError(f"expected values in 0..{MAX_VALUE}, got {found}; clamp them and count the clamping")
    # frexp gives the bit length. A float64 may round a large value up to the next power of two; the index comes out the same,
    # because the last bucket of a power is numbered shift * 512 + 1023 and (shift + 1) * 512 + 511 alike.
    shift = np.maximum(np.frexp(array.astype(np.float64))[1].astype(np.int64) - (SUB_BITS + 1), 0)
    index: Ints = shift * SUB_BUCKETS + (array >> shift)
    return index


_LAST_BUCKET = int(bucket_index([MAX_VALUE])[0])


def bucket_bounds(index: npt.ArrayLike) -> tuple[Ints, Ints]:
    """Lowest and highest value (inclusive) of each bucket number."""
    array = np.asarray(index, dtype=np.int64)
    shift = np.maximum(array // SUB_BUCKETS - 1, 0)
    low = (array - shift * SUB_BUCKETS) << shift
    return low, low + (np.int64(1) << shift) - 1


class Histogram:
    """Sparse counts of recorded values, with exact count, sum, minimum and maximum."""

    __slots__ = ("_counts", "count", "maximum", "minimum", "total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total = 0
        self.minimum: int | None = None
        self.maximum: int | None = None

    def record(self, values: npt.ArrayLike) -> None:
        """Add a batch of values (0..MAX_VALUE, any shape); an empty batch changes nothing."""
        array = _integers(values).ravel()
        if array.size == 0:
            return
        index, counts = np.unique(bucket_index(array), return_counts=True)
        largest = int(array.max())
        total = int(array.sum()) if largest * array.size <= MAX_VALUE else sum(array.tolist())
        self._add(index.tolist(), counts.tolist(), total, int(array.min()), largest)

    def merge(self, other: Histogram) -> None:
        """Add the counts of ``other``."""
        if other.count and other.minimum is not None and other.maximum is not None:
            self._add(list(other._counts), list(other._counts.values()), other.total, other.minimum, other.maximum)

    def add_counts(self, index: Iterable[int], counts: Iterable[int], total: int, minimum: int, maximum: int) -> None:
        """Add encoded counts, as ``encode`` gave them; ValueError when a number cannot be a bucket or a count."""
        index, counts = list(index), list(counts)
        if len(index) != len(counts) or any(not 0 <= i <= _LAST_BUCKET for i in index) or any(c <= 0 for c in counts):
            raise ValueError(f"expected a positive count for each bucket number in 0..{_LAST_BUCKET}; the encoded histogram is damaged")
        if counts:
            self._add(index, counts, total, minimum, maximum)

    def _add(self, index: list[int], counts: list[int], total: int, minimum: int, maximum: int) -> None:
        own = self._counts
        for i, c in zip(index, counts, strict=True):
            own[i] = own.get(i, 0) + c
        self.count += sum(counts)
        self.total += total
        self.minimum = minimum if self.minimum is None else min(self.minimum, minimum)
        self.maximum = maximum if self.maximum is None else max(self.maximum, maximum)

    def encode(self) -> tuple[list[int], list[int]]:
        """Bucket numbers in rising order and their counts."""
        index = sorted(self._counts)
        return index, [self._counts[i] for i in index]

    def mean(self) -> float | None:
        """Exact arithmetic mean, or None when empty."""
        return self.total / self.count if self.count else None

    def quantile(self, q: float) -> int | None:
        """Nearest-rank quantile, 0 < q <= 1, as the middle of its bucket clipped to the exact extremes; None when empty."""
        values = self.quantiles([q])
        return values[0]

    def quantiles(self, qs: Iterable[float]) -> list[int | None]:
        """Nearest-rank quantiles in the order asked for (the smallest value with at least ceil(q n) values not above it)."""
        qs = list(qs)
        if any(not 0 < q <= 1 for q in qs):
            raise ValueError(f"expected quantiles in (0, 1], got {qs}")
        if not self.count or self.minimum is None or self.maximum is None:
            return [None] * len(qs)
        index, counts = self.encode()
        cumulative = np.cumsum(np.asarray(counts, dtype=np.int64))
        out: list[int | None] = []
        for q in qs:
            # The rounding guards against 0.99 * 100 = 99.00000000000001 asking for the hundredth of a hundred.
            rank = min(self.count, max(1, math.ceil(round(q * self.count, 9))))
            if rank in (1, self.count):
                # The first and the last are known exactly.
                out.append(self.minimum if rank == 1 else self.maximum)
                continue
            low, high = bucket_bounds([index[int(np.searchsorted(cumulative, rank))]])
            out.append(min(self.maximum, max(self.minimum, (int(low[0]) + int(high[0])) // 2)))
        return out

    def count_above(self, threshold: int) -> int:
        """How many values lie in buckets whose middle is above ``threshold`` (exact up to the bucket that holds it)."""
        index, counts = self.encode()
        if not index:
            return 0
        low, high = bucket_bounds(index)
        return int(np.asarray(counts, dtype=np.int64)[(low + high) // 2 > threshold].sum())
