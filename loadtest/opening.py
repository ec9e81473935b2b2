"""How a connection comes about: socket, TLS and the upgrade, from a user's greenlet, within one deadline.

The handshake is the library's (`websockets`' Sans-I/O client); this module moves its bytes and times its parts.
"""

from __future__ import annotations

import _socket
import dataclasses
import errno
import re
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gevent
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.protocol import CONNECTING
from websockets.uri import WebSocketURI

from .arrivals import SECOND_NS
from .conversation import NEVER

if TYPE_CHECKING:
    from .engine import Engine

# asm-generic/socket.h, the same on x86-64 and arm64; not in Python's socket module. Other systems have no such option.
SO_TIMESTAMPNS = 35
IP_BIND_ADDRESS_NO_PORT = 24
KERNEL_STAMPS = sys.platform == "linux" and struct.calcsize("l") == 8
CONTROL_BYTES = 64 if KERNEL_STAMPS else 0
TIMESPEC = struct.Struct("qq").unpack_from

# One buffer for all connections: a callback runs to its end before another starts, and what must stay is copied out.
BUFFER = bytearray(1 << 16)
BUFFERS = [BUFFER]
READ, WRITE = 1, 2

# The status line of an answer that is no upgrade; the library would read its body, however long, before it says so.
_OTHER_STATUS = re.compile(rb"HTTP/1\.[01] (?!101)(\d{3})(?: ([\t\x20-\x7e\x80-\xff]*))?\r?\n")
# linux/tcp.h: tcpi_total_retrans in struct tcp_info. A connect that took this long may have repeated its SYN, whose timer is 1 s.
_TCP_INFO, _TOTAL_RETRANSMISSIONS = 11, struct.Struct("100xI")
_SYN_TIMER_NS = 900_000_000

_now = time.monotonic_ns


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how to connect; the same for many connections."""

    uri: WebSocketURI
    headers: tuple[tuple[str, str], ...] = ()
    subprotocols: tuple[str, ...] = ()
    origin: str | None = None
    compression: bool = False
    tls: ssl.SSLContext | None = None
    connect_timeout_s: float = 10.0
    max_message_bytes: int = 1 << 20
    fresh_masks: bool = False
    source_addresses: tuple[str, ...] = ()
    trace: str | None = None
    receive_buffer_bytes: int = 0


class ConnectError(Exception):
    """A connection could not be opened; ``kind`` is one of ``metrics.CONNECT_ERRORS``."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail[:500]


def stamp_of(control: Sequence[tuple[int, int, bytes]]) -> int:
    """The kernel's stamp (wall clock, ns) among a read's control messages, or NEVER."""
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(data) >= 16:
            seconds, nanoseconds = TIMESPEC(data)
            return int(seconds * SECOND_NS + nanoseconds)
    return NEVER


class Tls:
    """TLS over a socket that somebody else reads and writes, so that the stamps stay."""

    __slots__ = ("_channel", "_incoming", "_outgoing", "ended")

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._channel = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        # The peer has said that nothing more will come, whether or not it closes the TCP connection too.
        self.ended = False

    def shake_hands(self, data: bytes) -> tuple[bool, bytes]:
        """Take what came; whether the handshake is done, and what to send. ssl.SSLError when it fails."""
        self._incoming.write(data)
        try:
            self._channel.do_handshake()
        except ssl.SSLWantReadError:
            return False, self._outgoing.read()
        return True, self._outgoing.read()

    def encrypt(self, data: bytes) -> bytes:
        """What to send for these bytes."""
        self._channel.write(data)
        return self._outgoing.read()

    def decrypt(self, data: bytes) -> bytes:
        """What has come in the clear, perhaps nothing; OSError (EPROTO) when it is no TLS."""
        self._incoming.write(data)
        parts: list[bytes] = []
        try:
            while chunk := self._channel.read(1 << 16):
                parts.append(chunk)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            if not parts:
                raise OSError(errno.EPROTO, f"TLS: {error.reason or error}") from None
        return b"".join(parts)


class Opening:
    """One attempt to connect: ``run`` it, then take ``sock``, ``watcher`` and ``tls``; durations in ns, None for what has not happened."""

    __slots__ = (
        "_engine", "_number", "_target", "connect_time_ns", "sock", "started", "syn_retransmitted", "tcp_ns", "tls", "tls_ns",
        "upgrade_ns", "watcher",
    )  # fmt: skip

    def __init__(self, engine: Engine, target: Target, number: int) -> None:
        self._engine = engine
        self._target = target
        self._number = number
        self.started = _now()
        self.tcp_ns: int | None = None
        self.tls_ns: int | None = None
        self.upgrade_ns: int | None = None
        self.connect_time_ns: int | None = None
        self.syn_retransmitted = False
        self.sock: _socket.socket | None = None
        self.watcher: Any = None
        self.tls: Tls | None = None

    def run(self, headers: Sequence[tuple[str, str]] = ()) -> tuple[ClientProtocol, int]:
        """Connect and shake hands: the open protocol and the arrival of its last bytes; ConnectError says why not.

        ``headers`` are the adapter's own, sent beside the target's.
        """
        opened: tuple[ClientProtocol, int] = self._within_deadline(lambda: self._upgrade(headers))
        return opened

    def connect(self) -> None:
        """Connect, with TLS where the target has it, and nothing more: for what speaks HTTP; ConnectError says why not."""
        self._within_deadline(self._note_connected)

    def _note_connected(self) -> None:
        self.connect_time_ns = _now() - self.started

    def _within_deadline(self, finish: Callable[[], Any]) -> Any:
        deadline = gevent.Timeout(self._target.connect_timeout_s)
        deadline.start()
        try:
            self._connect()
            if self._target.tls is not None:
                self._start_tls(self._target.tls)
            return finish()
        except gevent.Timeout as timeout:
            if timeout is not deadline:
                raise
            raise ConnectError("connect_timeout", f"no complete handshake within {self._target.connect_timeout_s:g} s") from None
        except ssl.SSLError as error:
            raise ConnectError("tls_error", getattr(error, "verify_message", "") or error.reason or str(error)) from None
        except OSError as error:
            raise _connect_failure(error) from None
        finally:
            deadline.close()

    def _connect(self) -> None:
        family, address = self._engine.resolve(self._target.uri.host, self._target.uri.port)
        sock = self.sock = _socket.socket(family, _socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        if KERNEL_STAMPS:
            # Before connecting: the kernel starts stamping lazily, and the handshake's answer must bear a stamp.
            sock.setsockopt(_socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        if self._target.receive_buffer_bytes:
            # Before connecting: the window that the handshake offers follows from it.
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, self._target.receive_buffer_bytes)
        if self._target.source_addresses:
            source = self._target.source_addresses[self._number % len(self._target.source_addresses)]
            if sys.platform == "linux":
                # The port is then chosen at connect, by the whole four-tuple: each source address gives its full range of ports.
                sock.setsockopt(_socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source, 0))
        self.watcher = gevent.get_hub().loop.io(sock.fileno(), READ)
        code = sock.connect_ex(address)
        if code == errno.EINPROGRESS:
            self._wait_writable(sock)
            code = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if code:
            raise OSError(code, errno.errorcode.get(code, str(code)))
        self.tcp_ns = _now() - self.started
        if self.tcp_ns >= _SYN_TIMER_NS and KERNEL_STAMPS:
            information = sock.getsockopt(_socket.IPPROTO_TCP, _TCP_INFO, _TOTAL_RETRANSMISSIONS.size)
            self.syn_retransmitted = _TOTAL_RETRANSMISSIONS.unpack(information)[0] > 0

    def _start_tls(self, context: ssl.SSLContext) -> None:
        started = _now()
        tls = Tls(context, self._target.uri.host)
        done, reply = tls.shake_hands(b"")
        while not done:
            self._send(reply)
            data, _ = self._receive()
            if not data:
                raise ConnectError("tls_error", "the peer closed the connection during the TLS handshake")
            done, reply = tls.shake_hands(data)
        self._send(reply)
        self.tls = tls
        self.tls_ns = _now() - started

    def _upgrade(self, headers: Sequence[tuple[str, str]]) -> tuple[ClientProtocol, int]:
        started = _now()
        target = self._target
        protocol = ClientProtocol(
            self.uri(),
            origin=target.origin,  # type: ignore[arg-type]  # a NewType of str
            extensions=[ClientPerMessageDeflateFactory()] if target.compression else None,
            subprotocols=target.subprotocols or None,  # type: ignore[arg-type]  # a NewType of str
            max_size=target.max_message_bytes,
            logger=self._engine.protocol_logger,
        )
        request = protocol.connect()
        for name, value in (*headers, *target.headers):
            request.headers[name] = value
        protocol.send_request(request)
        asked = b"".join(protocol.data_to_send())
        self._send(asked if self.tls is None else self.tls.encrypt(asked))
        head: bytes | None = b""
        while protocol.state is CONNECTING:
            if protocol.handshake_exc is not None:
                raise _handshake_failure(protocol.handshake_exc)
            data, arrival = self._receive()
            if data:
                plain = data if self.tls is None else self.tls.decrypt(data)
                if plain:
                    if head is not None:
                        head = _check_status(head + plain)
                    protocol.receive_data(plain)
            if not data or (self.tls is not None and self.tls.ended):
                if protocol.state is CONNECTING and protocol.handshake_exc is None:
                    raise ConnectError("reset", "the peer closed the connection during the handshake")
                break
        if protocol.handshake_exc is not None:
            raise _handshake_failure(protocol.handshake_exc)
        # The handshake's answer is timed by the kernel, as tokens are.
        arrived = arrival - self._engine.clock.offset
        self.connect_time_ns = max(0, arrived - self.started)
        self.upgrade_ns = max(0, arrived - started)
        return protocol, arrival

    def uri(self) -> WebSocketURI:
        """The target's URI; one that asks a reference server to name run, connection, conversation, sequence and sending time in every
        token, where the run is traced."""
        uri, run = self._target.uri, self._target.trace
        if run is None:
            return uri
        mark = f"trace={run}&connection={self._engine.recorder.worker}-{self._number}"
        return dataclasses.replace(uri, query=f"{uri.query}&{mark}" if uri.query else mark)

    def _wait_writable(self, sock: _socket.socket) -> None:
        watcher = gevent.get_hub().loop.io(sock.fileno(), WRITE)
        try:
            gevent.get_hub().wait(watcher)
        finally:
            watcher.close()

    def _send(self, data: bytes) -> None:
        assert self.sock is not None
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                self._wait_writable(self.sock)

    def _receive(self) -> tuple[bytes, int]:
        """Some bytes (none at the end of the stream) and their arrival."""
        assert self.sock is not None
        while True:
            try:
                count, control, _, _ = self.sock.recvmsg_into(BUFFERS, CONTROL_BYTES)
            except (BlockingIOError, InterruptedError):
                gevent.get_hub().wait(self.watcher)
                continue
            arrival = stamp_of(control)
            return bytes(BUFFER[:count]), time.time_ns() if arrival == NEVER else arrival


def _connect_failure(error: OSError) -> ConnectError:
    number = error.errno
    text = error.strerror or str(error)
    if isinstance(error, socket.gaierror):
        return ConnectError("dns_error", text)
    if number in (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM):
        return ConnectError("generator_limit", text)
    kinds = {
        errno.ECONNREFUSED: "refused", errno.ETIMEDOUT: "connect_timeout", errno.EHOSTUNREACH: "unreachable",
        errno.ENETUNREACH: "unreachable", errno.ECONNRESET: "reset", errno.EPIPE: "reset", errno.EPROTO: "tls_error",
    }  # fmt: skip
    return ConnectError(kinds.get(number or 0, "unreachable"), text)


def _check_status(head: bytes) -> bytes | None:
    """What is to be looked at again with more bytes, None once the status line is whole; ConnectError when it is no upgrade's."""
    if found := _OTHER_STATUS.match(head):
        phrase = (found[2] or b"").decode("ascii", "replace").strip()
        raise ConnectError("handshake_status", f"HTTP {found[1].decode()} {phrase}".strip())
    return None if b"\n" in head or len(head) > 8192 else head


def _handshake_failure(error: Exception) -> ConnectError:
    if isinstance(error, InvalidStatus):
        return ConnectError("handshake_status", f"HTTP {error.response.status_code} {error.response.reason_phrase}")
    if isinstance(error, InvalidMessage) and error.__cause__ is not None:
        return ConnectError("handshake_invalid", f"{error}: {error.__cause__}")
    if isinstance(error, InvalidHandshake):
        return ConnectError("handshake_invalid", str(error))
    return ConnectError("handshake_invalid", f"{type(error).__name__}: {error}")
