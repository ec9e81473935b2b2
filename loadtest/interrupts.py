"""What Ctrl-C does to a run: the first ends it in good order, one more while it drains cuts short what is still in flight."""

from __future__ import annotations

import signal
from collections.abc import Callable

import gevent


def interrupt_between_switches(draining: Callable[[], bool], cut_short: Callable[[], None]) -> None:
    """Take SIGINT over from Python, in this process.

    Python raises KeyboardInterrupt between any two instructions, so that a callback of the engine could be left half done. Here it is
    raised in the main greenlet alone, which only ever waits; while a run drains, ``cut_short`` is called instead.
    """

    def interrupt() -> None:
        if draining():
            cut_short()
        else:
            gevent.get_hub().handle_system_error(KeyboardInterrupt, KeyboardInterrupt())

    gevent.signal_handler(signal.SIGINT, interrupt)
