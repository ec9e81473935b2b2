"""The Locust user that one would write first: what our engine is compared with. A locustfile, loaded by Locust alone.

    locust -f benchmarks/obvious_user.py --headless -u 100 -r 100 -t 10s -H "ws://127.0.0.1:PORT/ws?tokens=1000"

It is meant to be good at what it is: the usual library (`websockets`, its blocking client, which gevent makes cooperative) with the
library's defaults, one `request` event a conversation and not one a token, times kept in arrays. The null server accepts no compression,
so that what is offered by default costs nothing on the wire.
Environment: OBVIOUS_OUT names the file that the figures are written to as JSON, OBVIOUS_WARM_UP_S the seconds after the last user
has started that are left out (default 1), OBVIOUS_IDLE=1 makes users that only hold their connection.
"""

from __future__ import annotations

import json
import os
import time
from array import array
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import gevent
import psutil
from locust import User, events, task
from locust.env import Environment
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

PERCENTILES = (50, 90, 99, 99.9)
IDLE = os.environ.get("OBVIOUS_IDLE") == "1"
WARM_UP_S = float(os.environ.get("OBVIOUS_WARM_UP_S", "1"))
CONNECT_TIMEOUT_S = 60.0


class Figures:
    """What this process has measured, and the marks at the two ends of the steady window."""

    def __init__(self) -> None:
        self.latency_s = array("d")  # acknowledgement or prompt sent -> token in hand
        self.lateness_ns = array("q")  # the server's stamp in the token -> token in hand
        self.conversations = 0
        self.failed = 0
        self.connected_s = array("d")
        self.first_connect_s = 0.0
        self.resident_before_bytes = 0
        self.begin: tuple[float, float, int, int, int] | None = None
        self.end: tuple[float, float, int, int, int] | None = None

    def mark(self) -> tuple[float, float, int, int, int]:
        """Return the wall and processor seconds of now, and how much of each kind has been recorded."""
        return time.perf_counter(), time.process_time(), len(self.latency_s), len(self.lateness_ns), self.conversations

    def summary(self) -> dict[str, Any]:
        """Return the figures of the steady window; connects and memory are those of the whole run."""
        end = self.end or self.mark()
        begin = self.begin or end
        tokens, cpu_s, window_s = end[2] - begin[2], end[1] - begin[1], end[0] - begin[0]
        connecting_s = max(self.connected_s) - self.first_connect_s if self.connected_s else 0.0
        resident_bytes = psutil.Process().memory_info().rss
        return {
            "tokens": tokens,
            "conversations": end[4] - begin[4],
            "failed": self.failed,
            "window_s": window_s,
            "cpu_s": cpu_s,
            "tokens_per_cpu_s": tokens / cpu_s if cpu_s else None,
            "connections": len(self.connected_s),
            "connects_per_s": len(self.connected_s) / connecting_s if connecting_s else None,
            "resident_before_bytes": self.resident_before_bytes,
            "resident_bytes": resident_bytes,
            "token_latency_us": quantiles([value * 1e6 for value in self.latency_s[begin[2] : end[2]]]),
            "lateness_us": quantiles([value / 1e3 for value in self.lateness_ns[begin[3] : end[3]]]),
        }


def quantiles(values: list[float]) -> dict[str, float] | None:
    """Return nearest-rank percentiles and the largest value, or None of nothing."""
    if not values:
        return None
    values.sort()
    ranks = {f"p{percent:g}": values[max(0, -int(-len(values) * percent // 100) - 1)] for percent in PERCENTILES}
    return {**ranks, "max": values[-1]}


FIGURES = Figures()


class ObviousUser(User):
    """Connects, then sends prompts and acknowledges every token until the answer's end."""

    connection: ClientConnection | None = None

    def on_start(self) -> None:
        """Read from the address how the server will answer."""
        query = parse_qs(urlsplit(self.host or "").query)
        self.stamped = query.get("stamp") == ["1"]
        self.acknowledges = query.get("window") != ["0"]

    def on_stop(self) -> None:
        """Close the connection."""
        if self.connection is not None:
            self.connection.close()

    def connected(self) -> ClientConnection:
        """Return the connection, made when there is none. Raises `OSError` and `WebSocketException`."""
        if self.connection is None:
            FIGURES.first_connect_s = FIGURES.first_connect_s or time.perf_counter()
            self.connection = connect(self.host or "", open_timeout=CONNECT_TIMEOUT_S)
            FIGURES.connected_s.append(time.perf_counter())
        return self.connection

    @task
    def converse(self) -> None:
        """Have one conversation."""
        started_s = time.perf_counter()
        tokens, problem = 0, None
        try:
            connection = self.connected()
            if IDLE:
                gevent.sleep(3600)
            tokens = self.exchange(connection)
            FIGURES.conversations += 1
        except (OSError, WebSocketException) as error:
            problem = error
            FIGURES.failed += 1
            self.connection = None
            gevent.sleep(1)
        self.environment.events.request.fire(
            request_type="WS",
            name="conversation",
            response_time=(time.perf_counter() - started_s) * 1e3,
            response_length=tokens,
            exception=problem,
            context=self.context(),
        )

    def exchange(self, connection: ClientConnection) -> int:
        """Send a prompt, receive its answer and return its number of tokens."""
        tokens = 0
        sent_s = time.perf_counter()
        connection.send("hello")
        while True:
            message = connection.recv()
            received_s = time.perf_counter()
            if message == "_end_":
                return tokens
            if self.stamped:
                FIGURES.lateness_ns.append(time.time_ns() - int(message))
            FIGURES.latency_s.append(received_s - sent_s)
            tokens += 1
            sent_s = time.perf_counter()
            if self.acknowledges:
                connection.send("")


def note_memory(environment: Environment, **_: object) -> None:
    """Note the memory before the first connection."""
    FIGURES.resident_before_bytes = psutil.Process().memory_info().rss


def begin_window(user_count: int, **_: object) -> None:
    """Begin the steady window once the warm-up is over."""

    def begin() -> None:
        FIGURES.begin = FIGURES.mark()

    gevent.spawn_later(WARM_UP_S, begin)


def end_window(environment: Environment, **_: object) -> None:
    """End the steady window while every user is still at work, and write the figures down."""
    FIGURES.end = FIGURES.mark()
    out = os.environ.get("OBVIOUS_OUT")
    if out:
        Path(out).write_text(json.dumps(FIGURES.summary(), indent=2) + "\n", encoding="ascii")


events.test_start.add_listener(note_memory)  # type: ignore[no-untyped-call]
events.spawning_complete.add_listener(begin_window)  # type: ignore[no-untyped-call]
events.test_stopping.add_listener(end_window)  # type: ignore[no-untyped-call]
