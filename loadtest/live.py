"""The figures as they stand while a run goes on: merged over workers, shown to Prometheus. Results come from the run directory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from .histogram import MAX_VALUE, Histogram, bucket_index
from .live_history import WINDOW_S, Encoded, History
from .recorder import Flush
from .tables import GAUGES

QUANTILES = (0.5, 0.9, 0.99)


class LiveView(Collector):
    """Adds up what the workers report; Prometheus collects it as ``streamgauge_run_*``.

    ``add`` takes a flush of this process. A worker's view is emptied by ``take`` into plain lists and numbers for Locust's message to
    the master, whose view takes them by ``merge``.
    """

    def __init__(self) -> None:
        self.history: History | None = None
        self.reset()

    def reset(self, run: str = "") -> None:
        """Forget everything: a new run begins, of this name; what still comes of another one is not taken."""
        self.run = run
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._gauges: dict[str, dict[str, int]] = {}
        self._process: dict[str, dict[str, int]] = {}
        self._recent: deque[dict[str, list[Encoded]]] = deque(maxlen=WINDOW_S)
        self._pending: list[dict[str, Any]] = []
        if self.history is not None:
            self.history.begin(run)

    def add(self, flush: Flush, ship: bool = False) -> None:
        """Take what one second brought; ``ship`` keeps it for the master too."""
        histograms = {metric: _encode(values.clip(0, MAX_VALUE)) for metric, values in flush.values.items() if values.size}
        report: dict[str, Any] = {
            "run": self.run, "second": flush.second, "counts": flush.counts, "errors": flush.conversation_errors + flush.connect_errors,
            "gauges": flush.gauges, "process": flush.process, "histograms": histograms,
        }  # fmt: skip
        if ship:
            lists = {metric: [index.tolist(), count.tolist(), *rest] for metric, (index, count, *rest) in histograms.items()}
            self._pending.append({**report, "errors": dict(report["errors"]), "histograms": lists})
        self.merge("", [report])

    def take(self) -> list[dict[str, Any]]:
        """What has come since the last call, as numbers, lists and strings."""
        pending, self._pending = self._pending, []
        return pending

    def merge(self, worker: str, reports: Iterable[Mapping[str, Any]]) -> None:
        """Take a worker's reports; KeyError, TypeError or ValueError when they are not what ``take`` gave."""
        merged: dict[str, list[Encoded]] = {}
        for report in reports:
            if report["run"] != self.run:
                continue
            if worker:
                for encoded in report["histograms"].values():
                    # Told now, and not whenever somebody looks.
                    Histogram().add_counts(*encoded)
            for metric, encoded in report["histograms"].items():
                merged.setdefault(metric, []).append(encoded)
            self.counts.update(report["counts"])
            self.errors.update(report["errors"])
            if report["gauges"]:
                self._gauges[worker] = dict(report["gauges"])
            self._process[worker] = dict(report["process"])
            if self.history is not None:
                self.history.take(worker, report)
        if merged:
            self._recent.append(merged)

    @property
    def gauges(self) -> dict[str, int]:
        """Users and connections by state, summed over workers."""
        return {name: sum(worker.get(name, 0) for worker in self._gauges.values()) for name in GAUGES}

    def recent(self) -> dict[str, Histogram]:
        """Latencies of the last seconds, by metric."""
        merged: dict[str, Histogram] = {}
        for histograms in self._recent:
            for metric, parts in histograms.items():
                for encoded in parts:
                    merged.setdefault(metric, Histogram()).add_counts(*encoded)
        return merged

    def latencies(self, qs: Sequence[float]) -> Iterable[tuple[str, str, float]]:
        """Quantiles of the last seconds: metric, quantile, seconds."""
        for metric, histogram in sorted(self.recent().items()):
            for q, ns in zip(qs, histogram.quantiles(qs), strict=True):
                if ns is not None:
                    yield metric, str(q), ns / 1e9

    def serve(self, host: str, port: int) -> None:
        """Show the figures at http://host:port/metrics from now on; OSError when the port is taken."""
        registry = CollectorRegistry()
        registry.register(self)
        start_http_server(port, host, registry)

    def collect(self) -> Iterable[Metric]:
        """What Prometheus sees."""
        for name, help_text in (
            ("tokens", "Tokens received"),
            ("stops_sent", "Stops sent"),
            ("reconnects", "Connects after a lost or failed connection"),
            ("ghost_tokens", "Tokens that came when no conversation was running"),
            ("double_ends", "End messages that came when no conversation was running"),
            ("coalesced", "Messages that came in the same read as the one before"),
        ):
            yield CounterMetricFamily(f"streamgauge_run_{name}", help_text, value=self.counts[name])
        conversations = CounterMetricFamily("streamgauge_run_conversations", "Conversations by outcome", labels=["outcome"])
        for outcome in ("completed", "stopped", "empty", "failed", "abandoned"):
            conversations.add_metric([outcome], self.counts["conversations_" + outcome])
        yield conversations
        connects = CounterMetricFamily("streamgauge_run_connects", "Connects by outcome", labels=["outcome"])
        for outcome in ("succeeded", "failed"):
            connects.add_metric([outcome], self.counts["connects_" + outcome])
        yield connects
        errors = CounterMetricFamily("streamgauge_run_errors", "Failed conversations and connects by kind", labels=["kind"])
        for kind, count in self.errors.items():
            errors.add_metric([kind], count)
        yield errors
        yield InfoMetricFamily("streamgauge_run", "The run that these figures are of", value={"run": self.run})
        for name, value in self.gauges.items():
            yield GaugeMetricFamily(f"streamgauge_run_{name}", f"{name.capitalize()} now", value=value)
        latency = GaugeMetricFamily(
            "streamgauge_run_latency_seconds", f"Quantiles over about the last {WINDOW_S} s", labels=["metric", "quantile"]
        )
        for metric, quantile, seconds in self.latencies(QUANTILES):
            latency.add_metric([metric, quantile], seconds)
        yield latency
        yield from self._instrument()

    def _instrument(self) -> Iterable[Metric]:
        """How the generator fares, and what the target says of itself: the last second that is known."""
        lag = GaugeMetricFamily("streamgauge_run_loop_lag_seconds", "Longest lag of a worker's loop in its last second", labels=["worker"])
        share = GaugeMetricFamily(
            "streamgauge_run_cpu_share", "Processor time of a worker in its last second, of one core", labels=["worker"]
        )
        server = GaugeMetricFamily(
            "streamgauge_run_server_connections", "Connections by state, as the target counts them", labels=["state"]
        )
        for worker, process in self._process.items():
            lag.add_metric([worker], process.get("loop_lag_max_ns", 0) / 1e9)
            if process.get("covered_ns"):
                share.add_metric([worker], process.get("cpu_ns", 0) / process["covered_ns"])
            for state in ("open", "streaming"):
                if f"server_{state}" in process:
                    server.add_metric([state], process[f"server_{state}"])
        yield from (lag, share, server)


def _encode(values: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int, int, int]:
    index, count = np.unique(bucket_index(values), return_counts=True)
    return index, count, int(values.sum(dtype=np.float64)), int(values.min()), int(values.max())
