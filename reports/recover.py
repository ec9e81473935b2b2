"""Makes a readable run out of one whose generator was killed: joins what workers still have, compacts what is sound, says what was lost."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from loadtest.raw_file import RawFile
from loadtest.run_directory import RunDirectory, RunDirectoryError
from loadtest.salvage import Part, describe_unknown, find_parts, join, read_part, take_descriptions, unknown

from .units import count, plural


def recover(path: Path, records: Sequence[Path] = ()) -> str:
    """Join workers' own records, compact the good prefix, set the status, and return a sentence that says what was lost.

    ``records`` are workers' own run directories; those that this machine has are found by themselves, and removed once they are joined.
    A run still marked ``running``, or whose record has no end, becomes ``aborted``; one that ended but with damaged bytes ``degraded``.
    RunDirectoryError when there is no raw record, or the directory cannot be written.
    """
    run = RunDirectory.open(path)
    metadata = run.metadata()
    given = [read_part(record, run) for record in records]
    found = [part for part in find_parts(run) if part.path.resolve() not in {one.path.resolve() for one in given}]
    raw = (path / "raw").is_dir()
    if not raw and not given and not found:
        state = "is complete" if metadata.get("status") == "complete" else "was compacted already"
        return f"{path} {state}: there is no raw record to recover."
    try:
        joined = {part.worker: join(run, part) for part in [*found, *given]}
        described = take_descriptions(run) if raw else []
        files = run.compact() if raw else []
        sentence = _tell(run, metadata, described, files, joined) if files else _tell_joined(run, metadata, [*found, *given], joined)
    except OSError as error:
        raise RunDirectoryError(f"cannot write {path}: {error.strerror}; the raw record stands as it was") from None
    for part in found:
        shutil.rmtree(part.path, ignore_errors=True)
    return sentence


def _tell(
    run: RunDirectory, metadata: dict[str, Any], described: list[dict[str, Any]], files: list[RawFile], joined: dict[str, RawFile]
) -> str:
    before = metadata.get("status", "running")
    unended = [file.worker for file in files if not file.ended]
    damaged = {file.worker: file.bad_bytes for file in files if file.bad_bytes}
    status = "aborted" if before == "running" or unended else "degraded" if damaged or before == "complete" else before
    if before == "complete" and not unended and not damaged:
        status = "complete"
    reasons = list(metadata.get("status_reasons") or [])
    last = pc.max(run.table("intervals", ["second"])["second"]).as_py()
    until = f" up to second {last}" if last is not None else ""
    reasons.append(f"recovered from the raw record of {plural(len(files), 'worker')}{until}")
    for file in files:
        if file.bad_bytes:
            reasons.append(
                f"{file.worker}: {count(file.bad_bytes)} bytes from offset {count(file.bad_offset)} on were no good record and are lost"
            )
        elif not file.ended:
            reasons.append(f"{file.worker}: the record ends without an end mark; at most its last second is lost")
    lacking = unknown(run, unended)
    reasons += describe_unknown(lacking)
    workers = {**(metadata.get("workers") or {}), "bad_bytes": damaged, "unknown": lacking}
    if described:
        workers["seen"] = [{key: value for key, value in one.items() if key != "ended_at_ns"} for one in described]
        # One that the master had expected and that has left nothing at all.
        workers["lost"] = sorted(set(unended) | {f"w{i}" for i in range(workers.get("expected", 0))} - {file.worker for file in files})
    run.update_metadata(
        status=status, status_reasons=reasons if status != "complete" else metadata.get("status_reasons") or [], workers=workers
    )
    lost = f"{count(sum(damaged.values()))} bytes lost" if damaged else "nothing damaged"
    added = f", {plural(len(joined), 'record')} of workers joined" if joined else ""
    return f"Recovered {run.path}: {plural(len(files), 'raw file')}{added}, {lost}, {len(unended)} without an end mark; status {status}."


def _tell_joined(run: RunDirectory, metadata: dict[str, Any], parts: Sequence[Part], joined: dict[str, RawFile]) -> str:
    """A run that had ended without these workers' records has them now; that they were cut off keeps it from being complete."""
    if not joined:
        raise RunDirectoryError(f"expected a raw record in {run.path / 'raw'}, found none; nothing was recorded before the run died")
    workers = dict(metadata.get("workers") or {})
    unended = sorted(worker for worker, file in joined.items() if not file.ended)
    workers["lost"] = sorted(set(workers.get("lost") or []) - set(joined) | set(unended))
    workers["bad_bytes"] = {
        **(workers.get("bad_bytes") or {}),
        **{worker: file.bad_bytes for worker, file in joined.items() if file.bad_bytes},
    }
    workers["unknown"] = unknown(run, workers["lost"])
    reasons = [*(metadata.get("status_reasons") or []), f"joined afterwards: the record of {', '.join(sorted(joined))}"]
    reasons += describe_unknown(workers["unknown"])
    status = "degraded" if metadata.get("status") == "complete" else metadata.get("status", "degraded")
    run.update_metadata(status=status, status_reasons=reasons, workers=workers)
    return f"Joined {plural(len(parts), 'record')} of workers to {run.path}, {len(unended)} without an end mark; status {status}."
