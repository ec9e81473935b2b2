"""Who floods the server has to rest, all of them together; who does not is read at once."""

from __future__ import annotations

import signal
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.frames import Opcode

from server.floods import SHARE, Floods
from server.wire import READ_BYTES
from tests.server.raw_client import close_code, frame, handshake, opened

Start = Callable[..., Any]
RESTS = "streamgauge_flood_rests_total"
ACK = frame(Opcode.TEXT, b"")
PROMPT, STOP = frame(Opcode.TEXT, b"prompt"), frame(Opcode.TEXT, b"stop")
GOOD_BYE = frame(Opcode.CLOSE, struct.pack("!H", 1000))


@pytest.mark.parametrize("connections", [1, 2, 100])
def test_all_who_flood_share_one_share(connections: int) -> None:
    floods, read_s, turns = Floods(), 0.001, 50
    now_s, busy_s = 1000.0, 0.0
    due = [now_s] * connections
    for _ in range(turns * connections):
        each = min(range(connections), key=due.__getitem__)
        began_s = max(now_s, due[each])
        now_s = began_s + read_s
        busy_s += read_s
        due[each] = now_s + floods.rest_s(began_s, now_s)
    end_s = max(due)
    assert busy_s / (end_s - 1000.0) == pytest.approx(SHARE)


def test_one_that_floods_again_after_a_while_owes_nothing() -> None:
    floods = Floods()
    assert floods.rest_s(10.0, 10.001) == pytest.approx(0.003)
    assert floods.rest_s(20.0, 20.001) == pytest.approx(0.003)


@pytest.fixture(scope="module")
def server(server_process: Any) -> Iterator[Any]:
    running = server_process("--ping-interval", "0", "--ttft-ms", "60000")
    yield running
    running.close()


@pytest.mark.parametrize(
    "data",
    [ACK * 2000, PROMPT * 500, STOP * 1000, (PROMPT + STOP) * 500, frame(Opcode.PING, b"") * 2000, frame(Opcode.PONG, b"") * 2000],
    ids=["acknowledgements", "prompts", "stops", "prompts and stops", "pings", "pongs"],
)
def test_who_floods_has_to_rest_and_is_heard_out(server: Any, data: bytes) -> None:
    before = server.metrics()[RESTS]
    plain = opened(server)
    plain.sendall(data + GOOD_BYE)
    assert close_code(plain) == 1000
    assert server.metrics()[RESTS] > before


def test_acknowledgements_of_tokens_are_no_flood_however_many_come_at_once(start_server: Start) -> None:
    window, turns = 64, 10
    server = start_server("--window", str(window), "--tokens", str(window * turns), "--gap-ms", "0", "--ping-interval", "0")
    with opened(server) as plain:
        plain.sendall(PROMPT)
        data = b""
        for turn in range(1, turns + 1):
            while data.count(b"\x81") < window * turn:
                data += plain.recv(65536)
            plain.sendall(ACK * window)
        while b"_end_" not in data:
            data += plain.recv(65536)
    metrics = server.wait_for("streamgauge_connections_open", 0)
    assert metrics["streamgauge_acks_total"] == window * turns
    assert metrics[RESTS] == 0


def test_what_proper_clients_send_at_once_is_no_flood(start_server: Start) -> None:
    """Two conversations begun and stopped within one read; a long prompt, which comes in pieces."""
    server = start_server("--window", "64", "--ttft-ms", "60000", "--ping-interval", "0")
    plain = opened(server)
    plain.sendall((frame(Opcode.TEXT, b"x" * 60) + STOP) * 2)
    plain.sendall(frame(Opcode.TEXT, b"y" * 3000) + STOP)
    plain.sendall(GOOD_BYE)
    assert close_code(plain) == 1000
    metrics = server.wait_for("streamgauge_connections_open", 0)
    assert metrics["streamgauge_stops_total"] == 3
    assert metrics[RESTS] == 0


def test_nothing_is_read_of_one_that_rests(start_server: Start) -> None:
    reads = 40
    server = start_server("--ping-interval", "0")
    with opened(server) as plain:
        # All of it is there when the server begins to read, so that every read is a whole one; each must have its rest.
        server.signal(signal.SIGSTOP)
        plain.sendall(frame(Opcode.PING, b"12") * (reads * READ_BYTES // 8))
        server.signal(signal.SIGCONT)
        server.wait_for("streamgauge_control_frames_total", reads * READ_BYTES // 8)
        assert server.metrics()[RESTS] == reads


def test_one_that_rests_is_forgotten_when_it_is_gone(server: Any) -> None:
    plain = opened(server)
    plain.sendall(ACK * 2000)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    plain.close()
    server.wait_for("streamgauge_connections_open", 0)
    assert "Traceback" not in server.log()


def test_a_flood_through_uvloop(start_server: Start) -> None:
    pytest.importorskip("uvloop")
    server = start_server("--ping-interval", "0", "--uvloop")
    plain = opened(server)
    plain.sendall(ACK * 20_000 + GOOD_BYE)
    assert close_code(plain) == 1000
    assert server.metrics()[RESTS] > 0


def test_a_flood_through_tls(start_server: Start, tmp_path: Path) -> None:
    authority, chain = trustme.CA(), tmp_path / "both.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(chain)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    server = start_server("--ping-interval", "0", "--certfile", str(chain))
    below = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    with context.wrap_socket(below, server_hostname="127.0.0.1") as plain:
        plain.sendall(handshake().encode())
        assert plain.recv(65536).startswith(b"HTTP/1.1 101")
        plain.sendall(ACK * 20_000 + GOOD_BYE)
        assert plain.recv(4) == b"\x88\x02\x03\xe8"
    assert f"{RESTS} 0.0" not in server.get("/metrics", context)
    assert RESTS in server.get("/metrics", context)
