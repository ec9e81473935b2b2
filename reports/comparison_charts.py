"""Charts of several runs over one another, a colour a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .distributions import percentile_axis, percentile_curve
from .load import Run
from .measures import gap_metric, headline_metric
from .palette import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from .sample import Sample, sample_rows
from .style import figure, latency_scale, plain_ticks, time_axis
from .timelines import span_edges
from .window import make_batches

Summary = Mapping[str, Any]
LONGEST_NAME = 40
RUN_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)


def _common(summaries: Sequence[Summary]) -> str | None:
    """The token metric that all runs have."""
    names = {headline_metric(summary) for summary in summaries}
    metric = names.pop() if len(names) == 1 else gap_metric(summaries[0])
    return metric if all(s["metrics"].get(metric, {}).get("n") for s in summaries) else None


def _name(summary: Summary) -> str:
    name = str(summary["run"]["name"])
    if len(name) > LONGEST_NAME:
        # A legend wider than its chart leaves no room for the chart. Names differ at their ends: a date, a variant.
        name = f"{name[: LONGEST_NAME // 2]}…{name[-LONGEST_NAME // 2 + 1 :]}"
    return name + ("" if summary["validity"]["valid"] else " (invalid)")


def _curves(title: str, runs: Sequence[Run], summaries: Sequence[Summary], metric: str, read: Callable[[Run], Sample]) -> Figure | None:
    made, (axes,) = figure()
    axes.set_title(title)
    drawn, reach = [], 10.0
    for run, summary, colour in zip(runs, summaries, RUN_COLOURS, strict=False):
        sample = read(run)
        if sample.n:
            curve, odds = percentile_curve(axes, sample, summary["metrics"][metric]["percentiles"], colour, _name(summary))
            drawn.append(curve)
            reach = max(reach, float(odds[-1]))
    if not drawn:
        return None
    latency_scale(axes, drawn)
    percentile_axis(axes, reach)
    axes.legend(loc="upper left", fontsize=8.5)
    return made


def chart_token_percentiles(runs: Sequence[Run], summaries: Sequence[Summary]) -> Figure | None:
    """Token latency by percentile."""
    metric = _common(summaries)
    if metric is None:
        return None
    title = f"{summaries[0]['metrics'][metric]['title']} by percentile"
    return _curves(title, runs, summaries, metric, lambda run: run.histogram(metric).sample(make_batches(run.window.seconds, 0.0)))


def chart_ttft_percentiles(runs: Sequence[Run], summaries: Sequence[Summary]) -> Figure | None:
    """Time to first token by percentile."""

    def read(run: Run) -> Sample:
        rows = run.conversations[run.in_window() & run.untainted()]
        return sample_rows(rows["ttft_ns"], np.zeros(len(rows)), np.zeros(1, np.int64))

    return _curves("Time to first token by percentile", runs, summaries, "ttft", read)


def chart_over_time(runs: Sequence[Run], summaries: Sequence[Summary]) -> Figure | None:
    """Median and p99 token latency over time."""
    metric = _common(summaries)
    if metric is None:
        return None
    made, (axes,) = figure()
    axes.set_title(f"{summaries[0]['metrics'][metric]['title']} over time: p50 and, thin, p99")
    drawn = []
    for run, summary, colour in zip(runs, summaries, RUN_COLOURS, strict=False):
        edges = span_edges(run)
        lines = run.histogram(metric).quantiles_over_time(edges, (0.5, 0.99)) / 1e6
        middle = (edges[:-1] + edges[1:]) / 2
        for column, width, label in ((0, 1.8, _name(summary)), (1, 0.8, None)):
            sound = np.isfinite(lines[:, column])
            axes.plot(middle[sound], lines[sound, column], color=colour, linewidth=width, label=label)
        drawn.append(lines)
    time_axis(axes, max(run.window.drain_end_ns / 1e9 for run in runs))
    latency_scale(axes, drawn)
    axes.set_ylabel("ms")
    axes.legend(loc="lower left", fontsize=8.5)
    return made


def chart_rates(runs: Sequence[Run], summaries: Sequence[Summary]) -> Figure | None:
    """Tokens a second over time."""
    made, (axes,) = figure()
    axes.set_title("Tokens per second over time")
    most = 0.0
    for run, summary, colour in zip(runs, summaries, RUN_COLOURS, strict=False):
        tokens = run.per_second()["tokens"].fillna(0)
        if len(tokens):
            axes.step(tokens.index.to_numpy() + 1, tokens.to_numpy(dtype=float), where="pre", color=colour, label=_name(summary))
            most = max(most, float(tokens.max()))
    if not most:
        return None
    time_axis(axes, max(run.window.drain_end_ns / 1e9 for run in runs))
    axes.set_ylim(0, most * 1.25)
    plain_ticks(axes)
    axes.set_ylabel("tokens/s")
    axes.legend(loc="lower left", fontsize=8.5)
    return made


def chart_ladders(runs: Sequence[Run], summaries: Sequence[Summary]) -> Figure | None:
    """Latency against the number of users, where the runs have steps."""
    metric = _common(summaries)
    if metric is None or not all(len(summary["steps"]) > 1 for summary in summaries):
        return None
    made, (axes,) = figure()
    axes.set_title(f"{summaries[0]['metrics'][metric]['title']} by number of users: p50 and, thin, p99")
    drawn, every = [], set()
    for summary, colour in zip(summaries, RUN_COLOURS, strict=False):
        users = np.asarray([step["users"] for step in summary["steps"]], dtype=float)
        every |= set(users.tolist())
        for name, width, label in (("p50", 1.8, _name(summary)), ("p99", 0.8, None)):
            values = np.asarray([step[metric]["percentiles"][name]["value"] or np.nan for step in summary["steps"]]) / 1e6
            axes.plot(users, values, color=colour, marker="o", markersize=3.5, linewidth=width, label=label)
            drawn.append(values)
    latency_scale(axes, drawn)
    if min(every) > 0 and max(every) > 6 * min(every):
        axes.set_xscale("log")
    ticks = sorted(every)
    axes.set_xticks(ticks, [f"{int(u)}" for u in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("users")
    axes.set_ylabel("ms")
    axes.legend(loc="upper left", fontsize=8.5)
    return made


COMPARISON_CHARTS: tuple[tuple[str, Callable[[Sequence[Run], Sequence[Summary]], Figure | None], str], ...] = (
    ("ladders", chart_ladders, "Seconds of each step after its settling time."),
    ("token_percentiles", chart_token_percentiles, "Steady windows. Bars are 95 % intervals: where they do not meet, the runs differ."),
    ("ttft_percentiles", chart_ttft_percentiles, "Conversations that started in the steady window."),
    ("token_latency_over_time", chart_over_time, "Whole runs, tokens by arrival."),
    ("tokens_over_time", chart_rates, "Whole runs, tokens by arrival."),
)
