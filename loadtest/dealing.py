"""How one schedule of arrivals is dealt over workers that come and go: who takes which from when on, and what nobody started. Pure.

A new deal takes effect at an instant that is still to come when every worker hears of it. One that has fallen silent may still be
starting what is its own, so that its arrivals go to others only from when it has surely stopped by itself; what was due to it until
then is counted, not started twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .arrivals import SECOND_NS, Arrival, Share

LEAD_NS = SECOND_NS
"""Time for a new deal to reach everybody."""


@dataclass(slots=True)
class Dealing:
    """The deals of one run. Instants are ns since the run's origin; ``at_ns`` is where the schedule begins."""

    at_ns: int
    members: list[str]
    deals: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    late: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.deals = [(0, tuple(self.members))]

    def begin(self) -> dict[str, Any]:
        """The first deal, for the message that begins the schedule."""
        return {"positions": {name: place for place, name in enumerate(self.members)}, "workers": max(1, len(self.members))}

    def join(self, worker: str, now_ns: int) -> dict[str, Any] | None:
        """Somebody new takes part; the deal to send, None when it takes part already."""
        return None if worker in self.members else self._deal([*self.members, worker], now_ns + LEAD_NS)

    def leave(self, worker: str, now_ns: int, stopped_ns: int = 0) -> dict[str, Any] | None:
        """Somebody is gone, and has surely stopped by ``stopped_ns``; the deal to send, None when it took no part, or nobody is left."""
        if worker not in self.members:
            return None
        return self._deal([name for name in self.members if name != worker], max(now_ns + LEAD_NS, stopped_ns))

    def heard_late(self, worker: str, by_ns: int) -> None:
        """A worker was told of a deal ``by_ns`` after it took effect, so that arrivals of this time may have been started twice."""
        self.late[worker] = max(self.late.get(worker, 0), by_ns)

    def _deal(self, members: list[str], from_ns: int) -> dict[str, Any]:
        # Deals take effect in the order in which they are made.
        from_ns = max(from_ns - self.at_ns, self.deals[-1][0] + 1)
        self.members = members
        self.deals.append((from_ns, tuple(members)))
        return {"from_ns": from_ns, "positions": {name: place for place, name in enumerate(members)}, "workers": max(1, len(members))}

    def share_of(self, worker: str, whole: Iterator[Arrival]) -> Share:
        """What a worker was dealt of a schedule, in all."""
        share = Share(whole, None, 1)
        for from_ns, members in self.deals:
            share.redeal(from_ns, members.index(worker) if worker in members else None, max(1, len(members)))
        return share

    def not_started(self, worker: str, whole: Callable[[], Iterator[Arrival]], after_ns: int, until_ns: int) -> int:
        """How many arrivals were this worker's between two instants: what one that is gone from ``after_ns`` on did not start."""
        count, share = 0, self.share_of(worker, whole())
        while (arrival := share.take()) is not None and arrival.offset_ns + self.at_ns < until_ns:
            count += arrival.offset_ns + self.at_ns >= after_ns
        return count


def describe_dealing(late: dict[str, int], not_started: dict[str, int]) -> list[str]:
    """Sentences for run.json on what went wrong with the schedule; none where every arrival was started, or dropped, once."""
    sentences = [
        f"{worker} heard {by_ns / SECOND_NS:.2f} s too late that arrivals were dealt anew: some of this time may have been started twice"
        for worker, by_ns in sorted(late.items())
    ]
    for worker, count in sorted(not_started.items()):
        if count == 1:
            sentences.append(f"1 arrival that was due to {worker} was not started, or nobody knows it")
        elif count:
            sentences.append(f"{count} arrivals that were due to {worker} were not started, or nobody knows it")
    return sentences
