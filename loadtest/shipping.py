"""A worker's record on its way to the master: numbered chunks, each sent until it is acknowledged. No channel and no clock of its own.

The worker's raw file is cut at frames, so that the master's copy is readable at any instant. Chunk 0 says who the worker is; the last
one says how its record ended. The master appends what comes in order and acknowledges the number it waits for next; whatever it has
already is acknowledged again and not appended. A chunk bears the run's token: what does not, or was damaged on its way, is refused.
"""

from __future__ import annotations

import hmac
import json
import os
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .raw_file import HEADER_BYTES, append_whole, frame_bytes, sound_bytes
from .run_directory import RunDirectory

CHUNK_BYTES = 256 * 1024
"""What a chunk holds at most, unless a single frame is larger."""
WINDOW = 8
"""How many chunks of one worker may be under way."""
RESEND_S, RESEND_LIMIT_S = 1.0, 8.0
"""After how long without an acknowledgement the oldest chunk is sent again; doubled each time, up to the limit."""


class Refused(Exception):  # noqa: N818 - what is refused is the sender's error, not ours
    """A message that no worker of this run can have sent; the argument says in a word or two why."""


@dataclass(slots=True)
class Chunk:
    """One chunk under way: where it lies in the raw file, when it was sent last (s) and how often."""

    number: int
    offset: int
    length: int
    last: bool
    sent_at_s: float = 0.0
    tries: int = 0


class Shipment:
    """One worker's record of one run, as the worker sends it: ``due`` gives what to send now, ``acknowledged`` takes the answers.

    ``information`` describes the worker and goes with the first chunk. The bytes stay in the file: memory does not grow with what is
    unacknowledged.
    """

    def __init__(self, path: Path, run: str, token: str, worker: str, information: Mapping[str, Any]) -> None:
        self.refused: str | None = None
        self.acknowledged_bytes = 0
        self._file: BinaryIO = path.open("rb")
        self._common = {"run": run, "token": token, "worker": worker}
        self._information = {0: dict(information)}
        self._under_way: deque[Chunk] = deque([Chunk(0, 0, 0, False)])
        self._next = 1
        self._cut_bytes = 0
        self._complete = False
        self._last_cut = False

    @property
    def done(self) -> bool:
        """Whether everything up to the last chunk has been acknowledged."""
        return self._last_cut and not self._under_way

    @property
    def under_way(self) -> int:
        """How many chunks wait for their acknowledgement."""
        return len(self._under_way)

    def complete(self, information: Mapping[str, Any]) -> None:
        """Nothing more will be written; ``information`` describes the worker and how its record ended, and goes with the last chunk."""
        self._complete = True
        self._information[-1] = dict(information)

    def due(self, written_bytes: int, now_s: float) -> Iterator[dict[str, Any]]:
        """Yield the messages to send now: new chunks of what has been written, and the oldest one again when its time is over."""
        while len(self._under_way) < WINDOW and (chunk := self._cut(written_bytes)) is not None:
            self._under_way.append(chunk)
        for chunk in list(self._under_way):
            again = chunk is self._under_way[0] and now_s - chunk.sent_at_s >= min(RESEND_LIMIT_S, RESEND_S * 2 ** (chunk.tries - 1))
            if not chunk.tries or again:
                chunk.sent_at_s, chunk.tries = now_s, chunk.tries + 1
                yield self._message(chunk, written_bytes)

    def acknowledged(self, message: Mapping[str, Any]) -> bool:
        """Take an answer of the master; whether it brought anything new."""
        if message.get("run") != self._common["run"] or not isinstance(message.get("next"), int):
            return False
        if message.get("failed"):
            self.refused = str(message["failed"])
        fresh = False
        while self._under_way and self._under_way[0].number < message["next"]:
            self.acknowledged_bytes += self._under_way.popleft().length
            fresh = True
        return fresh

    def close(self) -> None:
        """Close the file; idempotent."""
        self._file.close()

    def _cut(self, written_bytes: int) -> Chunk | None:
        """The next chunk of what is written and not cut yet, at the end of a frame; None when there is none."""
        if self._last_cut:
            return None
        length = 0
        while self._cut_bytes + length < written_bytes:
            self._file.seek(self._cut_bytes + length)
            try:
                frame = frame_bytes(self._file.read(HEADER_BYTES))
            except ValueError:
                break  # the disk gave back something else than was written: what stands behind it cannot be read either
            if length and length + frame > CHUNK_BYTES:
                break
            length += frame
            if length > CHUNK_BYTES:
                break
        last = self._complete and (length == 0 or self._cut_bytes + length == written_bytes)
        if not length and not last:
            return None
        chunk = Chunk(self._next, self._cut_bytes, length, last)
        self._next, self._cut_bytes, self._last_cut = self._next + 1, self._cut_bytes + length, last
        return chunk

    def _message(self, chunk: Chunk, written_bytes: int) -> dict[str, Any]:
        self._file.seek(chunk.offset)
        data = self._file.read(chunk.length)
        return {
            **self._common, "number": chunk.number, "offset": chunk.offset, "data": data, "checksum": zlib.crc32(data),
            "written": written_bytes, "last": chunk.last, "information": self._information.get(-1 if chunk.last else chunk.number),
        }  # fmt: skip


@dataclass(slots=True)
class Copy:
    """What the master has of one worker's record; ``written_bytes`` is what the worker has written, as far as it has said."""

    next: int = 0
    size_bytes: int = 0
    written_bytes: int = 0
    whole: bool = False
    again: int = 0
    file: BinaryIO | None = None
    information: dict[str, Any] | None = None


class Intake:
    """Takes the chunks of all workers of one run into its directory; ``failed`` says why nothing can be written any more."""

    def __init__(self, directory: RunDirectory, run: str, token: str) -> None:
        self.directory = directory
        self.run = run
        self.failed: str | None = None
        self.copies: dict[str, Copy] = {}
        self._token = token

    def take(self, sender: str, message: object) -> dict[str, Any]:
        """Append what ``sender`` (the worker's name, as the channel knows it) sent, and return the answer; Refused when it is no chunk."""
        chunk = self._checked(sender, message)
        copy = self.copies.setdefault(sender, Copy())
        copy.written_bytes = max(copy.written_bytes, chunk["written"])
        if chunk["number"] < copy.next:
            copy.again += 1
        elif chunk["number"] == copy.next and self.failed is None:
            if chunk["offset"] != copy.size_bytes:
                raise Refused("wrong offset")
            try:
                self._append(sender, copy, chunk)
            except OSError as error:
                self.failed = str(error.strerror or error)
        return {"run": self.run, "worker": sender, "next": copy.next, "failed": self.failed}

    def close(self) -> None:
        """Close every file; idempotent."""
        for copy in self.copies.values():
            if copy.file is not None:
                copy.file.close()

    def _checked(self, sender: str, message: object) -> Mapping[str, Any]:
        kinds = {"run": str, "token": str, "worker": str, "number": int, "offset": int, "data": bytes, "checksum": int, "written": int}
        if not isinstance(message, dict) or any(type(message.get(name)) is not kind for name, kind in kinds.items()):
            raise Refused("no chunk")
        if message["run"] != self.run or not hmac.compare_digest(message["token"].encode(), self._token.encode()):
            raise Refused("another run's token")
        if message["worker"] != sender:
            raise Refused("another worker's name")
        if not isinstance(message.get("information"), dict | None) or type(message.get("last")) is not bool:
            raise Refused("no chunk")
        data = message["data"]
        if zlib.crc32(data) != message["checksum"] or sound_bytes(data) != len(data):
            raise Refused("damaged")
        return message

    def _append(self, worker: str, copy: Copy, chunk: Mapping[str, Any]) -> None:
        raw = self.directory.path / "raw"
        if copy.file is None:
            copy.file = (raw / f"{worker}.frames").open("xb", buffering=0)
        append_whole(copy.file, copy.size_bytes, chunk["data"])
        if chunk["information"] is not None:
            copy.information = {**(copy.information or {}), **chunk["information"], "worker": worker}
            (raw / f"{worker}.json").write_text(json.dumps(copy.information), encoding="utf-8")
        copy.next, copy.size_bytes = copy.next + 1, copy.size_bytes + len(chunk["data"])
        if chunk["last"]:
            os.fsync(copy.file.fileno())
            copy.file.close()
            copy.whole = True
