"""What nobody well-behaved sends, over raw sockets, in tables; and that the server is afterwards what it was before."""

from __future__ import annotations

import os
import re
import selectors
import signal
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

from benchmarks.client_wire import ACK_FRAME, masked, read_frames
from tests.server.raw_client import close_code, frame, handshake, opened, raw

Start = Callable[..., Any]
KEY = "Sec-WebSocket-Key"

REQUESTS: dict[str, tuple[str | bytes, int | None]] = {
    # What is sent, and the status of the reply; None: no reply, the connection is closed.
    "a key of 15 bytes": (handshake(drop=(KEY,), extra=f"{KEY}: AAAAAAAAAAAAAAAAAAAA\r\n"), 400),
    "a key of 17 bytes": (handshake(drop=(KEY,), extra=f"{KEY}: AAAAAAAAAAAAAAAAAAAAAAA=\r\n"), 400),
    "two keys": (handshake(extra=f"{KEY}: AAAAAAAAAAAAAAAAAAAAAA==\r\n"), 400),
    "a version that is no number": (handshake(drop=("Sec-WebSocket-Version",), extra="Sec-WebSocket-Version: x\r\n"), 400),
    "no version": (handshake(drop=("Sec-WebSocket-Version",)), 400),
    "129 headers": (handshake(extra="".join(f"X-{number}: 1\r\n" for number in range(124))), 431),
    "a line of 9 000 bytes": (handshake(extra="X: " + "a" * 9000 + "\r\n"), 431),
    "an upgrade to something else": (handshake(drop=("Upgrade",), extra="Upgrade: h2c\r\n"), 426),
    "a connection that is kept": (handshake(drop=("Connection",), extra="Connection: keep-alive\r\n"), 426),
    "a path in percent": (handshake("/%77s"), 404),
    "a path upwards": (handshake("/ws/../metrics"), 404),
    "a whole url": (handshake("http://127.0.0.1/ws"), 404),
    "a fragment": (handshake("/ws#x"), 404),
    "DELETE": (handshake(start="DELETE {} HTTP/1.1"), 405),
    "HTTP/0.9": (handshake(start="GET {} HTTP/0.9"), None),
    "a host with a user": (handshake(drop=("Host",), extra="Host: user@example.com\r\n"), 400),
    "an empty host": (handshake(drop=("Host",), extra="Host:\r\n"), 400),
    "markup as origin": (handshake(extra="Origin: <script>alert(1)</script>\r\n"), 403),
    "a token in the query": (handshake("/ws?token=secret"), 400),
    "NUL in the path": (handshake("/ws\x00"), 404),
    "NUL in a header": (handshake(extra="X: a\x00b\r\n"), None),
    "a folded header": (handshake(extra="X: a\r\n b\r\n"), None),
    "bare line feeds": (handshake().replace("\r\n", "\n"), None),
    "a header without a colon": (handshake(extra="nothing\r\n"), None),
    "a header with a blank in its name": (handshake(extra="X Y: 1\r\n"), None),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x01" * 300 + b"\n", None),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),
    "random bytes": (bytes(range(255, 0, -1)) * 8 + b"\n", None),
    "a Redis command": (b"*1\r\n$4\r\nPING\r\n", None),
}


def closing(code: int, reason: bytes = b"") -> bytes:
    return masked(struct.pack("!H", code) + reason, 0x88)


FRAMES: dict[str, tuple[bytes, int | None]] = {
    # What is sent once the connection is open, and the code with which the server closes.
    "declared 2^63": (b"\x81\xff\x80" + bytes(7 + 4), 1009),
    "declared 2^64 - 1": (b"\x81\xff" + b"\xff" * 8 + bytes(4), 1009),
    "one byte over the limit": (b"\x81\xff" + (65537).to_bytes(8) + bytes(4), 1009),
    "first reserved bit": (b"\xc1\x81\x00\x00\x00\x00a", 1002),
    "second reserved bit": (b"\xa1\x81\x00\x00\x00\x00a", 1002),
    "third reserved bit": (b"\x91\x81\x00\x00\x00\x00a", 1002),
    "unmasked close": (b"\x88\x02\x03\xe8", 1002),
    "unmasked ping": (b"\x89\x00", 1002),
    "fragmented close": (b"\x08\x82\x00\x00\x00\x00\x03\xe8", 1002),
    "fragments over the limit": (frame(Opcode.TEXT, b"a" * 40000, fin=False) + frame(Opcode.CONT, b"a" * 40000), 1009),
    "5 000 fragments": (frame(Opcode.TEXT, b"a", fin=False) + frame(Opcode.CONT, b"a", fin=False) * 5000, 1009),
    "continuation after the end": (frame(Opcode.TEXT, b"a", fin=False) + frame(Opcode.CONT, b"b") + frame(Opcode.CONT, b"c"), 1002),
    "a surrogate": (frame(Opcode.TEXT, b"\xed\xa0\x80"), 1007),
    "an overlong slash": (frame(Opcode.TEXT, b"\xc0\xaf"), 1007),
    "beyond Unicode": (frame(Opcode.TEXT, b"\xf4\x90\x80\x80"), 1007),
    "bad UTF-8 over three fragments": (
        frame(Opcode.TEXT, b"\xe4", fin=False) + frame(Opcode.CONT, b"\xbd", fin=False) + frame(Opcode.CONT, b"\x20"),
        1007,
    ),
    "bad UTF-8 as reason of a close": (closing(1000, b"\xff"), 1007),
    "random bytes": (bytes(range(200, 256)) * 3, 1002),
    "a second request": (handshake().encode(), 1002),
    **{f"opcode {number}": (bytes((0x80 | number, 0x80)) + bytes(4), 1002) for number in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    **{f"close {code}": (closing(code), 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)},
    **{f"close {code}, which is allowed": (closing(code), code) for code in (1000, 1001, 1014, 3000, 4999)},
}  # fmt: skip
LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z (info|warn) [a-z_]+( [a-z_]+=\S.*)?")


@pytest.fixture(scope="module")
def server(server_process: Start) -> Iterator[Any]:
    running = server_process("--tokens", "3", "--gap-ms", "1", "--open-timeout", "2", "--max-per-address", "5000", "--ping-interval", "0")
    yield running
    assert "Traceback" not in running.log()
    running.close()


@pytest.fixture
def unharmed(server: Any) -> Iterator[Any]:
    """The server; afterwards nobody is connected, a well-behaved client gets its whole answer and the log has whole lines."""
    before = len(server.log())
    yield server
    server.wait_for("streamgauge_connections_open", 0)
    assert server.metrics()["streamgauge_connections_streaming"] == 0
    with connect(server.url, compression=None) as client:
        client.send("p")
        heard = []
        while not heard or heard[-1] != "_end_":
            heard.append(client.recv(20))
            client.send("")
    assert heard == ["0", "1", "2", "_end_"]
    lines = server.log()[before:].splitlines()
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    # What earlier cases were too many for is summed up now and then, once for each kind; it is not this case's.
    earlier = [line for line in lines if " warn suppressed of=" in line]
    assert len(earlier) == len({line.split(" of=")[1].split()[0] for line in earlier})
    assert len(lines) - len(earlier) <= 2


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_that_are_refused(unharmed: Any, name: str) -> None:
    request, status = REQUESTS[name]
    reply = raw(unharmed, request)
    assert reply[:13] == (b"" if status is None else f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in an answer"])
@pytest.mark.parametrize("name", FRAMES)
def test_frames_that_end_a_connection(unharmed: Any, name: str, busy: bool) -> None:
    data, code = FRAMES[name]
    plain = opened(unharmed, "/ws?ttft_ms=60000")
    plain.sendall((masked(b"p") if busy else b"") + data)
    assert close_code(plain) == code


def test_afterwards_nothing_is_left_of_it(server: Any) -> None:
    """Everything again and again, all of it at once: memory within 5 %, no descriptor more, nobody connected."""

    def repeat(times: int) -> tuple[int, float]:
        for _ in range(times):
            with selectors.DefaultSelector() as selector:
                for request, _ in REQUESTS.values():
                    plain = socket.create_connection(("127.0.0.1", server.port))
                    plain.sendall(request if isinstance(request, bytes) else request.encode("latin-1"))
                    selector.register(plain, selectors.EVENT_READ)
                for data, _ in FRAMES.values():
                    plain = opened(server, "/ws?ttft_ms=60000")
                    plain.sendall(data)
                    selector.register(plain, selectors.EVENT_READ)
                while selector.get_map():
                    events = selector.select(20)
                    assert events, "some were not answered"
                    for key, _ in events:
                        assert isinstance(key.fileobj, socket.socket)
                        try:
                            left = key.fileobj.recv(65536)
                        except ConnectionResetError:
                            left = b""
                        if not left or b"\x88" in left:
                            selector.unregister(key.fileobj)
                            key.fileobj.close()
        server.wait_for("streamgauge_connections_open", 0)
        threading.Event().wait(0.3)  # the server reads its own memory four times a second
        return len(os.listdir(f"/proc/{server.pid}/fd")), server.metrics()["process_resident_memory_bytes"]

    repeat(5)
    files, memory = repeat(5)
    files_after, memory_after = repeat(15)
    assert files_after <= files
    assert memory_after < memory * 1.05


def test_frames_that_came_with_the_request_are_not_lost(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain:
        plain.sendall(handshake("/ws?window=0&ttft_ms=0").encode() + masked(b"p"))
        heard = b""
        while not heard.endswith(b"_end_"):
            part = plain.recv(4096)
            assert part, heard
            heard += part
    head, _, body = heard.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101")
    assert [text for _, text in read_frames(body)[0]] == [b"0", b"1", b"2", b"_end_"]


def test_deflate_garbage(start_server: Start) -> None:
    server = start_server("--compression")
    for data in (b"\xff" * 50, b"\x07", zlib.compress(b"with a header of its own")):
        plain = opened(server, extra="Sec-WebSocket-Extensions: permessage-deflate\r\n")
        packed = bytearray(Frame(Opcode.TEXT, data).serialize(mask=True))
        packed[0] |= 0x40  # RSV1: compressed
        plain.sendall(packed)
        assert close_code(plain) == 1002
    assert "Traceback" not in server.log()


def test_a_reader_of_a_few_bytes_costs_no_memory(server: Any) -> None:
    before = server.metrics()["process_resident_memory_bytes"]
    with opened(server, "/ws?window=0&gap_ms=0&tokens=100000&token_bytes=1000") as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.sendall(masked(b"p"))
        pause = threading.Event()
        for _ in range(50):
            assert plain.recv(1)
            pause.wait(0.01)
        after = server.metrics()
        assert after["process_resident_memory_bytes"] - before < 5_000_000
        assert after["streamgauge_connections_streaming"] == 1
        assert after["streamgauge_tokens_total"] < 100_000


class Many:
    """Many conversations over plain sockets, opened at once: what each has heard, by number."""

    def __init__(self, server: Any, count: int, query: str) -> None:
        self.sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(count)]
        self.heard: list[list[tuple[int, bytes]]] = [[] for _ in range(count)]
        self._left = [b""] * count
        self._open = [False] * count
        for plain in self.sockets:
            plain.sendall(handshake(f"/ws?{query}").encode() + masked(b"p"))

    def read(self, done: Callable[[list[tuple[int, bytes]]], bool]) -> None:
        """Read them all until each is done with, or closed."""
        with selectors.DefaultSelector() as selector:
            for number, plain in enumerate(self.sockets):
                selector.register(plain, selectors.EVENT_READ, number)
            while selector.get_map():
                events = selector.select(20)
                assert events, "nothing came for 20 s"
                for key, _ in events:
                    assert isinstance(key.fileobj, socket.socket)
                    data = key.fileobj.recv(65536)
                    self._take(key.data, data)
                    if not data or done(self.heard[key.data]):
                        selector.unregister(key.fileobj)

    def _take(self, number: int, data: bytes) -> None:
        left = self._left[number] + data
        if left and not self._open[number]:
            head, ended, after = left.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101"), head
            if ended:
                self._open[number], left = True, after
        if self._open[number]:
            frames, taken = read_frames(left)
            left = left[taken:]
            self.heard[number] += frames
        self._left[number] = left

    def close(self) -> None:
        for plain in self.sockets:
            plain.close()


def test_a_thousand_streams_are_each_ended_when_the_server_leaves(start_server: Start) -> None:
    server = start_server("--gap-ms", "1000", "--tokens", "1000", "--window", "0", "--drain", "20", "--max-per-address", "2000")
    many = Many(server, 1000, "ttft_ms=0")
    server.wait_for("streamgauge_connections_streaming", 1000)
    server.signal(signal.SIGTERM)

    def closed(heard: list[tuple[int, bytes]]) -> bool:
        return bool(heard) and heard[-1][0] == 0x88

    many.read(closed)
    for plain, heard in zip(many.sockets, many.heard, strict=True):
        assert heard[-2:] == [(0x81, b"_end_"), (0x88, struct.pack("!H", 1001) + heard[-1][1][2:])]
        plain.sendall(closing(1001))
    assert server.process.wait(20) == 0
    many.close()
    assert "left connections=1000 cut=0" in server.log()


def test_a_server_that_was_stopped_for_a_while_goes_on_where_it_was(start_server: Start) -> None:
    server = start_server("--gap-ms", "20", "--tokens", "10")
    many = Many(server, 50, "window=0")
    server.wait_for("streamgauge_connections_streaming", 50)
    server.signal(signal.SIGSTOP)
    threading.Event().wait(0.5)
    server.signal(signal.SIGCONT)
    many.read(lambda heard: (0x81, b"_end_") in heard)
    many.close()
    assert {tuple(body for _, body in heard) for heard in many.heard} == {(*(str(n).encode() for n in range(10)), b"_end_")}


def test_who_floods_does_not_keep_the_others_waiting(start_server: Start) -> None:
    """Of what one connection floods with, the loop reads a piece, then all others have their turn: 42 messages, not 37 000."""
    server = start_server("--ping-interval", "0")
    with opened(server, "/ws?window=0&tokens=1&ttft_ms=0") as flooding, opened(server, "/ws?window=0&tokens=1&ttft_ms=0") as waiting:
        server.signal(signal.SIGSTOP)
        flooding.sendall(ACK_FRAME * 10_000 + masked(b"p"))
        waiting.sendall(masked(b"p"))
        server.signal(signal.SIGCONT)
        assert flooding.recv(3) == b"\x81\x010"
        # The server has one thread: what it sent before is here.
        waiting.setblocking(False)
        assert waiting.recv(3) == b"\x81\x010"
    assert server.wait_for("streamgauge_connections_open", 0)["streamgauge_stale_acks_total"] == 10_000
