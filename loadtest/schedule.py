"""Which schedule of arrivals the options ask for: spacing and rate put together. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .arrivals import Arrival, Gaps, arrive, drawn, evenly, exponential, gamma
from .rates import Rate, Sine, flat, ramp, spike
from .trace import Replay
from .workload import workload_gaps

SPACINGS = ("constant", "poisson", "gamma", "workload", "trace")
PROFILES = ("flat", "ramp", "spike", "sine")


@dataclass(frozen=True, slots=True)
class SchedulePlan:
    """One schedule for a whole run; the same plan, seed and pins give the same arrivals in every process.

    ``rate_per_s`` and ``peak_per_s``: a flat rate; from where to where a ramp goes; beside and in a spike; lowest and highest of a
    sine. ``length_s``: how long ramp or spike last, the period of a sine. ``free_count``: leave it to chance how many come. ``workload``
    names the table of gaps for the spacing "workload"; ``replay`` is what the spacing "trace" follows, which has its own rate.
    """

    spacing: str = "constant"
    rate_per_s: float = 10.0
    burstiness: float = 1.0
    profile: str = "flat"
    peak_per_s: float = 0.0
    start_s: float = 0.0
    length_s: float = 0.0
    free_count: bool = False
    workload: str | None = None
    replay: Replay | None = None

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
        if self.spacing == "trace" and self.replay is not None:
            return self.replay.arrivals(seed)
        rate = self.rate()
        if self.spacing == "constant":
            return arrive(evenly(), rate)
        gaps: Gaps = exponential
        if self.spacing == "gamma":
            gaps = gamma(self.burstiness)
        elif self.spacing == "workload" and self.workload is not None:
            gaps = workload_gaps(self.workload)
        pins = [] if self.free_count else [rate.expected(at) for at in pins_s]
        return arrive(drawn(gaps, seed, pins), rate)

    def asked_per_s(self, from_s: float, to_s: float, seed: int = 1) -> float | None:
        """The rate asked for on the average between two instants; None when no time lies between."""
        if to_s <= from_s:
            return None
        begin, end = max(0.0, from_s), max(0.0, to_s)
        if self.spacing == "trace" and self.replay is not None:
            return (self.replay.expected(end, seed) - self.replay.expected(begin, seed)) / (to_s - from_s)
        rate = self.rate()
        return (rate.expected(end) - rate.expected(begin)) / (to_s - from_s)
