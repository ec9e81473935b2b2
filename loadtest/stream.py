"""A WebSocket of the engine: non-blocking sockets on gevent's hub, with the kernel's arrival stamps.

The handshake and everything unusual (fragments, control frames, long, compressed or split frames) belong to the library's Sans-I/O
protocol. The common case, whole small text frames, is decoded in a callback that runs in the hub: it stamps, appends two integers and
sends the prepared acknowledgement. The user's greenlet sleeps for the whole conversation and is woken once, at its end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gevent
from gevent.hub import Waiter
from websockets.client import ClientProtocol
from websockets.exceptions import PayloadTooBig

from .adapter import Adapter, Message
from .connection import Connection
from .conversation import NEVER
from .ending import Closed, closed_by_frame
from .frames import Frames, frame_of
from .opening import BUFFER, BUFFERS, CONTROL_BYTES, TIMESPEC, Target, stamp_of

if TYPE_CHECKING:
    from .engine import Engine

_now = time.monotonic_ns
_wall = time.time_ns


class Stream(Connection):
    """A WebSocket."""

    __slots__ = ("_ack", "_answer", "_clear", "_dynamic", "_fast", "_frames", "_receive")

    def __init__(self, engine: Engine, target: Target, adapter: Adapter, user: int = 0, attempt: int = 0) -> None:
        super().__init__(engine, target, adapter, user, attempt)
        self._ack = None if adapter.acknowledgement is None else engine.prepared(adapter.acknowledgement)
        # An acknowledgement that depends on what it acknowledges; the prepared one is then not sent.
        self._dynamic: Any = getattr(adapter, "acknowledge", None)
        self._receive = adapter.receive
        self._frames = Frames(target.uri, target.max_message_bytes, engine.protocol_logger)
        self._answer: tuple[ClientProtocol, int] | None = None
        # The library holds no part of anything; and: the short path may be taken.
        self._clear = False
        self._fast = False

    # What is its own in opening, starting and stopping.

    def _open(self) -> None:
        self._answer = self.opening.run(getattr(self.adapter, "headers", ()))

    def _opened(self) -> None:
        assert self._answer is not None
        protocol, arrival = self._answer
        self._answer = None
        self._frames.adopt(protocol)
        # What came in one segment with the handshake's answer belongs to no conversation yet; it may be a close frame.
        self._guard(self._digest, arrival, _now())

    def _started(self, prompt: str) -> bytes:
        return b"".join(map(frame_of, self.adapter.start(prompt)))

    def _stopped(self) -> bytes:
        return b"".join(map(frame_of, self.adapter.stop()))

    def _farewell(self) -> None:
        self._clear = self._fast = False
        if frame := self._frames.send_close(1000):
            self._write(frame)

    def _acknowledge(self, message: Message) -> None:
        if self._dynamic is not None:
            if (answer := self._dynamic(message)) is not None:
                self._write(frame_of(answer))
        elif self._ack is not None:
            self._write(frame_of(self.adapter.acknowledgement or "") if self.target.fresh_masks else self._ack)

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

    def _give_up(self, error: Exception) -> None:
        if isinstance(error, UnicodeDecodeError):
            self._write(self._frames.refuse(1007, f"{error.reason} at position {error.start}"))
            self.fail("protocol_error", f"text that is not UTF-8: {error.reason} at position {error.start}")
        else:
            super()._give_up(error)

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
        # Several whole text frames may have come at once; whatever is not of that kind is the library's, with all after it.
        while self._clear and offset + 2 < size and data[offset] == 0x81:
            length, start = data[offset + 1], offset + 2
            if length == 126 and size - offset >= 4:
                # A longer one, such as a token wrapped in JSON; one that ought to have been short is the library's to judge.
                length, start = int.from_bytes(data[start : start + 2], "big"), start + 2
                if length < 126 or length > self.target.max_message_bytes:
                    break
            elif length > 125:
                break
            if length == 0 or start + length > size:
                break
            text = data[start : start + length].decode()
            offset = start + length
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
        # A ping is answered at once, before what came after it; the echo of a close goes out when every message before it has had its say.
        if frames.close is None and frames.error is None and (reply := frames.replies()):
            self._write(reply)
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
        self._fast = self._clear and self._tls is None and not self.target.fresh_masks and self._dynamic is None

    # Closing.

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
        over: list[bool] = []
        killed: gevent.GreenletExit | None = None

        def end_wait() -> None:
            over.append(True)
            waiter.switch(None)

        timer.start(end_wait)
        try:
            while self.closed is None:
                try:
                    if over:
                        # What is here already is read first: a process that stood still comes to its timers before its sockets.
                        gevent.sleep(0)
                        break
                    waiter.get()
                except gevent.GreenletExit as again:
                    # Killed as it ends, as by the end of a run that a second Ctrl-C cut: the server may answer none the less.
                    killed = again
        finally:
            timer.close()
            self._waiter = None
            if self.closed is None:
                detail = f"the server did not answer the close frame within {timeout_s:g} s"
                self._end(Closed(False, "us", None, "close_timeout", detail), "connection_lost")
        if killed is not None:
            raise killed
