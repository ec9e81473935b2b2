"""A disk that is really full: a file system of our own that is too small, in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.synthetic import SyntheticRun
from loadtest.raw_file import RawWriter
from loadtest.run_directory import RunDirectory, RunDirectoryError
from reports.build import build as build_report
from reports.recover import recover

Models = Callable[[str], SyntheticRun]
Resize = Callable[[int], None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Resize]]:
    """A folder on a file system of its own, and a way to change its size (bytes)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a file system needs root on Linux")

    def mount(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)

    if (done := mount("-t", "tmpfs", "-o", "size=64m", "none")).returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")

    def resize(size: int) -> None:
        done = mount("-o", f"remount,size={size}")
        assert done.returncode == 0, done.stderr

    try:
        yield folder, resize
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(writer: RawWriter, columns: Any) -> None:
    """Write until there is no room."""
    while True:
        writer.append("connections", columns)


def used(folder: Path) -> int:
    room = os.statvfs(folder)
    return (room.f_blocks - room.f_bfree) * room.f_frsize


def test_on_a_full_disk_nothing_is_lost_that_was_written(models: Models, disk: tuple[Path, Resize]) -> None:
    folder, resize = disk
    path = folder / "run"
    run = RunDirectory.create(path, {"status": "running"})
    model = models("plain")
    model.metadata |= {"status": "running", "window": None, "steps": []}
    (columns,) = [tables["connections"] for tables in model.tables.values()]
    writer = run.writer("w0")
    writer.append("connections", columns)
    resize(used(folder) + 8192)
    # The record: what does not fit leaves no half frame, and what fits afterwards is not hidden behind one.
    with pytest.raises(OSError, match="No space left"):
        fill(writer, columns)
    writer._file.close()
    whole = RunDirectory.open(path).table("connections").num_rows
    assert whole >= len(columns["connection"])
    assert writer.path.stat().st_size == writer.bytes_written
    # Recovery and the state of the run: both say so, and leave everything as it was.
    before = {one.name: one.read_bytes() for one in (path / "raw").iterdir()}
    with pytest.raises(RunDirectoryError, match="No space left on device; the raw record stands as it was"):
        recover(path)
    with pytest.raises(OSError, match="No space left"):
        run.write_metadata({**run.metadata(), "note": "x" * 100_000})
    assert RunDirectory.open(path).metadata()["status"] == "running"
    assert {one.name: one.read_bytes() for one in (path / "raw").iterdir()} == before
    # With room again all of it can be had.
    resize(64 << 20)
    assert "status aborted" in recover(path)
    assert RunDirectory.open(path).table("connections").num_rows == whole


def test_a_report_for_which_there_is_no_room_leaves_the_old_one(models: Models, disk: tuple[Path, Resize]) -> None:
    folder, resize = disk
    path = models("plain").write(folder / "run")
    build_report(path, charts=False)
    before = {one.name: one.read_bytes() for one in path.glob("*.*")}
    resize(used(folder))
    with pytest.raises(RunDirectoryError, match="No space left on device; the old report stands"):
        build_report(path)
    assert {one.name: one.read_bytes() for one in path.glob("*.*") if not one.name.startswith(".")} == before
