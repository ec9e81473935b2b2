"""``python -m benchmarks servers``: one conversation on several servers: ladder and ceiling in one interleaved run.

The ladder is paced: so many conversations at once, 50 tokens a second each, every token acknowledged. At each rung all servers that still
climb are driven in turns, every other rung the other way round, so that a change of the machine's mood meets all. A server climbs while
the objectives hold. The ceiling is unpaced, before and after the ladder: what one core of the server can do. A server that cannot be
started here (no node, no package) is left out, and that is said.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from loadtest.objectives import Objective, ObjectiveError, parse_all
from loadtest.run_directory import RunDirectory, RunDirectoryError
from reports.slo import judge_all, overall
from reports.summary import summarise

from . import server_ladder, server_result
from .comparison import Comparison, add_common, compare
from .options import Parser
from .processes import Interrupted, ProcessError, ended
from .server_peers import SERVERS, Peer, start_peer

GRACE_S: Final = 60.0
WARM_UP_S: Final = 1
SPAWN_S: Final = 1
LOOK_S: Final = 0.25
"""Between two looks at the server's memory."""
OBJECTIVES: Final = "itl_p99=40ms,ttft_p99=100ms,errors=0.1%"
"""Gaps and first token are planned at 20 ms: twice that is a stumble that a reader sees, 100 ms a wait that he notices."""
LADDER: Final = (100, 200, 300, 400, 500, 600, 800, 1000, 1300)
QUICK: Final = {"users": (100, 200, 400, 800), "step_s": 3, "ceiling_s": 2, "passes": 1}
NORMAL: Final = {"users": LADDER, "step_s": 4, "ceiling_s": 4, "passes": 2}
MS_NS: Final = 1e6


def drive(comparison: Comparison, peer: Peer, options: Sequence[str], seconds: int, folder: Path) -> dict[str, Any]:
    """Run the generator against a server; its summary, and what the server's processes used meanwhile (and at most held)."""
    command = [
        sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary", "--host", peer.url,
        "--run-dir", str(folder), "--run-time", f"{seconds + WARM_UP_S + SPAWN_S}s", f"--warm-up={WARM_UP_S}", "--no-scrape", *options,
    ]  # fmt: skip
    log, side = folder.with_suffix(".log"), comparison.side(near_server=False)
    try:
        before_s, resident = peer.cpu_s(), peer.resident_bytes()
        generator = comparison.processes.start("the generator", command, log, side)
        deadline_s = time.monotonic() + seconds + GRACE_S
        while (
            (code := generator.wait(LOOK_S, comparison.interrupts.asked)) is None
            and time.monotonic() < deadline_s
            and not comparison.interrupts.asked()
        ):
            resident = max(resident, peer.resident_bytes())
        used_s = peer.cpu_s() - before_s
    except psutil.Error:
        raise ProcessError(f"{peer.name} ended while it was driven{peer.started[0].said()}") from None
    if comparison.interrupts.asked():
        generator.stop(signal.SIGINT, 10, lambda: comparison.interrupts.count > 1)
        raise Interrupted
    if code is None:
        generator.stop(signal.SIGKILL, 1)
        raise ProcessError(f"the generator did not end in time{generator.said()}")
    try:
        tokens = int(RunDirectory.open(folder).table("intervals", ["tokens"])["tokens"].to_numpy().sum())
        summary = summarise(folder)
    except (RunDirectoryError, OSError):
        raise ProcessError(f"the generator {ended(code)} without a run{generator.said()}", code) from None
    return {"summary": summary, "cpu_us_per_token": used_s / tokens * 1e6 if tokens else None, "resident_bytes": resident}


def read(driven: dict[str, Any], objectives: Sequence[Objective]) -> dict[str, Any]:
    """A reading (``server_ladder``) of what was driven, without whose it is."""
    summary = driven["summary"]
    judged = judge_all(objectives, summary)

    def milliseconds(metric: str, quantile: str) -> float | None:
        value = summary["metrics"][metric]["percentiles"][quantile]["value"]
        return None if value is None else value / MS_NS

    return {
        "valid": bool(summary["validity"]["valid"]),
        "reasons": [reason["sentence"].rstrip(".") for reason in summary["validity"]["reasons"]],
        "state": overall(judged), "missed": [one.sentence.rstrip(".") for one in judged if one.state != "met"],
        "gap_p50_ms": milliseconds("itl", "p50"), "gap_p99_ms": milliseconds("itl", "p99"), "ttft_p99_ms": milliseconds("ttft", "p99"),
        "tokens_per_s": summary["rates"]["throughput_tokens"], "cpu_us_per_token": driven["cpu_us_per_token"],
        "resident_bytes": driven["resident_bytes"],
    }  # fmt: skip


def measure(comparison: Comparison, given: argparse.Namespace) -> None:
    """Start every server, then: ceiling, ladder rung by rung, ceiling."""
    peers: dict[str, Peer] = {}
    for name in given.only:
        try:
            peers[name] = start_peer(comparison, name, given.ws_module)
        except ProcessError as error:
            _leave_out(comparison, name, error)
    number = 0

    def run(load: str, conversations: int, names: Sequence[str], options: Sequence[str], seconds: int) -> None:
        nonlocal number
        for name in names:
            number += 1
            folder = comparison.folder / f"{number:03}-{load}-{conversations}"
            users = (f"--users={conversations}", f"--spawn-rate={conversations}")
            try:
                reading = read(drive(comparison, peers[name], [*users, *options], seconds, folder), given.slo)
            except ProcessError as error:
                del peers[name]
                _leave_out(comparison, name, error)
                continue
            comparison.figures.append({"server": name, "load": load, "conversations": conversations, **reading})
            comparison.tell(f"{load}, {conversations} conversations: {name}", server_result.line(comparison.figures[-1]))

    unpaced = ("--tokens=500", "--gap-ms=0", "--ttft-ms=0")
    paced = (f"--tokens={given.tokens}", f"--gap-ms={given.gap_ms:g}", f"--ttft-ms={given.gap_ms:g}")

    def ceiling(turn: int) -> None:
        run("ceiling", given.ceiling_users, _in_turns(list(peers), turn), unpaced, given.ceiling_s)

    ceiling(0)
    for turn, rung in enumerate(given.users):
        for _ in range(server_ladder.TRIES):
            climbers = server_ladder.climbing(comparison.figures, list(peers), rung, given.users)
            run("ladder", rung, _in_turns(climbers, turn), paced, given.step_s)
    for turn in range(1, given.passes):
        ceiling(turn)
    for peer in peers.values():
        peer.stop(comparison)


def _in_turns(names: list[str], turn: int) -> list[str]:
    return names if turn % 2 == 0 else names[::-1]


def _leave_out(comparison: Comparison, name: str, error: ProcessError) -> None:
    comparison.missing[name] = str(error).splitlines()[0]
    comparison.console.print(f"left out: {name}: {error}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser(prog="python -m benchmarks servers", description=__doc__)
    add = parser.add_argument
    add("--only", type=lambda text: text.split(";"), default=list(SERVERS), metavar="NAME;NAME", help=f"of: {'; '.join(SERVERS)}")
    add("--quick", action="store_true", help="four rungs, 2 s each, the ceiling once: in 5 minutes instead of 12, and rougher")
    add("--users", type=_counts, metavar="N,N", help=f"conversations at once, the ladder's rungs (default: {','.join(map(str, LADDER))})")
    add("--step-s", type=_whole, metavar="S", help="measured at each rung (default: 4)")
    add(
        "--slo",
        type=_objectives,
        default=_objectives(OBJECTIVES),
        metavar="SLO,SLO",
        help=f"that hold at a rung (default: {OBJECTIVES.replace('%', '%%')})",
    )
    add("--tokens", type=_whole, default=25, metavar="N", help="of an answer on the ladder (default: 25)")
    add("--gap-ms", type=float, default=20.0, metavar="MS", help="between them, and before the first (default: 20)")
    add("--ceiling-users", type=_whole, default=64, metavar="N", help="at the ceiling, unpaced, every token acknowledged (default: 64)")
    add("--ceiling-s", type=_whole, metavar="S", help="measured at the ceiling (default: 4)")
    add("--passes", type=_whole, metavar="N", help="over the ceiling: the first before the ladder, the others after it (default: 2)")
    add("--ws-module", type=Path, metavar="FOLDER", help="where the npm package ws is (node_modules/ws), if node does not find it itself")
    add_common(parser)
    return parser


def _whole(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, not {text!r}")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted({_whole(part) for part in text.split(",")}))


def _objectives(text: str) -> tuple[Objective, ...]:
    try:
        return parse_all([text])
    except ObjectiveError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, read; exits with 2 where they are wrong."""
    parser = build_parser()
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.only if name not in SERVERS]:
        parser.error(f"there is no server {unknown[0]!r}; expected some of: {'; '.join(SERVERS)}")
    if given.ws_module is not None and not given.ws_module.is_dir():
        parser.error(f"expected the folder of the npm package ws, and {given.ws_module} is none; npm install ws makes node_modules/ws")
    for name, value in (QUICK if given.quick else NORMAL).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write ``servers.json``, ``servers.md`` and the chart; the exit code (130 when interrupted)."""
    given = parse(arguments)
    return compare("servers", given, server_result, lambda comparison: measure(comparison, given))
