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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from rich.console import Console
from rich.markup import escape

from loadtest.environment import describe_machine, describe_versions
from loadtest.run_directory import write_text

from .processes import ROOT, Interrupts, Process, ProcessError, Processes, split_cpus
from .runner import new_folder
from .transport_result import draw, print_result, write_markdown

LISTENING: Final = re.compile(r"listening on (?:ws://)?(127\.0\.0\.1:\d+)")
TRANSPORTS: Final = ("ws-ack", "ws-window", "ws-no-ack", "ws-deflate", "sse", "long-poll", "poll")
SERVER: Final = ("server.fastapi_app", "--port", "0", "--quiet", "--compression", "--cap", "token_bytes=65536")
READY_S: Final = 30.0
CLIENT_S: Final = 180.0
POLL_S: Final = 0.05
PATIENCE_POLLS: Final = 100
TOKEN_SIZES: Final = (1, 125, 126, 16_384, 65_536)
"""At the edges of the lengths of a frame's header (RFC 6455, 5.2)."""
SIMILAR: Final = "&trace=a-run-with-a-long-name-as-in-a-chunk-of-json"


class Interrupted(Exception):  # noqa: N818 - it is no error
    """Somebody asked us to stop."""


@dataclass(slots=True)
class Bench:
    """What the measurements share."""

    folder: Path
    processes: Processes
    interrupts: Interrupts
    console: Console
    given: argparse.Namespace
    cpus: tuple[frozenset[int], frozenset[int]] | None
    server: Process | None = None
    figures: list[dict[str, Any]] = field(default_factory=list)

    def start(self, name: str, arguments: Sequence[str], *, near_server: bool) -> tuple[Process, str]:
        """Start a program that says where it listens; its process and ``host:port``."""
        cpus = None if self.cpus is None else self.cpus[0 if near_server else 1]
        process = self.processes.start(name, [sys.executable, "-m", *arguments], self.folder / f"{name.replace(' ', '-')}.log", cpus)
        match = process.wait_for_line(LISTENING, READY_S, lambda: self.interrupts.count > 0)
        if match is None:
            raise Interrupted
        return process, match[1]

    def ask(self, where: str, transport: str, what: str, *options: str, during: Sequence[Callable[[], None]] = ()) -> dict[str, Any]:
        """Run a client to its end and return what it measured; each of ``during`` is called when it says a line before that."""
        if self.interrupts.count:
            raise Interrupted
        command = [sys.executable, "-m", "benchmarks.transport_client", f"http://{where}", transport, what, *options]
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as client:
            assert client.stdout is not None
            assert client.stdin is not None
            if self.cpus is not None:
                os.sched_setaffinity(client.pid, self.cpus[1])
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
        self.figures.append({"transport": transport, "rtt_ms": rtt_ms, "name": name, "value": value})


def measure_distance(bench: Bench, where: str, rtt_ms: float) -> None:
    """Latency, bytes, rate and stop of every transport at one distance."""
    log = bench.folder / f"proxy-{rtt_ms:g}.jsonl"
    proxy, far = bench.start(
        f"proxy {rtt_ms:g}", ["benchmarks.fault_proxy", "--to", where, f"--rtt-ms={rtt_ms:g}", "--log", str(log)], near_server=False
    )
    given = bench.given
    for transport in TRANSPORTS:
        bench.console.print(f"[dim]{rtt_ms:g} ms round trip:[/] {transport}", highlight=False)
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


def measure_costs(bench: Bench, where: str) -> None:
    """Processor time and memory of both sides, without a proxy between them."""
    assert bench.server is not None
    watched = psutil.Process(bench.server.pid)
    marks: list[float] = []
    fresh = watched

    def mark_cpu() -> None:
        times = watched.cpu_times()
        marks.append(times.user + times.system)

    def mark_memory() -> None:
        marks.append(float(fresh.memory_info().rss))

    given = bench.given
    for transport in TRANSPORTS:
        bench.console.print(f"[dim]cost:[/] {transport}", highlight=False)
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


def measure_frames(bench: Bench, where: str) -> None:
    """What a frame has around its text, each way, and what compression makes of tokens that are alike."""
    bench.console.print("[dim]frames:[/] headers, mask, compression", highlight=False)
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks transports", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--rtt-ms", type=_distances, default=(0.0, 20.0, 100.0, 200.0), metavar="MS,MS", help="round trips (default: 0,20,100,200)")
    add("--tokens", type=int, default=60, metavar="N", help="of the answer whose latencies and bytes are read (default: 60)")
    add("--gap-ms", type=float, default=20.0, metavar="MS", help="between its tokens (default: 20)")
    add("--seconds", type=float, default=1.0, metavar="S", help="of each measurement of a rate (default: 1)")
    add("--rounds", type=int, default=5, metavar="N", help="stops (default: 5)")
    add("--connections", type=int, default=20, metavar="N", help="at once, where processor time is read (default: 20)")
    add("--load-s", type=float, default=3.0, metavar="S", help="of it (default: 3)")
    add("--held", type=int, default=200, metavar="N", help="connections held beside as many others, where memory is read (default: 200)")
    add("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="folder of all runs (default: runs)")
    add("--json", action="store_true", help="the figures on standard output")
    return parser


def _distances(text: str) -> tuple[float, ...]:
    values = tuple(float(part) for part in text.split(","))
    if not all(0 <= value <= 10_000 for value in values):
        raise argparse.ArgumentTypeError(f"expected milliseconds from 0 to 10000, separated by commas, not {text!r}")
    return values


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write ``transports.json``, ``transports.md`` and the chart; the exit code (130 when interrupted)."""
    given = build_parser().parse_args(arguments)
    errors, console = Console(stderr=True), Console(stderr=given.json, width=None if sys.stdout.isatty() else 160)
    folder = new_folder(given.out, "transports")
    before, code = os.getloadavg(), 0
    with Interrupts() as interrupts, Processes() as processes:
        bench = Bench(folder, processes, interrupts, errors, given, split_cpus())
        try:
            bench.server, where = bench.start("server", SERVER, near_server=True)
            for rtt_ms in given.rtt_ms:
                measure_distance(bench, where, rtt_ms)
            measure_costs(bench, where)
            measure_frames(bench, where)
        except Interrupted:
            code = 130
        except ProcessError as error:
            errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
            code = 1
    result = {
        "figures": bench.figures, "options": {name: str(value) for name, value in vars(given).items()},
        "load_average": {"before": before, "after": os.getloadavg()}, "pinned": bench.cpus is not None,
        "environment": describe_machine(), "versions": describe_versions(),
    }  # fmt: skip
    write_text(folder / "transports.json", json.dumps(result, indent=1, default=str) + "\n")
    if code == 0:
        draw(bench.figures, folder)
        write_text(folder / "transports.md", write_markdown(bench.figures))
    print_result(bench.figures, console)
    console.print(f"\nfigures  {escape(str(folder))}", highlight=False, soft_wrap=True)
    if given.json:
        sys.stdout.write(json.dumps(result, default=str) + "\n")
    return code
