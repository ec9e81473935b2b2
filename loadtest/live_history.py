"""The run second by second while it goes on: rows for the live charts, the figures since the warm-up, the table of both.

A view, never a result: results come from the run directory. Every process that keeps one has at most one history, and only beside a web
page; a second of it costs the same whether anybody looks or not.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .histogram import MAX_VALUE, bucket_bounds, bucket_index
from .metrics import MINIMUM_SAMPLES
from .tables import GAUGES

Ints = npt.NDArray[np.int64]
Encoded = tuple[Sequence[int] | Ints, Sequence[int] | Ints, int, int, int]
"""Bucket numbers, their counts, sum, minimum and maximum: a histogram as ``live.LiveView`` ships it."""

WINDOW_S = 10
"""Latencies of a row are those of so many seconds up to it: long enough for percentiles, short enough to be now."""
KEPT_S = 900
"""So many seconds are kept for the charts."""
LATE_S = 5
"""How long a second waits for the report of a worker before its row is made without it."""
CHARTED = ("ttft", "token_latency", "itl", "stop_latency", "receive_lag")
TABLED = ("ttft", "ttft_due", "token_latency", "itl", "tpot", "stop_latency", "e2e", "connect_time", "receive_lag")
QUANTILES = (0.5, 0.9, 0.99)
_BUCKETS = int(bucket_index([MAX_VALUE])[0]) + 1
_STATES = ("users", "opening", "open", "streaming", "failed", "server_open", "server_streaming")

COLUMNS = (
    "second", "tokens_per_s", "conversations_per_s",
    *(f"{metric}_p{100 * q:.0f}_ms" for metric in CHARTED for q in QUANTILES),
    *_STATES, "cpu_share", "loop_lag_max_ms",
)  # fmt: skip
"""What a row holds, in this order; a value nobody knows is null."""


class Buckets:
    """Counts of one metric that come and go: adding and taking away a second costs what it holds, reading all of it some 50 us."""

    __slots__ = ("_counts", "maximum", "n")

    def __init__(self) -> None:
        self._counts = np.zeros(_BUCKETS, dtype=np.int64)
        self.n = 0
        self.maximum: int | None = None

    def add(self, encoded: Encoded) -> None:
        """Count what ``encoded`` holds."""
        index, counts = np.asarray(encoded[0], dtype=np.int64), np.asarray(encoded[1], dtype=np.int64)
        self._counts[index] += counts
        self.n += int(counts.sum())
        self.maximum = encoded[4] if self.maximum is None else max(self.maximum, encoded[4])

    def take_away(self, encoded: Encoded) -> None:
        """Forget what was added; the maximum stays that of all that was ever added."""
        counts = np.asarray(encoded[1], dtype=np.int64)
        self._counts[np.asarray(encoded[0], dtype=np.int64)] -= counts
        self.n -= int(counts.sum())

    def quantiles(self, qs: Iterable[float]) -> list[int | None]:
        """Nearest-rank quantiles (middle of the bucket, within 0.1 %); None where too few samples stand behind one."""
        cumulative = np.cumsum(self._counts) if self.n else self._counts
        found: list[int | None] = []
        for q in qs:
            if self.n < MINIMUM_SAMPLES.get(q, 1):
                found.append(None)
                continue
            low, high = bucket_bounds([int(np.searchsorted(cumulative, max(1, int(np.ceil(round(q * self.n, 9))))))])
            found.append((int(low[0]) + int(high[0])) // 2)
        return found


@dataclass(slots=True)
class _Second:
    """What has been reported of one second so far."""

    workers: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    gauges: dict[str, dict[str, int]] = field(default_factory=dict)
    process: dict[str, dict[str, int]] = field(default_factory=dict)
    histograms: dict[str, list[Encoded]] = field(default_factory=dict)


class History:
    """Takes what each process reports of a second and makes a row of it once all have."""

    def __init__(self) -> None:
        self._part = 0
        self.begin("")

    def begin(self, run: str) -> None:
        """A run begins: nothing is known of it yet."""
        self.run = run
        self._steady_from: int | None = None
        self._failed = 0
        self._done = -1
        self._open: dict[int, _Second] = {}
        self._latest: dict[str, int] = {}
        self._gauges: dict[str, dict[str, int]] = {}
        self.server: dict[str, int] = {}
        self.reset()

    def reset(self) -> None:
        """Forget rows and figures in the middle of a run; whoever followed them learns of it by ``part``."""
        self._part += 1
        self.rows: deque[tuple[int, str]] = deque(maxlen=KEPT_S)
        self._window: deque[dict[str, list[Encoded]]] = deque()
        self._recent = {metric: Buckets() for metric in TABLED}
        self._forget_figures()

    def _forget_figures(self) -> None:
        self.figures = {metric: Buckets() for metric in TABLED}
        self.counts: Counter[str] = Counter()
        self.seconds = 0
        self.cpu: dict[str, list[int]] = {}
        self.clock_step_ns = 0

    @property
    def part(self) -> str:
        """Changes whenever rows that were given out are no longer true."""
        return f"{self.run}.{self._part}"

    @property
    def warming_up(self) -> bool:
        """Whether the figures still are those of the warm-up."""
        return self._steady_from is None or self._done < self._steady_from

    def steady_from(self, second: int) -> None:
        """The figures are to begin with this second; told once a run, what comes later is ignored."""
        if self._steady_from is None:
            self._steady_from = second

    def take(self, worker: str, report: Mapping[str, Any]) -> None:
        """What one process reports of one second: second, counts, gauges, process, histograms; KeyError, ValueError if it is none."""
        second = int(report["second"])
        self._latest[worker] = max(second, self._latest.get(worker, -1))
        # What came too late for its row is not lost: it counts in the next.
        held = self._open.setdefault(max(second, self._done + 1), _Second())
        held.workers.add(worker)
        held.counts.update(report["counts"])
        if report["gauges"]:
            held.gauges[worker] = dict(report["gauges"])
        process = held.process.setdefault(worker, {})
        for name, value in report.get("process", {}).items():
            add = name in ("covered_ns", "cpu_ns")
            process[name] = process.get(name, 0) + value if add else max(process.get(name, value), value)
        for metric, encoded in report["histograms"].items():
            if metric in self.figures:
                held.histograms.setdefault(metric, []).append(encoded)
        self._finish()

    def _finish(self) -> None:
        newest = max(self._latest.values())
        for second in sorted(self._open):
            # A worker that has told nothing for a while holds nobody up.
            waited_for = {worker for worker, latest in self._latest.items() if latest >= newest - LATE_S}
            if second < newest - LATE_S or all(self._latest[worker] >= second for worker in waited_for):
                self._close(second, self._open.pop(second))
            else:
                break

    def _close(self, second: int, held: _Second) -> None:
        if self._steady_from is not None and self._done < self._steady_from <= second:
            self._forget_figures()
        self._done = second
        self._gauges.update(held.gauges)
        self._failed += held.counts["connects_failed"]
        self.counts.update(held.counts)
        self.seconds += 1
        self._window.append(held.histograms)
        gone = self._window.popleft() if len(self._window) > WINDOW_S else {}
        for metric, parts in gone.items():
            for encoded in parts:
                self._recent[metric].take_away(encoded)
        for metric, parts in held.histograms.items():
            for encoded in parts:
                self._recent[metric].add(encoded)
                self.figures[metric].add(encoded)
        shares, lag = [0.0], 0
        for worker, process in held.process.items():
            used = self.cpu.setdefault(worker, [0, 0])
            used[0] += process.get("cpu_ns", 0)
            used[1] += process.get("covered_ns", 0)
            if process.get("covered_ns"):
                shares.append(process.get("cpu_ns", 0) / process["covered_ns"])
            lag = max(lag, process.get("loop_lag_max_ns", 0))
            self.clock_step_ns = max(self.clock_step_ns, abs(process.get("clock_step_ns", 0)))
            self.server.update({name: process[name] for name in ("server_open", "server_streaming") if name in process})
        self.rows.append((second, self._row(second, held.counts, max(shares), lag)))

    def _row(self, second: int, counts: Mapping[str, int], cpu: float, lag: int) -> str:
        states = {name: sum(gauges.get(name, 0) for gauges in self._gauges.values()) for name in GAUGES} | self.server
        states["failed"] = self._failed
        latencies = [milliseconds(ns) for metric in CHARTED for ns in self._recent[metric].quantiles(QUANTILES)]
        ended = counts["conversations_completed"] + counts["conversations_stopped"] if counts else 0
        # Written once: whoever asks for it gets the text.
        return json.dumps(
            [second, counts["tokens"], ended, *latencies, *(states.get(name) for name in _STATES), round(cpu, 3), milliseconds(lag)],
            separators=(",", ":"),
        )

    def rows_since(self, part: str, second: int) -> str:
        """The rows after ``second`` as a JSON array; all that are kept for somebody who followed another part."""
        if part != self.part:
            second = -1
        wanted = []
        for at, text in reversed(self.rows):
            if at <= second:
                break
            wanted.append(text)
        return "[" + ",".join(reversed(wanted)) + "]"

    def table(self) -> list[dict[str, Any]]:
        """Each metric with something measured: its percentiles over the last seconds and since the warm-up, in ms."""
        rows = []
        for metric, buckets in self.figures.items():
            recent = self._recent[metric]
            if buckets.n or recent.n:
                rows.append(
                    {
                        "metric": metric, "n": buckets.n, "max_ms": milliseconds(buckets.maximum),
                        **_percentiles(buckets, ""), "recent_n": recent.n, **_percentiles(recent, "recent_"),
                    }
                )  # fmt: skip
        return rows


def _percentiles(buckets: Buckets, prefix: str) -> dict[str, float | None]:
    values = buckets.quantiles(QUANTILES)
    return {f"{prefix}p{100 * q:.0f}_ms": milliseconds(ns) for q, ns in zip(QUANTILES, values, strict=True)}


def milliseconds(ns: int | None) -> float | None:
    """Milliseconds to four significant digits, for text; None stays None."""
    return None if ns is None else float(f"{ns / 1e6:.4g}")
