"""The plug point for somebody's own protocol: what a conversation means on the wire, without sockets and without clocks.

An adapter is one small object a connection; nothing is inherited and nothing registered. It is chosen by import string
(``--adapter package.module:Class``) or by file (``--adapter path/to/mine.py:Class``).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

Message = str | bytes
"""One WebSocket message: text or binary."""

NOTHING = 0
END = -1
ERROR = -2


class Adapter(Protocol):
    """How one connection speaks the target's protocol.

    ``acknowledgement`` is sent after every message that carried tokens; None where the protocol has none. ``window`` is how many
    tokens the server sends ahead of acknowledgements (0 = it waits for none).
    """

    acknowledgement: Message | None
    window: int

    def start(self, prompt: str) -> Sequence[Message]:
        """Messages that start a conversation with ``prompt``."""

    def receive(self, message: Message) -> int:
        """What a received message means: the number of tokens in it (> 0), NOTHING, END of the answer, or ERROR of the server."""

    def stop(self) -> Sequence[Message]:
        """Messages that ask the server to stop the running answer."""


class AdapterError(Exception):
    """The adapter cannot be loaded or used; the message says what was expected."""


def load_adapter(name: str) -> Any:
    """The adapter class of ``module:Class`` or ``path/to/file.py:Class``; AdapterError when there is none.

    A file is loaded under a name of its own, so that somebody's packages called ``server`` or ``reports`` never meet ours.
    """
    place, separator, attribute = name.rpartition(":")
    if not separator or not place or not attribute:
        raise AdapterError(f"expected an adapter as module:Class or path/to/file.py:Class, got {name!r}")
    unique = ""
    try:
        if place.endswith(".py"):
            path = Path(place).resolve()
            unique = f"streamgauge_adapter_{path.stem}_{abs(hash(str(path))):x}"
            spec = importlib.util.spec_from_file_location(unique, path)
            if spec is None or spec.loader is None:
                raise AdapterError(f"expected a Python file at {place}, found none")
            module = importlib.util.module_from_spec(spec)
            sys.modules[unique] = module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except AdapterError:
        raise
    except Exception as error:
        sys.modules.pop(unique, None)
        raise AdapterError(f"cannot load the adapter {name!r}: {type(error).__name__}: {error}") from None
    found = getattr(module, attribute, None)
    if not callable(found):
        raise AdapterError(f"expected a class {attribute!r} in {place}, found {'nothing' if found is None else type(found).__name__}")
    return found


def make_adapter(cls: Any, options: Mapping[str, str | int | float]) -> Adapter:
    """One adapter for one connection; AdapterError when the class does not take options or lacks a part of ``Adapter``."""
    try:
        adapter = cls(options)
    except Exception as error:
        raise AdapterError(f"cannot make an adapter from {cls!r}: {type(error).__name__}: {error}") from None
    missing = [part for part in ("acknowledgement", "window", "start", "receive", "stop") if not hasattr(adapter, part)]
    if missing:
        raise AdapterError(f"the adapter {type(adapter).__name__} lacks {', '.join(missing)}; see loadtest/adapter.py for what each means")
    if type(adapter.window) is not int or adapter.window < 0:
        raise AdapterError(f"expected the window of {type(adapter).__name__} as a whole number of at least 0, found {adapter.window!r}")
    if not isinstance(adapter.acknowledgement, str | bytes | None):
        found = type(adapter.acknowledgement).__name__
        raise AdapterError(f"expected the acknowledgement of {type(adapter).__name__} as text, bytes or None, found {found}")
    made: Adapter = adapter
    return made
