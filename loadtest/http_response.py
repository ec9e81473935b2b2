"""One HTTP/1.1 response, parsed by the library as its bytes come: status, what the engine needs of the headers, body, end.

The parser is llhttp (node's) through ``httptools``; nothing here interprets the protocol itself.
"""

from __future__ import annotations

import httptools

_LONGEST_HEAD_BYTES = 64 * 1024


class ResponseError(ValueError):
    """The bytes are no HTTP response, or not one that was asked for."""


class Response:
    """Feed it bytes; ``complete`` tells its end. ``status`` is 0 until the head is whole."""

    __slots__ = ("_body", "_head_bytes", "_interim", "_parser", "complete", "content_encoding", "content_type", "delimited", "keep_alive",
                 "reason", "status")  # fmt: skip

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._head_bytes = 0
        self._interim = False
        self.status = 0
        self.reason = ""
        self.content_type = ""
        self.content_encoding = ""
        # Whether the head says where the body ends; else the end of the connection does.
        self.delimited = False
        self.keep_alive = False
        self.complete = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes and return those of the body among them; ResponseError when they are not such a response."""
        if self.complete:
            raise ResponseError("bytes came after the end of the response")
        if not self.status:
            self._head_bytes += len(data)
            if self._head_bytes > _LONGEST_HEAD_BYTES:
                raise ResponseError(f"the head of the response is longer than {_LONGEST_HEAD_BYTES} bytes")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise ResponseError("the server answered with an upgrade to another protocol") from None
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, ResponseError):
                raise error.__context__ from None
            raise ResponseError(f"no valid HTTP response: {error}") from None
        if not self._body:
            return b""
        body = b"".join(self._body) if len(self._body) > 1 else self._body[0]
        self._body.clear()
        return body

    def end(self) -> bool:
        """The connection has ended: whether the response is complete with that."""
        if self.status and not self.delimited:
            self.complete = True
        return self.complete

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self.complete:
            raise ResponseError("a second response came to one request")

    def on_status(self, status: bytes) -> None:
        self.reason += status.decode("ascii", "replace")

    def on_header(self, name: bytes, value: bytes) -> None:
        match name.lower():
            case b"content-type":
                self.content_type = value.decode("ascii", "replace").partition(";")[0].strip().lower()
            case b"content-encoding":
                self.content_encoding = value.decode("ascii", "replace").strip().lower()
            case b"content-length" | b"transfer-encoding":
                self.delimited = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        # A provisional one, such as 103: the real one follows.
        self._interim = 100 <= status < 200
        if self._interim:
            self.reason, self.content_type, self.content_encoding, self.delimited = "", "", "", False
        else:
            self.status = status

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if not self._interim:
            self.keep_alive = self._parser.should_keep_alive()
            self.complete = True
