"""What a socket would not take at once: kept in order, sent as soon as the peer reads again, bounded."""

from __future__ import annotations

import _socket
from collections.abc import Callable
from typing import Any

import gevent

from .opening import WRITE

LIMIT_BYTES = 1 << 20
"""A peer that does not read while this much waits has stopped reading."""


class Outbox:
    """The queue of one connection, made when the first byte has to wait; ``drained`` is called when nothing waits any more."""

    __slots__ = ("_drained", "_lost", "_parts", "_sock", "_watcher", "waiting_bytes")

    def __init__(self, sock: _socket.socket, drained: Callable[[], None], lost: Callable[[OSError], None]) -> None:
        self._sock = sock
        self._drained = drained
        self._lost = lost
        self._parts: list[bytes] = []
        self.waiting_bytes = 0
        self._watcher: Any = gevent.get_hub().loop.io(sock.fileno(), WRITE)
        self._watcher.start(self._writable)

    def add(self, data: bytes) -> bool:
        """Keep these bytes; False when more than the limit waits."""
        self._parts.append(data)
        self.waiting_bytes += len(data)
        return self.waiting_bytes <= LIMIT_BYTES

    def _writable(self) -> None:
        data = b"".join(self._parts)
        self._parts.clear()
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lost(error)
            return
        rest = data[sent:]
        self.waiting_bytes = len(rest)
        if rest:
            self._parts.append(rest)
        else:
            self.close()
            self._drained()

    def close(self) -> None:
        """Stop watching; what waits is dropped."""
        self._watcher.close()
        self._parts.clear()
