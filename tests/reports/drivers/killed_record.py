"""Records killed while they are written, ended and compacted: a child for each instant, forked where everything is imported already.

Prints a line of JSON: how many were killed in which state, and a sentence for everything that was not as it must be.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.synthetic import Plan, build
from loadtest.conversation import Conversation
from loadtest.raw_file import RawFile, read_frames, warm_up
from loadtest.recorder import Recorder
from loadtest.run_directory import RunDirectory, RunDirectoryError
from loadtest.run_metadata import Ending, end_record
from loadtest.tables import TABLES
from reports.recover import recover
from reports.summary import summarise

SECONDS = 20
SECOND_NS = 10**9
WRITTEN = [name for name in TABLES if name != "tokens"]
GAUGES = {"users": 1, "opening": 0, "open": 1, "streaming": 1}
RECOVERED_EVERY = 4
SUMMARISED_EVERY = 40


def write(path: Path, metadata: dict[str, Any], told: int) -> None:
    """A run as fast as it goes; a byte into ``told`` for each second that is written."""
    run = RunDirectory.create(path, metadata)
    writer = run.writer("w0")
    recorder = Recorder("w0", 0, writer)
    for second in range(SECONDS):
        begin = second * SECOND_NS
        for number in range(4):
            recorder.counts["conversations_started"] += 1
            conversation = Conversation(0, recorder.number_conversation(), 1, 1)
            conversation.sent = begin + number
            for place in range(5):
                conversation.arrivals.append(begin + (place + 1) * 10_000_000)
                conversation.reads.append(begin + (place + 1) * 10_000_000 + 1000)
            conversation.end(begin + 60_000_000, begin + 60_001_000)
            recorder.finish(conversation)
        recorder.flush(begin + SECOND_NS, GAUGES, {"covered_ns": SECOND_NS, "cpu_ns": 1, "rss_bytes": 1})
        os.write(told, b".")
    writer.end()
    ending = Ending(
        lost=[], broken=None, interrupted=False, spawned_at_ns=0, steady_end_at_ns=SECONDS * SECOND_NS,
        drain_end_at_ns=SECONDS * SECOND_NS, warm_up_s=0.0, steps=[], server={}, workers={}, reasons=[],
    )  # fmt: skip
    end_record(run, ending)


def start(path: Path, metadata: dict[str, Any]) -> tuple[int, int]:
    """A child that writes a run; its process id, and where it tells of its seconds."""
    reading, telling = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            write(path, metadata, telling)
            code = 0
        finally:
            os._exit(code)
    os.close(telling)
    return child, reading


def finish(child: int, reading: int) -> int:
    """Wait for a child; how many seconds it had written, as far as it told."""
    os.waitpid(child, 0)
    told = os.read(reading, 4096)
    os.close(reading)
    return len(told)


def rows(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The tables of a run."""
    run = RunDirectory.open(path)
    raw = path / "raw" / "w0.frames"
    if (path / "intervals.parquet").exists() or not raw.exists():
        return {name: run.table(name).to_pylist() for name in WRITTEN}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in WRITTEN}
    for name, batch in read_frames(raw, RawFile("w0")):
        found[name] += batch.to_pylist()
    return found


def examine(path: Path, told: int, whole: dict[str, list[dict[str, Any]]], number: int) -> tuple[str, list[str]]:
    """In which state the run was killed, and what is not as it must be."""
    wrong: list[str] = []
    try:
        before = rows(path)
    except RunDirectoryError as error:
        # Nothing had begun to be recorded.
        return "before the record", [] if told == 0 and "expected" in str(error) else [f"{told} seconds lost: {error}"]
    status = RunDirectory.open(path).metadata()["status"]
    ended = status == "complete"
    if status not in ("running", "complete"):
        wrong.append(f"status {status}")
    for name, found in before.items():
        if found != whole[name][: len(found)]:
            wrong.append(f"{name} has other rows than were written")
        if ended and found != whole[name]:
            wrong.append(f"{name} is called complete and lacks rows")
    seconds = len(before["intervals"])
    if seconds < told:
        wrong.append(f"{told - seconds} seconds are lost that had been written")
    raw = (path / "raw").is_dir()
    state = "complete" if ended else "compacted" if not raw else "in the compaction" if told == SECONDS else "in the record"
    if not ended and raw and number % RECOVERED_EVERY == 0:
        try:
            sentence = recover(path)
        except RunDirectoryError as error:
            return state, wrong if seconds == 0 else [*wrong, f"not recovered: {error}"]
        metadata = RunDirectory.open(path).metadata()
        if metadata["status"] != "aborted" or not metadata["status_reasons"] or "status aborted" not in sentence:
            wrong.append(f"the loss is not stated: {sentence}")
        if rows(path) != before:
            wrong.append("recovered rows are not those that were there")
    if number % SUMMARISED_EVERY == 0 and seconds:
        refused = {reason["rule"] for reason in summarise(path)["validity"]["reasons"]}
        if ("status" in refused) is ended:
            wrong.append(f"{'refused' if ended else 'not refused'} for its status though {state}")
    return state, wrong


def main(folder: Path, times: int, seed: int) -> None:
    draw = random.Random(seed)
    warm_up()
    metadata = {key: value for key, value in build(Plan()).metadata.items() if key not in ("status", "window", "schema_version")}
    begin = time.monotonic()
    finish(*start(folder / "whole", metadata))
    lasts_s = time.monotonic() - begin
    whole = rows(folder / "whole")
    states: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(times):
        path = folder / f"run{number}"
        child, reading = start(path, metadata)
        time.sleep(draw.uniform(0, lasts_s))
        os.kill(child, signal.SIGKILL)
        state, found = examine(path, finish(child, reading), whole, number)
        states[state] += 1
        wrong += [f"run {number}, killed {state}: {one}" for one in found]
    print(json.dumps({"states": states, "wrong": wrong, "lasts_s": lasts_s, "rows": {name: len(found) for name, found in whole.items()}}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
