"""Locust's events -> one measured run after another: who measures and who keeps the directory, the order of things, the exit code."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import gevent
import locust.log
from gevent.event import Event
from locust.env import Environment
from locust.runners import STATE_SPAWNING, MasterRunner, WorkerRunner

from .bookkeeping import Bookkeeping
from .clock_offset import Offset
from .feed import bound
from .fleet import ARRIVALS, CHILDREN_S, DEAL, DEALT_LATE, STOP, Fleet
from .gate import Gate, warn_if_exposed
from .interrupts import interrupt_between_switches, interrupt_main
from .live import LiveView
from .measurement import Measurement
from .run_directory import RunDirectory, RunDirectoryError, write_text
from .settings import Settings, SettingsError
from .shapes import Shape
from .starts import Starts
from .worker import EXIT_DEGRADED, EXIT_USAGE, Worker

logger = logging.getLogger("streamgauge")

EXIT_DONE, EXIT_BUG, EXIT_INTERRUPTED = 0, 1, 130
_MASTER_ANSWERS_S = 5.0
_LOCAL_LEAD_NS, _WORKERS_LEAD_NS = 20_000_000, 250_000_000
"""How far ahead an open loop's beginning is set: time to make the schedule, and for the message to reach every worker."""


class Lifecycle:
    """Follows one Locust environment through its runs.

    The process that has a master or local runner keeps the run directory (``books``); every process that has users measures
    (``measurement``).
    """

    def __init__(self, environment: Environment, options: list[str]) -> None:
        self.environment = environment
        self.exit_code = EXIT_DONE
        self.live = LiveView()
        self.books = Bookkeeping(environment, options, self.live)
        self.measurement = Measurement(environment, self.live, self._stop_run)
        self._active = False
        self._draining = False
        self._idle = Event()
        self._idle.set()
        self._interrupted = False
        self._interrupts = 0
        self._spawned = Event()
        self._ladder: gevent.Greenlet[..., None] | None = None
        events: Any = environment.events
        events.test_start.add_listener(self._on_start)
        events.spawning_complete.add_listener(self._on_spawned)
        events.test_stopping.add_listener(self._on_stopping)
        events.test_stop.add_listener(self._on_stop)
        events.quitting.add_listener(self._on_quitting)
        self.fleet: Fleet | None = None
        self.worker: Worker | None = None
        self._starts = Starts(self._runner)
        if isinstance(self._runner, MasterRunner):
            self.fleet = self._follow_workers()
        elif isinstance(self._runner, WorkerRunner):
            self.worker = Worker(environment, self._runner.stop)
            self.measurement.written = self.worker.wake
            self._runner.register_message(ARRIVALS, lambda msg, **_: self.measurement.start_schedule(**msg.data))
            self._runner.register_message(DEAL, lambda msg, **_: self._take_deal(**msg.data))
            # In a greenlet of its own: it lasts until the conversations have ended, and heartbeats must be answered meanwhile.
            self._runner.register_message(STOP, lambda **_: self._runner.stop(), concurrent=True)
        events.report_to_master.add_listener(self._on_report)
        events.worker_report.add_listener(self._on_worker_report)
        interrupt_between_switches(self._take_interrupt)

    # What kind of process this is.

    @property
    def _runner(self) -> Any:
        return self.environment.runner

    @property
    def _has_users(self) -> bool:
        return not isinstance(self._runner, MasterRunner)

    @property
    def _keeps_directory(self) -> bool:
        return not isinstance(self._runner, WorkerRunner)

    @property
    def _headless(self) -> bool:
        return bool(getattr(self.environment.parsed_options, "headless", False))

    def _follow_workers(self) -> Fleet:
        options: Any = self.environment.parsed_options
        key, options.channel_key = options.channel_key, ""  # a master's options go to its workers, over the channel
        warn_if_exposed(self._runner.master_bind_host, self._runner.server.port, key)
        gate = Gate(self._runner, key, family_only=bool(options.processes))
        fleet = Fleet(self.environment, self.books, gate, self._on_unwritable)
        within_s, options.expect_workers_max_wait = options.expect_workers_max_wait or (CHILDREN_S if options.processes else 0), 0
        if self._headless and within_s:
            gevent.spawn(fleet.require, options.expect_workers, float(within_s))
        return fleet

    @property
    def is_ending(self) -> bool:
        """Whether a run is on its way to its end: no other may begin before its record is whole."""
        return not self._idle.is_set() and (self._draining or not self._active)

    # A run begins.

    def _on_start(self, **_: Any) -> None:
        self._idle.clear()
        try:
            if self._keeps_directory:
                self._begin_directory()
            if self._has_users:
                self._begin_measuring()
                self._active = True
        except (SettingsError, RunDirectoryError, OSError) as error:
            self._refuse(str(error))
        except Exception as error:
            logger.exception("the run could not begin")
            self._refuse(f"the run could not begin: {error!r}", EXIT_BUG)
        except gevent.GreenletExit:
            logger.info("stopped before the run had begun: there is nothing of it")
            self._drop()
            raise
        # Locust says so only with the first user, and passes over a stop that comes before.
        self._runner.update_state(STATE_SPAWNING)

    def _begin_directory(self) -> None:
        self.exit_code = EXIT_DONE
        self.measurement.broken = None
        options: Any = self.environment.parsed_options
        workers = self._alone if self.fleet is None else self.fleet.begin
        # A shape says by itself how fast its users come, and a storm that they all come at once.
        shape = self.environment.shape_class
        pace = shape.connects_per_s() if isinstance(shape, Shape) else getattr(self._runner, "spawn_rate", 0)
        self.books.begin(workers, float(pace or options.spawn_rate or 1))
        self._interrupted = False
        self._active = True

    @staticmethod
    def _alone() -> Sequence[str]:
        return ["w0"]

    def _begin_measuring(self) -> None:
        options: Any = self.environment.parsed_options
        where, settings, worker = options.streamgauge_run, self.books.read_settings(), self.worker
        if worker is None:
            assert self.books.directory is not None
            record, name, offset = self.books.directory, "w0", Offset(0, 0)
        else:
            record, name, offset = worker.make_record(where), worker.name, worker.membership.offset
        writer = self.measurement.begin(settings, where, name, self.books.clock, record, offset)
        # Not forced to disk: the first users wait.
        (record.path / "raw" / f"{name}.json").write_text(json.dumps(self.measurement.describe()), encoding="utf-8")
        if worker is not None:
            worker.ship(record, writer, where, self.measurement.describe())

    def _refuse(self, sentence: str, code: int = EXIT_USAGE) -> NoReturn:
        """The run cannot start: say why, leave nothing half made, stop what has begun."""
        logger.error(sentence)
        self.exit_code = code
        self._drop()
        leave = self._headless or isinstance(self._runner, WorkerRunner)
        gevent.spawn_later(0, self._runner.quit if leave else self._runner.stop)
        # Ends the greenlet that was about to spawn users, without a word: Locust would go on after any other exception.
        raise gevent.GreenletExit

    def _drop(self) -> None:
        """Forget a run that has not begun."""
        self._active = False
        self._idle.set()
        self.books.discard()
        self.measurement.forget()

    # A run goes on.

    def _on_report(self, data: dict[str, Any], **_: Any) -> None:
        data["streamgauge"] = self.live.take()

    def _on_worker_report(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        try:
            self.live.merge(client_id, data.pop("streamgauge", []))
            bound(self.environment.stats, time.time())
        except (KeyError, TypeError, ValueError) as error:
            logger.warning("worker %s sent a report that cannot be read: %r; the live figures lack it", client_id, error)

    def _on_spawned(self, user_count: int, **_: Any) -> None:
        if not self._keeps_directory or self.books.directory is None or not self._active or self._draining:
            return
        self.books.users_stable(user_count)
        if begin := self.books.begin_arrivals(_LOCAL_LEAD_NS if self._has_users else _WORKERS_LEAD_NS):
            if self.fleet is not None:
                self.fleet.begin_arrivals(begin)
            else:
                self.measurement.start_schedule(**begin, positions={"w0": 0}, workers=1)
        self._spawned.set()
        settings = self.books.settings
        if settings is not None and settings.steps and self._ladder is None and self.environment.shape_class is None:
            self._ladder = gevent.spawn(self._climb, settings)

    def _climb(self, settings: Settings) -> None:
        """The ladder: hold each number of users for its time, then go to the next, and end the run after the last."""
        options = self.environment.parsed_options
        assert options is not None
        gevent.sleep(settings.steps[0].seconds)
        for step in settings.steps[1:]:
            self._spawned.clear()
            self._runner.start(step.users, float(options.spawn_rate or step.users))
            # Its time begins when its users are there.
            self._spawned.wait()
            gevent.sleep(step.seconds)
        self._ladder = None
        self._stop_run()

    def _take_deal(self, **deal: Any) -> None:
        if (late_ns := self.measurement.redeal(**deal)) > 0:
            self._runner.send_message(DEALT_LATE, {"by_ns": late_ns})

    def _stop_run(self) -> None:
        (self._runner.quit if self._headless else self._runner.stop)()

    # A run ends.

    def _on_stopping(self, **_: Any) -> None:
        self._draining = self._active
        self.books.steady_ends()
        if self.fleet is not None:
            self.fleet.stopping()
        if self._ladder is not None and self._ladder is not gevent.getcurrent():
            self._ladder.kill()
        self._ladder = None
        self.measurement.stop_starting()
        self.measurement.let_end()

    def _on_stop(self, **_: Any) -> None:
        if not self._active:
            return
        self._active = False
        # In a greenlet of its own: Locust may call us in one that it kills as it quits, and the record would stay without its end.
        gevent.spawn(self._end_run).get()

    def _end_run(self) -> None:
        try:
            if self._has_users:
                self._end_measuring()
            if self._keeps_directory and self.books.directory is not None:
                self._end_directory(self.books.directory)
        finally:
            self._draining = False
            self._idle.set()

    def _take_interrupt(self) -> bool:
        """Whether Ctrl-C is to end the process; while a run drains it ends the drain: what is in flight is abandoned, and recorded so."""
        self._interrupts += 1
        if self._interrupts == 1 and isinstance(self._runner, WorkerRunner) and not self._idle.is_set():
            # A terminal's Ctrl-C went to the master too, and it is the master's to end the run; unless it is gone.
            gevent.spawn_later(_MASTER_ANSWERS_S, self._leave_without_master)
            return False
        # A stop with no run to end, such as the one that follows the last worker's leaving, has nothing that could be cut.
        ending = not self._idle.is_set() and (self._draining or self._starts.is_stopping)
        if ending:
            logger.info("cutting the conversations in flight")
            self._runner.user_greenlets.kill(block=False)
        return not ending

    def _leave_without_master(self) -> None:
        if not self._draining and not self._idle.is_set():
            interrupt_main()

    def _end_measuring(self) -> None:
        record = self.books.directory if self.worker is None else self.worker.record
        information = self.measurement.end()
        if information is None or record is None:
            return
        try:
            write_text(record.path / "raw" / f"{information['worker']}.json", json.dumps(information))
        except OSError as error:
            self.measurement.broken = self.measurement.broken or str(error.strerror or error)
        if self.worker is not None:
            self.worker.deliver(information)

    def _end_directory(self, directory: RunDirectory) -> None:
        if self.fleet is None:
            lost = [name for name, ended in directory.workers_ended().items() if not ended]
            status = self.books.end(lost, self.measurement.broken, self._interrupted, {}, [])
        else:
            lost = self.fleet.wait_for_records()
            status = self.books.end(lost, self.measurement.broken, self._interrupted, *self.fleet.describe(lost, self.books.steady_end_ns))
        self.exit_code = {"degraded": EXIT_DEGRADED, "aborted": EXIT_INTERRUPTED}.get(status, self.exit_code)

    def _on_unwritable(self, reason: str) -> None:
        """The master cannot write what its workers send."""
        if self.measurement.broken is None:
            self.measurement.broken = reason
            logger.error("cannot write the workers' records: %s; the run is stopped, what was written is kept", reason)
            gevent.spawn(self._stop_run)

    def _on_quitting(self, **_: Any) -> None:
        if self._active and not self._draining:
            planned = bool(getattr(self.environment.parsed_options, "run_time", None)) or bool(self._ladder)
            self._interrupted = planned and self._headless
            logger.info("draining: conversations in flight may go on for %g s; Ctrl-C cuts them short", self.environment.stop_timeout or 0)
            if isinstance(self._runner, MasterRunner):
                # Our own message stops the workers. After Locust's the master forgets them and never tells them to quit.
                self._runner.stop(send_stop_to_client=False)
            else:
                self._runner.stop()
        # Another greenlet may be ending the run; the process must not leave before its record is whole.
        if self._active or self._draining:
            self._idle.wait()
        if self._keeps_directory:
            failed = locust.log.unhandled_greenlet_exception or self._runner.exceptions
            self.environment.process_exit_code = EXIT_BUG if failed and self.exit_code == EXIT_DONE else self.exit_code
