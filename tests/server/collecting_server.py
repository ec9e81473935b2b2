"""`python -m server` without a garbage collector of its own: SIGUSR1 has it search, and say what it found in the file of $FOUND."""

from __future__ import annotations

import gc
import os
import signal
import sys

from server.__main__ import main


def tell(*_: object) -> None:
    found = gc.collect()
    with open(os.environ["FOUND"], "a", encoding="utf-8") as told:
        told.write(f"{found}\n")


if __name__ == "__main__":
    gc.set_threshold = lambda *_: None  # type: ignore[assignment]
    gc.disable()
    signal.signal(signal.SIGUSR1, tell)
    sys.exit(main())
