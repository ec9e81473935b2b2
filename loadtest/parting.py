"""The last of a connection whose close frames have been exchanged: wait until the server has closed it, then let go of the socket.

Who closes first keeps the port for a minute (TIME_WAIT). RFC 6455 (7.1.1) wants that to be the server: a client that opens and closes
thousands of connections a second would run out of ports.
"""

from __future__ import annotations

import _socket
from typing import Any, ClassVar

import gevent

_READ = 1
_BUFFER_BYTES = 4096
PATIENCE_S = 1.0
"""A server that does not close is left to itself after this."""


class Parting:
    """One socket that waits for its peer's end; it keeps itself alive until then."""

    _under_way: ClassVar[set[Parting]] = set()

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock
        loop = gevent.get_hub().loop
        self._watcher: Any = loop.io(sock.fileno(), _READ)
        self._timer: Any = loop.timer(PATIENCE_S)
        self._watcher.start(self._readable)
        self._timer.start(self._end)
        self._under_way.add(self)

    def _readable(self) -> None:
        if has_ended(self._sock):
            self._end()

    def _end(self) -> None:
        self._watcher.close()
        self._timer.close()
        self._sock.close()
        self._under_way.discard(self)


def has_ended(sock: _socket.socket) -> bool:
    """Whether the peer has closed; what it still sends is thrown away."""
    try:
        while sock.recv(_BUFFER_BYTES):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def part(sock: _socket.socket) -> None:
    """Close the socket as soon as its peer has closed."""
    if has_ended(sock):
        sock.close()
    else:
        Parting(sock)
