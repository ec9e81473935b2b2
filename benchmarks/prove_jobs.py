"""Real jobs of the regression check, one after another, a line of JSON each: what was injected and what the check made of it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from .check import perform
from .check_options import SERVER, Setup, make_workload, read_load
from .check_plan import BASE, HEAD, LOOKS
from .check_run import GENERATOR_LOG, LOGS, Follower
from .check_targets import TargetError, read_side
from .processes import ROOT, Interrupts, ProcessError, Processes, split_cpus
from .prove_cases import Case, inject, next_case
from .prove_table import read_lines
from .terminal import complain
from .verdict_files import describe_environment

FAILURES_IN_A_ROW: Final = 3


def run_jobs(path: Path, jobs: int, minutes: float, only: Sequence[str], settings: Mapping[str, Any], console: Console) -> int:
    """Run jobs until there are ``jobs`` more or the time is over; each is appended to ``path``. Returns 0, 1 or 130."""
    deadline = time.monotonic() + minutes * 60
    failures = 0
    with Interrupts() as interrupts:
        for _ in range(jobs):
            if time.monotonic() >= deadline:
                break
            lines = read_lines(path)
            case = next_case(lines, only)
            try:
                line = run_job(case, lines, settings, interrupts, console)
                failures = 0
            except (ProcessError, TargetError, OSError) as error:
                failures += 1
                complain(console, f"{case.name}: {error}")
                if failures == FAILURES_IN_A_ROW:
                    return 1
                continue
            if line is None:
                return 130
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            changes = "  ".join(f"{name} {gate['change']:+.3f}" for name, gate in line["gates"].items() if gate["change"] is not None)
            console.print(
                f"{len(lines) + 1:>4}  {case.name:8} {line['verdict']:13} {line['blocks']:>2} blocks {line['seconds']:>6.1f} s  "
                f"load {line['load_average'][0]:.1f}  {changes}", highlight=False, soft_wrap=True,
            )  # fmt: skip
    return 130 if interrupts.count else 0


def run_job(
    case: Case, lines: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], interrupts: Interrupts, console: Console
) -> dict[str, Any] | None:
    """One job and its line; None when interrupted."""
    seed = settings["seed"] + len(lines)
    injection = inject(case, lines, seed)
    before = os.getloadavg()[0]
    command = f"{shlex.quote(sys.executable)} {SERVER}"
    sides = {
        name: read_side(name, f"{command} {shlex.join(options)}", ROOT, "/ws", " ".join(("python -m server", *options)))
        for name, options in ((BASE, injection.base), (HEAD, injection.head))
    }
    load = read_load(settings["scenario"])
    setup = Setup(
        sides=sides, gate=case.gate, looks=LOOKS, slices=settings["slices"], slice_s=settings["slice_s"], warm_up_s=settings["warm_up_s"],
        workload=make_workload(load), query=load.query_pairs, out=settings["out"], name=f"prove-{case.name}", seed=seed, keep_tokens=False,
    )  # fmt: skip
    began = time.monotonic()
    quiet = Console(quiet=True)
    with Processes() as processes:

        def begins(folder: Path) -> None:
            if injection.burst_blocks:
                command = [sys.executable, "-m", "benchmarks.burst", str(folder / LOGS / GENERATOR_LOG), HEAD]
                cpus = split_cpus()
                blocks = ",".join(map(str, injection.burst_blocks))
                processes.start("the burst", [*command, blocks], settings["out"] / "burst.log", cpus and cpus[0])

        folder, verdict, whole = perform(setup, quiet, interrupts, Follower(begins=begins))
    if not whole:
        shutil.rmtree(folder, ignore_errors=True)
        return None
    line = describe_job(case, verdict, time.monotonic() - began, before)
    line |= {"injected": dict(injection.facts or {}), "burst_blocks": list(injection.burst_blocks), "seed": seed}
    line |= {"block": {"slices": setup.slices, "slice_s": setup.slice_s, "users": load.users, "tokens": load.tokens}}
    if verdict["verdict"] != case.forbidden:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        complain(console, f"{case.name}: {verdict['verdict']}, which it must not be; kept in {folder}")
    return line


def describe_job(case: Case, verdict: Mapping[str, Any], seconds: float, load_before: float) -> dict[str, Any]:
    """What is kept of a job: outcome, gates, machine, time."""
    environment = describe_environment(seconds)
    kept = ("base", "head", "change", "low", "high", "spread", "p", "verdict")
    return {
        "case": case.name, "verdict": verdict["verdict"], "blocks": verdict["blocks"], "seconds": round(seconds, 1), "gate": case.gate,
        "ended_utc": environment["ended_utc"], "load_average": [round(load_before, 2), environment["load_average"][0]],
        "machine": environment["environment"]["hostname_hash"], "revision": (environment["git"] or {}).get("revision"),
        "gates": {gate["metric"]: {name: _short(gate[name]) for name in kept} for gate in verdict["gates"]},
        "errors": None if verdict["errors"] is None else verdict["errors"]["failed"], "reasons": verdict["reasons"],
        "host": {rule["rule"]: _short(rule["measured"]) for rule in verdict["host"]},
    }  # fmt: skip


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value
