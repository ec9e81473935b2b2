"""What the transports' measurement reads, where it can be known beforehand: bytes of frames, and the tables that are made of figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.transport_claims import NOT_MEASURED, check_claims
from benchmarks.transport_client import TRANSPORTS as CLIENTS
from benchmarks.transport_result import NAMES, draw, find, parts, tables
from benchmarks.transports import TRANSPORTS, let_go_ms, processor_s

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


def test_processor_time_is_counted_finer_than_in_ticks() -> None:
    before, begin = processor_s(os.getpid()), time.thread_time()
    while time.thread_time() - begin < 0.004:
        pass
    os.sched_yield()  # what runs is brought up to date by the scheduler
    used = processor_s(os.getpid()) - before
    assert 0.003 < used < 1.0


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
    result = {
        "figures": figures(), "environment": {"cpu_model": "a processor", "cpu_count": 2}, "pinned": True, "seconds": 61.0,
        "load_average": {"before": [0.1, 0, 0], "after": [2.0, 0, 0]}, "began_utc": "2026-11-22T10:00:00+00:00",
    }  # fmt: skip
    page = parts(result)
    assert "| WebSocket, ack each | 1.00 | 21.0 |" in page["transports"]
    assert "| text of 126 | 4.00 |" in page["transports"]
    assert "2026-11-22 in 1 min: a processor, 2 cores" in page["transports"]
    assert find(figures(), "sse", "tokens_per_s", 20.0) == 25.0
    assert find(figures(), "sse", "server_cpu_us_per_token") is None
    cost = next(rows for title, _, rows in tables(figures()) if title == "cost")
    assert cost[0][-2:] == ["2.00", "–"]
    assert page["claims"].count(NOT_MEASURED) > 2


def measured(**changes: float) -> list[dict[str, Any]]:
    """Figures of every kind that a claim needs, as a network and RFC 6455 make them; a change is named transport__figure."""
    found: dict[tuple[str, str, float | None], float] = {}
    latency = {"ws-ack": 1300, "ws-window": 70, "ws-no-ack": 70, "ws-deflate": 70, "sse": 72, "long-poll": 130, "poll": 127}
    sent = {"ws-ack": 6.4, "ws-window": 6.4, "ws-no-ack": 0.4, "ws-deflate": 0.4, "sse": 6.4, "long-poll": 180, "poll": 46}
    received = {"ws-ack": 7.5, "ws-window": 7.5, "ws-no-ack": 7.5, "ws-deflate": 8.2, "sse": 25, "long-poll": 148, "poll": 45}
    for name in NAMES:
        found[name, "latency_p50_ms", 100.0], found[name, "stop_p50_ms", 100.0] = latency[name], 105.0
        found[name, "tokens_per_s", 100.0] = 9.3
        found[name, "sent_bytes_per_token", 0.0], found[name, "received_bytes_per_token", 0.0] = sent[name], received[name]
        found[name, "text_bytes_per_token", 0.0], found[name, "wire_bytes_per_token", 0.0] = 5.0, 100.0 + sent[name]
        found[name, "server_bytes_per_connection", None] = 80_000.0 if name == "ws-deflate" else 40_000.0
        found[name, "similar_text_bytes_per_token", None] = 73.0
        found[name, "similar_received_bytes_per_token", None] = 16.0 if name == "ws-deflate" else 75.0
    for size, header in ((1, 2), (125, 2), (126, 4), (16_384, 4), (65_536, 10)):
        found[f"text of {size}", "header_bytes", None] = header
    found["acknowledgement", "header_bytes", None] = 6.0
    for change, value in changes.items():
        transport, _, figure = change.replace("_of_", " of ").partition("__")
        key = next(key for key in found if key[0] == transport.replace("ws_", "ws-").replace("no_ack", "no-ack") and key[1] == figure)
        found[key] = value
    return [{"transport": who, "name": name, "rtt_ms": rtt, "value": value} for (who, name, rtt), value in found.items()]


def test_claims_are_judged_by_the_figures() -> None:
    verdicts = [claim.verdict for claim in check_claims(measured())]
    assert [verdict.partition(" ")[0].rstrip(";,.") for verdict in verdicts] == ["true", "true", "true", "true", "true", "true", "no"]
    assert "as well" in verdicts[3]
    assert "9.30 tokens/s at most" in verdicts[3]
    assert "costs memory" in verdicts[4]


@pytest.mark.parametrize(
    ("number", "changes", "verdict"),
    [
        (0, {"text_of_125__header_bytes": 4.0}, "not so"),
        (1, {"acknowledgement__header_bytes": 2.0}, "not so"),
        (2, {"ws_ack__received_bytes_per_token": 600.0}, "not so"),
        (3, {"ws_no_ack__latency_p50_ms": 400.0}, "not so"),
        (4, {"ws_deflate__similar_received_bytes_per_token": 74.0}, "not so"),
        (5, {"ws_no_ack__sent_bytes_per_token": 100.0}, "not so"),
        (6, {"ws_no_ack__stop_p50_ms": 20.0}, "true"),
    ],
)
def test_a_claim_falls_with_its_figure(number: int, changes: dict[str, float], verdict: str) -> None:
    assert check_claims(measured(**changes))[number].verdict.startswith(verdict)


def test_the_chart_is_drawn(tmp_path: Path) -> None:
    draw(figures(), tmp_path)
    assert (tmp_path / "transports.png").stat().st_size > 10_000
    assert (tmp_path / "transports.svg").exists()
