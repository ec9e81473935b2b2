"""Two or more runs side by side, the first as the base: figures, charts and a page. It describes; the regression check judges."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtest.metrics import BY_NAME
from loadtest.run_directory import RunDirectoryError, write_text

from .build import replace_charts
from .load import Run, load_run
from .summary import summarise_run
from .units import interval_text, percentile_text, share, shown_unit

SCHEMA_VERSION = 1
# 1: first.
MOST_RUNS = 6
"""As many as there are colours that everybody can tell apart."""
PERCENTILES = ("p50", "p99")
_SAME: tuple[tuple[str, str, Callable[[Mapping[str, Any]], Any]], ...] = (
    ("scenario", "scenarios", lambda s: s["run"]["scenario"].get("name")),
    ("loop", "kinds of load", lambda s: s["load"]["loop"]),
    ("users", "numbers of users", lambda s: s["load"]["users_max"]),
    ("window", "acknowledgement windows", lambda s: s["run"]["load"].get("window")),
    ("tokens", "numbers of tokens", lambda s: s["run"]["load"].get("tokens")),
    ("objectives", "objectives of a conversation", lambda s: s["goodput"]["objectives"] if s.get("goodput") else None),
    ("gap", "gaps asked of the server", lambda s: s["run"]["load"].get("gap_ms")),
    ("clock", "arrival clocks", lambda s: s["instrument"]["clock"]),
    ("machine", "machines", lambda s: s["environment"].get("hostname_hash")),
)

Summary = Mapping[str, Any]


def compare_runs(paths: Sequence[Path], out: Path | None = None) -> dict[str, Any]:
    """Compare runs, write page, charts and ``comparison.json`` into ``out``, and return the comparison.

    RunDirectoryError when there are not two to six different runs, one cannot be read, or they measured different protocols.
    """
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) != len(resolved) or not 2 <= len(paths) <= MOST_RUNS:
        named = ", ".join(str(path) for path in paths)
        raise RunDirectoryError(f"expected two to {MOST_RUNS} different runs to compare, got {named}; name the base first, then the others")
    runs = [load_run(path) for path in paths]
    summaries = [summarise_run(run) for run in runs]
    adapters = {str(summary["run"]["target"].get("adapter")) for summary in summaries}
    if len(adapters) > 1:
        raise RunDirectoryError(
            f"expected runs of one protocol, got adapters {', '.join(sorted(adapters))}; their tokens are not the same thing, compare "
            "runs of the same adapter"
        )
    comparison = tabulate(summaries)
    folder = out or resolved[-1].parent / ("compare_" + "_".join(path.name for path in resolved))
    comparison["path"] = str(folder)
    _write(folder, comparison, runs, summaries)
    return comparison


def tabulate(summaries: Sequence[Summary]) -> dict[str, Any]:
    """The comparison of summaries as plain data: ``change`` is relative to the first, ``apart`` that the 95 % intervals do not meet."""
    rows: list[dict[str, Any]] = []
    for metric in BY_NAME:
        figures = [summary["metrics"].get(metric) for summary in summaries]
        if not any(f and f["n"] for f in figures):
            continue
        for percentile in PERCENTILES:
            entries = [f["percentiles"][percentile] if f else None for f in figures]
            if any(entry and entry["value"] is not None for entry in entries):
                rows.append(_row(metric, percentile, entries))
    for metric in ("throughput_tokens", "throughput_conversations"):
        values = [summary["rates"][metric] for summary in summaries]
        if any(values):
            rows.append(_row(metric, "mean", [{"value": value, "low": None, "high": None, "text": "n/a"} for value in values]))
    rows += _quality_rows(summaries)
    return {
        "schema_version": SCHEMA_VERSION,
        "runs": [
            {
                "name": s["run"]["name"], "path": s["run"]["path"], "scenario": s["run"]["scenario"], "target": s["run"]["target"],
                "started_utc": s["run"]["started_utc"], "valid": s["validity"]["valid"], "status": s["run"]["status"],
                "reasons": [reason["sentence"] for reason in s["validity"]["reasons"]], "git": s["git"],
            }
            for s in summaries
        ],
        "warnings": _warnings(summaries), "rows": rows,
    }  # fmt: skip


def _quality_rows(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """Goodput, stalls, fluidity and fairness, where any run has them."""
    rows = []
    for name, title, unit, better, read in _QUALITY:
        figures = [read(summary) for summary in summaries]
        if any(one and one["value"] is not None for one in figures):
            entries = [one and {"low": None, "high": None, "text": "n/a", **one} for one in figures]
            rows.append(_row(name, "", entries, {"title": title, "unit": unit, "better": better}))
    return rows


def _part(place: str, name: str) -> Callable[[Summary], Mapping[str, Any] | None]:
    def read(summary: Summary) -> Mapping[str, Any] | None:
        found = (summary.get(place) or {}).get(name)
        return found if found is None or isinstance(found, Mapping) else {"value": found}

    return read


_QUALITY: tuple[tuple[str, str, str, str, Callable[[Summary], Mapping[str, Any] | None]], ...] = (
    ("goodput", "Goodput, conversations", "1/s", "higher", _part("goodput", "rate")),
    ("goodput_share", "Goodput, share", "share", "higher", _part("goodput", "share")),
    ("errors", "Failed attempts", "share", "lower", _part("shares", "errors")),
    ("stalled", "Conversations with a stall", "share", "lower", _part("stalls", "share")),
    ("fluidity", "Tokens in time for a reader", "share", "higher", _part("fluidity", "tokens")),
    ("fairness", "Fairness (Jain's index)", "1", "higher", _part("fairness", "mean")),
)
"""Figures of a run that are one number: name, title, unit, direction, where they stand in the summary."""


def _row(
    metric: str, percentile: str, entries: Sequence[Mapping[str, Any] | None], titled: Mapping[str, str] | None = None
) -> dict[str, Any]:
    base = entries[0]
    values = []
    for entry in entries:
        value: dict[str, Any] = {"value": None, "low": None, "high": None, "text": "not measured"}
        if entry:
            value = {key: entry[key] for key in ("value", "low", "high", "text")}
        known = base is not None and base["value"] and value["value"] is not None
        value["change"] = value["value"] / base["value"] - 1 if known and base is not None else None
        value["apart"] = _apart(base, entry)
        values.append(value)
    about = BY_NAME.get(metric)
    named = titled or ({"title": about.title, "unit": about.unit, "better": about.better} if about else {})
    return {"metric": metric, **named, "percentile": percentile, "values": values}


def _apart(base: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool | None:
    """Whether two 95 % intervals do not meet; None where one has a side that is not known."""
    if not base or not other or base is other or any(e[k] is None for e in (base, other) for k in ("low", "high")):
        return None
    return bool(base["high"] < other["low"] or other["high"] < base["low"])


def _warnings(summaries: Sequence[Summary]) -> list[str]:
    found = []
    for _, names, read in _SAME:
        values = [str(read(summary)) for summary in summaries]
        if len(set(values)) > 1:
            found.append(f"The runs have different {names}: {', '.join(values)}. A difference in the figures may be due to that.")
    return found


def _write(folder: Path, comparison: dict[str, Any], runs: Sequence[Run], summaries: Sequence[Summary]) -> None:
    from .charts import draw
    from .comparison_charts import COMPARISON_CHARTS
    from .comparison_page import render_comparison

    drawn = draw(COMPARISON_CHARTS, runs, summaries)
    page = render_comparison(comparison, drawn)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_charts(folder, drawn)
        write_text(folder / "compare.html", page)
        write_text(folder / "comparison.json", json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise RunDirectoryError(f"cannot write the comparison into {folder}: {error.strerror}; choose another --out") from None


def change_text(row: Mapping[str, Any], value: Mapping[str, Any]) -> str:
    """``+12 %``, with ``better`` or ``worse`` where the intervals do not meet."""
    change = value["change"]
    if change is None:
        return ""
    text = f"{'+' if change > 0 else '−' if change < 0 else '±'}{share(abs(change))}"
    if not value["apart"] or row["better"] == "neither":
        return text
    return f"{text} {'better' if (change < 0) == (row['better'] == 'lower') else 'worse'}"


def print_comparison(comparison: Mapping[str, Any], file: TextIO) -> None:
    """Write the comparison as a table; validity and warnings first."""
    console = Console(file=file, highlight=False, width=None if file.isatty() else 140, soft_wrap=not file.isatty())
    for run in comparison["runs"]:
        if not run["valid"]:
            console.print(Text.assemble(("INVALID", "bold red"), f" {run['name']}: {' '.join(run['reasons'])}"))
    for warning in comparison["warnings"]:
        console.print(Text.assemble(("  - ", "yellow"), warning))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric")
    table.add_column("")
    for number, run in enumerate(comparison["runs"]):
        table.add_column(Text(run["name"] + ("" if run["valid"] else " (invalid)")), justify="right")
        if number:
            table.add_column("change", justify="right")
    table.add_column("unit")
    for row in comparison["rows"]:
        cells = []
        for number, value in enumerate(row["values"]):
            cells.append(percentile_text(value, row["unit"]))
            if number:
                cells.append(change_text(row, value))
        table.add_row(row["title"], row["percentile"], *cells, shown_unit(row["unit"]))
    console.print(table)
    console.print(Text("better, worse: the 95 % intervals do not meet. One run each is a hint, not a verdict."))
    console.print(Text(f"page     {comparison['path']}/compare.html"))


def cell(row: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, str]:
    """A value of the comparison as the page shows it."""
    worse = change_text(row, value)
    return {
        "text": percentile_text(value, row["unit"]), "range": interval_text(value, row["unit"]), "change": worse,
        "style": "broken" if worse.endswith("worse") else "ok" if worse.endswith("better") else "",
    }  # fmt: skip
