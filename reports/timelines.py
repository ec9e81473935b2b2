"""Charts of one run over its time. Series are cut to at most ``SPANS`` points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .load import Run
from .measures import headline_metric
from .palette import BLUE, GREEN, INK, MUTED, ORANGE, PERCENTILE_COLOURS, PURPLE, SKY, VERMILION
from .style import figure, label_ends, latency_scale, plain_ticks, shade_phases, time_axis

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Summary = Mapping[str, Any]

_WIDTHS = {"open": 3.4, "server_open": 2.0}
"""Lines that often lie on one another: the lower ones are wider."""
LINE_QS = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
LINE_SAMPLES = {"p50": 1, "p90": 5, "p99": 50}
"""A point of a line stands on at least so many values: a picture of the course, not a stated percentile."""


def span_edges(run: Run) -> Ints:
    """Edges (whole seconds) of the spans that a series over time is drawn in."""
    window = run.window
    return np.arange(0, window.end_s + window.span_s, window.span_s, dtype=np.int64)


def _end_s(run: Run) -> float:
    return run.window.drain_end_ns / 1e9


def _phases(axes: Axes, run: Run, *, named: bool = True) -> None:
    shade_phases(axes, run.window.warm_up_end_ns / 1e9, run.window.steady_end_ns / 1e9, _end_s(run), named=named)


def _percentile_lines(axes: Axes, run: Run, edges: Ints, lines: Floats) -> None:
    """p50, p90 and p99 (ms) in the middle of each span, named at their ends."""
    middle = (edges[:-1] + edges[1:]) / 2
    drawn = []
    for column, (name, colour) in enumerate(PERCENTILE_COLOURS.items()):
        sound = np.isfinite(lines[:, column])
        if not sound.any():
            continue
        _plot(axes, middle, lines[:, column], color=colour, label=name)
        drawn.append((float(middle[sound][-1]), float(lines[sound, column][-1]), name, colour))
    time_axis(axes, _end_s(run))
    latency_scale(axes, [lines])
    _phases(axes, run)
    label_ends(axes, drawn)


def _plot(axes: Axes, x: Floats, y: Floats, *, color: str, label: str, linestyle: Any = "-") -> None:
    """A line that breaks where there is no value; a value without neighbours is a dot."""
    axes.plot(x, y, color=color, label=label, linestyle=linestyle)
    known = np.isfinite(y)
    alone = known & ~np.append(known[1:], False) & ~np.insert(known[:-1], 0, False)
    if alone.any():
        axes.plot(x[alone], y[alone], color=color, linestyle="none", marker="o", markersize=2.5)


def chart_token_latency(run: Run, summary: Summary) -> Figure | None:
    """Token latency over time; the gaps between tokens where the run had no acknowledgements."""
    metric = headline_metric(summary)
    if not summary["metrics"].get(metric, {}).get("n"):
        return None
    edges = span_edges(run)
    lines = run.histogram(metric).quantiles_over_time(edges, tuple(LINE_QS.values())) / 1e6
    if not np.isfinite(lines).any():
        return None
    made, (axes,) = figure()
    axes.set_title(f"{summary['metrics'][metric]['title']} over time")
    axes.set_ylabel("ms")
    _percentile_lines(axes, run, edges, lines)
    settled = summary["window"]["settled_at_s"]
    if settled is not None and settled > summary["window"]["warm_up_end_s"] + 1:
        axes.axvline(settled, color=PURPLE, linestyle=(0, (2, 2)), linewidth=1.2, label="settled")
        axes.annotate("settled", xy=(settled, 1), xycoords=("data", "axes fraction"), xytext=(3, -3), textcoords="offset points",
                      va="top", fontsize=7.5, color=PURPLE)  # fmt: skip
    return made


def chart_ttft(run: Run, summary: Summary) -> Figure | None:
    """Time to first token over time, by the start of the conversation."""
    chosen = run.untainted() & run.conversations["ttft_ns"].notna().to_numpy(dtype=bool)
    rows = run.conversations.loc[chosen, ["ttft_ns", "ttft_due_ns"]]
    if not len(rows):
        return None
    edges = span_edges(run)
    column = "ttft_due_ns" if rows["ttft_due_ns"].notna().any() else "ttft_ns"
    span = np.clip(np.searchsorted(edges, run.starts_ns()[chosen] / 1e9, "right") - 1, 0, len(edges) - 2)
    lines = _row_quantiles(span, rows[column].to_numpy(dtype=np.float64), len(edges) - 1) / 1e6
    made, (axes,) = figure()
    axes.set_title("Time to first token over time" + (", from due" if column == "ttft_due_ns" else ""))
    axes.set_ylabel("ms")
    _percentile_lines(axes, run, edges, lines)
    return made


def _row_quantiles(span: Ints, values: Floats, spans: int) -> Floats:
    """Nearest-rank p50, p90 and p99 of each span's values; NaN where the line asks for more values than there are."""
    out = np.full((spans, len(LINE_QS)), np.nan)
    order = np.lexsort((values, span))
    span, values = span[order], values[order]
    begins = np.searchsorted(span, np.arange(spans + 1))
    for i in np.flatnonzero(np.diff(begins)):
        part = values[begins[i] : begins[i + 1]]
        for column, (name, q) in enumerate(LINE_QS.items()):
            if len(part) >= LINE_SAMPLES[name]:
                out[i, column] = part[max(0, int(np.ceil(round(q * len(part), 9))) - 1)]
    return out


def _mean_per_span(edges: Ints, series: Any) -> Floats:
    """Mean over each span of a per-second series (indexed by second); NaN where it has no value."""
    out = np.full(len(edges) - 1, np.nan)
    values = series.astype(float)
    span = np.searchsorted(edges, values.index.to_numpy(), "right") - 1
    for i, mean in values.groupby(span).mean().items():
        if 0 <= int(i) < len(out):
            out[int(i)] = mean
    return out


def chart_connections(run: Run, summary: Summary) -> Figure | None:
    """Connections over time: opening, open, streaming and failed, and the server's own count beside ours."""
    per_second = run.per_second()
    if not len(per_second) or not per_second[["opening", "open", "connects_failed"]].fillna(0).to_numpy().any():
        return None
    edges = span_edges(run)
    made, (axes,) = figure()
    axes.set_title("Connections over time")
    ends = []
    series = [("open", "open", BLUE, "-"), ("streaming", "streaming", GREEN, "-"), ("opening", "opening", ORANGE, "-")]
    series += [("server_open", "open, server's count", INK, (0, (1, 1.6)))]  # type: ignore[list-item]
    failed = _mean_per_span(edges, per_second["connects_failed"])
    for column, name, colour, dash in series:
        values = _mean_per_span(edges, per_second[column])
        # A connection is open in a second that had one; who never opened any has no line.
        if not np.isfinite(values).any() or (column == "opening" and not np.nanmax(values)):
            continue
        axes.step(edges[1:], values, where="pre", color=colour, linestyle=dash, label=name, linewidth=_WIDTHS.get(column, 1.6))
        ends.append((float(edges[-1]), float(np.nanmax(values)), name, colour))
    if np.nansum(failed):
        axes.step(edges[1:], failed, where="pre", color=VERMILION, label="failed, each second")
    axes.set_ylim(0, max(1.0, max((end[1] for end in ends), default=1.0), float(np.nanmax(failed, initial=0))) * 1.3)
    time_axis(axes, _end_s(run))
    plain_ticks(axes)
    axes.set_ylabel("connections")
    _phases(axes, run)
    axes.legend(loc="upper left", ncols=3, fontsize=8, columnspacing=1.2, handlelength=1.6, bbox_to_anchor=(0, 1.0), borderaxespad=1.4)
    return made


def chart_throughput(run: Run, summary: Summary) -> Figure | None:
    """Tokens and conversations a second over time."""
    per_second = run.per_second()
    if not len(per_second) or not per_second[["tokens", "conversations_started"]].fillna(0).to_numpy().any():
        return None
    edges = span_edges(run)
    made, (top, bottom) = figure(2, 1, sharex=True)
    good = per_second["conversations_completed"].fillna(0) + per_second["conversations_stopped"].fillna(0)
    top.set_title("Throughput over time")
    top.step(edges[1:], _mean_per_span(edges, per_second["tokens"].fillna(0)), where="pre", color=BLUE, label="tokens")
    top.set_ylabel("tokens/s")
    bottom.step(edges[1:], _mean_per_span(edges, good), where="pre", color=GREEN, label="ended well")
    bad = per_second["conversations_failed"].fillna(0) + per_second["conversations_empty"].fillna(0)
    if bad.any():
        bottom.step(edges[1:], _mean_per_span(edges, bad), where="pre", color=VERMILION, label="failed or empty")
        bottom.legend(loc="upper right", fontsize=8)
    bottom.set_ylabel("conversations/s")
    for axes in (top, bottom):
        axes.set_ylim(0, max(1.0, axes.dataLim.ymax) * 1.2)
        time_axis(axes, _end_s(run), label=axes is bottom)
        plain_ticks(axes)
        _phases(axes, run, named=axes is top)
    return made


def chart_receive_lag(run: Run, summary: Summary) -> Figure | None:
    """How late the generator itself read, beside what it measured."""
    if not summary["metrics"].get("receive_lag", {}).get("n"):
        return None
    edges = span_edges(run)
    lag = run.histogram("receive_lag").quantiles_over_time(edges, (0.5, 0.99), tainted=True) / 1e6
    gap = run.histogram(run.gap_metric).quantiles_over_time(edges, (0.5,)) / 1e6
    middle = (edges[:-1] + edges[1:]) / 2
    made, (axes,) = figure()
    axes.set_title("The generator's own lateness beside what it measured")
    ends = []
    for values, name, colour in ((lag[:, 0], "lag p50", SKY), (lag[:, 1], "lag p99", BLUE), (gap[:, 0], "gap p50", MUTED)):
        sound = np.isfinite(values) & (values > 0)
        if sound.any():
            shown = np.where(sound, values, np.nan)
            _plot(axes, middle, shown, color=colour, label=name, linestyle="-" if name != "gap p50" else (0, (4, 2)))
            ends.append((float(middle[sound][-1]), float(values[sound][-1]), name, colour))
    time_axis(axes, _end_s(run))
    latency_scale(axes, [lag, gap])
    axes.set_ylabel("ms")
    _phases(axes, run)
    label_ends(axes, ends)
    return made
