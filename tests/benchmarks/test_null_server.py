"""The null server over real sockets: the rules of a conversation as far as they show on the wire, and its modes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from benchmarks import null_wire as wire
from benchmarks.null_answer import Answer, answer_for

ROOT = Path(__file__).parents[2]
MASK = b"\x01\x02\x03\x04"
ACK = b"\x81\x80" + MASK
REQUEST = (
    b"GET /ws%s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@contextmanager
def null_server(*options: str) -> Iterator[str]:
    """Start one on a free port and yield its address; it must end with 0 when told to."""
    command = [sys.executable, "-m", "benchmarks.null_server", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.fullmatch(r"listening on (ws://127\.0\.0\.1:\d+/ws)\n", process.stdout.readline())
            assert found
            yield found[1]
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()


@pytest.fixture(scope="module", params=["epoll", "poll"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with null_server("--tokens", "5", "--poller", request.param) as address:
        yield address


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].removesuffix("/ws"))


def talk(url: str, query: str = "") -> ClientConnection:
    return connect(url + query, compression=None, ping_interval=None, proxy=None, close_timeout=5)


def fetch(url: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url.replace("ws://", "http://").removesuffix("/ws") + path, timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metric(url: str, name: str) -> int:
    found = re.search(rf"^streamgauge_{name} (\d+)$", fetch(url, "/metrics")[1], re.MULTILINE)
    assert found
    return int(found[1])


def eventually(url: str, name: str, value: int) -> None:
    deadline_s = time.monotonic() + 20
    while metric(url, name) != value:
        assert time.monotonic() < deadline_s, f"{name} is {metric(url, name)}, not {value}"


def receive_answer(connection: ClientConnection, *, acknowledge: bool = True) -> list[str]:
    tokens = []
    while (message := connection.recv(10)) != "_end_":
        assert isinstance(message, str)
        tokens.append(message)
        if acknowledge:
            connection.send("")
    return tokens


def nothing_comes(connection: ClientConnection) -> bool:
    """Whether a pong is the next thing to come: what the server had to say before it would have arrived."""
    assert connection.ping().wait(10)
    with pytest.raises(TimeoutError):
        connection.recv(0)
    return True


# -- the wire, pure ----------------------------------------------------------------------------------------------------


def client_frame(body: bytes, first: int = wire.TEXT) -> bytes:
    size = len(body)
    length = bytes((0x80 + size,)) if size < 126 else b"\xfe" + size.to_bytes(2) if size < 65536 else b"\xff" + size.to_bytes(8)
    return bytes((first,)) + length + MASK + wire.unmask(body, MASK)


@given(st.lists(st.one_of(st.binary(max_size=20), st.binary(min_size=120, max_size=130), st.just(bytes(65536))), max_size=4), st.data())
def test_frames_are_read_whole_or_left_for_later(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(client_frame, bodies))
    cut = data.draw(st.integers(0, len(stream)))
    first, taken, code = wire.read_frames(stream[:cut])
    rest, taken_later, code_later = wire.read_frames(stream[taken:])
    assert (code, code_later, taken + taken_later) == (0, 0, len(stream))
    assert [body for _, body in first + rest] == bodies


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"\x81\x05hello...", 1002), (b"\x81\xfe\x00\x05", 0), (client_frame(bytes(65536)), 0), (client_frame(bytes(65537)), 1009)],
)
def test_a_frame_that_no_client_may_send_has_a_close_code(data: bytes, code: int) -> None:
    assert wire.read_frames(data)[2] == code


def test_the_accept_key_is_the_one_of_the_rfc() -> None:
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in wire.switch_protocols(b"dGhlIHNhbXBsZSBub25jZQ==")


# -- the numbers of an answer ------------------------------------------------------------------------------------------


def test_a_query_changes_the_options() -> None:
    assert answer_for(b"", Answer(tokens=7)) == Answer(tokens=7)
    assert answer_for(b"tokens=9&gap_ms=0.5&window=8&pack=2&stamp=1", Answer()) == Answer(tokens=9, gap_ms=0.5, window=8, pack=2, stamp=1)


@pytest.mark.parametrize("query", ["tokens=-1", "tokens=x", "window=1&pack=2", "gap_ms=nan", "join=6", "leak=2", "colour=red", "tokens="])
def test_a_wrong_query_is_refused_with_a_sentence(url: str, query: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        answer_for(query.encode(), Answer())
    assert fetch(url, "/healthz") == (200, "ok\n")
    with pytest.raises(Exception, match="HTTP 400"):
        talk(url, "?" + query)


@pytest.mark.parametrize(
    ("answer", "short"),
    [
        (Answer(), True),
        (Answer(window=16, close=1, leak=1), True),
        (Answer(window=0), False),
        (Answer(window=17), False),
        (Answer(stamp=1), False),
        (Answer(gap_ms=1), False),
        (Answer(join=2), False),
        (Answer(ttft_ms=1), False),
    ],
)
def test_which_answers_take_the_short_path(answer: Answer, short: bool) -> None:
    assert answer.short_path is short


# -- conversations -----------------------------------------------------------------------------------------------------

# The same dialogue on the short path and, by a stamp, a gap or a joined text, on the other one.
PATHS = pytest.mark.parametrize("path", ["", "&join=2", "&stamp=1", "&gap_ms=0.1", "&ttft_ms=0.1"])


SIZES = [(5, 1), (1, 1), (0, 1), (5, 3), (2, 3), (5, 5), (40, 16), (40, 20), (5, 0), (0, 0), (300, 0)]


@PATHS
@pytest.mark.parametrize(("tokens", "window"), SIZES)
def test_an_answer_is_its_tokens_and_one_end(url: str, path: str, tokens: int, window: int) -> None:
    with talk(url, f"?tokens={tokens}&window={window}{path}") as connection:
        for _ in range(3):
            connection.send("hello")
            assert len(receive_answer(connection, acknowledge=window > 0)) == tokens
        assert nothing_comes(connection)


@PATHS
def test_no_more_tokens_than_the_window(url: str, path: str) -> None:
    with talk(url, "?tokens=5&window=3" + path) as connection:
        connection.send("hello")
        for _ in range(3):
            connection.recv(10)
        assert nothing_comes(connection)
        connection.send("")
        connection.recv(10)
        assert nothing_comes(connection)
        connection.send("")
        connection.recv(10)
        for _ in range(2):
            connection.send("")
        assert nothing_comes(connection)
        connection.send("")
        assert connection.recv(10) == "_end_"


@PATHS
def test_stop_ends_at_once_and_surplus_acknowledgements_start_nothing(url: str, path: str) -> None:
    with talk(url, "?tokens=50&window=2" + path) as connection:
        connection.send("hello")
        connection.recv(10)
        connection.recv(10)
        connection.send("stop")
        assert connection.recv(10) == "_end_"
        for surplus in ("", "", "stop", "stop", ""):
            connection.send(surplus)
        assert nothing_comes(connection)
        connection.send("again")
        assert len(receive_answer(connection)) == 50
        assert nothing_comes(connection)


@PATHS
def test_a_prompt_supersedes_without_an_end(url: str, path: str) -> None:
    with talk(url, "?tokens=4&window=1" + path) as connection:
        connection.send("one")
        connection.recv(10)
        connection.send("two")
        assert len(receive_answer(connection)) == 4
        assert nothing_comes(connection)


def test_the_words_of_the_protocol_may_be_prompts(url: str) -> None:
    with talk(url) as connection:
        for prompt in ("_end_", "Stop", "stop ", "s" * 70, "p" * 300, "q" * 65536):
            connection.send(prompt)
            assert len(receive_answer(connection)) == 5


def test_stamps_say_when_a_token_was_sent_and_it_was_never_early(url: str) -> None:
    with talk(url, "?tokens=20&gap_ms=2&ttft_ms=3&stamp=1&window=0") as connection:
        before_ns = time.time_ns()
        connection.send("hello")
        stamps = [int(token) for token in receive_answer(connection, acknowledge=False)]
        after_ns = time.time_ns()
    assert stamps == sorted(stamps)
    assert all(stamp >= before_ns + 3_000_000 + index * 2_000_000 for index, stamp in enumerate(stamps))
    assert stamps[-1] <= after_ns


def test_a_superseded_answer_leaves_nothing_in_the_schedule(url: str) -> None:
    with talk(url, "?tokens=6&gap_ms=10&stamp=1&window=0") as connection:
        connection.send("one")
        connection.recv(10)
        before_ns = time.time_ns()
        connection.send("two")
        stamps = [int(token) for token in receive_answer(connection, acknowledge=False)][-6:]
    assert all(stamp >= before_ns + index * 10_000_000 for index, stamp in enumerate(stamps))


def test_join_puts_two_texts_into_one_frame(url: str) -> None:
    with talk(url, "?tokens=2&join=2") as connection:
        connection.send("hello")
        assert receive_answer(connection) == ["token token"] * 2


def test_close_ends_the_connection_after_the_answer(url: str) -> None:
    with talk(url, "?close=1") as connection:
        connection.send("hello")
        receive_answer(connection)
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1000


# -- byte by byte ------------------------------------------------------------------------------------------------------


@contextmanager
def raw(url: str, query: bytes = b"") -> Iterator[socket.socket]:
    """Connect without a library; the upgrade is done."""
    port = port_of(url)
    with socket.create_connection(("127.0.0.1", port), 10) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.sendall(REQUEST % query)
        assert read_until(peer, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        yield peer


def read_until(peer: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        more = peer.recv(65536)
        assert more, data
        data += more
    return data


def test_a_request_may_come_in_pieces(url: str) -> None:
    port = port_of(url)
    with socket.create_connection(("127.0.0.1", port), 10) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in REQUEST % b"?tokens=1" + client_frame(b"hello"):
            peer.sendall(bytes((byte,)))
        assert read_until(peer, wire.TOKEN).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("cut", range(1, 6))
def test_an_acknowledgement_may_come_in_pieces(url: str, cut: int) -> None:
    with raw(url, b"?tokens=3") as peer, talk(url) as other:
        peer.sendall(client_frame(b"hello"))
        for _ in range(3):
            assert read_until(peer, wire.TOKEN) == wire.TOKEN
            peer.sendall(ACK[:cut])
            assert nothing_comes(other)  # by now the server has read the first piece
            peer.sendall(ACK[cut:])
        assert read_until(peer, wire.END) == wire.END


def test_the_rest_of_a_prompt_that_looks_like_an_acknowledgement_is_none(url: str) -> None:
    prompt = b"\x81\x86" + MASK + ACK
    with raw(url, b"?tokens=3") as peer, talk(url) as other:
        peer.sendall(client_frame(b"hello"))
        assert read_until(peer, wire.TOKEN) == wire.TOKEN
        peer.sendall(prompt[:6])
        assert nothing_comes(other)
        peer.sendall(prompt[6:])  # supersedes: three tokens follow
        for _ in range(3):
            assert read_until(peer, wire.TOKEN) == wire.TOKEN
            peer.sendall(ACK)
        assert read_until(peer, wire.END) == wire.END


def test_many_messages_in_one_segment(url: str) -> None:
    with raw(url, b"?tokens=12&window=8") as peer:
        peer.sendall(client_frame(b"hello") + ACK * 12 + ACK * 5 + client_frame(b"stop") + client_frame(b"again"))
        assert read_until(peer, wire.END + wire.TOKEN * 8) == wire.TOKEN * 12 + wire.END + wire.TOKEN * 8


def test_pack_puts_two_frames_into_one_segment(url: str) -> None:
    with raw(url, b"?tokens=5&pack=2&window=2") as peer:
        peer.sendall(client_frame(b"hello"))
        for packed in (2, 2, 1):
            assert peer.recv(65536) == wire.TOKEN * packed
            peer.sendall(ACK * packed)
        assert peer.recv(65536) == wire.END


@pytest.mark.parametrize(("frame", "code"), [(client_frame(b"x", wire.BINARY), 1003), (b"\x81\x05hello", 1002)])
def test_what_no_client_may_send_closes(url: str, frame: bytes, code: int) -> None:
    with raw(url) as peer:
        peer.sendall(frame)
        assert read_until(peer, code.to_bytes(2)) == b"\x88\x02" + code.to_bytes(2)
        assert peer.recv(10) == b""


def test_a_client_that_does_not_read_gets_everything_later(url: str) -> None:
    tokens = 2_000_000
    expected = tokens * len(wire.TOKEN) + len(wire.END)
    with raw(url, b"?tokens=%d&window=0&pack=64" % tokens) as peer, talk(url) as other:
        peer.sendall(client_frame(b"hello"))
        for _ in range(50):  # the others are served meanwhile
            other.send("hello")
            assert len(receive_answer(other)) == 5
        received = 0
        tail = b""
        while received < expected:
            data = peer.recv(1 << 20)
            assert data
            received += len(data)
            tail = (tail + data)[-len(wire.END) :]
    assert (received, tail) == (expected, wire.END)


# -- beside the conversations ------------------------------------------------------------------------------------------


def test_http(url: str) -> None:
    assert fetch(url, "/healthz") == (200, "ok\n")
    assert fetch(url, "/nothing")[0] == 404
    assert fetch(url, "/ws")[0] == 426


def test_everything_is_counted() -> None:
    with null_server("--tokens", "6", "--window", "2") as url:
        for query in ("", "?join=2"):
            with talk(url, query) as connection:
                connection.send("hello")
                receive_answer(connection)
                connection.send("")
                connection.send("stop")
                connection.send("hello")
                connection.recv(10)
                connection.recv(10)
                connection.send("stop")
                assert connection.recv(10) == "_end_"
                assert metric(url, "connections_open") == 1
            eventually(url, "connections_open", 0)
        counted = {name: metric(url, name + "_total") for name in ("prompts", "tokens", "acks", "stale_acks", "stops", "stale_stops")}
        assert counted == {"prompts": 4, "tokens": 16, "acks": 12, "stale_acks": 2, "stops": 2, "stale_stops": 2}
        assert (metric(url, "connections_accepted_total"), metric(url, "connections_closed_total")) == (2, 2)


def test_a_leaking_server_keeps_its_sockets_and_says_so() -> None:
    with null_server("--leak", "1") as url:
        for _ in range(3):
            with raw(url) as peer:
                peer.sendall(client_frame(b"hello"))
                assert read_until(peer, wire.TOKEN) == wire.TOKEN
        eventually(url, "connections_streaming", 0)
        assert metric(url, "connections_open") == 3
        assert metric(url, "connections_closed_total") == 0


def test_a_storm_of_connects_is_accepted() -> None:
    with null_server("--tokens", "1") as url:
        peers = []
        try:
            port = port_of(url)
            for _ in range(600):
                peers.append(socket.create_connection(("127.0.0.1", port), 10))
                peers[-1].sendall(REQUEST % b"")
            for peer in peers:
                assert read_until(peer, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
            assert metric(url, "connections_open") == 600
        finally:
            for peer in peers:
                peer.close()
        eventually(url, "connections_open", 0)


def test_a_port_in_use_is_one_sentence_and_exit_code_2() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-m", "benchmarks.null_server", "--port", str(taken.getsockname()[1])]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "choose another port" in ended.stderr


@pytest.mark.parametrize("options", [["--window", "1", "--pack", "2"], ["--tokens", "-1"], ["--cpu", "99999"]])
def test_wrong_options_are_refused(options: list[str]) -> None:
    if "--cpu" in options and not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no sched_setaffinity")
    command = [sys.executable, "-m", "benchmarks.null_server", *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
