"""What every connection does, whatever it speaks: open, hold one conversation at a time, stop it, write, end, be released.

A kind of connection (``stream.py`` for WebSockets, ``event_stream.py`` for answers over HTTP) adds how bytes become messages.
"""

from __future__ import annotations

import _socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
from gevent.hub import Waiter

from .adapter import END, NOTHING
from .arrivals import Stop
from .conversation import NEVER, Conversation
from .ending import Closed, closed_by_network, connection_row
from .opening import ConnectError, Opening, Target, Tls
from .outbox import Outbox
from .parting import part

if TYPE_CHECKING:
    from .engine import Engine

_now = time.monotonic_ns


class Connection(ABC):
    """One connection to the target and the conversation on it, if any.

    ``open``, ``converse`` and ``close`` are called from a user's greenlet and block only that; ``_readable`` runs in the hub, where
    nothing may block, switch or raise.
    """

    __slots__ = (
        "_closing", "_outbox", "_recvmsg", "_send", "_sock", "_timer", "_tls", "_waiter", "_wake", "_watcher", "adapter", "attempt",
        "closed", "conversation", "conversations", "engine", "number", "opening", "target", "user",
    )  # fmt: skip

    def __init__(self, engine: Engine, target: Target, adapter: Any, user: int = 0, attempt: int = 0) -> None:
        self.engine = engine
        self.target = target
        self.adapter = adapter
        self.user = user
        self.attempt = attempt
        self.number = engine.recorder.number_connection()
        self.conversations = 0
        self.conversation: Conversation | None = None
        self.closed: Closed | None = None
        self.opening = Opening(engine, target, self.number)
        self._closing = False
        self._outbox: Outbox | None = None
        self._tls: Tls | None = None
        self._waiter: Waiter[None] | None = None
        self._wake = False
        self._timer: Any = None
        self._watcher: Any = None
        self._sock: _socket.socket | None = None

    @property
    def window(self) -> int:
        """How many tokens the server sends ahead of acknowledgements; 0 = it waits for none."""
        return int(getattr(self.adapter, "window", 0))

    # What every kind of connection adds, and what only some do: the others have nothing to do there.

    @abstractmethod
    def _readable(self) -> None:
        """The socket has something to read."""

    @abstractmethod
    def _open(self) -> None:
        """Run ``self.opening``; ConnectError when that does not succeed."""

    def _opened(self) -> None:  # noqa: B027
        """The connection is open; what came with the handshake's answer is to be taken."""

    @abstractmethod
    def _started(self, prompt: str) -> bytes:
        """The bytes that start a conversation."""

    @abstractmethod
    def _stopped(self) -> bytes:
        """The bytes that ask the server to stop; none where a stop is the end of the connection."""

    def _farewell(self) -> None:  # noqa: B027
        """Say goodbye, where the protocol has a word for it, before the socket is closed."""

    def _acknowledge(self, message: Any) -> None:  # noqa: B027
        """Acknowledge a message with tokens, where the protocol has that."""

    @abstractmethod
    def close(self, code: int = 1000, timeout_s: float = 2.0) -> None:
        """Close in good order; idempotent."""

    # Opening.

    def open(self) -> None:
        """Connect and shake hands; ConnectError (recorded as a row) when that does not succeed within the connect timeout."""
        engine = self.engine
        engine.opening += 1
        engine.recorder.counts["connects_attempted"] += 1
        opening = self.opening = Opening(engine, self.target, self.number)
        failure: ConnectError | None = None
        try:
            self._open()
        except ConnectError as error:
            failure = error
            raise
        finally:
            engine.opening -= 1
            if opening.sock is not None:
                self.adopt(opening.sock, opening.watcher, opening.tls)
            engine.recorder.counts["syn_retransmitted"] += opening.syn_retransmitted
            if opening.connect_time_ns is None:
                self._release()
                # Neither opened nor failed: cut by the end of the run.
                outcome = "abandoned" if failure is None else "failed"
                if failure is not None:
                    engine.recorder.counts["connects_failed"] += 1
                kind, detail = (None, None) if failure is None else (failure.kind, failure.detail)
                engine.recorder.connection_ended(connection_row(self, outcome, kind, detail))
        engine.streams.add(self)
        assert opening.connect_time_ns is not None
        engine.recorder.connected(opening.connect_time_ns)
        self._opened()
        if self.closed is None:
            self._watcher.start(self._readable)

    def adopt(self, sock: _socket.socket, watcher: Any = None, tls: Tls | None = None) -> None:
        """Take over a connected, non-blocking socket and the watcher for its reading."""
        self._sock, self._watcher, self._tls = sock, watcher, tls
        self._recvmsg, self._send = sock.recvmsg_into, sock.send

    # Conversing.

    def converse(self, conversation: Conversation, prompt: str, stop: Stop | None = None, expected_gap_s: float = 0.0) -> None:
        """Send the prompt and sleep until the conversation has an outcome; it is handed to the recorder in any case."""
        if self.closed is not None or self.conversation is not None:
            raise RuntimeError("a conversation needs an open connection without another conversation")
        asked = self._started(prompt)
        conversation.offset = self.engine.clock.offset
        if self.engine.record_texts:
            conversation.texts = []
        if stop is not None and stop.tokens is not None:
            # Between two tokens: the delay counts from the token before, so that stop is not glued to our acknowledgement.
            conversation.stop_index = stop.tokens or NEVER
            conversation.stop_delay_s = stop.fraction * expected_gap_s
        waiter = self._waiter = Waiter()
        self.conversation = conversation
        self.conversations += 1
        self.engine.streaming += 1
        self.engine.recorder.counts["conversations_started"] += 1
        conversation.sent = _now()
        try:
            self._write(asked)
            if stop is not None and stop.after_ns is not None:
                self._arrange_stop(conversation, stop.after_ns / 1e9)
            elif stop is not None and stop.tokens == 0:
                self._arrange_stop(conversation, conversation.stop_delay_s)
            if not conversation.outcome:
                waiter.get()
        finally:
            self._waiter = None
            self._cancel_timer()
            if not conversation.outcome:
                conversation.abandon(_now())
                self._finish(conversation)

    def _arrange_stop(self, conversation: Conversation, delay_s: float) -> None:
        if delay_s <= 0:
            self._stop(conversation)
            return
        self._cancel_timer()
        timer = gevent.get_hub().loop.timer(delay_s)
        timer.start(self._stop, conversation)
        self._timer = timer

    def _stop(self, conversation: Conversation) -> None:
        if self.conversation is not conversation or self.closed is not None or conversation.stop_sent != NEVER:
            return
        said = self._stopped()
        conversation.stop_sent = _now()
        self.engine.recorder.counts["stops_sent"] += 1
        if said:
            self._write(said)
            return
        # The protocol has no word for stop: to close the connection is the stop, and nothing will tell when the server has heard it.
        conversation.cancel(_now())
        self._finish(conversation)
        self._farewell()
        self._end(Closed(True, "us", None, None, "closed to stop the answer"), "connection_lost")
        self._wake_user()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _finish(self, conversation: Conversation) -> None:
        self.conversation = None
        self.engine.streaming -= 1
        self.engine.recorder.finish(conversation)
        self._wake = True

    def fail(self, kind: str, detail: str) -> None:
        """Give the connection up because of our own judgement (a deadline, a bound); callable from the hub."""
        self._end(Closed(False, "us", None, kind, detail), kind)
        self._wake_user()

    # Receiving, in the hub.

    def _guard(self, act: Callable[..., None], *arguments: Any) -> None:
        try:
            act(*arguments)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """End the connection for what went wrong on it; an adapter's own mistake must not take the hub down with it."""
        if isinstance(error, OSError):
            self._lost(error)
        else:
            self.fail("protocol_error", f"{type(error).__name__}: {error}")

    def _take(self, message: Any, meaning: int, arrival: int, read: int) -> None:
        """One message, wherever it came from."""
        recorder = self.engine.recorder
        conversation = self.conversation
        if conversation is None:
            if self._closing:
                # Under way when we said goodbye, as after an answer that was cut by the end of the run: nobody's fault.
                return
            if meaning > 0:
                recorder.counts["ghost_tokens"] += meaning
            elif meaning == END:
                recorder.counts["double_ends"] += 1
        elif meaning > 0:
            conversation.arrivals.append(arrival)
            conversation.reads.append(read)
            if meaning > 1:
                conversation.add_extra(meaning - 1)
            if conversation.texts is not None:
                conversation.texts.append(message if isinstance(message, str) else _text_of(message))
            self._acknowledge(message)
            if len(conversation.arrivals) == conversation.stop_index:
                self._arrange_stop(conversation, conversation.stop_delay_s)
        elif meaning == END:
            self._end_answer(arrival, read)
        elif meaning != NOTHING:
            conversation.fail("server_error", message if isinstance(message, str) else _text_of(message), read)
            self._finish(conversation)

    def _end_answer(self, arrival: int, read: int) -> None:
        conversation = self.conversation
        if conversation is not None:
            if (reported := getattr(self.adapter, "reported_tokens", None)) is not None:
                conversation.report(reported)
            conversation.end(arrival, read)
            self._finish(conversation)

    def _wake_user(self) -> None:
        if self._wake:
            self._wake = False
            waiter, self._waiter = self._waiter, None
            if waiter is not None:
                hub = gevent.get_hub()
                if gevent.getcurrent() is hub:
                    waiter.switch(None)
                else:
                    hub.loop.run_callback(waiter.switch, None)

    # Sending.

    def _write(self, data: bytes) -> None:
        if self._tls is not None:
            data = self._tls.encrypt(data)
        if self._outbox is not None:
            self._write_slowly(data)
            return
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lost(error)
            return
        if sent != len(data):
            self._write_slowly(data[sent:])

    def _write_slowly(self, data: bytes) -> None:
        """Queue what the socket would not take; a peer that does not read for long enough loses the connection."""
        if self._sock is None:
            return
        if self._outbox is None:
            self._outbox = Outbox(self._sock, self._drained, self._lost)
        if not self._outbox.add(data):
            self.fail("send_blocked", f"the server stopped reading; {self._outbox.waiting_bytes} bytes were waiting to be sent")

    def _drained(self) -> None:
        self._outbox = None

    # Closing.

    def wait_closed(self) -> None:
        """Sleep until the connection has ended, whoever ended it."""
        if self.closed is None:
            waiter = self._waiter = Waiter()
            try:
                waiter.get()
            finally:
                self._waiter = None

    def _ended(self) -> None:
        self._end(Closed(False, "peer", 1006, "eof", "the connection ended without a close frame"), "connection_lost")
        self._wake_user()

    def _lost(self, error: OSError) -> None:
        self._end(closed_by_network(error), "connection_lost")
        self._wake_user()

    def _end(self, closed: Closed, kind: str) -> None:
        """Note how the connection ended, fail the conversation on it, release everything; idempotent."""
        if self.closed is not None:
            return
        self.closed = closed
        self._cancel_timer()
        conversation = self.conversation
        if conversation is not None:
            detail = closed.detail or ("the server closed the connection" if closed.code is not None else kind)
            conversation.fail(kind, detail if closed.code is None else f"{detail} (code {closed.code})", _now())
            self._finish(conversation)
        recorder = self.engine.recorder
        recorder.counts["closed_clean" if closed.clean else "closed_abnormal"] += 1
        recorder.connection_ended(connection_row(self, "clean" if closed.clean else "abnormal", closed.error, closed.detail))
        self._release()
        self._wake = True

    def _release(self) -> None:
        self.engine.streams.discard(self)
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
        if self._outbox is not None:
            self._outbox.close()
            self._outbox = None
        if self._sock is not None:
            if self.closed is not None and self.closed.clean and self.closed.code is not None:
                part(self._sock)
            else:
                self._sock.close()
            self._sock = None


def _text_of(message: Any) -> str:
    if isinstance(message, bytes):
        return message.decode(errors="replace")
    return str(getattr(message, "data", message))
