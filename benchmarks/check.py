"""``python -m benchmarks check``: is head slower than base, by an amount that matters?

Two servers, started by commands or reached at URLs, are measured in turns on this machine; exact statistics over blocks decide:
pass, regressed, inconclusive or invalid. docs/regressions.md says how, and what it was seen to reach.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.adapter import AdapterError
from loadtest.redaction import redact_table
from loadtest.run_directory import write_text

from .check_blocks import read_blocks
from .check_options import Setup, parser, read_setup
from .check_plan import CheckPlan, PlanError, check_plan, draw_orders, make_gates, read_plan
from .check_progress import CheckProgress
from .check_run import CheckRun, Follower
from .check_targets import TargetError
from .keys import ScenarioError
from .processes import Interrupts, ProcessError
from .runner import BenchError, new_folder
from .terminal import complain, consoles
from .verdict import INVALID, judge
from .verdict_files import append_history, describe_environment, history_row, tell_github, verdict_json, write_verdict
from .verdict_text import markdown


def make_plan(setup: Setup) -> CheckPlan:
    """Everything that is fixed before measuring; PlanError where it could decide nothing."""
    seed = secrets.randbelow(1 << 31) if setup.seed is None else setup.seed
    ours = all(side.url is None for side in setup.sides.values())
    orders, starts = draw_orders(seed, setup.looks[-1], setup.slices)
    plan = CheckPlan(
        seed=seed, gate=setup.gate, gates=make_gates(setup.gate, setup.workload["acknowledged"], ours and setup.cpu), looks=setup.looks,
        orders=orders, starts=starts, slice_s=setup.slice_s, warm_up_s=setup.warm_up_s, fresh=ours,
        workload=setup.workload | {"adapter_options": redact_table(setup.workload["adapter_options"])},
        targets={name: side.as_dict() for name, side in setup.sides.items()},
    )  # fmt: skip
    check_plan(plan)
    return plan


def perform(setup: Setup, console: Console, interrupts: Interrupts, follower: Follower | None = None) -> tuple[Path, dict[str, Any], bool]:
    """Measure and judge: the folder with all files, the verdict, and whether it ran to its end (False: interrupted)."""
    plan = make_plan(setup)
    folder = new_folder(setup.out, setup.name)
    write_text(folder / "plan.json", json.dumps(plan.as_dict(), ensure_ascii=False, allow_nan=False, indent=2) + "\n")
    began = time.monotonic()
    with CheckProgress(console, plan) as progress:
        told = follower or Follower()
        told.measured, told_slice = progress.measured, told.slice_begins

        def slice_begins(block: int, number: int, arm: str) -> None:
            progress.slice_begins(block, number, arm)
            told_slice(block, number, arm)

        told.slice_begins = slice_begins
        told.begins(folder)
        run = CheckRun(plan, setup.sides, setup.query, setup.access, setup.workload, folder, setup.keep_tokens, told)
        whole = run.run(interrupts)
    verdict = judge(plan, run.blocks)
    write_verdict(folder, verdict)
    environment = describe_environment(time.monotonic() - began)
    write_text(folder / "env.json", json.dumps(environment, ensure_ascii=False, indent=2) + "\n")
    if whole and setup.history is not None:
        try:
            append_history(setup.history, history_row(verdict, environment))
        except (OSError, ValueError) as error:
            console.print(f"history: {error}", style="yellow", markup=False, soft_wrap=True)
    return folder, verdict, whole


def replay(blocks: Path) -> dict[str, Any]:
    """The verdict again from what was measured, and the ``plan.json`` beside it; PlanError where they are not of a check."""
    path = blocks.with_name("plan.json")
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(f"cannot read {path}: {error.strerror}; a replay needs the plan.json beside the blocks") from None
    except ValueError as error:
        raise PlanError(f"{path} is no plan of a check: {error}") from None
    return judge(read_plan(table), read_blocks(blocks))


def main(words: Sequence[str]) -> int:
    """The command; the exit code is by the table of outcomes (0, 1, 2, 10, 11, 12, 130), in shadow mode 0 whatever the verdict."""
    given = parser().parse_args(words)
    console, errors = consoles(given.json)
    try:
        if given.replay is not None:
            verdict = replay(given.replay)
            print_verdict(verdict, None, given, console)
            return _exit_code(verdict, given.shadow)
        return _check(given, console, errors)
    except (AdapterError, BenchError, PlanError, ProcessError, ScenarioError, TargetError, OSError) as error:
        complain(errors, error)
        code = error.exit_code if isinstance(error, BenchError) else 1 if isinstance(error, OSError) else 2
        return _shadowed(code, given, errors)


def _check(given: argparse.Namespace, console: Console, errors: Console) -> int:
    with Interrupts() as interrupts, ExitStack() as stack:
        # Making trees and environments cannot ask whether somebody wants us to stop; measuring can, and ends what it began in order.
        interrupts.raising = True
        try:
            setup = read_setup(given, stack, errors)
        except KeyboardInterrupt:
            complain(errors, "interrupted before anything was measured")
            return 130
        finally:
            interrupts.raising = False
        folder, verdict, whole = perform(setup, errors, interrupts)
    print_verdict(verdict, folder, given, console)
    if not whole:
        complain(errors, f"interrupted after {verdict['blocks']} blocks; what was measured is in {folder}")
        return 130
    return _exit_code(verdict, given.shadow)


def print_verdict(verdict: dict[str, Any], folder: Path | None, given: argparse.Namespace, console: Console) -> None:
    """The comment as it is, the annotation where GitHub reads it, and with --json the verdict itself on standard output."""
    if (line := tell_github(verdict, given.shadow, folder)) is not None:
        # First on its line and nothing before it, or it is no workflow command.
        sys.stdout.write(line + "\n")
    if given.json:
        sys.stdout.write(verdict_json(verdict))
        return
    text = markdown(verdict).partition("\n<details>")[0].replace("**", "").replace("### ", "")
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    if folder is not None:
        console.print(f"files    {folder}", highlight=False, soft_wrap=True)


def _exit_code(verdict: dict[str, Any], shadow: bool) -> int:
    return 0 if shadow else int(verdict["exit_code"])


def _shadowed(code: int, given: argparse.Namespace, errors: Console) -> int:
    if not given.shadow:
        return code
    errors.print(f"shadow mode: the check came to no verdict ({INVALID}), and fails nothing", style="yellow")
    return 0
