"""A server that does exactly what a script says, byte by byte, in threads of the test's own process."""

from __future__ import annotations

import base64
import hashlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

Act = Callable[["Peer"], None]
PATIENCE_S = 20.0


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = False, length: int | None = None) -> bytes:
    """A server's frame; `length` lies about the size, `masked` breaks the rule that servers do not mask."""
    size = len(payload) if length is None else length
    head = bytes([fin << 7 | rsv << 4 | opcode])
    mask = 0x80 if masked else 0
    if size < 126:
        head += bytes([mask | size])
    elif size < 1 << 16:
        head += struct.pack("!BH", mask | 126, size)
    else:
        head += struct.pack("!BQ", mask | 127, size)
    return head + (bytes(4) if masked else b"") + payload


def text(message: str | bytes, **bits: object) -> bytes:
    return frame(1, message if isinstance(message, bytes) else message.encode(), **bits)  # type: ignore[arg-type]


def close_frame(code: int | None = None, reason: str = "") -> bytes:
    return frame(8, b"" if code is None else struct.pack("!H", code) + reason.encode())


END = text("_end_")


@dataclass
class Peer:
    """One accepted connection: what a script acts on."""

    sock: socket.socket
    request: bytes = b""
    frames: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        lines = self.request.decode("latin-1").split("\r\n")[1:]
        return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}

    @property
    def path(self) -> str:
        return self.request.decode("latin-1").split(" ")[1]

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def read_request(self) -> None:
        while b"\r\n\r\n" not in self.request:
            data = self.sock.recv(4096)
            if not data:
                raise ConnectionError("no request came")
            self.request += data

    def upgrade(self, *extra: str, accept: str | None = None) -> bytes:
        """The bytes of a good answer to the request that has been read."""
        key = accept_key(self.headers["sec-websocket-key"]) if accept is None else accept
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {key}", *extra]
        return "".join(line + "\r\n" for line in lines).encode() + b"\r\n"

    def read_exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise ConnectionError("the client closed")
            data += more
        return data

    def read_frame(self) -> tuple[int, bytes]:
        """One frame of the client, unmasked: opcode and payload."""
        first, second = self.read_exactly(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self.read_exactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self.read_exactly(8))
        mask = self.read_exactly(4)
        data = self.read_exactly(size)
        return first & 15, bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))

    def read_until_closed(self) -> None:
        """Take whatever comes until the client has gone."""
        try:
            while self.sock.recv(1 << 16):
                pass
        except OSError:
            pass

    def say_goodbye(self) -> None:
        """Read frames until the client says goodbye, and answer that; or until it has gone."""
        try:
            while True:
                opcode, payload = self.read_frame()
                self.frames.append((opcode, payload))
                if opcode == 8:
                    self.send(frame(8, payload))
                    return
        except OSError:
            pass

    def wait_until_gone(self) -> None:
        """Read nothing until the client has gone."""
        poller = select.poll()
        poller.register(self.sock, select.POLLHUP | select.POLLERR | select.POLLRDHUP)
        poller.poll(round(PATIENCE_S * 1e3))

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class HostileServer:
    """Runs the script that the request's path names (`/name`); `raw` runs instead of reading a request at all."""

    def __init__(self, scripts: dict[str, Act] | None = None, *, raw: Act | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.scripts = scripts or {}
        self._raw = raw
        self._tls = tls
        self.peers: dict[str, Peer] = {}
        self.errors: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def url(self, name: str = "", scheme: str = "ws") -> str:
        return f"{scheme}://127.0.0.1:{self.port}/{name}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        name = "?"
        try:
            sock.settimeout(PATIENCE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._sockets.append(sock)
            peer = Peer(sock)
            if self._raw is not None:
                self._raw(peer)
            else:
                peer.read_request()
                name = peer.path.strip("/").partition("?")[0]
                self.peers[name] = peer
                self.scripts[name](peer)
        except OSError as error:
            self.errors.append(f"{name}: {error}")
        finally:
            sock.close()

    def close(self) -> None:
        # A thread that waits in accept() does not notice that the socket is closed; shutdown wakes it.
        for sock in (self._listener, *self._sockets):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()
        self._thread.join(5)

    def __enter__(self) -> HostileServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def after_prompt(*pieces: bytes, end: Act | None = None) -> Act:
    """Upgrade, read the prompt, send the pieces one `send` each, then `end` (default: wait for the client's goodbye)."""

    def act(peer: Peer) -> None:
        peer.send(peer.upgrade())
        peer.read_frame()
        for piece in pieces:
            peer.send(piece)
        (end or Peer.say_goodbye)(peer)

    return act


def in_one_segment(*frames: bytes, answer: bytes = b"") -> Act:
    """The handshake's answer and the frames in one send; then, if it is not empty, `answer` to the prompt."""

    def act(peer: Peer) -> None:
        peer.send(peer.upgrade() + b"".join(frames))
        if answer:
            peer.read_frame()
            peer.send(answer)
        peer.say_goodbye()

    return act


def respond(data: bytes, then: Act | None = None) -> Act:
    """Anything but an upgrade."""

    def act(peer: Peer) -> None:
        peer.send(data)
        if then is not None:
            then(peer)

    return act


def every_byte(data: bytes) -> Iterable[bytes]:
    return (data[at : at + 1] for at in range(len(data)))
