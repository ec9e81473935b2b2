"""A worker's record while the run lasts: rows appended as frames that check themselves, and read back as far as they are sound.

A frame has a length and a CRC-32, so that after a kill the good prefix is readable and what was lost is stated.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy.typing as npt
import pyarrow as pa

from .tables import SCHEMA_VERSION, TABLES, schema_of

_TABLE_NUMBERS = {name: number for number, name in enumerate(TABLES, start=1)}
_TABLE_NAMES = {number: name for name, number in _TABLE_NUMBERS.items()}
_END = 255
_MAGIC = b"SGf1"
_HEADER = struct.Struct("<4sBQI")
_PREFIX = struct.Struct("<BQ")
HEADER_BYTES = _HEADER.size


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
        append_whole(self._file, self.bytes_written, frame)
        self.bytes_written += len(frame)


def append_whole(file: BinaryIO, size_bytes: int, data: bytes) -> None:
    """Append ``data`` to an unbuffered file of ``size_bytes``, all of it or nothing: half a frame would hide every frame after it."""
    view = memoryview(data)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError:
        file.seek(size_bytes)
        file.truncate()
        raise


def has_ended(path: Path) -> bool:
    """Whether a raw file bears its end mark (cheap: reads the last header only)."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - HEADER_BYTES))
        return file.read() == _header(_END, b"")


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
            header = file.read(HEADER_BYTES)
            body = b""
            magic, number, length, _ = _HEADER.unpack(header) if len(header) == HEADER_BYTES else (b"", 0, 0, 0)
            sound = magic == _MAGIC and length <= size - state.offset - HEADER_BYTES and (number == _END or number in _TABLE_NAMES)
            if sound:
                body = file.read(length)
                sound = header == _header(number, body)
            if not sound:
                state.bad_offset, state.bad_bytes = state.offset, size - state.offset
                return
            state.offset += HEADER_BYTES + length
            state.frames += 1
            if number == _END:
                state.ended = True
                continue
            table = _TABLE_NAMES[number]
            yield table, pa.ipc.read_record_batch(pa.py_buffer(body), schema_of(table, version))
