"""What a connection leaves behind when it is gone: nothing that only the garbage collector could free."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.frames import Opcode

from server.protocol import MAX_FRAGMENTS
from tests.server.raw_client import frame, handshake

PATIENCE_S = 20.0
ACK, PROMPT, STOP = frame(Opcode.TEXT, b""), frame(Opcode.TEXT, b"prompt"), frame(Opcode.TEXT, b"stop")
GOOD_BYE = frame(Opcode.CLOSE, struct.pack("!H", 1000))
UPGRADE = handshake().encode()
ABRUPT = struct.pack("ii", 1, 0)

WAITED_OUT: dict[str, bytes] = {
    # What is sent; then the client waits until the server has closed.
    "garbage": os.urandom(64) + b"\r\n\r\n",
    "a page": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "no such page": handshake("/nope").encode(),
    "no key": handshake(drop=("Sec-WebSocket-Key",)).encode(),
    "a line of 9 000 bytes": handshake(extra="X: " + "a" * 9000 + "\r\n").encode(),
    "a parameter nobody knows": handshake("/ws?nonsense=1").encode(),
    "a good-bye": UPGRADE + GOOD_BYE,
    "an answer and a good-bye": UPGRADE + PROMPT + ACK * 5 + GOOD_BYE,
    "a stop and a good-bye": UPGRADE + PROMPT + STOP + GOOD_BYE,
    "a good-bye in mid-answer": handshake("/ws?ttft_ms=60000").encode() + PROMPT + GOOD_BYE,
    "prompts that supersede": UPGRADE + PROMPT * 50 + GOOD_BYE,
    "a flood": UPGRADE + ACK * 500 + GOOD_BYE,
    "a frame without a mask": UPGRADE + frame(Opcode.TEXT, b"token", mask=False),
    "bad UTF-8": UPGRADE + frame(Opcode.TEXT, b"\xc3\x28"),
    "a binary message": UPGRADE + frame(Opcode.BINARY, b"b"),
    "an endless length": UPGRADE + b"\x81\xff\x7f" + b"\xff" * 7 + bytes(64),
    "fragments": UPGRADE + frame(Opcode.TEXT, b"a", fin=False) + frame(Opcode.CONT, b"a", fin=False) * MAX_FRAGMENTS,
}
RESET: dict[str, bytes] = {
    # What is sent, before a reset.
    "a reset at once": b"",
    "a reset within the request": UPGRADE[:20],
    "a reset after the request": UPGRADE,
    "a reset in mid-answer": UPGRADE + PROMPT + ACK,
    "a reset with a good-bye": UPGRADE + GOOD_BYE,
    "a reset with a frame without a mask": UPGRADE + frame(Opcode.TEXT, b"token", mask=False),
    "a reset after a flood": UPGRADE + ACK * 500,
}
VISITS = 20


class Collecting:
    """A server whose garbage is counted."""

    def __init__(self, server_process: Any, told: Path, *options: str) -> None:
        self._told = told
        told.touch()
        self.server = server_process(
            "--ping-interval", "0", "--tokens", "5", "--gap-ms", "0", "--open-timeout", "1", *options,
            module="tests.server.collecting_server", environment={"FOUND": str(told)},
        )  # fmt: skip
        self.garbage()

    def garbage(self) -> int:
        """Objects that nobody has any more and that are still there."""
        self.server.wait_for("streamgauge_connections_open", 0)
        self.server.get("/healthz")
        before = self._told.stat().st_size
        self.server.signal(signal.SIGUSR1)
        pause, deadline_s = threading.Event(), time.monotonic() + PATIENCE_S
        while not self._told.read_text()[before:].endswith("\n"):
            assert time.monotonic() < deadline_s
            pause.wait(0.005)
        return int(self._told.read_text()[before:])


@pytest.fixture(scope="module")
def collecting(server_process: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collecting]:
    running = Collecting(server_process, tmp_path_factory.mktemp("leavings") / "found")
    yield running
    running.server.stop()
    log = running.server.log()
    running.server.close()
    assert "bug" not in log
    assert "Traceback" not in log


def visit(port: int, data: bytes, *, reset: bool) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as plain:
        try:
            plain.sendall(data)
            if not reset:
                while plain.recv(65536):
                    pass
        except ConnectionError:
            pass
        if reset:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABRUPT)


@pytest.mark.parametrize("kind", [*WAITED_OUT, *RESET])
def test_a_connection_leaves_no_garbage(collecting: Collecting, kind: str) -> None:
    data, reset = (RESET[kind], True) if kind in RESET else (WAITED_OUT[kind], False)
    visit(collecting.server.port, data, reset=reset)
    collecting.garbage()  # what is made once only
    for _ in range(VISITS):
        visit(collecting.server.port, data, reset=reset)
    assert collecting.garbage() < VISITS
