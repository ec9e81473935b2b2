"""How a connection ended, and its row."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from websockets.frames import Close

from .opening import KERNEL_STAMPS

if TYPE_CHECKING:
    from .connection import Connection

_CLEAN = (1000, 1001, 1005)


@dataclass(slots=True)
class Closed:
    """How a connection ended: ``by`` is us, peer or network."""

    clean: bool
    by: str
    code: int | None = None
    error: str | None = None
    detail: str | None = None


def closed_by_frame(close: Close, ours: bool) -> Closed:
    """The peer sent a close frame; ``ours`` when it answers one of ours."""
    clean = close.code in _CLEAN
    return Closed(clean, "us" if ours else "peer", close.code, None if clean else "closed", close.reason or None)


def closed_by_network(error: OSError) -> Closed:
    """The socket failed."""
    name = errno.errorcode.get(error.errno or 0, "OSError")
    return Closed(False, "network", 1006, "reset", f"{name}: {error.strerror or error}")


def connection_row(stream: Connection, outcome: str, error: str | None, detail: str | None) -> dict[str, Any]:
    """The row of a connection that is closed or never opened; instants are monotonic."""
    opening, closed = stream.opening, stream.closed
    return {
        "connection": stream.number,
        "user": stream.user,
        "opened_at_ns": opening.started,
        "attempt": stream.attempt,
        "conversations": stream.conversations,
        "outcome": outcome,
        "syn_retransmitted": opening.syn_retransmitted,
        "tcp_ns": opening.tcp_ns,
        "tls_ns": opening.tls_ns,
        "upgrade_ns": opening.upgrade_ns,
        "connect_time_ns": opening.connect_time_ns,
        "closed_at_ns": time.monotonic_ns(),
        "close_code": None if closed is None else closed.code,
        "closed_by": None if closed is None else closed.by,
        "clock": "kernel" if KERNEL_STAMPS else "user",
        "error": error,
        "error_detail": detail,
    }
