"""The plug point for somebody's own protocol: what a conversation means on the wire, without sockets and without clocks.

An adapter is one small object a connection; nothing is inherited and nothing registered. It is chosen by the name of a shipped one
(``--adapter json``), by import string (``--adapter package.module:Class``) or by file (``--adapter path/to/mine.py:Class``).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol, cast

Message = str | bytes
"""One WebSocket message: text or binary."""

NOTHING = 0
END = -1
ERROR = -2

WEBSOCKET: Final = "websocket"
HTTP: Final = "http"
SHIPPED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "typewriter": "loadtest.typewriter:Typewriter",
        "json": "loadtest.json_stream:JsonStream",
        "openai-realtime": "loadtest.openai_realtime:OpenAIRealtime",
        "openai-chat": "loadtest.openai_chat:OpenAIChat",
        "sse": "loadtest.plain_sse:PlainSse",
    }
)
"""The adapters that come along, by name."""


class Adapter(Protocol):
    """How one connection speaks the target's protocol over a WebSocket.

    ``acknowledgement`` is sent after every message that carried tokens; None where the protocol has none. ``window`` is how many
    tokens the server sends ahead of acknowledgements (0 = it waits for none).

    An adapter may also have: ``headers``, pairs of name and value for the handshake; ``acknowledge(message)``, which makes the
    acknowledgement of one message (or None) in place of the prepared one; ``reported_tokens``, see ``HttpAdapter``.
    """

    acknowledgement: Message | None
    window: int

    def start(self, prompt: str) -> Sequence[Message]:
        """Messages that start a conversation with ``prompt``."""

    def receive(self, message: Message) -> int:
        """What a received message means: the number of tokens in it (> 0), NOTHING, END of the answer, or ERROR of the server."""

    def stop(self) -> Sequence[Message]:
        """Messages that ask the server to stop the running answer; none: the connection is closed to stop it."""


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request. ``path`` is None for that of the target; ``headers`` come beside those of the target."""

    body: bytes = b""
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    path: str | None = None


class Event(NamedTuple):
    """One server-sent event, or one line of a body that is read by lines: its type, its data, the last id."""

    name: str
    data: str
    id: str = ""


class HttpAdapter(Protocol):
    """How one connection asks for a streamed answer over HTTP; ``transport`` is ``"http"``. To stop is to close the connection.

    An adapter may also have: ``framing``, ``"sse"`` (the default) or ``"lines"``; ``reported_tokens``, the number of tokens that the
    server itself says the running answer had, None while it has not: it then stands in place of the number counted.
    """

    transport: str

    def start(self, prompt: str) -> Call:
        """The request that starts a conversation with ``prompt``."""

    def receive(self, event: Event) -> int:
        """What an event means: the number of tokens in it (> 0), NOTHING, END of the answer, or ERROR of the server.

        An answer has ended with its response, too, whether or not an event has said so.
        """


class AdapterError(Exception):
    """The adapter cannot be loaded or used; the message says what was expected."""


def load_adapter(name: str) -> Any:
    """The adapter class of a shipped name, ``module:Class`` or ``path/to/file.py:Class``; AdapterError when there is none.

    A file is loaded under a name of its own, so that somebody's packages called ``server`` or ``reports`` never meet ours.
    """
    place, separator, attribute = SHIPPED.get(name, name).rpartition(":")
    if not separator or not place or not attribute:
        close = difflib.get_close_matches(name, SHIPPED, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        expected = f"expected an adapter as {', '.join(SHIPPED)}, module:Class or path/to/file.py:Class"
        raise AdapterError(f"{expected}, got {name!r}{hint}")
    unique = ""
    try:
        if place.endswith(".py"):
            path = Path(place).expanduser().resolve()
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


def transport_of(adapter: Any) -> str:
    """``"websocket"`` or ``"http"``: what an adapter, or its class, speaks through."""
    return str(getattr(adapter, "transport", WEBSOCKET))


def make_adapter(cls: Any, options: Mapping[str, Any]) -> Adapter:
    """One adapter for one connection; AdapterError when the class does not take options or lacks a part of ``Adapter``."""
    try:
        adapter = cls(options)
    except AdapterError:
        raise
    except Exception as error:
        raise AdapterError(f"cannot make an adapter from {cls!r}: {type(error).__name__}: {error}") from None
    name, transport = type(adapter).__name__, transport_of(adapter)
    if transport not in (WEBSOCKET, HTTP):
        raise AdapterError(f"expected the transport of {name} as {WEBSOCKET!r} or {HTTP!r}, found {transport!r}")
    parts = ("acknowledgement", "window", "start", "receive", "stop") if transport == WEBSOCKET else ("start", "receive")
    if missing := [part for part in parts if not hasattr(adapter, part)]:
        raise AdapterError(f"the adapter {name} lacks {', '.join(missing)}; see loadtest/adapter.py for what each means")
    window = getattr(adapter, "window", 0)
    if type(window) is not int or window < 0:
        raise AdapterError(f"expected the window of {name} as a whole number of at least 0, found {window!r}")
    acknowledgement = getattr(adapter, "acknowledgement", None)
    if not isinstance(acknowledgement, str | bytes | None):
        raise AdapterError(f"expected the acknowledgement of {name} as text, bytes or None, found {type(acknowledgement).__name__}")
    if transport == HTTP and (window or acknowledgement is not None):
        raise AdapterError(f"expected {name} without window and acknowledgement: an answer over HTTP cannot be acknowledged")
    if (framing := getattr(adapter, "framing", "sse")) not in ("sse", "lines"):
        raise AdapterError(f"expected the framing of {name} as 'sse' or 'lines', found {framing!r}")
    return cast(Adapter, adapter)


# What the shipped adapters share in reading their options; an adapter of one's own may use it too.


def check_options(adapter: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """AdapterError when there is an option besides the known ones (``window`` is always given, and need not be known)."""
    for name in options:
        if name != "window" and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise AdapterError(f"{name} is not an option of the adapter {adapter}{hint}; expected one of {', '.join(known)}")


def option(adapter: str, options: Mapping[str, Any], name: str, kinds: type | tuple[type, ...], default: Any) -> Any:
    """One option, of one of the kinds; AdapterError when it is of another."""
    value = options.get(name, default)
    allowed = kinds if isinstance(kinds, tuple) else (kinds,)
    if value is not default and (not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed)):
        words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table", list: "a list"}
        expected = " or ".join(words[kind] for kind in allowed)
        raise AdapterError(f"expected the option {name} of the adapter {adapter} as {expected}, found {value!r}")
    return value


def bearer_headers(adapter: str, options: Mapping[str, Any], default: str = "") -> tuple[tuple[str, str], ...]:
    """The header with the API key that stands in the environment under the name ``api_key_env``; none where there is no such variable.

    AdapterError when the variable was named by the options and is not there: a run without the key would measure refusals.
    """
    variable = option(adapter, options, "api_key_env", str, default)
    key = os.environ.get(variable, "") if variable else ""
    if not key and options.get("api_key_env"):
        raise AdapterError(f"expected the API key in the environment variable {variable}, and it is not set")
    if any(ord(character) <= 32 or ord(character) > 126 for character in key):
        raise AdapterError(f"expected printable characters without spaces in the environment variable {variable}, found others")
    return (("Authorization", f"Bearer {key}"),) if key else ()
