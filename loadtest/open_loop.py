"""The open loop of one process: hands due arrivals to a bounded pool of users, whatever the answers before them do."""

from __future__ import annotations

import time
from collections import deque

import gevent
from gevent.event import AsyncResult

from .alarm import Alarm
from .arrivals import Arrival, Share
from .recorder import Recorder

Due = tuple[int, Arrival]
"""An instant (monotonic ns) and what is due then."""


class OpenLoop:
    """Hands due arrivals to waiting users; an arrival that finds none is late or dropped, never forgotten.

    ``patience_ns``: an arrival that has been late for so long is given up and counted as dropped; 0 = never.
    """

    def __init__(self, drop_when_full: bool, recorder: Recorder, patience_ns: int = 0) -> None:
        self._share: Share | None = None
        self._drop = drop_when_full
        self._patience_ns = patience_ns
        self._recorder = recorder
        self._waiting: deque[AsyncResult[Due]] = deque()
        self._backlog: deque[Due] = deque()
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._start = 0
        self._next: Arrival | None = None
        self._over = False

    def start(self, share: Share, at: int) -> None:
        """Begin this process's share of the schedule, whose instant 0 is ``at`` (monotonic ns); once."""
        if self._share is None and not self._over:
            self._share, self._start = share, at
            self._greenlet = gevent.spawn(self._run, share)

    def redeal(self, from_ns: int, position: int | None, workers: int) -> None:
        """From the offset ``from_ns`` (still to come) on this process is ``position`` of ``workers``; None: it gets none."""
        if self._share is None or self._over:
            return
        if self._greenlet is not None:
            self._greenlet.kill()
        self._share.redeal(from_ns, position, workers, self._next)
        self._next = None
        self._greenlet = gevent.spawn(self._run, self._share)

    def stop(self) -> None:
        """End the schedule; what was due and is still waiting for a user is counted as dropped."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None
        self._over = True
        now = time.monotonic_ns()
        # Where the process stood still until now, more has fallen due than it has come to.
        while self._share is not None and (arrival := self._next or self._share.take()) is not None:
            self._next = None
            if (due := self._start + arrival.offset_ns) > now:
                break
            self._count("arrivals_due", due)
            self._count("arrivals_dropped", due)
        for due, _ in self._backlog:
            self._count("arrivals_dropped", due)
        self._backlog.clear()

    def take(self) -> Due:
        """The next arrival and its instant; blocks the calling user until there is one."""
        self._give_up()
        if self._backlog:
            return self._backlog.popleft()
        place: AsyncResult[Due] = AsyncResult()
        self._waiting.append(place)
        try:
            taken = place.get()
        except BaseException:
            # A user that is stopped while it waits gives its place, or an arrival just handed to it, back.
            if place.ready() and place.value is not None:
                self.give_back(place.value)
            else:
                self._waiting.remove(place)
            raise
        assert taken is not None
        return taken

    def give_back(self, due: Due) -> None:
        """Take back an arrival from a user that cannot serve it after all: it goes to the next free one, or is late or dropped."""
        if self._waiting and not self._over:
            self._waiting.popleft().set(due)
        elif self._drop or self._over:
            self._count("arrivals_dropped", due[0])
        else:
            self._backlog.appendleft(due)

    def _run(self, share: Share) -> None:
        alarm = Alarm()
        try:
            self._keep_schedule(share, alarm)
        finally:
            alarm.close()

    def _keep_schedule(self, share: Share, alarm: Alarm) -> None:
        while True:
            self._next = arrival = share.take()
            if arrival is None:
                return
            due = self._start + arrival.offset_ns
            alarm.wait_until(due)
            self._next = None
            self._count("arrivals_due", due)
            if self._waiting:
                self._waiting.popleft().set((due, arrival))
            elif self._drop:
                self._count("arrivals_dropped", due)
            else:
                self._count("arrivals_late", due)
                self._backlog.append((due, arrival))
                self._give_up()

    def _give_up(self) -> None:
        """Drop what has waited for too long."""
        oldest = time.monotonic_ns() - self._patience_ns
        while self._patience_ns and self._backlog and self._backlog[0][0] < oldest:
            self._count("arrivals_dropped", self._backlog.popleft()[0])

    def _count(self, counter: str, due: int) -> None:
        self._recorder.count_at(counter, due)
