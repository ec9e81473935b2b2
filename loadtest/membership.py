"""A worker's side of the channel: its hello, how its clock stands to the master's, and whether the master is still there."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event
from locust.rpc import Message

from .clock_offset import Offset, exchange, narrowest
from .gate import HELLO, PING, PONG, READY, REFUSED, WELCOME, introduce, machine

logger = logging.getLogger("streamgauge")

SILENCE_S = 6.0
"""A master that has not been heard for so long is gone: longer than a short partition with its retransmissions takes, and short enough
that what then ends within ``ORPHAN_DRAIN_S`` has stopped loading within ten seconds."""
ORPHAN_DRAIN_S = 3.0
_TICK_S = 0.5
_HELLOS, _HELLO_EVERY_S = 8, 2.0
_EXCHANGES, _EXCHANGE_EVERY_S = 16, 10.0
UNKNOWN_NS = 10**9
"""Uncertainty of a clock that no exchange has told anything of."""


class Membership:
    """Follows one master. ``refused(sentence)`` is called when it does not take this worker, ``orphaned()`` once when it falls silent.

    ``offset`` is how this machine's wall clock stands to the master's, measured again and again; zero where both are one machine.
    """

    def __init__(self, runner: Any, key: str, refused: Callable[[str], None], orphaned: Callable[[], None]) -> None:
        self.same_machine = False
        self.offset = Offset(0, UNKNOWN_NS)
        self._welcome = False
        self._runner = runner
        self._key = key
        self._refused = refused
        self._orphaned = orphaned
        self._answered = Event()
        self._exchanges: list[Offset] = []
        self._heard_at_s = time.monotonic()
        self._silent = False
        options = runner.environment.parsed_options
        self._parent = os.getppid() if getattr(options, "processes", None) else None
        runner.register_message(WELCOME, self._on_welcome)
        runner.register_message(REFUSED, self._on_refused)
        runner.register_message(PONG, self._on_pong)
        runner.environment.events.heartbeat_received.add_listener(self._on_heartbeat)
        self._pass_on = runner.handle_message
        runner.handle_message = self._handle
        gevent.spawn(self._introduce)
        gevent.spawn(self._watch)

    @property
    def silent(self) -> bool:
        """Whether the master is gone, as far as can be told."""
        return self._silent or self.parent_died

    @property
    def parent_died(self) -> bool:
        """Whether this process was forked by a master that has died since."""
        return self._parent is not None and os.getppid() != self._parent

    def _measure_offset(self) -> None:
        """Find out how this machine's clock stands to the master's, from exchanges that take a fraction of a second."""
        self._exchanges.clear()
        for _ in range(_EXCHANGES):
            self._runner.send_message(PING, {"sent_ns": time.time_ns()})
            gevent.sleep(0.01)
        for _ in range(50):
            if len(self._exchanges) >= _EXCHANGES:
                break
            gevent.sleep(0.01)
        self.offset = narrowest(self._exchanges) or self.offset

    def _introduce(self) -> None:
        for _ in range(_HELLOS):
            self._runner.send_message(HELLO, introduce(self._runner.client_id, self._key))
            if self._answered.wait(_HELLO_EVERY_S):
                break
        else:
            self._refused("does not answer this worker: is it a master of Streamgauge, of this version?")
        if not self._welcome:
            return
        if self.same_machine:
            self.offset = Offset(0, 0)
        else:
            self._measure_offset()
        while self._runner.worker_index < 0:
            self._runner.send_message(READY)
            gevent.sleep(0.2)
        while not self.same_machine:
            gevent.sleep(_EXCHANGE_EVERY_S)
            self._measure_offset()

    def _on_welcome(self, environment: Any, msg: Message, **_: Any) -> None:
        self._welcome = True
        self.same_machine = isinstance(msg.data, dict) and msg.data.get("machine") == machine()
        self._answered.set()

    def _on_refused(self, environment: Any, msg: Message, **_: Any) -> None:
        self._answered.set()
        self._refused(f"refused this worker: {msg.data.get('reason') if isinstance(msg.data, dict) else None}")

    def _on_pong(self, environment: Any, msg: Message, **_: Any) -> None:
        returned, answer = time.time_ns(), msg.data
        names = ("sent_ns", "received_ns", "answered_ns")
        if not isinstance(answer, dict) or any(type(answer.get(name)) is not int for name in names):
            return
        sent, received, answered = (answer[name] for name in names)
        if (found := exchange(sent, received, answered, returned)) is not None:
            self._exchanges.append(found)

    def _on_heartbeat(self, **_: Any) -> None:
        self._heard_at_s = time.monotonic()
        self._silent = False

    def _handle(self, message: Message) -> None:
        if message.type in ("stop", "quit"):
            # Both last until the conversations have ended and the record is acknowledged, which has to be heard meanwhile.
            gevent.spawn(self._pass_on, message)
        else:
            self._pass_on(message)

    def _watch(self) -> None:
        expected = time.monotonic()
        while True:
            gevent.sleep(_TICK_S)
            now = time.monotonic()
            # A process that was stopped itself has not listened: what the master said meanwhile is yet to be read.
            if (late := now - expected - _TICK_S) > _TICK_S:
                self._heard_at_s += late
            expected = now
            gone = self.parent_died or now - self._heard_at_s > SILENCE_S
            if gone and not self._silent:
                self._silent = True
                gevent.spawn(self._orphaned)
