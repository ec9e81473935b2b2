"""One WebSocket connection: frames in, frames out, and how it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from websockets.asyncio.server import Server, ServerConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import CONNECTING, OPEN, Event
from websockets.server import ServerProtocol

from . import counters
from .answers import Answers
from .connections import address_of
from .floods import MANY_BYTES, MANY_MESSAGES
from .parameters import Plan
from .protocol import CLOSE_GOING_AWAY, CLOSE_INVALID_TEXT, CLOSE_TOO_BIG, MAX_FRAGMENTS

if TYPE_CHECKING:
    from .app import StreamServer

READ_BYTES: Final = 256
"""What is read of one connection before the others have their turn: a prompt, or 42 of the smallest messages, half a millisecond's work."""

END_OF_REQUEST: Final = b"\r\n\r\n"

_Payload = bytes | bytearray | memoryview


class StreamConnection(ServerConnection):
    """A connection whose messages are acted on in the call that delivers them: one reader, and it always reads.

    `recv` is never called on it; the answers take what arrives and write what is due, without a task of their own.
    """

    def __init__(self, protocol: ServerProtocol, server: Server, *, streams: StreamServer, **options: Any) -> None:
        super().__init__(protocol, server, **options)
        self._streams = streams
        self._answers: Answers | None = None
        self._tail = b""  # of the request, while it is not whole
        self._early = b""  # frames that came before the request was answered
        self._fragments: list[_Payload] | None = None
        self._deadline: asyncio.TimerHandle | None = None  # of an unfinished message, then of the closing handshake
        self._rest: asyncio.TimerHandle | None = None  # of one that floods: nothing is read of it meanwhile
        self._cut: str | None = None
        self._made_s = 0.0
        self._malformed = False
        self.address = "unknown"

    # -- opening and closing ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note who it is; called by asyncio."""
        self._made_s = self.loop.time()
        if hasattr(transport, "max_size"):
            # A read of asyncio's 256 KiB may hold 37 000 small messages, and the other connections have to wait for them all. With
            # 16 KiB, 20 connections that flood kept others waiting for 190 ms at worst; with this, for 13.
            transport.max_size = READ_BYTES
        self.address = address_of(transport.get_extra_info("peername"))
        self._streams.connections_made += 1
        self._streams.opening.add(self)
        super().connection_made(transport)

    def converse(self, plan: Plan) -> None:
        """Become one of the open connections, with answers as in `plan`."""
        streams = self._streams
        streams.opening.discard(self)
        streams.connection_number += streams.numbers_step
        number = streams.connection_number
        self._answers = Answers(self, self.loop, plan, streams.answer_settings, streams.row, number, plan.connection or str(number))
        streams.connections.enter(self)
        if self._early:
            self.loop.call_soon(self._take_early)

    def _take_early(self) -> None:
        """Act on what the client sent before it had the answer to its request."""
        early, self._early = self._early, b""
        if not self.transport.is_closing():
            self.data_received(early)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, whatever ended it; called by asyncio, once."""
        super().connection_lost(exc)
        for timer in (self._deadline, self._rest):
            if timer is not None:
                timer.cancel()
        answers = self._answers
        self._break_cycles()
        if answers is not None:
            answers.connection_lost()
            code = self._code()
            if self._streams.connections.forget(self, code) and code not in (1000, 1001, 1005):
                self._streams.log.warn("closed", code=code, peer=self.address, reason=self._cut or self._reason())
            return
        streams = self._streams
        if self.request is None and not self._malformed and self.loop.time() - self._made_s >= streams.settings.open_timeout_s:
            streams.timed_out(self)
        streams.never_opened(self)

    def _break_cycles(self) -> None:
        """Let the memory go at once: a search of the garbage collector among 10 000 connections stops the loop for 0.5 s."""
        if hasattr(self.transport, "_read_ready_cb"):
            self.transport._read_ready_cb = None  # asyncio's: a method of the transport's own
        protocol = self.protocol
        protocol.parser.close()  # suspended for good, and its frame holds the protocol
        errors = [protocol.parser_exc, protocol.handshake_exc, self.connection_exc]
        while errors:
            error = errors.pop()
            if error is not None:
                error.__traceback__ = None
                errors += error.__cause__, error.__context__
        self._answers = None

    def _code(self) -> int:
        """Return the close code of the side that closed first; 1006 without a close frame."""
        protocol = self.protocol
        first = protocol.close_rcvd if protocol.close_rcvd_then_sent or protocol.close_sent is None else protocol.close_sent
        return first.code if first is not None else 1006

    def _reason(self) -> str:
        sent, received = self.protocol.close_sent, self.protocol.close_rcvd
        return (sent.reason if sent is not None else "") or (received.reason if received is not None else "")

    # -- receiving -------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take bytes from the network; called by asyncio."""
        if self._answers is None or self._early:
            self._take_opening(data)
            return
        many = len(data) >= MANY_BYTES
        before, began_s = (counters.moved_no_token(self._streams.row), self.loop.time()) if many else (0, 0.0)
        super().data_received(data)
        if self.protocol.state is not OPEN:
            self._closing()
        elif self.paused and self.transport.get_write_buffer_size() > self._streams.settings.write_buffer_bytes:
            # Nothing but replies to pings is written without looking whether the peer reads.
            self.cut("write_buffer")
        elif many and self._rest is None and counters.moved_no_token(self._streams.row) - before > MANY_MESSAGES:
            self._streams.row[counters.RESTS] += 1
            self.transport.pause_reading()
            self._rest = self.loop.call_later(self._streams.floods.rest_s(began_s, self.loop.time()), self._read_on)

    def _take_opening(self, data: bytes) -> None:
        """Take bytes of the request, or frames that came before its answer: those wait, for the library would act on them at once."""
        if self._answers is not None or (self.request is not None and self.protocol.state is CONNECTING):
            self._early += data
            return
        if self.request is None:
            seen = self._tail + data
            end = seen.find(END_OF_REQUEST) + len(END_OF_REQUEST)
            if end < len(END_OF_REQUEST):
                self._tail = seen[-len(END_OF_REQUEST) :]
            else:
                self._early, data = seen[end:], seen[len(self._tail) : end]
        super().data_received(data)
        if self.request is None and self.protocol.handshake_exc is not None:
            self._early = b""
            if not self._malformed:
                self._malformed = True
                self._streams.malformed(self)

    def _read_on(self) -> None:
        self._rest = None
        self.transport.resume_reading()

    def process_event(self, event: Event) -> None:
        """Act on one frame; called by the library for each."""
        answers = self._answers
        if answers is None:
            super().process_event(event)  # the handshake's request
            return
        assert isinstance(event, Frame)
        opcode = event.opcode
        if opcode is Opcode.TEXT:
            if event.fin:
                self._text(answers, event.data)
            else:
                self._fragments = [event.data]
                self._deadline = self.loop.call_later(self._streams.settings.message_timeout_s, self.cut, "message_timeout")
        elif opcode is Opcode.CONT:
            self._continue(answers, event)
        elif opcode is Opcode.BINARY:
            answers.binary_received()
        elif opcode is Opcode.PONG:
            self._streams.row[counters.CONTROL_FRAMES] += 1
            self.acknowledge_pings(bytes(event.data))
        elif opcode is Opcode.PING:
            self._streams.row[counters.CONTROL_FRAMES] += 1  # the library has replied

    def _continue(self, answers: Answers, frame: Frame) -> None:
        fragments = self._fragments
        if fragments is None:
            return  # of a binary message: the connection is being closed
        fragments.append(frame.data)
        if frame.fin:
            self._fragments = None
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
            self._text(answers, b"".join(fragments))
        elif len(fragments) >= MAX_FRAGMENTS:
            self._fragments = None
            answers.too_big_received()

    def _text(self, answers: Answers, data: _Payload) -> None:
        try:
            text = str(data, "utf-8")
        except UnicodeDecodeError:
            self.close_with(CLOSE_INVALID_TEXT, "the text is not UTF-8")
            answers.connection_lost()
            return
        answers.text_received(text)

    def _closing(self) -> None:
        """The closing handshake has begun, or the peer broke the rules: no answer goes on."""
        assert self._answers is not None
        sent = self.protocol.close_sent
        if sent is not None and sent.code == CLOSE_TOO_BIG:
            self._answers.too_big_received()  # the library has closed: R12
        else:
            self._answers.connection_lost()
        self._fragments = None
        self._expect_close()

    # -- sending ---------------------------------------------------------------------------------------------------

    def send_text(self, text: str) -> None:
        """Write one text message; what is not open any more ignores it."""
        if self.protocol.state is OPEN:
            self.protocol.send_text(text.encode())
            self.send_data()

    def resume_writing(self) -> None:
        """The peer reads again; called by asyncio."""
        super().resume_writing()
        if self._answers is not None:
            self._answers.writable()

    def close_with(self, code: int, reason: str) -> None:
        """Begin to close; a peer that broke the rules gets no say in it any more."""
        if self.protocol.state is not OPEN:
            return
        if code == CLOSE_GOING_AWAY:
            self.protocol.send_close(code, reason)
        else:
            self.protocol.fail(code, reason)
        self.send_data()
        self._expect_close()

    def _expect_close(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(self._streams.settings.close_timeout_s, self.cut, "close_timeout")

    def leave(self) -> None:
        """End the answer under way and begin to close, because the server leaves (R15)."""
        if self._answers is not None:
            self._answers.drain()

    def cut(self, reason: str) -> None:
        """Close without the closing handshake; `reason` is one of `counters.CUT_REASONS`."""
        if self._cut is None:
            self._cut = reason
            self._streams.row[counters.CUT[reason]] += 1
        self.transport.abort()
