"""``python -m benchmarks attack``: does the reference server serve honest clients while others attack it, and forget nobody?

Four experiments: honest conversations with hostile connections among them, against the same without; a storm of connects; stops by the
hundred thousand, half of them racing an acknowledgement; connecting and leaving again and again. What must be so is a table of claims.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from loadtest.environment import describe_machine
from loadtest.run_directory import RunDirectoryError, write_text
from reports.load import load_run
from reports.summary import summarise_run
from reports.units import count, duration

from .attack_page import fill, split_page, write_experiment
from .connect_cycles import cycles, storm
from .experiment import Experiment, Server
from .limits import check_connections
from .omission import Claim
from .options import Parser
from .processes import Interrupted, Interrupts, ProcessError, Processes
from .runner import BenchError, new_folder
from .stop_race import race
from .terminal import consoles, refuse, teller

NOT_TRUE: Final = 12
PACE_MS: Final = 1000
"""The server's own time for an honest token: what a token takes beyond it is waiting for the others."""
LOAD_S: Final = 20
DRAIN_S: Final = 15
"""What conversations in flight at the end may take: longer than any takes, or all of them were cut, and closed, at one instant."""
ORDER: Final = (False, True, True, False)
"""Calm, attacked, attacked, calm: whatever drifts meanwhile drifts through both."""
MOST_RATIO: Final = 2.0
STORM_S: Final = 1.1
"""The storm's second, with what a busy machine may add."""
MEMORY_SLACK: Final = 0.05
PART: Final = 10_000
"""Cycles between two looks at the server's memory."""
WARM_PARTS: Final = 5
"""The server searches for garbage in full once in 50 000 connections: what it holds before the first time is no leak yet."""
EXPERIMENTS: Final = ("mixed", "storm", "stops", "cycles")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each: honest conversations, hostile connections, connects of the storm, stops, cycles."""

    conversations: int = 2000
    hostile: int = 20
    storm: int = 5000
    stops: int = 100_000
    cycles: int = 1_000_000
    rounds: int = 1


@dataclass(slots=True)
class Finding:
    """What an experiment measured, by name, and what must be so of it."""

    figures: dict[str, Any] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)


def address_of(server: Server) -> tuple[str, int]:
    """Host and port of a server that we started."""
    where = urlsplit(server.url)
    return where.hostname or "127.0.0.1", where.port or 80


def mix(experiment: Experiment, sizes: Sizes, seed: int, say: Callable[[str], None]) -> Finding:
    """Honest conversations, calm and with hostile connections among them, in turns."""
    server = experiment.start_reference("--max-per-address", "100000", "--open-timeout", "2")
    late: dict[bool, list[float]] = {False: [], True: []}
    failures = 0
    invalid: list[str] = []
    done: dict[str, int] = {}
    for number, attacked in enumerate(ORDER * sizes.rounds):
        say(f"mixed: {count(sizes.conversations)} conversations, {f'{sizes.hostile} hostile connections' if attacked else 'calm'}")
        hostile = experiment.start_hostile(server.url, sizes.hostile, seed + number) if attacked else None
        options = (
            "--users", str(sizes.conversations), "--spawn-rate", str(sizes.conversations), "--connect-rate", "500", "--warm-up", "8",
            "--stop-timeout", f"{DRAIN_S}", "--tokens", "4", "--gap-ms", "0", "--server-query", f"delay_ms={PACE_MS}", "--window", "1",
            "--seed", str(seed + number),
        )  # fmt: skip
        directory = experiment.generate(f"mixed-{number}-{'attacked' if attacked else 'calm'}", server.url, options, LOAD_S)
        if hostile is not None:
            hostile.stop(signal.SIGTERM, 10)
            for kind, times in json.loads(hostile.text().splitlines()[-1]).items():
                done[kind] = done.get(kind, 0) + times
        summary = summarise_run(load_run(directory))
        value = summary["metrics"]["token_latency"]["percentiles"]["p99"]["value"]
        if value is None:
            raise BenchError(f"{directory} has too few tokens for a 99th percentile; make it longer", 12)
        late[attacked].append(value - PACE_MS * 1e6)
        failures += sum(error["count"] for table in summary["errors"].values() for error in table)
        if not summary["validity"]["valid"]:
            invalid.append(directory.name)
    calm, attacked_ns = statistics.median(late[False]), statistics.median(late[True])
    settled = _settle(experiment, server)
    experiment.stop_server(server)
    finding = Finding({
        "calm_late_p99_ns": late[False], "attacked_late_p99_ns": late[True], "ratio": attacked_ns / calm, "attacks": done,
        "invalid": invalid,
    })  # fmt: skip
    where, pace_ns = "honest among hostile", PACE_MS * 1e6
    finding.claims = [
        Claim(where, f"token p99 beyond its {PACE_MS} ms: {duration(attacked_ns)} over {duration(calm)}", attacked_ns / calm, 0, MOST_RATIO,
              "the others are none of an honest client's business"),
        Claim(where, "token p99 with its pace, over the calm one", (attacked_ns + pace_ns) / (calm + pace_ns), 0, MOST_RATIO, "the same"),
        Claim(where, "honest conversations, connects or closes that failed", failures, 0, 0, "nobody is let down"),
        Claim(where, "runs that the rules of validity refuse", len(invalid), 0, 0, "a figure of such a run is none"),
        Claim(where, "attacks made", sum(done.values()), sizes.hostile, float("inf"), "or nothing was shown"),
        Claim(where, "connections left", settled["streamgauge_connections_open"], 0, 0, "all have gone"),
        Claim(where, "answers left", settled["streamgauge_connections_streaming"], 0, 0, "nobody is listening any more"),
    ]  # fmt: skip
    return finding


def raise_storm(experiment: Experiment, sizes: Sizes, seed: int, say: Callable[[str], None]) -> Finding:
    """All connects within a second."""
    say(f"storm: {count(sizes.storm)} connects in a second")
    server = experiment.start_reference("--max-per-address", "100000")
    opened = storm(address_of(server), sizes.storm, sizes.storm)
    experiment.stop_server(server)
    where = "storm"
    return Finding(asdict(opened) | {"messages": sorted(opened.messages)}, [
        Claim(where, "seconds in which they were asked for", opened.offered_s, 0, STORM_S, "or it was none"),
        Claim(where, "upgraded", opened.upgraded, sizes.storm, sizes.storm, "nobody is refused or lost"),
        Claim(where, "connects whose SYN was sent again", opened.retransmitted, 0, 0, "the backlog holds them all"),
    ])  # fmt: skip


def stop_often(experiment: Experiment, sizes: Sizes, seed: int, say: Callable[[str], None]) -> Finding:
    """Many stops; each conversation ends exactly once, by both sides' count."""
    say(f"stops: {count(sizes.stops)}")
    server = experiment.start_reference("--max-per-address", "100000")
    raced = race(address_of(server), sizes.stops, seed=seed)
    counts = server.counts() or {}
    experiment.stop_server(server)
    where = "stops"
    return Finding(asdict(raced), [
        Claim(where, "ends", raced.ends, sizes.stops, sizes.stops, "one for each conversation"),
        Claim(where, "ends without a conversation", raced.doubled, 0, 0, "never two"),
        Claim(where, "conversations without an end", raced.missing, 0, 0, "never none"),
        Claim(where, "tokens after their end", raced.strays, 0, 0, "a stopped answer is over"),
        Claim(where, "stops sent with an acknowledgement", raced.with_ack / max(1, raced.stops), 0.45, 0.55, "half of them race one"),
        Claim(where, "answers stopped, by the server's count", counts.get('streamgauge_answers_total{outcome="stopped"}', -1),
              raced.ends, raced.ends, "both sides count the same"),
        Claim(where, "stops that found no answer, by the server's count", counts.get("streamgauge_stale_stops_total", -1), 0, 0,
              "no answer here is that short"),
    ])  # fmt: skip


def come_and_go(experiment: Experiment, sizes: Sizes, seed: int, say: Callable[[str], None]) -> Finding:
    """Connect and leave again and again; the server's memory and descriptors after every part."""
    server = experiment.start_reference("--max-per-address", "100000")
    memory: list[float] = []
    descriptors: list[int] = []
    upgraded = broken = retransmitted = 0
    seconds = 0.0
    done = 0
    while done < sizes.cycles:
        part = min(PART, sizes.cycles - done)
        opened = cycles(address_of(server), part, progress=lambda _: experiment.go_on())
        done += part
        upgraded, broken = upgraded + opened.upgraded, broken + opened.broken + opened.refused
        retransmitted, seconds = retransmitted + opened.retransmitted, seconds + opened.seconds
        settled = _settle(experiment, server)
        memory.append(settled["process_resident_memory_bytes"])
        descriptors.append(_descriptors(server.process.pid))
        say(f"cycles: {count(done)} of {count(sizes.cycles)}, {memory[-1] / 2**20:.1f} MiB")
    experiment.stop_server(server)
    where = "cycles"
    figures = {"cycles": upgraded, "seconds": seconds, "per_s": upgraded / seconds, "retransmitted": retransmitted}
    finding = Finding(figures | {"memory_bytes": memory, "descriptors": descriptors})
    finding.claims = [
        Claim(where, "connected, upgraded, left", upgraded, sizes.cycles, sizes.cycles, "each of them"),
        Claim(where, "broken or refused", broken, 0, 0, "none of them"),
        Claim(where, "connections left", settled["streamgauge_connections_open"], 0, 0, "all have gone"),
        Claim(where, "descriptors more at the end than after the first part", descriptors[-1] - descriptors[0], -5, 5, "nothing is kept"),
    ]
    known = memory[WARM_PARTS:]
    if len(known) >= 2:
        half = len(known) // 2
        growth = min(known[half:]) / min(known[:half])
        # What waits for the next full search for garbage goes up and down; what is never given back lifts the least of it.
        what = f"memory, least of the second half over that of the first, from the {count(WARM_PARTS * PART)}th on"
        finding.claims.append(Claim(where, what, growth, 0, 1 + MEMORY_SLACK, "nothing is kept"))
    return finding


def _settle(experiment: Experiment, server: Server) -> dict[str, float]:
    """The server's counts once nobody is connected any more, or after five seconds as they are."""
    counts: dict[str, float] = {}
    for _ in range(50):
        counts = server.counts() or counts
        if not counts.get("streamgauge_connections_open", 1):
            break
        experiment.pause(0.1)
    # Once more after the server has read its own memory again, which it does four times a second.
    experiment.pause(0.6)
    return server.counts() or counts


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0  # no such folder on this system


RUN: Final = {"mixed": mix, "storm": raise_storm, "stops": stop_often, "cycles": come_and_go}


def attack(
    folder: Path, names: Sequence[str], sizes: Sizes, seed: int, interrupts: Interrupts, say: Callable[[str], None]
) -> dict[str, Finding]:
    """Run the experiments one after the other, each with a server of its own; those that were not begun before Ctrl-C are missing."""
    findings = {}
    with Processes() as processes:
        experiment = Experiment(folder, processes, interrupts)
        for name in names:
            try:
                findings[name] = RUN[name](experiment, sizes, seed, say)
            except Interrupted:
                break
    return findings


def print_findings(findings: dict[str, Finding], console: Console) -> None:
    """The claims as a table."""
    table = Table(box=None, pad_edge=False)
    for title in ("Experiment", "What", "Found", "Must be", "", "Because"):
        table.add_column(title, justify="right" if title in ("Found", "Must be") else "left")
    for finding in findings.values():
        for claim in finding.claims:
            verdict = "[green]so[/]" if claim.holds else "[bold red]NOT SO[/]"
            table.add_row(claim.load, claim.what, claim.found_text, claim.range_text, verdict, claim.why)
    console.print(table)


def _tell(findings: dict[str, Finding], sizes: Sizes, seed: int) -> dict[str, str]:
    """Each experiment's table, by name, with how much of it there was and on which machine."""
    machine = describe_machine()
    where = f"{machine['cpu_model']}, {machine['cpu_count']} CPUs, {machine['os']} {machine['kernel']}"
    much = {
        "mixed": f"{count(sizes.conversations)} conversations, {count(sizes.hostile)} hostile connections",
        "storm": f"{count(sizes.storm)} connects", "stops": f"{count(sizes.stops)} stops", "cycles": f"{count(sizes.cycles)} cycles",
    }  # fmt: skip
    return {
        name: write_experiment(name, each.figures, each.claims, f"{much[name]}; seed {seed}; {where}") for name, each in findings.items()
    }


def _needed(names: Sequence[str], sizes: Sizes) -> int:
    """Connections at once that the largest of the experiments needs."""
    return max({"mixed": sizes.conversations + sizes.hostile, "storm": sizes.storm}.get(name, 200) for name in names)


def main(words: Sequence[str]) -> int:
    """The command; returns 0 when everything is as it must be, 12 when not, 1 our own failure, 2 usage, 130 interrupted."""
    parser = Parser(prog="python -m benchmarks attack", description=__doc__)
    d = Sizes()
    parser.add_argument("--only", action="append", choices=EXPERIMENTS, help="one experiment; may be repeated (default: all)")
    for name, text in (
        ("conversations", "honest conversations at a time"), ("hostile", "hostile connections among them"),
        ("storm", "connects of the storm"), ("stops", "conversations stopped"), ("cycles", "connections made and left"),
        ("rounds", "times calm, attacked, attacked, calm"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=getattr(d, name), metavar="N", help=f"{text} (default: {getattr(d, name)})")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of everything that is drawn (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="folder of all runs (default: runs)")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put what was found into the marked places of this page")
    parser.add_argument("--json", action="store_true", help="what was found on standard output, everything else on standard error")
    given = parser.parse_args(words)
    sizes = Sizes(given.conversations, given.hostile, given.storm, given.stops, given.cycles, given.rounds)
    if min(asdict(sizes).values()) < 1:
        parser.error("every number is 1 or more")
    names = [name for name in EXPERIMENTS if not given.only or name in given.only]
    console, errors = consoles(given.json)
    needed = _needed(names, sizes)
    if missing := check_connections(needed, processes=1, server_processes=1, sources=(), target="127.0.0.1", own_server=True):
        return refuse(errors, BenchError(" ".join(missing), 2))
    try:
        if given.page is not None:
            for name in names:
                split_page(given.page, name)
        folder = new_folder(given.out, "attack")
        with Interrupts() as interrupts:
            findings = attack(folder, names, sizes, given.seed, interrupts, teller(errors))
    except (BenchError, ProcessError, RunDirectoryError, OSError) as error:
        return refuse(errors, error)
    print_findings(findings, console)
    found = {name: {"figures": each.figures, "claims": [claim.as_dict() for claim in each.claims]} for name, each in findings.items()}
    text = json.dumps(found, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(folder / "attack.json", text)
    page, tables = _tell(findings, sizes, given.seed), folder / "attack.md"
    write_text(tables, "".join(f"### {name}\n\n{table}\n" for name, table in page.items()))
    console.print(f"\nruns     {folder}\ntables   {tables}", highlight=False, soft_wrap=True)
    if given.page is not None:
        for name, table in page.items():
            fill(given.page, name, table)
    if given.json:
        sys.stdout.write(text)
    if len(findings) < len(names):
        return 130
    return 0 if all(claim.holds for each in findings.values() for claim in each.claims) else NOT_TRUE
