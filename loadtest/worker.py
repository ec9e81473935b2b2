"""What a worker does beside measuring: keep a record of its own, have it carried to the master, and stop when there is none any more."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gevent
from locust.env import Environment
from locust.rpc import Message

from .courier import ACKNOWLEDGEMENT, Courier
from .gate import machine
from .membership import ORPHAN_DRAIN_S, SILENCE_S, Membership
from .raw_file import RawWriter
from .run_directory import RunDirectory, RunDirectoryError
from .salvage import FOLDER

logger = logging.getLogger("streamgauge")

EXIT_USAGE, EXIT_DEGRADED = 2, 12
PATIENCE_S, SILENT_PATIENCE_S = 30.0, 12.0
"""A master that acknowledges nothing for so long does not get the rest, which stays where it is; one that is not heard at all is waited
for shorter: it would be back from a short partition by then."""


class Worker:
    """One worker's side of one run after another. ``stop_loading`` ends the run in this process; it is called when the master is gone."""

    def __init__(self, environment: Environment, stop_loading: Callable[[], None]) -> None:
        self.environment = environment
        self._stop_loading = stop_loading
        self._courier: Courier | None = None
        self._orphan = False
        options: Any = environment.parsed_options
        # The master's options replace ours when it starts a run; where a worker writes is its own affair.
        own = options.worker_folder or (Path(options.run_dir).parent if options.run_dir else options.runs_folder)
        self._folder = Path(own).resolve() / FOLDER
        self.membership = Membership(self._runner, options.channel_key, self._on_refused, self._on_orphaned)
        self._runner.register_message(ACKNOWLEDGEMENT, self._on_answer)

    @property
    def _runner(self) -> Any:
        return self.environment.runner

    @property
    def name(self) -> str:
        """What the master calls this worker."""
        return f"w{max(0, int(self._runner.worker_index))}"

    @property
    def record(self) -> RunDirectory | None:
        """This worker's record of the run that goes on."""
        return None if self._courier is None else self._courier.record

    def make_record(self, where: Mapping[str, Any]) -> RunDirectory:
        """A run directory of this worker's own for the run that ``where`` describes; RunDirectoryError when it cannot be made.

        In a thread: a busy disk may take seconds for it, and a worker that sends no heartbeat for four is one that Locust has lost.
        """
        path, number = self._folder / f"{where['name']}.{self.name}", 2
        while os.path.lexists(path):
            path, number = self._folder / f"{where['name']}.{self.name}-{number}", number + 1
        part = {"run": where["name"], "id": where["id"]}
        about = {**where["about"], "name": path.name, "workers": {"expected": 1, "seen": [], "lost": [], "bad_bytes": {}}}
        made = gevent.get_hub().threadpool.apply(_create, (path, {**about, "part_of": {**part, "worker": self.name}}))
        if isinstance(made, Exception):
            raise made
        return made

    def describe(self, record: RunDirectory) -> dict[str, Any]:
        """Where this worker is and how its clock stands to the master's, for run.json."""
        offset = self.membership.offset
        clock = {"offset_ns": offset.offset_ns, "uncertainty_ns": offset.uncertainty_ns, "same_machine": self.membership.same_machine}
        return {"machine": machine(), "record": str(record.path), "master_clock": clock}

    def ship(self, record: RunDirectory, writer: RawWriter, where: Mapping[str, Any], information: Mapping[str, Any]) -> None:
        """Begin to carry the record to the master."""
        self._courier = Courier(self._runner, record, writer, where, {**information, **self.describe(record)})

    def wake(self) -> None:
        """A second of the record has been written."""
        if self._courier is not None:
            self._courier.wake()

    def deliver(self, information: Mapping[str, Any]) -> None:
        """Ship the rest; leave if there is no master to take it."""
        courier = self._courier
        if courier is None:
            return
        now = self.describe(courier.record)["master_clock"]
        delivered = courier.deliver({**information, "master_clock_at_end": now}, self._patience_s)
        self._courier = None
        # One that was cut off has ended this run for itself, and could not take part in it again under the same name.
        if self._orphan or (not delivered and self.membership.silent):
            self._leave(EXIT_DEGRADED)

    def _patience_s(self) -> float:
        if self.membership.parent_died:
            return 0.0
        return SILENT_PATIENCE_S if self.membership.silent else PATIENCE_S

    def _on_answer(self, environment: Any, msg: Message, **_: Any) -> None:
        if self._courier is not None:
            self._courier.take_answer(msg)

    def _on_refused(self, sentence: str) -> None:
        logger.error("the master at %s port %s %s", self._runner.master_host, self._runner.master_port, sentence)
        self._leave(EXIT_USAGE)

    def _on_orphaned(self) -> None:
        if self._courier is None:
            if self.membership.parent_died:
                self._leave(EXIT_DEGRADED)
            return
        logger.error(
            "the master has not been heard for %g s: this worker stops loading; its record is in %s", SILENCE_S, self._courier.record.path
        )
        self._orphan = True
        self.environment.stop_timeout = min(self.environment.stop_timeout or 0, ORPHAN_DRAIN_S)
        self._stop_loading()

    def _leave(self, code: int) -> None:
        self.environment.process_exit_code = code
        gevent.spawn(self._runner.quit)


def _create(path: Path, metadata: Mapping[str, Any]) -> RunDirectory | Exception:
    """What ``RunDirectory.create`` returns or raises: gevent prints what a thread of its pool raises."""
    try:
        return RunDirectory.create(path, metadata)
    except (RunDirectoryError, OSError) as error:
        return error
