"""Drives the answers of one connection: between the rules (protocol), the schedule (tokens) and the wire.

There is no task and no queue: a timer fires when a token is due, an acknowledgement or a stop is acted on inside the call
that delivers it, so a stop in mid-gap takes effect at once and sending never waits for the reader.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from . import counters
from .history import History
from .log import Log
from .parameters import Plan
from .protocol import (
    CLOSE_GOING_AWAY,
    CLOSE_TOO_BIG,
    CLOSE_UNSUPPORTED_DATA,
    END,
    ERROR_TOKEN,
    Effect,
    ServerRole,
    ServerStep,
    escape_token,
)
from .source import OpenSource, Source, SourceError, SourceState
from .tokens import Token, asked_length, fill, schedule, seed_of, token_text

BURST: Final = 32  # unpaced tokens sent before other connections have their turn


class Timer(Protocol):
    """What a clock returns for a call it has been asked to make."""

    def cancel(self) -> None:
        """Make the call not happen."""


class Clock(Protocol):
    """The part of an event loop that is needed here: monotonic seconds, and calls at an instant or in the next turn."""

    def time(self) -> float:
        """Return the present instant, in seconds."""

    def call_at(self, when: float, callback: Callable[[], None], /) -> Timer:
        """Call back at `when`."""

    def call_soon(self, callback: Callable[[], None], /) -> Timer:
        """Call back in the next turn."""


class Wire(Protocol):
    """The part of a connection that is needed here. Nothing here blocks; what is not open any more ignores both."""

    paused: bool  # writing is: the peer does not read: tokens wait until `Answers.writable`

    def send_text(self, text: str) -> None:
        """Hand one text message to the transport."""

    def close_with(self, code: int, reason: str) -> None:
        """Begin to close the connection."""


@dataclasses.dataclass(frozen=True, slots=True)
class AnswerSettings:
    """What the answers of all connections of a process share."""

    ack_timeout_s: float
    seed: int
    length_cap: int
    log: Log
    history: History | None = None
    text_source: Callable[[Plan], Callable[[int], str]] = token_text
    open_source: OpenSource | None = None  # in the place of schedules


class Answers:
    """One connection's answers, one after the other. `connection` is its number; `row` are the process's counters."""

    __slots__ = (
        "_ack_timer", "_asked", "_block_s", "_busy_ns", "_clock", "_connection", "_conversation", "_delay_s", "_delayed", "_due_s", "_held",
        "_hold_s", "_name", "_next", "_number", "_plan", "_progress_s", "_prompt", "_row", "_say", "_settings", "_source", "_start_s",
        "_text", "_timer", "_tokens", "_wait_s", "_waiting", "_wire", "role",
    )  # fmt: skip

    def __init__(
        self, wire: Wire, clock: Clock, plan: Plan, settings: AnswerSettings, row: memoryview[int], connection: int, name: str
    ) -> None:
        self.role = ServerRole(plan.window)
        self._wire = wire
        self._clock = clock
        self._plan = plan
        self._settings = settings
        self._row = row
        self._connection = connection
        self._name = name  # of the connection, in traced tokens
        self._conversation = -1
        self._say: Callable[[int], str] | None = None
        self._busy_ns = plan.cpu_us * 1000
        self._block_s = plan.block_ms / 1000
        self._delay_s = plan.delay_ms / 1000
        self._asked: int | None = None  # tokens, by the prompt itself
        self._hold_s = plan.stall_ms / 1000 if plan.stall_mode == "hold" else 0.0
        self._wait_s = self._delay_s  # idle work on the next token
        self._tokens: Iterator[Token] | None = None
        self._timer: Timer | None = None
        self._ack_timer: Timer | None = None
        self._start_s = self._due_s = self._progress_s = 0.0
        self._number = 0  # of the next token, from 0
        self._text: str | None = None  # the next token, once it has been due
        self._held = False  # the next token is due but must wait: for an acknowledgement, or for the peer to read
        self._delayed = False  # the next token has had its extra delay
        self._prompt = ""
        self._source: Source | None = None
        self._waiting = False  # for the source

    # -- what happens ----------------------------------------------------------------------------------------------

    def text_received(self, text: str) -> None:
        """Act on a message (R1 to R6)."""
        if self._plan.lengths == "prompt" and text:
            self._asked = asked_length(text)
        step = self.role.text_received(text)
        self._prompt = text
        if not text and Effect.COUNT_STALE_ACK not in step.effects:
            self._row[counters.ACKS] += 1
            self._progress_s = self._clock.time()
        self._apply(step)

    def binary_received(self) -> None:
        """Act on a binary message (R11)."""
        self._apply(self.role.binary_received())

    def too_big_received(self) -> None:
        """Act on a message over the limit (R12)."""
        self._apply(self.role.too_big_received())

    def drain(self) -> None:
        """End what runs, and the connection, because the server leaves (R15)."""
        self._apply(self.role.drain())

    def connection_lost(self) -> None:
        """Forget everything; idempotent (R14)."""
        self._apply(self.role.connection_lost())

    def writable(self) -> None:
        """The peer reads again: a token that waited for that may go."""
        if self._held:
            self._advance()

    # -- effects ---------------------------------------------------------------------------------------------------

    def _apply(self, step: ServerStep) -> None:
        row = self._row
        if step.outcome is not None:
            row[counters.ANSWERS[step.outcome]] += 1
            row[counters.STREAMING] -= 1
            if step.outcome == "stopped":
                row[counters.STOPS] += 1
            self._cancel()  # this is Effect.CANCEL, and the timers of an answer that has ended by itself
        for effect in step.effects:
            if effect is Effect.RESUME:
                if self._held:
                    self._advance()
            elif effect is Effect.COUNT_STALE_ACK:
                row[counters.STALE_ACKS] += 1
            elif effect is Effect.START:
                row[counters.PROMPTS] += 1
                row[counters.STREAMING] += 1
                self._start()
            elif effect is Effect.SEND_END:
                self._wire.send_text(END)
            elif effect is Effect.HOLD:
                self._held = True
            elif effect is Effect.COUNT_STALE_STOP:
                row[counters.STALE_STOPS] += 1
            elif effect is Effect.SEND_ERROR:
                self._wire.send_text(ERROR_TOKEN)
            elif effect is Effect.CLOSE_GOING_AWAY:
                self._wire.close_with(CLOSE_GOING_AWAY, "the server is going away")
            elif effect is Effect.CLOSE_UNSUPPORTED_DATA:
                self._wire.close_with(CLOSE_UNSUPPORTED_DATA, "this protocol is text only")
            elif effect is Effect.CLOSE_TOO_BIG:
                self._wire.close_with(CLOSE_TOO_BIG, "the message is too long")

    def _start(self) -> None:
        settings = self._settings
        self._conversation += 1
        self._number = -1
        self._start_s = self._progress_s = self._clock.time()
        if settings.open_source is not None:
            self._source = settings.open_source(self._plan, self._prompt, self._source_ready)
        else:
            self._say = settings.text_source(self._plan)
            seed = seed_of(self._plan, settings.seed, self._connection, self._conversation)
            plan = self._plan if self._asked is None else dataclasses.replace(self._plan, tokens=self._asked)
            self._tokens = schedule(plan, seed, settings.length_cap)
        if self.role.window:
            self._ack_timer = self._clock.call_at(self._start_s + settings.ack_timeout_s, self._check_ack)
        if self._next_token():
            self._advance()

    def _cancel(self) -> None:
        """End the source and both timers; nothing of the answer goes on."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        if self._source is not None:
            self._source.cancel()
            self._source = None
        self._tokens = self._say = self._text = None
        self._held = self._waiting = False

    # -- tokens ----------------------------------------------------------------------------------------------------

    def _next_token(self) -> bool:
        """Move on to the next token of the schedule; without one, the source is finished (R7) and False is returned."""
        if self._source is not None:
            return self._take(self._source)
        assert self._tokens is not None
        token = next(self._tokens, None)
        if token is None:
            self._tokens = None
            self._apply(self.role.source_finished())
            return False
        self._number += 1
        self._due_s = self._start_s + token.due_ns * 1e-9
        self._text = None
        self._delayed = False
        self._wait_s = self._delay_s + self._hold_s if token.stalled else self._delay_s
        return True

    def _take(self, source: Source) -> bool:
        """Move on to the next token that the source has delivered; False if there is none yet, or no more, or it failed (R13)."""
        try:
            given = source.take()
        except SourceError as error:
            self._fail(error)
            return False
        if isinstance(given, str):
            self._number += 1
            self._due_s = self._start_s  # it is here, so it is due
            self._text = given
            self._delayed = False
            return True
        self._waiting = given is SourceState.WAITING
        if not self._waiting:
            self._apply(self.role.source_finished())
        return False

    def _source_ready(self) -> None:
        """The source has something after it had nothing; called by it."""
        if self._waiting:
            self._waiting = False
            if self._next_token():
                self._advance()

    def _advance(self) -> None:
        """Send what is due and may go; leave a timer, or a held token, for the rest."""
        self._timer = None
        self._held = False
        role, wire, clock, plan = self.role, self._wire, self._clock, self._plan
        holds_up = self._busy_ns or self._block_s
        left = 1 if holds_up else BURST
        now_s = clock.time()
        while True:
            if self._due_s > now_s:
                self._timer = clock.call_at(self._due_s, self._advance)
                return
            if not left:
                self._timer = clock.call_soon(self._advance)
                return
            if self._text is None and not self._make_text():
                return
            if role.window and role.unacked >= role.window:
                self._apply(role.token_ready())  # R9: held
                return
            if wire.paused:
                self._held = True
                return
            if self._wait_s and not self._delayed:
                self._delayed = True
                self._timer = clock.call_at(now_s + self._wait_s, self._advance)
                return
            if self._busy_ns:
                _burn(self._busy_ns)
            if self._block_s:
                time.sleep(self._block_s)
            if self._text:  # R10: an empty token is skipped
                role.token_ready()
                self._send(plan, self._text)
                left -= 1
            if not self._next_token():
                return
            if holds_up or self._due_s > now_s:
                now_s = clock.time()

    def _make_text(self) -> bool:
        """Ask the source for the next token's text; if it fails, the answer has ended (R13) and False is returned."""
        assert self._say is not None
        try:
            if self._number + 1 == self._plan.fail_at:
                raise SourceError(f"asked to fail at token {self._plan.fail_at}")
            self._text = self._say(self._number)
        except Exception as error:
            self._fail(error)
            return False
        return True

    def _fail(self, error: Exception) -> None:
        self._settings.log.warn("source_failed", connection=self._connection, error=f"{type(error).__name__}: {error}")
        self._apply(self.role.source_failed())

    def _send(self, plan: Plan, text: str) -> None:
        self._row[counters.TOKENS] += 1
        self._progress_s = self._clock.time()
        if plan.trace is None:
            self._wire.send_text(escape_token(text, html=plan.escape == "on"))
            return
        traced = f"{plan.trace}:{self._name}:{self._conversation}:{self._number}:{time.time_ns()}"
        # Filled with blanks: int() of the last field still reads.
        self._wire.send_text(fill(traced, plan.token_bytes, " "))
        if self._settings.history is not None:
            self._settings.history.append(traced)

    def _check_ack(self) -> None:
        """End an answer that waited the whole ack timeout for an acknowledgement (R7, R8); else look again in time.

        One timer an answer instead of one a token: it is set anew only when it fires.
        """
        timeout_s = self._settings.ack_timeout_s
        now_s = self._clock.time()
        deadline_s = now_s + timeout_s
        if self.role.waiting_for_ack:
            deadline_s = self._progress_s + timeout_s
            if deadline_s <= now_s:
                self._apply(self.role.ack_timed_out())
                return
        self._ack_timer = self._clock.call_at(deadline_s, self._check_ack)


def _burn(nanoseconds: int) -> None:
    """Use this much processor time, not merely let it pass."""
    end_ns = time.thread_time_ns() + nanoseconds
    while time.thread_time_ns() < end_ns:
        pass
