"""Rates over time: what is expected by an instant, and its exact inverse."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.rates import Linear, Rate, Sine, flat, ramp, spike

RATES: dict[str, Rate] = {
    "flat": flat(200),
    "up": ramp(0, 100, 5, 60),
    "down": ramp(100, 10, 0, 30),
    "spike": spike(20, 500, 10, 2),
    "spike out of nothing": spike(0, 50, 3, 4),
    "day": Sine(5, 95, 60),
    "day with a still night": Sine(0, 40, 86_400),
}


@pytest.mark.parametrize("name", RATES)
@given(st.floats(0, 1000))
def test_the_instant_of_what_is_expected_is_the_inverse(name: str, position: float) -> None:
    rate = RATES[name]
    instant = rate.instant(position)
    if instant < math.inf:
        assert rate.expected(instant) == pytest.approx(position, abs=1e-6)
    else:
        assert rate.expected(1e9) <= position + 1e-6


@pytest.mark.parametrize("name", RATES)
def test_instants_rise(name: str) -> None:
    instants = [RATES[name].instant(float(n)) for n in range(2000)]
    assert all(a <= b for a, b in pairwise(instants))
    assert instants[0] >= 0


@pytest.mark.parametrize(
    ("rate", "until_s", "expected"),
    [
        (flat(200), 10, 2000),
        (ramp(0, 100, 0, 10), 10, 500),
        (ramp(0, 100, 0, 10), 12, 700),
        (ramp(100, 0, 0, 10), 50, 500),
        (spike(10, 100, 5, 2), 5, 50),
        (spike(10, 100, 5, 2), 7, 250),
        (spike(10, 100, 5, 2), 10, 280),
        (Sine(10, 90, 60), 60, 3000),
        (Sine(10, 90, 60), 15, 50 * 15 - 40 * 60 / (2 * math.pi)),
    ],
)
def test_what_is_expected_by_an_instant(rate: Rate, until_s: float, expected: float) -> None:
    assert rate.expected(until_s) == pytest.approx(expected)


def test_a_ramp_that_ends_at_nothing_ends_the_schedule() -> None:
    rate = ramp(100, 0, 0, 10)
    assert rate.instant(499.9) < 10
    assert rate.instant(501) == math.inf


def test_a_spike_out_of_nothing_begins_when_it_begins() -> None:
    rate = spike(0, 50, 3, 4)
    assert (rate.instant(0), rate.instant(50), rate.instant(199)) == (3, 4, pytest.approx(6.98))
    assert rate.instant(200) == math.inf


@pytest.mark.parametrize("points", [((1.0, 5.0),), ((0.0, 5.0), (3.0, -1.0)), ((0.0, 1.0), (5.0, 1.0), (4.0, 1.0))])
def test_points_out_of_order_are_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="expected points"):
        Linear(*points)
