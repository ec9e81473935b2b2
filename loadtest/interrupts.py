"""What Ctrl-C does to a process that measures: it never comes between two instructions of the engine."""

from __future__ import annotations

import signal
from collections.abc import Callable

import gevent


def interrupt_main() -> None:
    """Raise KeyboardInterrupt in the main greenlet, which only ever waits."""
    gevent.get_hub().handle_system_error(KeyboardInterrupt, KeyboardInterrupt())


def interrupt_between_switches(take: Callable[[], bool]) -> None:
    """Take SIGINT over from Python, in this process; ``take`` is called for each and says whether the process is to end.

    Python raises KeyboardInterrupt between any two instructions, so that a callback of the engine could be left half done.
    """

    def interrupt() -> None:
        if take():
            interrupt_main()

    gevent.signal_handler(signal.SIGINT, interrupt)
