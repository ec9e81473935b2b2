"""One schedule over workers that come, go and fall silent: every arrival is started once, or counted as not started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import takewhile

from hypothesis import given
from hypothesis import strategies as st

from loadtest.arrivals import SECOND_NS, Arrival, Share
from loadtest.dealing import LEAD_NS, Dealing, describe_dealing
from loadtest.schedule import SchedulePlan

AT_NS = 3 * SECOND_NS
PLAN = SchedulePlan("poisson", 20.0)


def whole() -> Iterator[Arrival]:
    return PLAN.arrivals(seed=7)


def all_until(end_ns: int) -> list[int]:
    return [a.number for a in takewhile(lambda a: a.offset_ns + AT_NS < end_ns, whole())]


class Worker:
    """What a worker does with its deals: takes its arrivals in order, and starts them when they are due, as long as it lives."""

    def __init__(self, name: str, first: dict[str, object]) -> None:
        positions = first["positions"]
        assert isinstance(positions, dict)
        self.name = name
        self.share = Share(whole(), positions.get(name), int(str(first["workers"])))
        self.next: Arrival | None = None
        self.started: list[int] = []

    def hear(self, deal: dict[str, object]) -> None:
        positions = deal["positions"]
        assert isinstance(positions, dict)
        self.share.redeal(int(str(deal["from_ns"])), positions.get(self.name), int(str(deal["workers"])), self.next)
        self.next = None

    def live_until(self, now_ns: int) -> None:
        while (arrival := self.next or self.share.take()) is not None:
            self.next = arrival
            if arrival.offset_ns + AT_NS > now_ns:
                return
            self.started.append(arrival.number)
            self.next = None


@given(
    st.lists(st.tuples(st.sampled_from(["join", "leave", "silent"]), st.integers(10, 4000), st.integers(0, 5)), max_size=8),
    st.integers(1, 4),
)
def test_no_arrival_is_started_twice_and_none_is_lost_silently(events: list[tuple[str, int, int]], count: int) -> None:
    dealing = Dealing(AT_NS, [f"w{i}" for i in range(count)])
    alive = {name: Worker(name, dealing.begin()) for name in dealing.members}
    gone: list[tuple[Worker, int]] = []
    now = AT_NS
    for kind, after_ms, pick in events:
        now += after_ms * 1_000_000
        for worker in alive.values():
            worker.live_until(now)
        deal = None
        if kind == "join":
            name = f"w{len(alive) + len(gone)}"
            alive[name] = Worker(name, {"positions": {}, "workers": 1})
            for older in dealing.deals[1:]:
                assert name not in older[1]
            deal = dealing.join(name, now)
        elif alive:
            name = sorted(alive)[pick % len(alive)]
            worker = alive.pop(name)
            if kind == "silent":
                # It goes on by itself, hearing nothing, until its own patience is over.
                worker.live_until(now + 2 * SECOND_NS)
                deal, ended = dealing.leave(name, now, now + 2 * SECOND_NS), now + 2 * SECOND_NS
            else:
                deal, ended = dealing.leave(name, now), now
            gone.append((worker, ended))
        if deal is not None:
            assert int(deal["from_ns"]) + AT_NS >= now + LEAD_NS, "everybody hears of it before it takes effect"
            for other in alive.values():
                other.hear(deal)
    end = now + 10 * SECOND_NS
    for worker in alive.values():
        worker.live_until(end)
    started = Counter(number for worker in [*alive.values(), *(w for w, _ in gone)] for number in worker.started)
    assert [number for number, times in started.items() if times > 1] == []
    missing = set(all_until(end)) - set(started)
    # Where nobody was left, nobody was dealt anything: those arrivals are the gone workers' last deals' or nobody's at all.
    counted = sum(dealing.not_started(worker.name, whole, ended + 1, end) for worker, ended in gone)
    if all(members for _, members in dealing.deals):
        assert len(missing) == counted
    else:
        assert len(missing) >= counted


def test_members_are_dealt_once() -> None:
    dealing = Dealing(AT_NS, ["w0", "w1"])
    assert dealing.begin() == {"positions": {"w0": 0, "w1": 1}, "workers": 2}
    assert dealing.join("w1", AT_NS) is None
    assert dealing.leave("w7", AT_NS) is None
    first, second = dealing.leave("w0", AT_NS + 5), dealing.join("w2", AT_NS + 5)
    assert first is not None
    assert second is not None
    assert second["from_ns"] == first["from_ns"] + 1, "deals take effect in their order"
    assert second["positions"] == {"w1": 0, "w2": 1}


def test_what_went_wrong_is_said() -> None:
    dealing = Dealing(AT_NS, ["w0"])
    dealing.heard_late("w0", 500_000_000)
    dealing.heard_late("w0", 100_000_000)
    assert describe_dealing(dealing.late, {"w1": 0, "w2": 1, "w3": 4}) == [
        "w0 heard 0.50 s too late that arrivals were dealt anew: some of this time may have been started twice",
        "1 arrival that was due to w2 was not started, or nobody knows it",
        "4 arrivals that were due to w3 were not started, or nobody knows it",
    ]
    assert describe_dealing({}, {}) == []
