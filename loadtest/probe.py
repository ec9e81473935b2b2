"""Does the target answer at all: one connection, opened and closed before a run; over HTTP one answer as far as its first token."""

from __future__ import annotations

import random
import time
from typing import Any

from .adapter import HTTP
from .arrivals import Stop
from .clock import Clock
from .conversation import Conversation
from .engine import Engine
from .opening import ConnectError
from .recorder import Recorder
from .redaction import redact_url
from .run import make_connection, make_target
from .settings import Settings, SettingsError


class _Nowhere:
    """A sink for the connection that only tries the target."""

    def append(self, table: str, columns: Any) -> None:
        """Forget it."""


def probe(settings: Settings, clock: Clock) -> None:
    """Open and close one connection; SettingsError when the target does not answer an upgrade, or refuses what the adapter asks.

    An HTTP server says only to a request whether it serves: its answer is stopped at the first token.
    """
    engine = Engine(Recorder("probe", time.monotonic_ns(), _Nowhere()), clock, settings.stall_timeout_s)
    connection = make_connection(settings, engine, make_target(settings, settings.uri))
    what = "a server" if settings.transport == HTTP else "a WebSocket server"
    try:
        connection.open()
    except ConnectError as error:
        found = f"got {error.kind} ({error.detail}); is it running, and is the path right?"
        raise SettingsError(f"expected {what} at {redact_url(settings.url)}, {found}") from None
    if settings.transport == HTTP:
        conversation = Conversation(connection.number, 0, 1, 0)
        engine.start()
        try:
            connection.converse(conversation, settings.speech.say(random.Random(settings.seed)), Stop(tokens=1))
        finally:
            engine.stop()
        if conversation.error is not None:
            found = f"got {conversation.error} ({conversation.detail}); are the path, the adapter and its options right?"
            raise SettingsError(f"expected an answer to a prompt from {redact_url(settings.url)}, {found}")
    connection.close(timeout_s=1.0)
