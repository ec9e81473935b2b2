"""Answers streamed over HTTP, from servers that do anything, byte by byte."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.adapter import Call
from loadtest.event_stream import request_bytes
from loadtest.http_response import Response, ResponseError
from loadtest.opening import Target
from loadtest.settings import parse_target
from tests.loadtest.hostile import Act, HostileServer, Peer

ROOT = Path(__file__).resolve().parents[2]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(data: str, name: str = "") -> bytes:
    return chunk((f"event: {name}\n" if name else "").encode() + f"data: {data}\n\n".encode())


ANSWER = CHUNKED + event("a") + event("b") + event("c") + event("[DONE]") + LAST


def answering(*pieces: bytes, turns: int = 1, then: str = "wait") -> Act:
    """Answer each request with the pieces, one send each; then wait until the client has gone, close or reset."""

    def act(peer: Peer) -> None:
        for turn in range(turns):
            if turn:
                peer.request = b""
                peer.read_request()
            for piece in pieces:
                peer.send(piece)
        if then == "reset":
            peer.reset()
        elif then == "wait":
            peer.wait_until_gone()

    return act


def every_byte(data: bytes) -> Act:
    return answering(*[data[i : i + 1] for i in range(len(data))])


def _forever(peer: Peer) -> None:
    """Tokens until the client has gone."""
    peer.send(CHUNKED)
    try:
        while True:
            peer.send(event("token") * 10)
    except OSError:
        pass


SCRIPTS: dict[str, Act] = {
    "whole": answering(ANSWER),
    "bytes": every_byte(ANSWER),
    "kept": answering(ANSWER, turns=3),
    "twelve": answering(CHUNKED, *[event("token") for _ in range(12)], event("[DONE]"), LAST, turns=2),
    "length": answering(OK + b"Content-Length: 18\r\n\r\ndata: a\n\ndata: b\n\n"),
    "until_close": answering(OK + b"Connection: close\r\n\r\ndata: a\n\ndata: b\n\n", then="close"),
    "not_kept": answering(CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), event("a"), event("[DONE]"), LAST),
    "early": answering(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", ANSWER),
    "no_done": answering(CHUNKED, event("a"), LAST),
    "empty": answering(CHUNKED, event("[DONE]"), LAST),
    "after_done": answering(CHUNKED, event("a"), event("[DONE]"), event("ghost"), LAST),
    "error_event": answering(CHUNKED, event("a"), event("it broke", "error"), LAST),
    "status_500": answering(b"HTTP/1.1 500 Oh No\r\nContent-Length: 9\r\n\r\nit\nbroke\n", turns=2),
    "status_401": answering(b'HTTP/1.1 401 Unauthorized\r\nContent-Length: 15\r\n\r\n{"error":"key"}'),
    "redirect": answering(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n"),
    "html": answering(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\n<p>hi"),
    "gzip": answering(CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"), chunk(b"\x1f\x8b"), LAST),
    "truncated": answering(CHUNKED, event("a"), then="close"),
    "truncated_after_done": answering(CHUNKED, event("a"), event("[DONE]"), then="close"),
    "reset": answering(CHUNKED, event("a"), then="reset"),
    "no_answer": answering(then="close"),
    "nonsense": answering(b"what is this\r\n\r\n"),
    "bad_chunk": answering(CHUNKED, b"zz\r\n"),
    "second_response": answering(ANSWER + ANSWER),
    "upgrade": answering(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
    "silent": answering(CHUNKED, event("a")),
    "silent_after_done": answering(CHUNKED, event("a"), event("[DONE]")),
    "not_utf_8": answering(CHUNKED, chunk(b"data: \xff\n\n"), LAST),
    "too_long": answering(CHUNKED, event("x" * 5000), LAST),
    "long_head": answering(OK + b"X-Padding: " + b"x" * 100_000 + b"\r\n\r\n"),
    "forever": _forever,
}
# Script: outcome, error, messages, and words of the detail.
EXPECTED: dict[str, tuple[str, str | None, int, str]] = {
    "whole": ("completed", None, 3, ""), "bytes": ("completed", None, 3, ""), "length": ("completed", None, 2, ""),
    "until_close": ("completed", None, 2, ""), "not_kept": ("completed", None, 1, ""), "early": ("completed", None, 3, ""),
    "no_done": ("completed", None, 1, ""), "empty": ("empty", None, 0, ""), "after_done": ("completed", None, 1, ""),
    "error_event": ("failed", "server_error", 1, "it broke"), "status_500": ("failed", "server_error", 0, "HTTP 500 Oh No: it broke"),
    "status_401": ("failed", "server_error", 0, 'HTTP 401 Unauthorized: {"error":"key"}'),
    "redirect": ("failed", "server_error", 0, "HTTP 307 Temporary Redirect"),
    "html": ("failed", "protocol_error", 0, "expected a response of text/event-stream, got text/html: <p>hi"),
    "gzip": ("failed", "protocol_error", 0, "expected a body without encoding, got gzip"),
    "truncated": ("failed", "connection_lost", 1, "the connection ended before the response"),
    "truncated_after_done": ("completed", None, 1, ""), "reset": ("failed", "connection_lost", 1, "ECONNRESET"),
    "no_answer": ("failed", "connection_lost", 0, "the connection ended before the response began"),
    "nonsense": ("failed", "protocol_error", 0, "no valid HTTP response"), "bad_chunk": ("failed", "protocol_error", 0, "no valid HTTP"),
    "second_response": ("failed", "protocol_error", 0, "a second response"), "upgrade": ("failed", "protocol_error", 0, "upgrade"),
    "silent": ("failed", "stalled", 1, "nothing arrived"), "silent_after_done": ("completed", None, 1, ""),
    "not_utf_8": ("failed", "protocol_error", 0, "not UTF-8"), "too_long": ("failed", "message_too_big", 0, "more than 4096 bytes"),
    "long_head": ("failed", "protocol_error", 0, "head of the response"),
}  # fmt: skip
OPTIONS = {"end": "[DONE]"}


def drive(cases: list[dict[str, Any]], **environment: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "drivers" / "adapter_driver.py")], input=json.dumps(cases), text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, timeout=90, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    with HostileServer(SCRIPTS) as running:
        yield running


@pytest.fixture(scope="module")
def found(server: HostileServer) -> dict[str, dict[str, Any]]:
    """What came of one conversation with each server."""
    cases = [
        {"adapter": "sse", "options": OPTIONS, "url": server.url(name, "http"), "patience_s": 1.5, "max_message_bytes": 4096, "wait_s": 0.2}
        for name in EXPECTED
    ]
    return dict(zip(EXPECTED, drive(cases), strict=True))


@pytest.mark.parametrize("name", EXPECTED)
def test_what_comes_of_a_conversation(found: dict[str, dict[str, Any]], name: str) -> None:
    outcome, error, messages, words = EXPECTED[name]
    (row,) = found[name]["rows"]
    assert (row["outcome"], row["error"], row["messages"]) == (outcome, error, messages), row
    assert words in (row["error_detail"] or "")
    counts = found[name]["counts"]
    assert counts["conversations_started"] == 1
    assert counts["closed_clean"] + counts["closed_abnormal"] == counts["connects_succeeded"] == 1
    assert counts["unstamped"] == 0


def test_how_connections_ended(found: dict[str, dict[str, Any]]) -> None:
    abnormal = {name for name, result in found.items() if result["counts"]["closed_abnormal"]}
    assert abnormal == {
        "truncated", "truncated_after_done", "reset", "no_answer", "nonsense", "bad_chunk", "second_response", "upgrade", "silent",
        "silent_after_done", "not_utf_8", "too_long", "long_head",
    }  # fmt: skip


def test_a_token_after_the_end_is_a_ghost(found: dict[str, dict[str, Any]]) -> None:
    assert found["after_done"]["counts"]["ghost_tokens"] == 1
    assert sum(result["counts"]["ghost_tokens"] for result in found.values()) == 1


def test_a_connection_is_kept_for_the_next_answer(server: HostileServer) -> None:
    kept, refused = drive(
        [
            {"adapter": "sse", "options": OPTIONS, "url": server.url(name, "http"), "turns": turns}
            for name, turns in (("kept", 3), ("status_500", 2))
        ]
    )
    assert [row["outcome"] for row in kept["rows"]] == ["completed"] * 3
    assert [row["outcome"] for row in refused["rows"]] == ["failed"] * 2
    assert kept["counts"]["connects_succeeded"] == refused["counts"]["connects_succeeded"] == 1


def test_a_stop_closes_the_connection(server: HostileServer) -> None:
    ((stopped,), (twice, again)) = (
        result["rows"]
        for result in drive(
            [
                {"adapter": "sse", "options": OPTIONS, "url": server.url("forever", "http"), "stop": {"tokens": 3}},
                {
                    "adapter": "sse",
                    "options": OPTIONS,
                    "url": server.url("twelve", "http"),
                    "stop": {"tokens": 2},
                    "stop_turns": [0],
                    "turns": 2,
                },
            ]
        )
    )
    for row in (stopped, twice):
        assert (row["outcome"], row["stop_latency_ns"], row["overrun_tokens"], row["error"]) == ("stopped", None, None, None)
        assert row["stop_sent_at_ns"] > row["sent_at_ns"]
    assert (again["outcome"], again["messages"], again["connection"]) == ("completed", 12, twice["connection"] + 1)


def test_nobody_listens() -> None:
    (result,) = drive([{"adapter": "sse", "url": "http://127.0.0.1:1/"}])
    assert "refused" in result["error"]


@given(st.lists(st.integers(0, len(ANSWER)), max_size=8))
@settings(max_examples=200)
def test_the_pieces_of_a_response_change_nothing(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(ANSWER)]
    response = Response()
    body = b"".join(response.feed(ANSWER[start:end]) for start, end in itertools.pairwise(edges) if start != end)
    assert body == b"data: a\n\ndata: b\n\ndata: c\n\ndata: [DONE]\n\n"
    assert (response.status, response.content_type, response.complete, response.keep_alive) == (200, "text/event-stream", True, True)
    with pytest.raises(ResponseError):
        response.feed(b"x")


def request_of(url: str, call: Call, **more: Any) -> list[str]:
    target = Target(uri=parse_target(url, "http"), **more)
    return request_bytes(call, target, target.uri.resource_name).decode().split("\r\n")


def test_the_request_is_what_servers_expect() -> None:
    lines = request_of("http://h:8000/v1/x?a=b", Call(b"{}", headers=(("Content-Type", "application/json"),)), headers=(("X-One", "1"),))
    assert lines[0] == "POST /v1/x?a=b HTTP/1.1"
    assert {"Host: h:8000", "Content-Length: 2", "Content-Type: application/json", "X-One: 1", "Accept-Encoding: identity"} <= set(lines)
    assert lines[-2:] == ["", "{}"]
    plain = request_of("https://user:pass@[::1]/", Call(method="GET", path="/other"))
    assert plain[0] == "GET /other HTTP/1.1"
    assert {"Host: [::1]", "Authorization: Basic dXNlcjpwYXNz"} <= set(plain)
    assert not any(line.startswith("Content-Length") for line in plain)


def test_an_option_stands_before_the_adapters_own_header() -> None:
    lines = request_of("http://h/", Call(headers=(("Authorization", "Bearer theirs"),)), headers=(("authorization", "Bearer ours"),))
    assert [line for line in lines if re.match("authorization", line, re.IGNORECASE)] == ["authorization: Bearer ours"]


def test_a_header_cannot_smuggle_another() -> None:
    with pytest.raises(ValueError, match="line breaks"):
        request_of("http://h/", Call(headers=(("X", "a\r\nY: b"),)))
