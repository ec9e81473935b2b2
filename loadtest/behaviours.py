"""Users that misbehave on purpose: they stop acknowledging, or read so slowly that the server feels it.

What becomes of their conversations is recorded, and kept out of the figures of the others.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import gevent

from .arrivals import Stop
from .connection import Connection
from .conversation import Conversation
from .ending import Closed
from .event_stream import EventStream
from .opening import BUFFER, Target
from .stream import Stream

if TYPE_CHECKING:
    from .engine import Engine

RECEIVE_BUFFER_BYTES = 4096
"""Asked of the kernel for a slow reader (Linux doubles it): what the kernel takes in for a reader who does not read, the server never
feels."""
_READS_PER_S = 10


class WithholdingStream(Stream):
    """Acknowledges the first ``after`` messages with tokens of an answer, and none after them."""

    __slots__ = ("_after", "_kept")

    def __init__(self, engine: Engine, target: Target, adapter: Any, user: int = 0, attempt: int = 0, after: int = 0) -> None:
        super().__init__(engine, target, adapter, user, attempt)
        self._after = after
        self._kept = (self._ack, self._dynamic)

    def converse(self, conversation: Conversation, prompt: str, stop: Stop | None = None, expected_gap_s: float = 0.0) -> None:
        """As any other, but without acknowledgements from some token on; a stop would end what the withholding is about."""
        self._ack, self._dynamic = self._kept
        if self._after == 0:
            self._withhold()
        try:
            super().converse(conversation, prompt, Stop(tokens=self._after) if self._after else None)
        finally:
            if conversation.window:
                self.engine.recorder.counts["acks_sent"] += min(conversation.messages, self._after)

    def _arrange_stop(self, conversation: Conversation, delay_s: float) -> None:
        # Where another would stop after so many tokens, this one falls silent.
        self._withhold()

    def _withhold(self) -> None:
        self._ack = self._dynamic = None


class _Slowly(Connection):
    """Reads so many bytes a second and no more: the rest stays in the kernel until its window is shut and the server has to wait."""

    __slots__ = ()

    _bytes_per_s: float
    _rest: Any
    _receive_all: Any

    def adopt(self, sock: Any, watcher: Any = None, tls: Any = None) -> None:
        super().adopt(sock, watcher, tls)
        self._receive_all, self._recvmsg = sock.recvmsg_into, self._read_some  # type: ignore[assignment]  # called with no more than it takes

    def _read_some(self, buffers: Any, control_bytes: int) -> Any:
        portion = max(1, min(len(BUFFER), int(self._bytes_per_s / _READS_PER_S)))
        got = self._receive_all([memoryview(BUFFER)[:portion]], control_bytes)
        self._pause(got[0] / self._bytes_per_s)
        return got

    def _pause(self, seconds: float) -> None:
        if self._watcher is None or seconds <= 0:
            return
        self._watcher.stop()
        self._rest = gevent.get_hub().loop.timer(seconds)
        self._rest.start(self._go_on)

    def _go_on(self) -> None:
        self._wake_from_rest()
        if self.closed is None and self._watcher is not None:
            self._watcher.start(self._readable)

    def _wake_from_rest(self) -> None:
        if self._rest is not None:
            self._rest.close()
            self._rest = None

    def close(self, code: int = 1000, timeout_s: float = 2.0) -> None:
        # All that is under way would have to be read before the server's goodbye: such a reader leaves without it.
        if self.closed is None and self._sock is not None:
            self._closing = True
            self._farewell()
            self._end(Closed(True, "us", None, None, "a slow reader left"), "connection_lost")
            self._wake_user()

    def _release(self) -> None:
        self._wake_from_rest()
        super()._release()


class SlowStream(_Slowly, Stream):
    """A WebSocket that is read slowly."""

    __slots__ = ("_bytes_per_s", "_receive_all", "_rest")

    def __init__(self, engine: Engine, target: Target, adapter: Any, user: int = 0, attempt: int = 0, bytes_per_s: float = 100.0) -> None:
        super().__init__(engine, narrow(target), adapter, user, attempt)
        self._bytes_per_s, self._rest = bytes_per_s, None


class SlowEventStream(_Slowly, EventStream):
    """An answer over HTTP that is read slowly."""

    __slots__ = ("_bytes_per_s", "_receive_all", "_rest")

    def __init__(self, engine: Engine, target: Target, adapter: Any, user: int = 0, attempt: int = 0, bytes_per_s: float = 100.0) -> None:
        super().__init__(engine, narrow(target), adapter, user, attempt)
        self._bytes_per_s, self._rest = bytes_per_s, None


def narrow(target: Target) -> Target:
    """The target, to be connected to with a small receive buffer."""
    return dataclasses.replace(target, receive_buffer_bytes=RECEIVE_BUFFER_BYTES)
