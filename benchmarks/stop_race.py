"""Stops by the hundred thousand, half of them in one segment with an acknowledgement: each conversation must end exactly once."""

from __future__ import annotations

import random
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from .client_wire import ACK_FRAME, PING, PONG, TEXT, masked, read_frames, upgrade

PROMPT: Final = masked(b"race")
STOP: Final = masked(b"stop")
END: Final = b"_end_"
WAIT_S: Final = 30.0


@dataclass(slots=True)
class Race:
    """What was counted. Every conversation has one end; ``strays`` are tokens of another conversation or with none running."""

    conversations: int = 0
    stops: int = 0
    with_ack: int = 0
    ends: int = 0
    doubled: int = 0
    strays: int = 0
    missing: int = 0
    tokens: int = 0
    after_stop: dict[int, int] = field(default_factory=dict)
    """How many tokens came between a stop and its end: how often each number."""
    seconds: float = 0.0


class _Racer:
    """One connection that stops again and again. The server's tokens are traced: each says of which conversation it is."""

    def __init__(self, address: tuple[str, int], query: str, seed: str, share: int, race: Race) -> None:
        self.left = share
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(upgrade(f"{address[0]}:{address[1]}", f"/ws?{query}"))
        received = b""
        while b"\r\n\r\n" not in received:
            received += self.socket.recv(4096)
        self.socket.setblocking(False)
        self._data = b""
        self._draw = random.Random(seed)
        self._race = race
        self._running = self._stopped = False
        self._number = -1
        self._late = self._tokens = self._until = 0
        self.done = False
        self._begin()

    def _begin(self) -> None:
        if not self.left:
            # A pong comes after everything that the server had to say.
            self.socket.send(PING)
            return
        self.left -= 1
        self._race.conversations += 1
        self._number += 1
        self._running, self._stopped = True, False
        self._tokens, self._until = 0, self._draw.randint(1, 5)
        self.socket.send(PROMPT)

    def read(self) -> None:
        """Take what has come; OSError or EOFError when the connection is gone."""
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        frames, taken = read_frames(self._data + data)
        self._data = (self._data + data)[taken:]
        for first, body in frames:
            if first == TEXT:
                self._take(body)
            elif first == PONG:
                self.done = True

    def _take(self, body: bytes) -> None:
        race = self._race
        if body == END:
            if not self._running:
                race.doubled += 1
                return
            race.ends += 1
            if self._stopped:
                race.after_stop[self._late] = race.after_stop.get(self._late, 0) + 1
            self._running = False
            self._begin()
            return
        race.tokens += 1
        if not self._running or body.split(b":")[2] != b"%d" % self._number:
            race.strays += 1
            return
        self._tokens += 1
        if self._stopped:
            self._late += 1
        elif self._tokens < self._until:
            self.socket.send(ACK_FRAME)
        else:
            together = self._draw.random() < 0.5
            race.with_ack += together
            race.stops += 1
            self._stopped, self._late = True, 0
            self.socket.send(ACK_FRAME + STOP if together else STOP)

    @property
    def running(self) -> bool:
        """Whether a conversation has not ended yet."""
        return self._running


def race(
    address: tuple[str, int], stops: int, connections: int = 100, seed: int = 1, progress: Callable[[int], None] = lambda _: None
) -> Race:
    """Hold ``stops`` conversations over ``connections`` connections and stop each after one to five tokens."""
    result = Race()
    # The gap draws: some tokens are on their way as the stop is, others are not due for long.
    query = "trace=race&tokens=1000&gap_ms=1&gaps=lognormal&gap_cv=1&window=2"
    begin = last = time.monotonic()
    with selectors.DefaultSelector() as selector:
        racers = []
        for number in range(connections):
            share = stops // connections + (number < stops % connections)
            racer = _Racer(address, query, f"{seed}:{number}", share, result)
            racers.append(racer)
            selector.register(racer.socket, selectors.EVENT_READ, racer)
        open_now = len(racers)
        while open_now and time.monotonic() - last < WAIT_S:
            events = selector.select(1.0)
            last = time.monotonic() if events else last
            for key, _ in events:
                try:
                    key.data.read()
                except BlockingIOError:
                    continue
                except (OSError, EOFError):
                    key.data.done = True
                if key.data.done:
                    selector.unregister(key.fileobj)
                    open_now -= 1
            progress(result.ends)
    result.missing = sum(each.running for each in racers)
    for each in racers:
        each.socket.close()
    result.seconds = time.monotonic() - begin
    return result
