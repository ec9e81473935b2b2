"""The bytes of the null server: an upgrade request, HTTP replies, and the frames of RFC 6455 as far as its clients use them. Pure."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

TOKEN: Final = b"\x81\x05token"
END: Final = b"\x81\x05_end_"
CLOSE_NORMAL: Final = b"\x88\x02\x03\xe8"
TEXT: Final = 0x81  # a whole text message in one frame
BINARY: Final = 0x82
CLOSE: Final = 0x88
PING: Final = 0x89
PONG: Final = 0x8A
MAX_TEXT_BYTES: Final = 64 * 1024
ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
SWITCHING: Final = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "


def read_request(head: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the path, the query and the WebSocket key (empty where there is none) of a request's lines."""
    line, *fields = head.split(b"\r\n")
    path, _, query = [*line.split(b" "), b"", b""][1].partition(b"?")
    key = b""
    for field in fields:
        if field[:18].lower() == b"sec-websocket-key:":
            key = field[18:].strip()
    return path, query, key


def switch_protocols(key: bytes) -> bytes:
    """Return the reply that accepts an upgrade with this key."""
    return SWITCHING + base64.b64encode(hashlib.sha1(key + ACCEPT_GUID, usedforsecurity=False).digest()) + b"\r\n\r\n"


def http_reply(status: str, text: str) -> bytes:
    """Return a whole plain-text reply after which the connection closes."""
    body = text.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def text_frame(text: bytes) -> bytes:
    """Return one text frame of at most 125 bytes."""
    return bytes((TEXT, len(text))) + text


def control_frame(opcode: int, body: bytes) -> bytes:
    """Return one close, ping or pong frame of at most 125 bytes."""
    return bytes((opcode, len(body))) + body


def read_frames(data: bytes) -> tuple[list[tuple[int, bytes]], int, int]:
    """Return the whole client frames at the start of `data` as (first byte, unmasked body), how many bytes they took, and a close code.

    The code is 0, or 1002 or 1009 when what follows those frames is not to be borne.
    """
    frames: list[tuple[int, bytes]] = []
    at, size = 0, len(data)
    while size - at >= 6:
        first, length, head = data[at], data[at + 1] - 0x80, 6
        if length < 0:  # a client's frame that is not masked
            return frames, at, 1002
        if length == 126:
            head = 8
            length = int.from_bytes(data[at + 2 : at + 4])
        elif length == 127:
            head = 14
            length = int.from_bytes(data[at + 2 : at + 10]) if size - at >= head else 0
        if length > MAX_TEXT_BYTES:
            return frames, at, 1009
        if size - at < head + length:
            break
        at += head + length
        frames.append((first, unmask(data[at - length : at], data[at - length - 4 : at - length]) if length else b""))
    return frames, at, 0


def unmask(body: bytes, mask: bytes) -> bytes:
    """Apply a mask of four bytes to a body of any length; doing it twice gives the body back."""
    length = len(body)
    whole = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(body) ^ int.from_bytes(whole)).to_bytes(length)
