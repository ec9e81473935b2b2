"""What can be had of a worker's record after a fault, and how much of what it was doing nobody knows.

A worker keeps its own record until the master has all of it, so that one that was cut off can be joined to its run afterwards. What was
in flight when a process died is unknown, and said so: conversations counted as started that have no row.
"""

from __future__ import annotations

import glob
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .raw_file import RawFile, read_frames
from .run_directory import RunDirectory, RunDirectoryError
from .tables import TABLES

FOLDER = "workers"
"""Where workers keep their own records, in the folder that holds the run directories."""
WORKER: Final = re.compile(r"w[0-9]{1,6}")
"""What a worker is called."""


@dataclass(frozen=True, slots=True)
class Part:
    """One worker's own record of a run."""

    path: Path
    worker: str
    raw: Path


def find_parts(run: RunDirectory) -> list[Part]:
    """The records that this machine's workers still have of a run."""
    identity = run.metadata().get("id")
    parts = []
    for path in sorted((run.path.parent / FOLDER).glob(f"{glob.escape(run.path.name)}.w*")):
        try:
            part = read_part(path)
        except RunDirectoryError:
            continue
        if identity is not None and RunDirectory(path).metadata()["part_of"].get("id") == identity:
            parts.append(part)
    return parts


def read_part(path: Path, run: RunDirectory | None = None) -> Part:
    """A worker's own record; RunDirectoryError when it is none, or (``run`` given) one of another run."""
    whose = RunDirectory.open(path).metadata().get("part_of")
    # Its name becomes the name of a file.
    if not isinstance(whose, dict) or not isinstance(whose.get("worker"), str) or not WORKER.fullmatch(whose["worker"]):
        raise RunDirectoryError(f"expected a worker's own record of a run, but {path} is none; workers keep theirs in {FOLDER}/")
    if run is not None and whose.get("id") != run.metadata().get("id"):
        raise RunDirectoryError(f"{path} is a record of the run {whose.get('run')}, not of {run.path}")
    raw = path / "raw" / f"{whose['worker']}.frames"
    if not raw.is_file():
        raise RunDirectoryError(f"expected the record of {whose['worker']} in {path / 'raw'}, found none; it may have been compacted")
    return Part(path, whose["worker"], raw)


def join(run: RunDirectory, part: Part) -> RawFile:
    """Put a worker's own record in the place of what the run has of it; how that record ended. OSError leaves the run as it was.

    Nothing is done when the run has as much of it already. Called again after an interruption it comes to the same.
    """
    own = RawFile(part.worker)
    for _ in read_frames(part.raw, own):
        pass
    raw = run.path / "raw"
    if raw.is_dir() and not (raw / "compacted").exists():
        there = raw / f"{part.worker}.frames"
        if not there.exists() or there.stat().st_size < own.offset:
            partial = raw / f".{part.worker}.partial"
            shutil.copyfile(part.raw, partial)
            partial.replace(there)
        information = part.raw.with_suffix(".json")
        if information.exists():
            shutil.copyfile(information, raw / information.name)
        return own
    _replace_rows(run, part)
    return own


def _replace_rows(run: RunDirectory, part: Part) -> None:
    state = RawFile(part.worker)
    batches: dict[str, list[pa.RecordBatch]] = {name: [] for name in TABLES}
    for name, batch in read_frames(part.raw, state):
        batches[name].append(batch)
    partial = {name: run.path / f".{name}.parquet.partial" for name in TABLES}
    try:
        for name, schema in TABLES.items():
            path = run.path / f"{name}.parquet"
            if not path.exists() and not batches[name]:
                continue
            others = pq.read_table(path) if path.exists() else schema.empty_table()
            others = others.filter(pc.not_equal(others["worker"], part.worker))
            pq.write_table(pa.concat_tables([others, pa.Table.from_batches(batches[name], schema)]), partial[name], compression="zstd")
        for name, path in partial.items():
            if path.exists():
                path.replace(run.path / f"{name}.parquet")
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


def unknown(run: RunDirectory, workers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For each of the workers whose record has no end: the last second that is known whole, and the conversations in flight then.

    Those are counted as started and have no row. What such a worker began later is within the second that it had not written yet.
    """
    if not workers:
        return {}
    intervals = run.table("intervals", ["worker", "second", "conversations_started", "covered_ns"])
    rows = run.table("conversations", ["worker"])
    found = {}
    for worker in workers:
        mine = intervals.filter(pc.equal(intervals["worker"], worker))
        started = pc.sum(mine["conversations_started"]).as_py() or 0
        known = rows.filter(pc.equal(rows["worker"], worker)).num_rows
        # What was due at the very beginning of the next second may be written down with this one, as a row that covers no time.
        whole = mine.filter(pc.is_valid(mine["covered_ns"]))
        found[worker] = {"last_second": pc.max(whole["second"]).as_py(), "conversations_in_flight": max(0, started - known)}
    return found


def arrivals_known_from(run: RunDirectory, worker: str, second: int) -> int:
    """How many arrivals the worker's record has that were due in ``second`` or later."""
    rows = run.table("intervals", ["worker", "second", "arrivals_due"])
    rows = rows.filter(pc.and_(pc.equal(rows["worker"], worker), pc.greater_equal(rows["second"], second)))
    return pc.sum(rows["arrivals_due"]).as_py() or 0


def describe_unknown(found: dict[str, dict[str, Any]]) -> list[str]:
    """A sentence a worker."""
    sentences = []
    for worker, what in found.items():
        last = what["last_second"]
        until = "nothing of it is known" if last is None else f"its record ends with second {last}, and up to a second more is unknown"
        count = what["conversations_in_flight"]
        flying = f"; {count} conversation{'s' if count != 1 else ''} of which the end is unknown" if count else ""
        sentences.append(f"{worker}: {until}{flying}")
    return sentences


def take_descriptions(run: RunDirectory) -> list[dict[str, Any]]:
    """What the workers said of themselves, kept beside their raw files while a run lasts; read and removed."""
    found = []
    for path in sorted((run.path / "raw").glob("*.json")):
        try:
            information = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            information = None  # the machine went down while it was written
        if isinstance(information, dict):
            found.append(information)
        path.unlink()
    return found
