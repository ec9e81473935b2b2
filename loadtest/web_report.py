"""The reports of the runs that have ended: built by a process of their own, one at a time, never while a run goes on."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
import psutil
from gevent.event import Event

from .programs import Program, own_command

logger = logging.getLogger("streamgauge")

KEPT_RUNS = 20
_NICE = 10
_LONGEST_S = 1800.0
_DONE, _INVALID = 0, 12


@dataclass(slots=True)
class Finished:
    """A run that has ended: where it is, and how its report stands (waiting, building, ready, failed)."""

    path: Path
    state: str = "waiting"
    sentence: str = ""
    summary: dict[str, Any] | None = None

    def files(self) -> list[dict[str, Any]]:
        """What there is to download: name and size, the report first."""
        found = [self.path / name for name in ("report.html", "summary.json", "run.json")]
        found += sorted(self.path.glob("*.parquet")) + sorted((self.path / "charts").glob("*.png"))
        return [{"name": path.relative_to(self.path).as_posix(), "size_bytes": path.stat().st_size} for path in found if path.is_file()]


class Reports:
    """Keeps the last runs of this process and builds their reports when nothing is measured."""

    def __init__(self) -> None:
        self.finished: dict[str, Finished] = {}
        self._waiting: deque[Finished] = deque()
        self._idle = Event()
        self._idle.set()
        self._program: Program | None = None
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def run_begins(self) -> None:
        """A run is to be measured: a report in the making would take its processor; it is built again afterwards."""
        self._idle.clear()
        if self._program is not None:
            self._program.signal()

    def run_ended(self, path: Path) -> None:
        """Build the report of the run in ``path`` as soon as may be."""
        one = Finished(path)
        self.finished[path.name] = one
        while len(self.finished) > KEPT_RUNS:
            self.finished.pop(next(iter(self.finished)))
        self._waiting.append(one)
        self._idle.set()
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._build_all)

    @property
    def latest(self) -> Finished | None:
        """The run that ended last."""
        return next(reversed(self.finished.values()), None)

    def _build_all(self) -> None:
        while True:
            self._idle.wait()
            if not self._waiting:
                self._greenlet = None
                return
            one = self._waiting.popleft()
            if not self._build(one):
                self._waiting.appendleft(one)

    def _build(self, one: Finished) -> bool:
        """Build one report; False when a run began meanwhile."""
        one.state = "building"
        command, where = own_command(sys.executable, "reports", "build", str(one.path.resolve()))
        program: Program | None = None
        try:
            program = self._program = Program(command, where)
            psutil.Process(program.pid).nice(_NICE)
            code = program.wait(_LONGEST_S)
            complaint = program.errors.strip().rpartition("\n")[2]
        except (OSError, psutil.Error) as error:
            code, complaint = None, str(error)
        finally:
            self._program = None
            if program is not None:
                program.close()
        if code in (_DONE, _INVALID):
            self._read_summary(one)
        elif code == -signal.SIGTERM and not self._idle.is_set():
            one.state = "waiting"
            return False
        else:
            one.state, one.sentence = "failed", complaint or f"it ended with {code}"
            logger.error("the report of %s could not be built: %s", one.path, one.sentence)
        return True

    def _read_summary(self, one: Finished) -> None:
        try:
            one.summary = json.loads((one.path / "summary.json").read_text(encoding="utf-8"))
            one.state = "ready"
        except (OSError, ValueError) as error:
            one.state, one.sentence = "failed", f"summary.json cannot be read: {error}"

    def close(self) -> None:
        """The process ends: nothing of ours stays behind."""
        if self._program is not None:
            self._program.signal()


def is_offered(one: Finished, name: str) -> bool:
    """Whether ``name`` is one of the files of a run that may be downloaded."""
    return os.fspath(name) in {file["name"] for file in one.files()}
