"""What opening and holding connections came to: rates and memory of made-up tables, and of whole synthetic runs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from benchmarks.synthetic import SyntheticRun
from reports.content import holding_rows
from reports.holding import measure_holding, opening_rate
from reports.load import Run

MS = 10**6


def opened(count: int, per_second: float, workers: int = 1) -> pd.DataFrame:
    at = np.arange(count) * 1e9 / per_second
    return pd.DataFrame(
        {
            "worker": [f"w{i % workers}" for i in range(count)], "user": np.arange(count) // workers, "opened_at_ns": at.astype(np.int64),
            "connect_time_ns": np.full(count, 3.0 * MS), "tcp_ns": 1.0 * MS, "attempt": 0,
        }
    )  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
def test_the_opening_rate_is_that_of_the_middle(workers: int) -> None:
    table = opened(1000, 250.0, workers)
    assert opening_rate(table) == pytest.approx(250.0)
    # One that came a minute later changes nothing.
    late = table.iloc[[-1]].assign(user=10_000, opened_at_ns=60 * 10**9)
    assert opening_rate(pd.concat([table, late], ignore_index=True)) == pytest.approx(250.0, rel=0.01)


def test_reconnects_and_failures_are_no_part_of_the_opening() -> None:
    table = opened(1000, 250.0)
    again = table.assign(opened_at_ns=table["opened_at_ns"] + 50 * 10**9)
    failed = table.assign(connect_time_ns=np.nan, user=table["user"] + 5000, opened_at_ns=0)
    assert opening_rate(pd.concat([failed, table, again], ignore_index=True)) == pytest.approx(250.0)


def test_few_or_simultaneous_connections_have_no_rate() -> None:
    assert opening_rate(opened(0, 1.0)) is None
    assert opening_rate(opened(8, 1.0)) is None
    assert opening_rate(opened(1000, 250.0).assign(opened_at_ns=5)) is None


def made_run(intervals: pd.DataFrame, seconds: range) -> Run:
    per_second = intervals.groupby("second")[["open", "server_open", "server_rss_bytes", "connects_succeeded"]].sum(min_count=1)
    run = SimpleNamespace(
        intervals=intervals, connections=opened(0, 1.0), per_second=lambda: per_second, window=SimpleNamespace(seconds=np.array(seconds))
    )
    return cast(Run, run)


def two_workers(difference: int = 0) -> pd.DataFrame:
    """10 seconds: 1 000 connections a second over two workers for five, then held; 12 KiB a connection here, 20 KiB there."""
    rows: list[dict[str, Any]] = []
    for second in range(10):
        total = 1000 * min(second + 1, 5)
        for worker in range(2):
            own = total // 2
            rows.append(
                {
                    "worker": f"w{worker}", "second": second, "open": own,
                    "connects_succeeded": 500 if second < 5 else 0, "rss_bytes": (100 << 20) + own * (12 << 10),
                    "server_open": total + (difference if second > 6 else 0) if worker == 0 else None,
                    "server_rss_bytes": (50 << 20) + total * (20 << 10) if worker == 0 else None,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_memory_a_connection_is_the_rise_over_the_connections_on_both_sides() -> None:
    found = measure_holding(made_run(two_workers(), range(6, 10)))
    assert found["generator_bytes_per_connection"] == pytest.approx(12 << 10)
    assert found["server_bytes_per_connection"] == pytest.approx(20 << 10)
    assert (found["held"], found["server_difference_max"]) == (5000, 0)


def test_connects_of_the_window_are_the_churn() -> None:
    assert measure_holding(made_run(two_workers(), range(3, 8)))["connects_per_s"] == pytest.approx(2 * 1000 / 5)
    assert measure_holding(made_run(two_workers(), range(6, 10)))["connects_per_s"] == 0


def test_a_second_that_one_worker_left_out_is_not_half_the_connections() -> None:
    table = two_workers()
    table = table[~((table["second"] == 7) & (table["worker"] == "w1"))]
    assert measure_holding(made_run(table, range(6, 10)))["held"] == 5000


def test_a_server_that_counts_otherwise_is_shown() -> None:
    assert measure_holding(made_run(two_workers(difference=-3), range(6, 10)))["server_difference_max"] == 3


def test_counts_are_held_against_each_other_only_while_ours_stand_still() -> None:
    table = two_workers()
    # While connections open, a count read half a second earlier is another.
    table.loc[table["second"] < 5, "server_open"] -= 400
    assert measure_holding(made_run(table, range(10)))["server_difference_max"] == 0


def test_few_connections_say_nothing_about_memory(models: Callable[[str], SyntheticRun], summary_of: Callable[..., Any]) -> None:
    summary = summary_of(models("two_workers"))
    holding = summary["holding"]
    assert holding["generator_bytes_per_connection"] is None
    assert holding["server_bytes_per_connection"] is None
    assert holding["held"] is not None
    assert not any("memory" in name for name, _ in holding_rows(summary))


def test_the_rows_say_it_in_words() -> None:
    summary = {"holding": measure_holding(made_run(two_workers(), range(6, 10))), "server": {"leaked_connections": 2}}
    assert dict(holding_rows(summary)) == {
        "held through the window": "5\N{NARROW NO-BREAK SPACE}000",
        "the server's count, apart at most": "0", "left open on the server": "2",
        "memory each, generator": "12.0 KiB", "memory each, server": "20.0 KiB",
    }  # fmt: skip
