"""One WebSocket connection: frames in, frames out, and how it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from websockets.asyncio.server import Server, ServerConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Event
from websockets.server import ServerProtocol

from . import counters
from .answers import Answers
from .connections import address_of
from .parameters import Plan
from .protocol import CLOSE_GOING_AWAY, CLOSE_INVALID_TEXT, CLOSE_TOO_BIG, MAX_FRAGMENTS

if TYPE_CHECKING:
    from .app import StreamServer

READ_BYTES: Final = 256
"""What is read of one connection before the others have their turn: a prompt, or 42 of the smallest messages, half a millisecond's work."""

_Payload = bytes | bytearray | memoryview


class StreamConnection(ServerConnection):
    """A connection whose messages are acted on in the call that delivers them: one reader, and it always reads.

    `recv` is never called on it; the answers take what arrives and write what is due, without a task of their own.
    """

    def __init__(self, protocol: ServerProtocol, server: Server, *, streams: StreamServer, **options: Any) -> None:
        super().__init__(protocol, server, **options)
        self._streams = streams
        self._answers: Answers | None = None
        self._early: list[Event] = []
        self._fragments: list[_Payload] | None = None
        self._deadline: asyncio.TimerHandle | None = None  # of an unfinished message, then of the closing handshake
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
        early, self._early = self._early, []
        for event in early:
            self.process_event(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, whatever ended it; called by asyncio, once."""
        super().connection_lost(exc)
        if self._deadline is not None:
            self._deadline.cancel()
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
        protocol = self.protocol
        protocol.parser.close()  # suspended for good, and its frame holds the protocol
        for error in (protocol.parser_exc, protocol.handshake_exc):
            if error is not None:
                error.__traceback__ = None
                if error.__cause__ is not None:
                    error.__cause__.__traceback__ = None
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
        super().data_received(data)
        protocol = self.protocol
        if self._answers is None:
            if self.request is None and protocol.handshake_exc is not None and not self._malformed:
                self._malformed = True
                self._streams.malformed(self)
        elif protocol.state is not OPEN:
            self._closing()
        elif self.paused and self.transport.get_write_buffer_size() > self._streams.settings.write_buffer_bytes:
            # Nothing but replies to pings is written without looking whether the peer reads.
            self.cut("write_buffer")

    def process_event(self, event: Event) -> None:
        """Act on one frame; called by the library for each."""
        answers = self._answers
        if answers is None:
            if self.request is None:
                super().process_event(event)  # the handshake's request
            else:
                self._early.append(event)
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
            self.acknowledge_pings(bytes(event.data))

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
