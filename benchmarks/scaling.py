"""``python -m benchmarks scaling``: what one more worker brings, what it costs the master, and what a hundred would.

Tokens a second with one worker and with two, against the null server, and the processor time of the master beside them, are measured
with real processes. A hundred workers are fed to the master's own code from the record of a real one, as fast as it takes them, and
compacted: that says which share of a core so many would take, how many bytes a second, and how long the end of the run lasts.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]
import psutil
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from loadtest.environment import describe_machine
from loadtest.raw_file import RawFile, read_frames
from loadtest.run_directory import RunDirectory, RunDirectoryError, write_text
from loadtest.shipping import Intake, Shipment
from loadtest.tables import TABLES
from reports.summary import summarise

from .cluster import Cluster
from .options import Parser
from .processes import Interrupted, Interrupts, ProcessError, Processes
from .runner import BenchError, new_folder
from .terminal import complain, consoles, refuse

RUN, TOKEN = "scaling", "scaling"
LOAD: Final = ("--users", "64", "--tokens", "200", "--gap-ms", "0", "--ttft-ms", "0", "--no-scrape", "--spawn-rate", "200")
"""Nothing paces the answers but the acknowledgements, so that the generator is at its ceiling."""


def measure_workers(folder: Path, workers: int, seconds: float, processes: Processes, interrupts: Interrupts) -> dict[str, Any]:
    """Run with so many workers against the null server; tokens a second, and the master's and a worker's processor time."""
    cluster = Cluster(
        folder, processes, interrupts, workers=workers, seconds=seconds + 2, options=LOAD, server=["-m", "benchmarks.null_server"],
    )  # fmt: skip
    try:
        cluster.wait_until(lambda: len({row["worker"] for row in cluster.rows("intervals")}) == workers, "every worker's first second")
        everyone = [cluster.master, *cluster.workers]
        before, begin = [_cpu_s(process.pid) for process in everyone], time.monotonic()
        cluster.pause(seconds - 1)
        used, lasted = [_cpu_s(p.pid) - b for p, b in zip(everyone, before, strict=True)], time.monotonic() - begin
        if (code := cluster.end()) != 0:
            raise ProcessError(f"the run with {workers} workers ended with exit code {code}{cluster.master.said()}")
    finally:
        cluster.stop()
    run = RunDirectory.open(cluster.path)
    rate = summarise(cluster.path)["rates"]["throughput_tokens"]
    return {
        "workers": workers, "tokens_per_s": rate, "master_cores": used[0] / lasted, "worker_cores": [one / lasted for one in used[1:]],
        "status": run.metadata()["status"],
    }  # fmt: skip


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def feed(folder: Path, source: Path, workers: int, seconds: int) -> dict[str, Any]:
    """Feed the record in ``source`` (a worker's raw file), a second of it after the other, as from ``workers`` to a master's intake.

    What the channel costs (unpacking the message, packing the answer) is in; waiting is not.
    """
    run = RunDirectory.create(folder, {"name": folder.name})
    chunks = list(_seconds(source, folder.with_name("one"), seconds))
    intake = Intake(run, RUN, TOKEN)
    packed = [[msgpack.dumps(("streamgauge_chunk", {**chunk, "worker": f"w{w}"}, f"w{w}")) for chunk in chunks] for w in range(workers)]
    sent_bytes = sum(len(message) for messages in packed for message in messages)
    cpu, longest = time.process_time(), 0.0
    for number in range(len(chunks)):
        begin = time.perf_counter()
        for messages in packed:
            _, message, sender = msgpack.loads(messages[number], raw=False, strict_map_key=False)
            msgpack.dumps(("streamgauge_ack", intake.take(sender, message), sender))
        longest = max(longest, time.perf_counter() - begin)
    used = time.process_time() - cpu
    intake.close()
    begin, cpu = time.perf_counter(), time.process_time()
    states = run.compact()
    merged, merged_cpu = time.perf_counter() - begin, time.process_time() - cpu
    if len(states) != workers or any(not state.ended or state.bad_bytes for state in states):
        raise RunDirectoryError("the fed record did not arrive whole")
    return {
        "workers": workers, "seconds": seconds, "bytes_per_s": sent_bytes / seconds, "bytes_per_worker_s": sent_bytes / seconds / workers,
        "master_cores": used / seconds, "master_us_per_worker_s": used / seconds / workers * 1e6, "longest_round_s": longest,
        "merge_s": merged, "merge_cpu_s": merged_cpu, "disk_bytes": sum(path.stat().st_size for path in run.path.glob("*.parquet")),
    }  # fmt: skip


def _seconds(source: Path, place: Path, seconds: int) -> Iterator[dict[str, Any]]:
    """The chunks of ``seconds`` seconds of a worker: those of a real record, over again."""
    batches = [(table, batch) for table, batch in read_frames(source, RawFile("w0"))]
    by_second: list[list[tuple[str, pa.RecordBatch]]] = [[]]
    for table, batch in batches:
        by_second[-1].append((table, batch))
        # A second of the record ends with its intervals.
        if table == "intervals":
            by_second.append([])
    # The first and the last are cut short.
    whole = by_second[1:-2] or by_second
    one = RunDirectory.create(place, {"name": "one"})
    writer = one.writer("w0")
    shipment = Shipment(writer.path, RUN, TOKEN, "w0", {})
    acknowledged = 0
    for number in range(seconds + 1):
        if number < seconds:
            for table, batch in whole[number % len(whole)]:
                writer.append(table, {name: batch.column(name) for name in TABLES[table].names})
        else:
            writer.end()
            shipment.complete({"ended_at_ns": seconds * 10**9})
        for message in shipment.due(writer.path.stat().st_size, float(number)):
            acknowledged = message["number"] + 1
            yield message
        shipment.acknowledged({"run": RUN, "next": acknowledged})
    shipment.close()
    shutil.rmtree(place)


def print_found(found: dict[str, Any], console: Console) -> None:
    """Both tables for people."""
    table = Table(title="Measured, real processes", title_justify="left", box=None, pad_edge=False)
    for title in ("Workers", "Tokens/s", "Master, cores", "A worker, cores"):
        table.add_column(title, justify="right")
    for row in found["measured"]:
        own = sum(row["worker_cores"]) / len(row["worker_cores"])
        table.add_row(str(row["workers"]), f"{row['tokens_per_s']:,.0f}", f"{row['master_cores']:.3f}", f"{own:.2f}")
    console.print(table)
    fed = found["fed"]
    console.print(
        f"{fed['workers']} workers fed to a master for {fed['seconds']} s: {fed['bytes_per_s'] / 1e6:.2f} MB/s into it "
        f"({fed['bytes_per_worker_s'] / 1e3:.1f} kB/s a worker), {fed['master_cores']:.3f} cores "
        f"({fed['master_us_per_worker_s']:.0f} us a worker and second), {fed['longest_round_s'] * 1e3:.0f} ms at most for one second's "
        f"chunks of all; merged in {fed['merge_s']:.2f} s ({fed['merge_cpu_s']:.2f} s of processor time) "
        f"into {fed['disk_bytes'] / 1e6:.1f} MB",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def main(words: Sequence[str]) -> int:
    """The command; returns 0 done, 1 our own failure, 2 usage, 130 interrupted."""
    parser = Parser(prog="python -m benchmarks scaling", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, metavar="S", help="length of a measured run (default: 10)")
    parser.add_argument("--workers", type=int, default=100, metavar="N", help="workers to feed (default: 100)")
    parser.add_argument("--feed-seconds", type=int, default=60, metavar="S", help="seconds of their record (default: 60)")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="folder of the runs (default: runs)")
    parser.add_argument("--json", action="store_true", help="what came out on standard output, everything else on standard error")
    given = parser.parse_args(words)
    if given.seconds < 3 or not 1 <= given.workers <= 1000 or not 1 <= given.feed_seconds <= 3600:
        parser.error("expected --seconds from 3, --workers from 1 to 1000, --feed-seconds from 1 to 3600")
    console, errors = consoles(given.json)
    try:
        folder = new_folder(given.out, "scaling")
        with Interrupts() as interrupts, Processes() as processes:
            measured = []
            for workers in (1, 2):
                errors.print(f"{workers} worker{'s' if workers > 1 else ''}, {given.seconds:g} s", style="dim")
                place = folder / f"workers-{workers}"
                measured.append(measure_workers(place, workers, given.seconds, processes, interrupts))
            errors.print(f"{given.workers} workers fed, {given.feed_seconds} s of each", style="dim")
            # Its own record is gone once the master has it, so that one is made that the master leaves as it is.
            source = record_one(folder / "source", given.seconds, processes, interrupts)
        fed = feed(folder / "fed", source, given.workers, given.feed_seconds)
    except Interrupted:
        complain(errors, "interrupted")
        return 130
    except (BenchError, ProcessError, RunDirectoryError, OSError) as error:
        return refuse(errors, error)
    shutil.rmtree(folder / "fed", ignore_errors=True)
    found = {"machine": describe_machine(), "measured": measured, "fed": fed}
    text = json.dumps(found, ensure_ascii=False, allow_nan=False)
    write_text(folder / "scaling.json", text + "\n")
    print_found(found, console)
    if given.json:
        sys.stdout.write(text + "\n")
    return 0


def record_one(folder: Path, seconds: float, processes: Processes, interrupts: Interrupts) -> Path:
    """The raw file of one real worker that runs at a load of its own: 100 users, a token every 20 ms, each acknowledged."""
    options = ("--users", "100", "--tokens", "100", "--gap-ms", "20", "--spawn-rate", "200", "--no-scrape")
    cluster = Cluster(folder, processes, interrupts, workers=1, seconds=seconds + 2, options=options, trace=False)
    try:
        cluster.wait_until(lambda: len(cluster.rows("intervals")) >= 2, "the first seconds")
        cluster.pause(seconds - 1)
        kept = folder / "w0.frames"
        shutil.copyfile(cluster.path / "raw" / "w0.frames", kept)
        cluster.end()
    finally:
        cluster.stop()
    return kept
