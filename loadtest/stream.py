"""The engine: non-blocking sockets on gevent's hub, with the kernel's arrival stamps.

The handshake and everything unusual (fragments, control frames, long, compressed or split frames) belong to the library's Sans-I/O
protocol. The common case, whole small text frames, is decoded in a callback that runs in the hub: it stamps, appends two integers and
sends the prepared acknowledgement. The user's greenlet sleeps for the whole conversation and is woken once, at its end.
"""

from __future__ import annotations

import _socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gevent
from gevent.hub import Waiter
from websockets.exceptions import PayloadTooBig

from .adapter import END, NOTHING, Adapter, Message
from .arrivals import Stop
from .conversation import NEVER, Conversation
from .ending import Closed, closed_by_frame, closed_by_network, connection_row
from .frames import Frames, frame_of
from .opening import BUFFER, BUFFERS, CONTROL_BYTES, TIMESPEC, ConnectError, Opening, Target, Tls, stamp_of
from .outbox import Outbox

if TYPE_CHECKING:
    from .engine import Engine

_now = time.monotonic_ns
_wall = time.time_ns


class Stream:
    """One connection to the target and the conversation on it, if any.

    ``open``, ``converse`` and ``close`` are called from a user's greenlet and block only that; ``_readable`` runs in the hub.
    """

    __slots__ = (
        "_ack", "_clear", "_closing", "_fast", "_frames", "_outbox", "_receive", "_recvmsg", "_send", "_sock", "_timer", "_tls", "_waiter",
        "_wake", "_watcher", "adapter", "attempt", "closed", "conversation", "conversations", "engine", "number", "opening", "target",
        "user",
    )  # fmt: skip

    def __init__(self, engine: Engine, target: Target, adapter: Adapter, user: int = 0, attempt: int = 0) -> None:
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
        self._ack = None if adapter.acknowledgement is None else engine.prepared(adapter.acknowledgement)
        self._receive = adapter.receive
        self._frames = Frames(target.uri, target.max_message_bytes, engine.protocol_logger)
        # The library holds no part of anything; and: the short path may be taken.
        self._clear = False
        self._fast = False
        self._closing = False
        self._outbox: Outbox | None = None
        self._tls: Tls | None = None
        self._waiter: Waiter[None] | None = None
        self._wake = False
        self._timer: Any = None
        self._watcher: Any = None
        self._sock: _socket.socket | None = None

    # Opening.

    def open(self) -> None:
        """Connect and shake hands; ConnectError (recorded as a row) when that does not succeed within the connect timeout."""
        engine = self.engine
        engine.opening += 1
        engine.recorder.counts["connects_attempted"] += 1
        opening = self.opening = Opening(engine, self.target, self.number)
        failure: ConnectError | None = None
        try:
            protocol, arrival = opening.run()
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
        self._frames.adopt(protocol)
        # What came in one segment with the handshake's answer belongs to no conversation yet; it may be a close frame.
        self._guard(self._digest, arrival, _now())
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
        frames = b"".join(map(frame_of, self.adapter.start(prompt)))
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
            self._write(frames)
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
        frames = b"".join(map(frame_of, self.adapter.stop()))
        conversation.stop_sent = _now()
        self._write(frames)
        self.engine.recorder.counts["stops_sent"] += 1

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

    # Receiving, in the hub: nothing here may block, switch or raise.

    def _readable(self) -> None:
        recvmsg, receive = self._recvmsg, self._receive  # local names: calling a slot like a method is slow, and this is every token
        try:
            count, control, _, _ = recvmsg(BUFFERS, CONTROL_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(error)
            return
        try:
            # One whole, small, unmasked text frame with FIN: nearly every token of nearly every server.
            if self._fast and count > 2 and BUFFER[1] == count - 2 and BUFFER[0] == 0x81 and count < 128:
                conversation = self.conversation
                text = BUFFER[2:count].decode()
                if control:
                    seconds, nanoseconds = TIMESPEC(control[0][2])
                    arrival = seconds * 1_000_000_000 + nanoseconds
                else:
                    arrival = _wall()
                    self.engine.recorder.counts["unstamped"] += 1
                meaning = receive(text)
                if meaning == 1 and conversation is not None:
                    # One clock read between receiving and sending: read time of this token and sent time of its acknowledgement.
                    read = _now()
                    conversation.arrivals.append(arrival)
                    conversation.reads.append(read)
                    conversation.received_bytes += count
                    ack, send = self._ack, self._send
                    if ack is not None:
                        try:
                            sent = 0 if self._outbox else send(ack)
                        except BlockingIOError:
                            sent = 0
                        if sent != len(ack):
                            self._write_slowly(ack[sent:])
                    if conversation.texts is not None:
                        conversation.texts.append(text)
                    if len(conversation.arrivals) == conversation.stop_index:
                        self._arrange_stop(conversation, conversation.stop_delay_s)
                else:
                    if conversation is not None:
                        conversation.received_bytes += count
                    self._take(text, meaning, arrival, _now())
                    self._wake_user()
                return
            self._read_slowly(count, control)
        except Exception as error:
            self._give_up(error)

    def _guard(self, act: Callable[..., None], *arguments: Any) -> None:
        try:
            act(*arguments)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """End the connection for what went wrong on it; an adapter's own mistake must not take the hub down with it."""
        if isinstance(error, OSError):
            self._lost(error)
        elif isinstance(error, UnicodeDecodeError):
            self._refuse_text(error)
        else:
            self.fail("protocol_error", f"{type(error).__name__}: {error}")

    def _read_slowly(self, count: int, control: Sequence[tuple[int, int, bytes]]) -> None:
        arrival = stamp_of(control)
        if arrival == NEVER:
            arrival = _wall()
            self.engine.recorder.counts["unstamped"] += 1
        read = _now()
        if count == 0:
            self._ended()
            return
        data = bytes(BUFFER[:count])
        if self._tls is not None:
            data = self._tls.decrypt(data)
        conversation = self.conversation
        if conversation is not None:
            conversation.received_bytes += len(data)
        offset = 0
        size = len(data)
        # Several whole small text frames may have come at once; whatever is not of that kind is the library's, with all after it.
        while self._clear and offset + 2 < size and data[offset] == 0x81:
            length = data[offset + 1]
            if length == 0 or length > 125 or offset + 2 + length > size:
                break
            text = data[offset + 2 : offset + 2 + length].decode()
            offset += 2 + length
            self._take(text, self._receive(text), arrival, read)
            if self.closed is not None:
                return
        if offset < size:
            self._frames.receive(data[offset:])
            self._digest(arrival, read)
        if self._tls is not None and self._tls.ended and self.closed is None:
            self._ended()
        self._wake_user()

    def _digest(self, arrival: int, read: int) -> None:
        """Take what the library made of the bytes it was given: messages, replies, an error or a close."""
        frames = self._frames
        for message in frames.messages():
            self._take(message, self._receive(message), arrival, read)
            if self.closed is not None:
                return
        if reply := frames.replies():
            self._write(reply)
        if self.closed is not None:
            return
        if frames.error is not None:
            kind = "message_too_big" if isinstance(frames.error, PayloadTooBig) else "protocol_error"
            self._end(Closed(False, "us", None, kind, str(frames.error)), kind)
        elif frames.close is not None:
            close, ours = frames.close
            self._end(closed_by_frame(close, ours), "connection_lost")
        else:
            self.settle()

    def settle(self) -> None:
        """Give the short path back, unless the library holds a part of something."""
        # The short path does not look at the limit: a frame it takes must be within it.
        self._clear = self._frames.settle() and self.target.max_message_bytes >= 125
        self._fast = self._clear and self._tls is None and not self.target.fresh_masks

    def _refuse_text(self, error: UnicodeDecodeError) -> None:
        self._write(self._frames.refuse(1007, f"{error.reason} at position {error.start}"))
        self.fail("protocol_error", f"text that is not UTF-8: {error.reason} at position {error.start}")

    def _take(self, message: Message, meaning: int, arrival: int, read: int) -> None:
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
                conversation.texts.append(message if isinstance(message, str) else message.decode(errors="replace"))
            if self._ack is not None:
                self._write(frame_of(self.adapter.acknowledgement or "") if self.target.fresh_masks else self._ack)
            if len(conversation.arrivals) == conversation.stop_index:
                self._arrange_stop(conversation, conversation.stop_delay_s)
        elif meaning == END:
            conversation.end(arrival, read)
            self._finish(conversation)
        elif meaning != NOTHING:
            conversation.fail("server_error", message if isinstance(message, str) else repr(message), read)
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

    def close(self, code: int = 1000, timeout_s: float = 2.0) -> None:
        """Close in good order: send a close frame, wait for the server's (at most ``timeout_s``), release the socket; idempotent."""
        if self.closed is not None or self._sock is None:
            return
        self._closing = True
        self._clear = self._fast = False
        if frame := self._frames.send_close(code):
            self._write(frame)
        waiter: Waiter[None] = Waiter()
        self._waiter = waiter
        timer = gevent.get_hub().loop.timer(timeout_s)
        timer.start(waiter.switch, None)
        try:
            if self.closed is None:
                waiter.get()
        finally:
            timer.close()
            self._waiter = None
            if self.closed is None:
                detail = f"the server did not answer the close frame within {timeout_s:g} s"
                self._end(Closed(False, "us", None, "close_timeout", detail), "connection_lost")

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
            self._sock.close()
            self._sock = None
