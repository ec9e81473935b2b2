"""When conversations are due: pure, seeded schedules, one for the whole run, and each worker's share of it. No clock.

A schedule is a process of rate 1 (evenly spaced, or with drawn gaps) on the time axis of a rate (``rates.py``). Worker ``i`` of ``n``
takes every n-th arrival of it, so that no arrival is started twice and none is forgotten.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .rates import Rate

SECOND_NS = 1_000_000_000
_BLOCK = 4096
"""Gaps drawn at once: long enough to be cheap, short enough (under 0.1 ms) not to hold up who waits for the next arrival."""

Floats = npt.NDArray[np.float64]
Gaps = Callable[[np.random.Generator, int], Floats]
"""Draws so many gaps, whose mean in the long run is 1."""


class Arrival(NamedTuple):
    """One conversation to start: its number in the whole schedule, when it is due (ns from the schedule's start), and what it is like.

    The token counts are None where nothing says them.
    """

    number: int
    offset_ns: int
    prompt_tokens: int | None = None
    answer_tokens: int | None = None


def exponential(draw: np.random.Generator, count: int) -> Floats:
    """Gaps of a Poisson process."""
    return draw.standard_exponential(count)


def gamma(burstiness: float) -> Gaps:
    """Gaps of gamma distribution with shape ``burstiness``: 1 is Poisson, below it arrivals come in bursts, above it they even out.

    The coefficient of variation of the gaps is 1 / sqrt(burstiness). The word and its meaning are those of vLLM's benchmark.
    """

    def draw_gaps(draw: np.random.Generator, count: int) -> Floats:
        return draw.standard_gamma(burstiness, count) / burstiness

    return draw_gaps


def evenly() -> Iterator[float]:
    """Positions 0, 1, 2, ..."""
    position = 0
    while True:
        yield float(position)
        position += 1


def drawn(gaps: Gaps, seed: int, pins: Sequence[float] = ()) -> Iterator[float]:
    """Positions with drawn gaps of mean 1.

    ``pins`` are positions (rising, above 0) by which exactly as many arrivals (rounded) have come: the gaps before each are scaled to
    it. A Poisson process so treated is a Poisson process on the condition of its count; its bursts within stay. Behind the last pin
    chance goes on alone.
    """
    begin = 0.0
    for number, end in enumerate(pins):
        count = round(end) - round(begin)
        # Drawn twice from the same seed, once for the sum: an hour's gaps need not be kept.
        total = sum(float(block.sum()) for block in _blocks(gaps, seed, number, count + 1))
        if total > 0:
            position, last = begin, math.nextafter(end, begin)
            for block in _blocks(gaps, seed, number, count):
                for instant in (position + np.cumsum(block) * ((end - begin) / total)).tolist():
                    # What adds up to the end but for rounding must not reach it.
                    position = min(instant, last)
                    yield position
        begin = end
    position = begin
    for block in _blocks(gaps, seed, len(pins), None):
        for instant in (position + np.cumsum(block)).tolist():
            position = instant
            yield position


def _blocks(gaps: Gaps, seed: int, part: int, count: int | None) -> Iterator[Floats]:
    draw = np.random.Generator(np.random.PCG64([seed, part]))
    while count is None or count > 0:
        # Always whole blocks, so that one gap more or less changes none of the others.
        block = gaps(draw, _BLOCK)
        yield block if count is None else block[:count]
        count = None if count is None else count - _BLOCK


def arrive(positions: Iterable[float], rate: Rate) -> Iterator[Arrival]:
    """The arrivals of a process of rate 1 on the time axis of ``rate``, until no more are expected ever."""
    for number, position in enumerate(positions):
        instant = rate.instant(position) * SECOND_NS
        if instant == float("inf"):
            return
        yield Arrival(number, int(instant))


class Share:
    """One worker's arrivals of a schedule: of every ``workers`` arrivals the one at ``position`` (from 0); may be dealt anew.

    ``position`` None takes none.
    """

    def __init__(self, whole: Iterator[Arrival], position: int | None = 0, workers: int = 1) -> None:
        _check(position, workers)
        self._whole = whole
        self._deals: list[tuple[int, int | None, int]] = [(0, position, workers)]
        # Read from the schedule ahead of time: to be looked at again; and passed over since the last one given out.
        self._again: deque[Arrival] = deque()
        self._passed: list[Arrival] = []

    def take(self) -> Arrival | None:
        """The next arrival of this worker, in order; None when the schedule has ended, or its part in it."""
        self._passed.clear()
        while True:
            arrival = self._again.popleft() if self._again else next(self._whole, None)
            from_ns, position, workers = self._deal_at(arrival)
            if arrival is None or (position is None and from_ns == self._deals[-1][0]):
                # Nothing until it is dealt anew: what was looked at is kept for that.
                self._keep(arrival)
                return None
            if position is not None and arrival.number % workers == position:
                return arrival
            self._passed.append(arrival)

    def redeal(self, from_ns: int, position: int | None, workers: int, returned: Arrival | None = None) -> None:
        """From ``from_ns`` (an offset) on this worker is ``position`` of ``workers``; ``returned`` was taken and not started.

        Every worker has to be told the same instant, before any of them has started an arrival at or after it.
        """
        _check(position, workers)
        # What was passed over on the way to an arrival that is still to come may be this worker's now.
        self._keep(returned)
        self._deals = [deal for deal in self._deals if deal[0] < from_ns] + [(from_ns, position, workers)]

    def _keep(self, last: Arrival | None) -> None:
        self._again.extendleft(reversed(self._passed if last is None else [*self._passed, last]))
        self._passed.clear()

    def _deal_at(self, arrival: Arrival | None) -> tuple[int, int | None, int]:
        offset = 0 if arrival is None else arrival.offset_ns
        return next(deal for deal in reversed(self._deals) if deal[0] <= offset)


def _check(position: int | None, workers: int) -> None:
    if position is not None and not 0 <= position < workers:
        raise ValueError(f"expected a position in 0..{workers - 1}, got {position}")


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
