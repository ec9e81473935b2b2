"""What the bytes of a connection mean where they are no whole small text frames: fragments, control frames, compression, errors.

All of it is the library's Sans-I/O protocol; its object is made when it is needed and given up, with its buffers, when it holds no part
of anything, so that an idle connection does not carry one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import OPEN
from websockets.streams import StreamReader
from websockets.uri import WebSocketURI

from .adapter import Message


def frame_of(message: Message) -> bytes:
    """A masked frame of one message."""
    opcode, data = (Opcode.TEXT, message.encode()) if isinstance(message, str) else (Opcode.BINARY, message)
    return Frame(opcode, data).serialize(mask=True)


class Frames:
    """The library's part of one open connection."""

    __slots__ = ("_fragments", "_limit_bytes", "_logger", "_protocol", "_uri", "extensions")

    def __init__(self, uri: WebSocketURI, limit_bytes: int, logger: logging.Logger) -> None:
        self._uri = uri
        self._limit_bytes = limit_bytes
        self._logger = logger
        self._protocol: ClientProtocol | None = None
        self._fragments: list[Frame] = []
        self.extensions: list[Any] = []

    def adopt(self, protocol: ClientProtocol) -> None:
        """Take over the protocol that has shaken hands, with what it has already received."""
        self._protocol = protocol
        self.extensions = protocol.extensions

    def _open(self) -> ClientProtocol:
        if self._protocol is None:
            self._protocol = ClientProtocol(self._uri, state=OPEN, max_size=self._limit_bytes, logger=self._logger)
            self._protocol.extensions = self.extensions
        return self._protocol

    def receive(self, data: bytes) -> None:
        """Hand bytes to the library; then take ``messages``, ``replies``, ``error`` and ``close``."""
        self._open().receive_data(data)

    def messages(self) -> Iterator[Message]:
        """Whole messages, one by one; UnicodeDecodeError for text that is not UTF-8, after the messages before it."""
        for event in self._open().events_received():
            if not isinstance(event, Frame) or event.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                continue
            self._fragments.append(event)
            if event.fin:
                data = b"".join(bytes(frame.data) for frame in self._fragments)
                text = self._fragments[0].opcode is Opcode.TEXT
                self._fragments.clear()
                yield data.decode() if text else data

    def replies(self) -> bytes:
        """What the library wants to be sent: pongs, the echo of a close."""
        return b"".join(self._open().data_to_send())

    @property
    def error(self) -> Exception | None:
        """What the peer did wrong."""
        return None if self._protocol is None else self._protocol.parser_exc

    @property
    def close(self) -> tuple[Close, bool] | None:
        """The peer's close frame, and whether we had sent ours before it."""
        if self._protocol is None or self._protocol.close_rcvd is None:
            return None
        return self._protocol.close_rcvd, self._protocol.close_rcvd_then_sent is False

    def send_close(self, code: int) -> bytes:
        """A close frame, once."""
        protocol = self._open()
        if protocol.state is OPEN:
            protocol.send_close(code)
        return b"".join(protocol.data_to_send())

    def refuse(self, code: int, reason: str) -> bytes:
        """A close frame for what the peer did wrong."""
        protocol = self._open()
        protocol.fail(code, reason)
        return b"".join(protocol.data_to_send())

    def settle(self) -> bool:
        """Whether the library holds no part of anything; its object is then given up."""
        protocol = self._protocol
        if protocol is not None and (not _between_frames(protocol) or protocol.current_size is not None or protocol.close_sent is not None):
            return False
        self._protocol = None
        return True


def _between_frames(protocol: ClientProtocol) -> bool:
    """Whether the library waits for a frame to begin. Its buffer alone does not tell: the header of a frame whose body has not
    come is no longer in it."""
    step: Any = protocol.parser
    while step.gi_yieldfrom is not None:
        step = step.gi_yieldfrom
    return step.gi_code is StreamReader.at_eof.__code__ and not protocol.reader.buffer
