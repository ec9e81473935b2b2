"""How another machine's wall clock stands to the master's, measured over the channel: the narrowest of several exchanges.

The four instants of an exchange (sent, received, answered, answer received) bound the offset as in RFC 5905, section 8: half the sum
of both ways' differences, wrong at most by half the time that both ways took together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Offset:
    """This machine's wall clock minus the master's, wrong by at most ``uncertainty_ns``."""

    offset_ns: int
    uncertainty_ns: int


def exchange(sent_ns: int, received_ns: int, answered_ns: int, returned_ns: int) -> Offset | None:
    """What one exchange says: sent and returned by this machine's clock, received and answered by the master's; None when impossible."""
    ways_ns = (returned_ns - sent_ns) - (answered_ns - received_ns)
    if ways_ns < 0 or answered_ns < received_ns:
        return None  # a clock was set meanwhile
    return Offset(((sent_ns - received_ns) + (returned_ns - answered_ns)) // 2, (ways_ns + 1) // 2)


def narrowest(offsets: Iterable[Offset]) -> Offset | None:
    """The best known of several; None of none."""
    return min(offsets, key=lambda one: one.uncertainty_ns, default=None)
