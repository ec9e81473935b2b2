"""OpenTelemetry, when Locust runs with ``--otel``: a span a conversation and a connect, live metrics. Through Locust's own providers.

Spans are made of the rows that are written anyway, once they are written, with the instants that were measured; nothing is done while a
token is on its way. docs/web.md names what is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from locust.runners import WorkerRunner
from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import SpanKind, Status, StatusCode

from .lifecycle import Lifecycle
from .live import QUANTILES
from .recorder import Sink

logger = logging.getLogger("streamgauge")

BOUNDARIES_S = tuple(base * 10.0**power for power in range(-4, 2) for base in (1, 2, 5))
"""Of the histograms: from a tenth of a millisecond to 50 s."""
_OUTCOMES = ("completed", "stopped", "empty", "failed", "abandoned")
_ATTRIBUTES = (
    "worker", "connection", "conversation", "outcome", "tokens", "messages", "coalesced", "window", "ttft_ns", "ttft_due_ns", "tpot_ns",
    "e2e_ns", "stop_latency_ns", "overrun_tokens", "longest_stall_ns", "receive_lag_max_ns", "send_delay_ns", "tainted", "users",
)  # fmt: skip
_DURATIONS = (
    ("ttft_ns", "streamgauge.conversation.time_to_first_token", "Prompt sent to arrival of the first token"),
    ("e2e_ns", "streamgauge.conversation.duration", "Prompt sent to arrival of the end, conversations that ran to their own end"),
    ("stop_latency_ns", "streamgauge.conversation.stop_latency", "Stop sent to arrival of the end"),
)
Row = Mapping[str, Any]


class Telemetry:
    """Sends what one process sees to the providers that Locust has set up."""

    def __init__(self, lifecycle: Lifecycle, is_worker: bool) -> None:
        self._lifecycle = lifecycle
        self._tracer = trace.get_tracer("streamgauge")
        meter = metrics.get_meter("streamgauge")
        self._durations = [
            (column, meter.create_histogram(name, unit="s", description=text, explicit_bucket_boundaries_advisory=BOUNDARIES_S))
            for column, name, text in _DURATIONS
        ]
        if not is_worker:
            # The master's figures are those of all workers; theirs beside them would count everything twice.
            self._observe(meter)

    def _observe(self, meter: metrics.Meter) -> None:
        live = self._lifecycle.live

        def observed(read: Callable[[], Iterable[tuple[float, dict[str, str]]]]) -> Callable[[CallbackOptions], Iterable[Observation]]:
            # Each run counts from nothing, so each has its own series.
            return lambda _: [Observation(value, {"streamgauge.run": live.run, **more}) for value, more in read()] if live.run else []

        meter.create_observable_counter(
            "streamgauge.tokens", [observed(lambda: [(live.counts["tokens"], {})])], unit="{token}", description="Tokens received"
        )
        meter.create_observable_counter(
            "streamgauge.conversations",
            [observed(lambda: [(live.counts["conversations_" + one], {"streamgauge.outcome": one}) for one in _OUTCOMES])],
            unit="{conversation}", description="Conversations by outcome",
        )  # fmt: skip
        meter.create_observable_counter(
            "streamgauge.errors",
            [observed(lambda: [(count, {"error.type": kind}) for kind, count in live.errors.items()])],
            unit="{error}", description="Failed conversations and connects by kind",
        )  # fmt: skip
        meter.create_observable_gauge(
            "streamgauge.connections",
            [observed(lambda: [(live.gauges[state], {"state": state}) for state in ("opening", "open", "streaming")])],
            unit="{connection}", description="Connections by state, now",
        )  # fmt: skip
        meter.create_observable_gauge(
            "streamgauge.latency",
            [observed(lambda: ((s, {"streamgauge.metric": metric, "quantile": q}) for metric, q, s in live.latencies(QUANTILES)))],
            unit="s", description="Quantiles over the last seconds",
        )  # fmt: skip

    def tap(self, sink: Sink, run: str, origin_wall_ns: int) -> Sink:
        """The sink, with a look at the rows that go into it."""
        return _Tap(sink, lambda table, rows: self._send(table, rows, run, origin_wall_ns))

    def _send(self, table: str, rows: Iterable[Row], run: str, origin_wall_ns: int) -> None:
        send = self._conversation if table == "conversations" else self._connection
        for row in rows:
            send(row, {"streamgauge.run": run}, origin_wall_ns)

    def _conversation(self, row: Row, about: dict[str, Any], origin: int) -> None:
        attributes = {**about, **{f"streamgauge.{name}": row[name] for name in _ATTRIBUTES if row.get(name) is not None}}
        if row["error"] is not None:
            attributes["error.type"] = row["error"]
        span = self._tracer.start_span("conversation", kind=SpanKind.CLIENT, attributes=attributes, start_time=origin + row["sent_at_ns"])
        for column, name in (("first_token_at_ns", "first token"), ("stop_sent_at_ns", "stop sent"), ("last_token_at_ns", "last token")):
            if row.get(column) is not None:
                span.add_event(name, timestamp=origin + row[column])
        if row["outcome"] == "failed":
            span.set_status(Status(StatusCode.ERROR, row.get("error_detail") or row["error"]))
        last = next(row[at] for at in ("end_at_ns", "last_token_at_ns", "sent_at_ns") if row.get(at) is not None)
        span.end(end_time=origin + max(last, row["sent_at_ns"]))
        series = {**about, "streamgauge.worker": row["worker"], "streamgauge.outcome": row["outcome"]}
        for column, histogram in self._durations:
            if row.get(column) is not None and not row["tainted"]:
                histogram.record(row[column] / 1e9, series)

    def _connection(self, row: Row, about: dict[str, Any], origin: int) -> None:
        attributes = {**about, "streamgauge.worker": row["worker"], "streamgauge.connection": row["connection"]}
        attributes["streamgauge.outcome"] = row["outcome"]
        if row.get("error") is not None:
            attributes["error.type"] = row["error"]
        start = origin + row["opened_at_ns"]
        span = self._tracer.start_span("connect", kind=SpanKind.CLIENT, attributes=attributes, start_time=start)
        if row["outcome"] == "failed":
            span.set_status(Status(StatusCode.ERROR, row.get("error_detail") or row["error"]))
        took = row.get("connect_time_ns")
        span.end(end_time=start + took if took is not None else origin + (row.get("closed_at_ns") or row["opened_at_ns"]))


class _Tap:
    """A sink that lets rows through and shows those of conversations and connections to somebody."""

    def __init__(self, sink: Sink, seen: Callable[[str, Iterable[Row]], None]) -> None:
        self._sink = sink
        self._seen = seen

    def append(self, table: str, columns: Mapping[str, Sequence[Any] | np.ndarray[Any, Any]]) -> None:
        """Append rows, column by column."""
        self._sink.append(table, columns)
        if table in ("conversations", "connections"):
            names = list(columns)
            self._seen(table, (dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)))


def install_telemetry(lifecycle: Lifecycle, runner: Any) -> None:
    """Send spans and metrics from now on."""
    telemetry = Telemetry(lifecycle, isinstance(runner, WorkerRunner))
    lifecycle.measurement.tap = telemetry.tap
