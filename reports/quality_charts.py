"""Charts of what a user would notice: goodput, fairness, and how smoothly answers streamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.objectives import parse_limits

from .goodput import GOOD, MISSED, judge_conversations
from .load import Run
from .measures import gap_metric
from .palette import BLUE, GREEN, INK, MUTED, ORANGE, SKY, VERMILION
from .smoothness import Evenness, read_evenness, read_service, typical_gap
from .style import figure, plain_ticks, shade_phases, time_axis
from .timelines import span_edges
from .window import SPANS

LONGEST_LABEL = 60
Floats = npt.NDArray[np.float64]
Summary = Mapping[str, Any]


def _frame(run: Run, top: Axes, bottom: Axes) -> None:
    end_s = run.window.drain_end_ns / 1e9
    for axes in (top, bottom):
        time_axis(axes, end_s, label=axes is bottom)
        plain_ticks(axes)
        shade_phases(axes, run.window.warm_up_end_ns / 1e9, run.window.steady_end_ns / 1e9, end_s, named=axes is top)


def chart_goodput(run: Run, summary: Summary) -> Figure | None:
    """Conversations that met every objective and that missed one, over time by their start, and the share of the good ones."""
    goodput = summary.get("goodput")
    if not goodput or not goodput["share"]["n"]:
        return None
    edges = span_edges(run)
    clean = run.untainted()
    state = judge_conversations(run, parse_limits(goodput["objectives"]), clean).state
    span = np.searchsorted(edges, run.starts_ns()[clean] / 1e9, "right") - 1
    width = np.diff(edges).astype(np.float64)
    spans = len(edges) - 1
    good, missed = (
        np.bincount(np.clip(span[state == which], 0, spans - 1), minlength=spans).astype(np.float64) for which in (GOOD, MISSED)
    )
    dropped = np.zeros(spans)
    if goodput["dropped"]:
        counted = run.per_second()["arrivals_dropped"].fillna(0)
        np.add.at(dropped, np.clip(np.searchsorted(edges, counted.index.to_numpy(), "right") - 1, 0, spans - 1), counted.to_numpy())
    made, (top, bottom) = figure(2, 1, sharex=True, height_ratios=[3, 2])
    top.set_title("Goodput over time")
    met = ", ".join(map(_plain, goodput["objectives"]))
    layers = [
        (f"met {met}" if len(met) <= LONGEST_LABEL else f"met all {len(goodput['objectives'])} objectives", good / width, GREEN),
        ("missed", missed / width, VERMILION),
        ("dropped", dropped / width, INK),
    ]
    below = np.zeros(spans)
    for name, values, colour in layers:
        if values.any():
            top.stairs(below + values, edges, baseline=below, fill=True, color=colour, alpha=0.85, linewidth=0, label=name)
            below = below + values
    top.set_ylim(0, max(1.0, float(below.max())) * 1.25)
    top.set_ylabel("conversations/s")
    top.legend(loc="upper right", ncols=3, fontsize=8)
    with np.errstate(invalid="ignore"):
        part = 100 * good / (good + missed + dropped)
    bottom.stairs(np.where(np.isfinite(part), part, np.nan), edges, baseline=None, color=BLUE, linewidth=1.6)
    bottom.set_ylim(0, 105)
    bottom.set_ylabel("% good")
    _frame(run, top, bottom)
    return made


def _plain(objective: str) -> str:
    return objective.replace("_", " ").replace("<=", "≤")


def chart_fairness(run: Run, summary: Summary) -> Figure | None:
    """Jain's index and the share of conversations that got a token, over time, and how many tokens a second each got."""
    even = read_evenness(run, typical_gap(summary["metrics"][gap_metric(summary)]))
    service = read_service(run)
    known = [(found, values) for found, values in ((even, _index(even)), (service, _served(service))) if found is not None]
    if not any(np.isfinite(values).any() for _, values in known):
        return None
    made, (top, bottom) = figure(2, 1, sharex=True, height_ratios=[3, 2])
    top.set_title("Fairness between conversations")
    if service is not None:
        edges, values = _over_time(service, _served(service))
        top.stairs(values, edges, baseline=None, color=ORANGE, linewidth=3.0, label=f"share that got a token within {service.length_s} s")
    if even is not None:
        edges, values = _over_time(even, _index(even))
        top.stairs(values, edges, baseline=None, color=BLUE, linewidth=1.6, label=f"Jain's index, intervals of {even.length_s} s")
    shown = service if service is not None else even
    assert shown is not None
    edges, alone = _over_time(shown, np.where(shown.conversations >= 2, 1 / np.maximum(shown.conversations, 1), np.nan))
    top.stairs(alone, edges, baseline=None, color=MUTED, linewidth=1.0, linestyle=(0, (2, 2)), label="if one got everything")
    top.set_ylim(0, 1.6)
    top.set_ylabel("1: all alike")
    top.legend(loc="upper left", ncols=2, fontsize=8, borderaxespad=1.4)
    found = even if even is not None else shown
    mean, spread = found.mean, found.deviation
    (edges, low), (_, high), (_, middle) = (_over_time(found, part) for part in (np.maximum(mean - spread, 0), mean + spread, mean))
    bottom.stairs(high, edges, baseline=low, fill=True, color=SKY, alpha=0.4, linewidth=0, label="± one standard deviation")
    bottom.stairs(middle, edges, baseline=None, color=BLUE, linewidth=1.6, label="mean")
    bottom.set_ylim(0, max(1e-3, float(np.nanmax(mean + spread))) * 1.35)
    bottom.set_ylabel("tokens/s each")
    bottom.legend(loc="upper right", ncols=2, fontsize=8)
    _frame(run, top, bottom)
    top.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    return made


def _index(found: Evenness | None) -> Floats:
    return found.index if found is not None else np.zeros(0)


def _served(found: Evenness | None) -> Floats:
    if found is None:
        return np.zeros(0)
    return np.where(found.conversations >= 2, found.served / np.maximum(found.conversations, 1), np.nan)


def _over_time(found: Evenness, values: Floats) -> tuple[Floats, Floats]:
    """Edges (s) and values without gaps in time; where more intervals than a page can show would stand, means over several."""
    begin, end = int(found.second[0]), int(found.second[-1]) + found.length_s
    edges = np.arange(begin, end + found.length_s, found.length_s, dtype=np.float64)
    out = np.full(len(edges) - 1, np.nan)
    out[(found.second - begin) // found.length_s] = values
    width = -(-len(out) // SPANS)
    if width > 1:
        known = np.isfinite(out)
        starts = np.arange(0, len(out), width)
        sums, counts = np.add.reduceat(np.where(known, out, 0), starts), np.add.reduceat(known, starts, dtype=np.int64)
        out, edges = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan), np.append(edges[starts], edges[-1])
    return edges, out


def chart_smoothness(run: Run, summary: Summary) -> Figure | None:
    """The longest gap of each conversation against the stall threshold, and how many tokens came by a reader's deadline."""
    stalls, fluidity = summary.get("stalls"), summary.get("fluidity")
    if not stalls or not fluidity:
        return None
    rows = run.conversations[["longest_stall_ns", "late_tokens", "tokens"]][run.in_window() & run.untainted()]
    longest = np.sort(rows["longest_stall_ns"].dropna().to_numpy(dtype=np.float64)) / 1e6
    counted = rows[(rows["tokens"] > 0) & rows["late_tokens"].notna()]
    fluid = np.sort(100 * (1 - counted["late_tokens"].to_numpy(dtype=np.float64) / counted["tokens"].to_numpy(dtype=np.float64)))
    if not len(longest) or not len(fluid):
        return None
    made, (left, right) = figure(1, 2, width_ratios=[3, 2])
    left.set_title("Longest gap of a conversation")
    keep = np.unique(np.linspace(0, len(longest) - 1, min(len(longest), 400)).astype(np.int64))
    longest = np.maximum(longest, 1e-3)
    left.step(longest[keep], 100 * (keep + 1) / len(longest), where="post", color=BLUE)
    threshold = stalls["threshold_ns"] / 1e6
    if longest[-1] > 8 * longest[0]:
        left.set_xscale("log")
    if threshold <= 1.5 * longest[-1]:
        left.axvline(threshold, color=VERMILION, linestyle=(0, (4, 2)), linewidth=1.2)
        left.annotate("stall", xy=(threshold, 0), xycoords=("data", "axes fraction"), xytext=(3, 4), textcoords="offset points",
                      fontsize=7.5, color=VERMILION)  # fmt: skip
    left.set_ylim(0, 103)
    left.set_ylabel("% of conversations, at most")
    left.set_xlabel("ms (log)" if left.get_xscale() == "log" else "ms")
    plain_ticks(left, x=True)
    right.set_title("Fluidity")
    low = 10 * np.floor(fluid[0] / 10) if fluid[0] < 90 else 90.0
    right.hist(fluid, bins=np.linspace(low, 100, 21).tolist(), weights=np.full(len(fluid), 100 / len(fluid)), color=ORANGE)
    right.set_xlim(low, 100)
    right.set_ylim(0, 105)
    right.set_xlabel("% of tokens in time for a reader")
    right.set_ylabel("% of conversations")
    plain_ticks(right)
    return made
