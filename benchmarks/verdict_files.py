"""Where a verdict goes: verdict.json, verdict.md, junit.xml, env.json, the row of history.csv, and GitHub's own files."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from loadtest.environment import describe_machine, describe_revision, describe_versions
from loadtest.run_directory import write_text

from .check_plan import BASE, HEAD
from .verdict_text import annotation, junit, markdown, sentence

GATED: Final = ("tpot_p50", "token_latency_p99", "itl_p99", "cpu_per_token", "time_per_token")
COLUMNS: Final = (
    "ended_utc", "revision", "verdict", "blocks", "seconds", "gate", "base", "head", "load_average", "machine",
    *(f"{name}_{part}" for name in GATED for part in ("base_ns", "head_ns", "change", "low", "high")), "failed_base", "failed_head",
)  # fmt: skip
"""Columns of history.csv; changes and bounds are shares of one."""


def verdict_json(verdict: Mapping[str, Any]) -> str:
    """The verdict as its file holds it: the same verdict gives the same bytes."""
    return json.dumps({**verdict, "sentence": sentence(verdict)}, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def write_verdict(folder: Path, verdict: Mapping[str, Any]) -> None:
    """The three files that follow from the verdict alone."""
    write_text(folder / "verdict.json", verdict_json(verdict))
    write_text(folder / "verdict.md", markdown(verdict))
    write_text(folder / "junit.xml", junit(verdict))


def describe_environment(seconds: float | None = None) -> dict[str, Any]:
    """Where and when: machine, versions, revision, load."""
    return {
        "ended_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "seconds": None if seconds is None else round(seconds, 1),
        "load_average": [round(one, 2) for one in os.getloadavg()], "environment": describe_machine(), "versions": describe_versions(),
        "git": describe_revision(),
    }  # fmt: skip


def history_row(verdict: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """One job as a row of history.csv."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    git = environment["git"] or {}
    errors = verdict["errors"] or {"failed": {BASE: None, HEAD: None}}
    row |= {
        "ended_utc": environment["ended_utc"], "revision": git.get("revision"), "verdict": verdict["verdict"], "blocks": verdict["blocks"],
        "seconds": environment["seconds"], "gate": verdict["gate"], "base": verdict["base"]["label"], "head": verdict["head"]["label"],
        "load_average": environment["load_average"][0], "machine": environment["environment"]["hostname_hash"],
        "failed_base": errors["failed"][BASE], "failed_head": errors["failed"][HEAD],
    }  # fmt: skip
    for gate in verdict["gates"]:
        name = gate["metric"]
        for column, value in (
            ("base_ns", gate[BASE]), ("head_ns", gate[HEAD]), ("change", gate["change"]), ("low", gate["low"]), ("high", gate["high"]),
        ):  # fmt: skip
            row[f"{name}_{column}"] = None if value is None else float(f"{value:.6g}")
    return row


def plain_cell(value: Any) -> Any:
    """A cell of one line that no spreadsheet takes for a formula: labels and revisions may be chosen by whoever opens a pull request."""
    if not isinstance(value, str):
        return value
    text = "".join(one if one.isprintable() else " " for one in value)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


def append_history(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row; ValueError where the file there has other columns, which is then left alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size:
        with path.open(encoding="utf-8", newline="") as file:
            found = tuple(next(csv.reader(file), ()))
        if found != COLUMNS:
            raise ValueError(
                f"expected the columns of a check's history in {path}, found {', '.join(found[:4])}...; choose another (--history)"
            )
        new = False
    else:
        new = True
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({column: plain_cell(value) for column, value in row.items()})


def tell_github(
    verdict: Mapping[str, Any], shadow: bool, folder: Path | None = None, environment: Mapping[str, str] = os.environ
) -> str | None:
    """Write the step's summary and outputs where GitHub Actions asks for them; the annotation to print, or None elsewhere."""
    if environment.get("GITHUB_ACTIONS") != "true":
        return None
    for variable, text in (
        ("GITHUB_STEP_SUMMARY", markdown(verdict) + "\n"),
        ("GITHUB_OUTPUT", f"verdict={verdict['verdict']}\n" + (f"directory={folder}\n" if folder is not None else "")),
    ):
        if path := environment.get(variable):
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(text)
    return annotation(verdict, shadow)
