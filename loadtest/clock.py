"""The two clocks: kernel stamps are wall clock, durations are monotonic; this module carries one onto the other."""

from __future__ import annotations

import time
from dataclasses import dataclass

STEP_NS = 1_000_000
"""A change of the offset beyond this is a step of the wall clock. Both clocks are slewed alike, so that between steps the offset
changes only by the error of reading it (a preemption between two reads), which the narrowest of several readings keeps below this."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """One instant on both clocks; the wall clock was read within ``uncertainty_ns`` around ``monotonic_ns``."""

    wall_ns: int
    monotonic_ns: int
    uncertainty_ns: int

    @property
    def offset(self) -> int:
        """Wall clock minus monotonic clock, ns."""
        return self.wall_ns - self.monotonic_ns


def read_anchor(tries: int = 15) -> Anchor:
    """Read both clocks, the wall clock sandwiched between two monotonic reads, and keep the narrowest of ``tries`` sandwiches."""
    best: Anchor | None = None
    for _ in range(tries):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        anchor = Anchor(wall, (before + after) // 2, (after - before + 1) // 2)
        if best is None or anchor.uncertainty_ns < best.uncertainty_ns:
            best = anchor
    assert best is not None
    return best


class Clock:
    """The offset in force: it is kept until the wall clock steps, or reading jitter would turn into latency."""

    __slots__ = ("anchor", "offset")

    def __init__(self) -> None:
        self.anchor = read_anchor(101)
        self.offset = self.anchor.offset

    def check(self) -> int:
        """Compare with a fresh reading; returns the step in ns and adopts the new offset, or 0 when there was none."""
        anchor = read_anchor()
        step = anchor.offset - self.offset
        if abs(step) <= max(STEP_NS, 2 * anchor.uncertainty_ns):
            return 0
        self.anchor, self.offset = anchor, anchor.offset
        return step
