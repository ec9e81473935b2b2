"""How smoothly answers streamed: stalls, a reader's fluidity, and fairness between conversations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from loadtest.fairness import jain

from .load import Run
from .measures import measure
from .sample import sample_rows
from .shares import batched_share
from .window import Batches

GAPS_PER_INTERVAL = 10
"""Shorter intervals would take the chance of one token more or less for unfairness: ten give an index of 0.91 to tokens that come at
random, and 1 to paced ones."""
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
_LOW = {"p50": "p50", "p10": "p90", "p5": "p95", "p1": "p99"}
"""Low percentiles of fluidity are high ones of its complement."""


def measure_stalls(run: Run, chosen: Flags, batches: Batches) -> dict[str, Any] | None:
    """Gaps above the stated threshold in the ``chosen`` conversations; None in a run that did not count them."""
    rows = run.conversations[["stalls", "longest_stall_ns"]][chosen]
    counted = rows["stalls"].notna().to_numpy(dtype=bool) & rows["longest_stall_ns"].notna().to_numpy(dtype=bool)
    stated = (run.metadata.get("load") or {}).get("stall_ns")
    if stated is None or not counted.any():
        return None
    stalls = rows["stalls"].to_numpy(dtype=np.float64)[counted]
    at = batches.of_instants(run.starts_ns()[chosen][counted])
    return {
        "threshold_ns": int(stated), "stalls": int(stalls.sum()), "most": int(stalls.max()),
        "share": batched_share(stalls > 0, at, batches.strata),
    }  # fmt: skip


def measure_fluidity(run: Run, chosen: Flags, batches: Batches) -> dict[str, Any] | None:
    """Share of the tokens that came by a reader's deadline, in all and by conversation; None in a run that did not count them."""
    rows = run.conversations[["tokens", "late_tokens"]][chosen]
    tokens, late = rows["tokens"].to_numpy(dtype=np.float64), rows["late_tokens"].to_numpy(dtype=np.float64)
    counted = (tokens > 0) & ~np.isnan(late)
    load = run.metadata.get("load") or {}
    if load.get("reader_gap_ns") is None or not counted.any():
        return None
    part = late[counted] / tokens[counted]
    figures = measure("fluidity", sample_rows(part, batches.of_instants(run.starts_ns()[chosen][counted]), batches.strata))
    return {
        "reader_first_ns": int(load["reader_first_ns"]), "reader_gap_ns": int(load["reader_gap_ns"]),
        "tokens": 1 - float(late[counted].sum() / tokens[counted].sum()), "n": figures["n"], "mean": 1 - figures["mean"],
        "min": 1 - figures["max"], "percentiles": {low: _complement(figures["percentiles"][high]) for low, high in _LOW.items()},
    }  # fmt: skip


def _complement(entry: dict[str, Any]) -> dict[str, Any]:
    def turned(value: float | None) -> float | None:
        return None if value is None else 1 - value

    return {**entry, "value": turned(entry["value"]), "low": turned(entry["high"]), "high": turned(entry["low"])}


@dataclass(frozen=True, slots=True)
class Evenness:
    """Intervals of one length in rising order, over all workers: their first seconds, and the three sums of each."""

    length_s: int
    second: npt.NDArray[np.int64]
    conversations: Floats
    served: Floats
    tokens: Floats
    squared: Floats

    @property
    def index(self) -> Floats:
        """Jain's index; NaN where fewer than two conversations streamed through the interval, or none got a token."""
        return np.where(self.conversations >= 2, jain(self.conversations, self.tokens, self.squared), np.nan)

    @property
    def mean(self) -> Floats:
        """Tokens a second and conversation."""
        with np.errstate(divide="ignore", invalid="ignore"):
            each: Floats = self.tokens / self.conversations / self.length_s
        return each

    @property
    def deviation(self) -> Floats:
        """Standard deviation between conversations, tokens a second."""
        with np.errstate(divide="ignore", invalid="ignore"):
            square = self.squared / self.conversations - (self.tokens / self.conversations) ** 2
        return np.sqrt(np.maximum(square, 0.0)) / self.length_s


def read_evenness(run: Run, gap_ns: float | None) -> Evenness | None:
    """The shortest intervals that hold ten gaps of ``gap_ns``; None where none is long enough or nothing was recorded."""
    if not gap_ns:
        return None
    long_enough = sorted(int(one) for one in run.fairness["length_s"].unique() if one * 1e9 >= GAPS_PER_INTERVAL * gap_ns)
    return read_intervals(run, long_enough[0]) if long_enough else None


def read_intervals(run: Run, length_s: int) -> Evenness:
    """The intervals of one length, over all workers."""
    rows = run.fairness[run.fairness["length_s"] == length_s]
    names = ["conversations", "served", "tokens", "tokens_squared"]
    sums: pd.DataFrame = rows.groupby("second")[names].sum().sort_index()
    return Evenness(length_s, sums.index.to_numpy(dtype=np.int64), *(sums[name].to_numpy(dtype=np.float64) for name in names))


def read_service(run: Run) -> Evenness | None:
    """The shortest intervals in which every conversation should get two tokens, by the pace asked of the server or else a reader's."""
    load = run.metadata.get("load") or {}
    wanted_ns = 1e6 * max(0.0, float(load.get("gap_ms") or 0)) or float(load.get("reader_gap_ns") or 0)
    lengths = sorted(int(one) for one in run.fairness["length_s"].unique() if wanted_ns and one * 1e9 >= 2 * wanted_ns)
    return read_intervals(run, lengths[0]) if lengths else None


def measure_service(run: Run) -> dict[str, Any] | None:
    """Share of the streaming conversations that got a token at all in an interval of the window: 1/n where they wait for one another."""
    found = read_service(run)
    if found is None:
        return None
    inside = _inside(run, found) & (found.conversations >= 2)
    if not inside.any():
        return None
    share = found.served[inside] / found.conversations[inside]
    return {
        "interval_s": found.length_s, "intervals": int(inside.sum()), "conversations": float(found.conversations[inside].mean()),
        "mean": float(share.mean()), "lowest": float(share.min()), "lowest_at_s": int(found.second[inside][np.argmin(share)]),
    }  # fmt: skip


def _inside(run: Run, found: Evenness) -> Flags:
    begin, end = run.window.warm_up_end_ns / 1e9, run.window.steady_end_ns / 1e9
    inside: Flags = (found.second >= begin) & (found.second + found.length_s <= end)
    return inside


def typical_gap(figures: dict[str, Any]) -> float | None:
    """The median gap, or the mean where too few stand behind a median; None without any."""
    median = figures["percentiles"]["p50"]["value"]
    value = median if median is not None else figures["mean"]
    return None if value is None else float(value)


def measure_fairness(run: Run, gaps: dict[str, Any]) -> dict[str, Any] | None:
    """Jain's index over the intervals that lie whole in the steady window; None where there is none to measure it in."""
    found = read_evenness(run, typical_gap(gaps))
    if found is None:
        return None
    index = found.index
    inside = _inside(run, found) & ~np.isnan(index)
    if not inside.any():
        return None
    index, second = index[inside], found.second[inside]
    return {
        "interval_s": found.length_s, "intervals": int(inside.sum()), "conversations": float(found.conversations[inside].mean()),
        "mean": float(index.mean()), "lowest": float(index.min()), "lowest_at_s": int(second[np.argmin(index)]),
    }  # fmt: skip
