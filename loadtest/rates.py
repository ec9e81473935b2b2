"""How the rate of arrivals changes with time: the number expected by an instant, and the instant by which a number is expected.

An inhomogeneous schedule is a homogeneous one on a bent time axis: where the n-th arrival of a process of rate 1 falls at position u,
the n-th arrival of the schedule falls at the instant by which u arrivals are expected. So every rate works with every spacing, evenly
spaced or drawn, and none is approximated by steps.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol


class Rate(Protocol):
    """A rate of arrivals over time; time in seconds from the start of the schedule, never negative."""

    def expected(self, at_s: float) -> float:
        """How many arrivals are expected before ``at_s``."""

    def instant(self, position: float) -> float:
        """The seconds by which ``position`` arrivals are expected; infinite where there are never so many."""


class Linear:
    """Straight lines between points (seconds, arrivals/s); the last rate goes on for ever. Two points at one instant are a jump.

    The number expected is a parabola in each piece, and inverted as one.
    """

    def __init__(self, *points: tuple[float, float]) -> None:
        self._at = [at for at, _ in points]
        self._rates = [rate for _, rate in points]
        if self._at[0] != 0 or self._at != sorted(self._at) or min(self._rates) < 0:
            raise ValueError(f"expected points from instant 0 on in the order of time with rates of at least 0, got {points}")
        self._sums = [0.0]
        for (begin, first), (end, last) in pairwise(points):
            self._sums.append(self._sums[-1] + (end - begin) * (first + last) / 2)

    def expected(self, at_s: float) -> float:
        """How many arrivals are expected before ``at_s``."""
        piece = bisect.bisect_right(self._at, at_s) - 1
        since = at_s - self._at[piece]
        return self._sums[piece] + since * (self._rates[piece] + self._slope(piece) * since / 2)

    def instant(self, position: float) -> float:
        """The seconds by which ``position`` arrivals are expected; infinite where there are never so many."""
        # Where the rate is 0 for a while several instants would do: the next arrival comes after it, when the rate has risen again.
        piece = bisect.bisect_right(self._sums, position) - 1
        more, rate, slope = position - self._sums[piece], self._rates[piece], self._slope(piece)
        if slope == 0:
            return self._at[piece] + more / rate if rate > 0 else math.inf
        # The root of rate * t + slope * t**2 / 2 = more, written so that nothing cancels.
        root = math.sqrt(max(0.0, rate * rate + 2 * slope * more))
        return self._at[piece] + (2 * more / (rate + root) if more else 0.0)

    def _slope(self, piece: int) -> float:
        if piece + 1 == len(self._at) or self._at[piece + 1] == self._at[piece]:
            return 0.0
        return (self._rates[piece + 1] - self._rates[piece]) / (self._at[piece + 1] - self._at[piece])


@dataclass(frozen=True, slots=True)
class Sine:
    """A day: from ``low`` (at the start) to ``high`` (half a period later) and back, arrivals/s, with a period of ``period_s``."""

    low: float
    high: float
    period_s: float

    def expected(self, at_s: float) -> float:
        """How many arrivals are expected before ``at_s``."""
        mean, swing = (self.high + self.low) / 2, (self.high - self.low) / 2
        turn = 2 * math.pi / self.period_s
        return mean * at_s - swing / turn * math.sin(turn * at_s)

    def instant(self, position: float) -> float:
        """The seconds by which ``position`` arrivals are expected."""
        whole, more = divmod(position, (self.high + self.low) / 2 * self.period_s)
        begin, low, high = whole * self.period_s, 0.0, self.period_s
        # Halving keeps the root between its bounds, Newton's step finds it in a few turns where the rate is not near 0.
        guess = self.period_s / 2
        while high - low > 1e-12 * self.period_s:
            miss = self.expected(guess) - more
            if miss > 0:
                high = guess
            else:
                low = guess
            rate = (self.high + self.low) / 2 - (self.high - self.low) / 2 * math.cos(2 * math.pi * guess / self.period_s)
            step = guess - miss / rate if rate > 0 else math.inf
            if abs(step - guess) < 1e-12 * self.period_s:
                return begin + step
            guess = step if low < step < high else (low + high) / 2
        return begin + guess


def flat(rate_per_s: float) -> Linear:
    """The same rate all the time."""
    return Linear((0.0, rate_per_s))


def ramp(rate_per_s: float, peak_per_s: float, start_s: float, length_s: float) -> Linear:
    """``rate_per_s`` until ``start_s``, then straight to ``peak_per_s`` within ``length_s``, then that."""
    return Linear((0.0, rate_per_s), (start_s, rate_per_s), (start_s + length_s, peak_per_s))


def spike(rate_per_s: float, peak_per_s: float, start_s: float, length_s: float) -> Linear:
    """``rate_per_s``, but ``peak_per_s`` for ``length_s`` from ``start_s`` on."""
    end_s = start_s + length_s
    return Linear((0.0, rate_per_s), (start_s, rate_per_s), (start_s, peak_per_s), (end_s, peak_per_s), (end_s, rate_per_s))
