"""One run as one process sees it: what its users need."""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from websockets.uri import WebSocketURI

from .adapter import HTTP, make_adapter, transport_of
from .behaviours import SlowEventStream, SlowStream, WithholdingStream
from .connection import Connection
from .engine import Engine
from .event_stream import EventStream
from .metrics import SLOW_READER, WITHHELD
from .open_loop import OpenLoop
from .opening import Target
from .population import Person
from .settings import Settings, parse_target
from .stream import Stream


@dataclass(slots=True)
class Run:
    """One run as one process sees it: what users need."""

    settings: Settings
    worker: str
    engine: Engine
    target: Target
    open_loop: OpenLoop | None
    users_of: Callable[[], int]
    position: int = 0
    workers: int = 1
    _targets: dict[Person, Target] = field(default_factory=dict)
    _next_user: int = 0
    _draw: random.Random = field(default_factory=random.Random)

    def number_user(self) -> int:
        """The next user's number in this process."""
        self._next_user += 1
        return self._next_user - 1

    def place_of(self, user: int) -> int:
        """The number of one of this process's users among those of all processes."""
        return user * self.workers + self.position

    def draw_for(self, user: int, turn: int) -> random.Random:
        """What is drawn for one turn of one user: the same for the same seed, whatever the others do meanwhile.

        One generator for all is seeded anew each time: one of their own would cost each user 2.5 KB.
        """
        self._draw.seed(f"{self.settings.seed}:{self.worker}:{user}:{turn}")
        return self._draw

    def connection(self, target: Target, user: int, attempt: int, role: str = "") -> Connection:
        """A connection, not open yet, of the kind that the adapter speaks through and the user's role needs."""
        return make_connection(self.settings, self.engine, target, user, attempt, role)

    def users(self) -> int:
        """How many users run in all processes, as far as this one knows."""
        return self.users_of()

    def target_of(self, person: Person | None) -> Target:
        """The target with what a user brings of its own."""
        if person is None:
            return self.target
        if person not in self._targets:
            uri = self.target.uri if person.url is None else parse_target(person.url, self.settings.transport)
            self._targets[person] = make_target(self.settings, uri, person.headers, self.target.trace)
        return self._targets[person]


def make_target(settings: Settings, uri: WebSocketURI, headers: tuple[tuple[str, str], ...] = (), trace: str | None = None) -> Target:
    """What the settings say of connecting, for one URI, with headers of a user's own."""
    tls = None
    if uri.secure:
        # The users' own URLs may be wss where the common one is ws.
        tls = settings.tls or ssl.create_default_context()
    return Target(
        uri=uri, headers=settings.headers + headers, subprotocols=settings.subprotocols, origin=settings.origin,
        compression=settings.compression, tls=tls, connect_timeout_s=settings.connect_timeout_s,
        max_message_bytes=settings.max_message_bytes, fresh_masks=settings.fresh_masks, source_addresses=settings.source_addresses,
        trace=trace,
    )  # fmt: skip


def make_connection(settings: Settings, engine: Engine, target: Target, user: int = 0, attempt: int = 0, role: str = "") -> Connection:
    """A connection with an adapter of its own; AdapterError when that cannot be made."""
    adapter = make_adapter(settings.adapter_class, settings.adapter_options)
    if role == SLOW_READER:
        slow = SlowEventStream if settings.transport == HTTP else SlowStream
        return slow(engine, target, adapter, user, attempt, settings.slow_bytes_per_s)
    if role == WITHHELD and settings.transport != HTTP:
        return WithholdingStream(engine, target, adapter, user, attempt, settings.withhold_after)
    return connection_for(adapter, engine, target, user, attempt)


def connection_for(adapter: Any, engine: Engine, target: Target, user: int = 0, attempt: int = 0) -> Connection:
    """A connection, not open yet, of the kind that the adapter speaks through."""
    return (EventStream if transport_of(adapter) == HTTP else Stream)(engine, target, adapter, user, attempt)
