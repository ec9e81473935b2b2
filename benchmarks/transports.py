"""``python -m benchmarks transports``: one stream of tokens by WebSocket, server-sent events, long and short polls, near and far.

The server is ``python -m server.fastapi_app``, which speaks them all; the client is ``benchmarks.transport_client``, one library for all;
the distance is ``benchmarks.fault_proxy``. Server and client have a core each where there are two.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from . import transport_result
from .comparison import Comparison, add_common, compare
from .options import Parser
from .processes import ROOT, Process, ProcessError

LISTENING: Final = re.compile(r"listening on (?:ws://)?(127\.0\.0\.1:\d+)")
TRANSPORTS: Final = ("ws-ack", "ws-window", "ws-no-ack", "ws-deflate", "sse", "long-poll", "poll")
SERVER: Final = ("server.fastapi_app", "--port", "0", "--quiet", "--compression", "--cap", "token_bytes=65536")
CLIENT_S: Final = 180.0
POLL_S: Final = 0.05
PATIENCE_POLLS: Final = 100
TOKEN_SIZES: Final = (1, 125, 126, 16_384, 65_536)
"""At the edges of the lengths of a frame's header (RFC 6455, 5.2)."""
SIMILAR: Final = "&trace=a-run-with-a-long-name-as-in-a-chunk-of-json"


class Bench:
    """A comparison of transports: its programs, clients that measure, and figures."""

    def __init__(self, comparison: Comparison, given: argparse.Namespace) -> None:
        self._comparison = comparison
        self.given = given
        self.folder = comparison.folder
        self.tell = comparison.tell

    def start(self, name: str, arguments: Sequence[str], *, near_server: bool) -> tuple[Process, str]:
        """Start a program that says where it listens; its process and ``host:port``."""
        process, match = self._comparison.start(name, [sys.executable, "-m", *arguments], LISTENING, near_server=near_server)
        return process, match[1]

    def ask(self, where: str, transport: str, what: str, *options: str, during: Sequence[Callable[[], None]] = ()) -> dict[str, Any]:
        """Run a client to its end and return what it measured; each of ``during`` is called when it says a line before that."""
        self._comparison.interrupts.go_on()
        cpus = self._comparison.side(near_server=False)
        command = [sys.executable, "-m", "benchmarks.transport_client", f"http://{where}", transport, what, *options]
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as client:
            assert client.stdout is not None
            assert client.stdin is not None
            if cpus is not None:
                os.sched_setaffinity(client.pid, cpus)
            try:
                for call in during:
                    client.stdout.readline()
                    call()
                    client.stdin.write("\n")
                    client.stdin.flush()
                said, _ = client.communicate(timeout=CLIENT_S)
            except (subprocess.TimeoutExpired, BrokenPipeError):
                raise ProcessError(f"expected the client to measure {what} of {transport} in {CLIENT_S:g} s, and it did not end") from None
            finally:
                client.kill()
            if client.returncode or not said.strip():
                raise ProcessError(f"the client that measures {what} of {transport} ended with exit code {client.returncode}")
        last: dict[str, Any] = json.loads(said.splitlines()[-1])
        return last

    def note(self, transport: str, rtt_ms: float | None, name: str, value: float | None) -> None:
        """Keep a figure."""
        self._comparison.figures.append({"transport": transport, "rtt_ms": rtt_ms, "name": name, "value": value})


def measure_distance(bench: Bench, where: str, rtt_ms: float) -> None:
    """Latency, bytes, rate and stop of every transport at one distance."""
    log = bench.folder / f"proxy-{rtt_ms:g}.jsonl"
    proxy, far = bench.start(
        f"proxy {rtt_ms:g}", ["benchmarks.fault_proxy", "--to", where, f"--rtt-ms={rtt_ms:g}", "--log", str(log)], near_server=False
    )
    given = bench.given
    for transport in TRANSPORTS:
        bench.tell(f"{rtt_ms:g} ms round trip:", transport)
        rtt = f"--rtt-ms={rtt_ms:g}"
        read = bench.ask(far, transport, "stream", rtt, f"--tokens={given.tokens}", f"--gap-ms={given.gap_ms:g}")
        latencies = np.array(read["latencies_ms"])
        for name, q in (("latency_p50_ms", 50), ("latency_p99_ms", 99)):
            bench.note(transport, rtt_ms, name, float(np.percentile(latencies, q, method="inverted_cdf")))
        bench.note(transport, rtt_ms, "kept_tokens_per_s", read["tokens"] / read["elapsed_s"])
        for name in ("text_bytes", "sent_bytes", "received_bytes", "wire_bytes", "segments"):
            bench.note(transport, rtt_ms, f"{name}_per_token", read[name] / read["tokens"])
        rate = bench.ask(far, transport, "rate", rtt, f"--seconds={given.seconds:g}")
        bench.note(transport, rtt_ms, "tokens_per_s", rate["tokens"] / rate["elapsed_s"] if rate["elapsed_s"] else None)
        stop = bench.ask(far, transport, "stop", rtt, f"--rounds={given.rounds}", f"--gap-ms={given.gap_ms:g}")
        told = stop["told_ms"] if transport != "sse" else let_go_ms(log, stop["said_ns"], rtt_ms)
        bench.note(transport, rtt_ms, "stop_p50_ms", float(np.median(told)) if told else None)
    proxy.stop(signal.SIGTERM, 5)


def let_go_ms(log: Path, said_ns: Sequence[int], rtt_ms: float) -> list[float]:
    """Events cannot be told that they were stopped: from each closing until the server closed its side, as the proxy beside it saw,
    and half a round trip, as if that were told."""
    for _ in range(PATIENCE_POLLS):
        lines = [json.loads(line) for line in log.read_text(encoding="ascii").splitlines()]
        ended = sorted(line["server_ended_ns"] for line in lines if line["server_ended_ns"])
        after = [next((at for at in ended if at > said), None) for said in said_ns]
        if None not in after:
            break
        time.sleep(POLL_S)  # the proxy writes a connection down when both of its ends are closed
    return [(at - said) / 1e6 + rtt_ms / 2 for at, said in zip(after, said_ns, strict=True) if at is not None]


def measure_costs(bench: Bench, shared: Process, where: str) -> None:
    """Processor time and memory of both sides, without a proxy between them."""
    marks: list[float] = []
    fresh: psutil.Process | None = None

    def mark_cpu() -> None:
        marks.append(processor_s(shared.pid))

    def mark_memory() -> None:
        assert fresh is not None
        marks.append(float(fresh.memory_info().rss))

    given = bench.given
    for transport in TRANSPORTS:
        bench.tell("cost:", transport)
        marks.clear()
        tokens = round(given.load_s * 1000 / given.gap_ms)
        read = bench.ask(
            where, transport, "load", f"--connections={given.connections}", f"--tokens={tokens}", f"--gap-ms={given.gap_ms:g}",
            during=(mark_cpu, mark_cpu),
        )  # fmt: skip
        bench.note(transport, None, "server_cpu_us_per_token", (marks[1] - marks[0]) / read["tokens"] * 1e6)
        bench.note(transport, None, "client_cpu_us_per_token", read["cpu_s"] / read["tokens"] * 1e6)
        marks.clear()
        # A server of its own: one that has freed memory before would give that, and seem to need none.
        server, alone = bench.start(f"server for {transport}", SERVER, near_server=True)
        fresh = psutil.Process(server.pid)
        bench.ask(alone, transport, "stream", "--tokens=2", "--gap-ms=5")
        read = bench.ask(alone, transport, "memory", f"--connections={given.held}", during=(mark_memory, mark_memory))
        bench.note(transport, None, "server_bytes_per_connection", (marks[1] - marks[0]) / given.held)
        bench.note(transport, None, "client_bytes_per_connection", read["bytes"])
        server.stop(signal.SIGKILL, 5)  # its connections are gone with the client


def processor_s(pid: int) -> float:
    """Processor time of a process by the scheduler's own count (ns, proc(5): schedstat): ticks of 10 ms are too coarse for some seconds of
    a light load. Of threads that are there; a server that makes and ends threads would need more."""
    tasks = Path(f"/proc/{pid}/task")
    try:
        return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks.iterdir()) / 1e9
    except OSError:
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)


def measure_frames(bench: Bench, where: str) -> None:
    """What a frame has around its text, each way, and what compression makes of tokens that are alike."""
    bench.tell("frames:", "headers, mask, compression")
    for size in TOKEN_SIZES:
        read = bench.ask(where, "ws-no-ack", "stream", "--tokens=20", "--gap-ms=5", f"--query=&token_bytes={size}")
        bench.note(f"text of {size}", None, "header_bytes", (read["received_bytes"] - 7 - read["text_bytes"]) / read["tokens"])
    read = bench.ask(where, "ws-ack", "stream", "--tokens=20", "--gap-ms=5")
    # The prompt is a frame of 6 bytes of text; an acknowledgement is one of none.
    bench.note("acknowledgement", None, "header_bytes", (read["sent_bytes"] - 12) / read["tokens"])
    for transport in ("ws-no-ack", "ws-deflate"):
        read = bench.ask(where, transport, "stream", "--tokens=200", "--gap-ms=2", f"--query={SIMILAR}")
        bench.note(transport, None, "similar_text_bytes_per_token", read["text_bytes"] / read["tokens"])
        bench.note(transport, None, "similar_received_bytes_per_token", read["received_bytes"] / read["tokens"])


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser(prog="python -m benchmarks transports", description=__doc__)
    add = parser.add_argument
    add("--rtt-ms", type=_distances, default=(0.0, 20.0, 100.0, 200.0), metavar="MS,MS", help="round trips (default: 0,20,100,200)")
    add("--tokens", type=int, default=60, metavar="N", help="of the answer whose latencies and bytes are read (default: 60)")
    add("--gap-ms", type=float, default=20.0, metavar="MS", help="between its tokens (default: 20)")
    add("--seconds", type=float, default=1.0, metavar="S", help="of each measurement of a rate (default: 1)")
    add("--rounds", type=int, default=5, metavar="N", help="stops (default: 5)")
    add("--connections", type=int, default=20, metavar="N", help="at once, where processor time is read (default: 20)")
    add("--load-s", type=float, default=3.0, metavar="S", help="of it (default: 3)")
    add("--held", type=int, default=200, metavar="N", help="connections held beside as many others, where memory is read (default: 200)")
    add_common(parser)
    return parser


def _distances(text: str) -> tuple[float, ...]:
    values = tuple(float(part) for part in text.split(","))
    if not all(0 <= value <= 10_000 for value in values):
        raise argparse.ArgumentTypeError(f"expected milliseconds from 0 to 10000, separated by commas, not {text!r}")
    return values


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write ``transports.json``, ``transports.md`` and the chart; the exit code (130 when interrupted)."""
    given = build_parser().parse_args(arguments)

    def work(comparison: Comparison) -> None:
        bench = Bench(comparison, given)
        server, where = bench.start("server", SERVER, near_server=True)
        for rtt_ms in given.rtt_ms:
            measure_distance(bench, where, rtt_ms)
        measure_costs(bench, server, where)
        measure_frames(bench, where)

    return compare("transports", given, transport_result, work)
