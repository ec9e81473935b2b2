"""Locust users that hold conversations: closed loop, open loop, and idle holders."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import gevent
from gevent import GreenletExit
from locust import User, task
from locust.exception import StopTest, StopUser
from locust.user.task import LOCUST_STATE_RUNNING, LOCUST_STATE_STOPPING, LOCUST_STATE_WAITING

from .arrivals import SECOND_NS
from .connection import Connection
from .conversation import NEVER, Conversation
from .metrics import BEHAVIOURS, SLOW_READER, WITHHELD
from .opening import ConnectError
from .population import role_of
from .settings import IDLE

if TYPE_CHECKING:
    from .run import Run

logger = logging.getLogger("streamgauge")

_BACKOFF_LIMIT_S = 10.0


class ConversationUser(User):
    """Connects, sends prompts, acknowledges tokens, sometimes stops; what it does is set by the options.

    A locustfile of one's own may subclass it: ``converse_once`` holds one conversation and returns it with its outcome. What a subclass
    sets in ``loop`` (closed or open), ``role`` (idle, withheld, slow_reader, or "" for none) and ``conversations_per_connection`` goes
    before the options.
    """

    loop: str | None = None
    role: str | None = None
    conversations_per_connection: int | None = None

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.run_in_progress: Run = environment.streamgauge_run
        run = self.run_in_progress
        self.number = run.number_user()
        self.conversations = 0
        settings = run.settings
        # What a class has not set is looked up once.
        self.plays = role_of(self.number, settings.roles) if self.role is None else self.role
        self.holds = self.plays == IDLE
        self.is_open = settings.open_loop if self.loop is None else self.loop == "open"
        self.stream: Connection | None = None
        self.failures = 0

    def wait_time(self) -> float:
        """The think time of the closed loop."""
        return 0.0 if self.is_open or self.holds else self.run_in_progress.settings.think_time_s

    def run(self) -> None:  # type: ignore[misc]  # Locust marks it final, and overrides it itself where it has another loop
        """Locust's own loop, without its choice among tasks where ours is the only one.

        A user that waits in the choice's frames costs 4 KB more, and a conversation a good part of what the engine spends on it.
        """
        if self.tasks != [ConversationUser.converse] or type(self).wait_time is not ConversationUser.wait_time:
            super().run()  # type: ignore[no-untyped-call]
            return
        self._state = LOCUST_STATE_RUNNING
        try:
            while True:
                try:
                    self.hold() if self.holds else self.converse_once()
                except Exception as error:
                    if isinstance(error, StopUser | StopTest):
                        raise
                    self.environment.events.user_error.fire(user_instance=self, exception=error, tb=error.__traceback__)
                    if not self.environment.catch_exceptions:
                        raise
                    logger.exception("a user failed; it goes on")
                self.pause(self.wait_time())
        except (GreenletExit, StopUser, StopTest):
            self.on_stop()

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
        if run.engine.stopping.is_set():
            # Locust ends who waits a moment after it asked: one that woke just then must not begin what would be cut at once.
            raise StopUser
        due, arrival = NEVER, None
        if run.open_loop is not None and self.is_open:
            self._enter_wait()
            taken = run.open_loop.take()
            try:
                self._leave_wait()
                if stream.closed is not None:
                    stream = self.connected()
            except BaseException:
                run.open_loop.give_back(taken)
                raise
            if stream is None:
                run.open_loop.give_back(taken)
                return None
            due, arrival = taken
        draw = run.draw_for(self.number, self.conversations)
        self.conversations += 1
        conversation = Conversation(stream.number, run.engine.recorder.number_conversation(), run.users(), stream.window, due)
        # Set apart from the beginning: what comes of it is recorded, and is no figure of the target's.
        conversation.taint = self.plays if self.plays in BEHAVIOURS else None
        if prompt is None:
            said = (None, None) if arrival is None else (arrival.prompt_tokens, arrival.answer_tokens)
            prompt = settings.speech.say(draw, *said)
        stream.converse(conversation, prompt, settings.stop.draw(draw), settings.expected_gap_s)
        most = settings.conversations_per_connection if self.conversations_per_connection is None else self.conversations_per_connection
        if stream.closed is None and most and stream.conversations >= most:
            self.stream = None
            stream.close()
        if conversation.outcome == "failed" and stream.closed is None and run.open_loop is None:
            # A server that refuses is not asked again at once: a closed loop would become as many refusals as it can send.
            self.pause(settings.reconnect_backoff_s)
        return conversation

    def connected(self) -> Connection | None:
        """The open connection, or a new one at its paced turn; None after a failed attempt and its backoff."""
        if self.stream is not None and self.stream.closed is None:
            return self.stream
        run = self.run_in_progress
        people = run.settings.people
        person = people[run.place_of(self.number) % len(people)] if people else None
        wait = run.engine.pacing.next_slot(time.monotonic_ns()) - time.monotonic_ns()
        if wait > 0:
            self.pause(wait / SECOND_NS)
        if self.failures or self.stream is not None:
            run.engine.recorder.counts["reconnects"] += 1
        stream = run.connection(run.target_of(person), self.number, self.failures, self.plays)
        self.stream = None
        try:
            stream.open()
            self.stream = stream
        except ConnectError:
            pass
        # A connection that is closed as soon as it is open is no better than none: the next try waits as well.
        if stream.closed is not None or self.stream is None:
            self.failures += 1
            backoff = min(_BACKOFF_LIMIT_S, run.settings.reconnect_backoff_s * 2 ** min(self.failures - 1, 10))
            # Half fixed and half drawn: users cut off together do not come back together.
            self.pause(backoff * (0.5 + 0.5 * run.draw_for(self.number, -self.failures).random()))
            return None
        self.failures = 0
        return stream

    def pause(self, seconds: float) -> None:
        """Sleep in a way that a stop may cut short."""
        self._enter_wait()
        gevent.sleep(seconds)
        self._leave_wait()

    def _enter_wait(self) -> None:
        # As Locust's own wait does: a user that waits may be ended at once, one that converses is let finish.
        self._heed_stop()
        self._state = LOCUST_STATE_WAITING

    def _leave_wait(self) -> None:
        self._heed_stop()
        self._state = LOCUST_STATE_RUNNING

    def _heed_stop(self) -> None:
        if self._state == LOCUST_STATE_STOPPING or self.run_in_progress.engine.stopping.is_set():
            raise StopUser

    def on_stop(self) -> None:
        """Close in good order."""
        if self.stream is not None:
            self.stream.close()


class ClosedLoopUser(ConversationUser):
    """Sends the next prompt when the last answer has ended, whatever --loop says."""

    loop = "closed"


class OpenLoopUser(ConversationUser):
    """Waits for the schedule's next arrival, whatever --loop says."""

    loop = "open"


class WithheldAckUser(ConversationUser):
    """Stops to acknowledge after --withhold-after tokens of every answer."""

    role = WITHHELD


class SlowReaderUser(ConversationUser):
    """Reads --slow-rate bytes a second and no more."""

    role = SLOW_READER


class ChurnUser(ConversationUser):
    """Connects, holds one conversation, disconnects, and begins again."""

    conversations_per_connection = 1


class IdleUser(ConversationUser):
    """Holds a connection and says nothing."""

    role = IDLE


USERS = (ConversationUser, ClosedLoopUser, OpenLoopUser, WithheldAckUser, SlowReaderUser, ChurnUser, IdleUser)
"""What the web page's class picker offers."""
