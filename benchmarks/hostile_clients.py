"""A program that keeps a number of hostile connections going against a server of the reference protocol, until SIGTERM.

What each of them does is drawn from a seed, one thing after the other: none of it may crash the server, take its memory or
disturb the others. At the end a line of JSON says how often each was done.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from .client_wire import ACK_FRAME, PING, SWITCHED, masked, upgrade

PATIENCE_S: Final = 3.0
"""The longest that one of them goes on for."""
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Attacker:
    """One place among the hostile connections: attacks one after the other."""

    def __init__(self, host: str, port: int, seed: str, done: Counter[str]) -> None:
        self._host = host
        self._port = port
        self._draw = random.Random(seed)
        self._done = done
        self._kinds: dict[str, Callable[[Streams], Awaitable[None]]] = {
            "silent handshake": self._be_silent, "dripped handshake": self._drip, "garbage": self._send_garbage,
            "unmasked frame": self._send_unmasked, "endless length": self._announce_too_much, "bad utf-8": self._send_bad_text,
            "tiny fragments": self._send_fragments, "ping flood, never reading": self._flood_pings,
            "ack flood": self._flood_acks, "prompts that supersede": self._flood_prompts, "stop flood": self._flood_stops,
            "never acknowledging": self._never_acknowledge, "never reading": self._never_read, "reset in mid-answer": self._reset,
        }  # fmt: skip

    async def go_on(self) -> None:
        """Attack until cancelled."""
        while True:
            kind = self._draw.choice(list(self._kinds))
            try:
                async with asyncio.timeout(PATIENCE_S):
                    streams = await asyncio.open_connection(self._host, self._port, limit=2**16)
                    try:
                        await self._kinds[kind](streams)
                    finally:
                        streams[1].transport.abort()
            except (OSError, TimeoutError, EOFError):
                pass
            self._done[kind] += 1
            await asyncio.sleep(self._draw.random() * 0.05)

    async def _open(self, streams: Streams, query: str = "tokens=2000&gap_ms=1") -> None:
        streams[1].write(upgrade(f"{self._host}:{self._port}", f"/ws?{query}"))
        head = await streams[0].readuntil(b"\r\n\r\n")
        if not head.startswith(SWITCHED):
            raise EOFError

    async def _be_cut_off(self, streams: Streams) -> None:
        while await streams[0].read(65536):
            pass

    async def _be_silent(self, streams: Streams) -> None:
        streams[1].write(b"GET /ws HTTP/1.1\r\nHost: ")
        await self._be_cut_off(streams)

    async def _drip(self, streams: Streams) -> None:
        for byte in upgrade("localhost"):
            streams[1].write(bytes((byte,)))
            await asyncio.sleep(0.1)

    async def _send_garbage(self, streams: Streams) -> None:
        streams[1].write(self._draw.randbytes(4096))
        await self._be_cut_off(streams)

    async def _send_unmasked(self, streams: Streams) -> None:
        await self._open(streams)
        streams[1].write(b"\x81\x05token")
        await self._be_cut_off(streams)

    async def _announce_too_much(self, streams: Streams) -> None:
        await self._open(streams)
        streams[1].write(b"\x81\xff\x7f" + b"\xff" * 7 + b"\x00" * 64)
        await self._be_cut_off(streams)

    async def _send_bad_text(self, streams: Streams) -> None:
        await self._open(streams)
        streams[1].write(masked(b"\xc3\x28"))
        await self._be_cut_off(streams)

    async def _send_fragments(self, streams: Streams) -> None:
        await self._open(streams)
        streams[1].write(masked(b"a", 0x01) + masked(b"a", 0x00) * 5000)
        await self._be_cut_off(streams)

    async def _flood(self, streams: Streams, data: bytes, reading: bool) -> None:
        """Send ``data`` again and again for a while, as fast as the server takes it."""
        reader = asyncio.ensure_future(self._be_cut_off(streams)) if reading else None
        try:
            for _ in range(200):
                streams[1].write(data)
                await streams[1].drain()
                await asyncio.sleep(0.005)
        finally:
            if reader is not None:
                reader.cancel()

    async def _flood_pings(self, streams: Streams) -> None:
        await self._open(streams)
        streams[0]._transport.pause_reading()  # type: ignore[attr-defined]  # asyncio has no public way to leave data with the kernel
        await self._flood(streams, PING * 500, reading=False)

    async def _flood_acks(self, streams: Streams) -> None:
        await self._open(streams)
        await self._flood(streams, ACK_FRAME * 100, reading=True)

    async def _flood_prompts(self, streams: Streams) -> None:
        await self._open(streams)
        await self._flood(streams, masked(b"another prompt") * 10, reading=True)

    async def _flood_stops(self, streams: Streams) -> None:
        await self._open(streams)
        await self._flood(streams, (masked(b"prompt") + masked(b"stop") * 2) * 5, reading=True)

    async def _never_acknowledge(self, streams: Streams) -> None:
        await self._open(streams)
        streams[1].write(masked(b"prompt"))
        await self._be_cut_off(streams)

    async def _never_read(self, streams: Streams) -> None:
        await self._open(streams, "window=0&tokens=2000&gap_ms=0&token_bytes=1000")
        streams[0]._transport.pause_reading()  # type: ignore[attr-defined]
        streams[1].write(masked(b"prompt"))
        await asyncio.sleep(PATIENCE_S)

    async def _reset(self, streams: Streams) -> None:
        await self._open(streams)
        streams[1].write(masked(b"prompt") + ACK_FRAME * 5)
        await streams[0].read(64)
        # With no time to linger, closing is a reset.
        plain: socket.socket = streams[1].get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def attack(url: str, connections: int, seed: int) -> dict[str, int]:
    """Keep ``connections`` hostile ones going until SIGTERM; returns how often each thing was done."""
    where = urlsplit(url)
    done: Counter[str] = Counter()
    host, port = where.hostname or "127.0.0.1", where.port or 80
    tasks = [asyncio.ensure_future(Attacker(host, port, f"{seed}:{place}", done).go_on()) for place in range(connections)]
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    sys.stdout.write(f"attacking {url}\n")
    sys.stdout.flush()
    await over.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if broken := [task for task in tasks if not task.cancelled()]:
        raise RuntimeError("an attacker stopped by itself") from broken[0].exception()
    return dict(sorted(done.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile_clients", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    # Beside a generator on the same processor: what the attackers do must reach the server's figures, not the generator's clock.
    os.nice(19)
    sys.stdout.write(json.dumps(asyncio.run(attack(given.url, given.connections, given.seed))) + "\n")
