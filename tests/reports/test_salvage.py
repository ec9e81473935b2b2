"""Workers' own records joined to their run, whether it was compacted already or not; and what stays unknown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.synthetic import SyntheticRun
from loadtest.run_directory import RunDirectory, RunDirectoryError
from loadtest.salvage import arrivals_known_from, describe_unknown, find_parts, read_part, unknown
from loadtest.tables import COUNTERS
from loadtest.tables import TABLES as SCHEMAS
from reports.recover import recover
from reports.summary import summarise

Models = Callable[[str], SyntheticRun]
TABLES = ("conversations", "connections", "intervals", "histograms")


def content(path: Path) -> dict[str, list[str]]:
    """Every row of every table, in an order of its own."""
    run = RunDirectory.open(path)
    return {name: sorted(json.dumps(row, sort_keys=True) for row in run.table(name).to_pylist()) for name in TABLES}


def make(models: Models, folder: Path) -> tuple[Path, Path]:
    """A run of two workers, and its twin whose second worker's record was cut off on the way; w1's own is whole, beside it."""
    whole, cut = folder / "whole", folder / "run"
    for path in (whole, cut):
        model = models("two_workers")
        model.metadata |= {"status": "running", "window": None, "steps": [], "id": "abc"}
        model.write(path, compact=False)
    part = folder / "workers" / "run.w1"
    RunDirectory.create(part, {**RunDirectory.open(cut).metadata(), "part_of": {"run": "run", "id": "abc", "worker": "w1"}})
    raw = cut / "raw" / "w1.frames"
    shutil.copy(raw, part / "raw" / "w1.frames")
    raw.write_bytes(raw.read_bytes()[: raw.stat().st_size // 2])
    return whole, cut


def test_recover_finds_what_this_machines_workers_still_have(models: Models, tmp_path: Path) -> None:
    whole, cut = make(models, tmp_path)
    recover(whole)
    sentence = recover(cut)
    assert "1 record of workers joined" in sentence
    assert "0 without an end mark" in sentence
    assert content(cut) == content(whole)
    assert not (tmp_path / "workers" / "run.w1").exists()
    assert "was compacted already" in recover(cut)


def test_a_record_brought_later_is_joined_to_a_run_that_was_compacted_without_it(models: Models, tmp_path: Path) -> None:
    whole, cut = make(models, tmp_path)
    elsewhere = tmp_path / "elsewhere"
    shutil.move(tmp_path / "workers" / "run.w1", elsewhere)
    recover(whole)
    recover(cut)
    metadata = RunDirectory.open(cut).metadata()
    assert metadata["workers"]["unknown"].keys() == {"w1"}
    assert content(cut) != content(whole)
    sentence = recover(cut, [elsewhere])
    assert "Joined 1 record of workers" in sentence
    assert content(cut) == content(whole)
    metadata = RunDirectory.open(cut).metadata()
    assert metadata["workers"]["unknown"] == {}
    # Whatever cut it off, the run was not what had been planned.
    assert metadata["status"] == "aborted"
    assert not summarise(cut)["validity"]["valid"]
    assert elsewhere.exists(), "what was given stays"
    before = content(cut)
    recover(cut, [elsewhere])
    assert content(cut) == before


def test_a_workers_own_record_is_a_run_too(models: Models, tmp_path: Path) -> None:
    whole, _ = make(models, tmp_path)
    part = tmp_path / "workers" / "run.w1"
    recover(part)
    recover(whole)
    mine = [row for row in RunDirectory.open(whole).table("conversations").to_pylist() if row["worker"] == "w1"]
    assert RunDirectory.open(part).table("conversations").num_rows == len(mine) > 0


def test_records_of_other_runs_are_refused(models: Models, tmp_path: Path) -> None:
    _, cut = make(models, tmp_path)
    part = tmp_path / "workers" / "run.w1"
    metadata = RunDirectory.open(part).metadata()
    RunDirectory(part).write_metadata({**metadata, "part_of": {**metadata["part_of"], "id": "other"}})
    assert find_parts(RunDirectory.open(cut)) == []
    with pytest.raises(RunDirectoryError, match="is a record of the run run, not of"):
        recover(cut, [part])
    with pytest.raises(RunDirectoryError, match="expected a worker's own record"):
        read_part(cut)
    (part / "raw" / "w1.frames").unlink()
    with pytest.raises(RunDirectoryError, match="found none; it may have been compacted"):
        read_part(part)


def test_what_was_in_flight_is_counted(models: Models, tmp_path: Path) -> None:
    _, cut = make(models, tmp_path)
    run = RunDirectory.open(cut)
    shutil.rmtree(tmp_path / "workers")
    found = unknown(run, ["w1", "w7"])
    rows = [row for row in run.table("conversations").to_pylist() if row["worker"] == "w1"]
    started = sum(row["conversations_started"] for row in run.table("intervals").to_pylist() if row["worker"] == "w1")
    assert found["w1"]["conversations_in_flight"] == max(0, started - len(rows))
    assert found["w7"] == {"last_second": None, "conversations_in_flight": 0}
    first, second = describe_unknown(found)
    assert "up to a second more is unknown" in first
    assert second == "w7: nothing of it is known"


def test_what_was_written_early_of_a_second_does_not_make_it_known(tmp_path: Path) -> None:
    """An arrival due as a second begins may be written down with the second before; killed then, the worker's next second is unknown."""
    run = RunDirectory.create(tmp_path / "run", {})
    writer = run.writer("w0")
    rows: dict[str, list[Any]] = {name: [None] * 5 for name in SCHEMAS["intervals"].names} | {name: [0] * 5 for name in COUNTERS}
    rows |= {"worker": ["w0"] * 5, "second": [0, 1, 3, 2, 2], "covered_ns": [10**9, 10**9, None, 10**9, None]}
    rows |= {"arrivals_due": [6, 6, 1, 5, 1], "conversations_started": [6, 6, 0, 6, 0]}
    writer.append("intervals", rows)
    writer.end()
    run.compact()
    assert unknown(run, ["w0"]) == {"w0": {"last_second": 2, "conversations_in_flight": 18}}
    assert [arrivals_known_from(run, "w0", second) for second in (0, 2, 3, 4)] == [19, 7, 1, 0]
    assert arrivals_known_from(run, "w1", 0) == 0
