"""The fastest server of the protocol that Python can be: so that whatever drives it, and not the server, is what is measured.

Raw file descriptors, busy polling, a hand-written handshake and frame parser, answers built once. What is left out: TLS, compression,
limits, the ack timeout (R8), UTF-8 validation. An answer is `tokens` tokens; every field of `Answer` is an option and a query parameter.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import heapq
import itertools
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

from . import null_wire as wire
from .limits import raise_file_limit
from .null_answer import KINDS, Answer, Connection, answer_for

PATH: Final = b"/ws"
BACKLOG: Final = 8192
MAX_REQUEST_BYTES: Final = 16 * 1024
READ_BYTES: Final = 448  # a bytes object of at most 512 bytes comes from CPython's small-object allocator
READ_MORE_BYTES: Final = 64 * 1024
EVENTS: Final = 256  # per poll: bounds how long a due token waits behind arrivals
ACCEPTS: Final = 64  # per poll: a storm of connects does not starve the conversations that run
BURST: Final = 64  # writes of one unacknowledged, unpaced answer before the others have their turn
MAX_QUEUED_BYTES: Final = 1 << 20  # an answer whose client does not read pauses here
IDLE_NS: Final = 1_000_000_000  # how long after the last event of a conversation the loop goes on polling without a pause
IDLE_POLL_S: Final = 0.1
READABLE: Final = select.POLLIN  # the values of epoll and poll are the same
WRITABLE: Final = select.POLLOUT

COUNTED: Final = ("prompts", "tokens", "acks", "stale_acks", "stops", "stale_stops")


class NullServer:
    """The loop: `run` serves one listening socket until a signal ends the process. `poller` "poll" works on every system."""

    def __init__(self, listener: socket.socket, answer: Answer, poller: str = "epoll") -> None:
        self.answer = answer
        self.listener = listener
        self.listener_fd = listener.fileno()
        listener.setblocking(False)
        self.poller, self.poll = _readiness(poller)
        self.poller.register(self.listener_fd, READABLE)
        self.connections: dict[int, Connection] = {}
        # For each descriptor, how many acknowledgements still earn a token on the short path. A list, as the loop looks here first.
        self.earned: list[int] = [0] * 1024
        self.schedule: list[tuple[int, int, int, Connection]] = []  # (due, descriptor, answer's serial, connection): a heap
        self.leaked: set[int] = set()
        self.counts = dict.fromkeys(("accepted", "closed", *COUNTED), 0)
        self.serials = itertools.count(1)
        self.touched_ns = 0  # when a conversation last moved

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve for ever."""
        poll, read, write, earned, clock = self.poll, os.read, os.write, self.earned, time.monotonic_ns
        schedule, listener_fd, token, size = self.schedule, self.listener_fd, wire.TOKEN, len(wire.TOKEN)
        while True:
            events = poll(0.0)
            if not events and not schedule and clock() - self.touched_ns > IDLE_NS:
                events = poll(IDLE_POLL_S)
            for fd, event in events:
                left = earned[fd]
                if left and event == READABLE:
                    try:
                        data = read(fd, READ_BYTES)
                    except BlockingIOError:
                        continue
                    except OSError:
                        data = b""
                    if len(data) == 6 and data[1] == 0x80 and data[0] == 0x81:  # one masked empty text frame
                        earned[fd] = left - 1
                        try:
                            if write(fd, token) == size:
                                continue
                        except OSError:
                            pass
                        data = b""  # gone: a peer that is there has room for SHORT_WINDOW small frames
                    self._received(fd, data)
                elif fd == listener_fd:
                    self._accept()
                else:
                    self._ready(fd, event)
            if schedule:
                self._send_due(clock())
            if events:
                self.touched_ns = clock()

    def _accept(self) -> None:
        connections, earned, register, answer = self.connections, self.earned, self.poller.register, self.answer
        for _ in range(ACCEPTS):
            try:
                fd, _address = self.listener._accept()  # type: ignore[attr-defined]  # a descriptor, not yet a socket object
            except BlockingIOError:
                return
            except OSError as error:  # out of descriptors, or the client has gone: the others in the backlog can wait
                sys.stderr.write(f"null server: cannot accept: {error}\n")
                time.sleep(0.01)
                return
            os.set_blocking(fd, False)
            if sys.platform != "linux":  # where the listener's option is not inherited
                peer = socket.socket(fileno=fd)
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peer.detach()
            if fd >= len(earned):
                earned.extend([0] * (fd + 1024 - len(earned)))
            connections[fd] = Connection(answer)
            register(fd, READABLE)

    def _ready(self, fd: int, event: int) -> None:
        if event & WRITABLE:
            self._flush(fd)
        if event & ~WRITABLE and fd in self.connections:
            try:
                data = os.read(fd, READ_MORE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self._received(fd, data)

    def _received(self, fd: int, data: bytes) -> None:
        connection = self.connections[fd]
        if not data:
            self._drop(fd)
        elif connection.upgraded:
            self._parse(fd, connection, connection.partial + data if connection.partial else data)
        else:
            self._request(fd, connection, connection.partial + data)

    def _drop(self, fd: int) -> None:
        connection = self.connections.pop(fd, None)
        if connection is None:  # a send noticed it first
            return
        self._forget(fd, connection)
        self.poller.unregister(fd)
        if connection.upgraded and connection.answer.leak:
            self.leaked.add(fd)
            return
        os.close(fd)
        self.counts["closed"] += connection.upgraded

    # -- HTTP ----------------------------------------------------------------------------------------------------------

    def _request(self, fd: int, connection: Connection, data: bytes) -> None:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            connection.partial = data
            if len(data) > MAX_REQUEST_BYTES:
                self._drop(fd)
            return
        path, query, key = wire.read_request(data[:end])
        if path != PATH:
            text = {b"/healthz": lambda: "ok\n", b"/metrics": self.metrics_text}.get(path, lambda: "")()
            self._respond(fd, "200 OK" if text else "404 Not Found", text or "the null server has /ws, /healthz and /metrics\n")
            return
        if not key:
            self._respond(fd, "426 Upgrade Required", "this is a WebSocket server\n")
            return
        try:
            connection.answer = answer_for(query, self.answer)
        except ValueError as error:
            self._respond(fd, "400 Bad Request", f"{error}\n")
            return
        connection.upgraded = True
        connection.partial = b""
        self.counts["accepted"] += 1
        self._send(fd, connection, wire.switch_protocols(key))
        if len(data) > end + 4 and fd in self.connections:
            self._parse(fd, connection, data[end + 4 :])

    def _respond(self, fd: int, status: str, text: str) -> None:
        self._send(fd, self.connections[fd], wire.http_reply(status, text))
        self._drop(fd)

    def metrics_text(self) -> str:
        """Return the counts in Prometheus' text format, under the reference server's names; leaked connections count as open."""
        live = [connection for connection in self.connections.values() if connection.upgraded]
        lines = [
            f"streamgauge_connections_open {len(live) + len(self.leaked)}",
            f"streamgauge_connections_streaming {sum(connection.answering for connection in live)}",
            f"streamgauge_connections_accepted_total {self.counts['accepted']}",
            f"streamgauge_connections_closed_total {self.counts['closed']}",
            *(f"streamgauge_{name}_total {self.counts[name]}" for name in COUNTED),
            f"process_cpu_seconds_total {time.process_time()}",
        ]
        return "\n".join(lines) + "\n"

    # -- frames --------------------------------------------------------------------------------------------------------

    def _parse(self, fd: int, connection: Connection, data: bytes) -> None:
        self.earned[fd] += connection.held
        connection.held = 0
        frames, taken, code = wire.read_frames(data)
        for first, body in frames:
            self._frame(fd, connection, first, body)
            if fd not in self.connections:
                return
        if code:
            self._fail(fd, connection, code)
            return
        connection.partial = data[taken:]
        if connection.partial:
            connection.held, self.earned[fd] = self.earned[fd], 0

    def _frame(self, fd: int, connection: Connection, first: int, body: bytes) -> None:
        if first == wire.TEXT:
            if not body:
                self._acknowledged(fd, connection)
            elif body == b"stop":
                self._stop(fd, connection)
            elif not connection.closing:
                self._start(fd, connection)
        elif first == wire.PING:
            self._send(fd, connection, wire.control_frame(wire.PONG, body[:125]))
        elif first == wire.CLOSE:
            if not connection.closing:
                self._send(fd, connection, wire.control_frame(wire.CLOSE, body[:2]))
            self._drop(fd)
        elif first != wire.PONG:  # a fragment, a reserved bit, an unknown opcode: no client of the benchmarks sends one
            self._fail(fd, connection, 1003 if first == wire.BINARY else 1002)

    def _fail(self, fd: int, connection: Connection, code: int) -> None:
        self._send(fd, connection, wire.control_frame(wire.CLOSE, code.to_bytes(2)))
        self._drop(fd)

    # -- the conversation ----------------------------------------------------------------------------------------------

    def _forget(self, fd: int, connection: Connection) -> None:
        """End the answer, whatever its state, without a word; what the short path has sent is counted now."""
        if connection.answering:
            answer = connection.answer
            if answer.short_path:
                sent = answer.tokens - self.earned[fd] - connection.held
                self.counts["tokens"] += sent
                self.counts["acks"] += max(0, sent - min(answer.window, answer.tokens)) + connection.owed
            connection.answering = False
        self.earned[fd] = connection.held = connection.owed = connection.undue = connection.unacked = 0

    def _start(self, fd: int, connection: Connection) -> None:
        self._forget(fd, connection)  # R6: superseded without an end
        answer = connection.answer
        self.counts["prompts"] += 1
        connection.answering = True
        connection.serial = next(self.serials)
        if answer.short_path:
            first = min(answer.window, answer.tokens)
            self.earned[fd] = answer.tokens - first
            connection.unacked = first
            for _ in range(first):
                self._send(fd, connection, wire.TOKEN)
            if not first:
                self._end(fd, connection)
            return
        connection.undue = answer.tokens
        connection.due_ns = time.monotonic_ns() + int(answer.ttft_ms * 1e6)
        heapq.heappush(self.schedule, (connection.due_ns, fd, connection.serial, connection))

    def _acknowledged(self, fd: int, connection: Connection) -> None:
        if not connection.unacked:
            self.counts["stale_acks"] += 1  # R2
            return
        if self.earned[fd]:  # several acknowledgements in one read
            self.earned[fd] -= 1
            self._send(fd, connection, wire.TOKEN)
            return
        connection.unacked -= 1  # R1
        if connection.answer.short_path:
            connection.owed += 1  # here: the acknowledgements that earned nothing, for the count
            if not connection.unacked:
                self._end(fd, connection)
            return
        self.counts["acks"] += 1
        self._pump(fd, connection)

    def _stop(self, fd: int, connection: Connection) -> None:
        if not connection.answering:
            self.counts["stale_stops"] += 1  # R4
            return
        self.counts["stops"] += 1
        self._end(fd, connection)  # R3

    def _end(self, fd: int, connection: Connection) -> None:
        self._forget(fd, connection)
        if connection.answer.close:
            connection.closing = True
        self._send(fd, connection, wire.END + wire.CLOSE_NORMAL if connection.answer.close else wire.END)

    def _send_due(self, now_ns: int) -> None:
        schedule = self.schedule
        while schedule and schedule[0][0] <= now_ns:
            _, fd, serial, connection = schedule[0]
            if serial != connection.serial or not connection.answering:
                heapq.heappop(schedule)
                continue
            answer = connection.answer
            if answer.gap_ms:
                fallen_due = min(answer.pack, connection.undue)
                connection.due_ns += int(answer.gap_ms * 1e6)
            else:
                fallen_due = min(answer.pack * BURST, connection.undue) if not connection.queue else 0
                connection.due_ns = now_ns + 1
            connection.undue -= fallen_due
            connection.owed += fallen_due
            if connection.undue:
                heapq.heapreplace(schedule, (connection.due_ns, fd, serial, connection))
            else:
                heapq.heappop(schedule)
            self._pump(fd, connection)

    def _pump(self, fd: int, connection: Connection) -> None:
        """Send what is due as far as the window and the send buffer go, and the end after the last acknowledgement."""
        answer = connection.answer
        while connection.owed and len(connection.queue) < MAX_QUEUED_BYTES:
            count = min(answer.pack, connection.owed)
            if answer.window and connection.unacked + count > answer.window:
                return
            connection.owed -= count
            if answer.window:
                connection.unacked += count
            self.counts["tokens"] += count
            text = b" ".join((b"%d" % time.time_ns() if answer.stamp else b"token",) * answer.join)
            self._send(fd, connection, wire.text_frame(text) * count)
            if not connection.answering:
                return
        if not (connection.owed or connection.undue or connection.unacked):
            self._end(fd, connection)  # R7

    # -- sending -------------------------------------------------------------------------------------------------------

    def _send(self, fd: int, connection: Connection, data: bytes) -> None:
        if connection.queue:
            connection.queue += data
            return
        try:
            sent = os.write(fd, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(fd)
            return
        if sent < len(data):
            connection.queue = data[sent:]
            self.poller.modify(fd, READABLE | WRITABLE)

    def _flush(self, fd: int) -> None:
        connection = self.connections[fd]
        data, connection.queue = connection.queue, b""
        self.poller.modify(fd, READABLE)
        if data:
            self._send(fd, connection, data)
        if connection.owed and connection.answering and fd in self.connections and not connection.answer.short_path:
            self._pump(fd, connection)


def _readiness(name: str) -> tuple[select.epoll | select.poll, Callable[[float], list[tuple[int, int]]]]:
    """Return epoll where there is one, else poll, and a function of seconds that gives pairs of descriptor and events."""
    if name == "epoll" and hasattr(select, "epoll"):
        epoll = select.epoll()
        return epoll, lambda timeout_s: epoll.poll(timeout_s, EVENTS)
    poll = select.poll()
    return poll, lambda timeout_s: poll.poll(timeout_s * 1000)


def listen(port: int) -> socket.socket:
    """Return a listening socket on 127.0.0.1; port 0 takes a free one. Raises `OSError` when the port is in use."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # Linux hands it on to what is accepted
    listener.bind(("127.0.0.1", port))
    listener.listen(BACKLOG)
    return listener


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.null_server", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument("--cpu", type=int, default=None, help="run on this processor only")
    parser.add_argument("--poller", choices=("epoll", "poll"), default="epoll", help="poll is what systems without epoll get")
    for field in dataclasses.fields(Answer):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=KINDS[field.name], default=field.default, help=f"default {field.default}")
    options = parser.parse_args(arguments)
    try:
        answer = Answer(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Answer)})
    except ValueError as error:
        parser.error(str(error))
    if options.cpu is not None and hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(0, {options.cpu})
        except OSError:
            parser.error(f"--cpu is a processor that this process may use, {sorted(os.sched_getaffinity(0))}, not {options.cpu}")
    raise_file_limit()
    try:
        listener = listen(options.port)
    except (OSError, OverflowError) as error:
        sys.stderr.write(f"null server: cannot listen on 127.0.0.1:{options.port} ({error}): choose another port, or 0 for a free one.\n")
        return 2

    def leave(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    sys.stdout.write(f"listening on ws://127.0.0.1:{listener.getsockname()[1]}{PATH.decode()}\n")
    sys.stdout.flush()
    gc.disable()  # nothing here refers to itself, and a collection is a pause
    NullServer(listener, answer, options.poller).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
