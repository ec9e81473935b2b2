"""When the garbage collector may stop a process that measures: rarely, and never over what stays anyway."""

from __future__ import annotations

import gc
from typing import Final

# What a conversation leaves behind is freed by counting references; in 40 000 connections with a conversation each the collector found
# nothing of ours. A user's adapter may make cycles, so a full search stays, once in about seven million objects more.
SEARCHES_BETWEEN_FULL: Final = 1_000


class CalmCollector:
    """Keeps full searches of the garbage collector out of what is measured, from ``begin`` to ``end``.

    With 12 500 connections in a process a full search stops it for half a second, and by default one comes every 15 seconds.
    """

    def __init__(self) -> None:
        self._thresholds: tuple[int, int, int] | None = None

    def begin(self) -> None:
        """Search once in full, leave what stands (modules, Locust) out of all later searches, and make full ones rare."""
        if self._thresholds is None:
            self._thresholds = gc.get_threshold()
        gc.collect()
        gc.freeze()
        young, middle, _ = self._thresholds
        gc.set_threshold(young, middle, SEARCHES_BETWEEN_FULL)

    def end(self) -> None:
        """Back to what was before; nothing when it has not begun."""
        if self._thresholds is not None:
            gc.set_threshold(*self._thresholds)
            gc.unfreeze()
            self._thresholds = None
