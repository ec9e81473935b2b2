"""A connection whose answers are streamed HTTP responses: server-sent events or lines, one request a conversation.

The same engine, stamps and record as a WebSocket's. There is no acknowledgement, and to stop is to close the connection. It is kept for
the next conversation where the server keeps it.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .adapter import END, Call
from .connection import Connection
from .conversation import NEVER
from .ending import Closed
from .event_lines import EventLines, TooLongError
from .http_response import Response, ResponseError
from .opening import BUFFER, BUFFERS, CONTROL_BYTES, Target, stamp_of

if TYPE_CHECKING:
    from .engine import Engine

_now = time.monotonic_ns
_wall = time.time_ns

_REFUSAL_BYTES = 4096
"""So much of the body of a refusal is read before it is told; the rest goes with the connection."""


class EventStream(Connection):
    """An HTTP connection."""

    __slots__ = ("_end_seen", "_events", "_lines", "_receive", "_refusal", "_response", "received")

    def __init__(self, engine: Engine, target: Target, adapter: Any, user: int = 0, attempt: int = 0) -> None:
        super().__init__(engine, target, adapter, user, attempt)
        self._receive = adapter.receive
        self._lines = getattr(adapter, "framing", "sse") == "lines"
        self._response: Response | None = None
        self._events: EventLines | None = None
        # Arrival and reading of the event that ended the answer; the conversation ends when its response has, too.
        self._end_seen: tuple[int, int] | None = None
        # The kind of error and the sentence of a response that is no answer, and its body so far.
        self._refusal: tuple[str, str, bytearray] | None = None
        self.received = 0

    # What is its own in opening, starting and stopping.

    def _open(self) -> None:
        self.opening.connect()

    def _started(self, prompt: str) -> bytes:
        call: Call = self.adapter.start(prompt)
        self._response = Response()
        self._events = EventLines(self.target.max_message_bytes, self._lines)
        self._end_seen = self._refusal = None
        self.received = 0
        return request_bytes(call, self.target, self.opening.uri().resource_name)

    def _stopped(self) -> bytes:
        return b""

    def close(self, code: int = 1000, timeout_s: float = 2.0) -> None:
        """Close the connection, and with it whatever is still being answered on it; idempotent."""
        if self.closed is None and self._sock is not None:
            self._closing = True
            self._end(Closed(True, "us"), "connection_lost")
            self._wake_user()

    def fail(self, kind: str, detail: str) -> None:
        """Give the connection up; an answer whose last event has come has ended all the same."""
        if self._end_seen is not None and self.conversation is not None:
            detail = f"the response did not end after its last event: {detail}"
            self._end_answer(*self._end_seen)
        super().fail(kind, detail)

    # Receiving, in the hub: nothing here may block, switch or raise.

    def _readable(self) -> None:
        try:
            count, control, _, _ = self._recvmsg(BUFFERS, CONTROL_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(error)
            return
        try:
            self._read(count, control)
        except TooLongError as error:
            self.fail("message_too_big", str(error))
        except ResponseError as error:
            self.fail("protocol_error", str(error))
        except UnicodeDecodeError as error:
            self.fail("protocol_error", f"text that is not UTF-8: {error.reason} at position {error.start}")
        except Exception as error:
            self._give_up(error)

    def _read(self, count: int, control: Sequence[tuple[int, int, bytes]]) -> None:
        arrival = stamp_of(control)
        read = _now()
        if count == 0:
            # The kernel stamps data, not their end.
            self._over(_wall(), read)
            return
        if arrival == NEVER:
            arrival = _wall()
            self.engine.recorder.counts["unstamped"] += 1
        data = bytes(BUFFER[:count])
        if self._tls is not None:
            data = self._tls.decrypt(data)
        if data:
            self._digest(data, arrival, read)
        if self._tls is not None and self._tls.ended and self.closed is None:
            self._over(arrival, read)
        self._wake_user()

    def _digest(self, data: bytes, arrival: int, read: int) -> None:
        if self.conversation is not None:
            self.conversation.received_bytes += len(data)
        response, events = self._response, self._events
        if response is None or events is None:
            if data.startswith(b"HTTP/"):
                # Some servers say goodbye to an idle connection with a response (408) before they close it.
                self._end(Closed(True, "peer", None, None, "closed while idle"), "connection_lost")
                return
            raise ResponseError("bytes came that nobody had asked for")
        first = not response.status
        body = response.feed(data)
        if first and response.status:
            self._judge(response)
        if self._refusal is not None:
            self._refuse(response, body)
            return
        for event in events.feed(body) if body else ():
            self._take(event, self._receive(event), arrival, read)
            if self.closed is not None:
                return
        if response.complete:
            self._completed(response, events, arrival, read)
        elif self.conversation is None:
            # Its answer has failed, or was cut; the rest of it has nobody to go to.
            self._reuse(response)

    def _judge(self, response: Response) -> None:
        """Is this an answer at all?"""
        status = f"HTTP {response.status} {response.reason}".strip()
        if not 200 <= response.status < 300:
            self._refusal = ("server_error", status, bytearray())
        elif response.content_encoding not in ("", "identity"):
            self._refusal = ("protocol_error", f"expected a body without encoding, got {response.content_encoding}", bytearray())
        elif not self._lines and response.content_type != "text/event-stream":
            found = response.content_type or "no content type"
            self._refusal = ("protocol_error", f"expected a response of text/event-stream, got {found}", bytearray())

    def _refuse(self, response: Response, body: bytes) -> None:
        """Fail the conversation for a response that is no answer, with what it says, once that has come."""
        assert self._refusal is not None
        kind, sentence, said = self._refusal
        said += body[: _REFUSAL_BYTES - len(said)]
        if not response.complete and len(said) < _REFUSAL_BYTES:
            return
        words = " ".join(said.decode("utf-8", "replace").split())
        if self.conversation is not None:
            self.conversation.fail(kind, f"{sentence}: {words}" if words else sentence, _now())
            self._finish(self.conversation)
        self._reuse(response)

    def _take(self, message: Any, meaning: int, arrival: int, read: int) -> None:
        if self._end_seen is not None:
            # After the end of the answer there is none whose token it could be.
            counts = self.engine.recorder.counts
            if meaning > 0:
                counts["ghost_tokens"] += meaning
            elif meaning == END:
                counts["double_ends"] += 1
        elif meaning == END and self.conversation is not None:
            self._end_seen = (arrival, read)
        else:
            super()._take(message, meaning, arrival, read)

    def _completed(self, response: Response, events: EventLines, arrival: int, read: int) -> None:
        """The response has ended, and so has the answer."""
        for event in events.end():
            self._take(event, self._receive(event), arrival, read)
        if self.conversation is not None:
            self._end_answer(*(self._end_seen or (arrival, read)))
        self._reuse(response)

    def _reuse(self, response: Response) -> None:
        """Be ready for the next request, or close where the server does not keep the connection."""
        self._response = self._events = None
        self._end_seen = self._refusal = None
        if not response.complete or not response.keep_alive:
            self._end(Closed(True, "us", None, None, "not kept by the server" if response.complete else "given up"), "connection_lost")

    def _over(self, arrival: int, read: int) -> None:
        """The peer has ended the connection."""
        response, events = self._response, self._events
        if response is None or events is None:
            self._end(Closed(True, "peer", None, None, "closed while idle"), "connection_lost")
        elif response.end():
            if self._refusal is not None:
                self._refuse(response, b"")
            else:
                self._completed(response, events, arrival, read)
        else:
            if self._end_seen is not None and self.conversation is not None:
                self._end_answer(*self._end_seen)
            said = "the connection ended before the response" + ("" if response.status else " began")
            self._end(Closed(False, "peer", None, "eof", said), "connection_lost")
        self._wake_user()


def request_bytes(call: Call, target: Target, path: str) -> bytes:
    """The request as it goes out; what the target's options say of a header stands before what the adapter says. ValueError for
    headers that could not be sent as one line each."""
    uri = target.uri
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    headers: dict[str, tuple[str, str]] = {
        "host": ("Host", host if uri.port == (443 if uri.secure else 80) else f"{host}:{uri.port}"),
        "user-agent": ("User-Agent", "streamgauge"),
        "accept-encoding": ("Accept-Encoding", "identity"),
    }
    if uri.username is not None:
        pair = f"{uri.username}:{uri.password or ''}".encode()
        headers["authorization"] = ("Authorization", f"Basic {base64.b64encode(pair).decode()}")
    for name, value in (*call.headers, *target.headers):
        headers[name.lower()] = (name, value)
    if target.origin is not None:
        headers["origin"] = ("Origin", target.origin)
    if call.body or call.method not in ("GET", "HEAD", "DELETE"):
        headers["content-length"] = ("Content-Length", str(len(call.body)))
    lines = [
        f"{call.method} {path if call.path is None else call.path} HTTP/1.1",
        *(f"{name}: {value}" for name, value in headers.values()),
    ]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("expected headers without line breaks from the adapter, got some")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + call.body
