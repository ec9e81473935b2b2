"""A locustfile for proofs only: after a time the wall clock that the generator reads is another, as if somebody had set it.

The machine's own clock is left alone, for it is everybody's. `--clock-step-stamps` moves the kernel's stamps along, as setting the clock
would; without it they stay, so that the two disagree and times come out below nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Locust loads this file by path and puts its own folder on the path; the packages are beside that folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from locust import events

from loadtest import clock, stream
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
    clock.time = wall  # type: ignore[attr-defined]  # the module's own name for the clocks that it reads
    read_stamp = stream._arrival

    def stamp(control: Sequence[tuple[int, int, bytes]]) -> int:
        found = read_stamp(control)
        return found + wall.ahead_ns if found else found

    @events.init_command_line_parser.add_listener
    def on_parser(parser: Any, **_: Any) -> None:
        parser.add_argument("--clock-step-ms", type=float, default=0.0, help="by how much the wall clock is set")
        parser.add_argument("--clock-step-after", type=float, default=2.0, help="seconds into the run")
        parser.add_argument("--clock-step-stamps", action="store_true", default=False, help="the kernel's stamps move along")

    @events.test_start.add_listener
    def on_start(environment: Any, **_: Any) -> None:
        options = environment.parsed_options
        if options.clock_step_stamps:
            stream._arrival = stamp
        wall.step_ns = round(options.clock_step_ms * 1e6)
        wall.from_ns = time.monotonic_ns() + round(options.clock_step_after * 1e9)


install_step(SetClock())
