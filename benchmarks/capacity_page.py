"""The picture of a capacity search (goodput and objectives over load) and its page, in the report's style."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import reports
from loadtest.run_directory import write_text
from reports.charts import Chart, render
from reports.palette import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SHADE, SKY, VERMILION
from reports.slo import Judgement, shown
from reports.style import RC, figure, plain_ticks, tick_text
from reports.units import ABSENT, significant

from .capacity_result import CONFIDENCE, Made, Result
from .capacity_search import Answer, Kind

MARKS: Final = {
    Answer.MET: (GREEN, "o", "met"), Answer.MISSED: (VERMILION, "X", "missed"), Answer.UNCERTAIN: (ORANGE, "D", "uncertain"),
    Answer.INVALID: (MUTED, "s", "run invalid"),
}  # fmt: skip
LINES: Final = (BLUE, PURPLE, SKY, INK, ORANGE)
CAPTION: Final = (
    "Above: conversations a second that ended well and kept every bound themselves. Below: each objective's figure as a share of its "
    "bound; bars are 95 % intervals. Shaded: between what holds and what does not."
)


def draw(result: Result) -> Chart | None:
    """Goodput, and every objective's figure as a share of its bound, over load; None without a measured probe."""
    made = sorted((one for one in result.made if one.summary is not None), key=lambda one: (one.step.level, one.number))
    if not made:
        return None
    with mpl.rc_context(RC):
        return render(_figure(result, made), "capacity", CAPTION)


def _figure(result: Result, made: list[Made]) -> Figure:
    drawn, (top, bottom) = figure(2, 1, height_in=5.6, sharex=True)
    levels = np.asarray([result.question.value(one.step.level) for one in made])
    _goodput(top, levels, made)
    _objectives(bottom, result, levels, made)
    for axes in (top, bottom):
        _shade(axes, result)
        if levels.max() > 8 * levels.min():
            axes.set_xscale("log")
    top.set_xlim(levels.min() / 1.15, levels.max() * 1.15)
    bottom.set_xlabel(result.unit)
    plain_ticks(bottom, x=True)
    return drawn


def _goodput(axes: Axes, levels: Any, made: list[Made]) -> None:
    axes.set_title("Goodput over load")
    axes.set_ylabel("good conversations/s")
    goodput = np.asarray([np.nan if one.goodput_per_s is None else one.goodput_per_s for one in made])
    means = {level: np.nanmean(goodput[levels == level]) for level in np.unique(levels) if np.isfinite(goodput[levels == level]).any()}
    axes.plot(list(means), list(means.values()), color=MUTED, linewidth=1.0, zorder=1)
    for answer, (colour, marker, name) in MARKS.items():
        chosen = np.asarray([one.answer is answer for one in made])
        if chosen.any():
            axes.scatter(levels[chosen], goodput[chosen], color=colour, marker=marker, s=34, label=name, zorder=3, linewidths=0)
    axes.set_ylim(0, max(1.0, float(np.nanmax(goodput, initial=0.0))) * 1.2)
    plain_ticks(axes)
    axes.legend(loc="upper left", fontsize=8, ncols=len(MARKS), columnspacing=1.2, handletextpad=0.3)


def _objectives(axes: Axes, result: Result, levels: Any, made: list[Made]) -> None:
    axes.set_title("Each objective beside its bound", pad=8)
    axes.set_ylabel("% of the bound")
    highest = lowest = 100.0
    for number, objective in enumerate(result.question.objectives):
        points = [
            (level, judged) for level, one in zip(levels, made, strict=True) for judged in one.judgements if judged.objective == objective
        ]
        points = [(level, judged) for level, judged in points if judged.value and objective.bound]
        if not points:
            continue
        colour = LINES[number % len(LINES)]
        x = np.asarray([level for level, _ in points])
        y = np.asarray([100 * (judged.value or 0) / objective.bound for _, judged in points])
        axes.plot(*_means(x, y), color=colour, linewidth=1.4, label=f"{objective.name} (bound {shown(objective.bound, objective.unit)})")
        for level, judged in points:
            low, high = (100 * (judged.value or 0 if end is None else end) / objective.bound for end in (judged.low, judged.high))
            axes.plot([level, level], [low, high], color=colour, linewidth=1.2, alpha=0.7)
        axes.scatter(x, y, color=colour, s=12, zorder=3, linewidths=0)
        highest, lowest = max(highest, float(y.max())), min(lowest, float(y.min()))
    axes.axhline(100, color=INK, linewidth=1.0, linestyle=(0, (4, 2)))
    if highest > 8 * lowest:
        axes.set_yscale("log")
        axes.set_ylim(lowest / 1.6, highest * 4)
    else:
        axes.set_ylim(0, highest * 1.6)
    plain_ticks(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", fontsize=8)


def _means(x: Any, y: Any) -> tuple[list[float], list[float]]:
    levels = np.unique(x)
    return list(levels), [float(y[x == level].mean()) for level in levels]


def _shade(axes: Axes, result: Result) -> None:
    end, value = result.end, result.question.value
    if end is None:
        return
    if end.low is not None and end.high is not None:
        axes.axvspan(value(end.low), value(end.high), color=SHADE, linewidth=0, zorder=0)
    if end.low is not None:
        axes.axvline(value(end.low), color=GREEN, linewidth=1.0, linestyle=(0, (2, 2)), zorder=1)


def write_page(result: Result) -> Path:
    """Write ``index.html`` and ``charts/`` beside ``capacity.json``; returns the page's path."""
    chart = draw(result)
    if chart is not None:
        folder = result.folder / "charts"
        folder.mkdir(exist_ok=True)
        (folder / "capacity.svg").write_text(chart.svg, encoding="utf-8")
        (folder / "capacity.png").write_bytes(chart.png)
    path = result.folder / "index.html"
    write_text(path, render_page(result, chart))
    return path


def render_page(result: Result, chart: Chart | None) -> str:
    """The page: one file, no script, nothing loaded from outside."""
    css = (Path(reports.__file__).parent / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    told = result.as_dict()
    machine = told["environment"]
    end = result.end
    sentences = result.sentences()
    return environment.get_template("capacity.html.j2").render(
        told=told,
        sentence=sentences[0],
        more=sentences[1:],
        good=end is not None and end.kind in (Kind.FOUND, Kind.CEILING),
        big=ABSENT if end is None or end.low is None else tick_text(result.question.value(end.low)),
        confidence=CONFIDENCE,
        picture=None if chart is None else "data:image/png;base64," + base64.b64encode(chart.png).decode("ascii"),
        caption=CAPTION,
        names=[str(one) for one in result.question.objectives],
        rows=[_row(one, result) for one in result.made],
        facts=[
            ("Target", told["target"]), ("Load varied", told["scenario"]["name"]), ("Probes", str(len(result.made))),
            ("Took", f"{result.seconds / 60:.1f} min"), ("Started", told["started_utc"]),
            ("Machine", f"{machine.get('cpu_count')} × {machine.get('cpu_model')}"),
        ],
        css=css,
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'",
    )  # fmt: skip


def _row(made: Made, result: Result) -> dict[str, Any]:
    summary = made.summary or {}
    steady = (summary.get("window") or {}).get("steady_s")
    return {
        "number": made.number, "level": result.question.text(made.step.level), "why": made.step.why, "answer": str(made.answer),
        "style": {Answer.MET: "ok", Answer.MISSED: "broken"}.get(made.answer, "na"), "reason": made.reason,
        "figures": [_figure_text(one) for one in made.judgements] or [ABSENT] * len(result.question.objectives),
        "goodput": ABSENT if made.goodput_per_s is None else significant(made.goodput_per_s),
        "measured": ABSENT if steady is None else f"{steady:.0f} s",
        "report": f"{made.path}/report.html" if (result.folder / made.path / "report.html").is_file() else None,
    }  # fmt: skip


def _figure_text(one: Judgement) -> str:
    value = shown(one.value, one.objective.unit)
    if one.low is None or one.high is None:
        return value
    return f"{value} ({shown(one.low, one.objective.unit)} to {shown(one.high, one.objective.unit)})"
