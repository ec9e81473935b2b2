"""Ends a probe early that cannot be won any more: reads the frames that its generator appends, and knows the rule.

The rule. An objective that bounds the p99 allows one value in a hundred beyond its bound. A probe is hopeless once it has, after its
warm-up, twice as many values beyond the bound as the whole probe may have: were every value still to come on time, it would be missed.
The same for the share of errors. An open loop is over-saturated, whatever the objectives say, when its backlog (arrivals due and not yet
started) has grown in each of the last five seconds, in all by more than a tenth of what fell due in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from loadtest.histogram import Histogram
from loadtest.metrics import BY_NAME
from loadtest.objectives import PERCENTILES, Objective
from loadtest.raw_file import RawFile, read_frames
from reports.units import count, share

from .capacity_probe import PERCENTILE_QS

HOPELESS: Final = 2.0
"""Times as many values beyond the bound as the whole probe may have."""
LEAST_VALUES: Final = 50
"""Beyond the bound, before anything is called hopeless."""
LEAST_S: Final = 3
"""Seconds after the warm-up before anything is."""
BACKLOG_S: Final = 5
BACKLOG_SHARE: Final = 0.1


@dataclass(slots=True)
class Tally:
    """What was seen of one objective's figure after the warm-up."""

    values: int = 0
    beyond: int = 0


@dataclass(slots=True)
class Watch:
    """Follows one probe: ``look`` reads on and returns a reason to end it, or None.

    ``users`` are all users of the probe; ``warm_up_s`` counts from when they are all there, ``measured_s`` from there on.
    """

    directory: Path
    objectives: Sequence[Objective]
    users: int
    warm_up_s: float
    measured_s: float
    by_rate: bool = False
    _states: dict[Path, RawFile] = field(default_factory=dict)
    _running: dict[int, int] = field(default_factory=dict)
    _seconds: dict[int, dict[str, int]] = field(default_factory=dict)
    _rows: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    _histograms: dict[str, dict[int, Histogram]] = field(default_factory=dict)

    def look(self) -> str | None:
        """Read what was appended since; why the probe cannot be won, or None."""
        for path in sorted((self.directory / "raw").glob("*.frames")):
            state = self._states.setdefault(path, RawFile(path.stem))
            try:
                for table, batch in read_frames(path, state):
                    self.take(table, batch.to_pydict())
            except FileNotFoundError:
                continue
        return self.judge()

    def take(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Take in some rows of a table of the run directory, column by column."""
        if table == "intervals":
            self._take_intervals(columns)
        elif table == "histograms":
            wanted = {one.metric for one in self.objectives}
            for at, metric in enumerate(columns["metric"]):
                if metric in wanted and not columns["tainted"][at]:
                    histogram = self._histograms.setdefault(metric, {}).setdefault(columns["second"][at], Histogram())
                    histogram.add_counts(*(columns[name][at] for name in ("index", "count", "total", "minimum", "maximum")))
        elif table == "conversations":
            for one in self.objectives:
                values = columns.get(f"{one.metric}_ns")
                if values is None or BY_NAME[one.metric].population != "conversation":
                    continue
                kept = self._rows.setdefault(one.metric, [])
                kept += [
                    (sent // 10**9, value)
                    for sent, value, tainted in zip(columns["sent_at_ns"], values, columns["tainted"], strict=True)
                    if value is not None and not tainted
                ]

    def _take_intervals(self, columns: Mapping[str, Sequence[Any]]) -> None:
        for at, second in enumerate(columns["second"]):
            held = self._seconds.setdefault(second, {})
            for name in COUNTS:
                held[name] = held.get(name, 0) + columns[name][at]
            if columns["users"][at] is not None:
                self._running[second] = self._running.get(second, 0) + columns["users"][at]

    @property
    def begin(self) -> int | None:
        """The first second after the warm-up; None before all users are there."""
        there = min((second for second, users in self._running.items() if users >= self.users), default=None)
        return None if there is None else there + 1 + int(-(-self.warm_up_s // 1))

    def judge(self) -> str | None:
        """Why the probe cannot be won, by what was read so far."""
        begin = self.begin
        last = max(self._running, default=-1)
        if begin is None or last - begin < LEAST_S:
            return None
        elapsed = last - begin + 1
        for one in self.objectives:
            if (reason := self._hopeless(one, begin, elapsed)) is not None:
                return reason
        return self._backlog(begin, last) if self.by_rate else None

    def _hopeless(self, one: Objective, begin: int, elapsed: int) -> str | None:
        if one.metric == "errors":
            allowed, seen = one.bound, self._errors(begin)
        elif one.upper and one.statistic in PERCENTILES:
            allowed, seen = 1 - PERCENTILE_QS[one.statistic], self._tally(one, begin)
        else:
            return None
        whole = max(seen.values, seen.values * self.measured_s / elapsed)
        if seen.beyond < LEAST_VALUES or seen.beyond <= HOPELESS * allowed * whole:
            return None
        what = "failed" if one.metric == "errors" else "values were beyond the bound"
        return (
            f"{one}: hopeless after {elapsed} s: {count(seen.beyond)} of {count(seen.values)} {what}, more than twice the {share(allowed)} "
            f"that the whole probe may have."
        )

    def _tally(self, one: Objective, begin: int) -> Tally:
        if one.metric in self._histograms:
            histograms = [histogram for second, histogram in self._histograms[one.metric].items() if second >= begin]
            return Tally(sum(h.count for h in histograms), sum(h.count_above(int(one.bound)) for h in histograms))
        values = [value for second, value in self._rows.get(one.metric, ()) if second >= begin]
        return Tally(len(values), sum(value > one.bound for value in values))

    def _errors(self, begin: int) -> Tally:
        after = [held for second, held in self._seconds.items() if second >= begin]
        bad = sum(held[name] for held in after for name in FAILED)
        return Tally(bad + sum(held[name] for held in after for name in ENDED), bad)

    def _backlog(self, begin: int, last: int) -> str | None:
        if last - begin < BACKLOG_S:
            return None
        backlog, held_up = 0, []
        for second in range(min(self._seconds), last):
            held = self._seconds.get(second, {})
            backlog += held.get("arrivals_due", 0) - held.get("conversations_started", 0) - held.get("arrivals_dropped", 0)
            held_up.append(backlog)
        recent = held_up[-BACKLOG_S - 1 :]
        due = sum(self._seconds.get(second, {}).get("arrivals_due", 0) for second in range(last - BACKLOG_S, last))
        grown = recent[-1] - recent[0]
        if not due or grown <= BACKLOG_SHARE * due or any(after <= before for before, after in pairwise(recent)):
            return None
        return (
            f"Over-saturated: {count(due)} conversations fell due in {BACKLOG_S} s, and the backlog grew all the while, by {count(grown)}."
        )


FAILED: Final = ("conversations_failed", "conversations_empty", "connects_failed")
ENDED: Final = ("conversations_completed", "conversations_stopped")
COUNTS: Final = (*FAILED, *ENDED, "arrivals_due", "arrivals_dropped", "conversations_started")
