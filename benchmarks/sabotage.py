"""``python -m benchmarks sabotage``: real runs, healthy and spoilt, and whether every rule of validity tells them apart.

Each rule has a fault of its own, injected into real runs against the real servers; that rule has to refuse every one of them, and
none may refuse a healthy run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from loadtest.environment import describe_machine
from loadtest.run_directory import RunDirectoryError, write_text
from reports.__main__ import main as reports
from reports.validity import RULES

from .experiment import Experiment
from .fault_bench import Bench, healthy_load
from .faults import FAULTS, Fault
from .options import Parser
from .processes import Interrupted, Interrupts, ProcessError, Processes
from .runner import BenchError, new_folder
from .terminal import complain, consoles, refuse, teller

OK: Final = 0
NOT_TRUE: Final = 12
SHORTEST_S: Final = 4
"""Below, nothing would be left of a run beside its warm-up, the fault and its end."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the report said of one run: its exit code, the rules that refused it, and what each rule measured."""

    name: str
    exit_code: int
    refused_by: tuple[str, ...]
    measured: dict[str, str]
    sentences: tuple[str, ...]


@dataclass(slots=True)
class Row:
    """All runs with one fault, or (``rule`` is None) all healthy ones. ``failures`` are runs that could not be made."""

    rule: str | None
    fault: str
    how: str
    verdicts: list[Verdict] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def runs(self) -> int:
        """How many were tried."""
        return len(self.verdicts) + len(self.failures)

    @property
    def refused(self) -> int:
        """How many its own rule refused, or for healthy ones any."""
        return sum(bool(one.refused_by) if self.rule is None else self.rule in one.refused_by for one in self.verdicts)

    @property
    def others(self) -> dict[str, int]:
        """How often other rules refused them too."""
        return dict(Counter(rule for one in self.verdicts for rule in one.refused_by if rule != self.rule).most_common())

    @property
    def exit_codes(self) -> dict[int, int]:
        """Exit codes of ``reports build`` and how often each came."""
        return dict(sorted(Counter(one.exit_code for one in self.verdicts).items()))

    @property
    def figures(self) -> list[str]:
        """What its rule measured, run by run."""
        return [one.measured.get(self.rule, "") for one in self.verdicts] if self.rule else []

    @property
    def holds(self) -> bool:
        """Whether every run came out as it must."""
        wanted = (0, {OK}) if self.rule is None else (self.runs, {NOT_TRUE})
        return not self.failures and self.refused == wanted[0] and set(self.exit_codes) <= wanted[1]

    def as_dict(self) -> dict[str, Any]:
        """The row for JSON."""
        return {
            "rule": self.rule, "fault": self.fault, "how": self.how, "runs": self.runs, "refused": self.refused, "others": self.others,
            "exit_codes": {str(code): n for code, n in self.exit_codes.items()}, "figures": self.figures, "holds": self.holds,
            "failures": self.failures,
            "each": [
                {"run": one.name, "exit_code": one.exit_code, "refused_by": one.refused_by, "sentences": one.sentences}
                for one in self.verdicts
            ],
        }  # fmt: skip


def judge(path: Path) -> Verdict:
    """Build the report of a run, as ``python -m reports build`` does, and read what it says."""
    with contextlib.redirect_stdout(io.StringIO()):
        code = reports(["build", "--no-charts", str(path)])
    try:
        validity = json.loads((path / "summary.json").read_text(encoding="utf-8"))["validity"]
    except OSError as error:
        raise RunDirectoryError(f"{path.name} has no report: {error.strerror}") from None
    reasons = validity["reasons"]
    measured = {rule["rule"]: rule["measured"] for rule in validity["rules"]}
    return Verdict(path.name, code, tuple(one["rule"] for one in reasons), measured, tuple(one["sentence"] for one in reasons))


def prove(bench: Bench, healthy: int, each: int, seed: int, faults: Sequence[Fault], say: Say) -> list[Row]:
    """All runs and what became of them, the healthy ones first; Interrupted when asked to stop."""
    rows = [Row(None, "none", "healthy loads of differing shape")]
    for number in range(healthy):
        what, options = healthy_load(number, seed)
        say(f"healthy {number + 1} of {healthy}: {what}")
        _attempt(rows[0], f"healthy-{number + 1}", partial(_run, bench, options), say)
        verdict = rows[0].verdicts[-1:]
        if verdict and not verdict[0].refused_by and "--processes" not in options and not bench.healthy:
            bench.healthy.append(bench.experiment.folder / verdict[0].name)
    for fault in faults:
        row = Row(fault.rule, fault.name, fault.how)
        rows.append(row)
        for number in range(each):
            say(f"{fault.rule} {number + 1} of {each}: {fault.how}")
            _attempt(row, f"{fault.rule}-{fault.name}-{number + 1}", partial(_spoil, bench, fault, number), say)
    return rows


def _run(bench: Bench, options: Sequence[str], name: str) -> Path:
    return bench.run(name, options)


def _spoil(bench: Bench, fault: Fault, number: int, name: str) -> Path:
    return fault.make(bench, name, number)


def _attempt(row: Row, name: str, make: Callable[[str], Path], say: Say) -> None:
    try:
        verdict = judge(make(name))
    except (ProcessError, RunDirectoryError, OSError) as error:
        row.failures.append(f"{name}: {error}")
        say(f"  could not be made: {error}")
        return
    row.verdicts.append(verdict)
    said = ", ".join(verdict.refused_by) or "nobody"
    figure = f" ({verdict.measured.get(row.rule, '')})" if row.rule else ""
    say(f"  refused by {said}{figure}")


def print_rows(rows: Sequence[Row], console: Console) -> None:
    """The table for people, and below it every run that came out wrong."""
    table = Table(box=None, pad_edge=False)
    for title in ("Rule", "Fault", "Runs", "Refused", "", "By others too", "Exit", "What the rule measured"):
        table.add_column(title, justify="right" if title in ("Runs", "Refused") else "left")
    for row in rows:
        table.add_row(
            row.rule or "healthy", row.fault, str(row.runs), str(row.refused), "[green]so[/]" if row.holds else "[bold red]NOT SO[/]",
            _counts(row.others), ", ".join(map(str, row.exit_codes)), "; ".join(row.figures),
        )  # fmt: skip
    console.print(table)
    for row in (row for row in rows if not row.holds):
        for failure in row.failures:
            complain(console, failure)
        for one in row.verdicts:
            if bool(one.refused_by) if row.rule is None else row.rule not in one.refused_by or one.exit_code != NOT_TRUE:
                told = " ".join(one.sentences) or "was not refused"
                complain(console, f"{one.name}: {told}")


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counted.items())


def write_page_text(rows: Sequence[Row], seconds: int, machine: dict[str, Any]) -> str:
    """``docs/validity-proof.md``: what was done and what came of it, in Markdown."""
    healthy, spoilt = rows[0], rows[1:]
    where = f"{machine.get('cpu_model')}, {machine.get('cpu_count')} CPUs, {machine.get('os')} {machine.get('kernel')}"
    lines = [
        "# The rules of validity, proved", "",
        "<!-- Written by `python -m benchmarks sabotage` as proof.md beside its runs. -->", "",
        "Every rule of [validity.md](validity.md) has a fault that it must refuse. The faults are injected into real runs: the reference",
        "or the null server and Locust as processes of their own, the report built from what was recorded. Healthy runs of differing",
        "shape stand beside them, and none may be refused.", "",
        "    python -m benchmarks sabotage      # exit code 0: as in this table; 12: not", "",
        f"Here: runs of {seconds} s on {where}.", "",
        f"**Healthy: {healthy.runs} runs, {healthy.refused} refused.** 4 to 32 users, gaps of 5 to 40 ms, windows 0, 1 and 8, none or",
        "30 % stopped, closed, open and open Poisson loops, one or two processes.", "",
        "| rule | fault | runs | refused by this rule | by others too | exit code | what the rule measured |",
        "|---|---|---:|---:|---|---|---|",
    ]  # fmt: skip
    for row in spoilt:
        codes = ", ".join(map(str, row.exit_codes))
        figures = "; ".join(row.figures)
        lines.append(f"| `{row.rule}` | {row.how} | {row.runs} | {row.refused} | {_counts(row.others)} | {codes} | {figures} |")
    lines += [
        "", "What is not quite real: nobody sets the clock of a machine that others use, so that for `clock` a locustfile",
        "(`benchmarks/set_clock.py`) gives the generator another wall clock, and other stamps, after a time. For `accounting` and",
        "`clamped` copies of a healthy run are changed: no fault is known that unbalances the books and leaves the rest of the record",
        "whole, or that brings the recorder a value beyond its range. For `thresholds` the copies are whole: the report is asked for",
        "more than they hold. In `receive_lag` and `generator_cpu` the fault goes before the other programs of the machine where that",
        "is allowed (to root).", "",
    ]  # fmt: skip
    return "\n".join(lines)


def read_options(words: Sequence[str]) -> argparse.Namespace:
    """The command line; leaves with exit code 2 when it is wrong."""
    parser = Parser(prog="python -m benchmarks sabotage", description=__doc__)
    parser.add_argument("--healthy", type=int, default=30, metavar="N", help="healthy runs (default: 30)")
    parser.add_argument("--each", type=int, default=5, metavar="N", help="runs with each fault (default: 5)")
    parser.add_argument("--seconds", type=int, default=5, metavar="S", help="length of a run (default: 5)")
    parser.add_argument("--only", metavar="RULES", help="these rules alone, separated by commas")
    parser.add_argument("--seed", type=int, default=1, help="seed of the healthy loads' shapes (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="folder of all runs (default: runs)")
    parser.add_argument("--json", action="store_true", help="what came out on standard output, everything else on standard error")
    given = parser.parse_args(words)
    if given.healthy < 0 or given.each < 0:
        parser.error("expected numbers of runs of 0 or more")
    if not SHORTEST_S <= given.seconds <= 3600:
        parser.error(f"expected --seconds from {SHORTEST_S} to 3600, got {given.seconds}")
    known = [rule.name for rule in RULES]
    given.faults = FAULTS
    if given.only is not None:
        asked = [word.strip() for word in given.only.split(",")]
        if unknown := [word for word in asked if word not in known]:
            parser.error(f"expected --only with rules out of {', '.join(known)}, got {unknown[0]!r}")
        given.faults = tuple(fault for fault in FAULTS if fault.rule in asked)
    if sys.platform != "linux":
        parser.error("expected Linux, whose limits can be changed while a process runs")
    return given


def main(words: Sequence[str]) -> int:
    """The command; returns 0 when everything came out as it must, 12 when not, 1 our own failure, 2 usage, 130 interrupted."""
    given = read_options(words)
    console, errors = consoles(given.json)
    try:
        folder = new_folder(given.out, "sabotage")
        with Interrupts() as interrupts, Processes() as processes:
            bench = Bench(Experiment(folder, processes, interrupts), processes, given.seconds)
            rows = prove(
                bench, given.healthy, given.each, given.seed, given.faults,
                teller(errors),
            )  # fmt: skip
    except Interrupted:
        complain(errors, "interrupted")
        return 130
    except (BenchError, ProcessError, OSError) as error:
        return refuse(errors, error)
    machine = describe_machine()
    found = {"seconds": given.seconds, "machine": machine, "rows": [row.as_dict() for row in rows]}
    text = json.dumps(found, ensure_ascii=False, allow_nan=False)
    write_text(folder / "proof.json", text + "\n")
    write_text(folder / "proof.md", write_page_text(rows, given.seconds, machine))
    print_rows(rows, console)
    console.print(f"\nruns     {folder}\ntable    {folder / 'proof.md'}", highlight=False, soft_wrap=True)
    if given.json:
        sys.stdout.write(text + "\n")
    return OK if all(row.holds for row in rows) else NOT_TRUE
