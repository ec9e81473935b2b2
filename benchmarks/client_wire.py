"""The bytes of a raw WebSocket client, as far as experiments need them that no library would send. Pure."""

from __future__ import annotations

from typing import Final

SWITCHED: Final = b"HTTP/1.1 101 "
CLOSE_NORMAL: Final = b"\x88\x82\x00\x00\x00\x00\x03\xe8"
PING: Final = b"\x89\x80\x00\x00\x00\x00"
PONG: Final = 0x8A
TEXT: Final = 0x81
ACK_FRAME: Final = b"\x81\x80\x00\x00\x00\x00"
"""The empty text with which a token is acknowledged."""


def upgrade(host: str, path: str = "/ws", extra: str = "") -> bytes:
    """The request for a WebSocket; ``extra`` are header lines, each with its line end."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n"
    ).encode()


def masked(body: bytes, first: int = TEXT) -> bytes:
    """A client's frame of at most 65 535 bytes whose mask is zero: the body stands in it as it is."""
    size = len(body)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2)
    return bytes((first,)) + length + b"\x00\x00\x00\x00" + body


def read_frames(data: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """The whole server frames at the start of ``data`` as (first byte, body), and how many bytes they took."""
    frames: list[tuple[int, bytes]] = []
    at, size = 0, len(data)
    while size - at >= 2:
        length, head = data[at + 1], 2
        if length == 126:
            head, length = 4, int.from_bytes(data[at + 2 : at + 4])
        elif length == 127:
            head, length = 10, int.from_bytes(data[at + 2 : at + 10])
        if size - at < head + length:
            break
        frames.append((data[at], data[at + head : at + head + length]))
        at += head + length
    return frames, at
