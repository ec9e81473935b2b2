"""Charts by the data on their axes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.synthetic import Plan, SyntheticRun, build
from reports.charts import CHARTS, draw, render
from reports.comparison_charts import COMPARISON_CHARTS
from reports.distributions import chart_distribution, chart_ladder, chart_percentiles, chart_stop
from reports.load import Run, load_run
from reports.palette import PERCENTILE_COLOURS
from reports.style import RC, label_ends, latency_scale
from reports.style import figure as new_figure
from reports.summary import summarise_run
from reports.timelines import chart_connections, chart_receive_lag, chart_throughput, chart_token_latency, chart_ttft, span_edges
from reports.window import SPANS

Loaded = Callable[[str], tuple[Run, dict[str, Any]]]


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    """Charts are drawn in the project's style, as ``draw`` does."""
    with mpl.rc_context(RC):
        yield


@pytest.fixture(scope="session")
def loaded(run_path: Callable[[str], Path]) -> Loaded:
    made: dict[str, tuple[Run, dict[str, Any]]] = {}

    def get(name: str) -> tuple[Run, dict[str, Any]]:
        if name not in made:
            run = load_run(run_path(name))
            made[name] = run, summarise_run(run)
        return made[name]

    return get


def axes_of(figure: Figure | None, number: int = 0) -> Axes:
    assert figure is not None
    return figure.axes[number]


def line(axes: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    (found,) = [drawn for drawn in axes.get_lines() if drawn.get_label() == label]
    x, y = np.asarray(found.get_xdata(), dtype=float), np.asarray(found.get_ydata(), dtype=float)
    return x[np.isfinite(y)], y[np.isfinite(y)]


def test_token_latency_over_time_shows_the_percentiles_of_each_second(loaded: Loaded) -> None:
    run, summary = loaded("plain")
    axes = axes_of(chart_token_latency(run, summary))
    x, y = line(axes, "p50")
    assert x.tolist() == pytest.approx(np.arange(0.5, 0.5 + len(x)).tolist())
    assert np.median(y) == pytest.approx(10, rel=0.05)
    assert (line(axes, "p90")[1] > y).all()
    assert (line(axes, "p99")[1] > line(axes, "p90")[1]).all()
    assert line(axes, "p99")[0].max() < 26
    assert (axes.get_title(loc="left"), axes.get_ylabel(), axes.get_xlabel()) == (
        "Token latency over time",
        "ms",
        "seconds since the start",
    )
    assert {text.get_text() for text in axes.texts} >= {"p50", "p90", "p99", "warm-up", "drain"}


def test_warm_up_and_drain_are_shaded(loaded: Loaded) -> None:
    axes = axes_of(chart_token_latency(*loaded("plain")))
    spans = {patch.get_gid(): (patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches}  # type: ignore[attr-defined]
    assert spans == {"warm-up": (0.0, 4.0), "drain": (24.0, 26.0)}


def test_paced_runs_show_the_gaps_instead(loaded: Loaded) -> None:
    assert axes_of(chart_token_latency(*loaded("paced"))).get_title(loc="left") == "Inter-token latency over time"


def test_ttft_over_time_is_from_due_in_an_open_loop(loaded: Loaded) -> None:
    assert axes_of(chart_ttft(*loaded("plain"))).get_title(loc="left") == "Time to first token over time"
    run, summary = loaded("open")
    axes = axes_of(chart_ttft(run, summary))
    assert axes.get_title(loc="left").endswith("from due")
    assert np.median(line(axes, "p50")[1]) == pytest.approx(summary["metrics"]["ttft_due"]["percentiles"]["p50"]["value"] / 1e6, rel=0.05)


def test_percentile_plot_passes_through_the_stated_percentiles(loaded: Loaded) -> None:
    run, summary = loaded("plain")
    axes = axes_of(chart_percentiles(run, summary))
    odds, values = line(axes, "Token latency")
    assert axes.get_xscale() == "log"
    for name, at in (("p50", 2.0), ("p90", 10.0), ("p99", 100.0)):
        stated = summary["metrics"]["token_latency"]["percentiles"][name]["value"] / 1e6
        assert np.interp(at, odds, values) == pytest.approx(stated, rel=0.02)


def test_percentile_plot_is_dotted_beyond_what_is_stated(loaded: Loaded) -> None:
    run, summary = loaded("plain")
    axes = axes_of(chart_percentiles(run, summary))
    solid = line(axes, "Token latency")[0]
    # p99.9 of 28 000 tokens is stated, p99.99 is not.
    assert 900 < solid.max() < 1001


def test_distribution_holds_all_tokens(loaded: Loaded) -> None:
    axes = axes_of(chart_distribution(*loaded("plain")))
    steps = [patch for patch in axes.patches if patch.get_label() in {"Token latency", "Inter-token latency"}]
    assert [steps[0].get_data().values.sum() > 99.5, len(steps)] == [True, 2]  # type: ignore[attr-defined]
    assert axes.get_xscale() == "log"


def test_connections_show_ours_and_the_servers_count(loaded: Loaded) -> None:
    run, summary = loaded("plain")
    axes = axes_of(chart_connections(run, summary))
    seconds, ours = line(axes, "open")
    assert seconds.tolist() == list(range(1, 27))
    assert ours[:24].tolist() == [20.0] * 24
    assert line(axes, "open, server's count")[1].tolist() == ours.tolist()
    assert "opening" not in [drawn.get_label() for drawn in axes.get_lines()]


def test_failed_connects_are_drawn(models: Callable[[str], SyntheticRun], tmp_path: Path) -> None:
    model = models("plain")
    model.tables["w0"]["intervals"]["connects_failed"][5] = 7
    run = load_run(model.write(tmp_path / "run"))
    assert line(axes_of(chart_connections(run, summarise_run(run))), "failed, each second")[1][5] == 7


def test_throughput_is_what_was_counted(loaded: Loaded) -> None:
    run, summary = loaded("plain")
    figure = chart_throughput(run, summary)
    assert line(axes_of(figure), "tokens")[1].tolist() == run.per_second()["tokens"].tolist()
    assert axes_of(figure, 1).get_ylabel() == "conversations/s"


def test_stop_chart_shows_every_stop_of_the_window(loaded: Loaded) -> None:
    run, summary = loaded("plain")
    figure = chart_stop(run, summary)
    (curve,) = axes_of(figure).get_lines()
    assert np.max(curve.get_xdata()) == pytest.approx(summary["metrics"]["stop_latency"]["max"] / 1e6)
    bars = [patch.get_height() for patch in axes_of(figure, 1).patches]  # type: ignore[attr-defined]
    assert sum(bars) == pytest.approx(100)
    assert len(bars) == summary["stop"]["overrun_tokens_max"] + 1


def test_ladder_has_a_point_and_an_interval_a_step(loaded: Loaded) -> None:
    run, summary = loaded("ladder")
    figure = chart_ladder(run, summary)
    containers = {container.get_label(): container for container in axes_of(figure).containers}
    data, _, bars = containers["p50"]  # type: ignore[misc]
    assert data.get_xdata().tolist() == [5, 20, 60]
    assert data.get_ydata().tolist() == [step["token_latency"]["percentiles"]["p50"]["value"] / 1e6 for step in summary["steps"]]
    entry = summary["steps"][1]["token_latency"]["percentiles"]["p50"]
    assert bars[0].get_segments()[1][:, 1].tolist() == pytest.approx([entry["low"] / 1e6, entry["high"] / 1e6])
    rates = axes_of(figure, 1).get_lines()[0]
    assert rates.get_ydata().tolist() == [step["rates"]["throughput_tokens"] for step in summary["steps"]]  # type: ignore[union-attr]


def test_receive_lag_stands_beside_the_gap(loaded: Loaded) -> None:
    axes = axes_of(chart_receive_lag(*loaded("plain")))
    assert np.median(line(axes, "lag p50")[1]) == pytest.approx(0.015, rel=0.1)
    assert np.median(line(axes, "gap p50")[1]) == pytest.approx(10, rel=0.05)


def test_charts_without_data_are_left_out(loaded: Loaded, models: Callable[[str], SyntheticRun], tmp_path: Path) -> None:
    assert chart_ladder(*loaded("plain")) is None
    model = models("plain")
    for name, columns in model.tables["w0"].items():
        model.tables["w0"][name] = {key: column[:0] for key, column in columns.items()}
    run = load_run(model.write(tmp_path / "run"))
    assert draw(CHARTS, run, summarise_run(run)) == []


def test_every_chart_names_its_axes(loaded: Loaded) -> None:
    for name in ("plain", "ladder", "open"):
        run, summary = loaded(name)
        for _, chart, caption in CHARTS:
            figure = chart(run, summary)
            if figure is not None:
                assert caption.endswith(".")
                assert all(axes.get_ylabel() for axes in figure.axes)
                assert figure.axes[-1].get_xlabel()
                assert figure.axes[0].get_title(loc="left")


def test_the_same_run_gives_the_same_bytes(loaded: Loaded) -> None:
    run, summary = loaded("plain")
    chosen = tuple(chart for chart in CHARTS if chart[0] in {"latency_percentiles", "stop"})
    one, two = draw(chosen, run, summary), draw(chosen, run, summary)
    assert [(chart.svg, chart.png) for chart in one] == [(chart.svg, chart.png) for chart in two]
    assert not re.search(r"<dc:date>", one[0].svg)


def test_long_runs_are_cut_to_a_readable_number_of_points(tmp_path: Path) -> None:
    run = load_run(build(Plan(seconds=1500, users=2, tokens=3, think_s=1.0)).write(tmp_path / "run"))
    assert len(span_edges(run)) <= SPANS + 1
    axes = axes_of(chart_token_latency(run, summarise_run(run)))
    assert all(len(drawn.get_xdata()) <= SPANS for drawn in axes.get_lines())  # type: ignore[arg-type]
    assert axes.get_xlabel() == "minutes since the start"


def test_a_line_breaks_where_nothing_was_measured(models: Callable[[str], SyntheticRun], tmp_path: Path) -> None:
    model = models("plain")
    table = model.tables["w0"]["histograms"]
    keep = [
        not (metric == "token_latency" and second in {10, 11, 13}) for metric, second in zip(table["metric"], table["second"], strict=True)
    ]
    model.tables["w0"]["histograms"] = {name: [v for v, k in zip(c, keep, strict=True) if k] for name, c in table.items()}
    run = load_run(model.write(tmp_path / "run"))
    axes = axes_of(chart_token_latency(run, summarise_run(run)))
    (drawn,) = [drawn for drawn in axes.get_lines() if drawn.get_label() == "p50"]
    assert np.flatnonzero(np.isnan(np.asarray(drawn.get_ydata(), dtype=float)))[:3].tolist() == [10, 11, 13]
    # Second 12 has no neighbour to draw a line to.
    dots = [np.asarray(other.get_xdata()).tolist() for other in axes.get_lines() if other.get_marker() == "o"]
    assert dots == [[12.5]] * 3


def test_percentiles_have_colours_that_can_be_told_apart() -> None:
    # Okabe and Ito's palette; luminance differs too, for print and for those who see no colour.
    assert len(set(PERCENTILE_COLOURS.values())) == len(PERCENTILE_COLOURS)


def test_long_names_leave_room_for_the_chart(loaded: Loaded) -> None:
    run, summary = loaded("plain")
    named = [{**summary, "run": {**summary["run"], "name": f"2026-11-22T10-00-00Z_{'long' * 25}_{end}"}} for end in ("before", "after")]
    # Matplotlib gives the layout up, with a warning, where a legend is wider than its figure; a warning fails a test here.
    drawn = draw(COMPARISON_CHARTS, [run, run], named)
    assert len(drawn) == 4
    assert all("2026-11-22T10-00-00Z" in chart.svg and "_before" in chart.svg and "_after" in chart.svg for chart in drawn)


def test_a_line_that_ends_at_nought_on_a_logarithmic_scale_leaves_room_for_the_chart() -> None:
    made, (axes,) = new_figure()
    axes.set_title("gaps")
    axes.plot([0, 1, 2], [30.0, 300.0, 0.0])
    latency_scale(axes, [np.array([30.0, 300.0, 0.0])])
    label_ends(axes, [(2.0, 0.0, "p50", "black"), (2.0, 300.0, "p99", "black")])
    assert axes.get_yscale() == "log"
    # Without room Matplotlib gives the layout up, with a warning, which fails a test here.
    assert ">p50<" in render(made, "gaps", "").svg
    assert axes.get_position().width > 0.5
