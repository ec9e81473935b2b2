"""The charts of one run: each a function from (run, summary) to a figure, or None where there is nothing to show.

Everything is drawn with matplotlib's object interface; no window, no global figure.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from .distributions import chart_distribution, chart_ladder, chart_percentiles, chart_stop
from .load import Run
from .quality_charts import chart_fairness, chart_goodput, chart_smoothness
from .style import PNG_DPI, RC
from .timelines import chart_connections, chart_receive_lag, chart_throughput, chart_token_latency, chart_ttft

Summary = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawn chart: its name is the file's stem."""

    name: str
    title: str
    caption: str
    svg: str
    png: bytes


CHARTS: tuple[tuple[str, Callable[[Run, Summary], Figure | None], str], ...] = (
    ("ladder", chart_ladder, "Each point stands on the seconds of its step after the settling time; bars are 95 % intervals."),
    ("token_latency_over_time", chart_token_latency, "Per second, tokens by arrival. Grey: warm-up and drain, which no figure counts."),
    ("latency_percentiles", chart_percentiles, "Each step to the right is a rarer token: 99.9 is one in a thousand."),
    ("latency_distribution", chart_distribution, "Steady window. Two humps are two kinds of token, which a mean would hide."),
    ("ttft_over_time", chart_ttft, "Conversations by their start."),
    ("goodput", chart_goodput, "Conversations by their start. Without those of which it is not known, and those the generator disturbed."),
    (
        "fairness",
        chart_fairness,
        "Of the conversations that stream through a whole interval: 1 when all get the same. One blocked handler shows here first.",
    ),
    ("smoothness", chart_smoothness, "Left: each conversation's longest gap. Right: tokens that came by the deadline of a reader."),
    ("connections", chart_connections, "At the end of each second. A gap between our count and the server's is a leak."),
    ("throughput", chart_throughput, "Tokens by arrival; conversations by their end."),
    ("stop", chart_stop, "From stop sent to the arrival of the end message, and the tokens that still arrived after it was sent."),
    ("receive_lag", chart_receive_lag, "Read by the generator minus arrival at the kernel. Well below the gap, it cannot be what is seen."),
)


def draw(charts: Iterable[tuple[str, Callable[..., Figure | None], str]], *data: Any) -> list[Chart]:
    """Each chart (its name, what draws it from ``data``, its caption) that has data, as SVG and PNG; the same data give the same bytes."""
    with mpl.rc_context(RC):
        figures = ((name, chart(*data), caption) for name, chart, caption in charts)
        return [render(made, name, caption) for name, made, caption in figures if made is not None]


def render(made: Figure, name: str, caption: str) -> Chart:
    """A figure as SVG text without date or random names, and as PNG."""
    title = next(axes.get_title(loc="left") for axes in made.axes)
    with mpl.rc_context({**RC, "svg.hashsalt": name}):
        text, image = io.StringIO(), io.BytesIO()
        made.savefig(text, format="svg", metadata={"Date": None, "Title": title})
        # Laid out once: the second drawing keeps every label where the first put it.
        made.set_layout_engine("none")
        made.savefig(image, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return Chart(name, title, caption, re.sub(r"[ \t]+\n", "\n", text.getvalue()), image.getvalue())
