"""The adapter for answers that are server-sent events, or lines, over HTTP, described by one table of options and no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from .adapter import END, ERROR, HTTP, NOTHING, AdapterError, Call, Event, bearer_headers, check_options, option
from .json_stream import Condition, Template, count, table_headers, walk

NAME: Final = "sse"
OPTIONS: Final = (
    "method", "path", "body", "framing", "token", "tokens", "token_event", "token_where", "end", "end_event", "error", "error_event",
    "api_key_env", "headers",
)  # fmt: skip


class PlainSse:
    """One request a conversation, one event a token; every option and what it may be stands in docs/adapters.md."""

    transport = HTTP

    def __init__(self, options: Mapping[str, Any]) -> None:
        check_options(NAME, options, OPTIONS)
        body = options.get("body")
        if not isinstance(body, str | dict | None):
            raise AdapterError(f"expected the option body of the adapter {NAME} as a text or a table, found {body!r}")
        self._body = None if body is None else Template(body)
        self._method = option(NAME, options, "method", str, "GET" if body is None else "POST").upper()
        self._path = option(NAME, options, "path", str, None)
        if self._path is not None and (not self._path.startswith("/") or set(self._path) & set(" \r\n\0")):
            raise AdapterError(
                f"expected the option path of the adapter {NAME} to begin with / and to have no spaces, found {self._path!r}"
            )
        self.framing = option(NAME, options, "framing", str, "sse")
        token, tokens = (option(NAME, options, name, str, None) for name in ("token", "tokens"))
        self._token = None if token is None else token.split(".")
        self._tokens = None if tokens is None else tokens.split(".")
        self._event = option(NAME, options, "token_event", str, None)
        self._where = Condition("token_where", options["token_where"]) if "token_where" in options else None
        self._end = Condition("end", options["end"]) if "end" in options else None
        self._end_event = option(NAME, options, "end_event", str, None)
        self._error = Condition("error", options["error"]) if "error" in options else None
        self._error_event = option(NAME, options, "error_event", str, "error")
        self._reads = any(part is not None for part in (self._token, self._tokens, self._where, self._end, self._error))
        kind = (("Content-Type", "application/json"),) if isinstance(body, dict) else ()
        accept = (("Accept", "text/event-stream"),) if self.framing == "sse" else ()
        self._headers = (*kind, *accept, *bearer_headers(NAME, options), *table_headers(NAME, options))
        self._number = -1

    def start(self, prompt: str) -> Call:
        """The request; ``{prompt}`` in its path is written as a part of a URL."""
        self._number += 1
        words = {"prompt": prompt, "conversation": self._number, "id": "", "received": None}
        path = None if self._path is None else self._path.replace("{prompt}", quote(prompt, safe=""))
        return Call(b"" if self._body is None else self._body.render(words).encode(), self._method, self._headers, path)

    def receive(self, event: Event) -> int:
        """What the table says: an error, then the end, then tokens."""
        found: Any = None
        if self._reads:
            try:
                found = json.loads(event.data)
            except ValueError:
                found = None
        if event.name == self._error_event or (self._error is not None and self._error.holds(event.data, found)):
            return ERROR
        if (self._end_event is not None and event.name == self._end_event) or (
            self._end is not None and self._end.holds(event.data, found)
        ):
            return END
        if self._event is not None and event.name != self._event:
            return NOTHING
        if self._where is not None and not self._where.holds(event.data, found):
            return NOTHING
        if self._token is None and self._tokens is None:
            return 1 if event.data else NOTHING
        counted = count(walk(found, self._tokens)) if self._tokens is not None else 0
        if self._token is None:
            return counted or NOTHING
        carried = count(walk(found, self._token))
        return (counted or carried) if carried else NOTHING
