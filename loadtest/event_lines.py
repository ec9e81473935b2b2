"""Bytes of a streamed body -> its events: server-sent events by their standard, or one event a line.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import codecs

from .adapter import Event


class TooLongError(ValueError):
    """An event was longer than the limit."""


class EventLines:
    """The parser of one response; ``lines`` takes every line that is not empty as an event without a name.

    TooLongError for an event beyond ``limit_bytes``, UnicodeDecodeError for one that is not UTF-8.
    """

    __slots__ = ("_begun", "_data", "_id", "_kept", "_limit", "_lines", "_name", "_returned", "_size")

    def __init__(self, limit_bytes: int, lines: bool = False) -> None:
        self._limit = limit_bytes
        self._lines = lines
        self._kept = b""
        self._returned = False
        self._begun = False
        self._name, self._id = "", ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, body: bytes) -> list[Event]:
        """The events that are whole with these bytes."""
        if self._returned and body:
            # The line ended with the CR before; this is the other half of its end, if it is there.
            self._returned = False
            if body[:1] == b"\n":
                body = body[1:]
        body = self._kept + body
        if not self._begun:
            if len(body) < 3 and codecs.BOM_UTF8.startswith(body):
                self._kept = body
                return []
            body = body.removeprefix(codecs.BOM_UTF8)
            self._begun = True
        if b"\r" in body:
            self._returned = body.endswith(b"\r")
            body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._kept = body.split(b"\n")
        if len(self._kept) + self._size > self._limit:
            raise TooLongError(f"an event of more than {self._limit} bytes")
        events: list[Event] = []
        for line in lines:
            if self._lines:
                if line:
                    events.append(Event("", line.decode()))
            else:
                self._take(line, events)
        return events

    def _take(self, line: bytes, events: list[Event]) -> None:
        if not line:
            if self._data:
                events.append(Event(self._name, "\n".join(self._data), self._id))
            self._name, self._data, self._size = "", [], 0
            return
        field, _, value = line.partition(b":")
        text = value.removeprefix(b" ")
        if field == b"data":
            self._size += len(text)
            if self._size > self._limit:
                raise TooLongError(f"an event of more than {self._limit} bytes")
            self._data.append(text.decode())
        elif field == b"event":
            self._name = text.decode()
        elif field == b"id" and b"\0" not in text:
            self._id = text.decode()

    def end(self) -> list[Event]:
        """The events that the end of the body makes whole: by lines the last one; an event of the standard needs its empty line."""
        rest, self._kept = self._kept, b""
        return [Event("", rest.decode())] if self._lines and rest else []
