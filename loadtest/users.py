"""Locust users that hold conversations: closed loop, open loop, and idle holders."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import AsyncResult
from locust import User, task
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_RUNNING, LOCUST_STATE_STOPPING, LOCUST_STATE_WAITING

from .adapter import make_adapter
from .arrivals import SECOND_NS
from .conversation import NEVER, Conversation
from .population import generate_prompt
from .stream import ConnectError, Stream

if TYPE_CHECKING:
    from .lifecycle import Run

_BACKOFF_LIMIT_S = 10.0


class OpenLoop:
    """Hands due arrivals to waiting users; an arrival that finds none is late or dropped, never forgotten."""

    def __init__(self, schedule: Iterator[int], drop_when_full: bool) -> None:
        self._schedule = schedule
        self._drop = drop_when_full
        self._waiting: deque[AsyncResult[int]] = deque()
        self._backlog: deque[int] = deque()
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self.due = 0
        self.dropped = 0

    def start(self) -> None:
        """Begin the schedule now."""
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run, time.monotonic_ns())

    def stop(self) -> None:
        """End the schedule; what was due and is still waiting for a user is counted as dropped."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None
        self.dropped += len(self._backlog)
        self._backlog.clear()

    def take(self) -> int:
        """The due instant (monotonic ns) of the next arrival; blocks the calling user until there is one."""
        if self._backlog:
            return self._backlog.popleft()
        place: AsyncResult[int] = AsyncResult()
        self._waiting.append(place)
        try:
            return place.get() or 0
        except BaseException:
            # A user that is stopped while it waits gives its place, or an arrival just handed to it, back.
            if place.ready() and place.value is not None:
                self._backlog.appendleft(place.value)
            else:
                self._waiting.remove(place)
            raise

    def _run(self, start: int) -> None:
        for offset in self._schedule:
            due = start + offset
            while (wait := due - time.monotonic_ns()) > 0:
                gevent.sleep(wait / SECOND_NS)
            self.due += 1
            if self._waiting:
                self._waiting.popleft().set(due)
            elif self._drop:
                self.dropped += 1
            else:
                self._backlog.append(due)


class ConversationUser(User):
    """Connects, sends prompts, acknowledges tokens, sometimes stops; what it does is set by the options.

    A locustfile of one's own may subclass it: ``converse_once`` holds one conversation and returns it with its outcome.
    """

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.run_in_progress: Run = environment.streamgauge_run
        run = self.run_in_progress
        self.number = run.number_user()
        self.conversations = 0
        # Spread evenly over the users instead of drawn, so that the share is what was asked for whatever their number.
        share = run.settings.idle_share
        self.holds = int((self.number + 1) * share) > int(self.number * share)
        self.stream: Stream | None = None
        self.failures = 0

    def wait_time(self) -> float:
        """The think time of the closed loop."""
        return 0.0 if self.run_in_progress.settings.open_loop or self.holds else self.run_in_progress.settings.think_time_s

    @task
    def converse(self) -> None:
        """Hold a connection, or one conversation."""
        if self.holds:
            self.hold()
        else:
            self.converse_once()

    def hold(self) -> None:
        """Hold an open connection without conversations until told to stop or cut off."""
        stream = self.connected()
        if stream is not None:
            self._enter_wait()
            stream.wait_closed()
            self._leave_wait()

    def converse_once(self, prompt: str | None = None) -> Conversation | None:
        """One conversation, or None when no connection came about."""
        run = self.run_in_progress
        settings = run.settings
        stream = self.connected()
        if stream is None:
            return None
        due = NEVER
        if run.open_loop is not None:
            self._enter_wait()
            due = run.open_loop.take()
            self._leave_wait()
            if stream.closed is not None and (stream := self.connected()) is None:
                return None
        draw = run.draw_for(self.number, self.conversations)
        self.conversations += 1
        conversation = Conversation(stream.number, run.engine.recorder.number_conversation(), run.users(), stream.adapter.window, due)
        if prompt is None:
            prompt = draw.choice(settings.prompts) if settings.prompts else generate_prompt(draw, settings.prompt_bytes)
        stream.converse(conversation, prompt, settings.stop.draw(draw), settings.expected_gap_s)
        if stream.closed is not None:
            self.stream = None
        elif settings.conversations_per_connection and stream.conversations >= settings.conversations_per_connection:
            self.stream = None
            stream.close()
        return conversation

    def connected(self) -> Stream | None:
        """The open connection, or a new one at its paced turn; None after a failed attempt and its backoff."""
        if self.stream is not None and self.stream.closed is None:
            return self.stream
        run = self.run_in_progress
        person = run.settings.people[self.number % len(run.settings.people)] if run.settings.people else None
        wait = run.engine.pacing.next_slot(time.monotonic_ns()) - time.monotonic_ns()
        if wait > 0:
            self.pause(wait / SECOND_NS)
        if self.failures or self.stream is not None:
            run.engine.recorder.counts["reconnects"] += 1
        adapter = make_adapter(run.adapter, {"window": run.settings.window})
        stream = Stream(run.engine, run.target_of(person), adapter, self.number, self.failures)
        try:
            stream.open()
        except ConnectError:
            self.failures += 1
            backoff = min(_BACKOFF_LIMIT_S, run.settings.reconnect_backoff_s * 2 ** min(self.failures - 1, 10))
            # Half fixed and half drawn: users cut off together do not come back together.
            self.pause(backoff * (0.5 + 0.5 * run.draw_for(self.number, -self.failures).random()))
            return None
        self.failures = 0
        self.stream = stream
        return stream

    def pause(self, seconds: float) -> None:
        """Sleep in a way that a stop may cut short."""
        self._enter_wait()
        gevent.sleep(seconds)
        self._leave_wait()

    def _enter_wait(self) -> None:
        # As Locust's own wait does: a user that waits may be ended at once, one that converses is let finish.
        if self._state == LOCUST_STATE_STOPPING:
            raise StopUser
        self._state = LOCUST_STATE_WAITING

    def _leave_wait(self) -> None:
        if self._state == LOCUST_STATE_STOPPING:
            raise StopUser
        self._state = LOCUST_STATE_RUNNING

    def on_stop(self) -> None:
        """Close in good order."""
        if self.stream is not None:
            self.stream.close()
