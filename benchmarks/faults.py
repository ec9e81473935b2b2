"""Faults that spoil a run for real, each with the rule of validity that has to refuse it.

Nothing inside the generator is replaced, except its clock (the machine's own is everybody's): it is stopped, starved, saturated, killed,
its disk refuses, its descriptors run out, its record is damaged.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loadtest.run_directory import RunDirectory
from reports.recover import recover

from .fault_bench import Bench, load, prefer
from .processes import Process, split_cpus

LOCUSTFILE: Final = Path(__file__).with_name("set_clock.py")
INTERRUPTED: Final = (130,)
DEGRADED: Final = (12,)
KILLED: Final = (-signal.SIGKILL,)
STEPS_MS: Final = (30, -30, 5, -300, 1000)
BEFORE_END_S: Final = 0.8
"""Repeated stops leave the end of a run alone: what follows belongs to the drain."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to spoil a run: ``make`` does it for the n-th time and returns the run directory; ``rule`` has to refuse that."""

    rule: str
    name: str
    how: str
    make: Callable[[Bench, str, int], Path]


# The run is cut, or its record is.


def interrupt(bench: Bench, name: str, number: int) -> Path:
    """Ctrl-C in the middle."""

    def during(generator: Process, _: Path) -> None:
        bench.experiment.pause(2)
        os.kill(generator.pid, signal.SIGINT)

    return bench.run(name, load(10, 20, 20), during, INTERRUPTED)


def refuse_writes(bench: Bench, name: str, number: int) -> Path:
    """From an instant on the kernel lets the record grow no further, as on a full disk."""

    def during(generator: Process, directory: Path) -> None:
        bench.experiment.pause(1.5)
        size = (directory / "raw" / "w0.frames").stat().st_size
        resource.prlimit(generator.pid, resource.RLIMIT_FSIZE, (size, size))

    return bench.run(name, load(20, 20, 20), during, DEGRADED)


def kill(bench: Bench, name: str, number: int) -> Path:
    """The whole generator is killed, and its record recovered."""
    path = bench.run(name, load(20, 20, 20), _kill(bench), KILLED)
    recover(path)
    return path


def damage(bench: Bench, name: str, number: int) -> Path:
    """The generator is killed, and before its record is recovered a byte in the middle is flipped, or the end is cut off."""
    path = bench.run(name, load(20, 20, 20), _kill(bench), KILLED)
    record = path / "raw" / "w0.frames"
    draw, size = random.Random(number), record.stat().st_size
    if number % 2:
        os.truncate(record, size - draw.randint(1, 20))
    else:
        with record.open("r+b") as file:
            at = file.seek(draw.randrange(size // 2, size))
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << draw.randrange(8)]))
    recover(path)
    return path


def _kill(bench: Bench) -> Callable[[Process, Path], None]:
    def during(generator: Process, _: Path) -> None:
        bench.experiment.pause(2.5)
        os.kill(generator.pid, signal.SIGKILL)

    return during


def kill_worker(bench: Bench, name: str, number: int) -> Path:
    """One of two workers is killed."""

    def during(generator: Process, directory: Path) -> None:
        while len(list((directory / "raw").glob("*.frames"))) < 2:
            bench.experiment.pause(0.05)
        bench.experiment.pause(bench.seconds / 3)
        workers = psutil.Process(generator.pid).children()
        workers[number % len(workers)].kill()

    return bench.run(name, load(20, 20, 20, "--processes", "2"), during, DEGRADED)


def warm_up_only(bench: Bench, name: str, number: int) -> Path:
    """The run ends before its warm-up does."""
    return bench.run(name, (*load(5, 20, 20), "--warm-up", "30"), seconds=3)


# The generator cannot keep up.


def starve(bench: Bench, name: str, number: int) -> Path:
    """Two programs that do nothing but count take the generator's core away from it."""
    cpus = split_cpus()

    def during(_: Process, directory: Path) -> None:
        spinners: list[Process] = []
        try:
            for spinner in range(2):
                log = directory.with_name(f"{name}.busy{spinner}.log")
                spinners.append(bench.processes.start("a busy loop", [sys.executable, "-c", "while True: pass"], log, cpus and cpus[1]))
                prefer(spinners[-1].pid, -5)
            bench.experiment.pause(bench.seconds)
        finally:
            for spinning in spinners:
                spinning.stop(signal.SIGKILL, 5)

    options = load(100, 5, 200, "--no-scrape", ttft_ms=5)
    return bench.experiment.generate(name, bench.null.url, options, bench.seconds, during, (0,))


def saturate(bench: Bench, name: str, number: int) -> Path:
    """More than the generator can take from a server that sends as fast as it can."""

    def during(generator: Process, _: Path) -> None:
        prefer(generator.pid, -20)

    options = load(100, 0, 400, "--no-scrape", "--adapter", "benchmarks.laborious_adapter:Laborious", ttft_ms=0)
    return bench.experiment.generate(name, bench.null.url, options, bench.seconds, during, (0,))


def stop_long(bench: Bench, name: str, number: int) -> Path:
    """The generator stands still for two seconds (SIGSTOP)."""

    def during(generator: Process, _: Path) -> None:
        bench.experiment.pause(max(1.5, bench.seconds / 3))
        bench.experiment.freeze_for(generator, 2)

    return bench.run(name, load(16, 20, 100), during)


def stop_often(options: Sequence[str], still_s: float, going_s: float) -> Callable[[Bench, str, int], Path]:
    """A fault: the generator stands still for a moment, again and again (SIGSTOP)."""

    def make(bench: Bench, name: str, number: int) -> Path:
        def during(generator: Process, _: Path) -> None:
            bench.experiment.pause(1)
            for _turn in range(int((bench.seconds - 1 - BEFORE_END_S) / (still_s + going_s))):
                bench.experiment.pause(going_s)
                bench.experiment.freeze_for(generator, still_s)

        return bench.run(name, options, during)

    return make


def set_clock(bench: Bench, name: str, number: int) -> Path:
    """The wall clock that the generator reads is set in the middle, differently from time to time."""
    after = ("--clock-step-ms", str(STEPS_MS[number % len(STEPS_MS)]), "--clock-step-after", f"{1.5 + 0.5 * (number % 4):g}")
    return bench.run(name, load(20, 20, 20, "-f", str(LOCUSTFILE), *after))


def use_up_descriptors(bench: Bench, name: str, number: int) -> Path:
    """The generator may open five files more than it has open, while users are still to connect."""

    def during(generator: Process, _: Path) -> None:
        bench.experiment.pause(1)
        most = len(os.listdir(f"/proc/{generator.pid}/fd")) + 5
        resource.prlimit(generator.pid, resource.RLIMIT_NOFILE, (most, most))

    return bench.run(name, load(60, 20, 20, "--connect-rate", "20"), during)


# The books, cooked in a copy of a healthy run.


def cook_books(bench: Bench, name: str, number: int) -> Path:
    """Something is missing, doubled or changed in a copy of a healthy run."""
    path = copy(bench, name)
    table = pq.read_table(path / "conversations.parquet")
    rows = table.num_rows
    match number % 5:
        case 0:
            table = table.filter(pa.array([row != rows // 2 for row in range(rows)]))
        case 1:
            table = table.slice(0, rows - rows // 10)
        case 2:
            table = pa.concat_tables([table, table.slice(rows // 2, 1)])
        case 3:
            column = table.schema.get_field_index("tokens")
            table = table.set_column(column, table.schema.field(column), pc.add(table["tokens"], pa.array([1] + [0] * (rows - 1))))
        case _:
            run = RunDirectory.open(path)
            server = run.metadata()["server"]
            server["last"]["streamgauge_prompts_total"] += 1
            run.update_metadata(server=server)
    pq.write_table(table, path / "conversations.parquet")
    return path


def clamp(bench: Bench, name: str, number: int) -> Path:
    """In a copy of a healthy run values are counted as clamped, as the recorder counts what lies outside its histograms."""
    path = copy(bench, name)
    table = pq.read_table(path / "intervals.parquet")
    column = table.schema.get_field_index("clamped")
    more = pa.array([number + 1] + [0] * (table.num_rows - 1))
    pq.write_table(table.set_column(column, table.schema.field(column), pc.add(table["clamped"], more)), path / "intervals.parquet")
    return path


def ask_too_much(bench: Bench, name: str, number: int) -> Path:
    """A copy of a healthy run whose scenario bounds a figure that so short a run has too few samples for, or none at all."""
    path = copy(bench, name)
    run = RunDirectory.open(path)
    wanted = ("ttft_p99.9 < 10s", "e2e_p99.9 < 10s", "stop_p99.9 < 10s", "goodput >= 10%", "tpot_p99.9 < 10s")[number % 5]
    run.update_metadata(scenario={**run.metadata()["scenario"], "thresholds": [wanted]})
    return path


def copy(bench: Bench, name: str) -> Path:
    """A copy of a healthy run."""
    path = bench.experiment.folder / name
    shutil.copytree(bench.spare(), path)
    return path


OPEN: Final = ("--loop", "open", "--rate", "60")

FAULTS: Final[tuple[Fault, ...]] = (
    Fault("status", "interrupted", "SIGINT to the generator after 2 s", interrupt),
    Fault("status", "disk", "the kernel lets the record grow no further after 1.5 s (RLIMIT_FSIZE), as a full disk does", refuse_writes),
    Fault("status", "killed", "SIGKILL to the generator after 2.5 s, then `python -m reports recover`", kill),
    Fault("workers", "worker", "SIGKILL to one of two workers after a third of the run", kill_worker),
    Fault("records", "damaged", "SIGKILL, then a bit flipped in the second half of the record, or its last bytes cut off, then recovered",
          damage),
    Fault("seconds", "gap", "SIGKILL to one of two workers: its record ends before the run does", kill_worker),
    Fault("window", "warm_up", "a warm-up longer than the run", warm_up_only),
    Fault("receive_lag", "starved", "two busy loops on the generator's core while it drives 100 streams, a token every 5 ms", starve),
    Fault("generator_cpu", "saturated", "100 streams of the null server, unpaced, through an adapter that takes its time", saturate),
    Fault("tainted", "stopped", "SIGSTOP to the generator for 2 s", stop_long),
    Fault("late_starts", "stopped_often", "open loop, 60 starts a second; SIGSTOP to the generator for 70 ms of every 220 ms",
          stop_often(load(30, 10, 10, *OPEN, ttft_ms=10), 0.07, 0.15)),
    Fault("coalesced", "stopped_unacknowledged", "no acknowledgements, a token every 10 ms; SIGSTOP to the generator for 70 ms of every "
          "190 ms", stop_often(load(20, 10, 50, window=0), 0.07, 0.12)),
    Fault("clock", "set", "the wall clock as the generator reads it, and the kernel's stamps with it, set by 5 ms to 1 s, ahead or back",
          set_clock),
    Fault("clamped", "clamped", "a copy of a healthy run in which one to five values are counted as clamped", clamp),
    Fault("accounting", "cooked", "a copy of a healthy run with a row missing, a tenth missing, one doubled, one token too many, or one "
          "prompt more on the server's side", cook_books),
    Fault("generator_limit", "descriptors", "the generator may open five files more (RLIMIT_NOFILE) while 40 of its users have yet to "
          "connect", use_up_descriptors),
    Fault("thresholds", "asked", "a copy of a healthy run with a threshold on a figure that it has too few samples for", ask_too_much),
)  # fmt: skip
