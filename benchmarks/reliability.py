"""``python -m benchmarks faults``: real runs with workers, each with a fault, held against what the server says it sent.

A run may end badly; it may not be silently wrong. Every token that the server sent is received, or known not to have been, or declared
unknown; whatever the run says of itself has to agree with the server's history.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from loadtest.environment import describe_machine
from loadtest.run_directory import RunDirectory, RunDirectoryError, write_text

from .accounting import AccountError, account, read_history
from .cluster import Cluster
from .mishaps import MISHAPS, Mishap
from .namespaces import Network, NetworkError, unavailable
from .options import Parser
from .processes import Interrupted, Interrupts, ProcessError, Processes
from .runner import BenchError, new_folder
from .terminal import complain, consoles, refuse, teller

OK: Final = 0
NOT_SO: Final = 12
UNKNOWN_S: Final = 1.0
"""What of a killed worker may be unknown."""
ORPHANS_S: Final = 10.0
"""Within which workers without a master have to have stopped loading."""
CLOCK_AHEAD_NS: Final = 3_000_000_000
ALIGNED_NS: Final = 50_000_000
"""What a token may take from the server's stamp to the kernel's on a busy machine, beside the clock's own uncertainty."""
_TAGS = iter(range(10**6))
_TAGGING = threading.Lock()


@dataclass(slots=True)
class Case:
    """One run with one mishap, and what came of it. ``wrong`` says what is not as it must be; ``silent`` is the worst of it."""

    mishap: str
    seed: int
    code: int | None = None
    status: str = ""
    sent: int = 0
    ok: int = 0
    error: int = 0
    unknown: int = 0
    unknown_s: float | None = None
    stopped_s: float | None = None
    silent: bool = False
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


def try_case(mishap: Mishap, seed: int, folder: Path, processes: Processes, interrupts: Interrupts, network: Network | None = None) -> Case:
    """Make one run, do the harm, and look at what is left; ProcessError or Interrupted when it cannot be made."""
    begin = time.monotonic()
    case = Case(mishap.name, seed)
    cluster = Cluster(
        folder, processes, interrupts, workers=mishap.workers, expected=mishap.expected, seconds=mishap.seconds,
        options=(*mishap.options, "--seed", str(seed + 1)), network=network, wait_s=mishap.wait_s,
    )  # fmt: skip
    try:
        harm = mishap.act(cluster, random.Random(f"{mishap.name}:{seed}"))
        case.code = cluster.end()
        _judge(case, mishap, cluster, harm.killed_at_ns, harm.workers)
    finally:
        cluster.stop()
    case.seconds = time.monotonic() - begin
    return case


def _judge(case: Case, mishap: Mishap, cluster: Cluster, killed_at_ns: int | None, killed: Sequence[str]) -> None:
    if case.code not in mishap.codes:
        case.wrong.append(f"exit code {case.code}, not {' or '.join(map(str, mishap.codes))}")
    logs = cluster.logs()
    if mishap.says and mishap.says not in logs:
        case.wrong.append(f"nobody said {mishap.says!r}")
    if "Traceback" in logs:
        case.wrong.append("a traceback")
    if cluster.refused_code is not None and cluster.refused_code != 2:
        case.wrong.append(f"the refused worker ended with {cluster.refused_code}, not 2")
    if not mishap.directory:
        if cluster.path.exists():
            case.wrong.append("a run directory of a run that never was")
        return
    metadata = RunDirectory.open(cluster.path).metadata()
    case.status = str(metadata.get("status"))
    if case.status not in mishap.statuses:
        case.wrong.append(f"status {case.status}, not {' or '.join(mishap.statuses)}: {'; '.join(metadata.get('status_reasons') or [])}")
    if case.status != "complete" and not metadata.get("status_reasons"):
        case.wrong.append("no reason for its status")
    books = account(cluster.path, cluster.history)
    case.sent, case.ok, case.error, case.unknown = books.sent, books.ok, books.error, books.unknown
    if not books.balanced or books.sent != books.ok + books.error + books.unknown:
        case.silent = True
        wrong = ", ".join(f"{number} {kind}" for kind, number in books.wrong.items() if number)
        case.wrong.append(f"the books of server and run differ: {wrong or '; '.join(books.disagreements)}")
    if case.status == "complete" and case.code != 0:
        case.silent = True
    if mishap.whole and case.unknown:
        case.silent = True
        case.wrong.append(f"{case.unknown} tokens are unknown, although everybody ended in good order")
    _judge_clocks(case, cluster, metadata)
    if "arrivals_not_started" in metadata.get("workers", {}):
        _judge_arrivals(case, cluster, metadata)
    if killed_at_ns is not None:
        _judge_times(case, cluster, metadata, killed_at_ns, killed)


def _judge_clocks(case: Case, cluster: Cluster, metadata: dict[str, Any]) -> None:
    """Where a worker's clock is ahead, by how much was measured, and its seconds are the master's."""
    for worker in metadata["workers"]["seen"]:
        told = worker.get("master_clock") or {}
        if case.mishap != "other-clock" or told.get("same_machine"):
            continue
        off_ns = abs(told["offset_ns"] - CLOCK_AHEAD_NS)
        if off_ns > told["uncertainty_ns"] + 1_000_000:
            case.wrong.append(f"the clock's offset was measured as {told['offset_ns']} ns, not {CLOCK_AHEAD_NS}")
        stamps = [row["arrival_at_ns"] + metadata["origin_wall_ns"] - int(row["text"].rsplit(":", 1)[1]) for row in cluster.rows("tokens")
                  if row["worker"] == worker["worker"]]  # fmt: skip
        if not stamps or abs(min(stamps)) > told["uncertainty_ns"] + ALIGNED_NS:
            case.silent = True
            case.wrong.append("the other machine's tokens are not on the master's time")


def _judge_arrivals(case: Case, cluster: Cluster, metadata: dict[str, Any]) -> None:
    """No instant of a constant schedule was due twice, and those that were due to nobody were counted."""
    due = sorted(row["due_at_ns"] for row in cluster.rows("conversations") if row["due_at_ns"] is not None)
    gap_ns = 1e9 / metadata["load"]["rate_per_s"]
    if any(after - before < gap_ns / 2 for before, after in pairwise(due)):
        case.silent = True
        case.wrong.append("an arrival was started twice")
    counted = sum(row["arrivals_due"] for row in cluster.rows("intervals"))
    deals = metadata["workers"]["deals"]
    asked = (metadata["window"]["steady_end_at_ns"] - deals[0]["from_ns"]) / gap_ns
    missing = asked - counted - sum(metadata["workers"]["arrivals_not_started"].values())
    # The end of the run reaches the workers a moment later than it is noted.
    if not -1e9 / gap_ns - 2 <= missing <= 2:
        case.silent = True
        case.wrong.append(f"{missing:.0f} arrivals of {asked:.0f} are in nobody's books")


def _judge_times(case: Case, cluster: Cluster, metadata: dict[str, Any], killed_at_ns: int, killed: Sequence[str]) -> None:
    origin = int(metadata["origin_wall_ns"])
    if killed:
        last = dict.fromkeys(killed, 0)
        for row in cluster.rows("tokens"):
            if row["worker"] in last:
                last[row["worker"]] = max(last[row["worker"]], row["arrival_at_ns"])
        case.unknown_s = max((killed_at_ns - origin - at) / 1e9 for at in last.values())
        if case.unknown_s > UNKNOWN_S:
            case.wrong.append(f"the last {case.unknown_s:.2f} s of a killed worker are unknown")
        return
    sent = read_history(cluster.history)["sent_ns"]
    case.stopped_s = max(0.0, (int(sent.max()) - killed_at_ns) / 1e9)
    if case.stopped_s > ORPHANS_S:
        case.wrong.append(f"workers went on loading for {case.stopped_s:.1f} s")


def try_all(mishaps: Sequence[Mishap], seeds: int, first: int, folder: Path, parallel: int, say: Callable[[str], None]) -> list[Case]:
    """Every mishap with every seed, ``parallel`` runs at a time; Interrupted when asked to stop."""
    cases: list[Case] = []
    with Interrupts() as interrupts, Processes() as processes, ThreadPoolExecutor(parallel) as pool:

        def one(mishap: Mishap, seed: int) -> Case:
            place = folder / f"{mishap.name}-{seed}"
            case = Case(mishap.name, seed)
            if interrupts.count:
                return case
            try:
                with _network(mishap) as network:
                    case = try_case(mishap, seed, place, processes, interrupts, network)
            except (ProcessError, RunDirectoryError, AccountError, NetworkError, OSError) as error:
                case.wrong.append(f"could not be made: {error}")
            except Interrupted:
                return case
            if not case.wrong:
                shutil.rmtree(place, ignore_errors=True)
            say(f"{case.mishap} {case.seed}: {case.status or 'no run'}, exit {case.code}, {case.sent} sent = {case.ok} + {case.error} + "
                f"{case.unknown}, {case.seconds:.0f} s" + "".join(f"\n  NOT SO: {sentence}" for sentence in case.wrong))  # fmt: skip
            return case

        waiting = [pool.submit(one, mishap, seed) for seed in range(first, first + seeds) for mishap in mishaps]
        cases = [future.result() for future in waiting]
        interrupts.go_on()
    return cases


@contextlib.contextmanager
def _network(mishap: Mishap) -> Any:
    if not mishap.hosts:
        yield None
        return
    with _TAGGING:
        tag = f"{threading.get_native_id() % 10**5}{next(_TAGS)}"
    with Network(["server", "master", *(f"w{n}" for n in range(mishap.workers))], tag) as network:
        yield network


def summarise(cases: Sequence[Case], mishaps: Sequence[Mishap]) -> list[dict[str, Any]]:
    """A row a mishap."""
    rows = []
    for mishap in mishaps:
        mine = [case for case in cases if case.mishap == mishap.name]
        if not mine:
            continue
        unknown = [case.unknown_s for case in mine if case.unknown_s is not None]
        stopped = [case.stopped_s for case in mine if case.stopped_s is not None]
        rows.append({
            "mishap": mishap.name, "how": mishap.how, "runs": len(mine), "as_expected": sum(not case.wrong for case in mine),
            "silently_wrong": sum(case.silent for case in mine),
            "ended": sorted({f"{case.status or 'no run'} ({case.code})" for case in mine}),
            **{name: sum(getattr(case, name) for case in mine) for name in ("sent", "ok", "error", "unknown")},
            "unknown_s": max(unknown, default=None), "stopped_s": max(stopped, default=None),
        })  # fmt: skip
    return rows


def print_rows(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """The table for people."""
    table = Table(box=None, pad_edge=False)
    for title in ("Fault", "Runs", "As expected", "Silently wrong", "Ended", "Sent", "Ok", "Error", "Unknown", "Unknown s", "Stopped s"):
        table.add_column(title, justify="left" if title in ("Fault", "Ended") else "right")
    for row in rows:
        table.add_row(
            row["mishap"], str(row["runs"]), str(row["as_expected"]), str(row["silently_wrong"]), ", ".join(row["ended"]),
            *(f"{row[name]:,}".replace(",", " ") for name in ("sent", "ok", "error", "unknown")),
            *("" if row[name] is None else f"{row[name]:.2f}" for name in ("unknown_s", "stopped_s")),
        )  # fmt: skip
    console.print(table)


def write_section(rows: Sequence[dict[str, Any]], seeds: str, machine: dict[str, Any]) -> str:
    """The table of ``docs/reliability.md``, in Markdown."""
    where = f"{machine.get('cpu_model')}, {machine.get('cpu_count')} CPUs, {machine.get('os')} {machine.get('kernel')}"
    runs, silent = sum(row["runs"] for row in rows), sum(row["silently_wrong"] for row in rows)
    lines = [
        f"**Runs that were silently wrong: {silent} of {runs}.** Seeds {seeds}; {where}.", "",
        "| fault | runs | as expected | silently wrong | status (exit code) | tokens sent | ok | error | unknown | unknown at most "
        "| loading stopped after at most |", "|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for row in rows:
        numbers = " | ".join(f"{row[name]:,}".replace(",", " ") for name in ("sent", "ok", "error", "unknown"))
        times = " | ".join("" if row[name] is None else f"{row[name]:.2f} s" for name in ("unknown_s", "stopped_s"))
        lines.append(
            f"| {row['how']} | {row['runs']} | {row['as_expected']} | {row['silently_wrong']} | {', '.join(row['ended'])} "
            f"| {numbers} | {times} |"
        )
    return "\n".join(lines) + "\n"


def read_options(words: Sequence[str]) -> argparse.Namespace:
    """The command line; leaves with exit code 2 when it is wrong."""
    names = [mishap.name for mishap in MISHAPS]
    parser = Parser(prog="python -m benchmarks faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="runs with each fault (default: 20)")
    parser.add_argument("--first", type=int, default=1, metavar="SEED", help="the first seed (default: 1)")
    parser.add_argument("--only", metavar="FAULTS", help=f"these alone, separated by commas: {', '.join(names)}")
    parser.add_argument("--parallel", type=int, default=2, metavar="N", help="runs at a time (default: 2)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs"), metavar="DIR", help="where runs go; good ones are removed (default: runs)"
    )
    parser.add_argument("--json", action="store_true", help="what came out on standard output, everything else on standard error")
    given = parser.parse_args(words)
    if not 1 <= given.seeds <= 10_000 or given.first < 0 or not 1 <= given.parallel <= 64:
        parser.error("expected --seeds and --parallel of at least 1, and --first of at least 0")
    if sys.platform != "linux":
        parser.error("expected Linux, whose limits can be changed while a process runs")
    given.mishaps = MISHAPS
    if given.only is not None:
        asked = [word.strip() for word in given.only.split(",")]
        if unknown := [word for word in asked if word not in names]:
            parser.error(f"expected --only with faults out of {', '.join(names)}, got {unknown[0]!r}")
        given.mishaps = tuple(mishap for mishap in MISHAPS if mishap.name in asked)
    return given


def main(words: Sequence[str]) -> int:
    """The command; returns 0 when everything came out as it must, 12 when not, 1 our own failure, 2 usage, 130 interrupted."""
    given = read_options(words)
    console, errors = consoles(given.json)
    say = teller(errors)
    mishaps = list(given.mishaps)
    if any(mishap.hosts for mishap in mishaps) and (why := unavailable()) is not None:
        say(f"left out for want of hosts: {', '.join(mishap.name for mishap in mishaps if mishap.hosts)} ({why})")
        mishaps = [mishap for mishap in mishaps if not mishap.hosts]
    try:
        folder = new_folder(given.out, "faults")
        cases = try_all(mishaps, given.seeds, given.first, folder, given.parallel, say)
    except Interrupted:
        complain(errors, "interrupted")
        return 130
    except (BenchError, OSError) as error:
        return refuse(errors, error)
    rows, machine = summarise(cases, mishaps), describe_machine()
    found = {"machine": machine, "rows": rows, "cases": [asdict(case) for case in cases]}
    text = json.dumps(found, ensure_ascii=False, allow_nan=False)
    write_text(folder / "faults.json", text + "\n")
    write_text(folder / "faults.md", write_section(rows, f"{given.first} to {given.first + given.seeds - 1}", machine))
    print_rows(rows, console)
    for case in (case for case in cases if case.wrong):
        complain(console, f"{case.mishap} {case.seed}: {'; '.join(case.wrong)}")
    console.print(f"\nruns     {folder}\ntable    {folder / 'faults.md'}", highlight=False, soft_wrap=True)
    if given.json:
        sys.stdout.write(text + "\n")
    return OK if all(not case.wrong for case in cases) else NOT_SO
