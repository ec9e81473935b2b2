"""The engine's connection against servers that do anything: in a process of its own, since gevent patches where it runs."""

from __future__ import annotations

import base64
import json
import random
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.exceptions import PayloadTooBig
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from tests.loadtest.hostile import (
    END,
    Act,
    HostileServer,
    Peer,
    after_prompt,
    close_frame,
    every_byte,
    frame,
    in_one_segment,
    respond,
    text,
)

TOKENS = (text("a"), text("b"), text("c"), END)
WHOLE = ["a", "b", "c", "_end_"]
LONG = {126: "x" * 126, 65_535: "y" * 65_535, 65_536: "z" * 65_536}


def reset_after(*pieces: bytes) -> Act:
    return after_prompt(*pieces, end=Peer.reset)


def never_read(peer: Peer) -> None:
    """Send pings for ever and read none of the answers."""
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.send(peer.upgrade())
    peer.read_frame()
    ping = frame(9, b"p" * 125) * 500
    try:
        while True:
            peer.send(ping)
    except OSError:
        pass


def flood_pings(peer: Peer) -> None:
    """Many pings, whose answers are read, and then the answer."""
    peer.send(peer.upgrade())
    peer.read_frame()
    for _ in range(20):
        peer.send(frame(9, b"12345678") * 100)
        assert [peer.read_frame() for _ in range(100)] == [(10, b"12345678")] * 100
    peer.send(b"".join(TOKENS))
    peer.say_goodbye()


def half_a_message(peer: Peer) -> None:
    peer.send(peer.upgrade())
    peer.read_frame()
    peer.send(frame(1, b"half", fin=False))
    peer.wait_until_gone()


def answer_in_turns(peer: Peer) -> None:
    """Two conversations, each token acknowledged before the next."""
    peer.send(peer.upgrade())
    for _ in range(2):
        assert peer.read_frame()[0] == 1
        for token in ("a", "b"):
            peer.send(text(token))
            assert peer.read_frame() == (1, b"")
        peer.send(END)
    peer.say_goodbye()


def stop_at_once(peer: Peer) -> None:
    peer.send(peer.upgrade())
    peer.read_frame()
    peer.send(text("a"))
    heard = [peer.read_frame()[1], peer.read_frame()[1]]
    assert sorted(heard) == [b"", b"stop"]
    peer.send(text("late") + END)
    peer.say_goodbye()


def say_what_was_offered(peer: Peer) -> None:
    chosen = peer.headers.get("sec-websocket-protocol", "").partition(",")[0].strip()
    peer.send(peer.upgrade(f"Sec-WebSocket-Protocol: {chosen}"))
    peer.read_frame()
    for name in ("x-one", "authorization", "origin", "sec-websocket-protocol"):
        peer.send(text(f"{name}={peer.headers.get(name)}"))
    peer.send(END)
    peer.say_goodbye()


def say_address(peer: Peer) -> None:
    peer.send(peer.upgrade())
    peer.read_frame()
    peer.send(text(peer.sock.getpeername()[0]) + END)
    peer.say_goodbye()


def compress(peer: Peer) -> None:
    assert "permessage-deflate" in peer.headers["sec-websocket-extensions"]
    peer.send(peer.upgrade("Sec-WebSocket-Extensions: permessage-deflate"))
    peer.read_frame()
    squeeze = zlib.compressobj(wbits=-15)
    for message in (b"a" * 300, b"a" * 300, b"_end_"):
        packed = squeeze.compress(message) + squeeze.flush(zlib.Z_SYNC_FLUSH)
        peer.send(frame(1, packed[:-4], rsv=4))
    peer.say_goodbye()


def bomb(peer: Peer) -> None:
    peer.send(peer.upgrade("Sec-WebSocket-Extensions: permessage-deflate"))
    peer.read_frame()
    squeeze = zlib.compressobj(9, wbits=-15)
    peer.send(frame(1, (squeeze.compress(bytes(64 << 20)) + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4], rsv=4))
    peer.say_goodbye()


def endless_header(peer: Peer) -> None:
    try:
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\n")
        while True:
            peer.send(b"X-More: " + b"x" * 1000 + b"\r\n")
    except OSError:
        pass


def endless_fragments(peer: Peer) -> None:
    peer.send(peer.upgrade())
    peer.read_frame()
    try:
        peer.send(frame(1, b"x", fin=False))
        while True:
            peer.send(frame(0, b"x" * 1000, fin=False) * 16)
    except OSError:
        pass


def go_on_after_goodbye(peer: Peer) -> None:
    """Stream without an end; answer the close frame only after some more tokens."""
    peer.send(peer.upgrade())
    peer.read_frame()
    peer.send(text("a"))
    while peer.read_frame()[0] != 8:
        pass
    peer.send(text("b") + text("c") + END + close_frame(1000))
    peer.say_goodbye()


def never_say_goodbye(peer: Peer) -> None:
    peer.send(peer.upgrade())
    peer.read_frame()
    peer.send(b"".join(TOKENS))
    peer.wait_until_gone()


def drop_after_goodbye(peer: Peer) -> None:
    """End the connection instead of answering the close frame."""
    peer.send(peer.upgrade())
    peer.read_frame()
    peer.send(b"".join(TOKENS))
    while peer.read_frame()[0] != 8:
        pass


def ghost(peer: Peer) -> None:
    peer.send(peer.upgrade())
    peer.read_frame()
    peer.send(b"".join(TOKENS) + text("ghost") + END)
    peer.say_goodbye()


def ping_in_handshake(peer: Peer) -> None:
    peer.send(peer.upgrade() + frame(9, b"hello"))
    heard = {peer.read_frame(), peer.read_frame()}
    assert heard == {(10, b"hello"), (1, b"prompt 0")}
    peer.send(b"".join(TOKENS))
    peer.say_goodbye()


def refuse_slowly(peer: Peer) -> None:
    for byte in every_byte(b"HTTP/1.1 503 No\r\n\r\n"):
        peer.send(byte)


def shake_hands_slowly(peer: Peer) -> None:
    for byte in every_byte(peer.upgrade()):
        peer.send(byte)
    peer.read_frame()
    peer.send(b"".join(TOKENS))
    peer.say_goodbye()


def close_at_once(peer: Peer) -> None:
    peer.send(peer.upgrade())
    peer.send(close_frame(1001))
    peer.say_goodbye()


ESCAPE = "<script>alert(1)</script>"
SCRIPTS: dict[str, Act] = {
    # The handshake.
    "good": after_prompt(*TOKENS),
    "missing": respond(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone"),
    "page": respond(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>", Peer.read_until_closed),
    "busy": respond(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"),
    "moved": respond(b"HTTP/1.1 301 Moved Permanently\r\nLocation: ws://127.0.0.1:1/\r\n\r\n", Peer.read_until_closed),
    "split_status": refuse_slowly,
    "garbage": respond(b"SSH-2.0-OpenSSH_9.9\r\n", Peer.read_until_closed),
    "binary_garbage": respond(bytes(range(256)) * 64, Peer.read_until_closed),
    "upgrade_and_garbage": in_one_segment(bytes([0xFF]) * 64),
    "half": respond(b"HTTP/1.1 101 Switching Proto"),
    "half_headers": respond(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: webso", Peer.reset),
    "closes": respond(b""),
    "silent": Peer.wait_until_gone,
    "half_and_silent": respond(b"HTTP/1.1 101 Switching", Peer.wait_until_gone),
    "bad_key": lambda peer: peer.send(peer.upgrade(accept="AAAAAAAAAAAAAAAAAAAAAAAAAAA=")),
    "no_upgrade": respond(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", Peer.read_until_closed),
    "unasked_extension": lambda peer: peer.send(peer.upgrade("Sec-WebSocket-Extensions: permessage-deflate")),
    "unasked_subprotocol": lambda peer: peer.send(peer.upgrade("Sec-WebSocket-Protocol: chat")),
    "endless_header": endless_header,
    "slow_handshake": shake_hands_slowly,
    "offered": say_what_was_offered,
    "address": say_address,
    "compress": compress,
    "bomb": bomb,
    # With the handshake in one segment: frames that belong to nobody.
    "early_token": in_one_segment(text("early"), answer=b"".join(TOKENS)),
    "early_end": in_one_segment(END, answer=b"".join(TOKENS)),
    "early_close": in_one_segment(close_frame(1013, "try again later")),
    "early_clean_close": in_one_segment(close_frame(1000)),
    "early_bad_text": in_one_segment(text(b"\xff\xfe")),
    "early_masked": in_one_segment(frame(1, b"x", masked=True)),
    "early_ping": ping_in_handshake,
    # Frames.
    "whole": after_prompt(*TOKENS),
    "at_every_byte": after_prompt(*every_byte(b"".join(TOKENS))),
    "one_read": after_prompt(b"".join(TOKENS)),
    "one_read_and_half": after_prompt(b"".join(TOKENS)[:-3], b"".join(TOKENS)[-3:]),
    "fragmented": after_prompt(frame(1, b"a", fin=False) + frame(0, b"b", fin=False) + frame(0, b"c") + END),
    "fragmented_with_pings": after_prompt(
        frame(1, b"\xc3", fin=False) + frame(9, b"1"), frame(0, b"\xa4", fin=False), frame(9) + frame(10, b"unasked"), frame(0) + END
    ),
    "long_form": after_prompt(b"\x81\x7e\x00\x01a", b"\x81\x7f" + bytes(7) + b"\x01b", END),
    "fragments_of_nothing": after_prompt(frame(1, fin=False), frame(0, fin=False) + frame(0, b"a"), END),
    "long": after_prompt(*(text(message) for message in LONG.values()), END),
    "empty": after_prompt(text(""), text("a"), text(""), END),
    "no_token": after_prompt(END),
    "binary": after_prompt(frame(2, b"\x00\xff"), END),
    "short_limit": after_prompt(text("12345"), text("123456"), END),
    "too_big": after_prompt(text("a"), text("x" * 2000), END),
    "too_big_in_fragments": after_prompt(text("a"), frame(1, b"x" * 900, fin=False), frame(0, b"x" * 900, fin=False), frame(0, b"x")),
    "huge_header": after_prompt(text("a"), frame(1, length=1 << 40), bytes(1 << 16)),
    "endless_fragments": endless_fragments,
    "masked": after_prompt(text("a"), frame(1, b"x", masked=True)),
    "reserved_bit": after_prompt(text("a"), frame(1, b"x", rsv=4)),
    "bad_opcode": after_prompt(text("a"), frame(3, b"x")),
    "fragmented_ping": after_prompt(text("a"), frame(9, b"x", fin=False)),
    "long_ping": after_prompt(text("a"), frame(9, b"x" * 126)),
    "lone_continuation": after_prompt(text("a"), frame(0, b"x")),
    "text_in_fragments": after_prompt(text("a"), frame(1, b"x", fin=False), text("y")),
    "bad_text": after_prompt(text("a"), text(b"x\xffy"), END),
    "bad_text_long": after_prompt(text("a"), text(b"x" * 200 + b"\xc3"), END),
    "bad_text_in_fragments": after_prompt(text("a"), frame(1, b"\xc3", fin=False), frame(0, b"("), END),
    "bad_text_among_others": after_prompt(text("a") + text("b") + text(b"\xff") + END),
    # The end.
    "closed": after_prompt(text("a"), close_frame(1011, ESCAPE)),
    "closed_without_code": after_prompt(text("a"), close_frame()),
    "closed_going_away": after_prompt(text("a"), text("b") + close_frame(1001, "bye")),
    "end_and_close": after_prompt(text("a") + END + close_frame(1001, "bye")),
    "bad_close_code": after_prompt(text("a"), close_frame(1005)),
    "short_close": after_prompt(text("a"), frame(8, b"x")),
    "lost": after_prompt(text("a"), end=lambda peer: None),
    "lost_in_frame": after_prompt(text("a"), b"\x81\x05ab", end=lambda peer: None),
    "reset": reset_after(text("a")),
    "pings": flood_pings,
    "never_reads": never_read,
    "stalls": after_prompt(text("a"), end=Peer.wait_until_gone),
    "stalls_at_once": after_prompt(end=Peer.wait_until_gone),
    "half_a_message": half_a_message,
    "turns": answer_in_turns,
    "stop": stop_at_once,
    "ghost": ghost,
    "adapter_fails": after_prompt(text("a"), text("boom"), END),
    "cut": go_on_after_goodbye,
    "never_says_goodbye": never_say_goodbye,
    "drops_after_goodbye": drop_after_goodbye,
    "hold_closed": close_at_once,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "silent": {"connect_timeout_s": 0.3},
    "half_and_silent": {"connect_timeout_s": 0.3},
    "offered": {
        "headers": [["X-One", "1"], ["Authorization", "Bearer secret"]], "subprotocols": ["chat.v2", "chat.v1"], "origin": "https://example.com",
    },
    "address": {"source_addresses": ["127.0.0.7"]},
    "compress": {"compression": True},
    "bomb": {"compression": True},
    "short_limit": {"max_message_bytes": 5},
    "too_big": {"max_message_bytes": 1000},
    "too_big_in_fragments": {"max_message_bytes": 1000},
    "stalls": {"stall_timeout_s": 0.2, "sweep": True},
    "stalls_at_once": {"stall_timeout_s": 0.2, "sweep": True},
    "half_a_message": {"stall_timeout_s": 0.2, "sweep": True},
    "turns": {"turns": 2},
    "stop": {"stop": {"tokens": 1, "fraction": 0.0}},
    "adapter_fails": {"failing": "boom"},
    "cut": {"cut_s": 0.3},
    "never_says_goodbye": {"close_timeout_s": 0.1},
    "hold_closed": {"hold": True},
    "whole": {"fresh_masks": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return context, path


@pytest.fixture(scope="module")
def results(driver: Any, certificates: tuple[ssl.SSLContext, Path]) -> Iterator[dict[str, Any]]:
    """Every script, played to one process at the same time."""
    context, authority = certificates
    tls_scripts = {
        "tls": after_prompt(text("a"), *(text(message) for message in LONG.values()), END), "tls_untrusted": SCRIPTS["good"],
        "tls_insecure": SCRIPTS["good"], "tls_split": after_prompt(*every_byte(b"".join(TOKENS))), "tls_lost": SCRIPTS["lost"],
        "tls_notified": after_prompt(text("a"), end=lambda peer: (peer.sock.unwrap(), peer.wait_until_gone())[1]),  # type: ignore[attr-defined]
    }  # fmt: skip
    tls_options = {"tls_untrusted": {}, "tls_insecure": {"insecure": True}}
    unused = socket.create_server(("127.0.0.1", 0))
    refused = f"ws://127.0.0.1:{unused.getsockname()[1]}/"
    unused.close()
    no_tls = respond(b"HTTP/1.1 400 Bad Request\r\n\r\n", Peer.read_until_closed)
    with HostileServer(SCRIPTS) as plain, HostileServer(tls_scripts, tls=context) as secure, HostileServer(raw=no_tls) as plaintext:
        cases = {name: {"url": plain.url(name), **OPTIONS.get(name, {})} for name in SCRIPTS}
        cases |= {name: {"url": secure.url(name, "wss"), **tls_options.get(name, {"ca_file": str(authority)})} for name in tls_scripts}
        cases["tls_to_plain"] = {"url": plaintext.url("", "wss"), "insecure": True}
        cases["refused"] = {"url": refused}
        cases["no_such_host"] = {"url": "ws://no-such-host.invalid/ws"}
        cases["no_host_name"] = {"url": "ws://a..b/ws"}
        cases["no_such_source"] = {"url": plain.url("good"), "source_addresses": ["192.0.2.1"]}
        found = dict(zip(cases, driver.ask(list(cases.values())), strict=True))
        found["peers"] = {**plain.peers, **secure.peers}
        yield found
    assert driver.errors() == "", "the hub was told of an exception"


FAILED_CONNECTS = {
    "missing": ("handshake_status", "HTTP 404 Not Found"),
    "page": ("handshake_status", "HTTP 200 OK"),
    "busy": ("handshake_status", "HTTP 429 Too Many Requests"),
    "moved": ("handshake_status", "HTTP 301 Moved Permanently"),
    "split_status": ("handshake_status", "HTTP 503 No"),
    "garbage": ("handshake_invalid", "did not receive a valid HTTP response"),
    "binary_garbage": ("handshake_invalid", "did not receive a valid HTTP response"),
    "half": ("reset", "closed the connection during the handshake"),
    "half_headers": ("reset", "reset"),
    "closes": ("reset", "closed the connection during the handshake"),
    "silent": ("connect_timeout", "within 0.3 s"),
    "half_and_silent": ("connect_timeout", "within 0.3 s"),
    "bad_key": ("handshake_invalid", "Sec-WebSocket-Accept"),
    "no_upgrade": ("handshake_invalid", "Connection"),
    "unasked_extension": ("handshake_invalid", "extensions"),
    "unasked_subprotocol": ("handshake_invalid", "subprotocol"),
    "endless_header": ("handshake_invalid", "did not receive a valid HTTP response"),
    "tls_untrusted": ("tls_error", "certificate"),
    "tls_to_plain": ("tls_error", ""),
    "refused": ("refused", ""),
    "no_such_host": ("dns_error", ""),
    "no_host_name": ("dns_error", "is not a host name"),
    "no_such_source": ("generator_limit", ""),
}


@pytest.mark.parametrize("name", FAILED_CONNECTS)
def test_a_connect_that_fails_has_a_kind_and_a_row(results: dict[str, Any], name: str) -> None:
    kind, detail = FAILED_CONNECTS[name]
    found = results[name]
    assert (found["connect_error"], detail.lower() in found["detail"].lower()) == (kind, True), found["detail"]
    (row,) = found["connections"]
    assert (row["outcome"], row["error"], row["connect_time_ns"]) == ("failed", kind, None)
    assert (found["still_listed"], found["opening"]) == (0, 0)
    counts = found["counts"]
    assert (counts["connects_attempted"], counts["connects_succeeded"], counts["connects_failed"]) == (1, 0, 1)


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("good", WHOLE), ("slow_handshake", WHOLE), ("whole", WHOLE), ("at_every_byte", WHOLE), ("one_read", WHOLE),
        ("one_read_and_half", WHOLE), ("fragmented", ["abc", "_end_"]), ("fragmented_with_pings", ["ä", "_end_"]),
        ("fragments_of_nothing", ["a", "_end_"]), ("long", [*LONG.values(), "_end_"]), ("long_form", ["a", "b", "_end_"]),
        ("empty", ["", "a", "", "_end_"]), ("binary", ["binary:AP8=", "_end_"]), ("pings", WHOLE), ("early_ping", WHOLE),
        ("compress", ["a" * 300, "a" * 300, "_end_"]), ("address", ["127.0.0.7", "_end_"]), ("tls", ["a", *LONG.values(), "_end_"]),
        ("tls_insecure", WHOLE), ("tls_split", WHOLE),
    ],
)  # fmt: skip
def test_an_answer_is_read_whole_however_it_comes(results: dict[str, Any], name: str, messages: list[str]) -> None:
    found = results[name]
    assert found["messages"] == messages
    (row,) = found["conversations"]
    tokens = len([message for message in messages if message not in ("", "_end_")])
    assert (row["outcome"], row["tokens"], row["messages"]) == ("completed", tokens, tokens)
    assert (found["counts"]["tokens"], found["counts"]["ghost_tokens"]) == (tokens, 0)
    assert row["receive_lag_max_ns"] >= 0
    assert row["ttft_ns"] is not None
    assert row["ttft_ns"] <= row["e2e_ns"]
    (connection,) = found["connections"]
    assert connection["connect_time_ns"] >= connection["upgrade_ns"] > 0
    assert (connection["tls_ns"] is not None) == name.startswith("tls")
    assert (found["still_listed"], found["streaming"]) == (0, 0)


def test_an_answer_without_a_token_is_empty(results: dict[str, Any]) -> None:
    (row,) = results["no_token"]["conversations"]
    assert (row["outcome"], row["tokens"], row["ttft_ns"], row["e2e_ns"]) == ("empty", 0, None, None)


def test_bytes_are_counted_whichever_way_they_were_read(results: dict[str, Any]) -> None:
    for name in ("good", "at_every_byte", "one_read"):
        (row,) = results[name]["conversations"]
        assert row["received_bytes"] == len(b"".join(TOKENS)), name


def test_what_is_asked_for_goes_into_the_handshake(results: dict[str, Any]) -> None:
    said = dict(message.split("=", 1) for message in results["offered"]["messages"][:-1])
    assert said == {
        "x-one": "1", "authorization": "Bearer secret", "origin": "https://example.com", "sec-websocket-protocol": "chat.v2, chat.v1",
    }  # fmt: skip


def test_compression_is_negotiated_only_when_asked_for(results: dict[str, Any]) -> None:
    assert results["compress"]["extensions"] == 1
    assert "sec-websocket-extensions" not in results["peers"]["good"].headers


BROKEN = {
    # error of the conversation, what was delivered before, error of the connection
    "masked": ("protocol_error", ["a"]), "reserved_bit": ("protocol_error", ["a"]), "bad_opcode": ("protocol_error", ["a"]),
    "fragmented_ping": ("protocol_error", ["a"]), "long_ping": ("protocol_error", ["a"]), "lone_continuation": ("protocol_error", ["a"]),
    "text_in_fragments": ("protocol_error", ["a"]), "bad_text": ("protocol_error", ["a"]), "bad_text_long": ("protocol_error", ["a"]),
    "bad_text_in_fragments": ("protocol_error", ["a"]), "bad_text_among_others": ("protocol_error", ["a", "b"]),
    "bad_close_code": ("protocol_error", ["a"]), "short_close": ("protocol_error", ["a"]), "too_big": ("message_too_big", ["a"]),
    "too_big_in_fragments": ("message_too_big", ["a"]), "huge_header": ("message_too_big", ["a"]), "bomb": ("message_too_big", []),
    "endless_fragments": ("message_too_big", []), "short_limit": ("message_too_big", ["12345"]), "never_reads": ("send_blocked", []),
    "stalls": ("stalled", ["a"]), "stalls_at_once": ("stalled", []), "half_a_message": ("stalled", []),
    "adapter_fails": ("protocol_error", ["a", "boom"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_server_that_breaks_the_rules_fails_the_conversation_by_name(results: dict[str, Any], name: str) -> None:
    kind, messages = BROKEN[name]
    found = results[name]
    assert found["messages"] == messages
    (row,) = found["conversations"]
    assert (row["outcome"], row["error"]) == ("failed", kind)
    assert row["error_detail"]
    assert row["tokens"] == len([message for message in messages if message != "boom"])
    assert (found["closed"]["clean"], found["closed"]["by"], found["closed"]["error"]) == (False, "us", kind)
    assert found["counts"]["closed_abnormal"] == 1
    assert (found["still_listed"], found["streaming"]) == (0, 0)


LOST = {
    "closed": (["a"], (False, "peer", 1011, "closed")), "closed_without_code": (["a"], (True, "peer", 1005, None)),
    "closed_going_away": (["a", "b"], (True, "peer", 1001, None)), "lost": (["a"], (False, "peer", 1006, "eof")),
    "lost_in_frame": (["a"], (False, "peer", 1006, "eof")), "reset": (["a"], (False, "network", 1006, "reset")),
    "tls_lost": (["a"], (False, "peer", 1006, "eof")), "tls_notified": (["a"], (False, "peer", 1006, "eof")),
}  # fmt: skip


@pytest.mark.parametrize("name", LOST)
def test_a_connection_that_ends_in_mid_answer_loses_the_conversation(results: dict[str, Any], name: str) -> None:
    messages, closed = LOST[name]
    found = results[name]
    if name != "reset":  # what had come may be lost with the connection
        assert found["messages"] == messages
    (row,) = found["conversations"]
    assert (row["outcome"], row["error"]) == ("failed", "connection_lost")
    told = found["closed"]
    # A server that is gone before our acknowledgement reaches it answers that with a reset.
    alternatives = {closed} | ({(False, "network", 1006, "reset")} if closed[3] == "eof" else {(False, "peer", 1006, "eof")})
    assert (told["clean"], told["by"], told["code"], told["error"]) in alternatives
    (connection,) = found["connections"]
    assert (connection["close_code"], connection["closed_by"]) == (told["code"], told["by"])
    assert connection["outcome"] == ("clean" if told["clean"] else "abnormal")


def test_a_close_is_told_with_its_reason_once(results: dict[str, Any]) -> None:
    assert results["closed"]["conversations"][0]["error_detail"] == f"{ESCAPE} (code 1011)"
    assert results["closed_without_code"]["conversations"][0]["error_detail"] == "the server closed the connection (code 1005)"


def test_an_end_before_the_close_is_an_end(results: dict[str, Any]) -> None:
    found = results["end_and_close"]
    assert found["conversations"][0]["outcome"] == "completed"
    assert (found["closed"]["clean"], found["closed"]["code"], found["closed"]["by"]) == (True, 1001, "peer")


def test_frames_in_one_segment_with_the_handshake_belong_to_no_conversation(results: dict[str, Any]) -> None:
    assert results["early_token"]["counts"]["ghost_tokens"] == 1
    assert results["early_end"]["counts"]["double_ends"] == 1
    for name in ("early_token", "early_end"):
        # The connection lives on.
        assert results[name]["tokens_of"] == [3], name
        assert results[name]["conversations"][0]["outcome"] == "completed"


@pytest.mark.parametrize(
    ("name", "closed"),
    [
        ("early_close", (False, "peer", 1013, "closed")), ("early_clean_close", (True, "peer", 1000, None)),
        ("early_bad_text", (False, "us", None, "protocol_error")), ("early_masked", (False, "us", None, "protocol_error")),
        ("upgrade_and_garbage", (False, "us", None, "protocol_error")), ("hold_closed", (True, "peer", 1001, None)),
    ],
)  # fmt: skip
def test_a_connection_may_end_as_soon_as_it_is_open(results: dict[str, Any], name: str, closed: tuple[Any, ...]) -> None:
    found = results[name]
    told = found["closed"]
    assert (told["clean"], told["by"], told["code"], told["error"]) == closed
    counts = found["counts"]
    assert (counts["connects_succeeded"], counts["closed_clean"] + counts["closed_abnormal"]) == (1, 1)
    assert len(found["connections"]) == 1
    assert (found["still_listed"], found["opening"], found["conversations"]) == (0, 0, [])


def test_the_server_gets_our_close_frame_and_our_pongs(results: dict[str, Any]) -> None:
    peers = results["peers"]
    assert peers["early_close"].frames == [(8, struct.pack("!H", 1013) + b"try again later")]
    assert peers["good"].frames == [(1, b""), (1, b""), (1, b""), (8, struct.pack("!H", 1000))]
    assert results["good"]["closed"] == {"clean": True, "by": "us", "code": 1000, "error": None, "detail": None}


def test_a_close_that_is_not_answered_is_waited_for_and_named(results: dict[str, Any]) -> None:
    found = results["never_says_goodbye"]
    assert (found["closed"]["by"], found["closed"]["error"]) == ("us", "close_timeout")
    assert found["conversations"][0]["outcome"] == "completed"
    assert results["drops_after_goodbye"]["closed"]["error"] == "eof"


def test_a_process_that_stood_still_does_not_blame_the_server_for_its_close(driver: Any) -> None:
    """The answer is here when the process comes to its timers, which it does before it comes to its sockets."""
    with HostileServer({"good": SCRIPTS["good"]}) as server:
        found = driver.ask([{"url": server.url("good"), "stands_still": True, "close_timeout_s": 0.1}])[0]
    assert found["closed"] == {"clean": True, "by": "us", "code": 1000, "error": None, "detail": None}


def test_a_user_that_is_killed_as_it_closes_does_not_blame_the_server(driver: Any) -> None:
    with HostileServer({"good": SCRIPTS["good"], "never": SCRIPTS["never_says_goodbye"]}) as server:
        good, never = driver.ask([{"url": server.url(name), "killed": True} for name in ("good", "never")])
    assert good["closed"] == {"clean": True, "by": "us", "code": 1000, "error": None, "detail": None}
    assert never["closed"]["error"] == "close_timeout", "which is none but the server's"


def test_conversations_follow_each_other_on_one_connection(results: dict[str, Any]) -> None:
    found = results["turns"]
    assert [row["outcome"] for row in found["conversations"]] == ["completed", "completed"]
    assert [row["conversation"] for row in found["conversations"]] == [0, 1]
    assert found["connections"][0]["conversations"] == 2
    assert found["counts"]["acks_sent"] == 4


def test_a_stop_is_counted_with_what_came_after_it(results: dict[str, Any]) -> None:
    (row,) = results["stop"]["conversations"]
    assert (row["outcome"], row["tokens"], row["overrun_tokens"]) == ("stopped", 2, 1)
    assert row["stop_latency_ns"] > 0
    assert row["e2e_ns"] is None
    assert results["stop"]["counts"]["stops_sent"] == 1


def test_what_comes_unasked_is_counted_as_a_ghost_and_not_acknowledged(results: dict[str, Any]) -> None:
    found = results["ghost"]
    assert found["conversations"][0]["outcome"] == "completed"
    assert (found["counts"]["ghost_tokens"], found["counts"]["double_ends"], found["counts"]["acks_sent"]) == (1, 1, 3)


def test_what_was_under_way_when_we_left_is_nobodys_fault(results: dict[str, Any]) -> None:
    found = results["cut"]
    assert found["conversations"][0]["outcome"] == "abandoned"
    assert (found["counts"]["ghost_tokens"], found["counts"]["double_ends"]) == (0, 0)
    assert (found["closed"]["clean"], found["closed"]["by"], found["closed"]["code"]) == (True, "us", 1000)


def test_every_conversation_has_one_outcome_and_the_counters_equal_the_rows(results: dict[str, Any]) -> None:
    outcomes = ("completed", "stopped", "empty", "failed", "abandoned")
    for name, found in results.items():
        if name == "peers":
            continue
        counts, rows = found["counts"], found["conversations"]
        assert {o: counts[f"conversations_{o}"] for o in outcomes} == {o: sum(row["outcome"] == o for row in rows) for o in outcomes}, name
        assert counts["conversations_started"] == len(rows), name
        assert counts["tokens"] == sum(row["tokens"] for row in rows), name
        assert counts["connects_attempted"] == len(found["connections"]) == 1, name


# Arrival and reading.


def test_a_token_read_late_has_arrived_in_time(start_driver: Any) -> None:
    late_ns = 50_000_000
    driver = start_driver()
    blocked, sent = threading.Event(), threading.Event()
    stamps: list[int] = []

    def act(peer: Peer) -> None:
        peer.send(peer.upgrade())
        peer.read_frame()
        peer.send(text("block"))
        assert blocked.wait(20)
        stamps.append(time.time_ns())
        peer.send(text("late"))
        stamps.append(time.time_ns())
        sent.set()
        assert peer.read_frame()[1] == b""
        assert peer.read_frame()[1] == b""
        peer.send(END)
        peer.say_goodbye()

    with HostileServer({"blocking": act}) as server:
        driver.write(json.dumps([{"url": server.url("blocking"), "blocking": True}]).encode() + b"\n")
        assert driver.read_line() == "blocked\n"
        # The generator is now inside its own callback and reads nothing until it is told to.
        blocked.set()
        assert sent.wait(20)
        time.sleep(late_ns / 1e9)  # the lateness itself
        driver.write(b"g")
        (found,) = json.loads(driver.read_line())
    rows = found["token_rows"]
    before, after = stamps
    assert len(rows) == 2
    assert all(row["arrival_at_ns"] <= row["read_at_ns"] + 1000 for row in rows)
    late = rows[1]
    assert late["read_at_ns"] - late["arrival_at_ns"] >= late_ns
    arrived = late["arrival_at_ns"] + found["origin_wall_ns"]
    # The kernel stamps inside the sender's own call; the margins are for reading two clocks.
    assert before - 1_000_000 <= arrived <= after + 1_000_000
    assert found["counts"]["unstamped"] == 0
    (conversation,) = found["conversations"]
    assert late_ns <= conversation["receive_lag_max_ns"]
    assert driver.errors() == ""


# Against the library alone.

Messages = tuple[list[str], str]


def told_by_the_library(data: bytes, max_message_bytes: int, deflate: bool) -> Messages:
    """What the library makes of the bytes on its own: the messages, and how it ended."""
    protocol = ClientProtocol(parse_uri("ws://127.0.0.1/"), state=OPEN, max_size=max_message_bytes)
    if deflate:
        protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]
    protocol.receive_data(data)
    messages, parts = [], list[Frame]()
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            parts.append(event)
            if event.fin:
                whole = b"".join(bytes(part.data) for part in parts)
                if parts[0].opcode is Opcode.BINARY:
                    messages.append("binary:" + base64.b64encode(whole).decode())
                else:
                    try:
                        messages.append(whole.decode())
                    except UnicodeDecodeError:
                        return messages, "protocol_error"
                parts.clear()
    if isinstance(protocol.parser_exc, PayloadTooBig):
        return messages, "message_too_big"
    if protocol.parser_exc is not None:
        return messages, "protocol_error"
    if protocol.close_rcvd is not None:
        return messages, f"close {protocol.close_rcvd.code}"
    return messages, "eof"


def told_by_the_engine(driver: Any, data: bytes, cuts: list[int], max_message_bytes: int, deflate: bool) -> Messages:
    case = {"data": base64.b64encode(data).decode(), "cuts": cuts, "max_message_bytes": max_message_bytes, "deflate": deflate}
    found = driver.ask(case)
    assert found["left"] == 0
    closed = found["error"] in (None, "closed")
    return found["messages"], f"close {found['code']}" if closed else found["error"]


payloads = st.one_of(
    st.text(max_size=6).map(str.encode),
    st.sampled_from([b"", b"_end_", b"stop", "ä€𝄞".encode(), b"\xff", b"\xc3", b"\xed\xa0\x80"]),
    st.sampled_from([1, 2, 5, 20, 123, 124, 125, 126, 127, 128, 300, 70_000]).map(lambda size: b"x" * size),
)


@st.composite
def message_frames(draw: st.DrawFn) -> bytes:
    """One message, whole or in fragments with control frames between, now and then not quite right."""
    opcode = draw(st.sampled_from([1, 1, 1, 2]))
    payload = draw(payloads)
    if draw(st.integers(0, 2)):
        return frame(opcode, payload)
    places = sorted(draw(st.lists(st.integers(0, len(payload)), min_size=1, max_size=3)))
    parts = [payload[a:b] for a, b in zip([0, *places], [*places, len(payload)], strict=True)]
    between = draw(st.sampled_from([b"", frame(9, b"p"), frame(10), frame(9)]))
    return between.join(frame(opcode if i == 0 else 0, part, fin=i == len(parts) - 1) for i, part in enumerate(parts))


control_frames = st.one_of(
    st.binary(max_size=125).map(lambda data: frame(9, data)),
    st.just(frame(10, b"pong")),
    st.sampled_from([close_frame(), close_frame(1000), close_frame(1001, "bye"), close_frame(1011), close_frame(4000, "x")]),
)
broken_frames = st.one_of(
    st.sampled_from([
        frame(1, b"x", masked=True), frame(3, b"x"), frame(11), frame(1, b"x", rsv=4), frame(1, b"x", rsv=2), frame(0, b"x"),
        frame(9, fin=False), frame(9, b"x" * 126), frame(8, b"x"), close_frame(1005), close_frame(999), frame(8, b"\x03\xe8\xff"),
        frame(1, length=1 << 63),
        frame(1, b"short", length=9), b"\x81", b"\x81\x7e", b"\x81\x7f\x00",
    ]),
    st.binary(min_size=1, max_size=12),
)  # fmt: skip


@st.composite
def byte_streams(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    frames = draw(st.lists(st.one_of(message_frames(), message_frames(), message_frames(), control_frames), max_size=6))
    if draw(st.booleans()):
        frames.insert(draw(st.integers(0, len(frames))), draw(broken_frames))
    data = b"".join(frames)
    if data and draw(st.integers(0, 4)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    return data, draw(splits(data))


@st.composite
def splits(draw: st.DrawFn, data: bytes) -> list[int]:
    if len(data) <= 60 and draw(st.integers(0, 3)) == 0:
        return list(range(1, len(data)))
    # Around the edges of frames is where a cut is interesting, and hypothesis likes small numbers.
    return sorted(set(draw(st.lists(st.integers(1, max(1, len(data) - 1)), max_size=6)))) if len(data) > 1 else []


@settings(max_examples=500)
@given(stream=byte_streams(), limit=st.sampled_from([1 << 20, 1 << 20, 300, 126, 125, 124, 5, 1]))
def test_the_engine_reads_every_byte_stream_as_the_library_does(driver: Any, stream: tuple[bytes, list[int]], limit: int) -> None:
    data, cuts = stream
    assert told_by_the_engine(driver, data, cuts, limit, deflate=False) == told_by_the_library(data, limit, deflate=False)


@settings(max_examples=100)
@given(
    messages=st.lists(st.tuples(st.text(max_size=40), st.sampled_from(["plain", "packed", "packed in fragments"])), max_size=8),
    draw=st.integers(0, 2**32),
    spoil=st.booleans(),
)
def test_the_engine_reads_compressed_streams_as_the_library_does(
    driver: Any, messages: list[tuple[str, str]], draw: int, spoil: bool
) -> None:
    sender = PerMessageDeflate(False, False, 15, 15)
    drawn = random.Random(draw)
    data = b""
    for message, how in messages:
        if how == "plain":
            data += text(message)
            continue
        packed = bytes(sender.encode(Frame(Opcode.TEXT, message.encode())).data)
        at = drawn.randint(0, len(packed))
        data += (
            frame(1, packed, rsv=4)
            if how == "packed"
            else frame(1, packed[:at], rsv=4, fin=False) + frame(9, b"between") + frame(0, packed[at:])
        )
    if spoil and data:
        at = drawn.randrange(len(data))
        data = data[:at] + bytes([data[at] ^ 1 << drawn.randrange(8)]) + data[at + 1 :]
    cuts = sorted(drawn.sample(range(1, len(data)), min(len(data) - 1, drawn.randint(0, 5)))) if len(data) > 1 else []
    told = told_by_the_engine(driver, data, cuts, 1 << 20, deflate=True)
    assert told == told_by_the_library(data, 1 << 20, deflate=True)


def test_a_stream_cut_at_every_place_and_at_every_byte_is_the_same_stream(driver: Any) -> None:
    data = text("a") + frame(9, b"p") + frame(1, b"\xc3", fin=False) + frame(0, b"\xa4") + text("x" * 130) + text("") + END
    data += close_frame(1000)
    expected = (["a", "ä", "x" * 130, "", "_end_"], "close 1000")
    assert told_by_the_library(data, 1 << 20, deflate=False) == expected
    for cuts in [*([at] for at in range(1, len(data))), list(range(1, len(data)))]:
        assert told_by_the_engine(driver, data, cuts, 1 << 20, deflate=False) == expected
