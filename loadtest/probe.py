"""Does the target answer an upgrade: one connection, opened and closed before a run."""

from __future__ import annotations

import time
from typing import Any

from .adapter import load_adapter, make_adapter
from .clock import Clock
from .engine import Engine
from .opening import ConnectError
from .recorder import Recorder
from .run import make_target
from .settings import Settings, SettingsError, redact_url
from .stream import Stream


class _Nowhere:
    """A sink for the connection that only tries the target."""

    def append(self, table: str, columns: Any) -> None:
        """Forget it."""


def probe(settings: Settings, clock: Clock) -> None:
    """Open and close one connection; SettingsError when the target does not answer an upgrade."""
    engine = Engine(Recorder("probe", time.monotonic_ns(), _Nowhere()), clock, settings.stall_timeout_s)
    adapter = make_adapter(load_adapter(settings.adapter), {"window": settings.window})
    stream = Stream(engine, make_target(settings, settings.uri), adapter)
    try:
        stream.open()
    except ConnectError as error:
        found = f"got {error.kind} ({error.detail}); is it running, and is the path right?"
        raise SettingsError(f"expected a WebSocket server at {redact_url(settings.url)}, {found}") from None
    stream.close(timeout_s=1.0)
