"""Charts of how one run's values are spread, and how they depend on the number of users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .load import Run
from .measures import PERCENTILES, headline_metric
from .palette import BLUE, ORANGE, PERCENTILE_COLOURS
from .sample import Sample
from .style import figure, label_ends, latency_scale, plain_ticks
from .window import make_batches

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Summary = Mapping[str, Any]

TOKEN_SERIES = (("itl", ORANGE), ("inter_chunk", ORANGE), ("token_latency", BLUE))


def _whole_samples(run: Run, summary: Summary) -> list[tuple[str, str, str, Sample]]:
    batches = make_batches(run.window.seconds, 0.0)
    found = []
    for metric, colour in TOKEN_SERIES:
        if summary["metrics"].get(metric, {}).get("n"):
            found.append((metric, summary["metrics"][metric]["title"], colour, run.histogram(metric).sample(batches)))
    return found


def chart_distribution(run: Run, summary: Summary) -> Figure | None:
    """How token latency and the gaps are distributed: share of the values in each equal step of a log axis."""
    samples = _whole_samples(run, summary)
    if not samples:
        return None
    low = min(max(1.0, s.quantile(0.002) or 1.0) for *_, s in samples)
    high = max(s.quantile(0.999) or 1.0 for *_, s in samples)
    edges = np.geomspace(low / 1.1, max(high * 1.1, low * 1.5), 81)
    made, (axes,) = figure()
    axes.set_title("Distribution of " + " and ".join(title.lower() for _, title, *_ in reversed(samples)))
    for _, title, colour, sample in samples:
        heights, _ = np.histogram(sample.values, bins=edges, weights=sample.counts)
        axes.stairs(100 * heights / sample.n, edges / 1e6, color=colour, fill=True, alpha=0.18, linewidth=0)
        axes.stairs(100 * heights / sample.n, edges / 1e6, color=colour, linewidth=1.6, label=title)
    axes.set_xscale("log")
    axes.set_xlim(edges[0] / 1e6, edges[-1] / 1e6)
    axes.set_ylim(bottom=0)
    plain_ticks(axes, x=True)
    axes.set_xlabel("ms (log)")
    axes.set_ylabel("% of tokens")
    axes.legend(loc="upper right", fontsize=8.5)
    return made


def chart_percentiles(run: Run, summary: Summary) -> Figure | None:
    """Latency by percentile, on an axis that spreads the tail, with the 95 % intervals of the stated percentiles."""
    samples = _whole_samples(run, summary)
    if not samples:
        return None
    made, (axes,) = figure()
    axes.set_title("Latency by percentile")
    reach, drawn = 10.0, []
    for metric, title, colour, sample in samples:
        curve, odds = percentile_curve(axes, sample, summary["metrics"][metric]["percentiles"], colour, title)
        reach = max(reach, float(odds[-1]))
        drawn.append(curve)
    latency_scale(axes, drawn)
    percentile_axis(axes, reach)
    axes.legend(loc="upper left", fontsize=8.5)
    return made


def percentile_curve(axes: Axes, sample: Sample, entries: Mapping[str, Any], colour: str, title: str) -> tuple[Floats, Floats]:
    """Draw values (ms) over 1 / (1 - p), dotted beyond the last stated percentile, bars for the intervals; returns (values, odds)."""
    odds = np.geomspace(1.05, max(10.0, min(float(sample.n), 1e5)), 160)
    cumulative = np.cumsum(sample.counts)
    ranks = np.clip(np.ceil(np.round((1 - 1 / odds) * sample.n, 9)), 1, sample.n)
    curve = sample.values[np.searchsorted(cumulative, ranks)] / 1e6
    stated = [PERCENTILES[name] for name, entry in entries.items() if entry["value"] is not None]
    until = 1 / (1 - max(stated)) if stated else 0.0
    solid = odds <= until * 1.001
    # The gaps contain the token latency and often cover it: the wider line lies below.
    width = 3.2 if colour == ORANGE else 1.6
    axes.plot(odds[solid], curve[solid], color=colour, label=title if solid.any() else None, linewidth=width)
    # Beyond the last percentile that enough samples stand behind, the curve is only what happened.
    beyond = odds >= (odds[solid][-1] if solid.any() else 0)
    label = None if solid.any() else title
    axes.plot(odds[beyond], curve[beyond], color=colour, linestyle=(0, (1, 2)), linewidth=width * 0.75, label=label)
    for name, entry in entries.items():
        if entry["value"] is None or (entry["low"] is None and entry["high"] is None):
            continue
        value = entry["value"]
        below, above = value - (entry["low"] or value), (entry["high"] or value) - value
        axes.errorbar(
            1 / (1 - PERCENTILES[name]), value / 1e6, yerr=[[below / 1e6], [above / 1e6]], color=colour, fmt="o", markersize=3.5,
            capsize=3, linewidth=1.2,
        )  # fmt: skip
    return curve, odds


def percentile_axis(axes: Axes, reach: float) -> None:
    """The axis 1 / (1 - p) with its ticks named as percentiles."""
    marks = [(2.0, "50"), (10.0, "90"), (100.0, "99"), (1e3, "99.9"), (1e4, "99.99"), (1e5, "99.999")]
    axes.set_xscale("log")
    axes.set_xlim(1.05, reach)
    axes.set_xticks([at for at, _ in marks if at <= reach], [text for at, text in marks if at <= reach], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("percentile; dotted: too few samples to state; bars: 95 % intervals")
    axes.set_ylabel("ms")


def chart_stop(run: Run, summary: Summary) -> Figure | None:
    """How soon a stop took effect, and how many tokens still came."""
    rows = run.conversations[["stop_latency_ns", "overrun_tokens"]][
        run.in_window() & run.untainted() & (run.conversations["outcome"] == "stopped").to_numpy(dtype=bool)
    ]
    latency = np.sort(rows["stop_latency_ns"].dropna().to_numpy(dtype=np.float64)) / 1e6
    if not len(latency):
        return None
    made, (left, right) = figure(1, 2, width_ratios=[3, 2])
    shares = np.arange(1, len(latency) + 1) / len(latency)
    keep = np.unique(np.linspace(0, len(latency) - 1, min(len(latency), 400)).astype(np.int64))
    left.set_title("Stop latency")
    left.step(latency[keep], 100 * shares[keep], where="post", color=BLUE)
    left.set_ylim(0, 102)
    left.set_ylabel("% of stops, at most")
    left.set_xlabel("ms")
    if latency[-1] > 8 * max(latency[0], 1e-6):
        left.set_xscale("log")
        left.set_xlabel("ms (log)")
    plain_ticks(left, x=True)
    overrun = rows["overrun_tokens"].dropna().to_numpy(dtype=np.int64)
    most = int(overrun.max(initial=0))
    # Beyond a dozen kinds of bar a reader wants ranges.
    width = max(1, -(-(most + 1) // 12))
    heights = np.bincount(overrun // width)
    right.set_title("Overrun tokens")
    right.bar(np.arange(len(heights)) * width + (width - 1) / 2, 100 * heights / len(overrun), width=0.8 * width, color=ORANGE)
    right.set_ylabel("% of stops")
    right.set_xlabel("tokens after the stop")
    right.set_ylim(0, 105)
    right.set_xlim(-0.8 * width, max(most + 0.8 * width, 2.8))
    plain_ticks(right)
    right.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return made


def chart_ladder(run: Run, summary: Summary) -> Figure | None:
    """Latency and throughput against the number of users, with 95 % intervals."""
    steps = [step for step in summary["steps"] if step["seconds"]]
    if len(steps) < 2:
        return None
    metric = headline_metric(summary)
    users = np.asarray([step["users"] for step in steps], dtype=float)
    made, (top, bottom) = figure(2, 1, sharex=True, height_ratios=[3, 2])
    top.set_title(f"{summary['metrics'][metric]['title']} and throughput by number of users")
    drawn, ends = [], []
    for name, colour in PERCENTILE_COLOURS.items():
        entries = [step[metric]["percentiles"][name] for step in steps]
        values = np.asarray([np.nan if e["value"] is None else e["value"] / 1e6 for e in entries])
        if not np.isfinite(values).any():
            continue
        low = np.asarray([v if e["low"] is None else e["low"] / 1e6 for v, e in zip(values, entries, strict=True)])
        high = np.asarray([v if e["high"] is None else e["high"] / 1e6 for v, e in zip(values, entries, strict=True)])
        sound = np.isfinite(values)
        bars = [(values - low)[sound], (high - values)[sound]]
        top.errorbar(users[sound], values[sound], yerr=bars, color=colour, marker="o", markersize=4, capsize=3, label=name)
        drawn += [values, high]
        ends.append((float(users[sound][-1]), float(values[sound][-1]), name, colour))
    top.set_ylabel("ms")
    latency_scale(top, drawn)
    rates = [step["rates"]["throughput_tokens"] or 0.0 for step in steps]
    bottom.plot(users, rates, color=BLUE, marker="o", markersize=4)
    bottom.set_ylim(0, max(1.0, *rates) * 1.25)
    bottom.set_ylabel("tokens/s")
    bottom.set_xlabel("users")
    if users.min() > 0 and users.max() > 6 * users.min():
        bottom.set_xscale("log")
    plain_ticks(bottom)
    bottom.set_xticks(users, [f"{int(u)}" for u in users], minor=False)
    bottom.set_xticks([], minor=True)
    label_ends(top, ends)
    return made
