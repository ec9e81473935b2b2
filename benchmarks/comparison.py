"""What the comparisons (``servers``, ``transports``) share: programs near and far, figures kept to the end, tables and chart for a page.

A comparison that is interrupted keeps what it has measured. Nothing in ``docs/`` changes unless ``--publish`` asks for it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtest.environment import describe_machine, describe_versions
from loadtest.run_directory import write_text

from .processes import ROOT, Interrupted, Interrupts, Process, ProcessError, Processes, split_cpus
from .runner import BenchError, new_folder
from .terminal import complain, consoles, refuse

READY_S: Final = 30.0
Figures = Sequence[Mapping[str, Any]]
Rows = Sequence[Sequence[str]]
Part = tuple[str, Sequence[str], Rows]
"""A table: title, head, rows."""


class Page(Protocol):
    """How the figures of a comparison are shown; a module will do."""

    def tables(self, figures: Figures) -> list[Part]:
        """Every table for people."""

    def parts(self, result: Mapping[str, Any]) -> Mapping[str, str]:
        """Markdown by the name of its place on the page."""

    def draw(self, figures: Figures, folder: Path) -> None:
        """Write the chart, as PNG and SVG, under the comparison's name."""


@dataclass(slots=True)
class Comparison:
    """What the measurements of a comparison share; the first half of the processors is the servers', the second the clients'."""

    folder: Path
    processes: Processes
    interrupts: Interrupts
    console: Console
    cpus: tuple[frozenset[int], frozenset[int]] | None
    figures: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)

    def side(self, *, near_server: bool) -> frozenset[int] | None:
        """The processors of one side; None where nobody is pinned."""
        return None if self.cpus is None else self.cpus[0 if near_server else 1]

    def start(
        self, name: str, command: Sequence[str], listening: re.Pattern[str], *, near_server: bool,
        environment: Mapping[str, str] | None = None,
    ) -> tuple[Process, re.Match[str]]:  # fmt: skip
        """Start a program that says where it listens; its process and what ``listening`` found. ProcessError when it does not come."""
        log = self.folder / f"{re.sub(r'[^a-z0-9.]+', '-', name.lower())}.log"
        process = self.processes.start(name, command, log, self.side(near_server=near_server), environment)
        match = process.wait_for_line(listening, READY_S, self.interrupts.asked)
        if match is None:
            raise Interrupted
        return process, match

    def tell(self, what: str, detail: str = "") -> None:
        """One line of progress, with the time since the beginning."""
        minutes, seconds = divmod(round(time.monotonic() - self.began_s), 60)
        self.console.print(f"[dim]{minutes:2}:{seconds:02}  {escape(what)}[/] {escape(detail)}", highlight=False, soft_wrap=True)


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options that every comparison has."""
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="folder of all runs (default: runs)")
    add("--json", action="store_true", help="the figures on standard output")
    add("--publish", action="store_true", help="write tables and chart into docs/ as well")
    add("--read", type=Path, metavar="FOLDER", help="measure nothing: show (and publish) what an earlier measurement left in its folder")


def compare(name: str, given: argparse.Namespace, page: Page, work: Callable[[Comparison], None]) -> int:
    """Measure with ``work``; print, write ``NAME.json``, ``NAME.md`` and the chart; the exit code by the one table of outcomes."""
    console, errors = consoles(given.json)
    try:
        if given.read is not None:
            folder, code, result = given.read, 0, _read(given.read / f"{name}.json")
        else:
            folder = new_folder(given.out, name)
            code, result = _measure(folder, given, work, errors)
            write_text(folder / f"{name}.json", json.dumps(result, indent=1, default=str) + "\n")
        if figures := result["figures"]:
            _show(page.tables(figures), console)
            page.draw(figures, folder)
            parts = page.parts(result)
            write_text(folder / f"{name}.md", "\n\n".join(parts.values()) + "\n")
            if given.publish and code == 0:
                publish(name, folder, parts)
                console.print(f"published  docs/{name}.md, docs/{name}.png", highlight=False)
    except BenchError as error:
        return refuse(errors, error)
    for who, why in result["missing"].items():
        console.print(f"left out: {who}: {why}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"figures  {escape(str(folder))}", highlight=False, soft_wrap=True)
    if given.json:
        sys.stdout.write(json.dumps(result, default=str) + "\n")
    return code or (0 if figures else 1)


def _measure(
    folder: Path, given: argparse.Namespace, work: Callable[[Comparison], None], errors: Console
) -> tuple[int, dict[str, Any]]:  # fmt: skip
    before, code, begin_s, began = os.getloadavg(), 0, time.monotonic(), datetime.now(UTC)
    with Interrupts() as interrupts, Processes() as processes:
        made = Comparison(folder, processes, interrupts, errors, split_cpus())
        try:
            work(made)
        except Interrupted:
            code = 130
        except ProcessError as error:
            complain(errors, error)
            code = 2 if error.usage else 1
    return code, {
        "figures": made.figures, "missing": made.missing, "options": {key: _plain(value) for key, value in vars(given).items()},
        "began_utc": began.isoformat(timespec="seconds"), "seconds": round(time.monotonic() - begin_s, 1),
        "load_average": {"before": before, "after": os.getloadavg()}, "pinned": made.cpus is not None,
        "environment": describe_machine(), "versions": describe_versions(),
    }  # fmt: skip


def _plain(value: Any) -> Any:
    return (
        [str(one) for one in value] if isinstance(value, tuple | list) else value if isinstance(value, int | float | bool) else str(value)
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"expected the figures of an earlier measurement at {path}, and they cannot be read: {error}", 2) from None
    return result


def _show(tables: Sequence[Part], console: Console) -> None:
    for title, head, rows in tables:
        console.print(title, style="bold", highlight=False)
        table = Table(box=None, pad_edge=False)
        for index, name in enumerate(head):
            table.add_column(name, justify="right" if index else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        console.print()


def markdown(head: Sequence[str], rows: Rows, title: str = "", *, right: bool = True) -> str:
    """A table as Markdown, the first column to the left, the others to the right (of numbers)."""
    lines = [f"**{title}**", ""] if title else []
    lines += ["| " + " | ".join(head) + " |", "|---|" + ("---:|" if right else "---|") * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def circumstances(result: Mapping[str, Any]) -> str:
    """One sentence: when, where and under which load a result was measured."""
    machine, load = result["environment"], result["load_average"]
    pinned = "servers on one half of the cores, clients on the other" if result["pinned"] else "servers and clients on the same cores"
    return (
        f"Measured on {result['began_utc'][:10]} in {max(1, round(result['seconds'] / 60))} min: {machine.get('cpu_model', 'unknown')}, "
        f"{machine.get('cpu_count')} cores, {pinned}; load average {load['before'][0]:.1f} before, {load['after'][0]:.1f} after, of which "
        f"about 2 are the measurement's own."
    )


def replace_parts(text: str, parts: Mapping[str, str]) -> str:
    """A page with what stands between the marks ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->`` replaced; BenchError without them."""
    for name, made in parts.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise BenchError(f"expected {begin} and {end} once each, in this order, on the page; put them where the tables belong", 2)
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{made}\n{end}{rest.split(end)[1]}"
    return text


def publish(name: str, folder: Path, parts: Mapping[str, str], docs: Path = ROOT / "docs") -> None:
    """Write the tables into ``docs/NAME.md`` and the chart beside it."""
    page = docs / f"{name}.md"
    write_text(page, replace_parts(page.read_text(encoding="utf-8"), parts))
    shutil.copyfile(folder / f"{name}.png", docs / f"{name}.png")
