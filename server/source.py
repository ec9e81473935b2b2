"""Where tokens come from when it is no schedule: text of a file, or somebody else who delivers them when he likes."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from .parameters import Plan

MAX_FILE_BYTES: Final = 16 * 1024 * 1024
_TOKEN = re.compile(r"\s*\S+|\s+\Z")

# What belongs to schedules, and would be ignored in silence where tokens are relayed.
SCHEDULED: Final = (
    "lengths", "tokens_cv", "gap_ms", "gaps", "gap_cv", "ttft_ms", "stall_every", "stall_share", "stall_conversations", "stall_ms",
    "stall_mode", "fail_at", "text", "token_bytes", "seed",
)  # fmt: skip


class SourceError(Exception):
    """The source of an answer failed; the message is one sentence."""


class SourceState(enum.Enum):
    """What a source says instead of a token."""

    WAITING = "waiting"  # nothing yet; it calls `ready` when there is something
    FINISHED = "finished"


class Source(Protocol):
    """The tokens of one answer, delivered as they come. Nothing here blocks."""

    def take(self) -> str | SourceState:
        """Return the next token, or why there is none; raises `SourceError`. Not taking is what slows the deliverer down."""

    def cancel(self) -> None:
        """Stop at once, in this call: nobody wants the rest. Idempotent, and `ready` is not called any more."""


OpenSource = Callable[[Plan, str, Callable[[], None]], Source]
"""Opens the source of one answer: the plan, the prompt, and `ready`, to be called from the event loop after a `WAITING`."""


@dataclasses.dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Whom to relay: the base URL (`http://host/v1`), the model's name, the key (never shown), seconds of silence that are too many."""

    url: str
    model: str
    key: str | None = dataclasses.field(default=None, repr=False)
    timeout_s: float = 60.0


def split_text(text: str) -> tuple[str, ...]:
    """Cut a text into tokens whose concatenation it is: as language models do it, blanks belong to the word that follows."""
    return tuple(_TOKEN.findall(text))


def read_words(path: Path) -> tuple[str, ...]:
    """Return the tokens of a UTF-8 text file, at least one; raises OSError, or ValueError with a sentence."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"it has more than {MAX_FILE_BYTES >> 20} MiB")
    try:
        tokens = split_text(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    if not tokens:
        raise ValueError("it is empty")
    return tokens


def find_unfit(plan: Plan, defaults: Plan) -> str | None:
    """Return the first parameter of `plan` that a relayed answer cannot obey, if it was chosen."""
    return next((name for name in SCHEDULED if getattr(plan, name) != getattr(defaults, name)), None)
