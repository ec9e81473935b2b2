"""Locust's events -> one measured run after another: options, engine, recorder, run directory, status and exit code."""

from __future__ import annotations

import datetime
import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any, NoReturn

import gevent
import locust.log
from gevent.event import Event
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from .adapter import AdapterError, load_adapter, make_adapter
from .arrivals import Pacing, constant, deal, poisson
from .clock import Clock
from .engine import Engine
from .environment import describe_machine, describe_revision, describe_versions
from .feed import feed
from .interrupts import interrupt_between_switches, interrupt_main
from .live import LiveView
from .opening import KERNEL_STAMPS
from .probe import probe
from .recorder import Flush, Recorder
from .run import Run, make_target
from .run_directory import RawWriter, RunDirectory, RunDirectoryError, write_text
from .run_metadata import Ending, end_record, first_metadata, new_path, read_scenario
from .settings import Settings, SettingsError, check_settings
from .target_metrics import interval_columns, read_settled_metrics, read_target_metrics
from .users import OpenLoop

logger = logging.getLogger("streamgauge")

EXIT_DONE, EXIT_BUG, EXIT_USAGE, EXIT_DEGRADED, EXIT_INTERRUPTED = 0, 1, 2, 12, 130
_WORKERS_END_S = 30.0
_MASTER_ANSWERS_S = 5.0
_STOP_MESSAGE = "streamgauge_stop"


class Lifecycle:
    """Follows one Locust environment through its runs.

    The process that has a master or local runner keeps the run directory; every process that has users keeps a raw file in it.
    """

    def __init__(self, environment: Environment, options: list[str]) -> None:
        self.environment = environment
        self.options = options
        self.run: Run | None = None
        self.directory: RunDirectory | None = None
        self.exit_code = EXIT_DONE
        self.live = LiveView()
        self._serving = False
        self._writer: RawWriter | None = None
        self._clock = Clock()
        self._broken: OSError | None = None
        self._active = False
        self._draining = False
        self._idle = Event()
        self._idle.set()
        self._interrupted = False
        self._interrupts = 0
        self._tried = False
        self._about: dict[str, Any] = {}
        self._settings_in_force: Settings | None = None
        self._spawned = Event()
        self._window: dict[str, int | None] = {}
        self._steps: list[dict[str, int]] = []
        self._ladder: gevent.Greenlet[..., None] | None = None
        self._scraper: gevent.Greenlet[..., None] | None = None
        self._server: dict[str, dict[str, float]] = {}
        self._expected: set[str] = set()
        events: Any = environment.events
        events.test_start.add_listener(self._on_start)
        events.spawning_complete.add_listener(self._on_spawned)
        events.test_stopping.add_listener(self._on_stopping)
        events.test_stop.add_listener(self._on_stop)
        events.quitting.add_listener(self._on_quitting)
        if isinstance(self._runner, WorkerRunner):
            # In a greenlet of its own: it lasts until the conversations have ended, and heartbeats must be answered meanwhile.
            self._runner.register_message(_STOP_MESSAGE, lambda **_: self._runner.stop(), concurrent=True)
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

    def _name(self, client: str) -> str:
        """The master's name for a worker, which is the worker's own."""
        return f"w{self._runner.get_worker_index(client)}"

    def _worker_name(self) -> str:
        return f"w{max(0, int(getattr(self._runner, 'worker_index', 0)))}"

    # Before the first run.

    def check(self) -> Settings:
        """The options, checked, with the adapter and one connection tried; SettingsError says what is wrong."""
        settings = self._settings()
        try:
            adapter = load_adapter(settings.adapter)
            make_adapter(adapter, {"window": settings.window})
        except AdapterError as error:
            raise SettingsError(str(error)) from None
        if settings.scenario_file is not None:
            read_scenario(settings.scenario_file)
        if settings.run_dir is not None and os.path.lexists(settings.run_dir) and not self._active:
            raise SettingsError(f"expected a new run directory, but {settings.run_dir} exists; choose another --run-dir or remove it")
        return settings

    def describe(self) -> dict[str, Any]:
        """What machine and which versions this is; found out once, at best before the run's time begins."""
        self._about = self._about or {"environment": describe_machine(), "versions": describe_versions(), "git": describe_revision()}
        return self._about

    def try_target(self, settings: Settings) -> None:
        """Open and close one connection, once; SettingsError when the target does not answer an upgrade."""
        probe(settings, self._clock)
        self._tried = True

    def _settings(self) -> Settings:
        options = self.environment.parsed_options
        assert options is not None
        return check_settings(options, self.environment.host)

    # A run begins.

    def _on_start(self, **_: Any) -> None:
        self._idle.clear()
        try:
            if self._keeps_directory:
                self._begin_directory()
            if self._has_users:
                self._begin_measuring()
        except (SettingsError, RunDirectoryError, OSError) as error:
            self._refuse(str(error))

    def _refuse(self, sentence: str) -> NoReturn:
        """The run cannot start: say why, leave nothing half made, stop what has begun."""
        logger.error(sentence)
        self.exit_code = EXIT_USAGE
        self._active = False
        self._idle.set()
        if self.directory is not None:
            shutil.rmtree(self.directory.path, ignore_errors=True)
        self.run = self._writer = self.directory = None
        leave = self._headless or isinstance(self._runner, WorkerRunner)
        gevent.spawn_later(0, self._runner.quit if leave else self._runner.stop)
        # Ends the greenlet that was about to spawn users, without a word: Locust would go on after any other exception.
        raise gevent.GreenletExit

    @property
    def _headless(self) -> bool:
        return bool(getattr(self.environment.parsed_options, "headless", False))

    def _begin_directory(self) -> None:
        self.exit_code = EXIT_DONE
        settings = self._settings_in_force = self.check()
        if self._headless and not self._tried:
            self.try_target(settings)
        self._serve_metrics(settings)
        self.live.reset()
        options = self.environment.parsed_options
        assert options is not None
        scenario = read_scenario(settings.scenario_file) if settings.scenario_file else {"name": "custom"}
        started = datetime.datetime.now(datetime.UTC)
        path = settings.run_dir or new_path(settings.runs_folder, started, scenario["name"])
        self._clock = Clock()
        about = self.describe()
        # Before the first user connects, or what the server had counted before would be mixed with what we add.
        first = read_target_metrics(settings.uri, settings.tls) if settings.scrape else None
        self._server = {} if first is None else {"first": first, "last": first}
        self._expected = {self._name(node.id) for node in self._runner.clients.ready} if isinstance(self._runner, MasterRunner) else {"w0"}
        origin = time.time_ns()
        self.directory = RunDirectory.create(
            path,
            first_metadata(
                settings, options, self.options, name=path.name, scenario=scenario, started=started, origin_wall_ns=origin,
                expected_workers=len(self._expected), about=about, server=self._server,
            ),
        )  # fmt: skip
        # Locust sends unknown option names to its workers with the order to start; that is how they learn where to write.
        options.streamgauge_run = {
            "path": str(path.resolve()),
            "origin_wall_ns": origin,
            "workers": len(self._expected),
            "scraped": bool(self._server),
            "connects_per_s": settings.connect_rate_per_s or float(getattr(self._runner, "spawn_rate", 0) or options.spawn_rate or 1),
        }
        self._window, self._steps, self._broken, self._interrupted = {}, [], None, False
        self._active = True
        logger.info("writing %s", path)

    def _begin_measuring(self) -> None:
        settings = self._settings()
        options = self.environment.parsed_options
        assert options is not None
        where = options.streamgauge_run
        worker = self._worker_name()
        origin = int(where["origin_wall_ns"]) - self._clock.offset
        self._writer = RawWriter(Path(where["path"]), worker)
        recorder = Recorder(worker, origin, self._writer, settings.record_tokens)
        engine = Engine(recorder, self._clock, settings.stall_timeout_s, settings.record_tokens)
        position, workers = int(worker[1:]), int(where["workers"])
        engine.pacing = Pacing(float(where["connects_per_s"]) / workers)
        engine.users = lambda: int(self._runner.user_count)
        engine.flushed = self._on_flush
        engine.broken = self._on_broken
        schedule = constant(settings.rate_per_s) if settings.arrivals == "constant" else poisson(settings.rate_per_s, settings.seed)
        mine = deal(schedule, position % workers, workers)
        open_loop = OpenLoop(mine, settings.drop_when_full, recorder) if settings.open_loop else None
        self.run = Run(
            settings=settings, worker=worker, engine=engine, adapter=load_adapter(settings.adapter),
            target=make_target(settings, settings.uri, trace=Path(where["path"]).name if settings.trace else None), open_loop=open_loop,
            users_of=lambda: self._runner.user_count, position=position % workers, workers=workers,
        )  # fmt: skip
        self.environment.streamgauge_run = self.run  # type: ignore[attr-defined]  # users find it there
        # Each greenlet would remember the frames that spawned it: a kilobyte a user for a feature of debuggers.
        gevent.config.track_greenlet_tree = False
        if where["scraped"] and position == 0:
            self._scraper = gevent.spawn(self._scrape, settings)
        engine.start()
        self._active = True

    def _scrape(self, settings: Settings) -> None:
        while True:
            gevent.sleep(1.0)
            samples = read_target_metrics(settings.uri, settings.tls)
            run = self.run
            if run is not None:
                run.engine.server_counts = {} if samples is None else interval_columns(samples)

    def _serve_metrics(self, settings: Settings) -> None:
        """Live figures for Prometheus, from the first run on until the process ends."""
        if not settings.metrics_port or self._serving or not self._keeps_directory:
            return
        try:
            self.live.serve(settings.metrics_host, settings.metrics_port)
        except OSError as error:
            where = f"{settings.metrics_host}:{settings.metrics_port}"
            raise SettingsError(f"cannot serve metrics on {where}: {error.strerror}; choose another --metrics-port") from None
        self._serving = True

    def _on_report(self, data: dict[str, Any], **_: Any) -> None:
        data["streamgauge"] = self.live.take()

    def _on_worker_report(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        try:
            self.live.merge(client_id, data.pop("streamgauge", []))
        except (KeyError, TypeError, ValueError) as error:
            logger.warning("worker %s sent a report that cannot be read: %r; the live figures lack it", client_id, error)

    def _on_flush(self, flush: Flush) -> None:
        feed(self.environment.stats, flush)
        self.live.add(flush, ship=isinstance(self._runner, WorkerRunner))

    def _on_broken(self, error: OSError) -> None:
        if self._broken is None:
            self._broken = error
            logger.error("cannot write the record: %s; the run is stopped, what was written is kept", error.strerror or error)
            gevent.spawn(self._runner.quit if self._headless else self._runner.stop)

    def _on_spawned(self, user_count: int, **_: Any) -> None:
        if self._has_users and self.run is not None and self.run.open_loop is not None:
            self.run.open_loop.start()
        if not self._keeps_directory or self.directory is None or not self._active:
            return
        now = self._since_origin()
        self._window.setdefault("spawned_at_ns", now)
        self._steps.append({"at_ns": now, "users": user_count})
        self._spawned.set()
        settings = self._settings_in_force
        if settings is not None and settings.steps and self._ladder is None:
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
        (self._runner.quit if self._headless else self._runner.stop)()

    # A run ends.

    def _on_stopping(self, **_: Any) -> None:
        self._draining = self._active
        self._window.setdefault("steady_end_at_ns", self._since_origin())
        if self._ladder is not None and self._ladder is not gevent.getcurrent():
            self._ladder.kill(block=False)
        self._ladder = None
        if self.run is not None:
            self.run.engine.stopping.set()
            if self.run.open_loop is not None:
                self.run.open_loop.stop()

    def _on_stop(self, **_: Any) -> None:
        if not self._active:
            return
        self._active = False
        try:
            if self._has_users:
                self._end_measuring()
            if self._keeps_directory and self.directory is not None:
                self._end_directory(self.directory)
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
        if self._draining:
            logger.info("cutting the conversations in flight")
            self._runner.user_greenlets.kill(block=False)
        return not self._draining

    def _leave_without_master(self) -> None:
        if not self._draining and not self._idle.is_set():
            interrupt_main()

    def _end_measuring(self) -> None:
        run, writer = self.run, self._writer
        if run is None or writer is None:
            return
        engine = run.engine
        gevent.joinall([gevent.spawn(stream.close, timeout_s=0.5) for stream in list(engine.streams)])
        engine.stop()
        ended = time.monotonic_ns() - engine.recorder.origin
        if self._scraper is not None:
            self._scraper.kill()
            self._scraper = None
        anchor = self._clock.anchor
        information = {
            "worker": run.worker,
            "pid": os.getpid(),
            "clock": "kernel" if KERNEL_STAMPS else "user",
            "anchor": {"wall_ns": anchor.wall_ns, "monotonic_ns": anchor.monotonic_ns, "uncertainty_ns": anchor.uncertainty_ns},
            "cpu_count": os.cpu_count(),
            "broken": None if self._broken is None else str(self._broken.strerror or self._broken),
            "ended_at_ns": ended,
        }
        try:
            write_text(writer.path.with_suffix(".json"), json.dumps(information))
            writer.end()
        except OSError as error:
            self._broken = self._broken or error
        self.run = self._writer = None

    def _end_directory(self, directory: RunDirectory) -> None:
        lost = self._wait_for_workers(directory)
        drain_end = self._since_origin()
        settings = self._settings_in_force
        if self._server and settings is not None:
            self._server["last"] = read_settled_metrics(settings.uri, settings.tls) or self._server["last"]
        ending = Ending(
            lost=lost,
            broken=None if self._broken is None else str(self._broken.strerror or self._broken),
            interrupted=self._interrupted,
            spawned_at_ns=self._window.get("spawned_at_ns"),
            steady_end_at_ns=self._window.get("steady_end_at_ns"),
            drain_end_at_ns=drain_end,
            warm_up_s=0.0 if settings is None else settings.warm_up_s,
            steps=self._steps,
            server=self._server,
        )
        try:
            status = end_record(directory, ending)
        except OSError as error:
            logger.error("cannot write %s: %s", directory.path / "run.json", error.strerror)
            status = "degraded"
        self.exit_code = {"degraded": EXIT_DEGRADED, "aborted": EXIT_INTERRUPTED}.get(status, self.exit_code)
        logger.info("wrote %s (%s); for the report: python -m reports build %s", directory.path, status, directory.path)
        self.directory = None

    def _wait_for_workers(self, directory: RunDirectory) -> list[str]:
        """Wait, bounded, until every worker's raw file bears its end mark; the names of those that never came to it."""
        if not isinstance(self._runner, MasterRunner):
            return [name for name, ended in directory.workers_ended().items() if not ended]
        # At the end of --run-time Locust tells the master that the test has stopped before it tells the workers to stop.
        self._runner.send_message(_STOP_MESSAGE)
        deadline = time.monotonic() + float(self.environment.stop_timeout or 0) + _WORKERS_END_S
        while True:
            clients = self._runner.clients
            here = {self._name(identity) for identity in clients} - {self._name(node.id) for node in clients.missing}
            # Looked at in this order: a worker leaves only after its end mark.
            lost = self._expected - {name for name, ended in directory.workers_ended().items() if ended}
            if not lost & here or time.monotonic() > deadline:
                return sorted(lost)
            gevent.sleep(0.05)

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

    def _since_origin(self) -> int:
        directory = self.directory
        options = self.environment.parsed_options
        if directory is None or options is None:
            return 0
        return time.monotonic_ns() + self._clock.offset - int(options.streamgauge_run["origin_wall_ns"])
