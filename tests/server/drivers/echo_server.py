"""The reference server with one thing changed: what arrives is sent back. Conformance suites for WebSocket ask for that.

Everything below the conversation is the server's own: the handshake, frames, fragments, UTF-8, pings, closing. Binary messages, which a
conversation has none of (R11), are sent back too. The port is printed once it listens; SIGTERM ends it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from typing import Any

from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Event

from server import app, wire
from server.app import Settings, StreamServer
from server.counters import Block
from server.parameters import Plan
from server.processes import bind
from server.protocol import CLOSE_GOING_AWAY, CLOSE_TOO_BIG


class Echo:
    """Stands where the answers stand."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def text_received(self, text: str) -> None:
        self._connection.send_text(text)

    def too_big_received(self) -> None:
        self._connection.close_with(CLOSE_TOO_BIG, "the message is too long")

    def drain(self) -> None:
        self._connection.close_with(CLOSE_GOING_AWAY, "the server is going away")

    def binary_received(self) -> None:
        raise AssertionError("binary messages are sent back before they get here")

    def connection_lost(self) -> None:
        pass

    def writable(self) -> None:
        pass


class EchoConnection(wire.StreamConnection):
    """A connection of the reference server, whose answers are echoes."""

    _binary: list[bytes] | None = None

    def converse(self, plan: Plan) -> None:
        super().converse(plan)
        self._answers = Echo(self)  # type: ignore[assignment]

    def process_event(self, event: Event) -> None:
        if isinstance(event, Frame) and (event.opcode is Opcode.BINARY or (event.opcode is Opcode.CONT and self._binary is not None)):
            self._binary = [*(self._binary or []), bytes(event.data)]
            if event.fin:
                data, self._binary = b"".join(self._binary), None
                if self.protocol.state is OPEN:
                    self.protocol.send_binary(data)
                    self.send_data()
            return
        super().process_event(event)


async def main() -> None:
    settings = dataclasses.replace(
        Settings(), max_text_bytes=17 * 1024 * 1024, write_buffer_bytes=64 * 1024 * 1024, quiet=True, ping_interval_s=0,
        compression="--compression" in sys.argv,
    )  # fmt: skip
    app.StreamConnection = EchoConnection  # type: ignore[misc]
    sockets = bind("127.0.0.1", 0, 1)[0]
    await StreamServer(settings, Block(1)).run(sockets, lambda: print(sockets[0].getsockname()[1], flush=True))


asyncio.run(main())
