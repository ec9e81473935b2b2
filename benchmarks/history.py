"""``python -m benchmarks history``: the regression checks of a history.csv over time, as a page with charts and on the terminal.

A check forgives what is within its tolerance; many small steps add up behind its back. They show here: the absolute figures of head, job
after job, on the same machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loadtest.run_directory import write_text
from reports.charts import Chart, draw
from reports.inline import StyleSheet
from reports.page import render_template
from reports.palette import GREEN, INK, MUTED, ORANGE, SHADE, VERMILION
from reports.style import figure, plain_ticks
from reports.units import count, duration

from .check_options import HISTORY
from .check_plan import GATES, METRICS, PlanError
from .options import Parser
from .terminal import complain, consoles
from .verdict import INCONCLUSIVE, INVALID, PASS, REGRESSED, percent
from .verdict_files import COLUMNS, GATED

COLOURS: Final = {PASS: GREEN, REGRESSED: VERMILION, INCONCLUSIVE: ORANGE, INVALID: MUTED}
MARKERS: Final = {PASS: "o", REGRESSED: "X", INCONCLUSIVE: "D", INVALID: "s"}
ROWS_SHOWN: Final = 50
TEXT_COLUMNS: Final = ("ended_utc", "revision", "verdict", "gate", "base", "head", "machine")


def read_history(path: Path) -> pd.DataFrame:
    """The rows of a history.csv, oldest first; PlanError where it is none."""
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, "string"))
    except FileNotFoundError:
        raise PlanError(f"expected the history of checks at {path}, and it is not there; `python -m benchmarks check` writes it") from None
    except (OSError, ValueError) as error:
        raise PlanError(f"cannot read {path} as CSV: {error}") from None
    if missing := [name for name in COLUMNS if name not in table.columns]:
        raise PlanError(f"expected the columns of a check's history in {path}, and {missing[0]} is missing")
    if table.empty:
        raise PlanError(f"expected at least one check in {path}, and there is none yet; `python -m benchmarks check` adds one")
    return table.sort_values("ended_utc", kind="stable").reset_index(drop=True)


def gates_of(table: pd.DataFrame) -> list[str]:
    """The gated metrics that have figures."""
    return [name for name in GATED if table[f"{name}_change"].notna().any()]


def _scatter(axes: Axes, table: pd.DataFrame, values: Any) -> None:
    for verdict, colour in COLOURS.items():
        mine = (table["verdict"] == verdict).to_numpy(dtype=bool) & np.isfinite(values)
        if mine.any():
            axes.scatter(
                table.index[mine] + 1, values[mine], s=30, color=colour, marker=MARKERS[verdict], label=verdict, zorder=3, linewidths=0
            )  # fmt: skip


def _panels(table: pd.DataFrame) -> tuple[Figure, list[Axes], list[str]]:
    names = gates_of(table)
    made, panels = figure(len(names), height_in=1.75 * len(names) + 0.7, sharex=True)
    for axes, name in zip(panels, names, strict=True):
        axes.annotate(
            METRICS[name].title, xy=(0, 1), xycoords="axes fraction", xytext=(4, -3), textcoords="offset points", va="top", fontsize=8.5,
            color=MUTED, fontweight="bold",
        )  # fmt: skip
        axes.set_xlim(0.5, len(table) + 0.5)
    panels[-1].xaxis.set_major_locator(MaxNLocator(10, integer=True))
    panels[-1].set_xlabel("check, oldest first")
    return made, panels, names


def _legend(made: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        made.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8.5, handletextpad=0.2)


def chart_changes(table: pd.DataFrame) -> Figure:
    """The estimated change of each gate, check by check, with the two bounds that decided."""
    made, panels, names = _panels(table)
    gate = str(table["gate"].iloc[-1])
    for place, (axes, name) in enumerate(zip(panels, names, strict=True)):
        change, low, high = (100 * table[f"{name}_{part}"].to_numpy(dtype=float) for part in ("change", "low", "high"))
        tolerance, matters = (100 * value for value in GATES.get(gate, GATES["10"])[min(place, 2)])
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.axhspan(-tolerance, tolerance, color=SHADE, linewidth=0, zorder=0)
        axes.axhline(matters, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.vlines(table.index + 1, low, high, color=MUTED, linewidth=1.2, zorder=2)
        # One wild interval must not flatten all others: what lies beyond is drawn at the edge.
        reach = 2.2 * matters
        bottom = max(-reach, min(-1.4 * matters, np.nanmin(low) * 1.1))
        top = min(reach, max(1.4 * matters, np.nanmax(high) * 1.1))
        axes.set_ylim(bottom, top)
        _scatter(axes, table, np.clip(change, bottom * 0.95, top * 0.95))
        axes.set_ylabel("change, %")
        plain_ticks(axes)
    panels[0].set_title("Head against base, check by check")
    _legend(made, panels[0])
    return made


def chart_figures(table: pd.DataFrame) -> Figure:
    """Head's own figures, check by check: where slow drifts show."""
    made, panels, names = _panels(table)
    for axes, name in zip(panels, names, strict=True):
        values = table[f"{name}_head_ns"].to_numpy(dtype=float) / 1e3
        axes.plot(table.index + 1, values, color=MUTED, linewidth=1.0, zorder=1)
        _scatter(axes, table, values)
        top = np.nanmax(values) if np.isfinite(values).any() else 1.0
        axes.set_ylim(0, 1.25 * top)
        axes.set_ylabel("µs")
        plain_ticks(axes)
    panels[0].set_title("Head's own figures, check by check")
    _legend(made, panels[0])
    return made


CHARTS: Final = (
    (
        "history_changes",
        chart_changes,
        "Bars: the bounds that decided. Grey: the tolerance. Dashed: what must not slip through. Points at an edge lie beyond.",
    ),
    ("history_figures", chart_figures, "Absolute figures depend on the machine and its neighbours: a trend counts, a point does not."),
)


def draw_history(table: pd.DataFrame) -> list[Chart]:
    """Both charts, as SVG and PNG."""
    return draw(CHARTS, table) if gates_of(table) else []


def render_history(table: pd.DataFrame, charts: Sequence[Chart]) -> str:
    """The page as HTML text."""
    sheet = StyleSheet()
    inlined = [{"svg": Markup(sheet.inline(c.svg, c.name, c.title)), "caption": c.caption} for c in charts]  # noqa: S704 - our own SVG
    names = gates_of(table)
    rows = []
    for number, row in list(zip(range(1, len(table) + 1), table.to_dict("records"), strict=True))[::-1][:ROWS_SHOWN]:
        cells = [
            {"figure": _text(row[f"{name}_head_ns"], duration), "change": _text(row[f"{name}_change"], percent)} for name in names
        ]  # fmt: skip
        rows.append(
            {
                "number": number, "ended": str(row["ended_utc"])[:16].replace("T", "\u00a0"), "verdict": row["verdict"], "cells": cells,
                "revision": _text(row["revision"], lambda text: str(text)[:10]), "blocks": _text(row["blocks"], count),
                "seconds": _text(row["seconds"], count),
                "style": {PASS: "ok", REGRESSED: "broken"}.get(row["verdict"], ""),
            }
        )  # fmt: skip
    context = {
        "title": "Checks over time", "counts": table["verdict"].value_counts().to_dict(), "checks": len(table), "charts": inlined,
        "machines": int(table["machine"].nunique()), "titles": [METRICS[name].title for name in names], "rows": rows,
    }  # fmt: skip
    return render_template("history.html.j2", sheet, context)


def _text(value: Any, say: Any) -> str:
    return "–" if pd.isna(value) else str(say(value))


def main(words: Sequence[str]) -> int:
    """The command; returns 0, or 2 where there is no history."""
    parser = Parser(prog="python -m benchmarks history", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=Path("runs") / HISTORY, metavar="FILE", help="default: runs/history.csv")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: beside the history, .html)")
    given = parser.parse_args(words)
    console, errors = consoles(machine_reads=False)
    try:
        table = read_history(given.file)
        charts = draw_history(table)
        page = given.out or given.file.with_suffix(".html")
        write_text(page, render_history(table, charts))
        for chart in charts:
            page.with_name(f"{chart.name}.png").write_bytes(chart.png)
    except (PlanError, OSError) as error:
        complain(errors, error)
        return 2
    found = ", ".join(f"{number} {verdict}" for verdict, number in table["verdict"].value_counts().items())
    console.print(f"{len(table)} checks: {found}", highlight=False)
    console.print(f"page     {page}", highlight=False, soft_wrap=True)
    return 0
