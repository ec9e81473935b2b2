"""Carries one worker's record of one run to the master while it is written, and waits at the end until the master has it all."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import gevent
from gevent.event import Event
from locust.rpc import Message

from .raw_file import RawWriter
from .run_directory import RunDirectory
from .shipping import Shipment

logger = logging.getLogger("streamgauge")

CHUNK, ACKNOWLEDGEMENT = "streamgauge_chunk", "streamgauge_ack"
_LOOK_S = 0.5


class Courier:
    """Ships what ``writer`` writes into ``record``, the worker's own run directory, until the master has all of it."""

    def __init__(
        self, runner: Any, record: RunDirectory, writer: RawWriter, where: Mapping[str, Any], information: Mapping[str, Any]
    ) -> None:
        self.record = record
        self.shipment = Shipment(writer.path, where["id"], where["token"], writer.path.stem, information)
        self._runner = runner
        self._writer = writer
        self._wake = Event()
        self._moved_at_s = time.monotonic()
        self._greenlet = gevent.spawn(self._carry)

    def wake(self) -> None:
        """Something new has been written."""
        self._wake.set()

    def take_answer(self, message: Message) -> None:
        """Take the master's acknowledgement."""
        if isinstance(message.data, dict) and self.shipment.acknowledged(message.data):
            self._moved_at_s = time.monotonic()
            self._wake.set()

    def deliver(self, information: Mapping[str, Any], patience_s: Callable[[], float]) -> bool:
        """Ship the rest of a record that has ended; blocks until all is acknowledged, or nobody takes it. Whether the master has it all.

        ``patience_s``: how long nothing may be acknowledged. What the master has is removed here; what it has not stays, for
        ``python -m reports recover``.
        """
        self.shipment.complete(information)
        self._moved_at_s = time.monotonic()
        self._wake.set()
        while not self.shipment.done and self.shipment.refused is None:
            if time.monotonic() - self._moved_at_s > patience_s():
                break
            gevent.sleep(0.02)
        self._greenlet.kill()
        self.shipment.close()
        delivered = self.shipment.done and self.shipment.refused is None
        if delivered:
            self._remove()
        else:
            why = self.shipment.refused or "it does not answer"
            logger.error(
                "the master has not taken this worker's whole record (%s); it stays in %s; python -m reports recover makes a report of it, "
                "or joins it to the run's", why, self.record.path,
            )  # fmt: skip
        return delivered

    def _remove(self) -> None:
        shutil.rmtree(self.record.path, ignore_errors=True)
        try:
            self.record.path.parent.rmdir()
        except OSError:
            pass  # other workers' records are there

    def _carry(self) -> None:
        while True:
            self._wake.wait(_LOOK_S)
            self._wake.clear()
            for message in self.shipment.due(self._writer.bytes_written, time.monotonic()):
                self._runner.send_message(CHUNK, message)
                # A large backlog must not hold up the connections.
                gevent.sleep(0)
