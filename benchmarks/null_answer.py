"""What the null server answers: the numbers of an answer, from options and a connection's query, and how far one is. Pure."""

from __future__ import annotations

import dataclasses
import functools
from typing import Final
from urllib.parse import parse_qsl

SHORT_WINDOW: Final = 16  # so few small frames always fit into a send buffer: the short path needs no queue


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What each answer of a connection is like. Raises `ValueError` for a value out of its range."""

    tokens: int = 100  # 0 or more
    gap_ms: float = 0.0  # between two sends, on an absolute schedule; 0 is as fast as it is acknowledged
    ttft_ms: float = 0.0  # from the prompt to the first send
    window: int = 1  # unacknowledged tokens at most; 0 means no acknowledgements; at least `pack`
    pack: int = 1  # frames in one send, so in one segment
    join: int = 1  # tokens' texts in one frame
    stamp: int = 0  # 1: a token says time.time_ns() of the moment it is sent
    close: int = 0  # 1: the server closes after its first answer
    leak: int = 0  # 1: the server keeps its socket when the client has gone

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, least, most in (("tokens", 0, 10**9), ("gap_ms", 0, 60_000), ("ttft_ms", 0, 60_000), ("window", 0, 65_536)):
            _check(name, getattr(self, name), least, most)
        _check("pack", self.pack, 1, 64)
        _check("join", self.join, 1, 5)  # five stamps still fit into a small frame
        for name in ("stamp", "close", "leak"):
            _check(name, getattr(self, name), 0, 1)
        if 0 < self.window < self.pack:
            raise ValueError(f"window={self.window} never lets pack={self.pack} tokens go at once; use a window of 0 or of at least pack")

    @property
    def short_path(self) -> bool:
        """Whether each acknowledgement is answered with one constant token at once."""
        plain = self.gap_ms == self.ttft_ms == self.stamp == 0 and self.pack == self.join == 1
        return plain and 1 <= self.window <= SHORT_WINDOW


def _check(name: str, value: float, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} is {least} to {most}, not {value}")


KINDS: Final = {field.name: float if field.name.endswith("_ms") else int for field in dataclasses.fields(Answer)}


@functools.lru_cache(maxsize=4096)
def answer_for(query: bytes, default: Answer) -> Answer:
    """Return `default` as changed by a query such as `tokens=100&gap_ms=20`; raises `ValueError` with one sentence."""
    chosen: dict[str, float] = {}
    for name, text in parse_qsl(query.decode("ascii"), keep_blank_values=True):
        if name not in KINDS:
            raise ValueError(f"the null server knows no parameter {name!r}; known are {', '.join(KINDS)}")
        chosen[name] = KINDS[name](text)
    return dataclasses.replace(default, **chosen)  # type: ignore[arg-type]


class Connection:
    """One client: what came in part, what could not be sent yet, and how far its answer is."""

    __slots__ = ("answer", "answering", "closing", "due_ns", "held", "owed", "partial", "queue", "serial", "unacked", "undue", "upgraded")

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.upgraded = False
        self.closing = False
        self.partial = b""
        self.queue = b""
        self.answering = False
        self.serial = 0  # of its answer, unique: entries of the schedule that belong to an older one are void
        self.undue = 0  # tokens whose time has not come
        self.held = 0  # what `earned` says, while part of a frame waits for its rest and the short path must not read
        self.owed = 0  # tokens that are due and wait for the window or the send buffer
        self.unacked = 0
        self.due_ns = 0
