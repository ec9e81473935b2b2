"""The summary for a terminal: the verdict of validity first, then figures, counts, errors and paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .content import holding_rows, verdict_title
from .measures import headline_metric
from .quality import quality_lines, threshold_rows, thresholds_title
from .units import count, in_unit, percentile_text, shown_unit, significant

COLUMNS = ("p50", "p90", "p99")
PLAIN_WIDTH = 110
Summary = Mapping[str, Any]


def print_summary(summary: Summary, file: TextIO, *, paths: bool = True) -> None:
    """Write the summary to ``file``; in colour on a terminal, plain elsewhere."""
    console = Console(file=file, highlight=False, width=None if file.isatty() else PLAIN_WIDTH, soft_wrap=not file.isatty())
    for line in verdict_lines(summary):
        console.print(line)
    console.print(_metrics(summary))
    if summary["steps"]:
        console.print(_steps(summary))
    if summary.get("thresholds"):
        console.print(_thresholds(summary))
    for text in count_lines(summary):
        console.print(Text(text))
    if paths:
        console.print(Text(f"report   {summary['run']['path']}/report.html"))
        console.print(Text(f"summary  {summary['run']['path']}/summary.json"))


def verdict_lines(summary: Summary) -> list[Text]:
    """Valid or not, why not, and what was found."""
    run, validity = summary["run"], summary["validity"]
    scenario = run["scenario"].get("title") or run["scenario"].get("name") or run["name"]
    style = "bold green" if validity["valid"] else "bold red"
    head = verdict_title(summary).upper() if not validity["valid"] else "Valid run"
    lines = [Text.assemble((head, style), f": {scenario}, {run['target'].get('url', '')}")]
    lines += [Text.assemble(("  ! ", "red"), reason["sentence"]) for reason in validity["reasons"]]
    if told := thresholds_title(summary):
        met = summary["thresholds"]["state"] == "met"
        lines.append(
            Text.assemble(("  = ", "green" if met else "red"), f"{told}{'' if validity['valid'] else ', of a run that is not valid'}.")
        )
    lines += [Text.assemble(("  - ", "yellow"), finding["sentence"]) for finding in validity["findings"]]
    return lines


def _metrics(summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric")
    for column in (*COLUMNS, "n"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("unit")
    for figures in summary["metrics"].values():
        if figures["n"]:
            cells = [percentile_text(figures["percentiles"][column], figures["unit"]) for column in COLUMNS]
            table.add_row(figures["title"], *cells, count(figures["n"]), shown_unit(figures["unit"]))
    return table


def _thresholds(summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("threshold", "measured", "95 % interval", "result"):
        table.add_column(name, no_wrap=name != "measured")
    for row in threshold_rows(summary):
        style = {"met": "green", "missed": "bold red", "unknown": "yellow"}[row["state"]]
        table.add_row(row["objective"], Text(row["value"]), row["range"], Text(row["state"], style=style))
    return table


def _steps(summary: Summary) -> Table:
    metric = headline_metric(summary)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("users", "tokens/s", "token p50", "token p99", "first p50", "first p99", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    for step in summary["steps"]:
        entries = [step[name]["percentiles"][p] for name in (metric, "ttft") for p in ("p50", "p99")]
        cells = ["n/a" if entry["value"] is None else in_unit(entry["value"], "ns") for entry in entries]
        table.add_row(count(step["users"]), in_unit(step["rates"]["throughput_tokens"], "1/s"), *cells, count(step["failed"]))
    return table


def count_lines(summary: Summary) -> list[str]:
    """Rates, outcomes, connections and errors, a line each."""
    rates, counts, stop = summary["rates"], summary["counts"], summary["stop"]
    conversations, connections = counts["conversations"], counts["connections"]
    lines = [
        f"rates          {in_unit(rates['throughput_tokens'], '1/s')} tokens/s, "
        f"{in_unit(rates['throughput_conversations'], '1/s')} conversations/s in the steady window"
    ]
    lines += quality_lines(summary)
    outcomes = [f"{count(n)} {name}" for name, n in conversations.items() if name in _OUTCOMES and n]
    lines.append(f"conversations  {count(conversations['started'])} started: {', '.join(outcomes) or 'none ended'}")
    lines.append(
        f"connections    {count(connections['succeeded'])} of {count(connections['attempted'])} connected, "
        f"{count(connections['open_max'])} open at most, {count(connections['closed_abnormal'])} closed abnormally"
    )
    if (held := holding_rows(summary)) and summary["holding"]["generator_bytes_per_connection"] is not None:
        lines.append("holding        " + ", ".join(f"{name} {text}" for name, text in held))
    if stop["stopped"]:
        overrun = (
            "each was the end of its connection: stop latency and overrun tokens are not measurable"
            if stop["overrun_tokens_mean"] is None
            else f"{significant(stop['overrun_tokens_mean'])} overrun tokens each (most {stop['overrun_tokens_max']})"
        )
        lines.append(f"stops          {count(stop['stopped'])} took effect, {count(stop['crossed'])} crossed the end, {overrun}")
    for table, errors in summary["errors"].items():
        for error in errors:
            example = f", e.g. {error['examples'][0]!r}" if error["examples"] else ""
            lines.append(f"error          {error['kind']} x {count(error['count'])} ({table}){example}")
    return lines


_OUTCOMES = {"completed", "stopped", "empty", "failed", "abandoned", "unknown"}
