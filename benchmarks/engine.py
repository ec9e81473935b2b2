"""Our engine beside a Locust user written the obvious way: same null server, same work, own CPUs, interleaved, medians.

Four questions, each a probe: tokens per CPU-second, how late the stamps are, memory of an open connection, and how many connections one
process opens and holds. Both engines run in real Locust processes; ours writes its run directory as always, and is read from there.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.markup import escape

from loadtest.run_directory import RunDirectory, write_text

from . import limits
from .engine_result import HELD, LATENESS_AT, Engine, Reading, as_dict, draw, print_result, summarise
from .processes import Interrupts, ProcessError, Processes, ended, split_cpus
from .runner import BenchError, new_folder

LISTENING: Final = re.compile(r"listening on (ws://\S+)")
READY_S: Final = 20.0
GRACE_S: Final = 60.0
WARM_UP_S: Final = 1
ANSWER_TOKENS: Final = 1000
"""Long answers: what a conversation costs must not be counted as what a token costs."""
GAP_MS: Final = 20
"""The paced probe: 50 tokens a second and connection."""
IDLE: Final = "--idle-share=1"
UNPACED: Final = "--connect-rate=1000000"
"""Our users pace their connects; here the question is how fast they can be."""
SPEED_CONNECTIONS: Final = 1000
"""Above this the question is memory: more connections than this do not converse at full speed on one core."""


class ProbeInterruptedError(Exception):
    """Ctrl-C: what was measured so far is still shown."""


@dataclass(slots=True)
class Bench:
    """What the probes share."""

    folder: Path
    processes: Processes
    interrupts: Interrupts
    console: Console
    seconds: int
    cpus: tuple[frozenset[int], frozenset[int]] | None
    machine: dict[str, Any] = field(default_factory=dict)
    _number: int = 0

    def run(self, engine: Engine, query: str, users: int, options: Sequence[str] = (), seconds: int | None = None) -> Path:
        """One null server, one generator, from start to end; the generator's results: a run directory (ours) or a JSON file."""
        self._number += 1
        stem = f"{self._number:03}-{engine}-{users}"
        command = [sys.executable, "-m", "benchmarks.null_server"]
        server = self.processes.start("the null server", command, self.folder / f"{stem}.server.log", self.cpus and self.cpus[0])
        try:
            match = server.wait_for_line(LISTENING, READY_S, self.interrupts.asked)
            if match is None:
                raise ProbeInterruptedError
            result = self.folder / (stem if engine == "ours" else f"{stem}.json")
            self._generate(engine, f"{match[1]}?{query}", users, (seconds or self.seconds) + WARM_UP_S, result, stem, options)
        finally:
            server.stop(signal.SIGTERM, 5)
        if engine == "ours":
            metadata = RunDirectory.open(result).metadata()
            self.machine = {key: metadata.get(key) for key in ("environment", "versions", "git")}
        return result

    def _generate(self, engine: Engine, url: str, users: int, seconds: int, result: Path, stem: str, options: Sequence[str]) -> None:
        # Everybody is there at once; connecting is no part of the measured window, which begins when all users have been started.
        spawn_s = users / 5000
        shared = ["--headless", "--only-summary", "--users", str(users), "--spawn-rate", str(max(users, 1)), "--host", url]
        shared += ["--run-time", f"{seconds + round(spawn_s + 0.5)}s"]
        if engine == "ours":
            more = ["-f", "loadtest/locustfile.py", "--run-dir", str(result), f"--warm-up={WARM_UP_S}", "--no-scrape", *options]
            name = "our engine"
        else:
            more = ["-f", "benchmarks/obvious_user.py"]
            name = "the obvious user"
        environment = {} if engine == "ours" else {
            "OBVIOUS_OUT": str(result), "OBVIOUS_WARM_UP_S": str(WARM_UP_S), "OBVIOUS_IDLE": "1" if IDLE in options else "0",
        }  # fmt: skip
        generator = self.processes.start(
            name, [sys.executable, "-m", "locust", *more, *shared], self.folder / f"{stem}.log", self.cpus and self.cpus[1], environment
        )
        code = generator.wait(seconds + spawn_s + GRACE_S, self.interrupts.asked)
        if self.interrupts.count:
            generator.stop(signal.SIGINT, 10, lambda: self.interrupts.count > 1)
            raise ProbeInterruptedError
        if code is None:
            generator.stop(signal.SIGKILL, 1)
            raise ProcessError(f"{name} did not end in time{generator.said()}")
        if not (result / "run.json" if engine == "ours" else result).is_file():
            raise ProcessError(f"{name} {ended(code)} without a result{generator.said()}", code)


def compare_engines(
    connections: Sequence[int], rounds: int, seconds: int, out: Path, as_json: bool, console: Console, errors: Console
) -> int:
    """Run every probe, print the table, write ``engine.json`` and the chart; the exit code (130 when interrupted)."""
    largest = max(*connections, HELD)
    if missing := limits.check_machine(largest, 60, out):
        raise BenchError(" ".join(missing), 2)
    cpus = split_cpus()
    folder = new_folder(out, "engine")
    readings: list[Reading] = []
    interrupted = False
    with Interrupts() as interrupts, Processes() as processes:
        bench = Bench(folder, processes, interrupts, errors, seconds, cpus and (_first(cpus[0]), _first(cpus[1])))
        try:
            for number, (words, probe) in enumerate(steps := plan(bench, connections, rounds), start=1):
                errors.print(f"[dim]{number:>3}/{len(steps)}[/] {words}", highlight=False)
                readings += probe()
        except ProbeInterruptedError:
            interrupted = True
        except ProcessError as error:
            raise BenchError(str(error), 1) from None
    summary = summarise(readings)
    result = as_dict(summary, readings, bench.machine, rounds, seconds, pinned=cpus is not None)
    write_text(folder / "engine.json", json.dumps(result, indent=2) + "\n")
    draw(summary, folder)
    print_result(summary, console, pinned=cpus is not None)
    console.print(f"\nfigures  {escape(str(folder / 'engine.json'))}", highlight=False, soft_wrap=True)
    console.print(f"chart    {escape(str(folder / 'engine.png'))}", highlight=False, soft_wrap=True)
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    return 130 if interrupted else 0


def _first(cpus: frozenset[int]) -> frozenset[int]:
    # One core each, as a generator process can use no more.
    return frozenset({min(cpus)})


def plan(bench: Bench, connections: Sequence[int], rounds: int) -> list[tuple[str, Callable[[], list[Reading]]]]:
    """Every probe with its words, engines interleaved, so that a change of the machine's mood meets both."""
    steps: list[tuple[str, Callable[[], list[Reading]]]] = []

    def add(words: str, probe: Callable[..., list[Reading]], *arguments: Any) -> None:
        steps.append((words, lambda: probe(bench, *arguments)))

    speeds = [count for count in connections if count <= SPEED_CONNECTIONS]
    for number in range(rounds):
        engines: tuple[Engine, ...] = ("ours", "obvious") if number % 2 == 0 else ("obvious", "ours")
        for count in speeds:
            for engine in engines:
                add(f"round {number + 1}: {engine}, tokens per CPU-second, {count} connections", measure_speed, engine, count)
        if LATENESS_AT in connections:
            for engine in engines:
                add(f"round {number + 1}: {engine}, lateness of stamps, {LATENESS_AT} connections", measure_lateness, engine, LATENESS_AT)
    for count in connections:
        for engine in ("ours", "obvious"):
            add(f"{engine}, memory of {count} idle connections", measure_memory, engine, count)
    for engine in ("ours", "obvious"):
        add(f"{engine}, {LATENESS_AT} connections opened at once", measure_opening, engine, LATENESS_AT)
    add(f"ours, {HELD} connections opened at once and held", measure_opening, "ours", HELD)
    return steps


def measure_speed(bench: Bench, engine: Engine, count: int) -> list[Reading]:
    """Tokens per CPU-second, unpaced, every token acknowledged."""
    result = bench.run(engine, f"tokens={ANSWER_TOKENS}", count)
    if engine == "obvious":
        return [Reading("tokens_per_cpu_s", engine, count, _figures(result)["tokens_per_cpu_s"])]
    run = RunDirectory.open(result)
    tokens, cpu_ns = steady_work(run)
    return [Reading("tokens_per_cpu_s", engine, count, tokens / (cpu_ns / 1e9) if cpu_ns else None)]


def steady_work(run: RunDirectory) -> tuple[int, int]:
    """Tokens and the generator's CPU time (ns) of the whole seconds of the steady window."""
    window = run.metadata()["window"]
    first, last = -(-window["warm_up_end_at_ns"] // 10**9), window["steady_end_at_ns"] // 10**9
    rows = [row for row in run.table("intervals", ["second", "tokens", "cpu_ns"]).to_pylist() if first <= row["second"] < last]
    return sum(row["tokens"] for row in rows), sum(row["cpu_ns"] or 0 for row in rows)


def measure_lateness(bench: Bench, engine: Engine, count: int) -> list[Reading]:
    """How late a token's stamp is, against the time that the server wrote into the token just before it sent it; microseconds."""
    options = [f"--gap-ms={GAP_MS}", "--record-tokens"] if engine == "ours" else []
    query = f"tokens={ANSWER_TOKENS}&stamp=1" + ("" if engine == "ours" else f"&gap_ms={GAP_MS}")
    result = bench.run(engine, query, count, options)
    late = _figures(result)["lateness_us"] if engine == "obvious" else lateness_us(RunDirectory.open(result))
    names = {"p50": "lateness_p50_us", "p99": "lateness_p99_us", "max": "lateness_max_us"}
    return [Reading(name, engine, count, late[key] if late else None) for key, name in names.items()]


def lateness_us(run: RunDirectory) -> dict[str, float] | None:
    """Percentiles of arrival minus the sender's stamp over the tokens of the steady window; None without tokens."""
    metadata = run.metadata()
    window, origin = metadata["window"], metadata["origin_wall_ns"]
    table = run.table("tokens", ["arrival_at_ns", "text"])
    arrival = table["arrival_at_ns"].to_numpy()
    steady = (arrival >= window["warm_up_end_at_ns"]) & (arrival < window["steady_end_at_ns"])
    if not steady.any():
        return None
    sent = np.asarray(table["text"].to_numpy(zero_copy_only=False)[steady]).astype(np.int64)
    late = np.sort(arrival[steady] + origin - sent)
    # Nearest rank, as everywhere.
    ranks = {name: late[max(0, int(np.ceil(q * len(late))) - 1)] / 1e3 for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}
    return {name: float(value) for name, value in ranks.items()}


def measure_memory(bench: Bench, engine: Engine, count: int) -> list[Reading]:
    """Resident memory of the generator with ``count`` idle connections."""
    # Ours opens them evenly: what a storm of handshakes takes for a moment, and the allocator keeps, is no part of an open connection.
    held, resident, _ = _open_idle(bench, engine, count, ["--connect-rate=2500"])
    return [Reading("resident_bytes", engine, count, resident if held >= count else None)]


def measure_opening(bench: Bench, engine: Engine, count: int) -> list[Reading]:
    """How many idle connections come about, and how many a second, when all are opened at once."""
    held, _, rate = _open_idle(bench, engine, count, [UNPACED, "--connect-timeout=60"])
    return [Reading("connects_per_s", engine, count, rate), Reading("held", engine, count, float(held))]


def _open_idle(bench: Bench, engine: Engine, count: int, options: Sequence[str]) -> tuple[int, float | None, float | None]:
    result = bench.run(engine, "", count, [IDLE, *options], max(bench.seconds, 3) + count // 1000)
    if engine == "ours":
        return held_connections(RunDirectory.open(result))
    figures = _figures(result)
    return figures["connections"], figures["resident_bytes"], figures["connects_per_s"]


def held_connections(run: RunDirectory) -> tuple[int, float | None, float | None]:
    """The largest number open at once, the memory when it was last so many, and connects a second, first attempt to last success."""
    rows = [row for row in run.table("intervals", ["second", "open", "rss_bytes"]).to_pylist() if row["open"] is not None]
    held = max((row["open"] for row in rows), default=0)
    # Closing thousands of connections takes memory of its own: a second counts that was written down a second before the stop.
    told_ns = (run.metadata().get("window") or {}).get("steady_end_at_ns") or 0
    held_at = [row for row in rows if row["open"] == held and (row["second"] + 2) * 10**9 <= told_ns]
    resident = held_at[-1]["rss_bytes"] or 0 if held_at else 0
    table = run.table("connections", ["opened_at_ns", "connect_time_ns"]).to_pylist()
    done = [(row["opened_at_ns"], row["opened_at_ns"] + row["connect_time_ns"]) for row in table if row["connect_time_ns"] is not None]
    span_ns = max((end for _, end in done), default=0) - min((begin for begin, _ in done), default=0)
    return held, float(resident) or None, len(done) / (span_ns / 1e9) if span_ns else None


def _figures(path: Path) -> Mapping[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="ascii"))
    return loaded
