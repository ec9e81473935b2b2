"""Somebody's own server, started by a command: a free port for it, its log, and the moment from which it can be driven."""

from __future__ import annotations

import shlex
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest.ports import free_port

from .processes import Process, ProcessError, Processes, ended

READY_S: Final = 30.0
POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """``words`` with ``{port}`` where the port belongs (the environment's PORT has it too), the folder to run in, the WebSocket's path,
    or a whole URL with ``{port}``."""

    words: tuple[str, ...]
    cwd: Path
    path: str = "/ws"

    def _url(self, port: int) -> str:
        if "://" in self.path:
            return self.path.replace("{port}", str(port))
        return f"ws://127.0.0.1:{port}{self.path if self.path.startswith('/') else '/' + self.path}"

    def start(self, processes: Processes, log: Path, cpus: frozenset[int] | None, asked: Callable[[], bool]) -> tuple[Process, str | None]:
        """The process and, when it listens, its URL; None when ``asked`` to stop before. ProcessError when it does not come."""
        port = free_port()
        command = [word.replace("{port}", str(port)) for word in self.words]
        process = processes.start("the server", command, log, cpus, {"PORT": str(port)}, self.cwd)
        deadline = time.monotonic() + READY_S
        while not asked():
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return process, self._url(port)
            except OSError:
                pass
            if (code := process.poll()) is not None:
                raise ProcessError(f"the server {ended(code)} before it was ready{process.said()}", 2)
            if time.monotonic() > deadline:
                advice = "" if any("{port}" in word for word in self.words) else "; its command has no {port}: does it listen on $PORT?"
                raise ProcessError(f"the server did not listen on 127.0.0.1:{port} within {READY_S:g} s{advice}{process.said()}", 2)
            time.sleep(POLL_S)
        return process, None


def read_command(text: str, path: str, folder: Path = Path()) -> ServerCommand:
    """A command in the words a shell would make of it, run in ``folder``; ValueError with a sentence when it is none."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"expected a command, and the quotes of {text!r} do not match ({error})") from None
    if not words:
        raise ValueError("expected the command that starts a server, found nothing")
    if not folder.is_dir():
        raise ValueError(f"expected a folder to run the command in, and {folder} is none")
    if "://" in path and "{port}" not in path:
        raise ValueError(f"expected {{port}} in the URL of the server that the command starts, found {path!r}")
    return ServerCommand(tuple(words), folder.resolve(), path)
