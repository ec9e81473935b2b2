"""Which schedule of arrivals the options ask for: spacing and rate put together. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .arrivals import Arrival, arrive, drawn, evenly, exponential, gamma
from .rates import Rate, Sine, flat, ramp, spike

SPACINGS = ("constant", "poisson", "gamma")
PROFILES = ("flat", "ramp", "spike", "sine")


@dataclass(frozen=True, slots=True)
class SchedulePlan:
    """One schedule for a whole run; the same plan, seed and pins give the same arrivals in every process.

    ``rate_per_s`` and ``peak_per_s``: a flat rate; from where to where a ramp goes; beside and in a spike; lowest and highest of a
    sine. ``length_s``: how long ramp or spike last, the period of a sine. ``free_count``: leave it to chance how many come.
    """

    spacing: str = "constant"
    rate_per_s: float = 10.0
    burstiness: float = 1.0
    profile: str = "flat"
    peak_per_s: float = 0.0
    start_s: float = 0.0
    length_s: float = 0.0
    free_count: bool = False

    def rate(self) -> Rate:
        """The rate over time."""
        if self.profile == "ramp":
            return ramp(self.rate_per_s, self.peak_per_s, self.start_s, self.length_s)
        if self.profile == "spike":
            return spike(self.rate_per_s, self.peak_per_s, self.start_s, self.length_s)
        if self.profile == "sine":
            return Sine(self.rate_per_s, self.peak_per_s, self.length_s)
        return flat(self.rate_per_s)

    def arrivals(self, seed: int, pins_s: Sequence[float] = ()) -> Iterator[Arrival]:
        """The arrivals in order. Where they are drawn, as many as the rate says come before each of ``pins_s`` (rising)."""
        rate = self.rate()
        if self.spacing == "constant":
            return arrive(evenly(), rate)
        gaps = gamma(self.burstiness) if self.spacing == "gamma" else exponential
        pins = [] if self.free_count else [rate.expected(at) for at in pins_s]
        return arrive(drawn(gaps, seed, pins), rate)

    def asked_per_s(self, from_s: float, to_s: float) -> float | None:
        """The rate asked for on the average between two instants; None when no time lies between."""
        rate = self.rate()
        begin, end = max(0.0, from_s), max(0.0, to_s)
        return (rate.expected(end) - rate.expected(begin)) / (to_s - from_s) if to_s > from_s else None
