"""The engine without Locust: one connection after another, held by an adapter, and what came of its conversations."""

from __future__ import annotations

import ssl
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import gevent

from .adapter import HTTP, make_adapter, transport_of
from .arrivals import Stop
from .clock import Clock
from .connection import Connection
from .conversation import Conversation
from .engine import Engine
from .opening import Target
from .recorder import Recorder
from .run import connection_for
from .settings import SettingsError, parse_target


class Memory:
    """A sink that keeps conversations' rows, and adds up the counters."""

    def __init__(self) -> None:
        self.conversations: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()

    def append(self, table: str, columns: Mapping[str, Any]) -> None:
        """Take rows, column by column."""
        if table == "conversations":
            names = list(columns)
            self.conversations += [dict(zip(names, row, strict=True)) for row in zip(*(columns[name] for name in names), strict=True)]
        elif table == "intervals":
            for name, values in columns.items():
                if name not in ("worker", "second"):
                    self.counts[name] += sum(value for value in values if value is not None)


class Trial:
    """Conversations with one target through one adapter; ValueError when the target's URL is not one that the adapter can reach."""

    def __init__(self, cls: Any, options: Mapping[str, Any], url: str, patience_s: float, tls: ssl.SSLContext | None = None) -> None:
        self.memory = Memory()
        self.clock = Clock()
        self.recorder = Recorder("trial", time.monotonic_ns(), self.memory)
        self.engine = Engine(self.recorder, self.clock, patience_s)
        self._cls, self._options = cls, options
        transport = transport_of(make_adapter(cls, options))
        parts = urlsplit(url)
        if parts.scheme in ({"ws", "wss"} if transport == HTTP else {"http", "https"}):
            expected = "http:// or https://" if transport == HTTP else "ws:// or wss://"
            raise ValueError(f"expected a {expected} URL, which this adapter speaks, got {url!r}")
        try:
            uri = parse_target(url, transport)
        except SettingsError as error:
            raise ValueError(str(error)) from None
        self._target = Target(uri=uri, tls=tls or (ssl.create_default_context() if uri.secure else None), connect_timeout_s=patience_s)
        self._connection: Connection | None = None
        self.engine.start()

    def connect(self) -> Connection:
        """A new open connection; ConnectError."""
        made = connection_for(make_adapter(self._cls, self._options), self.engine, self._target)
        made.open()
        return made

    def connection(self) -> Connection:
        """The connection of this trial, opened again when it was closed; ConnectError."""
        if self._connection is None or self._connection.closed is not None:
            self._connection = self.connect()
        return self._connection

    def converse(self, prompt: str, stop: Stop | None = None, connection: Connection | None = None) -> Conversation:
        """One conversation, to its outcome; on the trial's own connection unless another is given."""
        held = connection or self.connection()
        conversation = Conversation(held.number, self.recorder.number_conversation(), 1, held.window)
        held.converse(conversation, prompt, stop)
        return conversation

    def row(self, conversation: Conversation) -> dict[str, Any]:
        """What is recorded of a conversation that has ended."""
        self.engine.flush()
        return next(row for row in self.memory.conversations if row["conversation"] == conversation.number)

    def count(self, name: str) -> int:
        """A counter so far."""
        self.engine.flush()
        return self.memory.counts[name]

    @staticmethod
    def wait(seconds: float) -> None:
        """Let time pass while connections are read."""
        gevent.sleep(seconds)

    def close(self) -> None:
        """Close what is open."""
        for stream in list(self.engine.streams):
            stream.close(timeout_s=1.0)
        self.engine.stop()
