"""The timeline of one conversation: from events with times to one row and its tokens' gaps. No socket, no clock.

The engine appends two integers a token in its hot path: ``arrivals`` (wall clock, the kernel's stamp) and ``reads`` (monotonic
clock). Everything else is derived here in bulk: ``measure`` turns the lists of many conversations into arrays at once, and
``finished_row`` turns one finished conversation into its row. Reads double as the instants at which acknowledgements were sent:
the engine reads the clock once between receiving and sending.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from server.protocol import COMPLETED, EMPTY, STOPPED, ClientEvent, ClientState, client_step

from .yardsticks import Yardsticks

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

NEVER = -1
"""Stands for an instant that has not come."""


class Conversation:
    """One prompt and what came of it; instants are raw clock readings in nanoseconds, NEVER where they have not come.

    ``sent``, ``due``, ``stop_sent``, ``ended_read`` and ``reads`` are monotonic; ``arrivals`` and ``ended_arrival`` are wall clock and
    become monotonic by subtracting ``offset`` (wall minus monotonic, as it stood when the conversation started).
    """

    __slots__ = (
        "arrivals", "coalesced", "connection", "cut", "detail", "due", "ended_arrival", "ended_read", "error", "excess", "extra_tokens",
        "extras", "first_arrival", "lag_max", "last_arrival", "late", "longest", "number", "offset", "outcome", "overrun", "reads",
        "received_bytes", "recorded", "reported", "sent", "stalls", "stop_delay_s", "stop_index", "stop_sent", "taint", "texts", "users",
        "window",
    )  # fmt: skip

    def __init__(self, connection: int, number: int, users: int, window: int, due: int = NEVER) -> None:
        self.connection = connection
        self.number = number
        self.users = users
        self.window = window
        self.due = due
        self.sent = NEVER
        self.offset = 0
        self.arrivals: list[int] = []
        self.reads: list[int] = []
        self.texts: list[str] | None = None
        # Length of ``arrivals`` at which a stop is to be arranged; NEVER = none.
        self.stop_index = NEVER
        self.stop_delay_s = 0.0
        self.stop_sent = NEVER
        self.ended_arrival = NEVER
        self.ended_read = NEVER
        self.outcome = ""
        self.error: str | None = None
        self.detail: str | None = None
        self.taint: str | None = None
        self.received_bytes = 0
        # Tokens beyond the first of messages that carried several; and those not measured yet, each with its place in ``arrivals``.
        self.extra_tokens = 0
        self.extras: list[tuple[int, int]] | None = None
        # How many tokens the server itself says there were; it stands in place of the number counted.
        self.reported: int | None = None
        # What earlier drains have already recorded: entries cut from the lists, and how many of those left are recorded.
        self.cut = 0
        self.recorded = 0
        self.first_arrival = NEVER
        self.last_arrival = NEVER
        self.longest = NEVER
        self.lag_max = 0
        self.coalesced = 0
        self.overrun = 0
        self.stalls = 0
        # Tokens after a reader's deadline, and by how much the deadlines have been put off for them.
        self.late = 0
        self.excess = 0

    @property
    def messages(self) -> int:
        """Messages with tokens that have come so far."""
        return self.cut + len(self.arrivals)

    @property
    def state(self) -> ClientState:
        """Where the conversation stands in the client's table."""
        if self.stop_sent != NEVER:
            return ClientState.STOPPING
        return ClientState.STREAMING if self.messages else ClientState.WAITING

    def add_extra(self, tokens: int) -> None:
        """The message appended last carried so many tokens beyond its first."""
        self.extra_tokens += tokens
        if self.extras is None:
            self.extras = []
        self.extras.append((len(self.arrivals) - 1, tokens))

    def report(self, tokens: int) -> None:
        """The server says how many tokens the answer had; nothing is believed of an answer that it says had none, or that brought none."""
        if tokens > 0 and self.messages:
            self.reported = tokens

    @property
    def tokens(self) -> int:
        """Tokens that have come: as many as the server says, else as many as were counted."""
        return self.messages + self.extra_tokens if self.reported is None else self.reported

    def end(self, arrival: int, read: int) -> None:
        """The end message has come: the table names the outcome."""
        self.ended_arrival, self.ended_read = arrival, read
        verdict = client_step(self.state, ClientEvent.END).verdict
        if verdict == STOPPED and arrival - self.offset <= self.stop_sent:
            # The end was already in the kernel when stop was sent: the server never had a running answer to stop.
            verdict = COMPLETED if self.messages else EMPTY
        self.outcome = {COMPLETED: "completed", STOPPED: "stopped", EMPTY: "empty"}[verdict]

    def fail(self, kind: str, detail: str, now: int) -> None:
        """An error has ended it; ``kind`` is one of ``metrics.ERRORS``."""
        self.ended_read = now
        self.outcome, self.error, self.detail = "failed", kind, detail[:500]

    def abandon(self, now: int) -> None:
        """The end of the run cuts it."""
        self.ended_read = now
        self.outcome = "abandoned"

    def cancel(self, now: int) -> None:
        """It was stopped by closing its connection: no end message can come, so there is no stop latency."""
        self.ended_read = now
        self.outcome = "stopped"

    @property
    def stop_crossed(self) -> bool:
        """Whether stop was sent after the end had arrived."""
        return self.stop_sent != NEVER and self.outcome in ("completed", "empty")


@dataclass(frozen=True, slots=True)
class Measured:
    """New tokens of many conversations, one entry a message, in the order of the conversations; instants are monotonic.

    ``gap`` and ``latency`` are NEVER where there is none: no earlier token, or a window that was not full. ``owner`` is the
    position of the conversation in what ``measure`` was given, ``extra`` the number of tokens beyond the first in the message.
    """

    owner: Ints
    sequence: Ints
    arrival: Ints
    read: Ints
    gap: Ints
    latency: Ints
    extra: Ints
    coalesced: Flags
    texts: list[str | None]

    @property
    def lag(self) -> Ints:
        """Read minus arrival."""
        return self.read - self.arrival


def _concatenated(lists: Iterable[Sequence[int]], length: int) -> Ints:
    return np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=length)


_DEFAULT = Yardsticks()
_FAR = 1 << 45
"""Beyond this lateness (9.8 hours) a reader's deadline is put off no further."""


def measure(conversations: Sequence[Conversation], yardsticks: Yardsticks = _DEFAULT) -> Measured:
    """Derive the gaps, latencies and lags of all tokens not yet recorded, and mark them as recorded.

    ``gap`` is arrival(k) - arrival(k-1). ``latency`` is arrival(k) minus the acknowledgement of token k - W, where the window was
    full when that acknowledgement was sent (token k - 1 had arrived by then) and the token came after it; with W = 1 the
    acknowledged token is token k - 1 itself. k counts messages, each of which has one acknowledgement. The lists are cut to the last
    W entries, which later tokens still need. Updates each conversation's running extremes and what ``yardsticks`` count.
    """
    fresh = [(position, c) for position, c in enumerate(conversations) if len(c.arrivals) > c.recorded]
    lengths = np.array([len(c.arrivals) for _, c in fresh], dtype=np.int64)
    total = int(lengths.sum())
    if total == 0:
        none = np.empty(0, dtype=np.int64)
        return Measured(none, none, none, none, none, none, none, np.empty(0, dtype=np.bool_), [])

    def spread(values: Iterable[int]) -> Ints:
        return np.repeat(np.fromiter(values, dtype=np.int64, count=len(fresh)), lengths)

    arrival = _concatenated((c.arrivals for _, c in fresh), total) - spread(c.offset for _, c in fresh)
    read = _concatenated((c.reads for _, c in fresh), total)
    starts = np.cumsum(lengths) - lengths
    place = np.arange(total, dtype=np.int64)
    index = place - np.repeat(starts, lengths)
    previous = np.maximum(place - 1, 0)
    first = index == 0
    gap = np.where(first, NEVER, arrival - arrival[previous])
    # A stamp never runs backwards within a connection but for a step of the wall clock, which taints the conversation.
    gap = np.where(~first & (gap < 0), 0, gap)
    coalesced = ~first & (read == read[previous]) & (arrival == arrival[previous])
    window = spread(c.window for _, c in fresh)
    opener = place - window
    opened = (window > 0) & (index >= window)
    acknowledged = read[np.maximum(opener, 0)]
    # Two clocks that agree but for their reading error must not empty the window of one.
    opened &= ((window == 1) | (arrival[previous] <= acknowledged)) & (arrival >= acknowledged)
    latency = np.where(opened, arrival - acknowledged, NEVER)
    new = index >= spread(c.recorded for _, c in fresh)
    stop = spread(c.stop_sent for _, c in fresh)
    overrun = new & (stop != NEVER) & (arrival > stop)
    extra = np.zeros(total, dtype=np.int64)
    several = False
    number = index + spread(c.cut + c.extra_tokens for _, c in fresh)
    for (_, c), start in zip(fresh, starts.tolist(), strict=True):
        if c.extras is not None:
            several = True
            for at, count in c.extras:
                extra[start + at] = count
            c.extras = None
    if several:
        # The number of a message's first token: those that came with it or after it are not before it.
        following = np.add.reduceat(extra, starts)
        before = np.cumsum(extra) - extra
        number += before - np.repeat(before[starts] + following, lengths)
    sent = spread(c.sent for _, c in fresh)
    excess, late = _late(arrival - sent - yardsticks.first_ns - number * yardsticks.gap_ns, new, starts, lengths, fresh)
    stalls = np.add.reduceat(new & (gap > yardsticks.stall_ns), starts, dtype=np.int64).tolist()

    lag_max = np.maximum.reduceat(np.where(new, read - arrival, 0), starts).tolist()
    longest = np.maximum.reduceat(np.where(new, gap, NEVER), starts).tolist()
    joined = np.add.reduceat(new & coalesced, starts, dtype=np.int64).tolist()
    after_stop = np.add.reduceat(np.where(overrun, 1 + extra, 0), starts).tolist()
    firsts = arrival[starts].tolist()
    lasts = arrival[starts + lengths - 1].tolist()
    texts: list[str | None] = []
    for i, (_, c) in enumerate(fresh):
        if c.first_arrival == NEVER:
            c.first_arrival = firsts[i]
        c.last_arrival = lasts[i]
        c.lag_max = max(c.lag_max, lag_max[i])
        c.longest = max(c.longest, longest[i])
        c.coalesced += joined[i]
        c.overrun += after_stop[i]
        c.stalls += stalls[i]
        c.late += late[i]
        c.excess = excess[i]
        count = len(c.arrivals)
        if c.texts is None:
            texts += [None] * (count - c.recorded)
        else:
            texts += c.texts[: count - c.recorded]
            del c.texts[: count - c.recorded]
    owner = spread(position for position, _ in fresh)[new]
    sequence = (index + spread(c.cut for _, c in fresh))[new]
    for _, c in fresh:
        keep = max(c.window, 1)
        surplus = len(c.arrivals) - keep
        if surplus > 0:
            del c.arrivals[:surplus], c.reads[:surplus]
            c.cut += surplus
            if c.stop_index != NEVER:
                c.stop_index -= surplus
        c.recorded = len(c.arrivals)
    return Measured(owner, sequence, arrival[new], read[new], gap[new], latency[new], extra[new], coalesced[new], texts)


def _late(beyond: Ints, new: Flags, starts: Ints, lengths: Ints, fresh: Sequence[tuple[int, Conversation]]) -> tuple[list[int], list[int]]:
    """How far each conversation's deadlines are put off after its new tokens, and how many of those came late.

    ``beyond``: how far each token lies beyond the deadline that it had if none before it was late. A late token puts all later
    deadlines off so far that it itself would have been in time; so a token is late when it lies further beyond than every one before.
    """
    far = min(_FAR, (1 << 62) // (len(fresh) + 1))
    # Conversations stand one above the other, so that one running maximum serves them all.
    floor = np.arange(len(fresh), dtype=np.int64) * far
    before = np.fromiter((c.excess for _, c in fresh), dtype=np.int64, count=len(fresh)) + floor
    level = np.clip(np.where(new, beyond, 0), 0, far - 1) + np.repeat(floor, lengths)
    np.maximum(level, np.repeat(before, lengths), out=level)
    reached = np.maximum.accumulate(level)
    earlier = np.empty_like(reached)
    earlier[1:] = reached[:-1]
    earlier[starts] = before
    late = np.add.reduceat(new & (level > earlier), starts, dtype=np.int64)
    return (reached[starts + lengths - 1] - floor).tolist(), late.tolist()


def finished_row(c: Conversation, origin: int) -> dict[str, Any]:
    """The row of one conversation whose tokens are all measured; instants relative to ``origin`` (monotonic ns)."""
    tokens = c.tokens
    first = None if c.first_arrival == NEVER else c.first_arrival
    due = None if c.due == NEVER else c.due
    ended = None if c.ended_arrival == NEVER else c.ended_arrival - c.offset
    own_end = ended if c.outcome == "completed" else None
    stop = None if c.stop_sent == NEVER else c.stop_sent

    def since(start: int | None, instant: int | None) -> int | None:
        # Stamps and reads come from two clocks that agree to well under a microsecond; less than nothing is nothing.
        return None if start is None or instant is None else max(0, instant - start)

    def at(instant: int | None) -> int | None:
        return None if instant is None else instant - origin

    return {
        "connection": c.connection,
        "conversation": c.number,
        "users": c.users,
        "sent_at_ns": c.sent - origin,
        "tokens": tokens,
        "messages": c.messages,
        "coalesced": c.coalesced,
        "window": c.window,
        "received_bytes": c.received_bytes,
        "receive_lag_max_ns": c.lag_max,
        "outcome": c.outcome,
        "stop_crossed": c.stop_crossed,
        "tainted": c.taint is not None,
        "due_at_ns": at(due),
        "first_token_at_ns": at(first),
        "last_token_at_ns": None if first is None else c.last_arrival - origin,
        "end_at_ns": at(ended),
        "stop_sent_at_ns": at(stop),
        "send_delay_ns": since(due, c.sent),
        "ttft_ns": since(c.sent, first),
        "ttft_due_ns": since(due, first),
        "e2e_ns": since(c.sent, own_end),
        "e2e_due_ns": since(due, own_end),
        "tpot_ns": None if first is None or tokens < 2 else max(0, c.last_arrival - first) // (tokens - 1),
        "longest_stall_ns": None if c.longest == NEVER else c.longest,
        "stalls": c.stalls,
        "late_tokens": c.late,
        "stop_latency_ns": since(stop, ended) if c.outcome == "stopped" else None,
        # Of a conversation that was stopped by closing its connection nobody sees what the server still sent.
        "overrun_tokens": None if stop is None or (c.outcome == "stopped" and ended is None) else c.overrun,
        "error": c.error,
        "error_detail": c.detail,
        "taint": c.taint,
    }
