"""The master's view of its workers: who takes part in a run, what has come of each record, and who is waited for at its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import gevent
from locust.env import Environment
from locust.rpc import Message
from locust.runners import HEARTBEAT_LIVENESS

from .bookkeeping import Bookkeeping
from .courier import ACKNOWLEDGEMENT, CHUNK
from .gate import Gate
from .membership import ORPHAN_DRAIN_S, SILENCE_S
from .shipping import Refused

logger = logging.getLogger("streamgauge")

STOP = "streamgauge_stop"
PATIENCE_S = 30.0
"""The end of a run waits so long for a record of which nothing more comes, beyond the time that users may take to stop."""
GONE_S = SILENCE_S + ORPHAN_DRAIN_S + 1.0
"""A worker that has not been heard for so long has been killed, or has stopped by itself because it does not hear us."""
_PROGRESS_EVERY_S = 2.0


class Fleet:
    """Follows the workers of one run after another; ``broken`` is called with a reason when their records cannot be written here."""

    def __init__(self, environment: Environment, books: Bookkeeping, gate: Gate, broken: Callable[[str], None]) -> None:
        self.environment = environment
        self.gate = gate
        self._books = books
        self._broken = broken
        self._expected: set[str] = set()
        self._runner.register_message(CHUNK, self._on_chunk)

    @property
    def _runner(self) -> Any:
        return self.environment.runner

    def name(self, client: str) -> str:
        """The master's name for a worker, which is the worker's own."""
        return f"w{self._runner.get_worker_index(client)}"

    def begin(self) -> list[str]:
        """The names of the workers that a new run begins with."""
        names = sorted((self.name(node.id) for node in self._runner.clients.ready), key=lambda name: int(name[1:]))
        self._expected = set(names)
        return names

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
        if answer["failed"]:
            self._broken(answer["failed"])

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

    def take_refused(self) -> dict[str, int]:
        """How many messages were not taken since the last call, by reason."""
        refused = dict(sorted(self.gate.refused.items()))
        self.gate.refused.clear()
        return refused

    def _reachable(self) -> set[str]:
        """The workers of whom anything may still come."""
        here = set()
        for identity, node in self._runner.clients.items():
            # Locust counts down once a second without a heartbeat.
            if HEARTBEAT_LIVENESS - node.heartbeat <= GONE_S:
                here.add(self.name(identity))
        return here
