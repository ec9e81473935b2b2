"""The file contract between measuring and judging: names, columns with units, schema version, writer and reader.

A run is a directory. ``run.json`` says what was run; ``raw/<worker>.frames`` holds the record while the run lasts; compaction turns
it into one Parquet file a table. A frame is self-checking (length and CRC-32), so that after a kill the good prefix is readable and
what was lost is stated. Column suffixes: ``_at_ns`` an instant in nanoseconds since the run's origin, ``_ns`` a duration in
nanoseconds, ``_bytes`` bytes; plain names are counts.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, BinaryIO

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = 2
# 1: first. 2: stalls, late tokens, good conversations, tokens of a message, fairness, late arrivals.

STATUSES = ("running", "complete", "degraded", "aborted", "failed")
"""``run.json`` status; everything but ``complete`` carries a banner in every output."""

_INT, _FLAG, _TEXT = pa.int64(), pa.bool_(), pa.string()


def _schema(required: Mapping[str, pa.DataType], optional: Mapping[str, pa.DataType] | None = None) -> pa.Schema:
    return pa.schema(
        [pa.field(name, kind, nullable=False) for name, kind in required.items()]
        + [pa.field(name, kind, nullable=True) for name, kind in (optional or {}).items()]
    )


COUNTERS = (
    "tokens", "messages", "coalesced", "unstamped", "acks_sent", "stops_sent",
    "conversations_started", "conversations_completed", "conversations_stopped", "conversations_empty",
    "conversations_failed", "conversations_abandoned", "conversations_tainted",
    "connects_attempted", "connects_succeeded", "connects_failed", "syn_retransmitted", "reconnects",
    "closed_clean", "closed_abnormal", "ghost_tokens", "double_ends", "clamped", "arrivals_due", "arrivals_dropped",
    "arrivals_late", "conversations_good", "stalls",
)  # fmt: skip
"""Columns of ``intervals`` that add up over workers and over rows of the same second."""
GAUGES = ("users", "opening", "open", "streaming")
"""Columns of ``intervals`` that add up over workers in the same second; a worker has one row with gauges a second."""

TABLES: dict[str, pa.Schema] = {
    "conversations": _schema(
        {
            "worker": _TEXT, "connection": _INT, "conversation": _INT, "users": _INT,
            "sent_at_ns": _INT, "tokens": _INT, "messages": _INT, "coalesced": _INT, "window": _INT, "received_bytes": _INT,
            "receive_lag_max_ns": _INT, "outcome": _TEXT, "stop_crossed": _FLAG, "tainted": _FLAG,
        },
        {
            "due_at_ns": _INT, "first_token_at_ns": _INT, "last_token_at_ns": _INT, "end_at_ns": _INT, "stop_sent_at_ns": _INT,
            "send_delay_ns": _INT, "ttft_ns": _INT, "ttft_due_ns": _INT, "e2e_ns": _INT, "e2e_due_ns": _INT, "tpot_ns": _INT,
            "longest_stall_ns": _INT, "stop_latency_ns": _INT, "overrun_tokens": _INT,
            "error": _TEXT, "error_detail": _TEXT, "taint": _TEXT, "stalls": _INT, "late_tokens": _INT,
        },
    ),
    "connections": _schema(
        {
            "worker": _TEXT, "connection": _INT, "user": _INT, "opened_at_ns": _INT, "attempt": _INT, "conversations": _INT,
            "outcome": _TEXT, "syn_retransmitted": _FLAG,
        },
        {
            "tcp_ns": _INT, "tls_ns": _INT, "upgrade_ns": _INT, "connect_time_ns": _INT, "closed_at_ns": _INT, "close_code": _INT,
            "closed_by": _TEXT, "clock": _TEXT, "error": _TEXT, "error_detail": _TEXT,
        },
    ),
    "intervals": _schema(
        {"worker": _TEXT, "second": _INT, **dict.fromkeys(COUNTERS, _INT)},
        {
            **dict.fromkeys(GAUGES, _INT), "covered_ns": _INT, "cpu_ns": _INT, "rss_bytes": _INT, "loop_lag_max_ns": _INT,
            "receive_lag_max_ns": _INT, "clock_step_ns": _INT, "server_open": _INT, "server_streaming": _INT,
            "server_tokens": _INT, "server_cpu_ns": _INT, "server_rss_bytes": _INT,
        },
    ),
    "histograms": _schema(
        {
            "worker": _TEXT, "second": _INT, "metric": _TEXT, "tainted": _FLAG, "index": pa.list_(pa.int32()),
            "count": pa.list_(_INT), "total": _INT, "minimum": _INT, "maximum": _INT,
        }
    ),
    "tokens": _schema(
        {
            "worker": _TEXT, "connection": _INT, "conversation": _INT, "sequence": _INT, "arrival_at_ns": _INT, "read_at_ns": _INT,
            "coalesced": _FLAG,
        },
        {"text": _TEXT, "tokens": _INT},
    ),
    "fairness": _schema(
        {"worker": _TEXT, "second": _INT, "length_s": _INT, "conversations": _INT, "served": _INT, "tokens": _INT, "tokens_squared": _INT}
    ),
}  # fmt: skip
"""Every table's columns. ``connections.outcome``: clean, abnormal, failed (never opened), abandoned (cut while opening).

``tokens`` is written on request only."""

ADDED: dict[int, dict[str, tuple[str, ...]]] = {
    2: {
        "conversations": ("stalls", "late_tokens"), "intervals": ("arrivals_late", "conversations_good", "stalls"), "tokens": ("tokens",),
        "fairness": tuple(TABLES["fairness"].names),
    },
}  # fmt: skip
"""Columns that came with each schema version. Read from an older run they are null, or 0 where they may not be null."""


def schema_of(table: str, version: int = SCHEMA_VERSION) -> pa.Schema:
    """The columns of a table as that version of the schema wrote them."""
    later = {name for since, tables in ADDED.items() if since > version for name in tables.get(table, ())}
    return pa.schema([field for field in TABLES[table] if field.name not in later])


def _completed(name: str, table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The table with the columns that its version did not know yet."""
    for column in columns:
        if column not in table.column_names:
            field = TABLES[name].field(column)
            empty = pa.nulls(table.num_rows, field.type) if field.nullable else pa.array([0] * table.num_rows, type=field.type)
            table = table.append_column(field, empty)
    return table.select(list(columns))


_TABLE_NUMBERS = {name: number for number, name in enumerate(TABLES, start=1)}
_TABLE_NAMES = {number: name for name, number in _TABLE_NUMBERS.items()}
_END = 255
_MAGIC = b"SGf1"
_HEADER = struct.Struct("<4sBQI")
_PREFIX = struct.Struct("<BQ")
HEADER_BYTES = _HEADER.size


class RunDirectoryError(Exception):
    """The directory is not a run this version can read or write; the message says what to do."""


@dataclass(slots=True)
class RawFile:
    """What one worker's raw file holds: whether it ended properly, and how many bytes at the end were no good frame."""

    worker: str
    ended: bool = False
    offset: int = 0
    frames: int = 0
    bad_offset: int | None = None
    bad_bytes: int = 0


class RawWriter:
    """Appends record batches of one worker to its raw file; each ``append`` is one write, so a kill costs at most that batch."""

    def __init__(self, directory: Path, worker: str) -> None:
        path = directory / "raw" / f"{worker}.frames"
        path.parent.mkdir(parents=True, exist_ok=True)
        # "x": two processes that believe to be the same worker must not share a file.
        self._file: BinaryIO = path.open("xb", buffering=0)
        self.path = path
        self.bytes_written = 0

    def append(self, table: str, columns: Mapping[str, Sequence[Any] | npt.NDArray[Any]]) -> None:
        """Append rows given column by column; absent nullable columns become null. OSError when the disk is full."""
        schema = TABLES[table]
        length = len(next(iter(columns.values()), ()))
        if length == 0:
            return
        if unknown := set(columns) - set(schema.names):
            raise ValueError(f"table {table!r} has no column {', '.join(sorted(unknown))}")
        arrays = [pa.array(columns[f.name], type=f.type) if f.name in columns else _absent(table, f, length) for f in schema]
        self._write(_TABLE_NUMBERS[table], pa.record_batch(arrays, schema=schema).serialize())

    def end(self) -> None:
        """Mark the file as complete, force it to disk and close it; a second call does nothing."""
        if not self._file.closed:
            self._write(_END, b"")
            os.fsync(self._file.fileno())
            self._file.close()

    def _write(self, number: int, payload: bytes | pa.Buffer) -> None:
        body = memoryview(payload).cast("B") if not isinstance(payload, bytes) else memoryview(payload)
        frame = _header(number, body) + bytes(body)
        view = memoryview(frame)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError:
            # Half a frame would hide every frame after it.
            self._file.seek(self.bytes_written)
            self._file.truncate()
            raise
        self.bytes_written += len(frame)


def _header(number: int, body: bytes | memoryview) -> bytes:
    """A frame's header; the checksum covers table number and length too, or a flipped bit would send rows to another table."""
    return _HEADER.pack(_MAGIC, number, len(body), zlib.crc32(body, zlib.crc32(_PREFIX.pack(number, len(body)))))


def frame_bytes(header: bytes) -> int:
    """How many bytes the frame has that begins with ``header`` (``HEADER_BYTES`` of them); ValueError when no frame begins so."""
    magic, number, length, _ = _HEADER.unpack(header) if len(header) == HEADER_BYTES else (b"", 0, 0, 0)
    if magic != _MAGIC or not (number == _END or number in _TABLE_NAMES):
        raise ValueError("expected the header of a frame")
    return HEADER_BYTES + int(length)


def sound_bytes(data: bytes) -> int:
    """How many bytes of ``data``, from its start, are whole frames with the right checksum."""
    view, offset = memoryview(data), 0
    while offset < len(data):
        header = bytes(view[offset : offset + HEADER_BYTES])
        try:
            end = offset + frame_bytes(header)
        except ValueError:
            break
        if end > len(data) or header != _header(header[len(_MAGIC)], view[offset + HEADER_BYTES : end]):
            break
        offset = end
    return offset


def warm_up() -> None:
    """Let happen now what the first write would otherwise wait for: pyarrow then imports pandas, for a third of a second."""
    pa.array([0])


def _absent(table: str, field: pa.Field, length: int) -> pa.Array:
    if not field.nullable:
        raise ValueError(f"table {table!r} needs column {field.name!r}")
    return pa.nulls(length, field.type)


def read_frames(path: Path, state: RawFile, version: int = SCHEMA_VERSION) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yield (table, batch) of a raw file's good prefix from ``state.offset`` on, and note in ``state`` how it ended and what was lost.

    Called again with the same state it goes on where it stopped, so that a growing file can be followed. ``version`` is the schema's,
    as run.json states it.
    """
    size = path.stat().st_size
    state.bad_offset, state.bad_bytes = None, 0
    with path.open("rb") as file:
        file.seek(state.offset)
        while state.offset < size:
            header = file.read(_HEADER.size)
            body = b""
            magic, number, length, _ = _HEADER.unpack(header) if len(header) == _HEADER.size else (b"", 0, 0, 0)
            sound = magic == _MAGIC and length <= size - state.offset - _HEADER.size and (number == _END or number in _TABLE_NAMES)
            if sound:
                body = file.read(length)
                sound = header == _header(number, body)
            if not sound:
                state.bad_offset, state.bad_bytes = state.offset, size - state.offset
                return
            state.offset += _HEADER.size + length
            state.frames += 1
            if number == _END:
                state.ended = True
                continue
            table = _TABLE_NAMES[number]
            yield table, pa.ipc.read_record_batch(pa.py_buffer(body), schema_of(table, version))


@dataclass(slots=True)
class RunDirectory:
    """One run on disk: its metadata, its raw files while it lasts, its tables afterwards."""

    path: Path
    raw_files: list[RawFile] = dataclass_field(default_factory=list)

    @classmethod
    def create(cls, path: Path, metadata: Mapping[str, Any]) -> RunDirectory:
        """Make a new run directory; RunDirectoryError when it exists already or cannot be written."""
        if os.path.lexists(path):
            raise RunDirectoryError(f"expected a new run directory, but {path} exists; choose another --run-dir or remove it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            (path / "raw").mkdir()
        except OSError as error:
            raise RunDirectoryError(f"cannot write the run directory {path}: {error.strerror}; choose a writable folder") from None
        run = cls(path)
        run.write_metadata({"schema_version": SCHEMA_VERSION, "status": "running", **metadata})
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open an existing run directory; RunDirectoryError when it is none or of a newer schema."""
        run = cls(path)
        version = run.metadata().get("schema_version")
        if not isinstance(version, int) or version < 1:
            raise RunDirectoryError(f"expected a schema_version in {path / 'run.json'}, found {version!r}; this is not a run directory")
        if version > SCHEMA_VERSION:
            raise RunDirectoryError(
                f"{path} was written with schema {version}, this version reads up to {SCHEMA_VERSION}; use the version that wrote it, "
                "or a newer one"
            )
        return run

    def version(self) -> int:
        """The version of the schema that the run was written with."""
        return int(self.metadata().get("schema_version") or SCHEMA_VERSION)

    def metadata(self) -> dict[str, Any]:
        """The contents of run.json."""
        try:
            loaded = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunDirectoryError(f"expected a run directory with run.json, but {self.path} has none") from None
        except NotADirectoryError:
            raise RunDirectoryError(f"expected a run directory, but {self.path} is a file") from None
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"cannot read {self.path / 'run.json'}: {error}") from None
        if not isinstance(loaded, dict):
            raise RunDirectoryError(f"expected an object in {self.path / 'run.json'}, found {type(loaded).__name__}")
        return loaded

    def write_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replace run.json in one step."""
        write_text(self.path / "run.json", json.dumps(metadata, indent=2, ensure_ascii=False) + "\n")

    def update_metadata(self, **changes: Any) -> dict[str, Any]:
        """Set top-level keys of run.json and return the whole."""
        metadata = {**self.metadata(), **changes}
        self.write_metadata(metadata)
        return metadata

    def writer(self, worker: str) -> RawWriter:
        """The raw file of ``worker``, which must not have one yet."""
        return RawWriter(self.path, worker)

    def workers_ended(self) -> dict[str, bool]:
        """Which workers have a raw file, and whether it bears its end mark (cheap: reads the last header only)."""
        ended = {}
        for path in sorted((self.path / "raw").glob("*.frames")):
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _HEADER.size))
                ended[path.stem] = file.read() == _header(_END, b"")
        return ended

    def compact(self) -> list[RawFile]:
        """Turn the raw files into one Parquet file a table, then drop them; returns how each worker's file ended.

        Each Parquet file is written aside, synced and renamed; the raw files go only after all tables stand. Killed at any point, or
        failed (OSError; the raw files are untouched), it can be called again; a compacted directory is left alone (empty list).
        """
        folder = self.path / "raw"
        raw = sorted(folder.glob("*.frames"))
        # Once some raw files are dropped, the others must never be taken for the whole record.
        standing = folder / "compacted"
        if standing.exists():
            states = [RawFile(**state) for state in json.loads(standing.read_text(encoding="utf-8"))]
        elif not folder.is_dir() or (not raw and (self.path / "intervals.parquet").exists()):
            return []
        else:
            states = self._write_tables(raw)
            write_text(standing, json.dumps([asdict(state) for state in states]))
        for path in raw:
            path.unlink()
        standing.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
        self.raw_files = states
        return states

    def _write_tables(self, raw: Sequence[Path]) -> list[RawFile]:
        states, version = [RawFile(path.stem) for path in raw], self.version()
        writers: dict[str, pq.ParquetWriter] = {}
        temporary = {table: self.path / f".{table}.parquet.partial" for table in TABLES}
        pending: dict[str, list[pa.RecordBatch]] = {table: [] for table in TABLES}
        rows, held = dict.fromkeys(TABLES, 0), dict.fromkeys(TABLES, 0)
        closing = ExitStack()

        def flush(table: str) -> None:
            if table not in writers:
                writers[table] = pq.ParquetWriter(temporary[table], TABLES[table], compression="zstd")
                closing.callback(writers[table].close)
            if pending[table]:
                whole = pa.Table.from_batches(pending[table], schema_of(table, version))
                writers[table].write_table(_completed(table, whole, TABLES[table].names).combine_chunks())
            pending[table], rows[table], held[table] = [], 0, 0

        try:
            with closing:
                for path, state in zip(raw, states, strict=True):
                    for table, batch in read_frames(path, state, version):
                        pending[table].append(batch)
                        rows[table] += batch.num_rows
                        held[table] += batch.nbytes
                        # Row groups of this size keep the memory of a long run's compaction flat; a row of histograms is long.
                        if rows[table] >= 1 << 18 or held[table] >= 1 << 25:
                            flush(table)
                for table in TABLES:
                    if table != "tokens" or pending[table] or table in writers:
                        flush(table)
            for table in writers:
                _sync(temporary[table])
            for table in writers:
                temporary[table].replace(self.path / f"{table}.parquet")
            _sync(self.path)
        except BaseException:
            # On a full disk what is half written would be in the way of everything else.
            for path in temporary.values():
                path.unlink(missing_ok=True)
            raise
        return states

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One table, from its Parquet file or, before compaction, from the good prefix of the raw files (see ``raw_files``)."""
        parquet = self.path / f"{name}.parquet"
        wanted = list(columns or TABLES[name].names)
        if parquet.exists():
            stored = set(pq.read_schema(parquet).names)
            return _completed(name, pq.read_table(parquet, columns=[column for column in wanted if column in stored]), wanted)
        version = self.version()
        batches: list[pa.RecordBatch] = []
        self.raw_files = []
        for path in sorted((self.path / "raw").glob("*.frames")):
            state = RawFile(path.stem)
            self.raw_files.append(state)
            batches += [batch for table, batch in read_frames(path, state, version) if table == name]
        return _completed(name, pa.Table.from_batches(batches, schema_of(name, version)), wanted)


def _sync(path: Path) -> None:
    """Force a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: readers see the old text or the new, never half."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
