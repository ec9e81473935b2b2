"""What every server of the protocol shares, whatever carries its bytes: which plan a query gives, where answers come from, and, for
frameworks whose sending has to be awaited, a wire that the answers can write to without waiting."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from . import counters
from .answers import Answers, AnswerSettings, Clock, Wire
from .connections import Connections, Member, address_of
from .counters import Block, LoopLag
from .front import Front, Refusal
from .history import History
from .log import Log
from .parameters import ParameterError, Plan, parse_query
from .protocol import STOP
from .source import find_unfit
from .tokens import token_text

if TYPE_CHECKING:
    from .app import Settings
    from .upstream import Upstream

QUEUE_TEXTS: Final = 64
"""Texts that may wait for the framework before the answers pause."""
HOUSEKEEPING_S: Final = 0.25


def choose_plan(query: str, settings: Settings) -> Plan:
    """Return the plan that a query asks for; raises `ParameterError` also for what this server's sources cannot do."""
    plan = parse_query(query, settings.plan, settings.caps)
    if plan.text == "file" and not settings.words:
        raise ParameterError("this server has no text; the operator can give it one with --text-file")
    if settings.upstream is not None and (unfit := find_unfit(plan, settings.plan)) is not None:
        raise ParameterError(f"{unfit} belongs to schedules, and the answers of this server are relayed from another")
    return plan


def open_upstream(settings: Settings) -> Upstream | None:
    """Return the API that answers are relayed from, if there is one."""
    if settings.upstream is None:
        return None
    from .upstream import Upstream

    return Upstream(settings.upstream)


def answer_settings(settings: Settings, log: Log, history: History | None, upstream: Upstream | None) -> AnswerSettings:
    """Return what the answers of all connections share."""
    return AnswerSettings(
        ack_timeout_s=settings.ack_timeout_s,
        seed=settings.seed,
        length_cap=int(settings.caps["tokens"]),
        log=log,
        history=history,
        text_source=partial(token_text, words=settings.words) if settings.words else token_text,
        open_source=None if upstream is None else upstream.open,
    )


def as_prompt(text: str) -> str:
    """Return a prompt that is one also when it says `stop`: where stopping is a request of its own, that is no word of the protocol."""
    return f"{text} " if text == STOP else text


class Stack:
    """The server of one process on somebody else's framework: its counts, its connections, its pages."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.log = Log(quiet=settings.quiet)
        self.block = Block()
        self.row = self.block.row(0)
        self.connections = Connections(self.block, 0, most=settings.max_connections, most_per_address=settings.max_per_address)
        self.front = Front(self.block)
        self._history = None if settings.history is None else History(settings.history, self.log)
        self._upstream = open_upstream(settings)
        self.answer_settings = answer_settings(settings, self.log, self._history, self._upstream)
        self._numbers = -1

    def converse(self, wire: QueuedWire, plan: Plan) -> Answers:
        """Return the answers of a new connection, and count it in."""
        wire.answers = self.begin(wire, wire, plan)
        return wire.answers

    def begin(self, wire: Wire, member: Member, plan: Plan) -> Answers:
        """The same for who is no `QueuedWire`."""
        self._numbers += 1
        name = plan.connection or str(self._numbers)
        clock: Clock = asyncio.get_running_loop()
        self.connections.enter(member)
        return Answers(wire, clock, plan, self.answer_settings, self.row, self._numbers, name)

    def forget(self, wire: QueuedWire, code: int) -> None:
        """End what runs on a connection that is gone, and count it out; idempotent."""
        if wire.answers is not None:
            wire.answers.connection_lost()
        self.connections.forget(wire, code)

    def refusal(self, address: str) -> Refusal | None:
        """Return why another connection from `address` is refused, or None."""
        reason = self.connections.refusal(address)
        if reason is None:
            return None
        sentence = "the server is going away" if reason == "draining" else "the server has all the connections it may have"
        return Refusal(reason, 503, sentence)

    def count_refusal(self, refusal: Refusal, address: str) -> None:
        """Count and log a request that was refused."""
        self.row[counters.REFUSED[refusal.reason]] += 1
        self.log.warn("refused", reason=refusal.reason, status=refusal.status, peer=address, says=refusal.sentence)

    def keep_house(self) -> None:
        """Begin to measure the process and its loop, and go on for ever."""
        loop = asyncio.get_running_loop()
        lag = LoopLag(self.row)

        def tick(due_s: float) -> None:
            lag.record(loop.time(), loop.time() - due_s)
            loop.call_at(loop.time() + lag.PERIOD_S, tick, loop.time() + lag.PERIOD_S)

        def measure() -> None:
            counters.measure_process(self.row)
            if self._history is not None:
                self._history.flush()
            loop.call_later(HOUSEKEEPING_S, measure)

        tick(loop.time())
        measure()

    async def leave(self) -> None:
        """End the answers under way and wait until everybody has left (R15)."""
        self.front.draining = True
        late = await self.connections.drain(self.settings.drain_s)
        self.log.info("left", cut=late)
        if self._upstream is not None:
            await self._upstream.close()
        if self._history is not None:
            self._history.close()


class QueuedWire:
    """Between answers, which never wait, and a framework whose `send` and `close` do: a short queue and the task that empties it.

    `abort` is what cuts the connection off. A member of `Connections` and a wire of `Answers`.
    """

    def __init__(
        self,
        peer: object,
        send: Callable[[str], Awaitable[object]],
        close: Callable[[int, str], Awaitable[object]],
        abort: Callable[[], object],
    ) -> None:
        self.address = address_of(peer)
        self.paused = False
        self.answers: Answers | None = None
        self._send, self._close, self._abort = send, close, abort
        self._texts: deque[str] = deque()
        self._closing: tuple[int, str] | None = None
        self._wake = asyncio.Event()

    def send_text(self, text: str) -> None:
        """Queue one text message."""
        if self._closing is None:
            self._texts.append(text)
            self.paused = len(self._texts) >= QUEUE_TEXTS
            self._wake.set()

    def close_with(self, code: int, reason: str) -> None:
        """Close once what is queued has been sent."""
        if self._closing is None:
            self._closing = code, reason
            self._wake.set()

    def leave(self) -> None:
        """End the answer under way, because the server leaves (R15)."""
        if self.answers is not None:
            self.answers.drain()

    def cut(self, reason: str) -> None:
        """Close without a closing handshake."""
        self._abort()

    async def write(self) -> None:
        """Send what is queued, until the connection has been closed from here; to be cancelled when it was from there."""
        while True:
            while self._texts:
                await self._send(self._texts.popleft())
            if self.paused:
                self.paused = False
                if self.answers is not None:
                    self.answers.writable()
                continue
            if self._closing is not None:
                await self._close(*self._closing)
                return
            self._wake.clear()
            await self._wake.wait()
