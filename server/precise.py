"""A selector whose timeouts are exact to tens of microseconds.

`epoll` counts its timeout in whole milliseconds, rounded up, so that asyncio's timers fire up to 1 ms late and a schedule
could not be told from that rounding. `select` counts in microseconds and can wait for the epoll descriptor itself.
"""

from __future__ import annotations

import asyncio
import select
import selectors
import sys

if sys.platform == "linux":

    class PreciseSelector(selectors.EpollSelector):
        """An epoll selector that waits in `select`."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """Wait for at most `timeout` seconds, then return what is ready."""
            # select() knows no descriptor from 1024 on; the loop's own is one of the first that a process opens.
            if timeout is not None and timeout > 0 and self.fileno() < 1024:
                select.select((self.fileno(),), (), (), timeout)
                timeout = 0
            return super().select(timeout)

    def new_event_loop() -> asyncio.AbstractEventLoop:
        """Return an event loop with exact timers."""
        return asyncio.SelectorEventLoop(PreciseSelector())

else:

    def new_event_loop() -> asyncio.AbstractEventLoop:
        """Return an event loop; kqueue's timeouts are exact by themselves."""
        return asyncio.new_event_loop()
