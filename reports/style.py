"""How charts look: one style, lines labelled where they end. Knows no data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from .palette import GRID, INK, MUTED, PAPER, SHADE
from .units import significant

Floats = npt.NDArray[np.float64]

WIDTH_IN, HEIGHT_IN = 6.0, 3.5
PNG_DPI = 180

RC: dict[Any, Any] = {
    "figure.facecolor": PAPER, "axes.facecolor": "none", "savefig.facecolor": PAPER, "font.family": ["DejaVu Sans"], "font.size": 9.5,
    "text.color": INK, "axes.labelcolor": MUTED, "axes.labelsize": 9.0, "axes.edgecolor": GRID, "axes.linewidth": 1.0,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10.5, "axes.titlelocation": "left", "axes.titleweight": "bold",
    "axes.titlepad": 10.0, "axes.titlecolor": INK, "axes.axisbelow": True, "axes.grid": True, "axes.grid.axis": "y", "grid.color": GRID,
    "grid.linewidth": 0.8, "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
    "xtick.major.size": 3.0, "ytick.major.size": 0.0, "xtick.minor.size": 0.0, "ytick.minor.size": 0.0, "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round", "lines.solid_joinstyle": "round", "legend.frameon": False, "svg.fonttype": "none",
    "path.simplify": True, "path.simplify_threshold": 0.3,
}  # fmt: skip


def figure(rows: int = 1, columns: int = 1, *, height_in: float = HEIGHT_IN, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure with its axes, row by row, laid out to leave no label cut off."""
    made = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    axes = made.subplots(rows, columns, squeeze=False, **options)
    return made, list(axes.flat)


def tick_text(value: float) -> str:
    """A tick's number without needless zeros: 24, 0.5, 1 500."""
    text = significant(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def plain_ticks(axes: Axes, *, x: bool = False, y: bool = True) -> None:
    """Numbers as people write them, also on log axes: 0.5, 20, 1 000."""
    formatter = FuncFormatter(lambda value, _: tick_text(value))
    for wanted, axis, scale in ((x, axes.xaxis, axes.get_xscale()), (y, axes.yaxis, axes.get_yscale())):
        if wanted:
            axis.set_major_formatter(formatter)
            axis.set_minor_formatter(NullFormatter())
            axis.set_minor_locator(NullLocator())
            if scale == "log":
                low, high = axis.get_view_interval()
                decades = np.log10(high / low) if low > 0 else 9
                subs = (1.0, 2.0, 3.0, 5.0, 7.0) if decades < 1 else (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
                axis.set_major_locator(LogLocator(subs=subs, numticks=12))
            else:
                axis.set_major_locator(MaxNLocator(5, integer=False))


def latency_scale(axes: Axes, values: Sequence[Floats]) -> None:
    """Logarithmic where the values span more than a factor of eight, else linear from zero."""
    flat = np.concatenate([np.asarray(v, dtype=float).ravel() for v in values]) if values else np.zeros(0)
    flat = flat[np.isfinite(flat) & (flat > 0)]
    if len(flat) and flat.max() > 8 * flat.min():
        axes.set_yscale("log")
        axes.set_ylim(flat.min() / 1.35, flat.max() * 1.45)
    else:
        axes.set_ylim(0, (flat.max() if len(flat) else 1.0) * 1.25)
    plain_ticks(axes)


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]], *, gap_points: float = 10.5) -> None:
    """Write each line's name (x, y, text, colour) beside its last point, moved apart where they would touch."""
    sound = [end for end in ends if np.isfinite(end[1])]
    if not sound:
        return
    whole = axes.get_figure(root=True)
    assert whole is not None
    height = whole.get_size_inches()[1] * 72 * 0.72 / max(1, len({a.get_position().y0 for a in whole.axes}))
    transform = axes.transData + axes.transAxes.inverted()
    placed: list[float] = []
    for x, y, text, colour in sorted(sound, key=lambda end: end[1]):
        # A line may end outside its axes (a gap of 0 on a logarithmic scale); a name far outside would leave no room for the chart.
        fraction = min(1.0, max(0.0, float(transform.transform((x, y))[1])))
        spot = max(fraction, placed[-1] + gap_points / height) if placed else fraction
        placed.append(spot)
        axes.annotate(
            text, xy=(1, spot), xycoords="axes fraction", xytext=(5, 0), textcoords="offset points", color=colour, va="center",
            fontsize=8.5, fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def shade_phases(axes: Axes, warm_up_s: float, steady_end_s: float, end_s: float, *, named: bool = True) -> None:
    """Grey out warm-up and drain, and name them at the top."""
    for begin, end, name in ((0.0, warm_up_s, "warm-up"), (steady_end_s, end_s, "drain")):
        if end - begin <= 0:
            continue
        axes.axvspan(begin, end, color=SHADE, linewidth=0, zorder=0, gid=name)
        if named and end - begin > 0.07 * end_s:
            axes.annotate(
                name, xy=((begin + end) / 2, 1), xycoords=("data", "axes fraction"), xytext=(0, -3), textcoords="offset points",
                ha="center", va="top", fontsize=7.5, color=MUTED,
            )  # fmt: skip


def time_axis(axes: Axes, end_s: float, *, label: bool = True) -> None:
    """Seconds since the start of the run; minutes in long runs."""
    axes.set_xlim(0, max(end_s, 1.0))
    minutes = end_s > 600
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 3, 5, 6, 10]))
    if minutes:
        step = next(m for m in (1, 2, 5, 10, 15, 30, 60, 120, 240, 480, 1440, 1 << 30) if end_s / 60 / m <= 8) * 60
        axes.xaxis.set_major_locator(FixedLocator(list(np.arange(0, end_s + 1, step))))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: significant(value / 60)))
    if label:
        axes.set_xlabel("minutes since the start" if minutes else "seconds since the start")
