"""The figures as they stand while a run goes on: merged over workers, shown to Prometheus. Results come from the run directory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .histogram import Histogram
from .recorder import Flush
from .run_directory import GAUGES

WINDOW_S = 10
"""Latencies are shown over the last so many reports, so that what they show is now and not the whole run."""
QUANTILES = (0.5, 0.9, 0.99)


class LiveView(Collector):
    """Adds up what the workers report; Prometheus collects it as ``streamgauge_run_*``.

    ``add`` takes a flush of this process. A worker's view is emptied by ``take`` into plain lists and numbers for Locust's message to
    the master, whose view takes them by ``merge``.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new run begins."""
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._gauges: dict[str, dict[str, int]] = {}
        self._recent: deque[dict[str, Histogram]] = deque(maxlen=WINDOW_S)
        self._pending: list[dict[str, Any]] = []

    def add(self, flush: Flush, ship: bool = False) -> None:
        """Take what one second brought; ``ship`` keeps it for the master too."""
        histograms = {}
        for metric, values in flush.values.items():
            histograms[metric] = Histogram()
            histograms[metric].record(values.clip(min=0))
        errors = flush.conversation_errors + flush.connect_errors
        self._take_in("", flush.counts, errors, flush.gauges, histograms)
        if ship:
            encoded = {m: [*h.encode(), h.total, h.minimum, h.maximum] for m, h in histograms.items()}
            self._pending.append(
                {"counts": dict(flush.counts), "errors": dict(errors), "gauges": dict(flush.gauges), "histograms": encoded}
            )

    def take(self) -> list[dict[str, Any]]:
        """What has come since the last call, as numbers, lists and strings."""
        pending, self._pending = self._pending, []
        return pending

    def merge(self, worker: str, reports: Iterable[Mapping[str, Any]]) -> None:
        """Take a worker's reports; ValueError or KeyError when they are not what ``take`` gave."""
        merged: dict[str, Histogram] = {}
        for report in reports:
            for metric, (index, count, total, minimum, maximum) in report["histograms"].items():
                merged.setdefault(metric, Histogram()).add_counts(index, count, total, minimum, maximum)
            self._take_in(worker, report["counts"], report["errors"], report["gauges"], {})
        if merged:
            self._recent.append(merged)

    def _take_in(
        self, worker: str, counts: Mapping[str, int], errors: Mapping[str, int], gauges: Mapping[str, int], histograms: dict[str, Histogram]
    ) -> None:
        self.counts.update(counts)
        self.errors.update(errors)
        if gauges:
            self._gauges[worker] = dict(gauges)
        if histograms:
            self._recent.append(histograms)

    @property
    def gauges(self) -> dict[str, int]:
        """Users and connections by state, summed over workers."""
        return {name: sum(worker.get(name, 0) for worker in self._gauges.values()) for name in GAUGES}

    def recent(self) -> dict[str, Histogram]:
        """Latencies of the last seconds, by metric."""
        merged: dict[str, Histogram] = {}
        for histograms in self._recent:
            for metric, histogram in histograms.items():
                merged.setdefault(metric, Histogram()).merge(histogram)
        return merged

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
        for name, value in self.gauges.items():
            yield GaugeMetricFamily(f"streamgauge_run_{name}", f"{name.capitalize()} now", value=value)
        latency = GaugeMetricFamily(
            "streamgauge_run_latency_seconds", f"Quantiles over about the last {WINDOW_S} s", labels=["metric", "quantile"]
        )
        for metric, histogram in sorted(self.recent().items()):
            for quantile, ns in zip(QUANTILES, histogram.quantiles(QUANTILES), strict=True):
                if ns is not None:
                    latency.add_metric([metric, str(quantile)], ns / 1e9)
        yield latency
