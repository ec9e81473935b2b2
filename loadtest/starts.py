"""Which starts of users are under way, and how a stop ends them before it ends the users."""

from __future__ import annotations

from typing import Any

import gevent
from gevent.event import Event
from gevent.pool import Group
from locust.runners import STATE_STOPPED, MasterRunner, WorkerRunner

_SENT_S = 0.001
"""What a master's start had ready for its workers leaves in timers without delay: they come before one with this."""


class Starts:
    """Stands before a runner's ``start`` and ``stop``, so that a stop prevails whenever it comes.

    Locust's own stop passes over a run that is only about to begin, lets users come while those that are there finish, and does not know
    of a start in another greenlet: of the ladder, of a shape, of a worker that has joined.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._under_way = Group()
        self._start, self._stop = runner.start, runner.stop
        self._stopper: Any = None
        self._stopped = Event()
        self._stopped.set()
        runner.stop = self.stop
        if not isinstance(runner, WorkerRunner):
            # A worker's starts are orders, each carried out in the one greenlet that Locust has for them.
            runner.start = self.start

    @property
    def is_stopping(self) -> bool:
        """Whether a stop is under way."""
        return not self._stopped.is_set()

    def start(self, *arguments: Any, **options: Any) -> None:
        """Start users as Locust does, in a greenlet that a stop can end whoever has called; nothing while a stop is under way."""
        if not self._stopped.is_set():
            return
        one = self._under_way.spawn(self._start, *arguments, **options)
        try:
            one.get()
        finally:
            # Who is killed takes along what was started for it.
            one.kill()

    def stop(self, *arguments: Any, **options: Any) -> None:
        """End every start that is under way, and then the run, as Locust does; of two stops at once the second waits for the first."""
        here = gevent.getcurrent()
        while not self._stopped.is_set():
            # Messages of a master's workers are read by those who may stop it, and a user that is being stopped is itself waited for.
            if isinstance(self._runner, MasterRunner) or here is self._stopper or here in self._runner.user_greenlets:
                return
            self._stopped.wait()
            if self._runner.state == STATE_STOPPED:
                return
        self._stopper = here
        self._stopped.clear()
        try:
            self.halt()
            self._stop(*arguments, **options)
        finally:
            self._stopped.set()

    def halt(self) -> None:
        """No user is started any more, by nobody: not by a shape, not by a start, not by an order to a worker."""
        runner, here = self._runner, gevent.getcurrent()
        if runner.shape_greenlet is not None and runner.shape_greenlet is not here:
            runner.shape_greenlet.kill()
            runner.shape_greenlet = runner.shape_last_tick = None
        for one in list(self._under_way):
            if one is not here:
                one.kill()
        if runner.spawning_greenlet is not None and runner.spawning_greenlet is not here:
            runner.spawning_greenlet.kill()
        if isinstance(runner, MasterRunner):
            gevent.sleep(_SENT_S)
