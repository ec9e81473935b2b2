"""The live history: rows by second over workers that report at different times, windows, warm-up, reset; beside the stored histogram."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.histogram import Histogram, bucket_index
from loadtest.live import LiveView
from loadtest.live_history import COLUMNS, KEPT_S, LATE_S, WINDOW_S, Buckets, Encoded, History
from loadtest.recorder import Flush


def encoded(*values: int) -> Encoded:
    histogram = Histogram()
    histogram.record(values)
    index, count = histogram.encode()
    return index, count, sum(values), min(values), max(values)


def report(second: int, tokens: int = 0, open_: int | None = None, **histograms: Encoded) -> dict[str, Any]:
    gauges = {} if open_ is None else {"users": open_, "opening": 0, "open": open_, "streaming": open_}
    process = {"cpu_ns": 300_000_000, "covered_ns": 1_000_000_000, "loop_lag_max_ns": 2_000_000}
    counts = {"tokens": tokens, "connects_failed": 1}
    return {"second": second, "counts": counts, "gauges": gauges, "process": process, "histograms": histograms}


def rows(history: History, part: str = "", since: int = -1) -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in json.loads(history.rows_since(part, since))]


@pytest.fixture
def history() -> History:
    made = History()
    made.begin("run")
    return made


@given(st.lists(st.integers(0, 10**12), min_size=11, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_quantiles_are_those_of_the_stored_histogram(values: list[int], q: float) -> None:
    buckets, histogram = Buckets(), Histogram()
    buckets.add(encoded(*values))
    histogram.record(values)
    found, stored = buckets.quantiles([q])[0], histogram.quantile(q)
    if found is not None:
        # The stored one knows the exact extremes; the bucket is the same.
        assert stored is not None
        assert bucket_index([found])[0] == bucket_index([stored])[0]


def test_a_percentile_needs_its_samples() -> None:
    buckets = Buckets()
    buckets.add(encoded(*range(1000, 1064)))
    assert [value is None for value in buckets.quantiles([0.5, 0.9, 0.99])] == [False, False, True]
    buckets.take_away(encoded(1000))
    assert [value is None for value in buckets.quantiles([0.5, 0.9, 0.99])] == [False, True, True]


def test_one_process_has_its_row_at_once(history: History) -> None:
    history.take("", report(3, tokens=70, open_=4, itl=encoded(*[2_000_000] * 11)))
    (row,) = rows(history)
    assert (row["second"], row["tokens_per_s"], row["open"], row["failed"]) == (3, 70, 4, 1)
    assert row["itl_p50_ms"] == pytest.approx(2, rel=1e-3)
    assert row["itl_p90_ms"] is None
    assert row["server_open"] is None
    assert (row["cpu_share"], row["loop_lag_max_ms"]) == (0.3, 2.0)


def test_a_row_waits_for_the_other_worker_and_adds_up(history: History) -> None:
    history.take("a", report(0, open_=1))
    history.take("b", report(0, open_=2))
    history.take("a", report(1, tokens=5, open_=1))
    assert [row["second"] for row in rows(history)] == [0]
    history.take("b", report(1, tokens=7, open_=2))
    assert [(row["tokens_per_s"], row["open"]) for row in rows(history)[1:]] == [(12, 3)]


def test_a_worker_that_is_gone_holds_nobody_up_and_loses_nothing(history: History) -> None:
    history.take("a", report(0))
    history.take("b", report(0))
    for second in range(1, LATE_S + 3):
        history.take("a", report(second, tokens=1))
    assert rows(history)[-1]["second"] == LATE_S + 2
    # It was only late: what it brings counts in the next row.
    history.take("b", report(2, tokens=100))
    history.take("a", report(LATE_S + 3, tokens=1))
    for second in range(LATE_S + 4, 2 * LATE_S + 6):
        history.take("a", report(second))
    assert sum(row["tokens_per_s"] for row in rows(history)) == 100 + LATE_S + 3


def test_latencies_are_those_of_the_last_seconds(history: History) -> None:
    history.take("", report(0, itl=encoded(*[9_000_000] * 50)))
    for second in range(1, WINDOW_S + 1):
        history.take("", report(second, itl=encoded(*[1_000_000] * 20)))
    assert rows(history)[0]["itl_p50_ms"] == pytest.approx(9, rel=1e-3)
    assert rows(history)[-1]["itl_p90_ms"] == pytest.approx(1, rel=1e-3)
    (itl,) = history.table()
    assert (itl["n"], itl["recent_n"], itl["max_ms"]) == (50 + 20 * WINDOW_S, 20 * WINDOW_S, 9.0)


def test_figures_begin_anew_after_the_warm_up(history: History) -> None:
    assert history.warming_up
    history.take("", report(0, tokens=1, itl=encoded(*[9_000_000] * 50)))
    history.steady_from(2)
    history.steady_from(7)  # the next step of a ladder: the first one counts
    history.take("", report(1, tokens=1, itl=encoded(*[9_000_000] * 50)))
    assert history.warming_up
    history.take("", report(2, tokens=1, itl=encoded(*[1_000_000] * 50)))
    assert not history.warming_up
    assert history.figures["itl"].n == 50
    assert (history.counts["tokens"], history.seconds) == (1, 1)
    assert len(rows(history)) == 3, "the charts show all of it"


def test_only_what_is_new_is_given_out(history: History) -> None:
    for second in range(5):
        history.take("", report(second))
    part = history.part
    assert [row["second"] for row in rows(history, part, 2)] == [3, 4]
    assert rows(history, part, 4) == []
    assert len(rows(history, "another", 4)) == 5
    history.reset()
    assert history.part != part
    assert rows(history, part, 4) == []
    history.take("", report(5))
    assert [row["second"] for row in rows(history, part, 4)] == [5]
    assert rows(history)[0]["failed"] == 6, "what failed before stays failed"


def test_only_the_last_seconds_are_kept(history: History) -> None:
    for second in range(KEPT_S + 7):
        history.take("", report(second))
    assert [rows(history)[at]["second"] for at in (0, -1)] == [7, KEPT_S + 6]


def view() -> LiveView:
    made = LiveView()
    made.history = History()
    made.reset("run")
    return made


def flush(second: int) -> Flush:
    values = {"itl": np.full(12, 3_000_000), "ttft": np.empty(0, dtype=np.int64)}
    gauges = {"users": 2, "opening": 0, "open": 2, "streaming": 1}
    return Flush(second, values, {"tokens": 12}, gauges, Counter({"stalled": 1}), Counter(), {"cpu_ns": 1, "covered_ns": 4})


def test_what_a_worker_ships_is_what_it_saw() -> None:
    worker, master, alone = LiveView(), view(), view()
    worker.reset("run")
    for second in range(3):
        worker.add(flush(second), ship=True)
        alone.add(flush(second))
    shipped = json.loads(json.dumps(worker.take()))  # numbers, lists and strings alone
    master.merge("w", shipped)
    assert worker.take() == []
    assert master.history is not None
    assert alone.history is not None
    assert rows(master.history) == rows(alone.history)
    assert (master.counts, master.errors, master.gauges) == (alone.counts, alone.errors, alone.gauges)
    assert master.recent()["itl"].count == 36


def test_what_another_run_left_is_not_taken() -> None:
    worker, master = LiveView(), view()
    worker.reset("the run before")
    worker.add(flush(900), ship=True)
    master.merge("w", worker.take())
    assert master.counts["tokens"] == 0


@pytest.mark.parametrize("change", [{"histograms": {"itl": [[-1], [1], 1, 1, 1]}}, {"histograms": {"itl": [[10**9], [1], 1, 1, 1]}}])
def test_a_report_that_is_none_is_refused(change: dict[str, Any]) -> None:
    worker = LiveView()
    worker.add(flush(0), ship=True)
    broken = {**worker.take()[0], "run": "run", **change}
    with pytest.raises(ValueError, match=r"bucket|count"):
        view().merge("w", [broken])
