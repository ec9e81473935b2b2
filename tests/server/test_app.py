"""The rules over a real socket, against the server as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close, Frame, Opcode
from websockets.sync.client import connect

from loadtest.waiting import WaitingSocket
from server.protocol import ACK, END, STOP
from tests.server.raw_client import close_code, flood, frame, handshake, opened, raw

Start = Callable[..., Any]


class Client:
    """A client that waits for each message, with a deadline on everything."""

    def __init__(self, url: str, **options: Any) -> None:
        self.socket = WaitingSocket(url, compression=None, open_timeout=20, close_timeout=5, **options)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: Any) -> None:
        self.socket.close()

    def say(self, *texts: str) -> None:
        for text in texts:
            self.socket.send(text)

    def hear(self, timeout_s: float = 20) -> str:
        heard = self.socket.recv(timeout_s)
        assert isinstance(heard, str)
        return heard

    def hear_all(self, *, ack: bool = True) -> list[str]:
        """Return what comes up to and with the end."""
        heard: list[str] = []
        while not heard or heard[-1] != END:
            heard.append(self.hear())
            if ack and heard[-1] != END:
                self.say(ACK)
        return heard

    def closing(self) -> Close:
        """Wait for the server to close; returns the code and reason it gave."""
        closed = None
        while closed is None:
            try:
                self.hear()
            except ConnectionClosed as error:
                closed = error.rcvd or Close(1006, "")
        return closed


@pytest.fixture(scope="module")
def shared(server_process: Start) -> Iterator[Any]:
    """A server for the tests that leave it as it was; every one of them checks that it did."""
    server = server_process("--tokens", "4", "--gap-ms", "5", "--open-timeout", "2")
    yield server
    server.close()


@pytest.fixture
def server(shared: Any) -> Iterator[Any]:
    yield shared
    shared.wait_for("streamgauge_connections_open", 0)
    assert shared.metrics()["streamgauge_connections_streaming"] == 0
    with Client(shared.url) as client:
        client.say("a well-behaved one")
        assert client.hear_all() == ["0", "1", "2", "3", END]
    shared.wait_for("streamgauge_connections_open", 0)
    assert "Traceback" not in shared.log()


# -- the rules ---------------------------------------------------------------------------------------------------------


def test_r1_r5_r7_conversations_one_after_the_other(server: Any) -> None:
    with Client(server.url) as client:
        for prompt in ("hello", "你好", END):
            client.say(prompt)
            assert client.hear_all() == ["0", "1", "2", "3", END]


def test_the_articles_answer_is_the_default(start_server: Start) -> None:
    server = start_server()
    with Client(server.url) as client:
        client.say("p")
        began = time.monotonic()
        assert client.hear() == "0"
        assert time.monotonic() - began >= 0.99
        client.say(STOP)
        assert client.hear() == END


def test_r2_surplus_acknowledgements(server: Any) -> None:
    before = server.metrics()["streamgauge_stale_acks_total"]
    with Client(server.url) as client:
        client.say(*[ACK] * 100, "p")
        assert client.hear_all() == ["0", "1", "2", "3", END]
    assert server.metrics()["streamgauge_stale_acks_total"] == before + 100


def test_r3_stop_in_mid_gap_is_immediate(server: Any) -> None:
    with Client(server.url + "?ttft_ms=60000") as client:
        client.say("p", STOP)
        assert client.hear() == END


def test_r3_stop_while_the_window_is_full_then_generate_three_times(server: Any) -> None:
    with Client(server.url + "?gap_ms=1") as client:
        for _ in range(3):
            client.say("p")
            assert client.hear() == "0"
            client.say(STOP, ACK)
            assert client.hear() == END
        client.say("p")
        assert client.hear_all() == ["0", "1", "2", "3", END]


def test_r4_stop_when_idle_and_twice(server: Any) -> None:
    before = server.metrics()
    with Client(server.url + "?ttft_ms=60000") as client:
        client.say(STOP, "p", STOP, STOP, "q", STOP)
        assert [client.hear(), client.hear()] == [END, END]
    after = server.metrics()
    assert after["streamgauge_stale_stops_total"] - before["streamgauge_stale_stops_total"] == 2
    assert after["streamgauge_stops_total"] - before["streamgauge_stops_total"] == 2


def test_r6_a_prompt_supersedes(server: Any) -> None:
    name = 'streamgauge_answers_total{outcome="superseded"}'
    before = server.metrics()[name]
    with Client(server.url + "?gap_ms=1") as client:
        client.say("p")
        assert client.hear() == "0"
        client.say("q")
        assert client.hear_all() == ["0", "1", "2", "3", END]
    assert server.metrics()[name] == before + 1


def test_r7_r8_the_ack_timeout(start_server: Start) -> None:
    server = start_server("--ack-timeout", "0.2", "--gap-ms", "0")
    with Client(server.url + "?tokens=1") as client:
        client.say("p")
        assert client.hear_all(ack=False) == ["0", END]
    with Client(server.url + "?tokens=9&window=3") as client:
        client.say("p")
        assert client.hear_all(ack=False) == ["0", "1", "2", END]
    assert server.wait_for("streamgauge_connections_open", 0)['streamgauge_answers_total{outcome="ack_timeout"}'] == 2


def test_r9_windows(server: Any) -> None:
    with Client(server.url + "?window=0&tokens=1000&gap_ms=0") as client:
        client.say("p")
        assert client.hear_all(ack=False) == [*map(str, range(1000)), END]
    with Client(server.url + "?window=3&gap_ms=0&tokens=5") as client:
        client.say("p")
        assert [client.hear() for _ in range(3)] == ["0", "1", "2"]
        with pytest.raises(TimeoutError):
            client.hear(0.05)
        client.say(ACK)
        assert client.hear() == "3"


def test_r10_in_band_words(server: Any) -> None:
    with Client(server.url + "?text=awkward&tokens=14&gap_ms=0") as client:
        client.say("p")
        heard = client.hear_all()
    assert len(heard) == 14
    assert "" not in heard
    assert "\\_end_" in heard


@pytest.mark.parametrize("busy", [False, True])
def test_r11_binary(server: Any, busy: bool) -> None:
    with Client(server.url) as client:
        if busy:
            client.say("p")
            client.hear()
        client.socket.send(b"\x00")
        closing = client.closing()
    assert (closing.code, closing.reason) == (1003, "this protocol is text only")


@pytest.mark.parametrize("busy", [False, True])
def test_r12_too_long(server: Any, busy: bool) -> None:
    with Client(server.url) as client:
        client.say("x" * 65536)
        assert client.hear() == "0"
        if not busy:
            client.say(STOP)
            assert client.hear() == END
        client.say("x" * 65537)
        assert client.closing().code == 1009


def test_r13_a_failing_source(server: Any) -> None:
    with Client(server.url + "?fail_at=3") as client:
        client.say("p")
        assert client.hear_all() == ["0", "1", "[error]", END]
        client.say("p")
        assert client.hear() == "0"


@pytest.mark.parametrize("how", ["close", "fin", "reset", "close frame and silence"])
def test_r14_whatever_ends_the_connection(start_server: Start, how: str) -> None:
    server = start_server("--close-timeout", "0.2")
    plain = opened(server, "/ws?window=0&tokens=100000&gap_ms=5")
    plain.sendall(frame(Opcode.TEXT, b"p"))
    server.wait_for("streamgauge_connections_streaming", 1)
    if how == "close":
        plain.sendall(frame(Opcode.CLOSE, struct.pack("!H", 1000)))
        plain.close()
    elif how == "fin":
        plain.close()
    elif how == "reset":
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        plain.close()
    else:
        plain.sendall(frame(Opcode.CLOSE, struct.pack("!H", 1000)))
    metrics = server.wait_for("streamgauge_connections_open", 0)
    plain.close()
    assert metrics["streamgauge_connections_streaming"] == 0
    assert metrics['streamgauge_answers_total{outcome="lost"}'] == 1
    code = "1000" if how.startswith("close") else "1006"
    assert metrics[f'streamgauge_connections_closed_total{{code="{code}"}}'] == 1
    assert "Traceback" not in server.log()


def test_r15_sigterm_with_streams_under_way(start_server: Start, tmp_path: Path) -> None:
    server = start_server("--gap-ms", "20", "--tokens", "100000", "--window", "0", "--drain", "20")
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server.url)) for _ in range(50)]
        for client in clients:
            client.say("p")
        server.wait_for("streamgauge_connections_streaming", 50)
        idle = stack.enter_context(Client(server.url))
        server.signal(signal.SIGTERM)
        for client in clients:
            assert client.hear_all(ack=False)[-1] == END
            assert client.closing().code == 1001
        assert idle.closing() == Close(1001, "the server is going away")
        assert server.process.wait(20) == 0
    assert "left connections=51 cut=0" in server.log()
    with pytest.raises(OSError, match="refused"), connect(server.url, open_timeout=2):
        pass


def test_r15_who_does_not_leave_is_cut_off_in_time(start_server: Start) -> None:
    server = start_server("--drain", "0.3")
    with opened(server) as plain:
        server.signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert close_code(plain) == 1001
    assert "left connections=1 cut=1" in server.log()


def test_r15_nobody_is_let_in_while_the_server_leaves(start_server: Start) -> None:
    server = start_server("--drain", "60", "--close-timeout", "60")
    with opened(server) as plain:
        server.signal(signal.SIGTERM)
        assert plain.recv(100).startswith(b"\x88"), "the close frame, which this client does not answer"
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
        server.signal(signal.SIGTERM)
        assert server.process.wait(10) == 0


def test_who_does_not_close_in_turn_is_cut_off(start_server: Start) -> None:
    server = start_server("--close-timeout", "0.2")
    with opened(server) as plain:
        plain.sendall(frame(Opcode.BINARY, b"x"))
        metrics = server.wait_for("streamgauge_connections_open", 0)
    assert metrics['streamgauge_connections_cut_total{reason="close_timeout"}'] == 1
    assert metrics['streamgauge_connections_closed_total{code="1003"}'] == 1


def test_sigint_leaves_and_a_second_one_at_once(start_server: Start) -> None:
    server = start_server("--drain", "60", "--close-timeout", "60")
    with opened(server) as plain:
        server.signal(signal.SIGINT)
        plain.recv(100)
        server.signal(signal.SIGINT)
        assert server.process.wait(10) == 0


# -- the handshake -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (handshake(drop=("Upgrade",)), 426),
        (handshake(drop=("Connection",)), 426),
        (handshake(drop=("Sec-WebSocket-Key",)), 400),
        (handshake(drop=("Sec-WebSocket-Key",), extra="Sec-WebSocket-Key: AAAA\r\n"), 400),
        (handshake(drop=("Sec-WebSocket-Key",), extra="Sec-WebSocket-Key: !!!!\r\n"), 400),
        (handshake(drop=("Sec-WebSocket-Version",), extra="Sec-WebSocket-Version: 8\r\n"), 400),
        (handshake(start="POST {} HTTP/1.1"), 405),
        (handshake(start="GET {} HTTP/1.0"), 505),
        (handshake(drop=("Host",)), 400),
        (handshake(extra="Host: other\r\n"), 400),
        (handshake(drop=("Host",), extra="Host: a b\r\n"), 400),
        (handshake("/ws/"), 404),
        (handshake("/WS"), 404),
        (handshake("/../../etc/passwd"), 404),
        (handshake("//ws"), 404),
        (handshake("/" + "a" * 8300), 414),
        (handshake(extra="X-Long: " + "a" * 9000 + "\r\n"), 431),
        (handshake(extra="".join(f"X-{k}: 1\r\n" for k in range(130))), 431),
        (handshake(extra="Sec-WebSocket-Protocol: " + " " * 1020 + "a" * 2000 + "\r\n"), 400),
        (handshake(extra="Sec-WebSocket-Protocol: a" + " " * 7000 + "b\r\n"), 400),
        (handshake(extra="Sec-WebSocket-Protocol: \xe4\r\n"), 400),
        (handshake("/ws?tokens=1000000000"), 400),
        (handshake("/ws?tokens=1%00"), 400),
    ],
)
def test_a_bad_handshake_is_refused(server: Any, request_text: str, status: int) -> None:
    reply = raw(server, request_text)
    assert reply.startswith(f"HTTP/1.1 {status} ".encode()), reply[:200]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x01" * 300 + b"\n",
        os.urandom(2000).replace(b"\r\n", b"") + b"\n",
        handshake().replace("\r\n", "\n").encode(),
        handshake(extra="X-A: 1\r\n folded\r\n").encode(),
        handshake(extra="X-A: \x00\r\n").encode(),
        b"GET /ws\r\n\r\n",
        b"GET /ws HTTP/2.0\r\n\r\n",
    ],
)
def test_what_is_no_http_is_dropped(server: Any, request_bytes: bytes) -> None:
    before = server.metrics()['streamgauge_connections_refused_total{reason="malformed"}']
    assert raw(server, request_bytes) == b""
    server.wait_for('streamgauge_connections_refused_total{reason="malformed"}', before + 1)


@pytest.mark.parametrize("sent", [b"", b"GET /ws HT"])
def test_silence_is_dropped_at_the_open_timeout(start_server: Start, sent: bytes) -> None:
    server = start_server("--open-timeout", "0.2")
    assert raw(server, sent) == b""
    server.wait_for('streamgauge_connections_refused_total{reason="timeout"}', 1)


def test_a_byte_at_a_time_does_not_extend_the_open_timeout(start_server: Start) -> None:
    server = start_server("--open-timeout", "0.3")
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain:
        pause = threading.Event()
        try:
            for byte in handshake(extra="X: " + "y" * 500 + "\r\n").encode():
                plain.sendall(bytes([byte]))
                pause.wait(0.02)
        except OSError:
            pass
        else:
            raise AssertionError("the server waited for ever")


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://127.0.0.1:8001", True),
        ("https://127.0.0.1:8001", True),
        ("HTTP://127.0.0.1:8001", False),
        ("http://127.0.0.1:8002", False),
        ("http://127.0.0.1", False),
        ("http://127.0.0.1:8001.evil.example", False),
        ("http://evil.example/127.0.0.1:8001", False),
        ("null", False),
        ("", False),
    ],
)
def test_origins_without_an_option(server: Any, origin: str, allowed: bool) -> None:
    if allowed:
        opened(server, extra=f"Origin: {origin}\r\n").close()
    else:
        assert raw(server, handshake(extra=f"Origin: {origin}\r\n")).startswith(b"HTTP/1.1 403 ")


def test_a_doubled_origin_is_refused(server: Any) -> None:
    reply = raw(server, handshake(extra="Origin: http://127.0.0.1:8001\r\nOrigin: http://127.0.0.1:8001\r\n"))
    assert reply.startswith(b"HTTP/1.1 403 ")


def test_origins_that_the_operator_allows(start_server: Start) -> None:
    server = start_server("--origin", "http://pages.example", "--origin", "null")
    for origin in ("http://pages.example", "null", "http://127.0.0.1:8001"):
        opened(server, extra=f"Origin: {origin}\r\n").close()
    assert raw(server, handshake(extra="Origin: http://other.example\r\n")).startswith(b"HTTP/1.1 403 ")
    anybody = start_server("--origin", "*")
    opened(anybody, extra="Origin: http://other.example\r\n").close()


def test_a_token_opens_the_door_and_is_never_logged(start_server: Start, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# who may come\nfirst-token-0123456789\n\nsecond-token-0123456789\n")
    server = start_server("--token-file", str(file))
    for token in ("first-token-0123456789", "second-token-0123456789"):
        opened(server, extra=f"Authorization: Bearer {token}\r\n").close()
        opened(server, extra=f"Authorization: bearer {token}\r\n").close()
    wrong = ("", "Authorization: Bearer first-token-012345678\r\n", "Authorization: Bearer first-token-01234567890\r\n",
             "Authorization: Basic first-token-0123456789\r\n", "Authorization: first-token-0123456789\r\n", "Authorization: Bearer\r\n",
             "Authorization: Bearer first-token-0123456789\r\n" * 2, "Authorization: Bearer \xff\r\n")  # fmt: skip
    for extra in wrong:
        reply = raw(server, handshake(extra=extra))
        assert reply.startswith(b"HTTP/1.1 401 "), (extra, reply)
        assert b"WWW-Authenticate: Bearer" in reply
    assert server.metrics()['streamgauge_connections_refused_total{reason="token"}'] == len(wrong)
    assert "0123456789" not in server.log()


def test_the_cap_in_all(start_server: Start) -> None:
    server = start_server("--max-connections", "3", "--gap-ms", "10", "--tokens", "20")
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server.url)) for _ in range(3)]
        clients[0].say("p")
        with pytest.raises(InvalidStatus) as refused, connect(server.url):
            pass
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"] == "5"
        assert b"all its 3 connections" in refused.value.response.body
        assert len(clients[0].hear_all()) == 21, "existing streams are untouched"
    server.wait_for("streamgauge_connections_open", 0)
    with Client(server.url):
        pass
    assert server.metrics()['streamgauge_connections_refused_total{reason="capacity"}'] == 1


def test_the_cap_per_address(start_server: Start) -> None:
    server = start_server("--max-per-address", "2")
    with Client(server.url), Client(server.url):
        with pytest.raises(InvalidStatus) as refused, connect(server.url):
            pass
        assert refused.value.response.status_code == 503
        with socket.create_connection(("127.0.0.1", server.port), source_address=("127.0.0.2", 0)) as other:
            other.sendall(handshake().encode())
            assert other.recv(20).startswith(b"HTTP/1.1 101")
    assert server.metrics()['streamgauge_connections_refused_total{reason="address"}'] == 1


# -- frames ------------------------------------------------------------------------------------------------------------

SENT_FRAMES = [
    ("unmasked", frame(Opcode.TEXT, b"p", mask=False), 1002),
    ("reserved bits", b"\xf1\x80\x00\x00\x00\x00", 1002),
    ("unknown opcode", b"\x83\x80\x00\x00\x00\x00", 1002),
    ("fragmented ping", b"\x09\x80\x00\x00\x00\x00", 1002),
    ("long ping", b"\x89\xfe\x00\x7e\x00\x00\x00\x00" + bytes(126), 1002),
    ("continuation first", frame(Opcode.CONT, b"p"), 1002),
    ("two beginnings", frame(Opcode.TEXT, b"a", fin=False) + frame(Opcode.TEXT, b"b"), 1002),
    ("bad UTF-8", frame(Opcode.TEXT, b"\xff"), 1007),
    ("bad UTF-8 over two fragments", frame(Opcode.TEXT, b"\xe4", fin=False) + frame(Opcode.CONT, b"a"), 1007),
    ("half a character", frame(Opcode.TEXT, b"\xe4\xbd"), 1007),
    ("declared 2^63 - 1", b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00", 1009),
    ("fragments over the limit", frame(Opcode.TEXT, b"a" * 40000, fin=False) + frame(Opcode.CONT, b"a" * 40000), 1009),
    ("5 000 fragments", frame(Opcode.TEXT, b"", fin=False) + frame(Opcode.CONT, b"", fin=False) * 5000, 1009),
    ("bad close code", frame(Opcode.CLOSE, struct.pack("!H", 1005)), 1002),
    ("short close", frame(Opcode.CLOSE, b"\x03"), 1002),
    ("binary in fragments", frame(Opcode.BINARY, b"a", fin=False) + frame(Opcode.CONT, b"b"), 1003),
]


@pytest.mark.parametrize(("data", "code"), [case[1:] for case in SENT_FRAMES], ids=[case[0] for case in SENT_FRAMES])
@pytest.mark.parametrize("busy", [False, True])
def test_frames_against_the_rules(server: Any, data: bytes, code: int, busy: bool) -> None:
    plain = opened(server, "/ws?ttft_ms=60000")
    plain.sendall((frame(Opcode.TEXT, b"p") if busy else b"") + data)
    assert close_code(plain) == code


def test_a_message_in_fragments_with_a_ping_between(server: Any) -> None:
    plain = opened(server, "/ws?gap_ms=0&window=0&tokens=1")
    plain.sendall(frame(Opcode.TEXT, b"\xe4\xbd", fin=False) + frame(Opcode.PING, b"x") + frame(Opcode.CONT, b"\xa0"))
    plain.sendall(frame(Opcode.CLOSE, b""))
    with plain:
        data = b""
        while part := plain.recv(1000):
            data += part
    assert data == b"\x8a\x01x" + b"\x81\x010" + b"\x81\x05_end_" + b"\x88\x00"


def test_a_first_fragment_then_silence_is_dropped(start_server: Start) -> None:
    server = start_server("--message-timeout", "0.2")
    plain = opened(server)
    plain.sendall(frame(Opcode.TEXT, b"a", fin=False))
    assert close_code(plain) is None
    assert server.wait_for("streamgauge_connections_open", 0)['streamgauge_connections_cut_total{reason="message_timeout"}'] == 1


def test_a_client_that_does_not_answer_pings_is_dropped(start_server: Start) -> None:
    server = start_server("--ping-interval", "0.1", "--ping-timeout", "0.1")
    assert close_code(opened(server)) == 1011


def test_a_ping_flood_by_a_client_that_never_reads_is_cut_off(start_server: Start) -> None:
    server = start_server("--ping-interval", "0")
    before = server.metrics()["process_resident_memory_bytes"]
    with opened(server) as plain:
        sent = flood(plain, frame(Opcode.PING, b"x" * 125) * 500, 60_000_000)
    assert sent < 60_000_000
    metrics = server.wait_for('streamgauge_connections_cut_total{reason="write_buffer"}', 1)
    assert metrics["process_resident_memory_bytes"] - before < 10_000_000
    assert "reason=write_buffer" in server.log()


@pytest.mark.parametrize(
    ("data", "most_bytes"),
    [
        (frame(Opcode.PONG, b"x" * 100) * 500, 2_000_000),
        (frame(Opcode.TEXT, b"") * 5000, 500_000),
        (frame(Opcode.TEXT, b"p") * 2000, 200_000),
    ],
    ids=["pongs", "acknowledgements", "prompts"],
)
def test_floods_that_need_no_reply_are_borne(server: Any, data: bytes, most_bytes: int) -> None:
    with opened(server, "/ws?ttft_ms=60000") as plain:
        assert flood(plain, data, most_bytes) >= most_bytes
        plain.sendall(frame(Opcode.CLOSE, struct.pack("!H", 1000)))
        assert close_code(plain) == 1000


def test_a_reader_that_does_not_read_costs_no_memory(start_server: Start) -> None:
    server = start_server("--ping-interval", "0")
    with opened(server, "/ws?window=0&gap_ms=0&tokens=100000&token_bytes=1000") as plain:
        before = server.metrics()
        plain.sendall(frame(Opcode.TEXT, b"p"))
        seen = -1.0
        pause = threading.Event()
        while seen != (tokens := server.metrics()["streamgauge_tokens_total"]) or not tokens:
            seen = tokens
            pause.wait(0.1)
        after = server.metrics()
        assert after["process_resident_memory_bytes"] - before["process_resident_memory_bytes"] < 5_000_000
        assert after["streamgauge_connections_streaming"] == 1
        assert tokens < 100_000, "the source waits for the reader"


# -- pages and the rest ------------------------------------------------------------------------------------------------


def page(server: Any, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    head, _, body = raw(server, f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n").partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


def test_the_page_has_a_strict_policy_and_no_inline_code_but_its_own(server: Any) -> None:
    status, headers, body = page(server, "/?tokens=5")
    policy = headers["Content-Security-Policy"]
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert f"ws://127.0.0.1:{server.port}" in policy
    assert b"innerHTML" not in body
    assert b"onclick" not in body
    assert int(headers["Content-Length"]) == len(body)


def test_a_host_that_is_none_does_not_reach_the_policy(server: Any) -> None:
    reply = raw(server, "GET / HTTP/1.1\r\nHost: x; script-src *\r\n\r\n")
    assert b"script-src *" not in reply


def test_health(server: Any) -> None:
    assert page(server, "/healthz")[::2] == (200, b"ok\n")
    assert page(server, "/healthz", "HEAD")[::2] == (200, b"")
    status, headers, _ = page(server, "/healthz", "POST")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/nothing", "/page.html", "/favicon.ico", "/healthz/", "/%2e%2e/", "*"])
def test_other_paths(server: Any, path: str) -> None:
    assert page(server, path)[0] == 404


def test_metrics_of_a_known_dialogue(start_server: Start) -> None:
    server = start_server("--tokens", "3", "--gap-ms", "1")
    with Client(server.url) as client:
        client.say("p")
        client.hear_all()
        client.say(ACK, STOP, "p", STOP)
        client.hear()
        now = server.metrics()
        assert now["streamgauge_connections_open"] == 1
    after = server.wait_for("streamgauge_connections_open", 0)
    text = server.get("/metrics")
    expected = {
        "streamgauge_connections_accepted_total": 1,
        'streamgauge_connections_closed_total{code="1000"}': 1,
        "streamgauge_prompts_total": 2,
        'streamgauge_answers_total{outcome="completed"}': 1,
        'streamgauge_answers_total{outcome="stopped"}': 1,
        "streamgauge_tokens_total": 3,
        "streamgauge_acks_total": 3,
        "streamgauge_stale_acks_total": 1,
        "streamgauge_stops_total": 1,
        "streamgauge_stale_stops_total": 1,
        "streamgauge_processes": 1,
    }
    assert {name: after[name] for name in expected} == expected
    assert after["process_resident_memory_bytes"] > 1_000_000
    assert after["process_cpu_seconds_total"] > 0
    assert "# TYPE streamgauge_tokens_total counter" in text
    assert "# TYPE streamgauge_connections_open gauge" in text


def test_a_blocked_loop_shows_in_the_lag(start_server: Start) -> None:
    server = start_server()
    server.signal(signal.SIGSTOP)
    threading.Event().wait(0.5)
    server.signal(signal.SIGCONT)
    deadline = time.monotonic() + 10
    while server.metrics()["streamgauge_event_loop_lag_max_seconds"] < 0.3:
        assert time.monotonic() < deadline


def test_a_query_is_refused_before_the_handshake(server: Any) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(server.url + "?gapms=20"):
        pass
    assert refused.value.response.status_code == 400
    assert refused.value.response.body == b"this server knows no parameter 'gapms'; did you mean gap_ms?\n"
    assert "gapms=20" not in server.log(), "a query may hold a secret"


def test_the_history_file_holds_what_was_sent(start_server: Start, tmp_path: Path) -> None:
    history = tmp_path / "history.txt"
    server = start_server("--history", str(history), "--gap-ms", "1", "--tokens", "3")
    heard = []
    for name in ("a", "b"):
        with Client(f"{server.url}?trace=run&connection={name}") as client:
            for _ in range(2):
                client.say("p")
                heard += client.hear_all()[:-1]
    assert server.stop() == 0
    assert history.read_text().splitlines() == heard
    assert [text.rpartition(":")[0] for text in heard[:4]] == ["run:a:0:0", "run:a:0:1", "run:a:0:2", "run:a:1:0"]


def test_tls(start_server: Start, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain = tmp_path / "both.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(chain)
    server = start_server("--certfile", str(chain), "--tokens", "2", "--gap-ms", "1")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    assert server.url.startswith("wss://")
    with Client(server.url, ssl=context) as client:
        client.say("p")
        assert client.hear_all() == ["0", "1", END]
        assert server.get("/healthz", context) == "ok\n"
        assert not raw(server, handshake()).startswith(b"HTTP")
        server.signal(signal.SIGTERM)
        assert client.closing().code == 1001
    assert server.process.wait(20) == 0
    assert "Traceback" not in server.log()


def test_compression_on_request_only(start_server: Start) -> None:
    offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
    for options, compressed in (((), False), (("--compression",), True)):
        server = start_server(*options, "--tokens", "1", "--gap-ms", "0")
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
            plain.sendall(handshake(extra=offer).encode())
            assert (b"permessage-deflate" in plain.recv(4096)) is compressed
        with connect(server.url) as client:
            client.send("p")
            assert client.recv(10) == "0"


def test_a_deflate_bomb_is_refused_without_unpacking_it(start_server: Start) -> None:
    import zlib

    server = start_server("--compression")
    before = server.metrics()["process_resident_memory_bytes"]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packer.compress(bytes(50_000_000)) + packer.flush(zlib.Z_SYNC_FLUSH)
    plain = opened(server, extra="Sec-WebSocket-Extensions: permessage-deflate\r\n")
    bomb = bytearray(Frame(Opcode.TEXT, data[:-4]).serialize(mask=True))
    bomb[0] |= 0x40  # RSV1: compressed
    plain.sendall(bomb)
    assert close_code(plain) == 1009
    assert server.metrics()["process_resident_memory_bytes"] - before < 10_000_000
