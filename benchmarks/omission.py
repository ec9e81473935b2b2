"""``python -m benchmarks omission``: coordinated omission, shown; and the reverse, a stall of our own that must not be the target's.

A server is stopped (SIGSTOP) for a time under three loads. A figure taken from when a prompt was *sent* misses most of those who had to
wait, because the generator does not send while it waits itself; a figure taken from when it was *due* does not. Then the generator
is stopped instead.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from loadtest.run_directory import RunDirectoryError
from reports.units import count, duration, significant

from .experiment import Experiment, Server
from .known_answers import DISTURBED, HISTOGRAM, SEND_NS
from .options import Parser
from .processes import Interrupted, Interrupts, Process, ProcessError, Processes
from .reading import Reading, quantile, read_run, spread
from .runner import BenchError, new_folder
from .terminal import complain, consoles, refuse, teller

NOT_TRUE: Final = 12
RATE: Final = 40
SMALL_POOL: Final = 4
LARGE_POOL: Final = 80
STOP_S: Final = 1.0
GENERATOR_STOP_S: Final = 2.0
ANSWER: Final = ("--tokens", "2", "--gap-ms", "10", "--ttft-ms", "10")
ANSWER_S: Final = 0.02
"""Service time of one such answer: 10 ms to the first token, 10 ms to the second, and the end."""
STREAMS: Final = 16
LONG_TOKENS: Final = 100
LOAD_S: Final = 7.0
INFINITE: Final = math.inf


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing that must be so: ``found`` from ``low`` to ``high``."""

    load: str
    what: str
    found: float
    low: float
    high: float
    why: str

    @property
    def holds(self) -> bool:
        """Whether it is so."""
        return self.low <= self.found <= self.high

    @property
    def range_text(self) -> str:
        """What it must be, for people."""
        low, high = (_text(value) for value in (self.low, self.high))
        if math.isinf(self.high):
            return f"at least {low}"
        return low if self.low == self.high else f"{low} to {high}"

    @property
    def found_text(self) -> str:
        """What it is, for people."""
        return _text(self.found)

    def as_dict(self) -> dict[str, Any]:
        """The claim for JSON."""
        return {**asdict(self), "high": None if math.isinf(self.high) else self.high, "holds": self.holds}


def _text(value: float) -> str:
    """A whole number as it is, however large; any other with four digits."""
    if float(value).is_integer():
        return count(value)
    return f"{value:.4g}" if abs(value) < 1000 else significant(value, 4)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What one load's figures say of a stall: conversations in all, and how many waited longer than half of it by each figure."""

    load: str
    conversations: int
    ttft: int
    ttft_due: int | None
    ttft_p99_ns: float
    ttft_due_p99_ns: float | None


class Stopped:
    """Called when the generator's record has begun: lets it run for a while, then stops a process for a time."""

    def __init__(self, experiment: Experiment, server: Server | None, after_s: float, for_s: float) -> None:
        self._experiment = experiment
        self._server = server
        self._after_s = after_s
        self._for_s = for_s
        self.stood_still = (0, 0)

    def __call__(self, generator: Process, _directory: Path) -> None:
        """Stop the server, or the generator where no server is given."""
        self._experiment.pause(self._after_s)
        stopped = generator if self._server is None else self._server.process
        self.stood_still = self._experiment.freeze_for(stopped, self._for_s)

    @property
    def seconds(self) -> float:
        """For how long it surely stood still."""
        return (self.stood_still[1] - self.stood_still[0]) / 1e9


def open_load(users: int) -> tuple[str, ...]:
    """Options of an open loop: arrivals due at a constant rate, whoever is free takes the next."""
    return (*ANSWER, "--trace", "--loop", "open", "--rate", str(RATE), "--users", str(users), "--spawn-rate", str(users), "--warm-up", "0")


def closed_load() -> tuple[str, ...]:
    """Options of a closed loop of about the same rate: each user sends, waits for its answer, thinks, sends again."""
    think = SMALL_POOL / RATE - ANSWER_S
    users = str(SMALL_POOL)
    return (*ANSWER, "--trace", "--think-time", f"{think:.3f}", "--users", users, "--spawn-rate", users, "--warm-up", "0")


def stop_server(experiment: Experiment, server: Server, name: str, options: Sequence[str], seconds: float) -> tuple[Reading, float]:
    """Run a load in the middle of which the server stands still; returns what was read and for how long it did (s)."""
    stopped = Stopped(experiment, server, 1.0 + (seconds - 1.0 - STOP_S) / 3, STOP_S)
    return read_run(experiment.generate(name, server.url, options, seconds, stopped)), stopped.seconds


def count_waiting(load: str, reading: Reading, threshold_ns: float) -> Waiting:
    """How many conversations of the whole run waited longer than a threshold for their first token, by each figure."""
    rows = reading.conversations[reading.conversations["ttft_ns"].notna()]
    ttft = rows["ttft_ns"].to_numpy(dtype=np.float64)
    due = rows["ttft_due_ns"].dropna().to_numpy(dtype=np.float64)
    return Waiting(
        load, len(rows), int((ttft > threshold_ns).sum()), int((due > threshold_ns).sum()) if len(due) else None,
        quantile(ttft, 0.99), quantile(due, 0.99) if len(due) else None,
    )  # fmt: skip


def expected_waiting(users: int, stop_s: float) -> tuple[float, float]:
    """How many conversations have to wait longer than half of a stall of ``stop_s`` seconds, least and most.

    Due while more than half of the stall is still to come: ``RATE * stop_s / 2`` of them, give or take the one at its edge. What fell
    due later waits for its turn too while the pool works the backlog off: it grows at RATE and shrinks at users / ANSWER_S, so that the
    part of the stall that counts is longer by 1 / (1 - RATE * ANSWER_S / users). Those in flight when the server stops come on top.
    A machine that is busy serves the backlog more slowly; a quarter of the least number is allowed for it.
    """
    half = RATE * stop_s / 2
    load = RATE * ANSWER_S / users
    return half - 1, 1.25 * half / (1 - load) + users + 1


def judge_waiting(waiting: Waiting, users: int, stop_s: float) -> list[Claim]:
    """What must be so of a load whose server stood still."""
    claims = []
    if waiting.ttft_due is not None:
        low, high = expected_waiting(users, stop_s)
        why = f"{RATE}/s fell due in {stop_s:.3f} s"
        claims.append(Claim(waiting.load, "waited over half a stall, by ttft_due", waiting.ttft_due, low, high, why))
    if users <= SMALL_POOL:
        why = f"{users} users have at most {users} prompts under way, and send none while they wait"
        claims.append(Claim(waiting.load, "waited over half a stall, by ttft", waiting.ttft, 0, users, why))
    elif waiting.ttft_due is not None:
        why = "every arrival finds a free user and is sent when it is due, so that both see the stall"
        claims.append(Claim(waiting.load, "waited over half a stall, by ttft", waiting.ttft, waiting.ttft_due - 3, waiting.ttft_due, why))
    return claims


def stop_generator(experiment: Experiment, server: Server, name: str, options: Sequence[str], seconds: float) -> tuple[Reading, Stopped]:
    """Run a load in the middle of which the generator itself stands still."""
    stopped = Stopped(experiment, None, seconds / 3, GENERATOR_STOP_S)
    return read_run(experiment.generate(name, server.url, options, seconds, stopped)), stopped


def long_streams() -> tuple[str, ...]:
    """Options of a closed loop of streams that last two seconds, so that all users are in one when the generator stops."""
    users = str(STREAMS)
    return (
        "--trace", "--tokens", str(LONG_TOKENS), "--gap-ms", "20", "--ttft-ms", "20", "--users", users, "--spawn-rate", users,
        "--warm-up", "0.5",
    )  # fmt: skip


def judge_generator(load: str, reading: Reading, stopped: Stopped) -> list[Claim]:
    """What must be so of a run whose generator stood still: the stall is seen, is ours, and is in none of the target's figures."""
    origin = int(reading.run.metadata["origin_wall_ns"])
    begin, end = (instant - origin for instant in stopped.stood_still)
    half_ms = (end - begin) / 2e6
    stood = f"it stood still from {begin / 1e9:.3f} to {end / 1e9:.3f} s"
    rows = reading.conversations
    starts = rows["due_at_ns"].fillna(rows["sent_at_ns"])
    ended = rows["end_at_ns"].fillna(rows["last_token_at_ns"]).fillna(rows["sent_at_ns"])
    overlapping = rows[(starts < end) & (ended > begin)]
    clean = reading.clean_conversations()
    longest_lag = float(rows["receive_lag_max_ns"].max()) / 1e6
    reasons = sorted(reason["rule"] for reason in reading.summary["validity"]["reasons"])
    claims = [
        Claim(load, "longest receive lag, ms", longest_lag, half_ms, INFINITE, f"tokens came while {stood}"),
        Claim(load, "conversations that overlap it", len(overlapping), 1, INFINITE, stood),
        Claim(load, "... and are not tainted", int((~overlapping["tainted"]).sum()), 0, 0, "the stall is ours, not the target's"),
        Claim(load, "rules that the run breaks", len(reasons), 1, INFINITE, ", ".join(reasons) or "it must not pass for sound"),
    ]
    for name, title in (("ttft_ns", "first token"), ("ttft_due_ns", "first token since due"), ("longest_stall_ns", "gap")):
        if clean[name].notna().any():
            longest = float(clean[name].max()) / 1e6
            claims.append(Claim(load, f"longest {title} of the others, ms", longest, 0, half_ms, "the target did not stall"))
    read = reading.read_tokens("itl").quantile(0.99) or -1.0
    # What was recorded of a conversation before the stall is sound, and may be in the figures although it is tainted by now.
    steady = reading.tokens[reading.tokens["steady"] & reading.tokens["sent_gap_ns"].notna()]
    sound = [steady[steady["clean"]], steady[steady["clean"] | (steady["arrival_ns"] < begin)]]
    _, low, high = spread([part["sent_gap_ns"].to_numpy(dtype=np.float64) for part in sound], 0.99, DISTURBED)
    room = SEND_NS + HISTOGRAM * high
    claims.append(Claim(load, "gap p99, ms", read / 1e6, (low - room) / 1e6, (high + room) / 1e6, "gaps between the server's own stamps"))
    return claims


def demonstrate(folder: Path, interrupts: Interrupts, say: Any) -> tuple[list[Waiting], list[Claim], float]:
    """Run all loads; returns what the figures say of each stall of the server, what must be so, and the length of the stalls (s, mean)."""
    waitings, claims, stalls = [], [], []
    with Processes() as processes:
        experiment = Experiment(folder, processes, interrupts)
        server = experiment.start_reference("--history", str(folder / "history.txt"))
        for load, users, options in (
            ("closed loop", SMALL_POOL, closed_load()),
            (f"open loop, {SMALL_POOL} users", SMALL_POOL, open_load(SMALL_POOL)),
            (f"open loop, {LARGE_POOL} users", LARGE_POOL, open_load(LARGE_POOL)),
        ):
            say(f"{load}: about {RATE} conversations/s, the server stands still for {STOP_S:g} s")
            reading, stop_s = stop_server(experiment, server, load.replace(", ", "_").replace(" ", "_"), options, LOAD_S)
            waiting = count_waiting(load, reading, stop_s / 2 * 1e9)
            waitings.append(waiting)
            claims += judge_waiting(waiting, users, stop_s)
            stalls.append(stop_s)
        for load, options in (("generator stopped", long_streams()), ("generator stopped, open loop", open_load(LARGE_POOL))):
            say(f"{load}: the generator stands still for {GENERATOR_STOP_S:g} s")
            read, stopped = stop_generator(experiment, server, load.replace(", ", "_").replace(" ", "_"), options, LOAD_S)
            claims += judge_generator(load, read, stopped)
    return waitings, claims, sum(stalls) / len(stalls)


def print_demonstration(waitings: Sequence[Waiting], claims: Sequence[Claim], stall_s: float, console: Console) -> None:
    """Both tables."""
    table = Table(title=f"The server stood still for {stall_s:.2f} s", title_justify="left", box=None, pad_edge=False)
    for title in ("Load", "Conversations", "> half, ttft", "> half, ttft_due", "p99 ttft", "p99 ttft_due"):
        table.add_column(title, justify="left" if title == "Load" else "right")
    for row in waitings:
        due = "-" if row.ttft_due is None else f"{row.ttft_due} ({row.ttft_due / max(1, row.conversations):.1%})"
        table.add_row(
            row.load, str(row.conversations), f"{row.ttft} ({row.ttft / max(1, row.conversations):.1%})", due, duration(row.ttft_p99_ns),
            "-" if row.ttft_due_p99_ns is None else duration(row.ttft_due_p99_ns),
        )  # fmt: skip
    console.print()
    console.print(table)
    console.print()
    checks = Table(box=None, pad_edge=False)
    for title in ("Load", "What", "Found", "Must be", "", "Because"):
        checks.add_column(title, justify="right" if title in ("Found", "Must be") else "left")
    for claim in claims:
        verdict = "[green]so[/]" if claim.holds else "[bold red]NOT SO[/]"
        checks.add_row(claim.load, claim.what, claim.found_text, claim.range_text, verdict, claim.why)
    console.print(checks)


def main(words: Sequence[str]) -> int:
    """The command; returns 0 when everything is as it must be, 12 when not, 1 our own failure, 2 usage, 130 interrupted."""
    parser = Parser(prog="python -m benchmarks omission", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="folder of all runs (default: runs)")
    parser.add_argument("--json", action="store_true", help="what was found on standard output, everything else on standard error")
    given = parser.parse_args(words)
    console, errors = consoles(given.json)
    try:
        folder = new_folder(given.out, "omission")
        with Interrupts() as interrupts:
            waitings, claims, stall_s = demonstrate(folder, interrupts, teller(errors))
    except Interrupted:
        complain(errors, "interrupted")
        return 130
    except (BenchError, ProcessError, RunDirectoryError, OSError) as error:
        return refuse(errors, error)
    print_demonstration(waitings, claims, stall_s, console)
    console.print(f"\nruns     {folder}", highlight=False, soft_wrap=True)
    if given.json:
        found = {"waiting": [asdict(row) for row in waitings], "claims": [claim.as_dict() for claim in claims], "stall_s": stall_s}
        sys.stdout.write(json.dumps(found, ensure_ascii=False, allow_nan=False) + "\n")
    return 0 if all(claim.holds for claim in claims) else NOT_TRUE
