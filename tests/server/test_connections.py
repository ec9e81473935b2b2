"""Who is connected: caps, counts, addresses, and leaving."""

from __future__ import annotations

import asyncio

import pytest

from server import counters
from server.connections import Connections, address_of
from server.counters import Block


class Guest:
    """A connection that leaves when told to, or does not."""

    def __init__(self, connections: Connections, address: str = "a", *, stays: bool = False) -> None:
        self.address = address
        self.was_cut: str | None = None
        self._connections = connections
        self._stays = stays
        connections.enter(self)

    def leave(self) -> None:
        if not self._stays:
            self._connections.forget(self, 1001)

    def cut(self, reason: str) -> None:
        self.was_cut = reason
        self._connections.forget(self, 1006)


def test_caps_in_all_and_per_address() -> None:
    connections = Connections(Block(), 0, most=3, most_per_address=2)
    guest = Guest(connections, "a")
    Guest(connections, "a")
    assert connections.refusal("a") == "address"
    assert connections.refusal("b") is None
    Guest(connections, "b")
    assert connections.refusal("c") == "capacity"
    connections.forget(guest, 1000)
    assert connections.refusal("a") is None
    assert len(connections) == 2


def test_the_cap_in_all_counts_the_other_processes() -> None:
    block = Block(2)
    here = Connections(block, 0, most=3)
    block.row(1)[counters.OPEN] = 3
    assert here.refusal("a") == "capacity"


def test_leaving_twice_is_leaving_once() -> None:
    block = Block()
    connections = Connections(block, 0)
    guest = Guest(connections)
    assert connections.forget(guest, 4001)
    assert not connections.forget(guest, 4001)
    assert block.total(counters.OPEN) == 0
    assert block.total(counters.CLOSED["4xxx"]) == 1


def test_draining_cuts_off_who_stays() -> None:
    async def drain() -> tuple[int, list[Guest], Connections]:
        connections = Connections(Block(), 0)
        guests = [Guest(connections, stays=index == 0) for index in range(450)]
        return await connections.drain(0.05), guests, connections

    cut, guests, connections = asyncio.run(drain())
    assert cut == 1
    assert guests[0].was_cut == "drain_timeout"
    assert len(connections) == 0
    assert connections.refusal("a") == "draining"


def test_draining_an_empty_server() -> None:
    assert asyncio.run(Connections(Block(), 0).drain(10)) == 0


@pytest.mark.parametrize(
    ("peername", "address"),
    [
        (("192.0.2.7", 5), "192.0.2.7"),
        (("::ffff:192.0.2.7", 5, 0, 0), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 5, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
        (("somewhere", 1), "somewhere"),
        (None, "unknown"),
        ("", "unknown"),
    ],
)
def test_addresses(peername: object, address: str) -> None:
    assert address_of(peername) == address
