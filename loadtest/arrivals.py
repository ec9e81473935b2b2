"""When conversations are due and what is drawn for each: pure, seeded, no clock.

The open loop's schedule is one for the whole run: worker ``i`` of ``n`` takes every n-th arrival, so that no arrival is started
twice and none is forgotten.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

SECOND_NS = 1_000_000_000


def constant(rate_per_s: float) -> Iterator[int]:
    """Instants in ns from the start, evenly spaced: the k-th at k / rate, computed without drift."""
    k = 0
    while True:
        yield round(k * SECOND_NS / rate_per_s)
        k += 1


def poisson(rate_per_s: float, seed: int) -> Iterator[int]:
    """Instants in ns from the start with exponential gaps of mean 1 / rate."""
    draw = random.Random(f"arrivals:{seed}")
    instant = 0.0
    while True:
        instant += draw.expovariate(rate_per_s)
        yield round(instant * SECOND_NS)


def deal(schedule: Iterator[int], worker: int, workers: int) -> Iterator[int]:
    """The arrivals of one worker out of ``workers``."""
    if not 0 <= worker < workers:
        raise ValueError(f"expected a worker in 0..{workers - 1}, got {worker}")
    for position, instant in enumerate(schedule):
        if position % workers == worker:
            yield instant


@dataclass(frozen=True, slots=True)
class Stop:
    """A drawn stop: after ``tokens`` tokens and then ``fraction`` of a gap, or ``after_ns`` after the prompt."""

    tokens: int | None = None
    fraction: float = 0.0
    after_ns: int | None = None


@dataclass(frozen=True, slots=True)
class StopPlan:
    """Which share of the conversations stops, and when: ``tokens`` and ``after_ms`` are inclusive ranges; tokens win if both are set."""

    share: float = 0.0
    tokens: tuple[int, int] | None = None
    after_ms: tuple[float, float] | None = None

    def draw(self, draw: random.Random) -> Stop | None:
        """The stop of the next conversation, or None. Three numbers are drawn whatever comes of them, so that seeds stay comparable."""
        chance, place, fraction = draw.random(), draw.random(), draw.random()
        if chance >= self.share:
            return None
        if self.tokens is not None:
            low, high = self.tokens
            return Stop(tokens=low + int(place * (high - low + 1)), fraction=fraction)
        if self.after_ms is not None:
            shortest, longest = self.after_ms
            return Stop(after_ns=round((shortest + place * (longest - shortest)) * 1e6))
        return None


class Pacing:
    """Spreads actions evenly: ``next_slot(now)`` is the instant (ns) at which the next one may happen."""

    __slots__ = ("_gap_ns", "_next")

    def __init__(self, rate_per_s: float) -> None:
        self._gap_ns = SECOND_NS / rate_per_s if rate_per_s > 0 else 0.0
        self._next = 0.0

    def next_slot(self, now: int) -> int:
        """Take the next slot: now, or one gap after the slot taken last."""
        slot = max(float(now), self._next)
        self._next = slot + self._gap_ns
        return round(slot)
