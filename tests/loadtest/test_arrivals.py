"""Arrivals: exact, seeded, dealt out once each; stops drawn as asked; paces kept."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.arrivals import SECOND_NS, Pacing, Stop, StopPlan, constant, deal, poisson


@pytest.mark.parametrize("rate", [1.0, 3.0, 7.0, 0.3, 1234.5, 50_000.0])
def test_constant_arrivals_do_not_drift(rate: float) -> None:
    millionth = next(islice(constant(rate), 1_000_000, None))
    assert abs(millionth - Fraction(10**6) * SECOND_NS / Fraction(rate)) <= 1


def test_constant_arrivals_begin_at_once_and_are_evenly_spaced() -> None:
    assert list(islice(constant(4), 4)) == [0, 250_000_000, 500_000_000, 750_000_000]
    assert {b - a for a, b in pairwise(islice(constant(3), 1000))} == {333_333_333, 333_333_334}


def test_poisson_arrivals_are_those_of_their_seed() -> None:
    assert list(islice(poisson(10, 1), 100)) == list(islice(poisson(10, 1), 100))
    assert list(islice(poisson(10, 1), 100)) != list(islice(poisson(10, 2), 100))


def test_poisson_arrivals_have_the_rate_and_the_spread_of_chance() -> None:
    n = 40_000
    instants = list(islice(poisson(200, 7), n))
    gaps = [b - a for a, b in pairwise([0, *instants])]
    assert min(gaps) >= 0
    mean = sum(gaps) / n
    assert mean == pytest.approx(SECOND_NS / 200, rel=0.02)
    # An exponential gap has the standard deviation of its mean, and exceeds it with probability 1/e.
    assert (sum((gap - mean) ** 2 for gap in gaps) / n) ** 0.5 == pytest.approx(mean, rel=0.03)
    assert sum(gap > mean for gap in gaps) / n == pytest.approx(0.3679, abs=0.01)


@given(st.integers(1, 9), st.integers(0, 100))
def test_each_arrival_is_dealt_to_one_worker(workers: int, n: int) -> None:
    whole = list(islice(constant(3), n))
    parts = [list(deal(iter(whole), worker, workers)) for worker in range(workers)]
    assert sorted(instant for part in parts for instant in part) == whole
    assert all(part == sorted(part) for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("worker", "workers"), [(-1, 2), (2, 2), (0, 0)])
def test_a_worker_that_is_not_there_gets_nothing(worker: int, workers: int) -> None:
    with pytest.raises(ValueError, match=r"expected a worker in 0\.\."):
        next(deal(constant(1), worker, workers))


def drawn(plan: StopPlan, n: int = 20_000, seed: int = 3) -> list[Stop | None]:
    draw = random.Random(seed)
    return [plan.draw(draw) for _ in range(n)]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_of_stops_is_the_one_asked_for(share: float) -> None:
    stops = drawn(StopPlan(share, tokens=(2, 8)))
    assert sum(stop is not None for stop in stops) / len(stops) == pytest.approx(share, abs=0.01 if 0 < share < 1 else 0)


def test_stops_after_tokens_reach_both_ends_equally_and_fall_between_tokens() -> None:
    stops = [stop for stop in drawn(StopPlan(1.0, tokens=(2, 8))) if stop is not None]
    counts = {tokens: sum(stop.tokens == tokens for stop in stops) for tokens in range(2, 9)}
    assert sum(counts.values()) == len(stops)
    assert all(count == pytest.approx(len(stops) / 7, rel=0.1) for count in counts.values())
    assert all(0 <= stop.fraction < 1 for stop in stops)
    assert sum(stop.fraction for stop in stops) / len(stops) == pytest.approx(0.5, abs=0.01)
    assert all(stop.after_ns is None for stop in stops)


def test_stops_after_a_time_lie_in_their_range() -> None:
    instants = [stop.after_ns for stop in drawn(StopPlan(1.0, after_ms=(100, 300))) if stop is not None]
    assert all(at is not None and 100_000_000 <= at <= 300_000_000 for at in instants)
    assert sum(at or 0 for at in instants) / len(instants) == pytest.approx(200e6, rel=0.01)


def test_one_number_is_a_range_too() -> None:
    assert {stop.tokens for stop in drawn(StopPlan(1.0, tokens=(5, 5)), 50) if stop} == {5}
    assert {stop.after_ns for stop in drawn(StopPlan(1.0, after_ms=(5, 5)), 50) if stop} == {5_000_000}
    assert {stop.tokens for stop in drawn(StopPlan(1.0, tokens=(0, 0)), 50) if stop} == {0}


def test_tokens_win_when_both_are_set_and_without_either_nothing_stops() -> None:
    assert all(stop is not None and stop.tokens == 3 for stop in drawn(StopPlan(1.0, tokens=(3, 3), after_ms=(1, 2)), 50))
    assert drawn(StopPlan(1.0), 50) == [None] * 50


def test_what_is_drawn_later_does_not_depend_on_the_plan() -> None:
    after = set()
    for plan in (StopPlan(), StopPlan(1.0, tokens=(2, 8)), StopPlan(0.5, after_ms=(1, 9))):
        draw = random.Random(5)
        for _ in range(10):
            plan.draw(draw)
        after.add(draw.random())
    assert len(after) == 1


# (now, slot) pairs; 10 a second.
@pytest.mark.parametrize(
    "asked",
    [
        # a crowd at one instant is spread out evenly
        [(0, 0), (0, 100_000_000), (0, 200_000_000)],
        # one that comes late goes at once, and the time gone by is not made up for
        [(0, 0), (950_000_000, 950_000_000), (950_000_000, 1_050_000_000)],
        # one that comes between two slots takes the next
        [(0, 0), (30_000_000, 100_000_000), (250_000_000, 250_000_000)],
    ],
)
def test_pacing(asked: list[tuple[int, int]]) -> None:
    pacing = Pacing(10)
    assert [pacing.next_slot(now) for now, _ in asked] == [slot for _, slot in asked]


def test_a_pace_does_not_drift() -> None:
    pacing = Pacing(3)
    assert [pacing.next_slot(0) for _ in range(3001)][-1] == 1000 * SECOND_NS


def test_no_rate_means_no_pacing() -> None:
    pacing = Pacing(0)
    assert [pacing.next_slot(now) for now in (5, 5, 9)] == [5, 5, 9]
