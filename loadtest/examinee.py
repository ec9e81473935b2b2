"""A server under examination, and a dialogue with it: one connection on which every word that comes is kept and judged."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from websockets.exceptions import ConnectionClosed, InvalidHandshake, WebSocketException

from server.protocol import ACK, END

from .examination import Skip, UnreachableError, Violation
from .waiting import WaitingSocket

PROMPT: Final = "tell me"


@dataclass(slots=True)
class Pace:
    """How the server answered the first prompt: the longest gap in s, and the number of tokens of each answer that was heard out."""

    gap_s: float = 0.0
    lengths: list[int] = field(default_factory=list)

    @property
    def quiet_s(self) -> float:
        """After this long without a word, none is on its way."""
        return max(0.3, 2.5 * self.gap_s)

    @property
    def length(self) -> int | None:
        """Tokens of an answer, where all had as many."""
        return self.lengths[0] if len(set(self.lengths)) == 1 and len(self.lengths) > 1 else None


@dataclass(slots=True)
class Subject:
    """The server under examination. ``window`` tokens may be unacknowledged; None for what is not known of it."""

    url: str
    window: int = 1
    patience_s: float = 20.0
    ack_timeout_s: float | None = None
    pid: int | None = None
    pace: Pace = field(default_factory=Pace)
    takes_parameters: bool = False

    def with_query(self, **parameters: object) -> Subject:
        """The same server asked for something by the reference server's parameters; Skip where it does not know them."""
        if not self.takes_parameters:
            raise Skip("needs the reference server's parameters, which this server does not take")
        parts = urlsplit(self.url)
        kept = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in parameters]
        query = urlencode([*kept, *((name, str(value)) for name, value in parameters.items())])
        window = int(str(parameters.get("window", self.window)))
        return Subject(urlunsplit(parts._replace(query=query)), window, self.patience_s, None, None, self.pace, True)


class Dialogue:
    """One connection; every word that comes is kept. Used in a ``with`` block."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.heard: list[str] = []
        self._held = ExitStack()
        try:
            opening = WaitingSocket(
                subject.url, compression=None, proxy=None, open_timeout=subject.patience_s, close_timeout=2, ping_interval=None,
                user_agent_header=None,
            )  # fmt: skip
            self.socket = self._held.enter_context(opening)
        except (OSError, InvalidHandshake, WebSocketException, ValueError, TimeoutError) as error:
            raise UnreachableError(f"no WebSocket at {subject.url}: {error}") from None

    def __enter__(self) -> Dialogue:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def say(self, text: str) -> None:
        """Send a text."""
        try:
            self.socket.send(text)
        except ConnectionClosed as closed:
            raise Violation(f"expected an open connection, and it was closed with {_code(closed)}") from None

    def hear(self, timeout_s: float) -> str | None:
        """The next text, or None when none has come in time."""
        try:
            message = self.socket.recv(timeout=timeout_s)
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            raise Violation(f"expected an open connection, and it was closed with {_code(closed)}") from None
        if not isinstance(message, str):
            raise Violation("expected text, got a binary message")
        if not message:
            raise Violation("expected a token with text (R10), got an empty one")
        self.heard.append(message)
        return message

    def expect_token(self, why: str) -> str:
        """A token; Violation when the end, or nothing, comes instead."""
        word = self.hear(self.subject.patience_s)
        if word is None:
            raise Violation(f"expected a token {why}, got nothing for {self.subject.patience_s:g} s")
        if word == END:
            raise Violation(f"expected a token {why}, got {END}")
        return word

    def expect_end(self, why: str, timeout_s: float | None = None) -> None:
        """The end, and no token before it."""
        limit = self.subject.patience_s if timeout_s is None else timeout_s
        word = self.hear(limit)
        if word != END:
            raise Violation(f"expected {END} {why}, got {shown(word)}" + (f" for {limit:.2g} s" if word is None else ""))

    def expect_quiet(self, why: str, timeout_s: float | None = None) -> None:
        """No word at all."""
        word = self.hear(self.subject.pace.quiet_s if timeout_s is None else timeout_s)
        if word is not None:
            raise Violation(f"expected nothing {why}, got {shown(word)}")

    def take(self, tokens: int, why: str) -> None:
        """So many tokens, each acknowledged."""
        for _ in range(tokens):
            self.expect_token(why)
            self.acknowledge()

    def acknowledge(self) -> None:
        """Acknowledge one token, where the server wants that."""
        if self.subject.window:
            self.say(ACK)

    def hear_out(self, why: str) -> int:
        """Acknowledge every token up to the end, and hear that nothing follows; the number of tokens."""
        tokens = 0
        while True:
            word = self.hear(self.subject.patience_s)
            if word is None:
                raise Violation(f"expected {END} {why}, got nothing for {self.subject.patience_s:g} s after {tokens} tokens")
            if word == END:
                break
            tokens += 1
            self.acknowledge()
        self.expect_quiet(f"after {END}")
        return tokens

    def expect_close(self, code: int, why: str) -> None:
        """The connection to be closed with this code; tokens may still come before."""
        deadline = time.monotonic() + self.subject.patience_s
        try:
            while (left := deadline - time.monotonic()) > 0:
                self.socket.recv(timeout=left)
        except TimeoutError:
            pass
        except ConnectionClosed as closed:
            if _code(closed) == code:
                return
            raise Violation(f"expected the connection to be closed with {code} {why}, got {_code(closed)}") from None
        raise Violation(f"expected the connection to be closed with {code} {why}, and it stayed open")

    def drop(self) -> None:
        """Vanish: a reset, no close frame."""
        self.socket.drop()


def _code(closed: ConnectionClosed) -> int:
    return 1006 if closed.rcvd is None else closed.rcvd.code


def shown(word: str | None) -> str:
    """A word for a sentence."""
    return "nothing" if word is None else repr(word if len(word) <= 40 else word[:37] + "...")


def acquaint(subject: Subject) -> None:
    """One answer heard out, to learn the server's pace; UnreachableError without a server. What is wrong with it is told by the rules."""
    with Dialogue(subject) as dialogue:
        try:
            dialogue.say(PROMPT)
            before, tokens = time.monotonic(), 0
            while dialogue.hear(subject.patience_s) not in (None, END):
                now = time.monotonic()
                subject.pace.gap_s = max(subject.pace.gap_s, min(now - before, subject.patience_s / 4))
                before, tokens = now, tokens + 1
                dialogue.acknowledge()
            subject.pace.lengths.append(tokens)
        except Violation:
            return
    subject.takes_parameters = _refuses_nonsense(subject)


def _refuses_nonsense(subject: Subject) -> bool:
    """Whether the server reads the reference server's parameters: those refuse a name that they do not know."""
    parts = urlsplit(subject.url)
    nonsense = f"{parts.query}&no_such_parameter=1" if parts.query else "no_such_parameter=1"
    try:
        with Dialogue(Subject(urlunsplit(parts._replace(query=nonsense)), patience_s=subject.patience_s)):
            return False
    except UnreachableError as error:
        return "400" in str(error)
