"""Watches the connections of a generator from outside: the server's own counts and the kernel's, beside the generator's gauges."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from reports.load import Run

from .experiment import Experiment, Server
from .processes import Process

EVERY_S: Final = 0.05
BEFORE_NS: Final = 200_000_000
AFTER_NS: Final = 300_000_000
"""A second is compared when the truth stood still from so long before its end until so long after: the gauges are written then, or
a little later where the machine is busy."""
STEADY_S: Final = 1.6
"""How long a state is held: at least one second ends in it, with the time before and after."""
LIMIT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen at one instant (wall clock, ns): connections that the server has, and those that the kernel has opened."""

    at_ns: int
    open: int
    streaming: int
    established: int

    @property
    def opening(self) -> int:
        """Connections that the kernel has opened and the server has not accepted."""
        return self.established - self.open

    @property
    def state(self) -> tuple[int, int, int]:
        """All three."""
        return self.open, self.streaming, self.opening


class Witness:
    """Lets ``few`` connections stand, stops the server until the others are waiting for it, and lets all stand.

    While the server stands still its own counts cannot change, and the kernel goes on opening connections on its behalf.
    """

    def __init__(self, experiment: Experiment, server: Server, few: int, many: int) -> None:
        self._experiment = experiment
        self._server = server
        self._few = few
        self._many = many
        self.sights: list[Sight] = []

    def watch(self, generator: Process, _directory: Path) -> None:
        """Follow the generator through its two steps; what it does not come to within the limit is simply not seen."""
        process = psutil.Process(generator.pid)
        self._follow(process, lambda sight: sight.open == self._few and not sight.opening)
        if generator.poll() is None and self.sights:
            held = self.sights[-1]
            self._experiment.freeze(self._server.process, lambda _: self._stood_still(process, held))
        self._follow(process, lambda sight: sight.open == self._many and not sight.opening)

    def _stood_still(self, process: psutil.Process, held: Sight) -> bool:
        self.sights.append(Sight(time.time_ns(), held.open, held.streaming, _established(process)))
        time.sleep(EVERY_S)
        return self._steady(lambda sight: sight.established == self._many) or self._overdue(held.at_ns)

    def _follow(self, process: psutil.Process, wanted: object) -> None:
        assert callable(wanted)
        began = time.time_ns()
        while process.is_running() and not self._steady(wanted) and not self._overdue(began):
            counts = self._server.counts()
            if counts is not None:
                opened, streaming = (round(counts[f"streamgauge_connections_{name}"]) for name in ("open", "streaming"))
                try:
                    self.sights.append(Sight(time.time_ns(), opened, streaming, _established(process)))
                except psutil.Error:
                    return
            self._experiment.pause(EVERY_S)

    def _overdue(self, began_ns: int) -> bool:
        return time.time_ns() - began_ns > LIMIT_S * 1e9

    def _steady(self, wanted: object) -> bool:
        """Whether the last sights show one and the same wanted state for long enough."""
        assert callable(wanted)
        if not self.sights or not wanted(self.sights[-1]):
            return False
        last = self.sights[-1]
        since = last.at_ns
        for sight in reversed(self.sights):
            if sight.state != last.state:
                break
            since = sight.at_ns
        return last.at_ns - since >= STEADY_S * 1e9

    def compare(self, run: Run) -> list[tuple[str, float, float]]:
        """(gauge, as the generator wrote it, as it was) for every second at whose end the truth stood still."""
        origin = int(run.metadata["origin_wall_ns"])
        found: list[tuple[str, float, float]] = []
        gauges = run.per_second()
        for second in gauges.index[gauges["open"].notna()].tolist() if self.sights else []:
            end = origin + (int(second) + 1) * 10**9
            around = [sight for sight in self.sights if end - BEFORE_NS <= sight.at_ns <= end + AFTER_NS]
            covered = around and around[0].at_ns <= end <= around[-1].at_ns
            if not covered or len({sight.state for sight in around}) > 1:
                continue
            truth = around[0]
            for name, true in (("opening", truth.opening), ("open", truth.open), ("streaming", truth.streaming)):
                found.append((name, float(gauges.loc[second, name]), float(true)))
        return found


def _established(process: psutil.Process) -> int:
    """The TCP connections of a process that the kernel has opened to a peer."""
    return sum(connection.status == psutil.CONN_ESTABLISHED for connection in process.net_connections(kind="tcp"))
