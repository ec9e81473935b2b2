"""Schedules: spacing and rate together, and as many arrivals as were asked for."""

from __future__ import annotations

from itertools import takewhile

import pytest

from loadtest.arrivals import SECOND_NS
from loadtest.schedule import PROFILES, SPACINGS, SchedulePlan


def count(plan: SchedulePlan, begin_s: float, end_s: float, pins_s: tuple[float, ...] = (), seed: int = 1) -> int:
    until = takewhile(lambda arrival: arrival.offset_ns < end_s * SECOND_NS, plan.arrivals(seed, pins_s))
    return sum(arrival.offset_ns >= begin_s * SECOND_NS for arrival in until)


@pytest.mark.parametrize("spacing", ["constant", "poisson", "gamma"])
@pytest.mark.parametrize("seed", range(5))
def test_two_hundred_a_second_are_two_thousand_in_ten_seconds(spacing: str, seed: int) -> None:
    plan = SchedulePlan(spacing, 200, burstiness=0.3)
    assert count(plan, 2, 12, (2, 12), seed) == 2000
    assert plan.asked_per_s(2, 12) == pytest.approx(200)


def test_left_to_chance_the_count_is_not_pinned() -> None:
    counts = {count(SchedulePlan("poisson", 200, free_count=True), 2, 12, (2, 12), seed) for seed in range(5)}
    assert len(counts) > 1
    assert all(1800 < n < 2200 for n in counts)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("spacing", ["constant", "poisson", "gamma"])
def test_every_spacing_follows_every_profile(spacing: str, profile: str) -> None:
    plan = SchedulePlan(spacing, 20, burstiness=4, profile=profile, peak_per_s=200, start_s=2, length_s=8)
    for begin, end in ((0, 3), (3, 9), (9, 16)):
        asked = plan.asked_per_s(begin, end)
        assert asked is not None
        assert count(plan, begin, end, (16,)) == pytest.approx(asked * (end - begin), rel=0.2, abs=5)
    assert count(plan, 0, 16, (16,)) == pytest.approx((plan.asked_per_s(0, 16) or 0) * 16, abs=1)


def test_no_time_asks_for_no_rate() -> None:
    assert SchedulePlan().asked_per_s(5, 5) is None


def test_every_spacing_is_tried_here() -> None:
    assert {"constant", "poisson", "gamma"} <= set(SPACINGS)
