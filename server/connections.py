"""Who is connected: counts, the caps in all and per address, and the wait until everybody has left."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Final, Protocol

from . import counters
from .counters import Block

MAX_CONNECTIONS: Final = 50_000
MAX_PER_ADDRESS: Final = 20_000
# Descriptors that are not connections: listening sockets, the loop's own, the log, pages and handshakes under way.
RESERVED_DESCRIPTORS: Final = 64


class Member(Protocol):
    """An open connection, as far as leaving is concerned."""

    address: str

    def leave(self) -> None:
        """End the answer under way and begin to close, because the server leaves (R15)."""

    def cut(self, reason: str) -> None:
        """Close at once without the closing handshake; `reason` is one of `counters.CUT_REASONS`."""


class Connections:
    """The open connections of this process; `block` adds those of the other processes on the same port.

    The cap in all holds over all processes, the cap per address in each of them. Caps are >= 1.
    """

    def __init__(self, block: Block, process: int, *, most: int = MAX_CONNECTIONS, most_per_address: int = MAX_PER_ADDRESS) -> None:
        self.draining = False
        self._block = block
        self._row = block.row(process)
        self._most = most
        self._most_per_address = most_per_address
        self._members: set[Member] = set()
        self._by_address: dict[str, int] = {}
        self._all_left: asyncio.Event | None = None

    def members(self) -> list[Member]:
        """Return who is connected now."""
        return list(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def refusal(self, address: str) -> str | None:
        """Return why another connection from `address` must be refused (one of `counters.REFUSALS`), or None."""
        if self.draining:
            return "draining"
        if self._block.total(counters.OPEN) >= self._most:
            return "capacity"
        if self._by_address.get(address, 0) >= self._most_per_address:
            return "address"
        return None

    def enter(self, member: Member) -> None:
        """Count a connection in; it must leave through `forget`."""
        self._members.add(member)
        self._by_address[member.address] = self._by_address.get(member.address, 0) + 1
        self._row[counters.OPEN] += 1
        self._row[counters.ACCEPTED] += 1

    def forget(self, member: Member, code: int) -> bool:
        """Count a connection out that closed with `code`; idempotent: returns whether it was still in (R14)."""
        if member not in self._members:
            return False
        self._members.discard(member)
        left = self._by_address[member.address] - 1
        if left:
            self._by_address[member.address] = left
        else:
            del self._by_address[member.address]
        self._row[counters.OPEN] -= 1
        self._row[counters.close_cell(code)] += 1
        if self._all_left is not None and not self._members:
            self._all_left.set()
        return True

    async def drain(self, timeout_s: float) -> int:
        """Let everybody leave within `timeout_s`, then cut off who has not; returns how many were cut off (R15)."""
        self.draining = True
        self._all_left = asyncio.Event()
        if not self._members:
            return 0
        end_s = asyncio.get_running_loop().time() + timeout_s
        for index, member in enumerate(list(self._members)):
            member.leave()
            if index % 200 == 199:
                await asyncio.sleep(0)  # replies are read meanwhile
        try:
            async with asyncio.timeout_at(end_s):
                await self._all_left.wait()
        except TimeoutError:
            pass
        late = list(self._members)
        for member in late:
            member.cut("drain_timeout")
        if late:
            await asyncio.sleep(0)  # connection_lost is called in the loop's next turn
            await asyncio.sleep(0)
        return len(late)


def address_of(peername: object) -> str:
    """Return the address that the cap per address counts: an IPv4 address, or the /64 of an IPv6 one."""
    if not (isinstance(peername, tuple) and peername and isinstance(peername[0], str)):
        return "unknown"
    try:
        address = ipaddress.ip_address(peername[0].partition("%")[0])
    except ValueError:
        return peername[0]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        # Whoever has one address of a /64 has them all.
        return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address)
