"""The engine: non-blocking sockets on gevent's hub, with the kernel's arrival stamps.

The handshake and everything unusual (fragments, control frames, long, compressed or split frames) belong to the library's Sans-I/O
protocol. The common case, whole small text frames, is decoded in a callback that runs in the hub: it stamps, appends two integers and
sends the prepared acknowledgement. The user's greenlet sleeps for the whole conversation and is woken once, at its end.
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
from gevent.hub import Waiter
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus, PayloadTooBig
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.protocol import CONNECTING, OPEN
from websockets.streams import StreamReader
from websockets.uri import WebSocketURI

from .adapter import END, NOTHING, Adapter, Message
from .arrivals import SECOND_NS, Stop
from .conversation import NEVER, Conversation

if TYPE_CHECKING:
    from .engine import Engine

# asm-generic/socket.h, the same on x86-64 and arm64; not in Python's socket module. Other systems have no such option.
SO_TIMESTAMPNS = 35
IP_BIND_ADDRESS_NO_PORT = 24
KERNEL_STAMPS = sys.platform == "linux" and struct.calcsize("l") == 8
_CONTROL_BYTES = 64 if KERNEL_STAMPS else 0
_TIMESPEC = struct.Struct("qq").unpack_from

# One buffer for all connections: a callback runs to its end before another starts, and what must stay is copied out.
_BUFFER = bytearray(1 << 16)
_BUFFERS = [_BUFFER]
_READ, _WRITE = 1, 2
_QUEUE_LIMIT_BYTES = 1 << 20
# The status line of an answer that is no upgrade; the library would read its body, however long, before it says so.
_OTHER_STATUS = re.compile(rb"HTTP/1\.[01] (?!101)(\d{3})(?: ([\t\x20-\x7e\x80-\xff]*))?\r?\n")
_SYN_RETRANSMISSION_NS = ((950_000_000, 1_500_000_000), (2_950_000_000, 3_500_000_000), (6_950_000_000, 7_500_000_000))

_now = time.monotonic_ns
_wall = time.time_ns


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


class ConnectError(Exception):
    """A connection could not be opened; ``kind`` is one of ``metrics.CONNECT_ERRORS``."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail[:500]


@dataclass(slots=True)
class Opening:
    """How a connection came about: durations in ns, None for what has not happened."""

    started: int
    tcp_ns: int | None = None
    tls_ns: int | None = None
    upgrade_ns: int | None = None
    connect_time_ns: int | None = None


def text_frame(message: Message) -> bytes:
    """A masked frame of one message."""
    opcode, data = (Opcode.TEXT, message.encode()) if isinstance(message, str) else (Opcode.BINARY, message)
    return Frame(opcode, data).serialize(mask=True)


def _arrival(control: Sequence[tuple[int, int, bytes]]) -> int:
    """The kernel's stamp (wall clock, ns) among a read's control messages, or NEVER."""
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(data) >= 16:
            seconds, nanoseconds = _TIMESPEC(data)
            return int(seconds * SECOND_NS + nanoseconds)
    return NEVER


@dataclass(slots=True)
class _Tls:
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    channel: ssl.SSLObject
    # The peer has said that nothing more will come, whether or not it closes the TCP connection too.
    ended: bool = False


@dataclass(slots=True)
class Closed:
    """How a connection ended: ``by`` is us, peer or network."""

    clean: bool
    by: str
    code: int | None = None
    error: str | None = None
    detail: str | None = None


class Stream:
    """One connection to the target and the conversation on it, if any.

    ``open``, ``converse`` and ``close`` are called from a user's greenlet and block only that; ``_readable`` runs in the hub.
    """

    __slots__ = (
        "_ack", "_clear", "_closing",
        "_fast", "_fragments", "_protocol", "_queue", "_queued_bytes", "_receive", "_recvmsg", "_send", "_sock", "_timer",
        "_tls", "_waiter", "_wake", "_watcher", "_write_watcher", "adapter", "attempt", "closed", "conversation",
        "conversations", "engine", "extensions", "number", "opening", "target", "user",
    )  # fmt: skip

    def __init__(self, engine: Engine, target: Target, adapter: Adapter, user: int = 0, attempt: int = 0) -> None:
        self.engine = engine
        self.target = target
        self.adapter = adapter
        self.user = user
        self.attempt = attempt
        self.number = engine.recorder.number_connection()
        self.conversations = 0
        self.conversation: Conversation | None = None
        self.closed: Closed | None = None
        self.opening = Opening(NEVER)
        self.extensions: list[Any] = []
        self._ack = None if adapter.acknowledgement is None else text_frame(adapter.acknowledgement)
        self._receive = adapter.receive
        self._protocol: ClientProtocol | None = None
        self._fragments: list[Frame] = []
        # The library's object holds no part of anything; and: the short path may be taken.
        self._clear = False
        self._fast = False
        self._closing = False
        self._queue: list[bytes] = []
        self._queued_bytes = 0
        self._tls: _Tls | None = None
        self._waiter: Waiter[None] | None = None
        self._wake = False
        self._timer: Any = None
        self._watcher: Any = None
        self._write_watcher: Any = None
        self._sock: _socket.socket | None = None

    # Opening.

    def open(self) -> None:
        """Connect and shake hands; ConnectError (recorded as a row) when that does not succeed within the connect timeout."""
        engine = self.engine
        engine.opening += 1
        engine.recorder.counts["connects_attempted"] += 1
        self.opening = Opening(_now())
        failure: ConnectError | None = None
        outcome = "abandoned"
        deadline = gevent.Timeout(self.target.connect_timeout_s)
        try:
            deadline.start()
            self._connect()
            protocol, arrival = self._shake_hands()
        except gevent.Timeout as timeout:
            if timeout is not deadline:
                raise
            failure = ConnectError("connect_timeout", f"no complete handshake within {self.target.connect_timeout_s:g} s")
        except ConnectError as error:
            failure = error
        except ssl.SSLError as error:
            failure = ConnectError("tls_error", getattr(error, "verify_message", "") or error.reason or str(error))
        except OSError as error:
            failure = _connect_failure(error)
        finally:
            deadline.close()
            engine.opening -= 1
            if self.opening.connect_time_ns is None:
                self._release()
                if failure is not None:
                    outcome = "failed"
                    engine.recorder.counts["connects_failed"] += 1
                kind, detail = (None, None) if failure is None else (failure.kind, failure.detail)
                engine.recorder.connection_ended(self._row(outcome, kind, detail))
        if failure is not None:
            raise failure
        engine.streams.add(self)
        assert self.opening.connect_time_ns is not None
        engine.recorder.connected(self.opening.connect_time_ns)
        # What came in one segment with the handshake's answer belongs to no conversation yet; it may be a close frame.
        self._guard(self._digest, protocol, arrival, _now())
        if self.closed is None:
            self._watcher.start(self._readable)

    def _connect(self) -> None:
        family, address = self.engine.resolve(self.target.uri.host, self.target.uri.port)
        sock = _socket.socket(family, _socket.SOCK_STREAM)
        self._sock = sock
        sock.setblocking(False)
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        if KERNEL_STAMPS:
            # Before connecting: the kernel starts stamping lazily, and the handshake's answer must bear a stamp.
            sock.setsockopt(_socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        if self.target.source_addresses:
            source = self.target.source_addresses[self.number % len(self.target.source_addresses)]
            if sys.platform == "linux":
                # The port is then chosen at connect, by the whole four-tuple: each source address gives its full range of ports.
                sock.setsockopt(_socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source, 0))
        loop = gevent.get_hub().loop
        self._watcher = loop.io(sock.fileno(), _READ)
        self._recvmsg = sock.recvmsg_into
        self._send = sock.send
        code = sock.connect_ex(address)
        if code == errno.EINPROGRESS:
            writable = loop.io(sock.fileno(), _WRITE)
            try:
                gevent.get_hub().wait(writable)
            finally:
                writable.close()
            code = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if code:
            raise OSError(code, errno.errorcode.get(code, str(code)))
        self.opening.tcp_ns = _now() - self.opening.started
        if any(low <= self.opening.tcp_ns <= high for low, high in _SYN_RETRANSMISSION_NS):
            self.engine.recorder.counts["syn_retransmitted"] += 1
        if self.target.tls is not None:
            self._start_tls(self.target.tls)

    def _start_tls(self, context: ssl.SSLContext) -> None:
        started = _now()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = _Tls(incoming, outgoing, context.wrap_bio(incoming, outgoing, server_hostname=self.target.uri.host))
        while True:
            try:
                tls.channel.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._send_blocking(outgoing.read())
                data, _ = self._receive_blocking()
                if not data:
                    raise ConnectError("tls_error", "the peer closed the connection during the TLS handshake") from None
                incoming.write(data)
        self._send_blocking(outgoing.read())
        self._tls = tls
        self.opening.tls_ns = _now() - started

    def _shake_hands(self) -> tuple[ClientProtocol, int]:
        started = _now()
        target = self.target
        protocol = ClientProtocol(
            target.uri if target.trace is None else self._traced_uri(target.uri, target.trace),
            origin=target.origin,  # type: ignore[arg-type]  # a NewType of str
            extensions=[ClientPerMessageDeflateFactory()] if target.compression else None,
            subprotocols=target.subprotocols or None,  # type: ignore[arg-type]  # a NewType of str
            max_size=target.max_message_bytes,
            logger=self.engine.protocol_logger,
        )
        request = protocol.connect()
        for name, value in target.headers:
            request.headers[name] = value
        protocol.send_request(request)
        self._send_blocking(self._encrypt(b"".join(protocol.data_to_send())))
        head: bytes | None = b""
        while protocol.state is CONNECTING:
            if protocol.handshake_exc is not None:
                raise _handshake_failure(protocol.handshake_exc)
            data, arrival = self._receive_blocking()
            if data:
                plain = self._decrypt(data)
                if plain:
                    if head is not None:
                        head = _check_status(head + plain)
                    protocol.receive_data(plain)
            if not data or (self._tls is not None and self._tls.ended):
                if protocol.state is CONNECTING and protocol.handshake_exc is None:
                    raise ConnectError("reset", "the peer closed the connection during the handshake")
                break
        if protocol.handshake_exc is not None:
            raise _handshake_failure(protocol.handshake_exc)
        wall_offset = self.engine.clock.offset
        self.opening.connect_time_ns = max(0, arrival - wall_offset - self.opening.started)
        self.opening.upgrade_ns = max(0, arrival - wall_offset - started)
        self.extensions = protocol.extensions
        self._protocol = protocol
        return protocol, arrival

    def _traced_uri(self, uri: WebSocketURI, run: str) -> WebSocketURI:
        """The URI that asks a reference server to name run, connection, conversation, sequence and sending time in every token."""
        mark = f"trace={run}&connection={self.engine.recorder.worker}-{self.number}"
        return dataclasses.replace(uri, query=f"{uri.query}&{mark}" if uri.query else mark)

    def _send_blocking(self, data: bytes) -> None:
        assert self._sock is not None
        view = memoryview(data)
        while view:
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                watcher = gevent.get_hub().loop.io(self._sock.fileno(), _WRITE)
                try:
                    gevent.get_hub().wait(watcher)
                finally:
                    watcher.close()

    def _receive_blocking(self) -> tuple[bytes, int]:
        """Some bytes (none at the end of the stream) and their arrival, from a user's greenlet."""
        while True:
            try:
                count, control, _, _ = self._recvmsg(_BUFFERS, _CONTROL_BYTES)
            except (BlockingIOError, InterruptedError):
                gevent.get_hub().wait(self._watcher)
                continue
            arrival = _arrival(control)
            return bytes(_BUFFER[:count]), _wall() if arrival == NEVER else arrival

    # Conversing.

    def converse(self, conversation: Conversation, prompt: str, stop: Stop | None = None, expected_gap_s: float = 0.0) -> None:
        """Send the prompt and sleep until the conversation has an outcome; it is handed to the recorder in any case."""
        if self.closed is not None or self.conversation is not None:
            raise RuntimeError("a conversation needs an open connection without another conversation")
        frames = b"".join(map(text_frame, self.adapter.start(prompt)))
        conversation.offset = self.engine.clock.offset
        if self.engine.record_texts:
            conversation.texts = []
        if stop is not None and stop.tokens is not None:
            # Between two tokens: the delay counts from the token before, so that stop is not glued to our acknowledgement.
            conversation.stop_index = stop.tokens or NEVER
            conversation.stop_delay_s = stop.fraction * expected_gap_s
        waiter = self._waiter = Waiter()
        self.conversation = conversation
        self.conversations += 1
        self.engine.streaming += 1
        self.engine.recorder.counts["conversations_started"] += 1
        conversation.sent = _now()
        try:
            self._write(frames)
            if stop is not None and stop.after_ns is not None:
                self._arrange_stop(conversation, stop.after_ns / 1e9)
            elif stop is not None and stop.tokens == 0:
                self._arrange_stop(conversation, conversation.stop_delay_s)
            if not conversation.outcome:
                waiter.get()
        finally:
            self._waiter = None
            self._cancel_timer()
            if not conversation.outcome:
                conversation.abandon(_now())
                self._finish(conversation)

    def _arrange_stop(self, conversation: Conversation, delay_s: float) -> None:
        if delay_s <= 0:
            self._stop(conversation)
            return
        self._cancel_timer()
        timer = gevent.get_hub().loop.timer(delay_s)
        timer.start(self._stop, conversation)
        self._timer = timer

    def _stop(self, conversation: Conversation) -> None:
        if self.conversation is not conversation or self.closed is not None or conversation.stop_sent != NEVER:
            return
        frames = b"".join(map(text_frame, self.adapter.stop()))
        conversation.stop_sent = _now()
        self._write(frames)
        self.engine.recorder.counts["stops_sent"] += 1

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _finish(self, conversation: Conversation) -> None:
        self.conversation = None
        self.engine.streaming -= 1
        self.engine.recorder.finish(conversation)
        self._wake = True

    def fail(self, kind: str, detail: str) -> None:
        """Give the connection up because of our own judgement (a deadline, a bound); callable from the hub."""
        self._end(Closed(False, "us", None, kind, detail), kind)
        self._wake_user()

    # Receiving, in the hub: nothing here may block, switch or raise.

    def _readable(self) -> None:
        try:
            count, control, _, _ = self._recvmsg(_BUFFERS, _CONTROL_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(error)
            return
        try:
            # One whole, small, unmasked text frame with FIN: nearly every token of nearly every server.
            if self._fast and count > 2 and _BUFFER[1] == count - 2 and _BUFFER[0] == 0x81 and count < 128:
                conversation = self.conversation
                text = _BUFFER[2:count].decode()
                if control:
                    seconds, nanoseconds = _TIMESPEC(control[0][2])
                    arrival = seconds * 1_000_000_000 + nanoseconds
                else:
                    arrival = _wall()
                    self.engine.recorder.counts["unstamped"] += 1
                meaning = self._receive(text)
                if meaning == 1 and conversation is not None:
                    # One clock read between receiving and sending: read time of this token and sent time of its acknowledgement.
                    read = _now()
                    conversation.arrivals.append(arrival)
                    conversation.reads.append(read)
                    conversation.received_bytes += count
                    ack = self._ack
                    if ack is not None:
                        try:
                            sent = 0 if self._queue else self._send(ack)
                        except BlockingIOError:
                            sent = 0
                        if sent != len(ack):
                            self._write_slowly(ack[sent:])
                    if conversation.texts is not None:
                        conversation.texts.append(text)
                    if len(conversation.arrivals) == conversation.stop_index:
                        self._arrange_stop(conversation, conversation.stop_delay_s)
                else:
                    if conversation is not None:
                        conversation.received_bytes += count
                    self._take(text, meaning, arrival, _now())
                    self._wake_user()
                return
            self._read_slowly(count, control)
        except Exception as error:
            self._give_up(error)

    def _guard(self, act: Callable[..., None], *arguments: Any) -> None:
        try:
            act(*arguments)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """End the connection for what went wrong on it; an adapter's own mistake must not take the hub down with it."""
        if isinstance(error, OSError):
            self._lost(error)
        elif isinstance(error, UnicodeDecodeError):
            self._refuse_text(error)
        else:
            self.fail("protocol_error", f"{type(error).__name__}: {error}")

    def _read_slowly(self, count: int, control: Sequence[tuple[int, int, bytes]]) -> None:
        arrival = _arrival(control)
        if arrival == NEVER:
            arrival = _wall()
            self.engine.recorder.counts["unstamped"] += 1
        read = _now()
        if count == 0:
            self._ended()
            return
        data = bytes(_BUFFER[:count])
        if self._tls is not None:
            data = self._decrypt(data)
        conversation = self.conversation
        if conversation is not None:
            conversation.received_bytes += len(data)
        offset = 0
        size = len(data)
        # Several whole small text frames may have come at once; whatever is not of that kind is the library's, with all after it.
        while self._clear and offset + 2 < size and data[offset] == 0x81:
            length = data[offset + 1]
            if length == 0 or length > 125 or offset + 2 + length > size:
                break
            text = data[offset + 2 : offset + 2 + length].decode()
            offset += 2 + length
            self._deliver(text, arrival, read)
            if self.closed is not None:
                return
        if offset < size:
            protocol = self._protocol or self._make_protocol()
            protocol.receive_data(data[offset:])
            self._digest(protocol, arrival, read)
        if self._tls is not None and self._tls.ended and self.closed is None:
            self._ended()
        self._wake_user()

    def _digest(self, protocol: ClientProtocol, arrival: int, read: int) -> None:
        """Take what the library made of the bytes it was given: messages, replies, an error or a close."""
        self._take_messages(protocol, arrival, read)
        if self.closed is not None:
            return
        if reply := b"".join(protocol.data_to_send()):
            self._write(reply)
        if self.closed is None:
            if protocol.parser_exc is not None:
                kind = "message_too_big" if isinstance(protocol.parser_exc, PayloadTooBig) else "protocol_error"
                self._end(Closed(False, "us", None, kind, str(protocol.parser_exc)), kind)
            elif protocol.close_rcvd is not None:
                self._close_received(protocol)
            else:
                self._settle_protocol()

    def _take_messages(self, protocol: ClientProtocol, arrival: int, read: int) -> None:
        """Deliver whole messages out of the library's frames; UnicodeDecodeError for text that is not UTF-8."""
        for event in protocol.events_received():
            if not isinstance(event, Frame) or event.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                continue
            self._fragments.append(event)
            if event.fin:
                data = b"".join(bytes(frame.data) for frame in self._fragments)
                text = self._fragments[0].opcode is Opcode.TEXT
                self._fragments.clear()
                self._deliver(data.decode() if text else data, arrival, read)
                if self.closed is not None:
                    return

    def _refuse_text(self, error: UnicodeDecodeError) -> None:
        protocol = self._protocol or self._make_protocol()
        protocol.fail(1007, f"{error.reason} at position {error.start}")
        self._write(b"".join(protocol.data_to_send()))
        self.fail("protocol_error", f"text that is not UTF-8: {error.reason} at position {error.start}")

    def _make_protocol(self) -> ClientProtocol:
        protocol = ClientProtocol(
            self.target.uri, state=OPEN, max_size=self.target.max_message_bytes, logger=self.engine.protocol_logger
        )
        protocol.extensions = self.extensions
        self._protocol = protocol
        return protocol

    def _settle_protocol(self) -> None:
        """Give the short path back, and the library's object with its buffers up, unless it holds a part of something."""
        protocol = self._protocol
        pending = protocol is not None and (
            not _between_frames(protocol) or protocol.current_size is not None or protocol.close_sent is not None
        )
        # The short path does not look at the limit: a frame it takes must be within it.
        self._clear = not pending and self.target.max_message_bytes >= 125
        self._fast = self._clear and self._tls is None and not self.target.fresh_masks
        if not pending:
            self._protocol = None

    def _deliver(self, message: Message, arrival: int, read: int) -> None:
        """One message, wherever it came from."""
        self._take(message, self._receive(message), arrival, read)

    def _take(self, message: Message, meaning: int, arrival: int, read: int) -> None:
        recorder = self.engine.recorder
        conversation = self.conversation
        if conversation is None:
            if self._closing:
                # Under way when we said goodbye, as after an answer that was cut by the end of the run: nobody's fault.
                return
            if meaning > 0:
                recorder.counts["ghost_tokens"] += meaning
            elif meaning == END:
                recorder.counts["double_ends"] += 1
        elif meaning > 0:
            conversation.arrivals.append(arrival)
            conversation.reads.append(read)
            if meaning > 1:
                conversation.add_extra(meaning - 1)
            if conversation.texts is not None:
                conversation.texts.append(message if isinstance(message, str) else message.decode(errors="replace"))
            if self._ack is not None:
                self._write(self._fresh_ack() if self.target.fresh_masks else self._ack)
            if len(conversation.arrivals) == conversation.stop_index:
                self._arrange_stop(conversation, conversation.stop_delay_s)
        elif meaning == END:
            conversation.end(arrival, read)
            self._finish(conversation)
        elif meaning != NOTHING:
            conversation.fail("server_error", message if isinstance(message, str) else repr(message), read)
            self._finish(conversation)

    def _fresh_ack(self) -> bytes:
        assert self.adapter.acknowledgement is not None
        return text_frame(self.adapter.acknowledgement)

    def _wake_user(self) -> None:
        if self._wake:
            self._wake = False
            waiter, self._waiter = self._waiter, None
            if waiter is not None:
                hub = gevent.get_hub()
                if gevent.getcurrent() is hub:
                    waiter.switch(None)
                else:
                    hub.loop.run_callback(waiter.switch, None)

    # Sending.

    def _write(self, data: bytes) -> None:
        if self._tls is not None:
            data = self._encrypt(data)
        if self._queue:
            self._write_slowly(data)
            return
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lost(error)
            return
        if sent != len(data):
            self._write_slowly(data[sent:])

    def _write_slowly(self, data: bytes) -> None:
        """Queue what the socket would not take; a peer that does not read for long enough loses the connection."""
        self._queue.append(data)
        self._queued_bytes += len(data)
        if self._queued_bytes > _QUEUE_LIMIT_BYTES:
            self.fail("send_blocked", f"the server stopped reading; {self._queued_bytes} bytes were waiting to be sent")
            return
        if self._write_watcher is None and self._sock is not None:
            self._write_watcher = gevent.get_hub().loop.io(self._sock.fileno(), _WRITE)
            self._write_watcher.start(self._writable)

    def _writable(self) -> None:
        data = b"".join(self._queue)
        self._queue.clear()
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lost(error)
            return
        rest = data[sent:]
        self._queued_bytes = len(rest)
        if rest:
            self._queue.append(rest)
        elif self._write_watcher is not None:
            self._write_watcher.close()
            self._write_watcher = None

    def _encrypt(self, data: bytes) -> bytes:
        if self._tls is None:
            return data
        self._tls.channel.write(data)
        return self._tls.outgoing.read()

    def _decrypt(self, data: bytes) -> bytes:
        if self._tls is None:
            return data
        self._tls.incoming.write(data)
        parts: list[bytes] = []
        try:
            while chunk := self._tls.channel.read(1 << 16):
                parts.append(chunk)
            self._tls.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._tls.ended = True
        except ssl.SSLError as error:
            if not parts:
                raise OSError(errno.EPROTO, f"TLS: {error.reason or error}") from None
        return b"".join(parts)

    # Closing.

    def wait_closed(self) -> None:
        """Sleep until the connection has ended, whoever ended it."""
        if self.closed is None:
            waiter = self._waiter = Waiter()
            try:
                waiter.get()
            finally:
                self._waiter = None

    def close(self, code: int = 1000, timeout_s: float = 2.0) -> None:
        """Close in good order: send a close frame, wait for the server's (at most ``timeout_s``), release the socket; idempotent."""
        if self.closed is not None or self._sock is None:
            return
        protocol = self._protocol or self._make_protocol()
        self._closing = True
        if protocol.state is OPEN:
            self._clear = self._fast = False
            protocol.send_close(code)
            self._write(b"".join(protocol.data_to_send()))
        waiter: Waiter[None] = Waiter()
        self._waiter = waiter
        timer = gevent.get_hub().loop.timer(timeout_s)
        timer.start(waiter.switch, None)
        try:
            if self.closed is None:
                waiter.get()
        finally:
            timer.close()
            self._waiter = None
            if self.closed is None:
                detail = f"the server did not answer the close frame within {timeout_s:g} s"
                self._end(Closed(False, "us", None, "close_timeout", detail), "connection_lost")

    def _close_received(self, protocol: ClientProtocol) -> None:
        close = protocol.close_rcvd
        assert close is not None
        ours = protocol.close_rcvd_then_sent is False
        clean = close.code in (1000, 1001, 1005)
        by = "us" if ours else "peer"
        self._end(Closed(clean, by, close.code, None if clean else "closed", close.reason or None), "connection_lost")

    def _ended(self) -> None:
        self._end(Closed(False, "peer", 1006, "eof", "the connection ended without a close frame"), "connection_lost")
        self._wake_user()

    def _lost(self, error: OSError) -> None:
        detail = f"{errno.errorcode.get(error.errno or 0, 'OSError')}: {error.strerror or error}"
        self._end(Closed(False, "network", 1006, "reset", detail), "connection_lost")
        self._wake_user()

    def _end(self, closed: Closed, kind: str) -> None:
        """Note how the connection ended, fail the conversation on it, release everything; idempotent."""
        if self.closed is not None:
            return
        self.closed = closed
        self._cancel_timer()
        conversation = self.conversation
        if conversation is not None:
            detail = closed.detail or ("the server closed the connection" if closed.code is not None else kind)
            conversation.fail(kind, detail if closed.code is None else f"{detail} (code {closed.code})", _now())
            self._finish(conversation)
        recorder = self.engine.recorder
        recorder.counts["closed_clean" if closed.clean else "closed_abnormal"] += 1
        recorder.connection_ended(self._row("clean" if closed.clean else "abnormal", closed.error, closed.detail))
        self._release()
        self._wake = True

    def _release(self) -> None:
        self.engine.streams.discard(self)
        for watcher in (self._watcher, self._write_watcher):
            if watcher is not None:
                watcher.close()
        self._watcher = self._write_watcher = None
        self._protocol = None
        self._queue.clear()
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _row(self, outcome: str, error: str | None, detail: str | None) -> dict[str, Any]:
        opening = self.opening
        tcp = opening.tcp_ns
        return {
            "connection": self.number,
            "user": self.user,
            "opened_at_ns": opening.started,
            "attempt": self.attempt,
            "conversations": self.conversations,
            "outcome": outcome,
            "syn_retransmitted": tcp is not None and any(low <= tcp <= high for low, high in _SYN_RETRANSMISSION_NS),
            "tcp_ns": tcp,
            "tls_ns": opening.tls_ns,
            "upgrade_ns": opening.upgrade_ns,
            "connect_time_ns": opening.connect_time_ns,
            "closed_at_ns": _now(),
            "close_code": None if self.closed is None else self.closed.code,
            "closed_by": None if self.closed is None else self.closed.by,
            "clock": "kernel" if KERNEL_STAMPS else "user",
            "error": error,
            "error_detail": detail,
        }


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


def _between_frames(protocol: ClientProtocol) -> bool:
    """Whether the library waits for a frame to begin. Its buffer alone does not tell: the header of a frame whose body has not
    come is no longer in it."""
    step: Any = protocol.parser
    while step.gi_yieldfrom is not None:
        step = step.gi_yieldfrom
    return step.gi_code is StreamReader.at_eof.__code__ and not protocol.reader.buffer


def _handshake_failure(error: Exception) -> ConnectError:
    if isinstance(error, InvalidStatus):
        return ConnectError("handshake_status", f"HTTP {error.response.status_code} {error.response.reason_phrase}")
    if isinstance(error, InvalidMessage) and error.__cause__ is not None:
        return ConnectError("handshake_invalid", f"{error}: {error.__cause__}")
    if isinstance(error, InvalidHandshake):
        return ConnectError("handshake_invalid", str(error))
    return ConnectError("handshake_invalid", f"{type(error).__name__}: {error}")

