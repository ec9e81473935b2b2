"""A network between two programs of this machine: ``python -m benchmarks.fault_proxy --to HOST:PORT`` with latency, jitter, bandwidth,
slices, resets and slow closes. On loopback, so that it costs no one else anything.

What it can do to a connection is what a long way does to its bytes: they come later, never out of order. It is two TCP connections, not
one: retransmission, congestion and the sharing of segments by data and acknowledgements are those of loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TextIO

READ_BYTES: Final = 64 * 1024
IN_FLIGHT_BYTES: Final = 4 * 1024 * 1024
"""Bytes on the way in one direction before the sender has to wait: more than bandwidth times delay of anything measured here."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What the way does to the bytes. ``rtt_ms`` is halved over the directions; ``jitter_ms`` is the most that is added, drawn evenly;
    0 means not at all for all of them. ``reset_after_bytes`` counts towards the client; ``slow_close_ms`` delays every end of file."""

    rtt_ms: float = 0.0
    jitter_ms: float = 0.0
    bandwidth_bytes_per_s: float = 0.0
    slice_bytes: int = 0
    reset_after_bytes: int = 0
    slow_close_ms: float = 0.0
    seed: int = 1


class Cut(Exception):  # noqa: N818 - it is asked for
    """The way breaks here."""


class Way:
    """One direction of one connection: pieces of bytes with the instants at which they arrive."""

    def __init__(self, faults: Faults, rng: random.Random) -> None:
        self._faults = faults
        self._rng = rng
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._last_s = self._sent_s = 0.0
        self._in_flight = 0
        self.passed_bytes = 0
        self.ended_ns = 0

    def put(self, data: bytes, now_s: float) -> None:
        """Send bytes on their way; empty bytes are the end."""
        faults = self._faults
        size = faults.slice_bytes or len(data) or 1
        for start in range(0, len(data) or 1, size):
            piece = data[start : start + size]
            # The line takes its time for each byte before the next one can go.
            begin_s = max(now_s, self._sent_s)
            self._sent_s = begin_s + (len(piece) / faults.bandwidth_bytes_per_s if faults.bandwidth_bytes_per_s else 0.0)
            late_s = faults.rtt_ms / 2000 + (self._rng.random() * faults.jitter_ms / 1000 if faults.jitter_ms else 0.0)
            if not piece:
                late_s += faults.slow_close_ms / 1000
            # Never out of order: what was lucky waits for what was not.
            self._last_s = max(self._last_s, self._sent_s + late_s)
            self._pieces.append((self._last_s, piece))
            self._in_flight += len(piece)
        self._wake.set()

    async def read_from(self, reader: asyncio.StreamReader) -> None:
        """Take everything from one side, to its end."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await reader.read(READ_BYTES)
            except ConnectionError:
                data = b""
            if not data:
                self.ended_ns = time.monotonic_ns()
            self.put(data, loop.time())
            if not data:
                return
            while self._in_flight > IN_FLIGHT_BYTES:
                self._room.clear()
                await self._room.wait()

    async def write_to(self, writer: asyncio.StreamWriter) -> None:
        """Let arrive what is due, to the end; raises `Cut` where the way is to break. Who has gone meanwhile gets nothing more, and the
        other side learns of it when the news has travelled."""
        loop = asyncio.get_running_loop()
        limit = self._faults.reset_after_bytes
        while True:
            while not self._pieces:
                self._wake.clear()
                await self._wake.wait()
            due_s, piece = self._pieces.popleft()
            if (wait_s := due_s - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            if not piece:
                if writer.can_write_eof() and not writer.is_closing():
                    writer.write_eof()
                return
            self._in_flight -= len(piece)
            self._room.set()
            if writer.is_closing():
                continue
            writer.write(piece)
            self.passed_bytes += len(piece)
            if limit and self.passed_bytes >= limit:
                raise Cut
            try:
                await writer.drain()
            except ConnectionError:
                writer.close()


class FaultProxy:
    """Accepts connections and carries them to ``host:port`` as ``faults`` say; a line of JSON for each that has ended goes to ``log``.

    A line: opened_ns, client_ended_ns, server_ended_ns (monotonic clock, 0 if that side did not end by itself), up_bytes, down_bytes,
    reset.
    """

    def __init__(self, host: str, port: int, faults: Faults, log: TextIO | None = None) -> None:
        self._to = host, port
        self._faults = faults
        self._log = log
        self._number = 0
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> int:
        """Listen on 127.0.0.1; returns the port."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", port, backlog=1024)
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    def close(self) -> None:
        """Accept nobody any more."""
        if self._server is not None:
            self._server.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened_ns = time.monotonic_ns()
        self._number += 1
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._to)
        except OSError:
            writer.transport.abort()
            return
        for each in (writer, server_writer):
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        up = Way(replace(self._faults, reset_after_bytes=0), random.Random(f"{self._faults.seed}/{self._number}/up"))
        down = Way(self._faults, random.Random(f"{self._faults.seed}/{self._number}/down"))
        tasks = [
            asyncio.create_task(work)
            for work in (up.read_from(reader), up.write_to(server_writer), down.read_from(server_reader), down.write_to(writer))
        ]
        done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        reset = any(task.exception() is not None for task in done)
        for task in left:
            task.cancel()
        for each in (writer, server_writer):
            if reset:
                # With data unread, or lingering for no time, closing is a reset.
                each.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                each.transport.abort()
            else:
                each.close()
        if self._log is not None:
            line = {
                "opened_ns": opened_ns, "client_ended_ns": up.ended_ns, "server_ended_ns": down.ended_ns,
                "up_bytes": up.passed_bytes, "down_bytes": down.passed_bytes, "reset": reset,
            }  # fmt: skip
            self._log.write(json.dumps(line) + "\n")
            self._log.flush()


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fault_proxy", description="A network on loopback.", allow_abbrev=False)
    add = parser.add_argument
    add("--to", required=True, metavar="HOST:PORT", help="where connections are carried to")
    add("--port", type=int, default=0, metavar="N", help="where to listen on 127.0.0.1; 0 picks a free port")
    add("--rtt-ms", type=_amount, default=0.0, metavar="MS", help="round trip, half in each direction")
    add("--jitter-ms", type=_amount, default=0.0, metavar="MS", help="at most so much more, drawn for each piece")
    add("--bandwidth-bytes-per-s", type=_amount, default=0.0, metavar="N", help="of each direction of each connection; 0: no limit")
    add("--slice-bytes", type=int, default=0, metavar="N", help="pieces of at most this size; 0: as they come")
    add("--reset-after-bytes", type=int, default=0, metavar="N", help="reset a connection after so many bytes to the client; 0: never")
    add("--slow-close-ms", type=_amount, default=0.0, metavar="MS", help="an end of file takes so much longer")
    add("--seed", type=int, default=1, metavar="N", help="of the jitter")
    add("--log", type=Path, metavar="FILE", help="a line of JSON for each connection that has ended")
    return parser


def _amount(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e12:
        raise argparse.ArgumentTypeError(f"expected 0 or more, not {text}")
    return value


async def _serve(proxy: FaultProxy, port: int) -> None:
    listening = await proxy.start(port)
    sys.stdout.write(f"listening on 127.0.0.1:{listening}\n")
    sys.stdout.flush()
    leave = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, leave.set)
    await leave.wait()
    proxy.close()


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop whose timers are exact: epoll rounds up to whole milliseconds, select does not (and knows 1 024 descriptors)."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry connections until told to leave."""
    given = build_parser().parse_args(arguments)
    host, _, port = given.to.rpartition(":")
    faults = Faults(**{name: getattr(given, name) for name in Faults.__dataclass_fields__})
    log = given.log.open("a", encoding="ascii") if given.log is not None else None
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(_serve(FaultProxy(host, int(port), faults, log), given.port))
    finally:
        if log is not None:
            log.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
