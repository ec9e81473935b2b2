"""A client that sends what no proper client sends: bytes as they are, over a plain socket."""

from __future__ import annotations

import socket
import struct
from typing import Any

from websockets.frames import Frame, Opcode


def raw(server: Any, request: str | bytes) -> bytes:
    """Send bytes, return all that comes until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain:
        plain.sendall(request if isinstance(request, bytes) else request.encode("latin-1"))
        parts = []
        try:
            while part := plain.recv(65536):
                parts.append(part)
        except ConnectionResetError:
            pass
    return b"".join(parts)


def handshake(path: str = "/ws", *, drop: tuple[str, ...] = (), extra: str = "", start: str = "GET {} HTTP/1.1") -> str:
    headers = {
        "Host": "127.0.0.1:8001",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version": "13",
    }
    lines = [start.format(path), *(f"{name}: {value}" for name, value in headers.items() if name not in drop)]
    return "\r\n".join(lines) + "\r\n" + extra + "\r\n"


def opened(server: Any, path: str = "/ws", **options: Any) -> socket.socket:
    """Return a plain socket after the handshake, for frames that no proper client sends."""
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    plain.sendall(handshake(path, **options).encode())
    reply = b""
    while b"\r\n\r\n" not in reply:
        part = plain.recv(1)
        assert part, reply
        reply += part
    assert reply.startswith(b"HTTP/1.1 101"), reply
    return plain


def frame(opcode: Opcode, data: bytes, *, fin: bool = True, mask: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=mask)


def heard(plain: socket.socket) -> bytes:
    """Everything that comes until the server has closed, in good order or not."""
    data = b""
    try:
        while part := plain.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


def close_code(plain: socket.socket) -> int | None:
    """Read to the end; returns the code of the close frame, None if there was none."""
    with plain:
        data = heard(plain)
    at = 0
    while at < len(data) and data[at] != 0x88:
        short = data[at + 1]
        size, head = (short, 2) if short < 126 else (int.from_bytes(data[at + 2 : at + 4]), 4)
        at += head + size
    return None if at >= len(data) else int(struct.unpack_from("!H", data, at + 2)[0])


def flood(plain: socket.socket, data: bytes, most_bytes: int) -> int:
    """Send without reading until cut off; returns how much went out."""
    sent = 0
    try:
        while sent < most_bytes:
            plain.sendall(data)
            sent += len(data)
    except OSError:
        pass
    return sent
