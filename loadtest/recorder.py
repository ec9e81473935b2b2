"""Everything one process measures, a second at a time: counters, histograms, rows. The clock and the file are given to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .conversation import NEVER, Conversation, Measured, finished_row, measure
from .histogram import MAX_VALUE, Histogram
from .run_directory import COUNTERS, TABLES

Ints = npt.NDArray[np.int64]
Column = Sequence[Any] | npt.NDArray[Any]
SECOND_NS = 1_000_000_000

TAINT_LAG_NS = 100 * 1_000_000
"""A conversation that overlaps a stall of the generator longer than this is tainted. A tenth of a second is what a reader of a
stream notices; shorter lags show in ``receive_lag`` and are weighed there against what is measured."""


class Sink(Protocol):
    """Where rows go: ``run_directory.RawWriter``."""

    def append(self, table: str, columns: Mapping[str, Column]) -> None:
        """Append rows, column by column."""


@dataclass(slots=True)
class Stall:
    """The generator did not run from ``start`` to ``end`` (monotonic ns)."""

    start: int
    end: int
    kind: str


@dataclass(slots=True)
class Flush:
    """What one flush found new, for live views: values in ns by metric, counts by name, errors by kind."""

    second: int
    values: dict[str, Ints] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    gauges: dict[str, int] = field(default_factory=dict)
    conversation_errors: Counter[str] = field(default_factory=Counter)
    connect_errors: Counter[str] = field(default_factory=Counter)


class Recorder:
    """Collects what the engine saw and writes it once a second.

    ``origin`` is the monotonic instant (ns) of the run's origin in this process. The engine adds to ``counts`` directly, appends
    finished conversations by ``finish`` and ended connections by ``connection_ended``.
    """

    def __init__(self, worker: str, origin: int, sink: Sink, record_tokens: bool = False) -> None:
        self.worker = worker
        self.origin = origin
        self.counts: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self._sink = sink
        self._record_tokens = record_tokens
        self._finished: list[Conversation] = []
        self._connections: list[dict[str, Any]] = []
        self._stalls: list[Stall] = []
        self._loop_lag_max = 0
        self._connect_times: list[int] = []
        self._send_delays: list[int] = []
        self._next_conversation = 0
        self._next_connection = 0

    def number_conversation(self) -> int:
        """The next conversation's number in this process."""
        self._next_conversation += 1
        return self._next_conversation - 1

    def number_connection(self) -> int:
        """The next connection's number in this process."""
        self._next_connection += 1
        return self._next_connection - 1

    def finish(self, conversation: Conversation) -> None:
        """Take a conversation that has an outcome; its row is written by the next flush."""
        self._finished.append(conversation)

    def connected(self, connect_time_ns: int) -> None:
        """A handshake has succeeded."""
        self.counts["connects_succeeded"] += 1
        self._connect_times.append(connect_time_ns)

    def connection_ended(self, row: dict[str, Any]) -> None:
        """Take the row of a connection that is closed or never opened; instants are monotonic and become relative here."""
        for name in ("opened_at_ns", "closed_at_ns"):
            if row.get(name) is not None:
                row[name] -= self.origin
        self._connections.append(row)

    def loop_ticked(self, expected: int, now: int) -> None:
        """The process was to run at ``expected`` and ran at ``now``: note its lag, and a stall when it is too long."""
        lag = now - expected
        self._loop_lag_max = max(self._loop_lag_max, lag)
        if lag > TAINT_LAG_NS:
            self._stalls.append(Stall(expected, now, "loop_stall"))

    def clock_stepped(self, since: int, now: int) -> None:
        """The wall clock was set some time between ``since`` and ``now``: stamps in between cannot be told from latency."""
        self._stalls.append(Stall(since, now, "clock_step"))

    def _taint(self, conversations: Iterable[Conversation], now: int) -> None:
        if not self._stalls:
            return
        for c in conversations:
            for stall in self._stalls:
                if c.sent < stall.end and (now if c.ended_read == NEVER else c.ended_read) > stall.start:
                    c.taint = c.taint or stall.kind

    def flush(self, now: int, in_flight: Iterable[Conversation], gauges: Mapping[str, int], process: Mapping[str, int | None]) -> Flush:
        """Write what is new up to ``now`` (monotonic ns) and return it.

        ``gauges`` (users, opening, open, streaming) and ``process`` (cpu_ns, rss_bytes, covered_ns, clock_step_ns, and the server's
        own counts where they are known) go into this second's row. OSError when the disk is full.
        """
        finished, self._finished = self._finished, []
        running = list(in_flight)
        everyone = finished + running
        self._taint(everyone, now)
        self._stalls.clear()
        tokens = measure(everyone)
        lag = tokens.lag
        if (late := lag > TAINT_LAG_NS).any():
            for position in np.unique(tokens.owner[late]).tolist():
                everyone[position].taint = everyone[position].taint or "receive_lag"
        # A flush belongs to the second that has just passed.
        second = max(0, (now - self.origin - 1) // SECOND_NS)
        flush = Flush(second, gauges=dict(gauges))
        histograms: dict[tuple[int, str, bool], Histogram] = {}
        rows = [finished_row(c, self.origin) for c in finished]
        self._count_outcomes(rows, flush)
        self._record_tokens_of(tokens, everyone, flush, histograms)
        self._record_rows(rows, second, flush, histograms)
        self._write(rows, tokens, everyone, histograms)
        self._write_intervals(second, tokens, lag, flush, process)
        return flush

    def _count_outcomes(self, rows: list[dict[str, Any]], flush: Flush) -> None:
        for row in rows:
            self.counts["conversations_" + row["outcome"]] += 1
            if row["tainted"]:
                self.counts["conversations_tainted"] += 1
            if row["error"] is not None:
                flush.conversation_errors[row["error"]] += 1

    def _record_tokens_of(
        self, tokens: Measured, everyone: Sequence[Conversation], flush: Flush, histograms: dict[tuple[int, str, bool], Histogram]
    ) -> None:
        self.counts["messages"] += tokens.arrival.size
        self.counts["coalesced"] += int(tokens.coalesced.sum())
        if not tokens.arrival.size:
            return
        windows = np.fromiter((c.window for c in everyone), dtype=np.int64, count=len(everyone))
        self.counts["acks_sent"] += int((windows[tokens.owner] > 0).sum())
        tainted = np.fromiter((c.taint is not None for c in everyone), dtype=np.bool_, count=len(everyone))[tokens.owner]
        seconds = np.maximum((tokens.arrival - self.origin) // SECOND_NS, 0)
        for metric, values in (("itl", tokens.gap), ("token_latency", tokens.latency), ("receive_lag", tokens.lag)):
            if metric == "receive_lag":
                present = np.ones(values.size, dtype=np.bool_)
                # Stamp and read come from two clocks that agree to well under a microsecond; less than nothing is nothing.
                values = np.maximum(values, 0)  # noqa: PLW2901
            else:
                present = values != NEVER
            clean = present & ~tainted
            flush.values[metric] = values[clean]
            for second in np.unique(seconds[present]).tolist():
                for flag, chosen in ((False, clean), (True, present & tainted)):
                    self._add(histograms, second, metric, flag, values[chosen & (seconds == second)])

    def _record_rows(
        self, rows: list[dict[str, Any]], second: int, flush: Flush, histograms: dict[tuple[int, str, bool], Histogram]
    ) -> None:
        if self._connect_times:
            times, self._connect_times = np.array(self._connect_times, dtype=np.int64), []
            flush.values["connect_time"] = times
            self._add(histograms, second, "connect_time", False, times)
        for metric in ("send_delay", "ttft", "ttft_due", "e2e", "e2e_due", "tpot", "stop_latency"):
            column = metric + "_ns"
            by_second: dict[tuple[int, bool], list[int]] = {}
            clean: list[int] = []
            for row in rows:
                if (value := row[column]) is None:
                    continue
                start = row["sent_at_ns"] if row["due_at_ns"] is None else row["due_at_ns"]
                by_second.setdefault((max(0, start // SECOND_NS), row["tainted"]), []).append(value)
                if not row["tainted"]:
                    clean.append(value)
            if clean:
                flush.values[metric] = np.array(clean, dtype=np.int64)
            for (start_second, flag), values in by_second.items():
                self._add(histograms, start_second, metric, flag, np.array(values, dtype=np.int64))

    def _add(self, histograms: dict[tuple[int, str, bool], Histogram], second: int, metric: str, tainted: bool, values: Ints) -> None:
        if not values.size:
            return
        outside = (values < 0) | (values > MAX_VALUE)
        if outside.any():
            self.counts["clamped"] += int(outside.sum())
            values = np.clip(values, 0, MAX_VALUE)
        key = (second, metric, tainted)
        if key not in histograms:
            histograms[key] = Histogram()
        histograms[key].record(values)

    def _write(
        self,
        rows: list[dict[str, Any]],
        tokens: Measured,
        everyone: Sequence[Conversation],
        histograms: Mapping[tuple[int, str, bool], Histogram],
    ) -> None:
        self._append_rows("conversations", rows)
        connections, self._connections = self._connections, []
        self._append_rows("connections", connections)
        encoded = [(key, h, h.encode()) for key, h in histograms.items()]
        self._append_rows(
            "histograms",
            [
                {
                    "second": second, "metric": metric, "tainted": tainted, "index": index, "count": count,
                    "total": h.total, "minimum": h.minimum, "maximum": h.maximum,
                }
                for (second, metric, tainted), h, (index, count) in encoded
            ],
        )  # fmt: skip
        if self._record_tokens and tokens.arrival.size:
            numbers = np.fromiter((c.number for c in everyone), dtype=np.int64, count=len(everyone))[tokens.owner]
            connection = np.fromiter((c.connection for c in everyone), dtype=np.int64, count=len(everyone))[tokens.owner]
            self._sink.append(
                "tokens",
                {
                    "worker": [self.worker] * tokens.arrival.size, "connection": connection, "conversation": numbers,
                    "sequence": tokens.sequence, "arrival_at_ns": tokens.arrival - self.origin,
                    "read_at_ns": tokens.read - self.origin, "coalesced": tokens.coalesced, "text": tokens.texts,
                },
            )  # fmt: skip

    def _append_rows(self, table: str, rows: list[dict[str, Any]]) -> None:
        if rows:
            columns = {f.name: [row.get(f.name) for row in rows] for f in TABLES[table] if f.name != "worker"}
            self._sink.append(table, {"worker": [self.worker] * len(rows), **columns})

    def _write_intervals(self, second: int, tokens: Measured, lag: Ints, flush: Flush, process: Mapping[str, int | None]) -> None:
        # Tokens belong to the second of their arrival, which a late read makes an earlier one than this.
        seconds = np.maximum((tokens.arrival - self.origin) // SECOND_NS, 0)
        per_second = dict(zip(*(part.tolist() for part in np.unique(seconds, return_counts=True)), strict=True))
        counts, self.counts = self.counts, dict.fromkeys(COUNTERS, 0)
        extra = counts["tokens"]
        counts["tokens"] = 0
        none = dict.fromkeys(COUNTERS, 0)
        rows: list[dict[str, Any]] = [{**none, "second": s, "tokens": n} for s, n in per_second.items() if s != second]
        counts["tokens"] = per_second.get(second, 0) + extra
        lag_max = int(lag.max()) if lag.size else None
        rows.append(
            {**counts, **flush.gauges, **process, "second": second, "loop_lag_max_ns": self._loop_lag_max, "receive_lag_max_ns": lag_max}
        )
        self._loop_lag_max = 0
        flush.counts = {**counts, "tokens": int(tokens.arrival.size) + extra}
        self._append_rows("intervals", rows)
