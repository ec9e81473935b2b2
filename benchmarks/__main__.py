"""``python -m benchmarks``: one program, a command for each question."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from . import options as command_line
from .keys import ScenarioError, plain
from .overview import print_overview, write_page
from .runner import BenchError, Plan, bench
from .scenario import SUITES, Scenario, catalogue, check, find, read, suite, with_adapter, with_thresholds
from .terminal import complain, consoles, refuse

OWN_OPTIONS: Final = {
    "calibrate": "benchmarks.calibrate",
    "capacity": "benchmarks.capacity",
    "omission": "benchmarks.omission",
    "account": "benchmarks.accounting",
    "sabotage": "benchmarks.sabotage",
    "viewer": "benchmarks.viewer",
    "faults": "benchmarks.reliability",
    "scaling": "benchmarks.scaling",
    "transports": "benchmarks.transports",
    "abort": "benchmarks.abort",
    "servers": "benchmarks.servers",
    "check": "benchmarks.check",
    "prove": "benchmarks.prove",
    "history": "benchmarks.history",
    "attack": "benchmarks.attack",
}
"""Commands that read their own options, and where they live: imported late, for they bring pandas with them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit code by the one table of outcomes."""
    words, extra = command_line.split(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in OWN_OPTIONS:
        return int(importlib.import_module(OWN_OPTIONS[words[0]]).main(words[1:]))
    given = command_line.parse(words)
    # Whoever asked for JSON reads standard output with a program.
    console, errors = consoles(getattr(given, "json", False))
    try:
        if given.command == "bench":
            return _bench(given, extra, console, errors)
        if given.command == "ui":
            from .ui import serve_ui

            return serve_ui(given.host, given.web_port, given.processes, console)
        if given.command == "engine":
            from .engine import compare_engines

            return compare_engines(given.connections, given.rounds, given.seconds, given.out, given.json, console, errors)
        return _list_json() if given.json else _list(console)
    except ScenarioError as error:
        complain(errors, error)
        return 2
    except BenchError as error:
        return refuse(errors, error)


def _bench(given: argparse.Namespace, extra: Sequence[str], console: Console, errors: Console) -> int:
    changes = command_line.overrides(given)
    names = given.scenario or suite(given.suite)
    scenarios = [read(find(name), changes) for name in names]
    asked = check("thresholds", given.threshold, Scenario)
    runs = tuple(with_thresholds(run, asked) for scenario in scenarios for run in scenario.runs)
    if twice := [run.name for run in runs if sum(one.name == run.name for one in runs) > 1]:
        raise ScenarioError(f"expected every run once, and {twice[0]} is asked for twice")
    name = given.name or ("+".join(scenario.name for scenario in scenarios) if given.scenario else given.suite)
    runs = tuple(with_adapter(run, *command_line.adapter(given)) for run in runs)
    plan = Plan(
        name, runs, given.out, given.host, command_line.access(given), given.seed, given.metrics_port, tuple(extra),
        command_line.server(given),
    )  # fmt: skip
    finished = bench(plan, errors)
    write_page(finished)
    for outcome in finished.outcomes:
        for message in outcome.messages:
            complain(errors, f"{outcome.run.name}: {message}")
    print_overview(finished, console)
    if given.json:
        print(json.dumps(finished.as_dict(), ensure_ascii=False, allow_nan=False))
    return finished.exit_code


def _list(console: Console) -> int:
    table = Table(box=None, pad_edge=False)
    for title in ("Scenario", "Question", "Runs", "Users", "Load", "Budget", "Suites"):
        table.add_column(title, justify="right" if title in ("Runs", "Users", "Load", "Budget") else "left")
    for scenario in catalogue():
        table.add_row(
            scenario.name, scenario.question, str(len(scenario.runs)), str(max(run.load.users_max for run in scenario.runs)),
            f"{plain(sum(run.load.seconds for run in scenario.runs))} s", f"{plain(scenario.budget_s)} s",
            ", ".join(name for name, members in SUITES.items() if scenario.name in members),
        )  # fmt: skip
    console.print(table)
    return 0


def _list_json() -> int:
    """For whoever makes the same load by other means, such as the form of Locust's web page."""
    runs = [
        {"name": run.name, "title": run.title, "question": run.question, "options": run.load.options(), "scenario": run.as_dict()}
        for scenario in catalogue()
        for run in scenario.runs
    ]
    print(json.dumps(runs, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
