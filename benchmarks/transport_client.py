"""One transport, measured from the client: ``python -m benchmarks.transport_client URL TRANSPORT WHAT``; prints a line of JSON.

Every transport by the same library (aiohttp), so that the transports are compared and not their clients. Started by
``python -m benchmarks transports``; its server is ``python -m server.fastapi_app``, which has them all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import aiohttp

TRANSPORTS: Final = ("ws-ack", "ws-window", "ws-no-ack", "ws-deflate", "sse", "long-poll", "poll")
WINDOWS: Final = {"ws-ack": 1, "ws-window": 8, "ws-no-ack": 0, "ws-deflate": 0}
POLL_S: Final = 0.1
LONG_POLL_S: Final = 10.0
END: Final = "_end_"
HEADER_BYTES: Final = 20 + 20 + 12
"""Of a segment: IPv4, TCP, and the time stamps that Linux puts into each."""
TCP_INFO_BYTES: Final = 256


class Counts:
    """What a socket has carried, by the kernel (tcp_info, linux/tcp.h): bytes of TCP's payload and segments, sent and received."""

    def __init__(self, carrier: socket.socket | None = None) -> None:
        self.sent_bytes = self.received_bytes = self.segments = 0
        if carrier is not None:
            info = carrier.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
            (self.received_bytes,) = struct.unpack_from("<Q", info, 128)
            self.segments = sum(struct.unpack_from("<II", info, 136))
            (self.sent_bytes,) = struct.unpack_from("<Q", info, 200)

    def since(self, before: Counts) -> dict[str, int]:
        """What has come since, and what it was with TCP and IP around it."""
        sent, received = self.sent_bytes - before.sent_bytes, self.received_bytes - before.received_bytes
        segments = self.segments - before.segments
        return {
            "sent_bytes": sent, "received_bytes": received, "segments": segments,
            "wire_bytes": sent + received + segments * HEADER_BYTES,
        }  # fmt: skip


class Conversation(Protocol):
    """One connection by one transport."""

    carrier: socket.socket | None

    async def begin(self, query: str) -> None:
        """Ask for an answer; tokens can be read from now on."""

    def tokens(self) -> AsyncIterator[list[str]]:
        """Yield the tokens as they come, several where they come together, to the answer's end."""

    async def stop(self) -> None:
        """Stop, and wait to be told so, where the transport can tell."""


class Socket:
    """WebSocket: the parameters are the connection's, so that it is opened before the clock starts."""

    def __init__(self, session: aiohttp.ClientSession, url: str, transport: str) -> None:
        self._session, self._url = session, url
        self._window = WINDOWS[transport]
        self._compress = 15 if transport == "ws-deflate" else 0
        self._websocket: aiohttp.ClientWebSocketResponse
        self.carrier: socket.socket | None = None

    async def open(self, query: str) -> None:
        """Open the connection for answers as in ``query``."""
        url = f"{self._url}/ws?{query}&window={self._window}"
        self._websocket = await self._session.ws_connect(url, compress=self._compress, autoping=True)

    async def begin(self, query: str) -> None:
        """Send the prompt."""
        await self._websocket.send_str("prompt")

    async def tokens(self) -> AsyncIterator[list[str]]:
        """Yield tokens, each acknowledged where that is asked for."""
        acknowledge = self._window > 0
        while (text := await self._websocket.receive_str()) != END:
            if acknowledge:
                await self._websocket.send_str("")
            yield [text]

    async def stop(self) -> None:
        """Say stop, and read to the end."""
        await self._websocket.send_str("stop")
        while await self._websocket.receive_str() != END:
            pass


class Events:
    """Server-sent events: a response that goes on; stopping is closing, of which nothing comes back."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url
        self._response: aiohttp.ClientResponse
        self.carrier: socket.socket | None = None

    async def open(self, query: str) -> None:
        """Open a connection, so that its opening is not counted."""
        await _warm(self._session, self._url)

    async def begin(self, query: str) -> None:
        """Send the request; its response is read by `tokens`."""
        self._response = await self._session.get(f"{self._url}/sse?prompt=prompt&{query}", headers={"Accept": "text/event-stream"})

    async def tokens(self) -> AsyncIterator[list[str]]:
        """Yield the data of each event."""
        lines: list[str] = []
        async for raw in self._response.content:
            line = raw.decode().rstrip("\n")
            if line.startswith("data: "):
                lines.append(line[6:])
            elif line == "event: end":
                return
            elif not line and lines:
                yield ["\n".join(lines)]
                lines = []

    async def stop(self) -> None:
        """Close the connection."""
        self._response.close()


class Polls:
    """Polling: a request for what there is, again and again; the long one waits at the server until there is something."""

    def __init__(self, session: aiohttp.ClientSession, url: str, *, waits: bool) -> None:
        self._session, self._url, self._waits = session, url, waits
        self._answer = ""
        self.carrier: socket.socket | None = None

    async def open(self, query: str) -> None:
        """Open a connection, so that its opening is not counted."""
        await _warm(self._session, self._url)

    async def begin(self, query: str) -> None:
        """Start the answer."""
        async with self._session.post(f"{self._url}/answers?{query}", data=b"prompt") as response:
            self._answer = f"{self._url}/answers/{(await response.json())['id']}"

    async def tokens(self) -> AsyncIterator[list[str]]:
        """Yield what each poll brings."""
        heard, wait = 0, f"&wait_s={LONG_POLL_S:g}" if self._waits else ""
        while True:
            asked_s = time.monotonic()
            async with self._session.get(f"{self._answer}?after={heard}{wait}") as response:
                said = await response.json()
            if said["tokens"]:
                heard += len(said["tokens"])
                yield said["tokens"]
            if said["ended"]:
                return
            if not self._waits:
                await asyncio.sleep(max(0.0, POLL_S - (time.monotonic() - asked_s)))

    async def stop(self) -> None:
        """Ask for the answer's end."""
        async with self._session.delete(self._answer) as response:
            await response.read()


async def _warm(session: aiohttp.ClientSession, url: str) -> None:
    async with session.get(f"{url}/answers/none") as response:  # a short 404
        await response.read()


def make(session: aiohttp.ClientSession, url: str, transport: str) -> Any:
    """A conversation by a transport's name."""
    if transport in WINDOWS:
        return Socket(session, url, transport)
    return Events(session, url) if transport == "sse" else Polls(session, url, waits=transport == "long-poll")


@asynccontextmanager
async def opened(given: argparse.Namespace, query: str) -> AsyncIterator[Any]:
    """A conversation on a connection of its own, kept open between its requests."""
    made: list[socket.socket] = []

    def create(address: Any) -> socket.socket:
        made.append(socket.socket(*address[:3]))
        return made[-1]

    connector = aiohttp.TCPConnector(limit=1, force_close=False, socket_factory=create)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        conversation = make(session, given.url, given.transport)
        await conversation.open(query)
        conversation.carrier = made[-1]
        yield conversation


async def measure_stream(given: argparse.Namespace) -> dict[str, Any]:
    """Latency of every token, from the instant it was due at the server, and the bytes of the whole answer."""
    query = f"tokens={given.tokens}&gap_ms={given.gap_ms:g}&text=words{given.query}"
    # The first answer of a kind finds a server that has yet to import and to compile.
    first = f"tokens=2&gap_ms=1{given.query}"
    async with opened(given, first) as conversation:
        await conversation.begin(first)
        async for _tokens in conversation.tokens():
            pass
    latencies_ms: list[float] = []
    size_bytes = 0
    async with opened(given, query) as conversation:
        before = Counts(conversation.carrier)
        asked_s = time.perf_counter()
        await conversation.begin(query)
        async for tokens in conversation.tokens():
            now_s = time.perf_counter()
            for token in tokens:
                size_bytes += len(token.encode())
                due_s = asked_s + given.rtt_ms / 2000 + (len(latencies_ms) + 1) * given.gap_ms / 1000
                latencies_ms.append((now_s - due_s) * 1000)
        counts = Counts(conversation.carrier).since(before)
        elapsed_s = time.perf_counter() - asked_s
    return {"tokens": len(latencies_ms), "text_bytes": size_bytes, "latencies_ms": latencies_ms, "elapsed_s": elapsed_s, **counts}


async def measure_rate(given: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second when the server has them all at once."""
    query = "tokens=100000&gap_ms=0&ttft_ms=0&text=words"
    count = 0
    async with opened(given, query) as conversation:
        await conversation.begin(query)
        begin_s = end_s = time.perf_counter()
        async for tokens in conversation.tokens():
            count += len(tokens)
            end_s = time.perf_counter()
            if end_s - begin_s >= given.seconds:
                await conversation.stop()
                break
        # A fast machine has all of them before that: an answer that has ended is told nothing more, and a stop would wait for ever.
    return {"tokens": count, "elapsed_s": end_s - begin_s}


async def measure_stop(given: argparse.Namespace) -> dict[str, Any]:
    """From saying stop to having been told (for events: the instants of the closings alone, which the proxy's log completes)."""
    query = f"tokens=100000&gap_ms={given.gap_ms:g}&ttft_ms=0&text=words"
    told_ms, said_ns = [], []
    for _ in range(given.rounds):
        async with opened(given, query) as conversation:
            await conversation.begin(query)
            async for _tokens in conversation.tokens():
                break
            said_ns.append(time.monotonic_ns())
            await conversation.stop()
            told_ms.append((time.monotonic_ns() - said_ns[-1]) / 1e6)
    return {"told_ms": told_ms, "said_ns": said_ns}


async def measure_load(given: argparse.Namespace) -> dict[str, Any]:
    """Processor time of this side for all tokens of several conversations at once; the other side is watched by who started this."""
    query = f"tokens={given.tokens}&gap_ms={given.gap_ms:g}&text=words"

    async def converse() -> int:
        count = 0
        async with opened(given, query) as conversation:
            await ready.wait()
            await conversation.begin(query)
            async for tokens in conversation.tokens():
                count += len(tokens)
            await done.wait()
        return count

    ready, done = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(converse()) for _ in range(given.connections)]
    await asyncio.sleep(0.5)
    _say({"ready": True})
    await _told()
    begin = time.process_time()
    ready.set()
    await asyncio.sleep((given.tokens + 2) * given.gap_ms / 1000 + 0.5)
    cpu_s = time.process_time() - begin
    _say({"over": True})
    done.set()
    return {"tokens": sum(await asyncio.gather(*tasks)), "cpu_s": cpu_s}


async def measure_memory(given: argparse.Namespace) -> dict[str, Any]:
    """Memory of this side for connections whose answers have begun and say nothing.

    As many again are opened before: the first ones take what imports have left free, and seem to need nothing.
    """
    query = "tokens=10&ttft_ms=60000&gap_ms=60000"
    waiting: list[asyncio.Task[None]] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)) as session:
        held: list[Any] = []

        async def hold() -> None:
            for _ in range(given.connections):
                conversation = make(session, given.url, given.transport)
                held.append(conversation)
                if given.transport in WINDOWS:
                    await conversation.open(query)
                    await conversation.begin(query)
                elif given.transport == "poll":
                    await conversation.begin(query)
                else:
                    waiting.append(asyncio.create_task(_wait(conversation, query)))
            await asyncio.sleep(1.0)

        await hold()
        before_bytes = _resident()
        _say({"ready": True})
        await _told()
        await hold()
        after_bytes = _resident()
        _say({"over": True})
        await _told()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return {"bytes": (after_bytes - before_bytes) / given.connections}


async def _wait(conversation: Any, query: str) -> None:
    await conversation.begin(query)
    async for _ in conversation.tokens():
        pass


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def _told() -> None:
    """Wait until who started this says that it goes on: a line."""
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


MEASURES: Final = {
    "stream": measure_stream, "rate": measure_rate, "stop": measure_stop, "load": measure_load, "memory": measure_memory,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transport_client", allow_abbrev=False)
    parser.add_argument("url")
    parser.add_argument("transport", choices=TRANSPORTS)
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("--query", default="", help="more of the query, beginning with &")
    parser.add_argument("--rtt-ms", type=float, default=0.0)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--gap-ms", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=20)
    given = parser.parse_args(arguments)
    _say(asyncio.run(MEASURES[given.measure](given)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
