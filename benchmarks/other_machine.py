"""A locustfile for proofs only: a worker as on another machine, whose wall clock is ahead by the seconds that ``CLOCK_AHEAD_S`` says.

The kernel's stamps are moved along, as on a machine whose clock is set so.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, Final

# Locust loads this file by path and puts its own folder on the path; the packages are beside that folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loadtest import clock, membership, opening, stream
from loadtest.locustfile import ConversationUser

__all__ = ["ConversationUser"]

AHEAD_NS: Final = round(float(os.environ.get("CLOCK_AHEAD_S", "3")) * 1e9)


class OtherClock:
    """Stands where modules have the module ``time``: the monotonic clock as it is, the wall clock of another machine."""

    monotonic = staticmethod(time.monotonic)
    monotonic_ns = staticmethod(time.monotonic_ns)

    @staticmethod
    def time_ns() -> int:
        """The wall clock of the other machine."""
        return time.time_ns() + AHEAD_NS


def install() -> None:
    """Give this process the other machine's clock and name."""
    clock.time = membership.time = OtherClock  # type: ignore[assignment, attr-defined]  # the modules' own name for the clocks they read
    membership.machine = lambda: "another machine"  # type: ignore[attr-defined]
    unpack = opening.TIMESPEC

    def unpack_other(data: bytes) -> tuple[int, int]:
        seconds, nanoseconds = unpack(data)
        total: Any = seconds * 10**9 + nanoseconds + AHEAD_NS
        return total // 10**9, total % 10**9

    # What reads the kernel's stamps.
    stream.TIMESPEC = opening.TIMESPEC = unpack_other  # type: ignore[assignment, attr-defined]


install()
