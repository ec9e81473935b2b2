"""The file contract: what is read back after a kill at any byte, a full disk, a half-done compaction, or from the wrong place."""

from __future__ import annotations

import json
import os
import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from loadtest import run_directory as module
from loadtest.metrics import HISTOGRAMS, METRICS, OUTCOMES
from loadtest.raw_file import RawFile, read_frames
from loadtest.run_directory import RunDirectory, RunDirectoryError, write_text
from loadtest.tables import COUNTERS, GAUGES, SCHEMA_VERSION, TABLES, schema_of

HEADER_BYTES = struct.calcsize("<4sBQI")


def connections(*numbers: int, worker: str = "w0") -> dict[str, Any]:
    """Rows of the connections table, the smallest of all."""
    n = len(numbers)
    return {
        "worker": [worker] * n, "connection": list(numbers), "user": [0] * n, "opened_at_ns": [5] * n, "attempt": [0] * n,
        "conversations": [1] * n, "outcome": ["clean"] * n, "syn_retransmitted": [False] * n,
    }  # fmt: skip


def tokens(*sequence: int, worker: str = "w0") -> dict[str, Any]:
    n = len(sequence)
    return {
        "worker": [worker] * n, "connection": [0] * n, "conversation": [0] * n, "sequence": list(sequence),
        "arrival_at_ns": [1] * n, "read_at_ns": [2] * n, "coalesced": [False] * n,
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", {"name": "run"})


def written(run: RunDirectory, worker: str, *batches: dict[str, Any], end: bool = True) -> tuple[Path, list[int]]:
    """A raw file of connection batches; its path and the offsets at which frames begin, and its size last."""
    writer = run.writer(worker)
    offsets = [0]
    for batch in batches:
        writer.append("connections", batch)
        offsets.append(writer.bytes_written)
    if end:
        writer.end()
        offsets.append(writer.bytes_written)
    assert writer.path.stat().st_size == writer.bytes_written
    return writer.path, offsets


def read_all(path: Path, state: RawFile | None = None) -> tuple[list[int], RawFile]:
    state = state or RawFile(path.stem)
    return [number for _, batch in read_frames(path, state) for number in batch["connection"].to_pylist()], state


# -- frames ------------------------------------------------------------------------------------------------------------


def test_a_whole_file_is_read_to_its_end_mark(run: RunDirectory) -> None:
    path, offsets = written(run, "w0", connections(1, 2), connections(3))
    found, state = read_all(path)
    assert found == [1, 2, 3]
    assert state == RawFile("w0", ended=True, offset=offsets[-1], frames=3)


def test_cut_at_every_byte_the_good_prefix_stands_and_the_loss_is_stated(run: RunDirectory) -> None:
    path, offsets = written(run, "w0", connections(1), connections(2))
    for cut in range(offsets[-1], -1, -1):
        os.truncate(path, cut)
        found, state = read_all(path)
        good = max(offset for offset in offsets if offset <= cut)
        assert found == [1, 2][: offsets.index(good)]
        assert state.offset == good
        assert state.bad_bytes == cut - good
        assert state.bad_offset == (None if cut == good else good)
        assert state.ended == (cut == offsets[-1])


def test_a_flipped_bit_anywhere_is_never_taken_for_data(run: RunDirectory) -> None:
    path, offsets = written(run, "w0", connections(1), connections(2))
    whole = path.read_bytes()
    with path.open("rb+", buffering=0) as file:
        for place, byte in enumerate(whole):
            # Every bit of the headers, and one of each byte of the rows.
            frame = max(offset for offset in offsets if offset <= place)
            for bit in range(8) if place - frame < HEADER_BYTES else (place % 8,):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), place)
                found, state = read_all(path)
                assert found == [1, 2][: offsets.index(frame)], (place, bit)
                assert (state.bad_offset, state.bad_bytes, state.ended) == (frame, len(whole) - frame, False)
            os.pwrite(file.fileno(), bytes([byte]), place)
    assert read_all(path)[0] == [1, 2]


@pytest.mark.parametrize("number", [1, 3, 255])
def test_a_frame_cannot_pass_for_one_of_another_kind(run: RunDirectory, number: int) -> None:
    path, _ = written(run, "w0", connections(1))
    whole = bytearray(path.read_bytes())
    assert whole[4] == list(TABLES).index("connections") + 1
    whole[4] = number
    path.write_bytes(whole)
    found, state = read_all(path)
    assert (found, state.offset, state.bad_bytes) == ([], 0, len(whole))


@pytest.mark.parametrize("rubbish", [b"\0" * 40, b"not a frame at all, but long enough to be a header", b"SGf1" + b"\xff" * 60])
def test_rubbish_is_no_frame(tmp_path: Path, rubbish: bytes) -> None:
    path = tmp_path / "w0.frames"
    path.write_bytes(rubbish)
    found, state = read_all(path)
    assert (found, state.bad_offset, state.bad_bytes, state.ended) == ([], 0, len(rubbish), False)


def test_an_empty_file_has_neither_rows_nor_loss(tmp_path: Path) -> None:
    path = tmp_path / "w0.frames"
    path.touch()
    assert read_all(path) == ([], RawFile("w0"))


def test_a_growing_file_is_followed_in_small_pieces(run: RunDirectory, tmp_path: Path) -> None:
    path, _ = written(run, "w0", connections(1), connections(2), connections(3))
    whole = path.read_bytes()
    growing, state, found = tmp_path / "growing.frames", RawFile("growing"), []
    with growing.open("wb", buffering=0) as file:
        for at in range(0, len(whole), 7):
            file.write(whole[at : at + 7])
            found += read_all(growing, state)[0]
    assert found == [1, 2, 3]
    assert (state.ended, state.frames, state.bad_bytes, state.bad_offset) == (True, 4, 0, None)
    assert read_all(growing, state)[0] == []


# -- writing -----------------------------------------------------------------------------------------------------------


def test_absent_columns_that_may_be_null_are_null(run: RunDirectory) -> None:
    path, _ = written(run, "w0", connections(1))
    (_, batch), *_ = read_frames(path, RawFile("w0"))
    assert batch.schema == TABLES["connections"]
    assert batch["close_code"].to_pylist() == batch["error"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"colour": [1]}, "table 'connections' has no column colour"),
        ({"outcome": None}, "table 'connections' needs column 'outcome'"),
    ],
)
def test_rows_that_do_not_fit_the_table_are_refused(run: RunDirectory, change: dict[str, Any], sentence: str) -> None:
    columns = {name: values for name, values in {**connections(1), **change}.items() if values is not None}
    writer = run.writer("w0")
    with pytest.raises(ValueError, match=sentence):
        writer.append("connections", columns)
    assert writer.path.stat().st_size == 0
    writer.end()


def test_no_rows_write_nothing(run: RunDirectory) -> None:
    writer = run.writer("w0")
    writer.append("connections", connections())
    assert writer.bytes_written == 0
    writer.end()
    assert read_all(writer.path)[1].ended


def test_two_processes_cannot_be_the_same_worker(run: RunDirectory) -> None:
    run.writer("w0").end()
    with pytest.raises(FileExistsError):
        run.writer("w0")


def test_an_end_mark_is_written_once(run: RunDirectory) -> None:
    writer = run.writer("w0")
    assert run.workers_ended() == {"w0": False}
    writer.append("connections", connections(1))
    assert run.workers_ended() == {"w0": False}
    writer.end()
    writer.end()
    assert run.workers_ended() == {"w0": True}
    assert read_all(writer.path)[1].frames == 2


def test_which_workers_have_ended(run: RunDirectory) -> None:
    assert run.workers_ended() == {}
    written(run, "w1", connections(1))
    path, _ = written(run, "w0", connections(1))
    path.write_bytes(path.read_bytes()[:-1])
    assert run.workers_ended() == {"w0": False, "w1": True}


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """As on a full disk, the write fails that would make a file larger than this; only for as long as nothing else writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_batch_that_did_not_fit_leaves_no_half_frame(run: RunDirectory) -> None:
    writer = run.writer("w0")
    writer.append("connections", connections(1))
    good = writer.bytes_written
    with pytest.raises(OSError, match="too large"), files_limited_to(good + 100):
        writer.append("connections", connections(*range(500)))
    assert writer.path.stat().st_size == writer.bytes_written == good
    # There is room again: what comes now is not hidden behind half a frame.
    writer.append("connections", connections(2))
    writer.end()
    found, state = read_all(writer.path)
    assert (found, state.ended, state.bad_bytes) == ([1, 2], True, 0)


def test_a_text_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_text(path, "old")
    with pytest.raises(OSError, match="too large"), files_limited_to(10):
        write_text(path, "new" * 1000)
    assert path.read_text() == "old"


# -- compaction --------------------------------------------------------------------------------------------------------


def two_workers(run: RunDirectory) -> None:
    written(run, "w0", connections(1, 2), connections(3))
    path, _ = written(run, "w1", connections(4, worker="w1"), connections(5, worker="w1"))
    path.write_bytes(path.read_bytes()[:-5])


def compacted_numbers(run: RunDirectory) -> list[int]:
    return sorted(run.table("connections", ["connection"])["connection"].to_pylist())


def test_compaction_keeps_every_good_row_and_states_the_loss(run: RunDirectory) -> None:
    two_workers(run)
    before = run.table("connections")
    states = run.compact()
    assert [(s.worker, s.ended, s.bad_bytes, s.frames) for s in states] == [("w0", True, 0, 3), ("w1", False, HEADER_BYTES - 5, 2)]
    assert run.raw_files == states
    assert run.table("connections").equals(before)
    assert compacted_numbers(run) == [1, 2, 3, 4, 5]
    assert sorted(path.name for path in run.path.iterdir()) == [
        "connections.parquet", "conversations.parquet", "fairness.parquet", "histograms.parquet", "intervals.parquet", "run.json",
    ]  # fmt: skip


def test_tables_have_their_columns_even_without_a_row(run: RunDirectory) -> None:
    run.writer("w0").end()
    assert all(run.table(name).schema == schema for name, schema in TABLES.items())
    run.compact()
    for name, schema in TABLES.items():
        if name != "tokens":
            assert pq.read_schema(run.path / f"{name}.parquet").equals(schema)
    assert run.table("tokens").num_rows == 0


def test_tokens_are_a_table_only_where_they_were_written(run: RunDirectory) -> None:
    writer = run.writer("w0")
    writer.append("tokens", tokens(0, 1, 2))
    writer.end()
    run.compact()
    assert run.table("tokens", ["sequence"])["sequence"].to_pylist() == [0, 1, 2]


def test_a_large_table_is_written_in_several_groups(run: RunDirectory) -> None:
    writer = run.writer("w0")
    for _ in range(3):
        writer.append("tokens", tokens(*range(1 << 17)))
    writer.end()
    run.compact()
    assert pq.ParquetFile(run.path / "tokens.parquet").num_row_groups == 2
    assert run.table("tokens").num_rows == 3 << 17


def test_a_failing_write_leaves_the_record_untouched(run: RunDirectory) -> None:
    two_workers(run)
    raw = {path.name: path.read_bytes() for path in (run.path / "raw").iterdir()}
    with pytest.raises(OSError, match="too large"), files_limited_to(200):
        run.compact()
    assert {path.name: path.read_bytes() for path in (run.path / "raw").iterdir()} == raw
    assert sorted(path.name for path in run.path.iterdir()) == ["raw", "run.json"]
    run.compact()
    assert compacted_numbers(run) == [1, 2, 3, 4, 5]


class Killed(BaseException):
    """Stands for the end of the process between two steps."""


STEPS = ("replace", "unlink", "rmdir")


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int) -> list[str]:
    """From the step of that number on, no file is renamed or removed any more; returns the log of those that were."""
    done: list[str] = []

    def counted(name: str) -> Any:
        true = getattr(Path, name)

        def act(self: Path, *arguments: Any, **options: Any) -> Any:
            if len(done) >= step:
                raise Killed
            done.append(f"{name} {self.name}")
            return true(self, *arguments, **options)

        return act

    for name in STEPS:
        monkeypatch.setattr(Path, name, counted(name))
    return done


def test_a_compaction_killed_at_any_step_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(100):
        run = RunDirectory.create(tmp_path / f"run{step}", {})
        two_workers(run)
        with monkeypatch.context() as patch:
            steps = killed_at(patch, step)
            try:
                run.compact()
            except Killed:
                pass
            else:
                break
        assert compacted_numbers(run) == [1, 2, 3, 4, 5], steps
        if (run.path / "raw").exists():
            states = RunDirectory.open(run.path).compact()
            if steps[-1:] != ["unlink compacted"]:  # then nothing but the empty folder was left to do
                assert [(s.worker, s.ended, s.bad_bytes) for s in states] == [("w0", True, 0), ("w1", False, HEADER_BYTES - 5)], steps
        assert compacted_numbers(run) == [1, 2, 3, 4, 5], steps
        assert not list((run.path / "raw").glob("*.frames"))
    # All of them: five tables and the mark renamed, two raw files, the mark and the folder removed.
    assert len(steps) == 10
    assert step == 10


def test_compacting_twice_changes_nothing(run: RunDirectory) -> None:
    two_workers(run)
    run.compact()
    assert run.compact() == []
    (run.path / "raw").mkdir()
    assert run.compact() == []
    assert compacted_numbers(run) == [1, 2, 3, 4, 5]


def test_what_is_not_a_record_stays(run: RunDirectory) -> None:
    two_workers(run)
    (run.path / "raw" / "w0.json").write_text("{}")
    run.compact()
    assert [path.name for path in (run.path / "raw").iterdir()] == ["w0.json"]
    assert run.compact() == []
    assert compacted_numbers(run) == [1, 2, 3, 4, 5]


def test_a_running_record_can_be_read_as_tables(run: RunDirectory) -> None:
    writer = run.writer("w0")
    writer.append("connections", connections(1))
    writer.append("tokens", tokens(0, 1))
    with writer.path.open("ab") as file:
        file.write(b"half")
    assert run.table("connections", ["connection", "worker"]).to_pydict() == {"connection": [1], "worker": ["w0"]}
    assert [(s.worker, s.ended, s.bad_bytes) for s in run.raw_files] == [("w0", False, 4)]
    assert run.table("tokens").num_rows == 2
    writer.end()


# -- the directory -----------------------------------------------------------------------------------------------------


def test_a_new_run_says_its_schema_and_that_it_runs(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "deep" / "er" / "run", {"seed": 7, "name": "日本"})
    assert run.metadata() == {"schema_version": SCHEMA_VERSION, "status": "running", "seed": 7, "name": "日本"}
    assert RunDirectory.open(run.path).update_metadata(status="complete", extra=1)["extra"] == 1
    assert run.metadata()["status"] == "complete"
    assert "日本" in (run.path / "run.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
def test_an_existing_name_is_not_taken(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run"
    if kind == "directory":
        path.mkdir()
    elif kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunDirectoryError, match=f"expected a new run directory, but {path} exists; choose another --run-dir or remove it"):
        RunDirectory.create(path, {})
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("below", ["run", "deep/run"])
def test_a_file_where_a_folder_should_be(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    path = tmp_path / "file" / below
    with pytest.raises(RunDirectoryError, match=rf"cannot write the run directory {path}: .*; choose a writable folder"):
        RunDirectory.create(path, {})


def test_an_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    # Not by mode bits, which the super-user does not mind.
    monkeypatch.setattr(Path, "mkdir", refuse)
    path = tmp_path / "locked" / "run"
    with pytest.raises(RunDirectoryError, match=f"cannot write the run directory {path}: Permission denied; choose a writable folder"):
        RunDirectory.create(path, {})


def test_a_newer_schema_is_refused_with_both_versions(run: RunDirectory) -> None:
    run.update_metadata(schema_version=SCHEMA_VERSION + 6)
    with pytest.raises(RunDirectoryError, match=rf"schema {SCHEMA_VERSION + 6}, this version reads up to {SCHEMA_VERSION};"):
        RunDirectory.open(run.path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "expected a run directory with run.json, but .* has none"),
        ("{", "cannot read .*run.json: "),
        (b"\xff\xfe\xff", "cannot read .*run.json: "),
        ("[1]", "expected an object in .*run.json, found list"),
        ("{}", "expected a schema_version in .*, found None; this is not a run directory"),
        ('{"schema_version": "1"}', "found '1'; this is not a run directory"),
        ('{"schema_version": 0}', "found 0; this is not a run directory"),
    ],
)
def test_what_is_no_run_directory(tmp_path: Path, text: str | bytes | None, sentence: str) -> None:
    if text is not None:
        (tmp_path / "run.json").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(RunDirectoryError, match=sentence):
        RunDirectory.open(tmp_path)


def test_a_file_or_nothing_in_place_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunDirectoryError, match=f"expected a run directory, but {tmp_path / 'file'} is a file"):
        RunDirectory.open(tmp_path / "file")
    with pytest.raises(RunDirectoryError, match=r"expected a run directory with run.json, but .*nowhere has none"):
        RunDirectory.open(tmp_path / "nowhere")


def test_no_half_metadata_is_ever_seen(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    before = json.dumps(run.metadata())

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        run.update_metadata(status="failed")
    assert json.dumps(run.metadata()) == before


# -- the contract's words ----------------------------------------------------------------------------------------------


def test_the_tables_have_a_column_for_every_stored_metric() -> None:
    for metric in METRICS:
        if metric.source == "conversations.parquet" and metric.unit == "ns":
            assert f"{metric.name}_ns" in TABLES["conversations"].names
    assert "connect_time" in HISTOGRAMS
    assert "connect_time_ns" in TABLES["connections"].names
    assert {f"conversations_{outcome}" for outcome in OUTCOMES} <= set(COUNTERS)
    assert set(COUNTERS) | set(GAUGES) <= set(TABLES["intervals"].names)


def test_durations_and_instants_carry_their_unit() -> None:
    for table, schema in TABLES.items():
        for field in schema:
            if any(word in field.name for word in ("ttft", "e2e", "tpot", "latency", "lag", "delay", "_at_", "stall_")):
                assert field.name.endswith("_ns"), f"{table}.{field.name}"


@pytest.mark.parametrize("compacted", [True, False], ids=["compacted", "raw"])
def test_a_directory_of_the_first_schema_is_read_with_what_it_has(tmp_path: Path, compacted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {name: schema_of(name, 1) for name in TABLES if name != "fairness"}
    with monkeypatch.context() as patch:
        for module in ("tables", "raw_file", "run_directory"):
            patch.setattr(f"loadtest.{module}.TABLES", first)
        patch.setattr("loadtest.run_directory.SCHEMA_VERSION", 1)
        patch.setattr("loadtest.tables.ADDED", {})
        run = RunDirectory.create(tmp_path / "run", {})
        writer = run.writer("w0")
        writer.append("intervals", {**{key: [3] for key in first["intervals"].names}, "worker": ["w0"]})
        writer.append(
            "conversations",
            {
                name: [None if f.nullable else "" if f.type == "string" else 4]
                for f in first["conversations"]
                for name in [f.name]
                if f.type != "bool"
            }
            | {"stop_crossed": [False], "tainted": [False]},
        )
        writer.end()
        if compacted:
            run.compact()
    run = RunDirectory.open(tmp_path / "run")
    for _ in range(2):
        intervals, conversations = run.table("intervals"), run.table("conversations", ["tokens", "stalls", "late_tokens"])
        assert intervals.schema.names == TABLES["intervals"].names
        assert intervals.select(["tokens", "stalls", "conversations_good"]).to_pylist() == [
            {"tokens": 3, "stalls": 0, "conversations_good": 0}
        ]
        assert conversations.to_pylist() == [{"tokens": 4, "stalls": None, "late_tokens": None}]
        assert run.table("fairness").num_rows == 0
        run.compact()  # a raw directory of the first schema can still be compacted
