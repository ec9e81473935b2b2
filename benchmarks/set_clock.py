"""A locustfile for proofs only: after a time the wall clock that the generator reads is another, as if somebody had set it.

The machine's own clock is left alone, for it is everybody's; the kernel's stamps are moved along, as setting the clock would do.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

# Locust loads this file by path and puts its own folder on the path; the packages are beside that folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from locust import events

from loadtest import clock, opening, stream
from loadtest.locustfile import ConversationUser

__all__ = ["ConversationUser"]


class SetClock:
    """Stands where ``loadtest.clock`` has the module ``time``: both clocks as they are, the wall clock set by a step from an instant on."""

    def __init__(self) -> None:
        self.step_ns = 0
        self.from_ns = 0
        self.monotonic_ns = time.monotonic_ns

    @property
    def ahead_ns(self) -> int:
        """By how much the wall clock is off now."""
        return self.step_ns if self.from_ns and time.monotonic_ns() >= self.from_ns else 0

    def time_ns(self) -> int:
        """The wall clock as set."""
        return time.time_ns() + self.ahead_ns


def install_step(wall: SetClock) -> None:
    """Give ``wall`` to the generator's clock, and its options to the command line."""
    clock.time = wall  # type: ignore[assignment, attr-defined]  # the module's own name for the clocks that it reads
    unpack = opening.TIMESPEC

    def unpack_set(data: bytes) -> tuple[int, int]:
        seconds, nanoseconds = unpack(data)
        return int(seconds), int(nanoseconds) + wall.ahead_ns

    # What reads the kernel's stamps.
    stream.TIMESPEC = opening.TIMESPEC = unpack_set  # type: ignore[assignment, attr-defined]

    def on_parser(parser: Any, **_: Any) -> None:
        parser.add_argument("--clock-step-ms", type=float, default=0.0, help="by how much the wall clock is set")
        parser.add_argument("--clock-step-after", type=float, default=2.0, help="seconds into the run")

    def on_start(environment: Any, **_: Any) -> None:
        options = environment.parsed_options
        wall.step_ns = round(options.clock_step_ms * 1e6)
        wall.from_ns = time.monotonic_ns() + round(options.clock_step_after * 1e9)

    hooks: Any = events
    hooks.init_command_line_parser.add_listener(on_parser)
    hooks.test_start.add_listener(on_start)


install_step(SetClock())
