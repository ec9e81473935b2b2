"""Makes a readable run out of one whose generator was killed: compacts what is sound and says what was lost."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc

from loadtest.run_directory import RunDirectory, RunDirectoryError

from .units import count, plural


def recover(path: Path) -> str:
    """Compact the raw record's good prefix, set the status, and return a sentence that says what was lost.

    A run still marked ``running``, or whose record has no end, becomes ``aborted``; one that ended but with damaged bytes ``degraded``.
    RunDirectoryError when there is no raw record, or the directory cannot be written.
    """
    run = RunDirectory.open(path)
    metadata = run.metadata()
    if not (path / "raw").is_dir():
        state = "is complete" if metadata.get("status") == "complete" else "was compacted already"
        return f"{path} {state}: there is no raw record to recover."
    before = metadata.get("status", "running")
    try:
        files = run.compact()
    except OSError as error:
        raise RunDirectoryError(f"cannot write {path}: {error.strerror}; the raw record stands as it was") from None
    if not files:
        raise RunDirectoryError(f"expected a raw record in {path / 'raw'}, found none; nothing was recorded before the run died")
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
    workers = {**(metadata.get("workers") or {}), "bad_bytes": damaged}
    run.update_metadata(
        status=status, status_reasons=reasons if status != "complete" else metadata.get("status_reasons") or [], workers=workers
    )
    lost = f"{count(sum(damaged.values()))} bytes lost" if damaged else "nothing damaged"
    return f"Recovered {path}: {plural(len(files), 'raw file')}, {lost}, {len(unended)} without an end mark; status {status}."
