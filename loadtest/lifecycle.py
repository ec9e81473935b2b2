"""Locust's events -> one measured run after another: options, engine, recorder, run directory, status and exit code."""

from __future__ import annotations

import datetime
import inspect
import json
import logging
import os
import random
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import gevent
import locust.log
from gevent.event import Event
from locust.env import Environment
from locust.runners import LocalRunner, MasterRunner, WorkerRunner
from prometheus_client import CollectorRegistry, start_http_server

from .adapter import AdapterError, load_adapter, make_adapter
from .arrivals import SECOND_NS, Pacing, constant, deal, poisson
from .calibration_record import last_calibration
from .clock import Clock
from .engine import Engine
from .environment import describe_machine, describe_revision, describe_versions
from .feed import feed, refine_locust
from .interrupts import interrupt_between_switches, interrupt_main
from .live import LiveView
from .opening import KERNEL_STAMPS, ConnectError, Target
from .population import Person
from .recorder import Flush, Recorder
from .run_directory import RawWriter, RunDirectory, RunDirectoryError, warm_up, write_text
from .settings import DRAIN_S, Settings, SettingsError, add_options, check_settings, parse_target, redact_options, redact_url
from .stream import Stream
from .target_metrics import interval_columns, read_target_metrics
from .users import OpenLoop

logger = logging.getLogger("streamgauge")

EXIT_DONE, EXIT_BUG, EXIT_USAGE, EXIT_DEGRADED, EXIT_INTERRUPTED = 0, 1, 2, 12, 130
_WORKERS_END_S = 30.0
_SERVER_SETTLE_S = 2.0
_MASTER_ANSWERS_S = 5.0
_STOP_MESSAGE = "streamgauge_stop"


@dataclass(slots=True)
class Run:
    """One run as one process sees it: what users need."""

    settings: Settings
    worker: str
    engine: Engine
    adapter: Any
    target: Target
    open_loop: OpenLoop | None
    users_of: Any
    position: int = 0
    workers: int = 1
    _targets: dict[Person, Target] = field(default_factory=dict)
    _next_user: int = 0
    _draw: random.Random = field(default_factory=random.Random)

    def number_user(self) -> int:
        """The next user's number in this process."""
        self._next_user += 1
        return self._next_user - 1

    def place_of(self, user: int) -> int:
        """The number of one of this process's users among those of all processes."""
        return user * self.workers + self.position

    def draw_for(self, user: int, turn: int) -> random.Random:
        """What is drawn for one turn of one user: the same for the same seed, whatever the others do meanwhile.

        One generator for all is seeded anew each time: one of their own would cost each user 2.5 KB.
        """
        self._draw.seed(f"{self.settings.seed}:{self.worker}:{user}:{turn}")
        return self._draw

    def users(self) -> int:
        """How many users run in all processes, as far as this one knows."""
        return int(self.users_of())

    def target_of(self, person: Person | None) -> Target:
        """The target with what a user brings of its own."""
        if person is None:
            return self.target
        if person not in self._targets:
            uri = self.target.uri if person.url is None else parse_target(person.url)
            self._targets[person] = _target(self.settings, uri, person.headers, self.target.trace)
        return self._targets[person]


def _target(settings: Settings, uri: Any, headers: tuple[tuple[str, str], ...] = (), trace: str | None = None) -> Target:
    return Target(
        uri=uri, headers=settings.headers + headers, subprotocols=settings.subprotocols, origin=settings.origin,
        compression=settings.compression, tls=settings.tls, connect_timeout_s=settings.connect_timeout_s,
        max_message_bytes=settings.max_message_bytes, fresh_masks=settings.fresh_masks, source_addresses=settings.source_addresses,
        trace=trace,
    )  # fmt: skip


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
            _read_scenario(settings.scenario_file)
        if settings.run_dir is not None and os.path.lexists(settings.run_dir) and not self._active:
            raise SettingsError(f"expected a new run directory, but {settings.run_dir} exists; choose another --run-dir or remove it")
        return settings

    def describe(self) -> dict[str, Any]:
        """What machine and which versions this is; found out once, at best before the run's time begins."""
        self._about = self._about or {"environment": describe_machine(), "versions": describe_versions(), "git": describe_revision()}
        return self._about

    def try_target(self, settings: Settings) -> None:
        """Open and close one connection; SettingsError when the target does not answer an upgrade."""
        engine = Engine(Recorder("probe", time.monotonic_ns(), _Nowhere()), self._clock, settings.stall_timeout_s)
        adapter = make_adapter(load_adapter(settings.adapter), {"window": settings.window})
        stream = Stream(engine, _target(settings, settings.uri), adapter)
        try:
            stream.open()
        except ConnectError as error:
            found = f"got {error.kind} ({error.detail}); is it running, and is the path right?"
            raise SettingsError(f"expected a WebSocket server at {redact_url(settings.url)}, {found}") from None
        stream.close(timeout_s=1.0)
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
        scenario = _read_scenario(settings.scenario_file) if settings.scenario_file else {"name": "custom"}
        started = datetime.datetime.now(datetime.UTC)
        path = settings.run_dir or _new_path(settings.runs_folder, started, scenario["name"])
        self._clock = Clock()
        about = self.describe()
        # Before the first user connects, or what the server had counted before would be mixed with what we add.
        first = read_target_metrics(settings.uri, settings.tls) if settings.scrape else None
        self._server = {} if first is None else {"first": first, "last": first}
        self._expected = {self._name(node.id) for node in self._runner.clients.ready} if isinstance(self._runner, MasterRunner) else {"w0"}
        origin = time.time_ns()
        self.directory = RunDirectory.create(
            path,
            {
                "status_reasons": [],
                "name": path.name,
                "scenario": scenario,
                "target": {"url": redact_url(settings.url), "adapter": settings.adapter},
                "origin_wall_ns": origin,
                "started_utc": started.isoformat(timespec="seconds").replace("+00:00", "Z"),
                "ended_utc": None,
                "seed": settings.seed,
                "options": redact_options(options, self.options),
                "load": {
                    "loop": "open" if settings.open_loop else "closed",
                    "rate_per_s": settings.rate_per_s if settings.open_loop else None,
                    "arrivals": settings.arrivals if settings.open_loop else None,
                    "window": settings.window,
                    "tokens": options.tokens,
                    "gap_ms": options.gap_ms,
                    "stop_share": settings.stop.share,
                    "idle_share": settings.idle_share,
                    "stall_timeout_s": settings.stall_timeout_s,
                },
                "window": None,
                "steps": [],
                "workers": {"expected": len(self._expected), "seen": [], "lost": [], "bad_bytes": {}},
                **about,
                "server": {"scraped": bool(self._server), "first": {}, "last": {}} | self._server,
                "calibration": last_calibration(settings.runs_folder, about["environment"]),
            },
        )
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
            target=_target(settings, settings.uri, trace=Path(where["path"]).name if settings.trace else None), open_loop=open_loop,
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
        registry = CollectorRegistry()
        registry.register(self.live)
        try:
            start_http_server(settings.metrics_port, settings.metrics_host, registry)
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

    def _last_server_samples(self, settings: Settings) -> dict[str, float] | None:
        """The target's counts after the drain; it is given a moment to see our closes before a leak is believed."""
        deadline = time.monotonic() + _SERVER_SETTLE_S
        while True:
            samples = read_target_metrics(settings.uri, settings.tls)
            if samples is None or samples.get("streamgauge_connections_open") == 0 or time.monotonic() > deadline:
                return samples
            gevent.sleep(0.1)

    def _end_directory(self, directory: RunDirectory) -> None:
        lost = self._wait_for_workers(directory)
        drain_end = self._since_origin()
        metadata = directory.metadata()
        if self._server and self._settings_in_force is not None:
            last = self._last_server_samples(self._settings_in_force)
            metadata["server"] = {"scraped": True, **self._server} | ({} if last is None else {"last": last})
        seen, reasons = [], []
        ends: list[int] = []
        for path in sorted((directory.path / "raw").glob("*.json")):
            information = json.loads(path.read_text(encoding="utf-8"))
            # The record ends here; what follows (a target that leaks is waited for) is no time that anybody failed to record.
            ends.append(information.pop("ended_at_ns"))
            if information["broken"]:
                reasons.append(f"worker {information['worker']} could not write its record: {information['broken']}")
            seen.append(information)
            path.unlink()
        if self._broken is not None and not reasons:
            reasons.append(f"the record could not be written: {self._broken.strerror or self._broken}")
        reasons += [f"worker {name} ended without its last record" for name in lost]
        status = "complete"
        try:
            states = directory.compact()
            bad = {state.worker: state.bad_bytes for state in states if state.bad_bytes}
            reasons += [f"{count} bytes at the end of the record of {name} are not readable" for name, count in bad.items()]
            metadata["workers"] |= {"seen": seen, "lost": lost, "bad_bytes": bad}
        except OSError as error:
            reasons.append(f"the record could not be compacted: {error.strerror or error}; run: python -m reports recover {directory.path}")
        if reasons:
            status, self.exit_code = "degraded", EXIT_DEGRADED
        elif self._interrupted:
            status, self.exit_code = "aborted", EXIT_INTERRUPTED
            reasons.append("interrupted before its planned end")
        drain_end = max(ends, default=drain_end)
        spawned = self._window.get("spawned_at_ns")
        steady_end = self._window.get("steady_end_at_ns") or drain_end
        warm_up_s = 0.0 if self._settings_in_force is None else self._settings_in_force.warm_up_s
        warm_up_end = steady_end if spawned is None else min(steady_end, spawned + round(warm_up_s * SECOND_NS))
        metadata |= {
            "status": status,
            "status_reasons": reasons,
            "ended_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "window": {"warm_up_end_at_ns": warm_up_end, "steady_end_at_ns": steady_end, "drain_end_at_ns": drain_end},
            "steps": self._steps,
        }
        metadata["load"]["users_max"] = max((step["users"] for step in self._steps), default=0)
        try:
            directory.write_metadata(metadata)
        except OSError as error:
            logger.error("cannot write %s: %s", directory.path / "run.json", error.strerror)
            self.exit_code = EXIT_DEGRADED
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


class _Nowhere:
    """A sink for the connection that only tries the target."""

    def append(self, table: str, columns: Any) -> None:
        """Forget it."""


def _read_scenario(path: Path) -> dict[str, Any]:
    try:
        scenario = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read the scenario file {path}: {error}") from None
    if not isinstance(scenario, dict) or not isinstance(scenario.get("name"), str):
        raise SettingsError(f"expected a JSON object with a name in {path}")
    return scenario


def _new_path(folder: Path, started: datetime.datetime, name: str) -> Path:
    stem = f"{started.strftime('%Y-%m-%dT%H-%M-%SZ')}_{name}"
    path, number = folder / stem, 2
    while path.exists():
        path, number = folder / f"{stem}-{number}", number + 1
    return path


def install(events: Any) -> None:
    """Hook everything into Locust; called once by the locustfile."""
    names: list[str] = []

    def on_parser(parser: Any, **_: Any) -> None:
        before = {action.dest for action in parser._actions}
        add_options(parser)
        names.extend(action.dest for action in parser._actions if action.dest not in before)

    def on_init(environment: Environment, runner: Any, **_: Any) -> None:
        options = environment.parsed_options
        assert options is not None
        # The loop's clock has stood still since its making, a second of imports ago: timers started now would be early by that.
        gevent.get_hub().loop.update_now()
        refine_locust()
        lifecycle = Lifecycle(environment, names)
        environment.streamgauge_lifecycle = lifecycle  # type: ignore[attr-defined]
        if not environment.stop_timeout:
            environment.stop_timeout = DRAIN_S
        if isinstance(runner, LocalRunner | MasterRunner) and options.headless:
            try:
                settings = lifecycle.check()
                if isinstance(runner, LocalRunner):
                    lifecycle.try_target(settings)
            except SettingsError as error:
                sys.stderr.write(f"streamgauge: {error}\n")
                sys.exit(EXIT_USAGE)
            if settings.steps:
                options.num_users = settings.steps[0].users
                options.spawn_rate = options.spawn_rate or settings.steps[0].users
        elif options.headless:
            # A worker finds what is wrong by itself too: the master, gone for the same reason, could not tell it.
            try:
                lifecycle.check()
            except SettingsError:
                sys.exit(EXIT_USAGE)
        if not isinstance(runner, WorkerRunner):
            lifecycle.describe()
        if not isinstance(runner, MasterRunner):
            warm_up()
        # Locust looks at its own stack when a test is stopped, for a log line; the first look takes a tenth of a second.
        inspect.stack()
        gevent.get_hub().loop.update_now()

    events.init_command_line_parser.add_listener(on_parser)
    events.init.add_listener(on_init)
