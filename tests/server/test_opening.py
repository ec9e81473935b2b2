"""Frames that come together with the request, before its answer: acted on as if they had come after it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.frames import Opcode

from tests.server.raw_client import frame, handshake, heard

PROMPT, STOP = frame(Opcode.TEXT, b"prompt"), frame(Opcode.TEXT, b"stop")
GOOD_BYE = frame(Opcode.CLOSE, struct.pack("!H", 1000))
REQUEST = handshake("/ws?ttft_ms=60000").encode()
END = frame(Opcode.TEXT, b"_end_", mask=False)
CLOSED = frame(Opcode.CLOSE, struct.pack("!H", 1000), mask=False)


@pytest.fixture(scope="module")
def server(server_process: Any) -> Iterator[Any]:
    running = server_process("--ping-interval", "0", "--tokens", "3", "--gap-ms", "0")
    yield running
    running.stop()
    log = running.log()
    running.close()
    assert "bug" not in log
    assert "Traceback" not in log


def exchange(server: Any, *pieces: bytes, ends: int) -> bytes:
    """Send the pieces, read so many ends, say good-bye; returns what came behind the head of the response."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            plain.sendall(piece)
        data = b""
        while data.count(END) < ends and (part := plain.recv(65536)):
            data += part
        if ends:
            plain.sendall(GOOD_BYE)
        return (data + heard(plain)).partition(b"\r\n\r\n")[2]


def test_a_conversation_in_one_segment(server: Any) -> None:
    assert exchange(server, REQUEST + PROMPT + STOP, ends=1) == END + CLOSED
    tokens = b"".join(frame(Opcode.TEXT, b"%d" % number, mask=False) for number in range(3))
    assert exchange(server, handshake("/ws?window=0").encode() + PROMPT, ends=1) == tokens + END + CLOSED


@pytest.mark.parametrize(
    "early", [b"", PROMPT, PROMPT + STOP, STOP, frame(Opcode.TEXT, b"")], ids=["nothing", "prompt", "both", "stop", "ack"]
)
def test_a_good_bye_in_the_same_segment(server: Any, early: bytes) -> None:
    """Whoever says good-bye hears no answer; the server's good-bye comes all the same, and nothing of a bug in its log."""
    for query in ("ttft_ms=60000", "window=0"):
        assert exchange(server, handshake(f"/ws?{query}").encode() + early + GOOD_BYE, ends=0)[-len(CLOSED) :] == CLOSED


@pytest.mark.parametrize("before_the_end", range(-2, 8))
def test_it_may_be_cut_anywhere(server: Any, before_the_end: int) -> None:
    at = len(REQUEST) - before_the_end
    whole = REQUEST + PROMPT + STOP
    assert exchange(server, whole[:at], whole[at:], ends=1) == END + CLOSED
    whole = handshake("/ws?window=0").encode() + PROMPT + GOOD_BYE
    at = whole.index(PROMPT) - before_the_end
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain:
        plain.sendall(whole[:at])
        server.get("/healthz")  # the server has read the first piece by itself
        plain.sendall(whole[at:])
        assert heard(plain)[-len(CLOSED) :] == CLOSED


def test_byte_by_byte(server: Any) -> None:
    whole = REQUEST + PROMPT + STOP
    assert exchange(server, *(whole[at : at + 1] for at in range(len(whole))), ends=1) == END + CLOSED


def test_more_than_one_read_of_it(server: Any) -> None:
    assert exchange(server, REQUEST + (PROMPT + STOP) * 200, ends=200) == END * 200 + CLOSED


def test_frames_behind_a_request_that_is_refused_are_nothing(server: Any) -> None:
    before = server.metrics()
    assert exchange(server, handshake("/nope").encode() + (PROMPT + STOP) * 20, ends=0).startswith(b"nothing is here")
    assert server.metrics()["streamgauge_prompts_total"] == before["streamgauge_prompts_total"]
