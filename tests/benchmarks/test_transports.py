"""What the transports' measurement reads, where it can be known beforehand: bytes of frames, and the tables that are made of figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.transport_client import TRANSPORTS as CLIENTS
from benchmarks.transport_result import NAMES, draw, find, tables, write_markdown
from benchmarks.transports import TRANSPORTS, let_go_ms

ROOT = Path(__file__).resolve().parents[2]


def test_everybody_means_the_same_transports() -> None:
    assert TRANSPORTS == CLIENTS == tuple(NAMES)


@pytest.fixture(scope="module")
def server(server_process: Any) -> Any:
    running = server_process("--compression", "--cap", "token_bytes=65536", module="server.fastapi_app")
    yield running
    running.close()


def read(server: Any, transport: str, what: str, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.transport_client", f"http://127.0.0.1:{server.port}", transport, what, *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    said: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return said


@pytest.mark.parametrize(("size", "header"), [(1, 2), (125, 2), (126, 4), (65_536, 10)])
def test_the_header_of_a_frame_is_that_of_the_standard(server: Any, size: int, header: int) -> None:
    got = read(server, "ws-no-ack", "stream", "--tokens=5", "--gap-ms=1", f"--query=&token_bytes={size}")
    # RFC 6455, 5.2; the last frame is the end, five bytes of text.
    assert got["received_bytes"] == got["text_bytes"] + 5 * header + 7
    assert got["sent_bytes"] == 2 + 4 + len("prompt")  # masked


def test_an_acknowledgement_is_a_header_and_a_mask(server: Any) -> None:
    got = read(server, "ws-ack", "stream", "--tokens=5", "--gap-ms=1")
    assert got["sent_bytes"] == 12 + 5 * (2 + 4)
    assert got["wire_bytes"] == got["sent_bytes"] + got["received_bytes"] + got["segments"] * 52


def test_compression_makes_likeness_small(server: Any) -> None:
    options = ("--tokens=50", "--gap-ms=1", "--query=&trace=a-run-with-a-long-name-as-in-a-chunk-of-json")
    plain, deflated = (read(server, transport, "stream", *options) for transport in ("ws-no-ack", "ws-deflate"))
    assert deflated["received_bytes"] < plain["received_bytes"] / 2


@pytest.mark.parametrize("transport", ["ws-window", "sse", "long-poll", "poll"])
def test_every_transport_brings_every_token(server: Any, transport: str) -> None:
    got = read(server, transport, "stream", "--tokens=7", "--gap-ms=1")
    assert got["tokens"] == len(got["latencies_ms"]) == 7
    assert got["sent_bytes"] > 0
    assert got["received_bytes"] > got["text_bytes"]
    assert len(read(server, transport, "stop", "--rounds=1", "--gap-ms=1")["told_ms"]) == 1


def test_events_are_stopped_when_the_server_lets_go(tmp_path: Path) -> None:
    log = tmp_path / "proxy.jsonl"
    ends = [{"server_ended_ns": at} for at in (5_000_000, 0, 90_000_000)]
    log.write_text("".join(json.dumps(line) + "\n" for line in ends))
    assert let_go_ms(log, [1_000_000, 80_000_000], 20.0) == [14.0, 20.0]


def figures() -> list[dict[str, Any]]:
    made = []
    for index, transport in enumerate(NAMES):
        for rtt in (0.0, 20.0):
            for name in ("latency_p50_ms", "latency_p99_ms", "kept_tokens_per_s", "tokens_per_s", "stop_p50_ms", "received_bytes_per_token",
                         "sent_bytes_per_token", "wire_bytes_per_token"):  # fmt: skip
                made.append({"transport": transport, "rtt_ms": rtt, "name": name, "value": 1.0 + index + rtt})
        made.append({"transport": transport, "rtt_ms": None, "name": "server_bytes_per_connection", "value": 2048.0})
    made.append({"transport": "text of 126", "rtt_ms": None, "name": "header_bytes", "value": 4.0})
    return made


def test_tables_say_what_was_found_and_what_was_not() -> None:
    markdown = write_markdown(figures())
    assert "| WebSocket, ack each | 1.00 | 21.0 |" in markdown
    assert "| text of 126 | 4.00 |" in markdown
    assert find(figures(), "sse", "tokens_per_s", 20.0) == 25.0
    assert find(figures(), "sse", "server_cpu_us_per_token") is None
    cost = next(rows for title, _, rows in tables(figures()) if title == "cost")
    assert cost[0][-2:] == ["2.00", "–"]


def test_the_chart_is_drawn(tmp_path: Path) -> None:
    draw(figures(), tmp_path)
    assert (tmp_path / "transports.png").stat().st_size > 10_000
    assert (tmp_path / "transports.svg").exists()
