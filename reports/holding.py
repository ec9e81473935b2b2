"""What it took to open the connections and what it costs to hold them: opening rate, memory a connection on both sides, counts compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .load import Run

OPENED_SHARE = (0.05, 0.95)
"""The opening rate is read between these shares of the connections: the first and the last few would blur it."""
LEAST_OPENED = 10
"""Fewer instants give no rate."""
LEAST_CONNECTIONS = 500
"""Below so many, resident memory grows by other things more than by connections."""
SETTLED_SHARE = 0.98
"""A side's memory counts while at least this share of its most connections is open."""


def measure_holding(run: Run) -> dict[str, Any]:
    """Opening rate, connections held, the server's count beside ours, bytes a connection.

    ``connects_per_s``: connects that succeeded in the steady window. ``opening_rate_per_s``: between the 5 % and the 95 % opened.
    ``held``: the fewest open at the end of a steady second (what was held all along), in all workers. ``server_difference_max``: the
    largest difference between the server's count and ours in the steady seconds that have both and in which ours stood still (the two
    are not read at the same instant). ``..._bytes_per_connection``: rise of the side's resident memory from its first reading to the
    median of the seconds with (nearly) all open, by the rise in connections.
    """
    per_second = run.per_second()
    steady = per_second.reindex(run.window.seconds)
    ours, theirs = whole_open(run.intervals).reindex(run.window.seconds), steady["server_open"].astype(float)
    still = (ours.diff().fillna(0) == 0) & (ours.diff(-1).fillna(0) == 0)
    apart = (theirs - ours)[still].abs().dropna()
    workers = [
        _memory(rows["open"], rows["rss_bytes"]) for _, rows in run.intervals.groupby("worker", observed=True) if rows["open"].notna().any()
    ]
    known = [found for found in workers if found is not None]
    return {
        "connects_per_s": float(steady["connects_succeeded"].sum()) / len(steady) if len(steady) else None,
        "opening_rate_per_s": opening_rate(run.connections),
        "held": None if not ours.notna().any() else int(ours.min()),
        "server_difference_max": int(apart.max()) if len(apart) else None,
        "generator_bytes_per_connection": sum(rise for rise, _ in known) / sum(count for _, count in known) if known else None,
        "server_bytes_per_connection": _each(_memory(per_second["server_open"], per_second["server_rss_bytes"])),
    }


def whole_open(intervals: pd.DataFrame) -> pd.Series[float]:
    """Open connections at the end of each second that every worker reported; a worker that was late left some seconds out."""
    reported = intervals[intervals["open"].notna()]
    table = reported.groupby("second")["open"].agg(["sum", "count"])
    return table.loc[table["count"] == reported["worker"].nunique(), "sum"].astype(float)


def opening_rate(connections: pd.DataFrame) -> float | None:
    """Connections opened a second over the middle of the first opening, reconnects left out; None for too few, or all in an instant."""
    opened = connections[connections["connect_time_ns"].notna()]
    at = np.sort((opened["opened_at_ns"] + opened["connect_time_ns"])[~opened.duplicated(["worker", "user"])].to_numpy(dtype=np.float64))
    first, last = (int(share * (len(at) - 1)) for share in OPENED_SHARE) if len(at) else (0, 0)
    if last - first < LEAST_OPENED or at[last] <= at[first]:
        return None
    return float((last - first) / (at[last] - at[first]) * 1e9)


def _memory(open_: pd.Series[float], resident: pd.Series[float]) -> tuple[float, float] | None:
    """Rise of the resident memory (bytes) and of the connections behind it, from the first reading to the time with nearly all open."""
    both = pd.DataFrame({"open": open_.astype(float), "resident": resident.astype(float)}).dropna()
    if len(both) < 2:
        return None
    first = both.iloc[0]
    held = both[both["open"] >= SETTLED_SHARE * both["open"].max()].median()
    count = float(held["open"] - first["open"])
    return (float(held["resident"] - first["resident"]), count) if count >= LEAST_CONNECTIONS else None


def _each(found: tuple[float, float] | None) -> float | None:
    return None if found is None else found[0] / found[1]
