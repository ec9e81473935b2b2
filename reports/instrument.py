"""How the generator itself fared: its processor, its lateness, its clock, and the seconds it failed to record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .load import Run


def measure_instrument(run: Run, receive_lag: dict[str, Any]) -> dict[str, Any]:
    """Per worker, over the steady seconds: CPU as a share of one core, coverage of the time, lags, memory."""
    stated = (run.metadata.get("workers") or {}).get("seen") or []
    clocks = {str(worker.get("worker")): str(worker.get("clock", "kernel")) for worker in stated}
    # One that came late has nothing to show of what was before.
    began = {str(worker.get("worker")): int(worker.get("began_at_ns") or 0) for worker in stated}
    steady = run.intervals[run.intervals["second"].isin(run.window.seconds)]
    steps = run.metadata.get("steps") or []
    # Another worker's or the master's start is no second that this one failed to record; that all users run, it has to have seen.
    spawned = int(steps[0]["at_ns"]) if steps else 0
    names = sorted(set(clocks) | {str(name) for name in run.intervals["worker"].unique()})
    workers = []
    for name in names:
        rows = steady[steady["worker"] == name]
        everything = run.intervals[run.intervals["worker"] == name]
        covered = float(rows["covered_ns"].sum())
        workers.append(
            {
                "worker": name, "clock": clocks.get(name, "kernel"),
                "cpu_share": float(rows["cpu_ns"].sum()) / covered if covered else None,
                "missing_s": missing_seconds(everything, run.window.drain_end_ns, max(spawned, began.get(name, 0))),
                "loop_lag_max_ns": _largest(rows["loop_lag_max_ns"]), "receive_lag_max_ns": _largest(rows["receive_lag_max_ns"]),
                "rss_max_bytes": _largest(everything["rss_bytes"]),
            }
        )  # fmt: skip
    kinds = {worker["clock"] for worker in workers}
    per_second = run.per_second().reindex(run.window.seconds)
    messages = float(per_second["messages"].sum())
    server_cpu = per_second["server_cpu_ns"].dropna()
    # The server's counter only grows; its share is its rise over the seconds between first and last reading.
    elapsed = float(server_cpu.index[-1] - server_cpu.index[0]) if len(server_cpu) > 1 else 0.0
    return {
        "server_cpu_share": float(server_cpu.iloc[-1] - server_cpu.iloc[0]) / 1e9 / elapsed if elapsed else None,
        "clock": kinds.pop() if len(kinds) == 1 else "mixed" if kinds else None, "workers": workers,
        "receive_lag_p50_ns": receive_lag["percentiles"]["p50"]["value"], "receive_lag_p99_ns": receive_lag["percentiles"]["p99"]["value"],
        "coalesced_share": float(per_second["coalesced"].sum()) / messages if messages else None,
        "unstamped_share": float(per_second["unstamped"].sum()) / messages if messages else None,
        "clock_step_max_ns": _largest(run.intervals["clock_step_ns"].abs()),
    }  # fmt: skip


def missing_seconds(rows: pd.DataFrame, drain_end_ns: int, begin_ns: int = 0) -> int | None:
    """Whole seconds from ``begin_ns`` that one worker's records leave out: at the start, in between, at the end; None without a record.

    Each record says how much time it covers and which second it closes (the last one: in which it was written). As long as none is
    missing, the end of that second minus the time covered so far is when the record began; a record written late lowers it for once
    by less than half a second, and every lost second raises it by one from there on.
    """
    sound = rows[rows["covered_ns"].notna()]
    if not len(sound):
        return None
    second, covered = sound["second"].to_numpy(dtype=np.float64) * 1e9, sound["covered_ns"].to_numpy(dtype=np.float64)
    ended = second + 1e9
    ended[-1] = max(second[-1], min(ended[-1], drain_end_ns))
    began = ended - np.cumsum(covered)
    before = (began[0] - begin_ns) // 1e9
    within, until = 0, began[0]
    if len(began) > 1:
        within, until = round((began[:-1].max() - began[0]) / 1e9), began[:-1].max()
    last = (began[-1] - until) // 1e9
    after = (drain_end_ns - second[-1]) // 1e9 - 1
    return int(max(0, before) + within + max(0, last) + max(0, after))


def _largest(column: pd.Series[float]) -> int | None:
    value = column.max()
    return None if pd.isna(value) else int(value)
