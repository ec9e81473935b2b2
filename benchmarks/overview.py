"""A suite at a glance: the key figures of every run as a table on the terminal, and as a page that leads to the reports."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtest.metrics import BY_NAME
from loadtest.run_directory import write_text
from reports.measures import gap_metric
from reports.units import ABSENT, count, duration, significant

from .suite import Outcome, Suite

STATES: Final[Mapping[int, str]] = {
    0: "valid", 1: "failed", 2: "not run", 10: "threshold failed", 11: "inconclusive", 12: "not valid", 130: "interrupted",
}  # fmt: skip
PICTURES: Final[Mapping[str, Sequence[str]]] = {
    "ladder": ("ladder", "steps"),
    "stop": ("stop",),
    "connections": ("connections",),
    "pingpong": ("throughput", "rates"),
}
"""Beginnings of the names of the charts that answer a scenario's question best."""
LEGEND: Final = (
    "Latencies: p50 / p99. Token: gap between two tokens, in unpaced runs acknowledgement to token. Wasted: tokens after a stop."
)
COLUMNS: Final = ("Conversations", "Failed", "Open", "Tokens/s", "First token", "Token", "Stop", "Wasted")


def key_figures(outcome: Outcome) -> dict[str, str]:
    """What a reader wants first, one text for each of ``COLUMNS``; latencies as p50 / p99; a dash where the run has no such figure."""
    summary = outcome.summary
    if summary is None:
        return dict.fromkeys(COLUMNS, ABSENT)
    metrics, counts, stop = summary["metrics"], summary["counts"], summary["stop"]
    failed = counts["conversations"]["failed"] + counts["connections"]["failed"] + counts["conversations"]["unknown"]
    return {
        "Conversations": count(counts["conversations"]["started"]),
        "Failed": count(failed),
        "Open": count(counts["connections"]["open_max"]),
        "Tokens/s": count(summary["rates"]["throughput_tokens"]),
        "First token": _pair(metrics.get("ttft")),
        "Token": _pair(metrics.get(token_metric(outcome))),
        "Stop": _pair(metrics.get("stop_latency")) if stop["sent"] else ABSENT,
        "Wasted": ABSENT if stop["overrun_tokens_mean"] is None else significant(stop["overrun_tokens_mean"], 2),
    }


def token_metric(outcome: Outcome) -> str:
    """The figure that says what a token costs: acknowledgement to token where nothing else paces the server, else the gap between two."""
    load = outcome.run.load
    gap = gap_metric(outcome.summary) if outcome.summary is not None else "itl"
    return "token_latency" if load.gap_ms == 0 and load.window else gap


def _pair(metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return ABSENT
    values = [metric["percentiles"][name]["value"] for name in ("p50", "p99")]
    return " / ".join("n/a" if value is None else duration(value) for value in values)


def print_overview(suite: Suite, console: Console) -> None:
    """The table of the suite and where everything is."""
    table = Table(title=f"{suite.name}: {STATES[suite.exit_code]}, {suite.seconds:.0f} s", title_justify="left", box=None, pad_edge=False)
    table.add_column("Run", style="bold", no_wrap=True)
    table.add_column("Result", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for outcome in suite.outcomes:
        style = "green" if outcome.exit_code == 0 else "red"
        figures = key_figures(outcome)
        table.add_row(outcome.run.name, f"[{style}]{STATES[outcome.exit_code]}[/]", *(figures[name] for name in COLUMNS))
    for name in suite.missing():
        table.add_row(name, "[red]not run[/]", *(ABSENT for _ in COLUMNS))
    console.print()
    console.print(table)
    console.print(LEGEND, style="dim", highlight=False)
    for outcome in suite.outcomes:
        for sentence in reasons(outcome)[len(dict.fromkeys(outcome.sentences())) :]:
            console.print(f"[red]{outcome.run.name}: {escape(sentence)}[/]", highlight=False, soft_wrap=True)
        for sentence in findings(outcome):
            console.print(f"[yellow]{outcome.run.name}:[/] {escape(sentence)}", highlight=False, soft_wrap=True)
    console.print(f"\nreport   {escape(str(suite.folder / 'index.html'))}", highlight=False, soft_wrap=True)
    console.print(f"figures  {escape(str(suite.folder / 'suite.json'))}", highlight=False, soft_wrap=True)


def reasons(outcome: Outcome) -> list[str]:
    """Why a run is not simply valid, a sentence each, none twice."""
    found = outcome.sentences()
    if outcome.summary is not None:
        found += [str(reason["sentence"]) for reason in outcome.summary["validity"]["reasons"]]
    return list(dict.fromkeys(found))


def findings(outcome: Outcome) -> list[str]:
    """What the run says about the target, a sentence each."""
    return [str(finding["sentence"]) for finding in outcome.summary["validity"]["findings"]] if outcome.summary is not None else []


def write_page(suite: Suite) -> Path:
    """Write ``index.html``: self-contained, with a picture and the key figures of each run; returns its path."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    source = Path(__file__).with_name("index.html.j2").read_text(encoding="utf-8")
    css = source.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    template = environment.from_string(source)
    runs = [
        {
            "outcome": outcome, "state": STATES[outcome.exit_code],
            "figures": key_figures(outcome), "reasons": reasons(outcome), "findings": findings(outcome),
            "picture": picture(outcome), "report": _link(outcome), "token": BY_NAME[token_metric(outcome)].title.lower(),
        }
        for outcome in suite.outcomes
    ]  # fmt: skip
    path = suite.folder / "index.html"
    write_text(path, template.render(suite=suite, state=STATES[suite.exit_code], runs=runs, policy=policy))
    return path


def _link(outcome: Outcome) -> str | None:
    return f"{outcome.directory.name}/report.html" if (outcome.directory / "report.html").is_file() else None


def picture(outcome: Outcome) -> str | None:
    """The chart that answers the run's question best, as a data URL: a page opened from a disk may load no files beside it."""
    charts = sorted((outcome.directory / "charts").glob("*.png"))
    wanted = (*PICTURES.get(outcome.run.scenario, ()), "token_latency_over_time", "connections", "")
    for beginning in wanted:
        for chart in charts:
            if chart.stem.startswith(beginning):
                return "data:image/png;base64," + base64.b64encode(chart.read_bytes()).decode("ascii")
    return None
