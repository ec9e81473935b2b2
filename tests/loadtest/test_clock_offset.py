"""Two machines' clocks from the four instants of an exchange: the truth is always within the stated uncertainty."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loadtest.clock_offset import Offset, exchange, narrowest

OFFSETS = st.integers(-(10**12), 10**12)
WAYS = st.integers(0, 10**9)


@given(OFFSETS, WAYS, WAYS, WAYS)
def test_the_truth_is_within_the_uncertainty(offset: int, there: int, held: int, back: int) -> None:
    master = 10**15
    sent = master - there + offset
    returned = master + held + back + offset
    found = exchange(sent, master, master + held, returned)
    assert found is not None
    assert abs(found.offset_ns - offset) <= found.uncertainty_ns
    assert found.uncertainty_ns == (there + back + 1) // 2


def test_equal_ways_leave_no_error() -> None:
    assert exchange(1000, 51_000, 52_000, 3_000) == Offset(-49_500, 500)


def test_a_clock_that_was_set_meanwhile_says_nothing() -> None:
    assert exchange(1000, 500, 400, 2000) is None
    assert exchange(1000, 500, 5000, 2000) is None


def test_the_narrowest_counts() -> None:
    assert narrowest([Offset(5, 100), Offset(7, 10), Offset(9, 50)]) == Offset(7, 10)
    assert narrowest([]) is None
