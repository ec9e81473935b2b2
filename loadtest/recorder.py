"""Everything one process measures, a second at a time: counters, histograms, rows. The clock and the file are given to it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .conversation import NEVER, Conversation, Measured, finished_row, measure
from .fairness import Shares
from .histogram import MAX_VALUE, Histogram
from .metrics import SLOW_READER, WITHHELD
from .tables import COUNTERS, TABLES
from .yardsticks import Yardsticks, keeps_limits

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
    """What one flush found new, for live views: values in ns by metric, counts by name, errors by kind, columns of the process."""

    second: int
    values: dict[str, Ints]
    counts: dict[str, int]
    gauges: dict[str, int]
    conversation_errors: Counter[str]
    connect_errors: Counter[str]
    process: dict[str, int] = field(default_factory=dict)


class Recorder:
    """Collects what the engine saw and writes it once a second.

    ``origin`` is the monotonic instant (ns) of the run's origin in this process. The engine adds to ``counts`` directly, appends
    finished conversations by ``finish`` and ended connections by ``connection_ended``.
    """

    def __init__(self, worker: str, origin: int, sink: Sink, record_tokens: bool = False, yardsticks: Yardsticks | None = None) -> None:
        self.worker = worker
        self.origin = origin
        self.counts: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self._sink = sink
        self._record_tokens = record_tokens
        self._yardsticks = yardsticks or Yardsticks()
        self._shares = Shares()
        self._finished: list[Conversation] = []
        self._connections: list[dict[str, Any]] = []
        # The latest ones only: whatever was due in an older stall has started long since.
        self._stalls: deque[Stall] = deque(maxlen=64)
        self._loop_lag_max = 0
        self._lag_max = 0
        self._connect_times: list[int] = []
        # Gathered since the last flush: new values by metric, tokens by second of arrival, histograms by second, metric and taint.
        self._values: dict[str, list[Ints]] = {}
        self._tokens: dict[int, int] = {}
        self._arrivals: dict[int, dict[str, int]] = {}
        self._histograms: dict[tuple[int, str, bool], Histogram] = {}
        self._errors: Counter[str] = Counter()
        # From the first message with several tokens on; what was written before is read under the same name.
        self._gap_metric = "itl"
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

    def count_at(self, counter: str, instant: int) -> None:
        """Count something in the second of an instant (monotonic ns), whenever it is counted."""
        counts = self._arrivals.setdefault(max(0, (instant - self.origin) // SECOND_NS), {})
        counts[counter] = counts.get(counter, 0) + 1

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

    def loop_ticked(self, expected: int, now: int) -> Stall | None:
        """The process was to run at ``expected`` and ran at ``now``: note its lag; a Stall when it is too long, for ``taint``."""
        lag = now - expected
        self._loop_lag_max = max(self._loop_lag_max, lag)
        return Stall(expected, now, "loop_stall") if lag > TAINT_LAG_NS else None

    def taint(self, stall: Stall, in_flight: Iterable[Conversation]) -> None:
        """Mark what overlaps the stall: conversations in flight, and those that ended in it but are not absorbed yet."""
        self._stalls.append(stall)
        for c in chain(self._finished, in_flight):
            if c.sent < stall.end and (c.ended_read == NEVER or c.ended_read > stall.start):
                c.taint = c.taint or stall.kind

    def _taint_late(self, conversations: Iterable[Conversation]) -> None:
        """Mark what fell due in a stall and could start only after it: its waiting is ours, and would be the target's in ``ttft_due``."""
        for c in conversations:
            if c.due != NEVER and c.taint is None:
                c.taint = next((stall.kind for stall in self._stalls if stall.start < c.sent and c.due < stall.end), None)

    @property
    def pending(self) -> int:
        """How many finished conversations wait to be absorbed."""
        return len(self._finished)

    def absorb(self, now: int, in_flight: Iterable[Conversation] = ()) -> None:
        """Measure the conversations finished since the last call and what is new of those given, and write the finished ones' rows.

        Called in small portions many times a second, so that the work never holds the engine up for long. OSError when the disk is full.
        """
        finished, self._finished = self._finished, []
        everyone = [*finished, *in_flight]
        if self._stalls:
            self._taint_late(everyone)
        tokens = measure(everyone, self._yardsticks)
        if (late := tokens.lag > TAINT_LAG_NS).any():
            for position in np.unique(tokens.owner[late]).tolist():
                everyone[position].taint = everyone[position].taint or "receive_lag"
        rows = [finished_row(c, self.origin) for c in finished]
        self._count_outcomes(rows)
        self._absorb_tokens(tokens, everyone)
        for c in finished:
            if c.reported is not None:
                self._absorb_report(c)
            if c.taint is None:
                self._shares.end(c.number, max(0, c.ended_read - self.origin) // SECOND_NS)
            else:
                self._shares.drop(c.number)
        self._absorb_rows(rows)
        self._append_rows("conversations", rows)

    def flush(self, now: int, gauges: Mapping[str, int], process: Mapping[str, int | None]) -> Flush:
        """Write the second that has passed by ``now`` (monotonic ns) and return what was new in it.

        ``gauges`` (users, opening, open, streaming) and ``process`` (cpu_ns, rss_bytes, covered_ns, clock_step_ns, and the server's
        own counts where they are known) go into this second's row. OSError when the disk is full.
        """
        self.absorb(now)
        second = max(0, (now - self.origin - 1) // SECOND_NS)
        if self._connect_times:
            times, self._connect_times = np.array(self._connect_times, dtype=np.int64), []
            self._note("connect_time", times)
            self._add(second, "connect_time", False, times)
        connections, self._connections = self._connections, []
        connect_errors = Counter(row["error"] for row in connections if row["outcome"] == "failed")
        self._append_rows("connections", connections)
        histograms, self._histograms = self._histograms, {}
        encoded = [(key, h, h.encode()) for key, h in histograms.items()]
        self._append_rows(
            "histograms",
            [
                {
                    "second": at, "metric": metric, "tainted": tainted, "index": index, "count": count,
                    "total": h.total, "minimum": h.minimum, "maximum": h.maximum,
                }
                for (at, metric, tainted), h, (index, count) in encoded
            ],
        )  # fmt: skip
        self._append_rows("fairness", self._shares.take())
        process = {**process, "loop_lag_max_ns": self._loop_lag_max, "receive_lag_max_ns": self._lag_max}
        self._loop_lag_max = self._lag_max = 0
        counts = self._write_intervals(second, gauges, process)
        values = {metric: np.concatenate(parts) for metric, parts in self._values.items()}
        errors, self._errors, self._values = self._errors, Counter(), {}
        present = {name: value for name, value in process.items() if value is not None}
        return Flush(second, values, counts, dict(gauges), errors, connect_errors, present)

    def _count_outcomes(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            self.counts["conversations_" + row["outcome"]] += 1
            self.counts["stalls"] += row["stalls"]
            if row["tainted"]:
                self.counts["conversations_tainted"] += 1
            elif keeps_limits(row, self._yardsticks.limits):
                self.counts["conversations_good"] += 1
            if row["error"] is not None:
                self._errors[row["error"]] += 1

    def _absorb_tokens(self, tokens: Measured, everyone: Sequence[Conversation]) -> None:
        size = tokens.arrival.size
        if not size:
            return
        # Stamp and read come from two clocks that agree to well under a microsecond; less than nothing is nothing.
        lag = np.maximum(tokens.lag, 0)
        if any(c.taint == SLOW_READER for c in everyone):
            # Late because it was told to be: no lateness of ours.
            slow = self._each(everyone, tokens, (c.taint == SLOW_READER for c in everyone)).astype(np.bool_)
            lag = np.where(slow, NEVER, lag)
        self._lag_max = max(self._lag_max, int(lag.max()))
        self.counts["messages"] += size
        self.counts["coalesced"] += int(tokens.coalesced.sum())
        self.counts["acks_sent"] += int(self._each(everyone, tokens, (c.window > 0 and c.taint != WITHHELD for c in everyone)).sum())
        tainted = self._each(everyone, tokens, (c.taint is not None for c in everyone)).astype(np.bool_)
        # Tokens belong to the second of their arrival.
        seconds = np.maximum((tokens.arrival - self.origin) // SECOND_NS, 0)
        distinct, sizes = np.unique(seconds, return_counts=True)
        for second, count in zip(distinct.tolist(), sizes.tolist(), strict=True):
            self._tokens[second] = self._tokens.get(second, 0) + count
        if (several := tokens.extra > 0).any():
            self._gap_metric = "inter_chunk"
            for second, count in zip(seconds[several].tolist(), tokens.extra[several].tolist(), strict=True):
                self._tokens[second] += count
        self._absorb_shares(tokens, seconds, tainted, everyone)
        for metric, values in ((self._gap_metric, tokens.gap), ("token_latency", tokens.latency), ("receive_lag", lag)):
            present = values != NEVER
            clean = present & ~tainted
            self._note(metric, values[clean])
            for second in distinct.tolist():
                here = seconds == second if len(distinct) > 1 else True
                self._add(second, metric, False, values[clean & here])
                self._add(second, metric, True, values[present & tainted & here])
        if self._record_tokens:
            self._sink.append(
                "tokens",
                {
                    "worker": [self.worker] * size, "connection": self._each(everyone, tokens, (c.connection for c in everyone)),
                    "conversation": self._each(everyone, tokens, (c.number for c in everyone)), "sequence": tokens.sequence,
                    "arrival_at_ns": tokens.arrival - self.origin, "read_at_ns": tokens.read - self.origin,
                    "coalesced": tokens.coalesced, "text": tokens.texts, "tokens": 1 + tokens.extra,
                },
            )  # fmt: skip

    def _absorb_report(self, c: Conversation) -> None:
        """Tokens that the server says it sent beyond those counted (or fewer), spread evenly from the first message to the last."""
        surplus = c.tokens - c.messages - c.extra_tokens
        if surplus > 1:
            # One more may be the mark of the end, which has no text; more were in messages with others.
            self._gap_metric = "inter_chunk"
        first, last = (max(0, instant - self.origin) for instant in (c.first_arrival, c.last_arrival))
        given = 0
        for second in range(first // SECOND_NS, last // SECOND_NS + 1):
            share = 1.0 if last <= first else min(1.0, ((second + 1) * SECOND_NS - first) / (last - first))
            part = round(surplus * share) - given
            given += part
            self._tokens[second] = self._tokens.get(second, 0) + part

    def _absorb_shares(self, tokens: Measured, seconds: Ints, tainted: npt.NDArray[np.bool_], everyone: Sequence[Conversation]) -> None:
        """Tokens of each conversation and second, of those that the generator has not disturbed."""
        # They stand in the order of conversations and arrivals: a run of equal pairs is one entry.
        begins = np.ones(len(seconds), dtype=np.bool_)
        begins[1:] = (tokens.owner[1:] != tokens.owner[:-1]) | (seconds[1:] != seconds[:-1])
        at = np.flatnonzero(begins)
        counts = np.add.reduceat(1 + tokens.extra, at)
        numbers = np.fromiter((c.number for c in everyone), dtype=np.int64, count=len(everyone))[tokens.owner[at]]
        if (sound := ~tainted[at]).all():
            self._shares.add(numbers, seconds[at], counts)
        else:
            self._shares.add(numbers[sound], seconds[at][sound], counts[sound])

    @staticmethod
    def _each(everyone: Sequence[Conversation], tokens: Measured, values: Iterable[int]) -> Ints:
        """A value of each conversation, spread over its tokens."""
        return np.fromiter(values, dtype=np.int64, count=len(everyone))[tokens.owner]

    def _absorb_rows(self, rows: list[dict[str, Any]]) -> None:
        for metric in ("send_delay", "ttft", "ttft_due", "e2e", "e2e_due", "tpot", "longest_stall", "stop_latency"):
            column = metric + "_ns"
            by_second: dict[tuple[int, bool], list[int]] = {}
            for row in rows:
                if (value := row[column]) is not None:
                    start = row["sent_at_ns"] if row["due_at_ns"] is None else row["due_at_ns"]
                    by_second.setdefault((max(0, start // SECOND_NS), row["tainted"]), []).append(value)
            for (second, tainted), found in by_second.items():
                values = np.array(found, dtype=np.int64)
                self._add(second, metric, tainted, values)
                if not tainted:
                    self._note(metric, values)

    def _note(self, metric: str, values: Ints) -> None:
        if values.size:
            self._values.setdefault(metric, []).append(values)

    def _add(self, second: int, metric: str, tainted: bool, values: Ints) -> None:
        if not values.size:
            return
        outside = (values < 0) | (values > MAX_VALUE)
        if outside.any():
            self.counts["clamped"] += int(outside.sum())
            values = np.clip(values, 0, MAX_VALUE)
        key = (second, metric, tainted)
        if key not in self._histograms:
            self._histograms[key] = Histogram()
        self._histograms[key].record(values)

    def _append_rows(self, table: str, rows: list[dict[str, Any]]) -> None:
        if rows:
            columns = {f.name: [row.get(f.name) for row in rows] for f in TABLES[table] if f.name != "worker"}
            self._sink.append(table, {"worker": [self.worker] * len(rows), **columns})

    def _write_intervals(self, second: int, gauges: Mapping[str, int], process: Mapping[str, int | None]) -> dict[str, int]:
        per_second, self._tokens = self._tokens, {}
        arrivals, self._arrivals = self._arrivals, {}
        counts, self.counts = self.counts, dict.fromkeys(COUNTERS, 0)
        none = dict.fromkeys(COUNTERS, 0)
        rows: list[dict[str, Any]] = [
            {**none, "second": s, "tokens": per_second.get(s, 0), **arrivals.get(s, {})}
            for s in sorted(per_second.keys() | arrivals.keys())
            if s != second
        ]
        counts |= {"tokens": per_second.get(second, 0), **arrivals.get(second, {})}
        rows.append({**counts, **gauges, **process, "second": second})
        self._append_rows("intervals", rows)
        for name in ("arrivals_due", "arrivals_late", "arrivals_dropped"):
            counts[name] = sum(at.get(name, 0) for at in arrivals.values())
        return {**counts, "tokens": sum(per_second.values())}
