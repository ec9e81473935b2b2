"""A port for a server that is about to be started. Knows sockets, and neither gevent nor Locust: other rooms may ask it too."""

from __future__ import annotations

import contextlib
import random
import socket

_PORTS = (20_000, 32_000)
"""Below what Linux (32768) and macOS (49152) give to outgoing connections: one of those could take the port before it is listened on."""
_draw = random.SystemRandom()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on just now, and that the system gives to no outgoing connection meanwhile.

    Raises OSError where a thousand tries have found none.
    """
    for _ in range(1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", _draw.randrange(*_PORTS)))
            return int(probe.getsockname()[1])
    raise OSError("no free port of 127.0.0.1 found between 20000 and 32000")
