"""The master's view of its workers: who takes part in a run, what has come of each record, and who is waited for at its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from locust.env import Environment
from locust.rpc import Message

from .arrivals import SECOND_NS
from .bookkeeping import Bookkeeping
from .courier import ACKNOWLEDGEMENT, CHUNK
from .dealing import Dealing, describe_dealing
from .gate import Gate
from .membership import ORPHAN_DRAIN_S, SILENCE_S
from .salvage import arrivals_known_from, unknown
from .shipping import Refused

logger = logging.getLogger("streamgauge")

STOP, ARRIVALS, DEAL, DEALT_LATE = "streamgauge_stop", "streamgauge_arrivals", "streamgauge_deal", "streamgauge_dealt_late"
EXIT_USAGE = 2
CHILDREN_S = 60.0
"""A master's own processes are forked; those that are not there by then have died."""
PATIENCE_S = 30.0
"""The end of a run waits so long for a record of which nothing more comes, beyond the time that users may take to stop."""
GONE_S = SILENCE_S + ORPHAN_DRAIN_S + 1.0
"""A worker that has not been heard for so long has been killed, or has stopped by itself because it does not hear us."""
_PROGRESS_EVERY_S = 2.0
_LOOK_EVERY_S = 0.25
SUSPECT_S = 4.0
"""Workers say something every second; the arrivals of one that has been silent for so long are dealt to others."""
_STOPPED_S = SILENCE_S + 2.0
"""So long after it was heard last a silent worker starts nothing any more; it hears us only in answer to what we hear of it."""


class Fleet:
    """Follows the workers of one run after another; ``broken`` is called with a reason when their records cannot be written here."""

    def __init__(self, environment: Environment, books: Bookkeeping, gate: Gate, broken: Callable[[str], None]) -> None:
        self.environment = environment
        self.gate = gate
        self._books = books
        self._broken = broken
        self._expected: set[str] = set()
        self._joined: dict[str, int] = {}
        self._early: set[str] = set()
        self._begin: dict[str, Any] = {}
        self._dealing: Dealing | None = None
        self._watcher: gevent.Greenlet[..., None] | None = None
        self._runner.register_message(CHUNK, self._on_chunk)
        self._runner.register_message(DEALT_LATE, self._on_dealt_late)

    @property
    def _runner(self) -> Any:
        return self.environment.runner

    def name(self, client: str) -> str:
        """The master's name for a worker, which is the worker's own."""
        return f"w{self._runner.get_worker_index(client)}"

    def begin(self) -> list[str]:
        """The names of the workers that a new run begins with."""
        names = sorted((self.name(node.id) for node in self._runner.clients.ready), key=lambda name: int(name[1:]))
        self._expected, self._joined, self._early, self._dealing = set(names), {}, set(), None
        return names

    def require(self, workers: int, within_s: float) -> None:
        """Unless so many workers come in time, say so and have the process end with exit code 2; Locust itself would end with 1."""
        deadline = time.monotonic() + within_s
        while len(self._runner.clients.ready) < workers and self._runner.state == "ready":
            if time.monotonic() > deadline:
                came = len(self._runner.clients.ready)
                logger.error(
                    "expected %d workers within %g s, and %d came; start them with --worker --master-host and this master's address, or "
                    "ask for fewer with --expect-workers", workers, within_s, came,
                )  # fmt: skip
                self._runner.quit()
                gevent.get_hub().handle_system_error(SystemExit, SystemExit(EXIT_USAGE))
                return
            gevent.sleep(0.1)

    # The schedule of arrivals.

    def begin_arrivals(self, begin: dict[str, Any]) -> None:
        """Begin the open loop's schedule in all workers, and deal it anew from now on whenever one comes or goes."""
        self._dealing = Dealing(int(begin["at_ns"]), sorted(self._expected | set(self._joined), key=lambda name: int(name[1:])))
        self._begin = begin
        self._runner.send_message(ARRIVALS, {**begin, **self._dealing.begin()})
        self._watcher = gevent.spawn(self._watch)

    def _watch(self) -> None:
        while self._dealing is not None:
            gevent.sleep(_LOOK_EVERY_S)
            here = self._silences()
            missing = {name for name, silence_s in here.items() if silence_s > SUSPECT_S}
            now = self._books.since_origin()
            for name in list(self._dealing.members):
                if name not in here:
                    self._deal(self._dealing.leave(name, now))
                elif name in missing:
                    self._deal(self._dealing.leave(name, now, now + round((_STOPPED_S - here[name]) * SECOND_NS)))
            for name in sorted((self._expected | set(self._joined)) & set(here) - missing - set(self._dealing.members)):
                self._deal(self._dealing.join(name, now))

    def _deal(self, deal: dict[str, Any] | None) -> None:
        if deal is not None:
            logger.info("arrivals are dealt anew, over %s", ", ".join(deal["positions"]) or "nobody")
            self._runner.send_message(DEAL, deal)

    def _on_dealt_late(self, environment: Any, msg: Message, **_: Any) -> None:
        if self._dealing is not None and isinstance(msg.data, dict) and type(msg.data.get("by_ns")) is int:
            self._dealing.heard_late(self.name(msg.node_id), msg.data["by_ns"])

    # Their records.

    def _on_chunk(self, environment: Any, msg: Message, **_: Any) -> None:
        """Append and acknowledge, and nothing else: while a listener works no heartbeat is read, and who is not read is dropped."""
        intake, data, sender = self._books.intake, msg.data, msg.node_id
        try:
            if intake is None:
                raise Refused("a chunk of a run that is over")
            answer = intake.take(self.name(sender), data)
        except Refused as refused:
            self.gate.refuse(str(refused), sender)
            run = data.get("run") if isinstance(data, dict) else None
            if isinstance(run, str) and (intake is None or run != intake.run):
                # Somebody was away while its run ended; it keeps its record.
                answer = {"run": run, "worker": "", "next": 0, "failed": "the run is over"}
                self._runner.send_message(ACKNOWLEDGEMENT, answer, client_id=sender)
            return
        self._runner.send_message(ACKNOWLEDGEMENT, answer, client_id=sender)
        if (name := self.name(sender)) not in self._expected and name not in self._joined:
            self._joined[name] = self._books.since_origin()
            if self._dealing is not None:
                # Its share is dealt by the watcher; until then it has none.
                self._runner.send_message(ARRIVALS, {**self._begin, **self._dealing.begin()}, client_id=sender)
        if answer["failed"]:
            self._broken(answer["failed"])

    def stopping(self) -> None:
        """The run begins to end: who has ended before it has left."""
        intake = self._books.intake
        self._early = {name for name, copy in intake.copies.items() if copy.whole} if intake is not None else set()
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher = None

    def wait_for_records(self) -> list[str]:
        """Have the workers stop and wait, bounded and with progress, until each one's record is here whole; whose is not."""
        intake = self._books.intake
        assert intake is not None
        # At the end of --run-time Locust tells the master that the test has stopped before it tells the workers to stop.
        self._runner.send_message(STOP)
        patience = PATIENCE_S + float(self.environment.stop_timeout or 0)
        moved_at = told_at = time.monotonic()
        moved = -1
        while True:
            copies = intake.copies
            waiting = {name for name in self._expected | set(copies) if name not in copies or not copies[name].whole}
            received = sum(copy.size_bytes for copy in copies.values())
            now = time.monotonic()
            if received != moved:
                moved, moved_at = received, now
            if not waiting & self._reachable() or now - moved_at > patience or intake.failed:
                return sorted(waiting)
            if now - told_at > _PROGRESS_EVERY_S:
                told_at = now
                written = sum(copy.written_bytes for copy in copies.values())
                logger.info(
                    "waiting for the last records of %s: %.1f of %.1f MB are here (at most %.0f s more without anything new; Ctrl-C ends "
                    "the conversations in flight)", ", ".join(sorted(waiting)), received / 1e6, written / 1e6, patience - (now - moved_at),
                )  # fmt: skip
            gevent.sleep(0.05)

    def describe(self, lost: Sequence[str], until_ns: int) -> tuple[dict[str, Any], list[str]]:
        """What run.json says of the workers of the run that ends, and sentences on why the run is not what was planned, if it is not.

        ``lost``: whose record is not whole; ``until_ns``: when the load ended, since the origin.
        """
        refused = dict(sorted(self.gate.refused.items()))
        self.gate.refused.clear()
        about: dict[str, Any] = {"refused": refused, "joined": dict(self._joined), "left": sorted(self._early)}
        reasons = [f"worker {name} left before the end of the run" for name in about["left"]]
        dealing, settings, intake = self._dealing, self._books.settings, self._books.intake
        if dealing is not None and settings is not None and intake is not None:
            ends = {name: (intake.copies[name].information or {}).get("ended_at_ns", 0) for name in self._early}
            known = unknown(intake.directory, lost)
            from_second = {name: 0 if (last := known[name]["last_second"]) is None else last + 1 for name in lost}
            ends |= {name: second * SECOND_NS for name, second in from_second.items()}
            plan, seed, pins = settings.schedule, settings.seed, self._begin["pins_s"]
            not_started = {
                name: dealing.not_started(name, lambda: plan.arrivals(seed, pins), after_ns, until_ns) for name, after_ns in ends.items()
            }
            for name, second in from_second.items():
                not_started[name] = max(0, not_started[name] - arrivals_known_from(intake.directory, name, second))
            about["deals"] = [{"from_ns": from_ns + dealing.at_ns, "workers": list(members)} for from_ns, members in dealing.deals]
            about["arrivals_not_started"] = not_started
            reasons += describe_dealing(dealing.late, not_started)
        self._dealing = None
        return about, reasons

    def _reachable(self) -> set[str]:
        """The workers of whom anything may still come."""
        return {name for name, silence_s in self._silences().items() if silence_s <= GONE_S}

    def _silences(self) -> dict[str, float]:
        """For how long each worker that has not left has not been heard, s."""
        now, heard = time.monotonic(), self.gate.heard_s
        return {self.name(identity): now - heard.get(identity, now) for identity in self._runner.clients}
