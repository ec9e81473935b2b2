"""``python -m benchmarks abort``: how soon does an upstream see that its answer is not wanted any more?

A client of ``python -m server --upstream`` stops, or leaves, in the middle of an answer; the upstream, in this process as the client is,
sees its connection closed. One clock, from just before the client's message or closing is written to the upstream's end of file.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import connect

from loadtest.run_directory import write_text

from .options import Parser
from .processes import Interrupts, ProcessError, Processes
from .runner import new_folder

LISTENING: Final = re.compile(r"listening on (ws://\S+)")
READY_S: Final = 30.0
PATIENCE_S: Final = 10.0
CHUNK: Final = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "token"}, "finish_reason": None}]}
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: " + json.dumps(CHUNK).encode() + b"\n\n"
WAYS: Final = {"stop": "the client says stop", "leave": "the client closes its connection"}


class Upstream(asyncio.Protocol):
    """One token, and then silence: it can learn of the abort in no other way than that the connection is closed."""

    ended_ns: asyncio.Queue[int]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A request is coming; called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        """Answer when the request's body is there; called by asyncio."""
        self._received += data
        if b"\r\n\r\n" in self._received and self._received.endswith(b"}"):
            self._received = b""
            self._transport.write(ANSWER)

    def connection_lost(self, exc: Exception | None) -> None:
        """The abort; called by asyncio."""
        self.ended_ns.put_nowait(time.monotonic_ns())


async def measure(url: str, ways: Sequence[str], rounds: int, ended_ns: asyncio.Queue[int]) -> dict[str, list[float]]:
    """Milliseconds from the client's act to the upstream's end of file, by way."""
    late_ms: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds * len(ways)):
        way = ways[number % len(ways)]
        async with connect(f"{url}?window=0", compression=None) as client:
            await client.send("prompt")
            await asyncio.wait_for(client.recv(), PATIENCE_S)
            said_ns = time.monotonic_ns()
            if way == "stop":
                await client.send("stop")
            else:
                client.transport.abort()
            late_ms[way].append((await asyncio.wait_for(ended_ns.get(), PATIENCE_S) - said_ns) / 1e6)
    return late_ms


async def _run(processes: Processes, folder: Path, rounds: int) -> dict[str, list[float]]:
    ended_ns: asyncio.Queue[int] = asyncio.Queue()

    def create() -> Upstream:
        made = Upstream()
        made.ended_ns = ended_ns
        return made

    listening = await asyncio.get_running_loop().create_server(create, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    server = processes.start("the server", [sys.executable, "-m", "server", "--port", "0", "--upstream", base], folder / "server.log")
    match = await asyncio.to_thread(server.wait_for_line, LISTENING, READY_S)
    assert match is not None
    try:
        return await measure(match[1], tuple(WAYS), rounds, ended_ns)
    finally:
        listening.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write ``abort.json``; the exit code: 0, or 1 when the upstream was not told."""
    parser = Parser(prog="python -m benchmarks abort", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, metavar="N", help="of each way (default: 200)")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="folder of all runs (default: runs)")
    given = parser.parse_args(arguments)
    folder, console = new_folder(given.out, "abort"), Console()
    with Interrupts() as interrupts, Processes() as processes:
        interrupts.raising = True
        try:
            late_ms = asyncio.run(_run(processes, folder, given.rounds))
        except (ProcessError, TimeoutError) as error:
            console.print(f"the upstream was not told within {PATIENCE_S:g} s, or the server did not start: {error}", markup=False)
            return 1
        except KeyboardInterrupt:
            return 130
    table = Table(box=None, pad_edge=False)
    for index, title in enumerate(("until the upstream sees it", "n", "p50 (ms)", "p99 (ms)", "max (ms)")):
        table.add_column(title, justify="right" if index else "left")
    figures: dict[str, Any] = {"load_average": os.getloadavg()}
    for way, values in late_ms.items():
        p50, p99 = (float(np.percentile(values, q, method="inverted_cdf")) for q in (50, 99))
        figures[way] = {"n": len(values), "p50_ms": p50, "p99_ms": p99, "max_ms": max(values)}
        table.add_row(WAYS[way], str(len(values)), f"{p50:.2f}", f"{p99:.2f}", f"{max(values):.2f}")
    console.print(table)
    write_text(folder / "abort.json", json.dumps(figures, indent=1) + "\n")
    return 0
