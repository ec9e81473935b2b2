"""Wakes a greenlet at an instant, to tens of microseconds.

libev waits in epoll, whose timeout counts whole milliseconds, rounded up: an arrival schedule timed by it starts every conversation up
to a millisecond late, which then stands in the figures as waiting. Linux has timers that are descriptors; the hub watches one like a
socket. Elsewhere the hub's own timer has to do.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import time
from typing import Any

import gevent

_NONBLOCK_CLOSE_ON_EXEC = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
_ABSOLUTE = 1
_SETTING = struct.Struct("qqqq")  # struct itimerspec: interval, then value, each in seconds and nanoseconds
_SECOND_NS = 1_000_000_000


class Alarm:
    """One timer for one greenlet; ``close`` it."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._watcher: Any = None
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._descriptor = self._libc.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK_CLOSE_ON_EXEC)
            if self._descriptor >= 0:
                self._watcher = gevent.get_hub().loop.io(self._descriptor, 1)

    def wait_until(self, instant: int) -> None:
        """Sleep until ``instant`` (monotonic ns); at once when it has passed."""
        while (wait := instant - time.monotonic_ns()) > 0:
            if self._watcher is None:
                gevent.sleep(wait / _SECOND_NS)
                continue
            setting = _SETTING.pack(0, 0, instant // _SECOND_NS, instant % _SECOND_NS)
            if self._libc.timerfd_settime(self._descriptor, _ABSOLUTE, setting, None) != 0:
                gevent.sleep(wait / _SECOND_NS)
                continue
            gevent.get_hub().wait(self._watcher)
            try:
                os.read(self._descriptor, 8)
            except BlockingIOError:
                continue

    def close(self) -> None:
        """Give the descriptor back."""
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
