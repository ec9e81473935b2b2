"""A run directory from somebody else: nothing is written, removed or read outside of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.own_files import first_link
from loadtest.run_directory import RunDirectory, RunDirectoryError, write_text
from loadtest.salvage import find_parts, read_part


def foreign(path: Path) -> Path:
    """A run that was handed over, and a file of ours that it must not reach."""
    RunDirectory.create(path, {"id": "1"})
    own = path.parent / "own.txt"
    own.write_text("ours")
    return own


@pytest.mark.parametrize(
    "name", ["raw", ".run.json.partial", "report.html", "charts", ".intervals.parquet.partial", "raw/w0.frames", "raw/w1.json"]
)
def test_a_link_in_a_run_directory_is_refused(tmp_path: Path, name: str) -> None:
    own = foreign(tmp_path / "run")
    link = tmp_path / "run" / name
    if name == "raw":
        link.rmdir()
    link.symlink_to(own)
    assert first_link(tmp_path / "run") == link
    with pytest.raises(RunDirectoryError, match="is a symbolic link; copy the files themselves"):
        RunDirectory.open(tmp_path / "run")
    assert own.read_text() == "ours"


def test_a_run_directory_may_be_reached_through_a_link(tmp_path: Path) -> None:
    foreign(tmp_path / "run")
    (tmp_path / "latest").symlink_to(tmp_path / "run")
    assert RunDirectory.open(tmp_path / "latest").metadata()["status"] == "running"


def test_what_is_no_folder_has_no_links(tmp_path: Path) -> None:
    assert first_link(tmp_path / "none") is None


def test_a_text_is_not_written_through_a_link(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("ours")
    (tmp_path / ".report.html.partial").symlink_to(own)
    with pytest.raises(OSError, match="symbolic link"):
        write_text(tmp_path / "report.html", "theirs")
    assert own.read_text() == "ours"
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("worker", ["../../own", "w0/../../own", "/etc/passwd", "w", "W0", "w0\n", "", None, 5])
def test_a_worker_has_the_name_of_a_worker(tmp_path: Path, worker: object) -> None:
    foreign(tmp_path / "run")
    part = tmp_path / "workers" / "run.w0"
    RunDirectory.create(part, {"part_of": {"id": "1", "run": "run", "worker": worker}})
    (tmp_path / "own.frames").write_text("ours")
    with pytest.raises(RunDirectoryError, match="expected a worker's own record"):
        read_part(part)


def test_names_with_signs_are_no_patterns(tmp_path: Path) -> None:
    """A run called `[ab]*` has no claim on the records of run `a`."""
    for name in ("a", "[ab]*"):
        RunDirectory.create(tmp_path / name, {"id": "1"})
    part = tmp_path / "workers" / "a.w0"
    RunDirectory.create(part, {"part_of": {"id": "1", "run": "a", "worker": "w0"}})
    (part / "raw" / "w0.frames").write_bytes(b"")
    assert [one.path for one in find_parts(RunDirectory(tmp_path / "a"))] == [part]
    assert find_parts(RunDirectory(tmp_path / "[ab]*")) == []


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"schema_version": "1"}', '{"schema_version": true}', '{"schema_version": -1}', "\x00" * 50]
)
def test_metadata_that_are_none_are_a_sentence(tmp_path: Path, text: str) -> None:
    foreign(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(text)
    with pytest.raises(RunDirectoryError) as refused:
        RunDirectory.open(tmp_path / "run")
    assert "\n" not in str(refused.value)


def test_a_file_of_nested_lists_is_a_sentence(tmp_path: Path) -> None:
    foreign(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("[" * 100_000)
    with pytest.raises(RunDirectoryError, match="cannot read"):
        RunDirectory.open(tmp_path / "run")
