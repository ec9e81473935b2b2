"""How much of a server do those get who flood it: a share of its time, all of them together."""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.25
"""Of the time of the event loop, for all connections that flood; each read of theirs is followed by a rest."""

MANY_BYTES: Final = 128
"""A shorter read is no flood: one acknowledgement has 6 bytes, and few conversations come in more than a read's worth at once."""

MANY_MESSAGES: Final = 4
"""More than so many in one read is a flood, of messages that moved no token: stale acknowledgements, stops, prompts, pings, pongs."""


class Floods:
    """The rests of one process: they come one after another, so that a hundred that flood get no more than one does."""

    def __init__(self) -> None:
        self._free_s = 0.0  # when the share has room again, by the loop's clock

    def rest_s(self, began_s: float, ended_s: float) -> float:
        """How long a connection has to rest whose messages were acted on between these two instants of the loop's clock, in s."""
        self._free_s = max(self._free_s, began_s) + (ended_s - began_s) / SHARE
        return self._free_s - ended_s
