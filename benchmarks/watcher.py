"""A process that outlives the runner by a moment: it ends what the runner started when the runner was killed and could not do so itself.

Run as a script, by path, with nothing but the standard library. Standard input brings "+PID" for each process that was started as the
leader of its own group and "-PID" when it has been reaped; the end of the input means that the runner is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable

GRACE_S = 10.0
"""How long what is left may take to end by itself after SIGTERM."""


def follow(lines: Iterable[str]) -> set[int]:
    """The process groups that are left once the input has ended."""
    groups: set[int] = set()
    for line in lines:
        word = line.strip()
        if word.startswith("+"):
            groups.add(int(word[1:]))
        elif word.startswith("-"):
            groups.discard(int(word[1:]))
    return groups


def end(groups: set[int], grace_s: float = GRACE_S) -> None:
    """Ask every group to end, and kill what has not ended after ``grace_s`` seconds."""
    for group in groups:
        _signal(group, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while (groups := {group for group in groups if _signal(group, 0)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    for group in groups:
        _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> bool:
    """Signal a whole group; whether it still exists."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of a group of zombies
        return False
    return True


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A Ctrl-C is for the runner, which stops what it started in its own order.
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        end(follow(sys.stdin))


if __name__ == "__main__":
    main()
