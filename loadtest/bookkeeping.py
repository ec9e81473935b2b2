"""How the run directory is kept by the one process that has it: made when a run begins, finished when it has ended."""

from __future__ import annotations

import datetime
import logging
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from locust.env import Environment

from .arrivals import SECOND_NS
from .clock import Clock
from .environment import describe_machine, describe_revision, describe_versions
from .live import LiveView
from .probe import probe
from .run_directory import RunDirectory
from .run_metadata import Ending, end_record, first_metadata, new_path, read_scenario
from .settings import Settings, SettingsError, check_settings
from .shipping import Intake
from .target_metrics import read_settled_metrics, read_target_metrics

logger = logging.getLogger("streamgauge")


class Bookkeeping:
    """Keeps the directory of one run after another; ``options`` are the names of ours, for run.json."""

    def __init__(self, environment: Environment, options: list[str], live: LiveView) -> None:
        self.environment = environment
        self.options = options
        self.directory: RunDirectory | None = None
        self.intake: Intake | None = None
        self.settings: Settings | None = None
        self.clock = Clock()
        self._live = live
        self._serving = False
        self._tried = False
        self._about: dict[str, Any] = {}
        self._window: dict[str, int | None] = {}
        self._steps: list[dict[str, int]] = []
        self._users_max = 0
        self._server: dict[str, dict[str, float]] = {}

    def read_settings(self) -> Settings:
        """The options as they stand, checked; SettingsError says what is wrong."""
        options = self.environment.parsed_options
        assert options is not None
        return check_settings(options, self.environment.host)

    def check(self) -> Settings:
        """The options, checked, with the files they name; SettingsError says what is wrong."""
        settings = self.read_settings()
        if settings.scenario_file is not None:
            read_scenario(settings.scenario_file)
        if settings.run_dir is not None and os.path.lexists(settings.run_dir) and self.directory is None:
            raise SettingsError(f"expected a new run directory, but {settings.run_dir} exists; choose another --run-dir or remove it")
        return settings

    def describe(self) -> dict[str, Any]:
        """What machine and which versions this is; found out once, at best before the run's time begins."""
        self._about = self._about or {"environment": describe_machine(), "versions": describe_versions(), "git": describe_revision()}
        return self._about

    def try_target(self, settings: Settings) -> None:
        """Open and close one connection, once; SettingsError when the target does not answer an upgrade."""
        if not self._tried:
            probe(settings, self.clock)
        self._tried = True

    def serve_metrics(self, settings: Settings) -> None:
        """Live figures for Prometheus, from the first run on until the process ends; SettingsError when the port is taken."""
        if not settings.metrics_port or self._serving:
            return
        try:
            self._live.serve(settings.metrics_host, settings.metrics_port)
        except OSError as error:
            where = f"{settings.metrics_host}:{settings.metrics_port}"
            raise SettingsError(f"cannot serve metrics on {where}: {error.strerror}; choose another --metrics-port") from None
        self._serving = True

    def begin(self, expected_workers: Callable[[], Sequence[str]], connects_per_s: float) -> RunDirectory:
        """Make the directory of a new run and leave in the options what workers need to know of it; returns it.

        SettingsError, RunDirectoryError or OSError when the run cannot begin.
        """
        self._follow_classes()
        settings = self.settings = self.check()
        if getattr(self.environment.parsed_options, "headless", False):
            self.try_target(settings)
        self.serve_metrics(settings)
        options = self.environment.parsed_options
        assert options is not None
        scenario = read_scenario(settings.scenario_file) if settings.scenario_file else {"name": "custom"}
        started = datetime.datetime.now(datetime.UTC)
        path = settings.run_dir or new_path(settings.runs_folder, started, scenario["name"])
        self._live.reset(path.name)
        self.clock = Clock()
        about = self.describe()
        # Before the first user connects, or what the server had counted before would be mixed with what we add.
        first = read_target_metrics(settings.uri, settings.tls) if settings.scrape else None
        self._server = {} if first is None else {"first": first, "last": first}
        workers = expected_workers()
        origin = time.time_ns()
        run, token = secrets.token_hex(6), secrets.token_hex(16)
        metadata = first_metadata(
            settings, options, self.options, name=path.name, identity=run, scenario=scenario, started=started, origin_wall_ns=origin,
            expected_workers=len(workers), about=about, server=self._server,
        )  # fmt: skip
        directory = self.directory = RunDirectory.create(path, metadata)
        self.intake = Intake(directory, run, token)
        # Locust sends unknown option names to its workers with the order to start; that is how they learn what to measure.
        options.streamgauge_run = {
            "id": run,
            "token": token,
            "name": path.name,
            "about": {**metadata, "server": {"scraped": False}, "calibration": None},
            "origin_wall_ns": origin,
            "workers": len(workers),
            "positions": {name: position for position, name in enumerate(workers)},
            "scraped": bool(self._server),
            "connects_per_s": settings.connect_rate_per_s or connects_per_s,
        }
        self._window, self._steps, self._users_max = {}, [], 0
        logger.info("writing %s", path)
        return directory

    def discard(self) -> None:
        """Leave nothing of a run that was refused."""
        if self.directory is not None:
            shutil.rmtree(self.directory.path, ignore_errors=True)
        self.directory = self.intake = None

    def _follow_classes(self) -> None:
        """A loop that the chosen user classes fix goes before the option, in every process: workers are sent the options."""
        loops = {getattr(one, "loop", None) for one in self.environment.user_classes}
        options: Any = self.environment.parsed_options
        if "open" in loops:
            options.loop = "open"
        elif loops == {"closed"}:
            options.loop = "closed"

    def users_stable(self, users: int) -> None:
        """Note that so many users are there from now on; under a shape without levels only the first number begins a step."""
        now = self.since_origin()
        self._window.setdefault("spawned_at_ns", now)
        self._users_max = max(self._users_max, users)
        if not self._steps or getattr(self.environment.shape_class, "levels", True):
            self._steps.append({"at_ns": now, "users": users})

    def begin_arrivals(self, lead_ns: int) -> dict[str, Any] | None:
        """When the open loop's schedule begins (a whole second of the run, at least ``lead_ns`` from now) and where it is pinned.

        None in a closed loop, and after the first call of a run.
        """
        settings = self.settings
        if settings is None or not settings.open_loop or "arrivals_at_ns" in self._window:
            return None
        start = ((self.since_origin() + lead_ns) // SECOND_NS + 1) * SECOND_NS
        # Users are there, and nothing happens until then: it is no part of what is measured.
        self._window["spawned_at_ns"] = self._window["arrivals_at_ns"] = start
        options: Any = self.environment.parsed_options
        lasts_s = sum(step.seconds for step in settings.steps) or float(options.run_time or 0)
        # The last second is cut short by the end of the run, and is none of the window's whole seconds.
        pins = [settings.warm_up_s, math.ceil(lasts_s) - 1 - start / SECOND_NS]
        return {"at_ns": start, "pins_s": [pin for number, pin in enumerate(pins) if pin > max((0, *pins[:number]))]}

    def steady_ends(self) -> None:
        """Note that no load starts any more from now on; the first call of a run counts."""
        self._window.setdefault("steady_end_at_ns", self.since_origin())

    @property
    def steady_end_ns(self) -> int:
        """When the load ended, since the origin; now while it goes on."""
        return self._window.get("steady_end_at_ns") or self.since_origin()

    def end(self, lost: Sequence[str], broken: str | None, interrupted: bool, workers: Mapping[str, Any], reasons: Sequence[str]) -> str:
        """Finish the directory of the run that has ended; returns its status.

        ``workers`` is what else there is to say of them; each of ``reasons`` makes the run a degraded one.
        """
        directory, settings = self.directory, self.settings
        assert directory is not None
        if self.intake is not None:
            self.intake.close()
        drain_end = self.since_origin()
        if self._server and settings is not None:
            self._server["last"] = read_settled_metrics(settings.uri, settings.tls) or self._server["last"]
        ending = Ending(
            lost=lost,
            broken=broken,
            interrupted=interrupted,
            spawned_at_ns=self._window.get("spawned_at_ns"),
            steady_end_at_ns=self._window.get("steady_end_at_ns"),
            drain_end_at_ns=drain_end,
            warm_up_s=0.0 if settings is None else settings.warm_up_s,
            steps=self._steps,
            server=self._server,
            schedule=settings.schedule if settings is not None and settings.open_loop else None,
            users_max=self._users_max,
            schedule_at_ns=self._window.get("arrivals_at_ns") or 0,
            workers=workers,
            reasons=reasons,
        )
        try:
            status = end_record(directory, ending)
        except OSError as error:
            logger.error("cannot write %s: %s", directory.path / "run.json", error.strerror)
            status = "degraded"
        logger.info("wrote %s (%s); for the report: python -m reports build %s", directory.path, status, directory.path)
        self.directory = self.intake = None
        return status

    def since_origin(self) -> int:
        """Nanoseconds since the origin of the run whose directory is kept; 0 without one."""
        options = self.environment.parsed_options
        if self.directory is None or options is None:
            return 0
        return time.monotonic_ns() + self.clock.offset - int(options.streamgauge_run["origin_wall_ns"])
