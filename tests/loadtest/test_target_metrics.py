"""What the target says of itself, where it says something, and all the ways in which it may not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.loadtest.hostile import HostileServer, Peer, every_byte, respond

OPEN = b"streamgauge_connections_open "


def page(body: bytes, status: bytes = b"200 OK") -> Any:
    return respond(b"HTTP/1.1 " + status + b"\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body)


def slowly(peer: Peer) -> None:
    """A byte now and then, each in time for a reader that only times its reads."""
    peer.sock.settimeout(0.5)
    for byte in every_byte(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000):
        try:
            peer.send(byte)
            if peer.sock.recv(1) == b"":
                return
        except TimeoutError:
            continue
        except OSError:
            return


def test_a_page_is_read_or_there_is_none(play: Callable[..., Any], serve: Callable[..., Any]) -> None:
    raws = {
        "good": page(OPEN + b'3\nother{b="2",a="1"} 1.5\nprocess_cpu_seconds_total 0.25\n'),
        "odd_values": page(OPEN + b"NaN\nstreamgauge_tokens_total +Inf\nprocess_resident_memory_bytes 5\n"),
        "foreign": page(b"something_else 1\n"),
        "missing": page(OPEN + b"1\n", b"404 Not Found"),
        "no_text": page(OPEN + b"\xff\xfe"),
        "no_prometheus": page(OPEN + b'1\n{} {{\nx{a="} 1\n# TYPE\n'),
        "garbage": respond(b"SSH-2.0\r\n\r\n"),
        "closes": respond(b""),
        "slow": slowly,
    }
    servers = {name: HostileServer(raw=lambda peer, act=act: (peer.read_request(), act(peer))[1]) for name, act in raws.items()}
    try:
        reference = serve()
        names = ["reference", *servers, "refused"]
        urls = [reference.url, *(server.url("ws") for server in servers.values()), "ws://127.0.0.1:9/ws"]
        told = dict(zip(names, play("metrics", *urls), strict=True))
    finally:
        for server in servers.values():
            server.close()
    assert told["reference"]["columns"]["server_open"] == 0
    assert set(told["reference"]["columns"]) == {"server_open", "server_streaming", "server_tokens", "server_cpu_ns", "server_rss_bytes"}
    assert told["good"]["samples"] == {"streamgauge_connections_open": 3, 'other{a="1",b="2"}': 1.5, "process_cpu_seconds_total": 0.25}
    assert told["good"]["columns"] == {"server_open": 3, "server_cpu_ns": 250_000_000}
    assert told["odd_values"]["columns"] == {"server_rss_bytes": 5}
    for name in ("foreign", "missing", "no_text", "no_prometheus", "garbage", "closes", "refused", "slow"):
        assert told[name]["samples"] is None, name
    assert told["slow"]["took_s"] < 15
