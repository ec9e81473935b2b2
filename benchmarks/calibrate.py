"""``python -m benchmarks calibrate``: does the instrument read true on this machine, now?

Servers with known answers are driven, and what the harness read stands beside what was true.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console
from rich.table import Table

from loadtest.calibration_record import keep_calibration
from loadtest.environment import describe_machine, describe_revision, describe_versions
from loadtest.run_directory import RunDirectoryError, write_text

from .accounting import AccountError, account
from .calibration_page import render_calibration
from .experiment import Experiment, Server
from .figure import Figure, exact
from .known_answers import PARTS, STEPS, Evidence, Part
from .options import Parser
from .processes import Interrupted, Interrupts, Process, ProcessError, Processes
from .reading import read_run
from .runner import BenchError, new_folder
from .terminal import complain, consoles, refuse, teller
from .witness import Witness

SCHEMA_VERSION: Final = 1
# 1: first.
HISTORY: Final = "history.txt"
NOT_TRUE: Final = 12


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(slots=True)
class Calibration:
    """What a calibration came to."""

    folder: Path
    parts: Sequence[Part]
    figures: list[Figure] = field(default_factory=list)
    remarks: dict[str, list[str]] = field(default_factory=dict)
    """What the report says against a part's own run, by part: a machine too busy for a load test may still be read truly."""
    started_utc: str = field(default_factory=_now)
    ended_utc: str = ""
    seconds: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether every part was run."""
        return len(self.parts) == len(PARTS)

    @property
    def passed(self) -> bool:
        """Whether everything was read true."""
        return bool(self.figures) and all(figure.passed for figure in self.figures)

    @property
    def worst(self) -> Figure | None:
        """The figure farthest beyond its bound, or nearest to it."""
        return max(self.figures, key=lambda figure: (not figure.passed, figure.strain), default=None)

    def as_dict(self) -> dict[str, Any]:
        """What calibration.json says."""
        worst = self.worst
        return {
            "schema_version": SCHEMA_VERSION,
            "passed": self.passed,
            "whole": self.whole,
            "started_utc": self.started_utc,
            "ended_utc": self.ended_utc,
            "took_s": round(self.seconds, 1),
            "page": f"{self.folder.name}/calibration.html",
            "environment": describe_machine(),
            "versions": describe_versions(),
            "git": describe_revision(),
            "failed": [f"{figure.part}/{figure.name}" for figure in self.figures if not figure.passed],
            "worst": None if worst is None else {**worst.as_dict(), "sentence": sentence(worst)},
            "parts": [
                {"name": part.name, "title": part.title, "asked": part.asked, "server": part.server, "users": part.users,
                 "options": list(part.options), "remarks": self.remarks.get(part.name, [])}
                for part in self.parts
            ],
            "figures": [figure.as_dict() for figure in self.figures],
        }  # fmt: skip


def sentence(figure: Figure) -> str:
    """A figure in one sentence."""
    read, true = figure.text(figure.read), figure.text(figure.true)
    return f"{figure.title} ({figure.part}): read {read}, true {true}, error {figure.error_text}, bound {figure.bound_text}"


def calibrate(parts: Sequence[Part], folder: Path, interrupts: Interrupts, say: Callable[[str], None]) -> Calibration:
    """Run the parts one after the other; raises Interrupted, ProcessError, RunDirectoryError."""
    calibration = Calibration(folder, parts)
    begin = time.monotonic()
    with Processes() as processes:
        experiment = Experiment(folder, processes, interrupts)
        servers: dict[str, Server] = {}
        for number, part in enumerate(parts, start=1):
            say(f"[{number}/{len(parts)}] {part.title}: {part.asked}")
            kind = "null, leaking" if part.name == "leak" else part.server
            if kind not in servers:
                # The null server polls without a pause: the other one shall not share the processor with it.
                for other in servers.values():
                    experiment.stop_server(other)
                history = folder / HISTORY
                started = experiment.start_reference("--history", str(history)) if part.server == "reference" else experiment.start_null()
                servers = {kind: started}
            figures, remarks = run_part(experiment, servers[kind], part)
            calibration.figures += figures
            calibration.remarks[part.name] = remarks
    calibration.seconds = time.monotonic() - begin
    calibration.ended_utc = _now()
    return calibration


def run_part(experiment: Experiment, server: Server, part: Part) -> tuple[list[Figure], list[str]]:
    """Drive one part and judge it: its figures, and what the report has against the run."""
    holder = psutil.Process(server.process.pid)
    held_before, before = holder.num_fds(), server.counts() or {}
    witness = Witness(experiment, server, *STEPS)
    during: Callable[[Process, Path], None] | None = witness.watch if part.name == "connections" else None
    path = experiment.generate(part.name, server.url, part.options, part.seconds, during)
    after = server.counts() or {}
    reading = read_run(path)
    evidence = Evidence(
        {name: round(value - before.get(name, 0)) for name, value in after.items()},
        {"descriptors": holder.num_fds() - held_before - 1},
        witness.compare(reading.run),
    )
    figures = part.judge(part, reading, evidence)
    if part.traced:
        figures.append(_accounted(part, path, experiment.folder / HISTORY))
    remarks = [str(reason["sentence"]) for reason in reading.summary["validity"]["reasons"]]
    tainted = reading.summary["counts"]["conversations"]["tainted"]
    if tainted:
        remarks.append(f"{tainted} conversations overlapped a stall of the generator and are left out of the figures.")
    return figures, remarks


def _accounted(part: Part, path: Path, history: Path) -> Figure:
    """Every token that the server sent is received once and in order, or under way when its conversation was cut."""
    result = account(path, history)
    wrong = sum(result.wrong.values()) + len(result.disagreements)
    why = f"{result.unknown} were under way when their conversation was cut; nothing lost, doubled, out of order or after the end"
    title, truth = "Tokens received once, in order", "the server's history, token by token"
    # What is wrong but not missing, such as a token received twice, must fail too.
    return exact(part.name, "accounted", title, result.ok - (wrong - result.error), result.sent - result.unknown, truth, why)


def print_calibration(calibration: Calibration, console: Console) -> None:
    """The table of all figures."""
    verdict = "reads true" if calibration.passed else "DOES NOT READ TRUE"
    table = Table(title=f"This machine {verdict}, {calibration.seconds:.0f} s", title_justify="left", box=None, pad_edge=False)
    for title in ("Part", "Figure", "Read", "True", "Error", "Bound", ""):
        table.add_column(title, justify="left" if title in ("Part", "Figure", "") else "right", no_wrap=True)
    part = ""
    for figure in calibration.figures:
        style = "green" if figure.passed else "bold red"
        table.add_row(
            figure.part if figure.part != part else "", figure.title, figure.text(figure.read), figure.text(figure.true), figure.error_text,
            figure.bound_text, f"[{style}]{'true' if figure.passed else 'NOT TRUE'}[/]",
        )  # fmt: skip
        part = figure.part
    console.print()
    console.print(table)
    for name, remarks in calibration.remarks.items():
        for remark in remarks:
            console.print(f"{name}: {remark}", style="dim", markup=False, highlight=False, soft_wrap=True)
    if (worst := calibration.worst) is not None:
        place = "nearest to its bound" if worst.passed else "worst"
        console.print(f"\n{place}: {sentence(worst)}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"page     {calibration.folder / 'calibration.html'}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"figures  {calibration.folder / 'calibration.json'}", markup=False, highlight=False, soft_wrap=True)


def keep(calibration: Calibration, out: Path) -> Path | None:
    """Write JSON and page, and make a whole calibration the last one of this machine; returns where that is kept."""
    told = calibration.as_dict()
    write_text(calibration.folder / "calibration.json", json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(calibration.folder / "calibration.html", render_calibration(told, calibration.figures))
    return keep_calibration(out, told["environment"], told) if calibration.whole else None


def main(words: Sequence[str]) -> int:
    """The command; returns the exit code: 0 reads true, 12 does not, 1 our own failure, 2 usage, 130 interrupted."""
    given = _parser().parse_args(words)
    console, errors = consoles(given.json)
    wanted = given.part or [part.name for part in PARTS]
    parts = [part for part in PARTS if part.name in wanted]
    try:
        folder = new_folder(given.out, "calibration")
        with Interrupts() as interrupts:
            calibration = calibrate(parts, folder, interrupts, teller(errors))
            kept = keep(calibration, given.out)
    except Interrupted:
        complain(errors, "interrupted; a calibration cut short says nothing")
        return 130
    except (BenchError, ProcessError, RunDirectoryError, AccountError, OSError) as error:
        return refuse(errors, error)
    print_calibration(calibration, console)
    why = "every run says so from now on" if kept else "not kept as this machine's calibration: parts were left out"
    console.print(f"kept     {kept if kept else '-'} ({why})", markup=False, highlight=False, soft_wrap=True)
    if given.json:
        sys.stdout.write(json.dumps(calibration.as_dict(), ensure_ascii=False, allow_nan=False) + "\n")
    return 0 if calibration.passed else NOT_TRUE


def _parser() -> argparse.ArgumentParser:
    names = [part.name for part in PARTS]
    parser = Parser(
        prog="python -m benchmarks calibrate",
        description="Drives servers with known answers and prints what the harness read beside what was true, on this machine, now. "
        "Exit code: 0 every figure was read within its bound, 12 some were not, 1 our own failure, 2 wrong option, 130 interrupted.",
    )  # fmt: skip
    only = f"only this part, may be repeated: {', '.join(names)}"
    parser.add_argument("--part", action="append", choices=names, metavar="NAME", help=only)
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="folder of all runs (default: runs)")
    parser.add_argument("--json", action="store_true", help="the figures on standard output, everything else on standard error")
    return parser
