"""What may be said when: the rules of a conversation as two tables, one a role. No socket, no clock.

The wire is the article's: text frames at `/ws`. Client to server: `""` acknowledges one token, `"stop"` stops, any
other text is a prompt. Server to client: a token, or `"_end_"` = this answer has ended.

A table maps (state, event) to the next state and what is to be done. A pair that is not in the table is the error:
`ProtocolError` is raised and nothing has changed. The rules are numbered R1 to R15 in docs/protocol.md.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

# -- the words on the wire ---------------------------------------------------------------------------------------------

ACK: Final = ""
STOP: Final = "stop"
END: Final = "_end_"
ERROR_TOKEN: Final = "[error]"  # R13: what the reader of a page sees before the end of an answer whose source failed  # noqa: S105
ESCAPED_END: Final = "\\_end_"  # R10: a token that happens to equal END goes out so

PATH: Final = "/ws"
DEFAULT_PORT: Final = 8001
MAX_TEXT_BYTES: Final = 64 * 1024
MAX_FRAGMENTS: Final = 256  # no client of this protocol needs more: the longest text is 64 KiB
DEFAULT_WINDOW: Final = 1  # the article's stop-and-wait
ACK_TIMEOUT_S: Final = 30.0

CLOSE_GOING_AWAY: Final = 1001
CLOSE_UNSUPPORTED_DATA: Final = 1003
CLOSE_INVALID_TEXT: Final = 1007
CLOSE_TOO_BIG: Final = 1009


class ProtocolError(Exception):
    """A role was given an event that its table does not know in its state; the state is unchanged."""


# -- the server's role -------------------------------------------------------------------------------------------------


class ServerState(enum.IntEnum):
    """Where the conversation of one connection stands, seen by the server."""

    IDLE = 0
    ANSWERING = 1  # the source still has tokens
    FINISHING = 2  # every token is sent; acknowledgements are outstanding
    CLOSED = 3


class ServerEvent(enum.IntEnum):
    """What can happen to a conversation; the first six are received, the others come from the server's own side."""

    ACK = 0  # "" with more than one token unacknowledged
    LAST_ACK = 1  # "" that acknowledges the only outstanding token
    STALE_ACK = 2  # "" with nothing outstanding
    STOP = 3
    PROMPT = 4
    BINARY = 5
    TOO_BIG = 6
    TOKEN = 7  # the source has a token and the window is open
    TOKEN_HELD = 8  # the source has a token and the window is full
    SOURCE_FINISHED = 9  # the source has no more tokens; some are unacknowledged
    SOURCE_FINISHED_ACKED = 10  # the source has no more tokens; none is unacknowledged
    SOURCE_FAILED = 11
    ACK_TIMEOUT = 12
    DRAIN = 13  # the server is about to leave
    LOST = 14  # closed, end of file, error or cancellation


class Effect(enum.IntEnum):
    """What the one who holds the socket is to do, in the order given."""

    START = 0  # start an answer to the prompt
    CANCEL = 1  # stop the answer's source at once: no work goes on behind it
    SEND_TOKEN = 2
    SEND_END = 3
    SEND_ERROR = 4
    HOLD = 5  # keep the token until an acknowledgement opens the window
    RESUME = 6  # an acknowledgement came: a held token may go
    COUNT_STALE_ACK = 7
    COUNT_STALE_STOP = 8
    CLOSE_GOING_AWAY = 9
    CLOSE_UNSUPPORTED_DATA = 10
    CLOSE_TOO_BIG = 11


class ServerStep(NamedTuple):
    """One entry of the server's table: the next state, what to do, and how an answer that ends here has ended."""

    state: ServerState
    effects: tuple[Effect, ...] = ()
    outcome: str | None = None


OUTCOMES: Final = ("completed", "stopped", "superseded", "ack_timeout", "failed", "drained", "lost")


def _server_table() -> dict[tuple[ServerState, ServerEvent], ServerStep]:
    state, event, effect = ServerState, ServerEvent, Effect
    idle, answering, finishing, closed = state.IDLE, state.ANSWERING, state.FINISHING, state.CLOSED
    stop_source = (effect.CANCEL, effect.SEND_END)
    table = {
        (idle, event.STALE_ACK): ServerStep(idle, (effect.COUNT_STALE_ACK,)),  # R2
        (idle, event.STOP): ServerStep(idle, (effect.COUNT_STALE_STOP,)),  # R4
        (idle, event.PROMPT): ServerStep(answering, (effect.START,)),  # R5
        (idle, event.BINARY): ServerStep(closed, (effect.CLOSE_UNSUPPORTED_DATA,)),  # R11
        (idle, event.TOO_BIG): ServerStep(closed, (effect.CLOSE_TOO_BIG,)),  # R12
        (idle, event.DRAIN): ServerStep(closed, (effect.CLOSE_GOING_AWAY,)),  # R15
        (idle, event.LOST): ServerStep(closed),  # R14
        (answering, event.ACK): ServerStep(answering, (effect.RESUME,)),  # R1
        (answering, event.LAST_ACK): ServerStep(answering, (effect.RESUME,)),  # R1
        (answering, event.TOKEN): ServerStep(answering, (effect.SEND_TOKEN,)),  # R9
        (answering, event.TOKEN_HELD): ServerStep(answering, (effect.HOLD,)),  # R9
        (answering, event.SOURCE_FINISHED): ServerStep(finishing),  # R7
        (answering, event.SOURCE_FINISHED_ACKED): ServerStep(idle, (effect.SEND_END,), "completed"),  # R7
        (answering, event.SOURCE_FAILED): ServerStep(idle, (effect.CANCEL, effect.SEND_ERROR, effect.SEND_END), "failed"),  # R13
        (answering, event.ACK_TIMEOUT): ServerStep(idle, stop_source, "ack_timeout"),  # R8
        (finishing, event.ACK): ServerStep(finishing),  # R1
        (finishing, event.LAST_ACK): ServerStep(idle, (effect.SEND_END,), "completed"),  # R7
        (finishing, event.ACK_TIMEOUT): ServerStep(idle, (effect.SEND_END,), "ack_timeout"),  # R7
        # Whatever was in flight when the connection went is of no account; leaving twice is leaving once (R14).
        (closed, event.STALE_ACK): ServerStep(closed),
        (closed, event.STOP): ServerStep(closed),
        (closed, event.PROMPT): ServerStep(closed),
        (closed, event.BINARY): ServerStep(closed),
        (closed, event.TOO_BIG): ServerStep(closed),
        (closed, event.DRAIN): ServerStep(closed),
        (closed, event.LOST): ServerStep(closed),
    }
    for busy in (answering, finishing):
        table[busy, event.STALE_ACK] = ServerStep(busy, (effect.COUNT_STALE_ACK,))  # R2
        table[busy, event.STOP] = ServerStep(idle, stop_source, "stopped")  # R3
        table[busy, event.PROMPT] = ServerStep(answering, (effect.CANCEL, effect.START), "superseded")  # R6
        table[busy, event.BINARY] = ServerStep(closed, (effect.CANCEL, effect.CLOSE_UNSUPPORTED_DATA), "lost")  # R11
        table[busy, event.TOO_BIG] = ServerStep(closed, (effect.CANCEL, effect.CLOSE_TOO_BIG), "lost")  # R12
        table[busy, event.DRAIN] = ServerStep(closed, (*stop_source, effect.CLOSE_GOING_AWAY), "drained")  # R15
        table[busy, event.LOST] = ServerStep(closed, (effect.CANCEL,), "lost")  # R14
    return table


SERVER: Final[Mapping[tuple[ServerState, ServerEvent], ServerStep]] = MappingProxyType(_server_table())


class ServerRole:
    """The server's side of one connection: a state, how many tokens are unacknowledged, and the window.

    Every method takes one event and returns the table's step: the effects are to be carried out in order, and
    `outcome` names how an answer that this event ended has ended. `window` >= 0; 0 means no acknowledgements.
    Raises `ProtocolError` for an event the state does not allow, and then nothing has changed.
    """

    __slots__ = ("state", "unacked", "window")

    def __init__(self, window: int = DEFAULT_WINDOW) -> None:
        if window < 0:
            raise ValueError(f"the window is a number of tokens, 0 or more, not {window}")
        self.state = ServerState.IDLE
        self.unacked = 0
        self.window = window

    @property
    def answering(self) -> bool:
        """Whether an answer is under way: its source runs, or its last tokens wait for their acknowledgements."""
        return self.state is ServerState.ANSWERING or self.state is ServerState.FINISHING

    @property
    def waiting_for_ack(self) -> bool:
        """Whether nothing can go on before an acknowledgement comes (the ack timeout runs)."""
        if self.state is ServerState.ANSWERING:
            return 0 < self.window <= self.unacked
        return self.state is ServerState.FINISHING

    def text_received(self, text: str) -> ServerStep:
        """Take a text message: an acknowledgement, a stop or a prompt (R1 to R6)."""
        if not text:
            unacked = self.unacked
            if not unacked:
                return self._step(ServerEvent.STALE_ACK)
            step = self._step(ServerEvent.ACK if unacked > 1 else ServerEvent.LAST_ACK)
            self.unacked = unacked - 1
            return step
        return self._step(ServerEvent.STOP if text == STOP else ServerEvent.PROMPT)

    def binary_received(self) -> ServerStep:
        """Take a binary message (R11)."""
        return self._step(ServerEvent.BINARY)

    def too_big_received(self) -> ServerStep:
        """Take a text that is longer than the limit, or in too many fragments (R12)."""
        return self._step(ServerEvent.TOO_BIG)

    def token_ready(self) -> ServerStep:
        """The source has a token: it is to be sent and counted as unacknowledged, or held while the window is full (R9)."""
        if not self.window:
            return self._step(ServerEvent.TOKEN)
        if self.unacked >= self.window:
            return self._step(ServerEvent.TOKEN_HELD)
        step = self._step(ServerEvent.TOKEN)
        self.unacked += 1
        return step

    def source_finished(self) -> ServerStep:
        """The source has no more tokens: the end goes out now, or when the last one is acknowledged (R7)."""
        return self._step(ServerEvent.SOURCE_FINISHED if self.unacked else ServerEvent.SOURCE_FINISHED_ACKED)

    def source_failed(self) -> ServerStep:
        """The source raised (R13)."""
        return self._step(ServerEvent.SOURCE_FAILED)

    def ack_timed_out(self) -> ServerStep:
        """Nothing was acknowledged for the ack timeout although the answer waited for it (R7, R8)."""
        return self._step(ServerEvent.ACK_TIMEOUT)

    def drain(self) -> ServerStep:
        """The server is about to leave (R15)."""
        return self._step(ServerEvent.DRAIN)

    def connection_lost(self) -> ServerStep:
        """The connection is gone, whatever the reason; idempotent (R14)."""
        return self._step(ServerEvent.LOST)

    def _step(self, event: ServerEvent) -> ServerStep:
        step = SERVER.get((self.state, event))
        if step is None:
            raise ProtocolError(f"the server's side knows no {event.name} while {self.state.name}")
        self.state = step.state
        if step.outcome is not None or Effect.START in step.effects:
            self.unacked = 0  # R3, R5, R6: credit never outlives its answer
        return step


def escape_token(text: str, *, html: bool = False) -> str:
    """Return the text a token may go out with (R10): never END; `html` escapes `& < >` for pages that use innerHTML.

    An empty text stays empty: it is an acknowledgement's spelling, so the caller skips that token.
    """
    if text == END:
        return ESCAPED_END
    if html:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text


# -- the client's role -------------------------------------------------------------------------------------------------


class ClientState(enum.IntEnum):
    """Where the conversation of one connection stands, seen by a client."""

    IDLE = 0
    WAITING = 1  # a prompt is sent, no token has come
    STREAMING = 2
    STOPPING = 3  # stop is sent, the end has not come
    CLOSED = 4


class ClientEvent(enum.IntEnum):
    """What a client did (PROMPT_SENT, STOP_SENT), received (TOKEN, END) or suffered (STALLED, CLOSED)."""

    PROMPT_SENT = 0
    TOKEN = 1
    END = 2
    STOP_SENT = 3
    STALLED = 4
    CLOSED = 5


STARTED: Final = "started"
FIRST_TOKEN: Final = "first_token"  # noqa: S105
TOKEN: Final = "token"  # noqa: S105
OVERRUN_TOKEN: Final = "overrun_token"  # came after stop was sent  # noqa: S105
EMPTY: Final = "empty"  # an end without a token
COMPLETED: Final = "completed"
STOPPED: Final = "stopped"
GHOST_TOKEN: Final = "ghost_token"  # a token of an answer nobody asked for  # noqa: S105
DOUBLE_END: Final = "double_end"  # an end of an answer nobody asked for
STOP_SENT: Final = "stop_sent"
STOP_IDLE: Final = "stop_idle"  # a stop without an answer, or a second one: the server ignores it
STALLED: Final = "stalled"
CONNECTION_LOST: Final = "connection_lost"
CLOSED: Final = "closed"

VERDICTS: Final = (
    STARTED,
    FIRST_TOKEN,
    TOKEN,
    OVERRUN_TOKEN,
    EMPTY,
    COMPLETED,
    STOPPED,
    GHOST_TOKEN,
    DOUBLE_END,
    STOP_SENT,
    STOP_IDLE,
    STALLED,
    CONNECTION_LOST,
    CLOSED,
)


class ClientStep(NamedTuple):
    """One entry of the client's table: the next state, and the verdict (one of `VERDICTS`) on what happened."""

    state: ClientState
    verdict: str


def _client_table() -> dict[tuple[ClientState, ClientEvent], ClientStep]:
    state, event = ClientState, ClientEvent
    table = {
        (state.IDLE, event.PROMPT_SENT): ClientStep(state.WAITING, STARTED),
        (state.IDLE, event.TOKEN): ClientStep(state.IDLE, GHOST_TOKEN),
        (state.IDLE, event.END): ClientStep(state.IDLE, DOUBLE_END),
        (state.IDLE, event.STOP_SENT): ClientStep(state.IDLE, STOP_IDLE),
        (state.IDLE, event.CLOSED): ClientStep(state.CLOSED, CLOSED),
        (state.WAITING, event.TOKEN): ClientStep(state.STREAMING, FIRST_TOKEN),
        (state.WAITING, event.END): ClientStep(state.IDLE, EMPTY),
        (state.WAITING, event.STOP_SENT): ClientStep(state.STOPPING, STOP_SENT),
        (state.STREAMING, event.TOKEN): ClientStep(state.STREAMING, TOKEN),
        (state.STREAMING, event.END): ClientStep(state.IDLE, COMPLETED),
        (state.STREAMING, event.STOP_SENT): ClientStep(state.STOPPING, STOP_SENT),
        (state.STOPPING, event.TOKEN): ClientStep(state.STOPPING, OVERRUN_TOKEN),
        (state.STOPPING, event.END): ClientStep(state.IDLE, STOPPED),
        (state.STOPPING, event.STOP_SENT): ClientStep(state.STOPPING, STOP_IDLE),
        # What was still under way when the client had given up or been cut off says nothing about the server.
        (state.CLOSED, event.TOKEN): ClientStep(state.CLOSED, CLOSED),
        (state.CLOSED, event.END): ClientStep(state.CLOSED, CLOSED),
        (state.CLOSED, event.CLOSED): ClientStep(state.CLOSED, CLOSED),
    }
    for busy in (state.WAITING, state.STREAMING, state.STOPPING):
        table[busy, event.STALLED] = ClientStep(state.CLOSED, STALLED)  # the client gives the connection up
        table[busy, event.CLOSED] = ClientStep(state.CLOSED, CONNECTION_LOST)
    return table


CLIENT: Final[Mapping[tuple[ClientState, ClientEvent], ClientStep]] = MappingProxyType(_client_table())


def client_step(state: ClientState, event: ClientEvent) -> ClientStep:
    """Look one step of the client's role up; raises `ProtocolError` if the client itself did what it must not."""
    step = CLIENT.get((state, event))
    if step is None:
        raise ProtocolError(f"a client must not cause {event.name} while {state.name}")
    return step
