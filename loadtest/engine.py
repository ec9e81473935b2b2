"""What the connections of one process share: recorder, clock, name resolution, deadlines, and the second's tick."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
import gevent.socket
import psutil
from gevent.event import Event

from .adapter import Message
from .arrivals import SECOND_NS, Pacing
from .clock import Clock
from .conversation import Conversation
from .frames import frame_of
from .recorder import Flush, Recorder, Stall

if TYPE_CHECKING:
    from .connection import Connection

_TICK_S = 0.02
_ABSORB_EVERY = 4
_PORTIONS = 6
"""What is new is measured in portions, one every few ticks: every conversation in flight about twice a second, and none of the
portions holds the engine up for long."""
_CROWD = 2_000
"""From so many conversations in flight on, a smaller portion comes with every tick. With fewer, larger portions cost less."""
_SWEPT_AT_ONCE = 1_000
_BETWEEN_SWEEPS_S = 0.01
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Resident memory of this process."""
    if _STATM.exists():
        # A tenth of what psutil costs, and it is read every second in the process that measures.
        return int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    return int(psutil.Process().memory_info().rss)


class Engine:
    """One process's connections and the clockwork around them.

    ``flushed`` is called after each second with what was new; ``broken`` when the record cannot be written any more.
    """

    def __init__(self, recorder: Recorder, clock: Clock, stall_timeout_s: float, record_texts: bool = False) -> None:
        self.recorder = recorder
        self.clock = clock
        self.record_texts = record_texts
        self.streams: set[Connection] = set()
        self.opening = 0
        self.streaming = 0
        self.users: Callable[[], int] = lambda: 0
        self.flushed: Callable[[Flush], None] = lambda flush: None
        self.broken: Callable[[OSError], None] = lambda error: None
        self.server_counts: dict[str, int] = {}
        self.pacing = Pacing(0)
        self.stopping = Event()
        self.protocol_logger = logging.getLogger("streamgauge.protocol")
        # The library logs at debug level every frame it sees, if asked to; a load generator never asks.
        self.protocol_logger.setLevel(logging.WARNING)
        self._stall_timeout_ns = round(stall_timeout_s * SECOND_NS)
        self._addresses: dict[tuple[str, int], tuple[int, Any]] = {}
        self._prepared: dict[Message, bytes] = {}
        self._expected_tick = 0
        self._ticker: Any = None
        self._sweeper: gevent.Greenlet[..., None] | None = None
        self._cpu_ns = time.process_time_ns()
        self._flushed_at = time.monotonic_ns()
        self._last_second = -1
        self._ticks = 0
        self._portions: list[list[Conversation]] = []
        self._absorb_every = _ABSORB_EVERY

    def resolve(self, host: str, port: int) -> tuple[int, Any]:
        """Address family and socket address of a host, resolved once; OSError when it does not resolve."""
        key = (host, port)
        if key not in self._addresses:
            try:
                host.encode("idna")
            except UnicodeError:
                # The standard library's own exception for such a name is no OSError.
                raise gevent.socket.gaierror(gevent.socket.EAI_NONAME, f"{host!r} is not a host name") from None
            family, _, _, _, address = gevent.socket.getaddrinfo(host, port, 0, gevent.socket.SOCK_STREAM)[0]
            self._addresses[key] = (int(family), address)
        return self._addresses[key]

    def prepared(self, message: Message) -> bytes:
        """The frame of a message that never changes, the same object for all connections."""
        if message not in self._prepared:
            self._prepared[message] = frame_of(message)
        return self._prepared[message]

    def start(self) -> None:
        """Begin to tick and to sweep."""
        self._expected_tick = time.monotonic_ns() + round(_TICK_S * SECOND_NS)
        self._ticker = gevent.get_hub().loop.timer(_TICK_S, _TICK_S)
        self._ticker.start(self._tick)
        self._cpu_ns = time.process_time_ns()
        self._flushed_at = time.monotonic_ns()
        self._sweeper = gevent.spawn(self._sweep_every_second)

    def stop(self) -> None:
        """Stop ticking and write the last interval."""
        if self._ticker is not None:
            self._ticker.close()
            self._ticker = None
        if self._sweeper is not None:
            self._sweeper.kill()
            self._sweeper = None
        try:
            self.recorder.absorb(time.monotonic_ns(), self._running())
        except OSError as error:
            self.broken(error)
        self.flush()

    def _running(self) -> list[Conversation]:
        return [stream.conversation for stream in self.streams if stream.conversation is not None]

    def _tick(self) -> None:
        now = time.monotonic_ns()
        if stall := self.recorder.loop_ticked(self._expected_tick, now):
            self.recorder.taint(stall, self._running())
        self._expected_tick = now + round(_TICK_S * SECOND_NS)
        self._ticks += 1
        if self._ticks % self._absorb_every:
            return
        if not self._portions:
            running = self._running()
            self._absorb_every = 1 if len(running) >= _CROWD else _ABSORB_EVERY
            size = len(running) // (_PORTIONS * _ABSORB_EVERY // self._absorb_every) + 1
            self._portions = [running[at : at + size] for at in range(0, len(running), size)]
        portion = self._portions.pop() if self._portions else []
        if portion or self.recorder.pending:
            try:
                self.recorder.absorb(now, [c for c in portion if not c.outcome])
            except OSError as error:
                self.broken(error)

    def _sweep_every_second(self) -> None:
        while True:
            now = time.monotonic_ns()
            since = now - self.recorder.origin
            gevent.sleep((math.floor(since / SECOND_NS) + 1) - since / SECOND_NS)
            # The timer fires a little after the end of a second, or before: what is written belongs to the second that has passed.
            self.flush(ended=round((time.monotonic_ns() - self.recorder.origin) / SECOND_NS))
            streams = list(self.streams)
            for at in range(0, len(streams), _SWEPT_AT_ONCE):
                self.sweep(streams[at : at + _SWEPT_AT_ONCE])
                gevent.sleep(_BETWEEN_SWEEPS_S)

    def sweep(self, streams: Iterable[Connection] | None = None) -> None:
        """Fail every conversation (of ``streams``; by default all) on which nothing has arrived for the stall timeout."""
        now = time.monotonic_ns()
        for stream in list(self.streams) if streams is None else streams:
            conversation = stream.conversation
            if conversation is None:
                continue
            last = conversation.reads[-1] if conversation.reads else conversation.sent
            if now - last > self._stall_timeout_ns:
                stream.fail("stalled", f"nothing arrived for {(now - last) / SECOND_NS:.1f} s")

    def flush(self, ended: int | None = None) -> None:
        """Write what is new; a disk that refuses is reported once by ``broken``.

        ``ended``: how many seconds of the run have ended, where it is called because one has; None: in the middle of one.
        """
        step = self.clock.check()
        now = time.monotonic_ns()
        if step:
            # Stamps taken since the last look cannot be told from latency.
            self.recorder.taint(Stall(self._flushed_at, now, "clock_step"), self._running())
        # A saturated process may be so late that a flush comes within the second of the one before; a second has one row of gauges.
        at = now if ended is None else self.recorder.origin + ended * SECOND_NS
        second = max(0, (at - self.recorder.origin - 1) // SECOND_NS)
        gauges: dict[str, int] = {}
        if second != self._last_second:
            gauges = {"users": self.users(), "opening": self.opening, "open": len(self.streams), "streaming": self.streaming}
            self._last_second = second
        cpu = time.process_time_ns()
        process: dict[str, int | None] = {
            "covered_ns": now - self._flushed_at,
            "cpu_ns": cpu - self._cpu_ns,
            "rss_bytes": resident_bytes(),
            "clock_step_ns": step or None,
            **self.server_counts,
        }
        self._flushed_at, self._cpu_ns = now, cpu
        try:
            flush = self.recorder.flush(at, gauges, process)
        except OSError as error:
            self.broken(error)
            return
        self.flushed(flush)
