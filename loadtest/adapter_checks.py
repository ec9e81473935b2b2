"""Is somebody's own adapter one, and do conversations through it with their server go as the figures assume?"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import gevent

from .adapter import ERROR, HTTP, AdapterError, Call, Event, load_adapter, make_adapter, transport_of
from .adapter_table import read_adapter_file
from .arrivals import SECOND_NS, Stop
from .examination import Finding, Skip, Violation, examine
from .opening import ConnectError
from .trial import Trial

_MESSAGES: Final = ("", " ", "{}", "[]", "null", "0", '"text"', "text", '{"type":"unknown"}')


def examine_adapter(given: argparse.Namespace, told: Callable[[Finding], None]) -> list[Finding]:
    """The adapter, and with a URL conversations through it; ValueError when it cannot even be loaded."""
    name = given.adapter or ""
    table: dict[str, Any] = {}
    try:
        if given.adapter_file:
            named, table = read_adapter_file(Path(given.adapter_file))
            name = name or named or ""
        cls = load_adapter(name)
        options = {"window": given.window, **table}
        make_adapter(cls, options)
    except AdapterError as error:
        raise ValueError(str(error)) from None
    checks: list[tuple[str, str, Callable[[], None]]] = [
        ("start", "start makes what can be sent, for every prompt", partial(_start, cls, options)),
        ("receive", "receive tells every message by a whole number, or refuses it", partial(_receive, cls, options)),
        ("stop", "stop makes messages, or none", partial(_stop, cls, options)),
        ("own", "two connections' adapters do not disturb each other", partial(_own, cls, options)),
    ]
    if given.url is None:
        return examine(checks, told)
    trial = Trial(cls, options, given.url, given.patience)
    live = Live(trial, given.prompt)
    checks += [
        ("opens", "a connection opens", live.opens),
        ("answer", "an answer brings tokens and an end", live.answer),
        ("again", "a second answer follows on what is left of the first, and nothing between them", live.again),
        ("stopped", "an answer can be stopped, and nothing of it comes later", live.stopped),
        ("after stop", "an answer after a stopped one is whole", live.after_stop),
        ("others", "a conversation does not hold up the others", live.others),
        ("stamps", "arrivals bear the kernel's stamps", live.stamps),
    ]
    try:
        return examine(checks, told)
    finally:
        trial.close()


def _made(what: str, act: Callable[[], Any]) -> Any:
    try:
        return act()
    except Exception as error:
        raise Violation(f"expected {what}, and it raised {type(error).__name__}: {error}") from None


def _sendable(what: str, found: Any) -> None:
    if isinstance(found, str | bytes) or not isinstance(found, Sequence) or not all(isinstance(one, str | bytes) for one in found):
        raise Violation(f"expected {what} as a list or tuple of texts or bytes, got {found!r:.80}")


def _start(cls: Any, options: dict[str, Any]) -> None:
    adapter = make_adapter(cls, options)
    for prompt in ("hello", "two\nlines", 'quotes " and \\', "words in many scripts: \u00e9\u4e2d\U0001f642", "x" * 5000):
        found: Any = _made(f"start({prompt[:20]!r}) to make what starts a conversation", partial(adapter.start, prompt))
        if transport_of(adapter) == HTTP:
            if not isinstance(found, Call):
                raise Violation(f"expected start to make a Call, got {found!r:.80}")
        else:
            _sendable("the messages of start", found)
            if not found:
                raise Violation("expected at least one message from start, got none")


def _receive(cls: Any, options: dict[str, Any]) -> None:
    adapter: Any = make_adapter(cls, options)
    adapter.start("hello")
    http = transport_of(adapter) == HTTP
    for message in (*_MESSAGES, *(() if http else (b"", b"\x00\xff"))):
        try:
            found = adapter.receive(Event("", message) if http and isinstance(message, str) else message)
        except Exception:  # noqa: S112 - the engine takes any exception as the server's breach of the protocol
            continue
        if type(found) is not int or found < ERROR:
            raise Violation(f"expected receive({message!r}) to tell a whole number from {ERROR} on, got {found!r}")


def _stop(cls: Any, options: dict[str, Any]) -> None:
    adapter = make_adapter(cls, options)
    adapter.start("hello")
    if transport_of(adapter) == HTTP:
        raise Skip("over HTTP to stop is to close the connection")
    _sendable("the messages of stop", _made("stop() to make messages", adapter.stop))


def _own(cls: Any, options: dict[str, Any]) -> None:
    first, second = make_adapter(cls, options), make_adapter(cls, options)
    if first is second:
        raise Violation("expected an adapter of its own for each connection, got the same object twice")
    first.start("one")
    _made("a second adapter to start while the first converses", partial(second.start, "two"))


class Live:
    """Conversations with a real server."""

    def __init__(self, trial: Trial, prompt: str) -> None:
        self._trial = trial
        self._prompt = prompt
        self._messages = 0
        self._first_s = 0.0
        self._gap_s = 0.0

    def opens(self) -> None:
        """The connection of all that follows."""
        try:
            self._trial.connection()
        except ConnectError as error:
            raise Violation(f"expected a connection, got {error.kind} ({error.detail})") from None

    def _ask(self, stop: Stop | None = None) -> dict[str, Any]:
        try:
            row = self._trial.row(self._trial.converse(self._prompt, stop))
        except ConnectError as error:
            raise Violation(f"expected a connection for another conversation, got {error.kind} ({error.detail})") from None
        except ValueError as error:
            raise Violation(f"expected the adapter to start a conversation with {self._prompt!r}: {error}") from None
        if row["outcome"] == "failed":
            raise Violation(f"expected an answer, and it failed: {row['error']} ({row['error_detail']})")
        return row

    def _quiet(self, why: str) -> None:
        before = self._trial.count("ghost_tokens"), self._trial.count("double_ends")
        self._trial.wait(max(0.3, 2.5 * self._gap_s))
        tokens, ends = (self._trial.count(name) - was for name, was in zip(("ghost_tokens", "double_ends"), before, strict=True))
        if tokens or ends:
            raise Violation(f"expected nothing {why}, got {tokens} tokens and {ends} ends")

    def _whole(self, why: str) -> None:
        row = self._ask()
        if row["outcome"] == "empty":
            raise Violation(f"expected tokens {why}, got the end without any")
        if row["outcome"] != "completed":
            raise Violation(f"expected an end {why}, got the outcome {row['outcome']}")
        self._messages = self._messages or row["messages"]
        self._first_s = max(self._first_s, row["ttft_ns"] / SECOND_NS)
        self._gap_s = max(self._gap_s, (row["longest_stall_ns"] or 0) / SECOND_NS)

    def answer(self) -> None:
        """Tokens and an end."""
        self._whole("in an answer")
        self._quiet("after the end of an answer")

    def again(self) -> None:
        """The same once more."""
        self._whole("in a second answer")
        self._quiet("after the end of a second answer")

    def stopped(self) -> None:
        """A stop in the middle."""
        if self._messages < 4:
            raise Skip(f"needs an answer of four messages or more; this one had {self._messages}")
        row = self._ask(Stop(tokens=2))
        if row["outcome"] == "completed":
            raise Skip("the answer had ended before the stop was sent")
        if row["outcome"] != "stopped":
            raise Violation(f"expected the outcome stopped, got {row['outcome']}")
        latency = row["stop_latency_ns"]
        if latency is not None and latency / SECOND_NS > max(0.2, 0.9 * self._gap_s) and self._gap_s > 0.05:
            took, gap = latency / 1e6, self._gap_s * 1e3
            raise Violation(f"expected the end at once after stop, got it {took:.0f} ms later, where a token takes {gap:.0f} ms")
        self._quiet("after a stopped answer (a ghost answer)")

    def after_stop(self) -> None:
        """The answer after a stopped one."""
        row = self._ask()
        if row["outcome"] != "completed":
            raise Violation(f"expected a whole answer after a stopped one, got the outcome {row['outcome']}")
        if self._messages and row["messages"] < self._messages // 2:
            raise Violation(f"expected a whole answer of about {self._messages} messages after a stopped one, got {row['messages']}")

    def others(self) -> None:
        """Eight at once."""
        if not self._messages:
            raise Skip("needs an answer")
        try:
            connections = [self._trial.connect() for _ in range(8)]
        except ConnectError as error:
            raise Violation(f"expected eight connections, got {error.kind} ({error.detail})") from None
        jobs = [gevent.spawn(self._trial.converse, self._prompt, Stop(tokens=1), one) for one in connections]
        gevent.joinall(jobs)
        rows = [self._trial.row(job.get()) for job in jobs]
        for one in connections:
            one.close(timeout_s=1.0)
        if failed := [row for row in rows if row["first_token_at_ns"] is None]:
            raise Violation(
                f"expected eight answers at once, and {len(failed)} had no token ({failed[0]['error'] or failed[0]['outcome']})"
            )
        slowest = max(row["ttft_ns"] for row in rows) / SECOND_NS
        if slowest > 2.5 * self._first_s + 0.3:
            raise Violation(
                f"expected the first tokens of eight answers at once within about {self._first_s * 1e3:.0f} ms as that of one, "
                f"got the last after {slowest * 1e3:.0f} ms: a conversation holds up the others"
            )

    def stamps(self) -> None:
        """Kernel stamps."""
        if missing := self._trial.count("unstamped"):
            raise Violation(f"expected a stamp with every read, and {missing} had none: latencies would contain the reader's own delay")
