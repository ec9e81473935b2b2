"""Feeds Locust's own table in bulk, once a second, at a resolution finer than its millisecond.

Locust rounds response times into buckets before counting them. Its module-level ``bucket_response_time`` is documented as replaceable;
the two other replacements keep its CSV files and its minimum and maximum from falling back to whole milliseconds. The table is a live
view: results come from the run directory.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from typing import Any

import locust.stats
import numpy as np
import numpy.typing as npt
from locust.stats import RequestStats, StatsCSV, StatsEntry, StatsError

from .adapter import HTTP, WEBSOCKET
from .recorder import Flush

KINDS = {WEBSOCKET: "WS", HTTP: "HTTP"}
"""Transport to what Locust's table calls it, in the place of a request's method."""
ROWS = {
    "connect_time": "connect",
    "ttft": "first token",
    "token_latency": "token",
    "itl": "token gap",
    "inter_chunk": "message gap",
    "stop_latency": "stop",
    "e2e": "conversation",
}
"""Metric to row name. Only whole conversations count in the aggregated row: a sum over tokens and connects means nothing."""
_LEAST_MS = 0.001
_RATE_KEPT_S = 60
_HISTORY_KEPT = 2000


def bucket(value_ms: float) -> float:
    """Two significant digits, from a microsecond up; Locust sorts a row's buckets once a second, so there must be few."""
    if value_ms < _LEAST_MS:
        return _LEAST_MS
    digits = 1 - math.floor(math.log10(value_ms))
    return round(value_ms, digits)


def _buckets(values_ms: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    clipped = np.maximum(values_ms, _LEAST_MS)
    scale = 10.0 ** (1 - np.floor(np.log10(clipped)))
    return np.unique(np.round(clipped * scale) / scale, return_counts=True)


def _percentile_fields(self: StatsCSV, entry: StatsEntry, use_current: bool = False) -> list[Any]:
    if not entry.num_requests:
        return list(self.percentiles_na)
    read = (
        entry.get_current_response_time_percentile if use_current and entry.use_response_times_cache else entry.get_response_time_percentile
    )
    return [read(p) or 0 for p in self.percentiles_to_report]


def refine_locust() -> None:
    """Make Locust's tables keep less than a millisecond, in this process."""
    replaced: Any = locust.stats
    replaced.bucket_response_time = bucket
    replaced.proper_round = lambda value, digits=0: round(float(value), max(digits, 3))
    replaced.StatsCSV._percentile_fields = _percentile_fields


def feed(stats: RequestStats, flush: Flush, transport: str = WEBSOCKET) -> None:
    """Add one second's new values (ns) and errors to Locust's table; ``transport`` as an adapter has it."""
    bound(stats, time.time())
    for metric, name in ROWS.items():
        errors: Mapping[str, int] = {}
        if metric == "connect_time":
            errors = flush.connect_errors
        elif metric == "e2e":
            errors = flush.conversation_errors
        values = flush.values.get(metric)
        if (values is not None and values.size) or errors:
            row = name, KINDS[transport]
            _extend(stats, row, np.empty(0) if values is None else values / 1e6, errors, aggregated=metric == "e2e")


def bound(stats: RequestStats, now: float) -> None:
    """Forget what Locust keeps for ever and never reads again: rates of long-past seconds, and half of a history grown too long.

    Without this a run of days would grow by megabytes an hour. ``now``: seconds since 1970.
    """
    oldest = int(now) - _RATE_KEPT_S
    for entry in (stats.total, *stats.entries.values()):
        for rates in (entry.num_reqs_per_sec, entry.num_fail_per_sec):
            # They stand in the order of time, but for what another process sent late.
            for second in [second for second in itertools.islice(rates, _RATE_KEPT_S) if second < oldest]:
                del rates[second]
    if len(stats.history) > _HISTORY_KEPT:
        # A chart of hours needs no point every five seconds.
        del stats.history[1:-1:2]


def _extend(
    stats: RequestStats, row: tuple[str, str], values_ms: npt.NDArray[np.float64], errors: Mapping[str, int], aggregated: bool
) -> None:
    now = time.time()
    failures = sum(errors.values())
    # Locust counts a failure as a request too; one without a time is given none.
    entry = StatsEntry(stats, *row)
    entry.num_requests = int(values_ms.size) + failures
    entry.num_none_requests = failures
    entry.num_failures = failures
    if values_ms.size:
        keys, counts = _buckets(values_ms)
        entry.total_response_time = float(values_ms.sum())  # type: ignore[assignment]  # Locust says int and adds floats itself
        entry.min_response_time = float(values_ms.min())  # type: ignore[assignment]
        entry.max_response_time = float(values_ms.max())  # type: ignore[assignment]
        buckets: Any = entry.response_times  # Locust says int and puts floats there itself
        for rounded, count in zip(keys.tolist(), counts.tolist(), strict=True):
            buckets[bucket(rounded)] += count
    entry.last_request_timestamp = now
    entry.num_reqs_per_sec = {int(now): entry.num_requests}
    if failures:
        entry.num_fail_per_sec = {int(now): failures}
    stats.entries[row].extend(entry)
    if aggregated:
        stats.total.extend(entry)
    for kind, count in errors.items():
        key = StatsError.create_key(row[1], row[0], kind)
        if key not in stats.errors:
            stats.errors[key] = StatsError(row[1], row[0], kind)
        stats.errors[key].occurrences += count
