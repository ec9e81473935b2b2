"""How one process measures a run: its users' engine and recorder, its raw file, and the target's own figures beside them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gevent
from locust.env import Environment
from locust.runners import WorkerRunner

from .adapter import WEBSOCKET
from .arrivals import SECOND_NS, Pacing, Share
from .clock import Clock
from .clock_offset import Offset
from .collector import CalmCollector
from .engine import Engine
from .feed import feed
from .live import LiveView
from .open_loop import OpenLoop
from .opening import KERNEL_STAMPS
from .raw_file import RawWriter
from .recorder import Flush, Recorder, Sink
from .run import Run, make_target
from .run_directory import RunDirectory
from .settings import Settings
from .target_metrics import interval_columns, read_target_metrics

logger = logging.getLogger("streamgauge")

_ENDED_POLL_S = 0.02
_LEAST_STOP_S = 0.001


class Measurement:
    """One process's measuring, one run after another.

    ``stop_run`` is called when the record cannot be written any more, ``written`` whenever a second of it has been; ``tap``
    may put somebody between the recorder and the file, who is given the run's name and origin.
    """

    def __init__(self, environment: Environment, live: LiveView, stop_run: Callable[[], None]) -> None:
        self.environment = environment
        self.run: Run | None = None
        self.broken: str | None = None
        self.written: Callable[[], None] = lambda: None
        self.tap: Callable[[Sink, str, int], Sink] = lambda sink, run, origin_wall_ns: sink
        self._live = live
        self._stop_run = stop_run
        self._writer: RawWriter | None = None
        self._scraper: gevent.Greenlet[..., None] | None = None
        self._stop_timeout_s: float | None = None
        self._schedule_at = 0
        self._collector = CalmCollector()
        self._began_ns = 0

    @property
    def _runner(self) -> Any:
        return self.environment.runner

    def begin(
        self, settings: Settings, where: Mapping[str, Any], worker: str, clock: Clock, record: RunDirectory, offset: Offset
    ) -> RawWriter:
        """Start to measure as ``worker`` in the run that ``where`` describes; the record goes into ``record``.

        ``offset`` is how this machine's wall clock stands to the one that the run's origin was read from. RunDirectoryError or OSError
        when the record cannot be written.
        """
        origin = int(where["origin_wall_ns"]) + offset.offset_ns - clock.offset
        self.broken = None
        self._live.reset(str(where["name"]))
        writer = self._writer = record.writer(worker)
        sink = self.tap(writer, str(where["name"]), int(where["origin_wall_ns"]))
        recorder = Recorder(worker, origin, sink, settings.record_tokens, settings.yardsticks)
        engine = Engine(recorder, clock, settings.stall_timeout_s, settings.record_tokens)
        workers = int(where["workers"])
        # One that comes late has its place behind those that the run began with.
        position = where["positions"].get(worker, int(worker[1:]))
        engine.pacing = Pacing(float(where["connects_per_s"]) / workers)
        engine.users = lambda: int(self._runner.user_count)
        engine.flushed = self._on_flush
        engine.broken = self._on_broken
        open_loop = OpenLoop(settings.drop_when_full, recorder, round(settings.patience_s * SECOND_NS)) if settings.open_loop else None
        self.run = Run(
            settings=settings, worker=worker, engine=engine,
            target=make_target(settings, settings.uri, trace=where["name"] if settings.trace else None), open_loop=open_loop,
            users_of=lambda: self._runner.user_count, position=position % workers, workers=workers,
        )  # fmt: skip
        self.environment.streamgauge_run = self.run  # type: ignore[attr-defined]  # users find it there
        # Each greenlet would remember the frames that spawned it: a kilobyte a user for a feature of debuggers.
        gevent.config.track_greenlet_tree = False
        if where["scraped"] and position == 0:
            self._scraper = gevent.spawn(self._scrape, settings)
        self._collector.begin()
        engine.start()
        self._began_ns = time.monotonic_ns() - origin
        return writer

    def describe(self) -> dict[str, Any]:
        """Who measures here: for run.json."""
        run = self.run
        assert run is not None
        anchor = run.engine.clock.anchor
        return {
            "worker": run.worker,
            "pid": os.getpid(),
            "clock": "kernel" if KERNEL_STAMPS else "user",
            "anchor": {"wall_ns": anchor.wall_ns, "monotonic_ns": anchor.monotonic_ns, "uncertainty_ns": anchor.uncertainty_ns},
            "cpu_count": os.cpu_count(),
            "began_at_ns": self._began_ns,
        }

    def forget(self) -> None:
        """Drop what was begun and never ran."""
        self.run = self._writer = None

    def start_schedule(self, at_ns: int, pins_s: Sequence[float], positions: Mapping[str, int], workers: int) -> None:
        """The open loop's time begins ``at_ns`` after the run's origin, in all workers; ``pins_s`` as for ``SchedulePlan``.

        A worker that is not among ``positions`` has no share until it is dealt one.
        """
        run = self.run
        if run is not None and run.open_loop is not None:
            whole = run.settings.schedule.arrivals(run.settings.seed, pins_s)
            run.open_loop.start(Share(whole, positions.get(run.worker), workers), run.engine.recorder.origin + at_ns)
            self._schedule_at = run.engine.recorder.origin + at_ns

    def redeal(self, from_ns: int, positions: Mapping[str, int], workers: int) -> int:
        """Take a new deal from ``from_ns`` after the schedule's beginning on; by how many ns it comes too late, 0 when it does not."""
        run = self.run
        if run is None or run.open_loop is None:
            return 0
        run.open_loop.redeal(from_ns, positions.get(run.worker), workers)
        return max(0, time.monotonic_ns() - self._schedule_at - from_ns)

    def stop_starting(self) -> None:
        """No conversation starts any more; those in flight go on."""
        if self.run is not None:
            self.run.engine.stopping.set()
            if self.run.open_loop is not None:
                self.run.open_loop.stop()

    def let_end(self) -> None:
        """Give the conversations in flight the stop timeout to end, and their users to leave, before Locust asks all users at once.

        Asking thousands stalls the process for a second, in the middle of answers that then read late.
        """
        run, allowed_s = self.run, float(self.environment.stop_timeout or 0)
        if run is None or not allowed_s or self._stop_timeout_s is not None:
            return
        self._stop_timeout_s = allowed_s
        deadline = time.monotonic() + allowed_s
        while run.engine.streaming and time.monotonic() < deadline:
            gevent.sleep(_ENDED_POLL_S)
        # Locust gives those that are left what is left; nothing would mean that it cuts them without their own end.
        self.environment.stop_timeout = max(_LEAST_STOP_S, deadline - time.monotonic())

    def end(self) -> dict[str, Any] | None:
        """Close what is open, write the last of the record and its end mark; who measured and how it ended, None when nobody did."""
        if self._stop_timeout_s is not None:
            self.environment.stop_timeout = self._stop_timeout_s
            self._stop_timeout_s = None
        run, writer = self.run, self._writer
        if run is None or writer is None:
            return None
        engine = run.engine
        gevent.joinall([gevent.spawn(stream.close, timeout_s=0.5) for stream in list(engine.streams)])
        engine.stop()
        self._collector.end()
        ended = time.monotonic_ns() - engine.recorder.origin
        if self._scraper is not None:
            self._scraper.kill()
            self._scraper = None
        try:
            writer.end()
        except OSError as error:
            self.broken = self.broken or str(error.strerror or error)
        information = {**self.describe(), "broken": self.broken, "ended_at_ns": ended}
        self.run = self._writer = None
        return information

    def _scrape(self, settings: Settings) -> None:
        while True:
            gevent.sleep(1.0)
            samples = read_target_metrics(settings.uri, settings.tls)
            run = self.run
            if run is not None:
                run.engine.server_counts = {} if samples is None else interval_columns(samples)

    def _on_flush(self, flush: Flush) -> None:
        run = self.run
        feed(self.environment.stats, flush, run.settings.transport if run is not None else WEBSOCKET)
        self.written()
        self._live.add(flush, ship=isinstance(self._runner, WorkerRunner))

    def _on_broken(self, error: OSError) -> None:
        if self.broken is None:
            self.broken = str(error.strerror or error)
            logger.error("cannot write the record: %s; the run is stopped, what was written is kept", self.broken)
            gevent.spawn(self._stop_run)
