"""Many connections at once, or one after the other without end: a storm, and cycles of connecting and leaving. Raw sockets, one process."""

from __future__ import annotations

import errno
import selectors
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from .client_wire import CLOSE_NORMAL, SWITCHED, upgrade

_TOTAL_RETRANSMITS_AT: Final = 100
"""Where Linux's ``struct tcp_info`` has ``tcpi_total_retrans``: after eight bytes and 23 words."""
SLOW_CONNECT_S: Final = 0.9
"""Where the kernel does not say: a first SYN is sent again after one second."""
WAIT_S: Final = 30.0


@dataclass(slots=True)
class Opened:
    """What became of connects: ``asked`` = ``upgraded`` + ``refused`` + ``broken``; those whose SYN had to be sent again; seconds.

    ``offered_s`` is from the first connect that was asked for to the last.
    """

    asked: int = 0
    upgraded: int = 0
    refused: int = 0
    broken: int = 0
    retransmitted: int = 0
    longest_s: float = 0.0
    offered_s: float = 0.0
    seconds: float = 0.0
    messages: set[str] = field(default_factory=set)


class _Connection:
    """A socket on its way: connecting, upgrading, leaving."""

    def __init__(self, address: tuple[str, int], source: str | None) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        if source is not None:
            if hasattr(socket, "IP_BIND_ADDRESS_NO_PORT"):
                self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
            self.socket.bind((source, 0))
        self.begin = time.monotonic()
        self.received = b""
        self.connected = self.left = False
        code = self.socket.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            self.socket.close()
            raise OSError(code, "connect")


def storm(address: tuple[str, int], count: int, per_s: float) -> Opened:
    """Open ``count`` connections, ``per_s`` a second, hold them all until the last has its upgrade, then leave."""
    return _drive(address, count, per_s=per_s, at_once=count, hold=True)


def cycles(address: tuple[str, int], count: int, at_once: int = 64, progress: Callable[[int], None] = lambda _: None) -> Opened:
    """Connect, upgrade, close, ``count`` times, ``at_once`` of them under way; the server closes TCP first, and keeps the TIME_WAIT."""
    return _drive(address, count, per_s=0, at_once=at_once, hold=False, progress=progress)


def _drive(
    address: tuple[str, int], count: int, *, per_s: float, at_once: int, hold: bool, progress: Callable[[int], None] = lambda _: None
) -> Opened:
    result = Opened()
    request = upgrade(f"{address[0]}:{address[1]}")
    held: list[socket.socket] = []
    begin = last = time.monotonic()
    with selectors.DefaultSelector() as selector:
        underway = 0
        while underway or result.asked < count:
            now = time.monotonic()
            while result.asked < count and underway < at_once and (not per_s or now - begin >= result.asked / per_s):
                # Over several source addresses, so that a port is not wanted again while the last one's TIME_WAIT lasts.
                source = f"127.0.0.{2 + result.asked % 16}" if not hold else None
                result.asked += 1
                result.offered_s = time.monotonic() - begin
                try:
                    one = _Connection(address, source)
                except OSError as error:
                    _break(result, error)
                    continue
                selector.register(one.socket, selectors.EVENT_WRITE, one)
                underway += 1
            events = selector.select(0.001 if result.asked < count else 1.0)
            if events:
                last = time.monotonic()
            elif time.monotonic() - last > WAIT_S:
                result.messages.add(f"nothing happened for {WAIT_S:g} s")
                break
            for key, _ in events:
                if _step(key.data, selector, result, request, held if hold else None):
                    underway -= 1
                    if not hold and (result.upgraded + result.broken) % 1000 == 0:
                        progress(result.upgraded + result.broken)
        for key in list(selector.get_map().values()):
            result.broken += 1
            key.data.socket.close()
    result.seconds = time.monotonic() - begin
    for each in held:
        each.close()
    return result


def _break(result: Opened, error: OSError) -> None:
    result.broken += 1
    result.messages.add(error.strerror or str(error))


def _step(one: _Connection, selector: selectors.BaseSelector, result: Opened, request: bytes, held: list[socket.socket] | None) -> bool:
    """Go on with one connection; True when it is done with."""
    try:
        if not one.connected:
            if code := one.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, errno.errorcode.get(code, "connect"))
            one.connected = True
            took = time.monotonic() - one.begin
            result.longest_s = max(result.longest_s, took)
            result.retransmitted += _retransmitted(one.socket, took)
            one.socket.send(request)
            selector.modify(one.socket, selectors.EVENT_READ, one)
            return False
        data = one.socket.recv(4096)
        if one.left:
            if data:
                return False
            _finish(one, selector)
            return True
        one.received += data
        if not data or (b"\r\n\r\n" in one.received and not one.received.startswith(SWITCHED)):
            result.refused += 1
            result.messages.add(one.received.partition(b"\r\n")[0].decode("latin-1") or "closed without a reply")
            _finish(one, selector)
            return True
        if b"\r\n\r\n" not in one.received:
            return False
        result.upgraded += 1
        if held is not None:
            selector.unregister(one.socket)
            held.append(one.socket)
            return True
        one.left = True
        one.socket.send(CLOSE_NORMAL)
        return False
    except OSError as error:
        if one.left:
            result.upgraded -= 1
        _break(result, error)
        _finish(one, selector)
        return True


def _finish(one: _Connection, selector: selectors.BaseSelector) -> None:
    selector.unregister(one.socket)
    one.socket.close()


def _retransmitted(connection: socket.socket, took_s: float) -> bool:
    if sys.platform == "linux":
        information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        if len(information) >= _TOTAL_RETRANSMITS_AT + 4:
            return int.from_bytes(information[_TOTAL_RETRANSMITS_AT : _TOTAL_RETRANSMITS_AT + 4], sys.byteorder) > 0
    return took_s >= SLOW_CONNECT_S
