"""``python -m benchmarks.burst LOG ARM BLOCKS``: a neighbour that takes a processor only while one arm of a check has its turn.

It follows what the check's generator says of its slices, in the given blocks (``1,4,7``) and no others: the worst that chance could do to
a comparison, done on purpose. Ends by SIGTERM.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

IDLE_S: Final = 0.002
BURST_NS: Final = 2_000_000


def turn_of(text: str) -> tuple[int, str]:
    """The block that runs and the arm whose turn it is, by the lines of a generator's log; ``(0, "")`` between turns."""
    block, arm = 0, ""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["block"]:
            block = int(words[1])
        elif words[:1] == ["slice"]:
            arm = words[2] if len(words) > 2 and words[2] != "done" else ""
        elif words[:2] == ["slices", "done"]:
            arm = ""
    return block, arm


def main(arguments: Sequence[str]) -> int:
    """Burn or wait, for ever."""
    log, arm = Path(arguments[0]), arguments[1]
    blocks = {int(word) for word in arguments[2].split(",")}
    while True:
        try:
            block, turn = turn_of(log.read_text(encoding="utf-8"))
        except (OSError, ValueError, IndexError):
            block, turn = 0, ""
        if block in blocks and turn == arm:
            until = time.monotonic_ns() + BURST_NS
            while time.monotonic_ns() < until:
                pass
        else:
            time.sleep(IDLE_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
