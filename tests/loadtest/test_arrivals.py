"""Arrivals: exact, seeded, dealt out once each; stops drawn as asked; paces kept."""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from itertools import accumulate, islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.arrivals import SECOND_NS, Arrival, Gaps, Pacing, Share, Stop, StopPlan, arrive, drawn, evenly, exponential, gamma
from loadtest.rates import flat


def constant(rate: float) -> Iterator[int]:
    return (arrival.offset_ns for arrival in arrive(evenly(), flat(rate)))


@pytest.mark.parametrize("rate", [1.0, 3.0, 7.0, 0.3, 1234.5, 50_000.0])
def test_constant_arrivals_do_not_drift(rate: float) -> None:
    millionth = next(islice(constant(rate), 1_000_000, None))
    assert abs(millionth - Fraction(10**6) * SECOND_NS / Fraction(rate)) <= 1


def test_constant_arrivals_begin_at_once_and_are_evenly_spaced() -> None:
    assert list(islice(constant(4), 4)) == [0, 250_000_000, 500_000_000, 750_000_000]
    assert {b - a for a, b in pairwise(islice(constant(3), 1000))} == {333_333_333, 333_333_334}


def test_arrivals_are_numbered_over_the_whole_schedule() -> None:
    assert list(islice(arrive(evenly(), flat(2)), 3)) == [Arrival(0, 0), Arrival(1, 500_000_000), Arrival(2, 10**9)]


@pytest.mark.parametrize("gaps", [exponential, gamma(0.5)])
def test_drawn_positions_are_those_of_their_seed(gaps: Gaps) -> None:
    assert list(islice(drawn(gaps, 1), 10_000)) == list(islice(drawn(gaps, 1), 10_000))
    assert list(islice(drawn(gaps, 1), 100)) != list(islice(drawn(gaps, 2), 100))


@pytest.mark.parametrize(("gaps", "variation"), [(exponential, 1.0), (gamma(1.0), 1.0), (gamma(0.25), 2.0), (gamma(16.0), 0.25)])
@pytest.mark.parametrize("pins", [(), (20_000.0, 40_000.0)])
def test_drawn_gaps_have_their_mean_and_their_spread(gaps: Gaps, variation: float, pins: tuple[float, ...]) -> None:
    n = 40_000
    found = [b - a for a, b in pairwise([0.0, *islice(drawn(gaps, 7, pins), n)])]
    assert min(found) >= 0
    mean = sum(found) / n
    assert mean == pytest.approx(1, rel=0.03)
    assert (sum((gap - mean) ** 2 for gap in found) / n) ** 0.5 == pytest.approx(variation, rel=0.06)


def test_exponential_gaps_exceed_their_mean_as_often_as_chance_says() -> None:
    gaps = [b - a for a, b in pairwise([0.0, *islice(drawn(exponential, 7), 40_000)])]
    assert sum(gap > 1 for gap in gaps) / len(gaps) == pytest.approx(0.3679, abs=0.01)


@given(st.integers(0, 50), st.lists(st.integers(1, 10_000), min_size=1, max_size=3), st.sampled_from([exponential, gamma(0.1)]))
def test_pinned_schedules_have_exactly_as_many_arrivals_as_asked(seed: int, lengths: list[int], gaps: Gaps) -> None:
    pins = [float(pin) for pin in accumulate(lengths)]
    found = list(islice(drawn(gaps, seed, pins), sum(lengths) + 3))
    assert found == sorted(found)
    for length in accumulate(lengths):
        assert found[length - 1] < length <= found[length]


def test_a_pinned_process_keeps_its_bursts() -> None:
    """Counts of short times scatter as those of a Poisson process do; only that of the whole is certain."""
    counts = [0] * 100
    for position in islice(drawn(exponential, 3, [10_000.0]), 10_000):
        counts[min(99, int(position // 100))] += 1
    variance = sum((count - 100) ** 2 for count in counts) / 100
    assert 60 < variance < 150


# -- sharing -----------------------------------------------------------------------------------------------------------


def all_of(share: Share) -> list[Arrival]:
    return list(iter(share.take, None))  # type: ignore[arg-type]  # ends at None


@given(st.integers(1, 9), st.integers(0, 100))
def test_each_arrival_is_dealt_to_one_worker(workers: int, n: int) -> None:
    whole = list(islice(arrive(evenly(), flat(3)), n))
    parts = [all_of(Share(iter(whole), worker, workers)) for worker in range(workers)]
    assert sorted(arrival for part in parts for arrival in part) == whole
    assert all(part == sorted(part) for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("worker", "workers"), [(-1, 2), (2, 2), (0, 0)])
def test_a_worker_that_is_not_there_gets_nothing(worker: int, workers: int) -> None:
    with pytest.raises(ValueError, match=r"expected a position in 0\.\."):
        Share(arrive(evenly(), flat(1)), worker, workers)


@given(st.data(), st.integers(1, 5), st.integers(0, 3))
def test_dealing_anew_starts_each_arrival_once_whatever_was_looked_at_already(data: st.DataObject, first: int, changes: int) -> None:
    """Workers join and leave at instants known ahead; each has looked ahead as far as its next arrival when it is told."""
    n = 60
    whole = list(islice(arrive(evenly(), flat(1)), n))
    everyone = first + changes
    shares = [Share(iter(whole), worker if worker < first else None, first) for worker in range(everyone)]
    in_hand = [share.take() for share in shares]
    started: list[Arrival] = []

    def run_until(instant: int) -> None:
        for worker, share in enumerate(shares):
            while (arrival := in_hand[worker]) is not None and arrival.offset_ns < instant:
                started.append(arrival)
                in_hand[worker] = share.take()

    now = 0
    for _ in range(changes):
        now += data.draw(st.integers(0, 15 * SECOND_NS))
        run_until(now)
        instant = now + data.draw(st.integers(0, 10 * SECOND_NS))
        members = data.draw(st.lists(st.sampled_from(range(everyone)), min_size=1, unique=True))
        for worker, share in enumerate(shares):
            position = members.index(worker) if worker in members else None
            share.redeal(instant, position, len(members), in_hand[worker])
            in_hand[worker] = share.take()
        now = instant
    run_until(n * SECOND_NS)
    assert sorted(started) == whole


# -- stops -------------------------------------------------------------------------------------------------------------


def drawn_stops(plan: StopPlan, n: int = 20_000, seed: int = 3) -> list[Stop | None]:
    draw = random.Random(seed)
    return [plan.draw(draw) for _ in range(n)]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_of_stops_is_the_one_asked_for(share: float) -> None:
    stops = drawn_stops(StopPlan(share, tokens=(2, 8)))
    assert sum(stop is not None for stop in stops) / len(stops) == pytest.approx(share, abs=0.01 if 0 < share < 1 else 0)


def test_stops_after_tokens_reach_both_ends_equally_and_fall_between_tokens() -> None:
    stops = [stop for stop in drawn_stops(StopPlan(1.0, tokens=(2, 8))) if stop is not None]
    counts = {tokens: sum(stop.tokens == tokens for stop in stops) for tokens in range(2, 9)}
    assert sum(counts.values()) == len(stops)
    assert all(count == pytest.approx(len(stops) / 7, rel=0.1) for count in counts.values())
    assert all(0 <= stop.fraction < 1 for stop in stops)
    assert sum(stop.fraction for stop in stops) / len(stops) == pytest.approx(0.5, abs=0.01)
    assert all(stop.after_ns is None for stop in stops)


def test_stops_after_a_time_lie_in_their_range() -> None:
    instants = [stop.after_ns for stop in drawn_stops(StopPlan(1.0, after_ms=(100, 300))) if stop is not None]
    assert all(at is not None and 100_000_000 <= at <= 300_000_000 for at in instants)
    assert sum(at or 0 for at in instants) / len(instants) == pytest.approx(200e6, rel=0.01)


def test_one_number_is_a_range_too() -> None:
    assert {stop.tokens for stop in drawn_stops(StopPlan(1.0, tokens=(5, 5)), 50) if stop} == {5}
    assert {stop.after_ns for stop in drawn_stops(StopPlan(1.0, after_ms=(5, 5)), 50) if stop} == {5_000_000}
    assert {stop.tokens for stop in drawn_stops(StopPlan(1.0, tokens=(0, 0)), 50) if stop} == {0}


def test_tokens_win_when_both_are_set_and_without_either_nothing_stops() -> None:
    assert all(stop is not None and stop.tokens == 3 for stop in drawn_stops(StopPlan(1.0, tokens=(3, 3), after_ms=(1, 2)), 50))
    assert drawn_stops(StopPlan(1.0), 50) == [None] * 50


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
