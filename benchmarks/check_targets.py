"""The two servers of a regression check: commands that are started fresh for each block, or URLs that cannot be."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from loadtest.adapter import HTTP, WEBSOCKET
from loadtest.ports import free_port

from .check_plan import BASE, HEAD
from .processes import Process, ProcessError, Processes, ended
from .reachability import Access, UnreachableError, check_target, check_url, shown, with_query

READY_S: Final = 30.0
STOP_S: Final = 5.0
POLL_S: Final = 0.02
URL_SCHEMES: Final = ("ws://", "wss://", "http://", "https://")
LETTERS: Final[Mapping[str, str]] = {"A": BASE, "B": HEAD}


class TargetError(Exception):
    """A side of the check cannot be used; the message says what was expected, what came and what to do."""


@dataclass(frozen=True, slots=True)
class Side:
    """Base or head: a ``command`` with its folder and environment, or a ``url``. ``label`` names it in every output."""

    name: str
    label: str
    command: tuple[str, ...] = ()
    url: str | None = None
    cwd: Path = Path()
    environment: Mapping[str, str] = field(default_factory=dict)
    path: str = "/ws"
    transport: str = WEBSOCKET

    def as_dict(self) -> dict[str, Any]:
        """What the plan says of it; of a URL nothing that may be secret."""
        kind = "command" if self.url is None else "url"
        return {
            "kind": kind,
            "label": self.label,
            "command": shlex.join(self.command) or None,
            "url": shown(self.url) if self.url else None,
        }


def read_side(name: str, text: str, cwd: Path, path: str, label: str | None = None, transport: str = WEBSOCKET) -> Side:
    """``text`` as a URL, or as a command in the words a shell would make of it; TargetError when it is neither."""
    if text.startswith(URL_SCHEMES):
        http = text.startswith(("http://", "https://"))
        if http and transport == HTTP and urlsplit(text).hostname:
            return Side(name, label or shown(text), url=text, transport=transport)
        if transport == HTTP:
            raise TargetError(f"--{name}: expected an http:// or https:// URL, which this adapter speaks, found {shown(text)!r}")
        try:
            check_url(text)
        except UnreachableError as error:
            raise TargetError(f"--{name}: {error}") from None
        return Side(name, label or shown(text), url=text)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise TargetError(f"--{name}: expected a URL or a command, and the quotes of {text!r} do not match ({error})") from None
    if not words:
        raise TargetError(f"--{name}: expected a URL or the command that starts a server, found nothing")
    if not cwd.is_dir():
        raise TargetError(f"--{name}-dir: expected a folder, and {cwd} is none")
    return Side(name, label or text, command=tuple(words), cwd=cwd.resolve(), path=path, transport=transport)


@dataclass(slots=True)
class Running:
    """A side that is ready: where it listens and, if it is ours, its process."""

    side: Side
    url: str
    process: Process | None = None


class Sides:
    """Starts both sides for a block and stops them again."""

    def __init__(
        self, sides: Mapping[str, Side], query: tuple[tuple[str, str], ...], access: Access, processes: Processes, folder: Path,
        cpus: frozenset[int] | None, asked: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._sides = sides
        self._query = query
        self._access = access
        self._processes = processes
        self._folder = folder
        self._cpus = cpus
        self._asked = asked

    @property
    def fresh(self) -> bool:
        """Whether both are started anew for each block."""
        return all(side.url is None for side in self._sides.values())

    def start(self, order: str) -> dict[str, Running]:
        """Both sides, started in ``order`` (``AB`` or ``BA``) and ready; ProcessError or TargetError when one does not come."""
        running: dict[str, Running] = {}
        for letter in order:
            side = self._sides[LETTERS[letter]]
            running[side.name] = Running(side, side.url) if side.url is not None else self._launch(side)
        for one in running.values():
            self._wait(one)
            one.url = with_query(one.url, self._query)
        return {name: running[name] for name in (BASE, HEAD)}

    def stop(self, running: Mapping[str, Running]) -> None:
        """Ask those that are ours to leave, all at once; kill who does not within a time."""
        ours = [one.process for one in running.values() if one.process is not None]
        for process in ours:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGTERM)
        for process in ours:
            process.wait(STOP_S)
            process.stop(signal.SIGTERM, 0)

    def _launch(self, side: Side) -> Running:
        port = free_port()
        command = [word.replace("{port}", str(port)) for word in side.command]
        log = self._folder / f"{side.name}.log"
        environment = {**side.environment, "PORT": str(port)}
        process = self._processes.start(f"the {side.name} server", command, log, self._cpus, environment, side.cwd)
        path = side.path if side.path.startswith("/") else f"/{side.path}"
        scheme = "http" if side.transport == HTTP else "ws"
        return Running(side, f"{scheme}://127.0.0.1:{port}{path}", process)

    def _wait(self, one: Running) -> None:
        """Until it accepts connections and answers a handshake."""
        if one.process is not None:
            self._wait_listening(one.process, urlsplit(one.url).port or 0, one.side)
        if one.side.transport == HTTP or self._asked():
            # Only a request can say whether it serves; those of the warm-up do.
            return
        try:
            check_target(with_query(one.url, self._query), self._access)
        except UnreachableError as error:
            raise TargetError(f"{one.side.name} cannot be driven: {error}") from None

    def _wait_listening(self, process: Process, port: int, side: Side) -> None:
        deadline = time.monotonic() + READY_S
        while not self._asked():
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                pass
            code = process.poll()
            if code is not None:
                raise ProcessError(f"the {side.name} server {ended(code)} before it was ready{process.said()}", code)
            if time.monotonic() > deadline:
                advice = "" if any("{port}" in word for word in side.command) else "; its command has no {port}: does it listen on $PORT?"
                raise ProcessError(
                    f"the {side.name} server did not listen on 127.0.0.1:{port} within {READY_S:g} s{advice}{process.said()}", 2
                )
            time.sleep(POLL_S)
