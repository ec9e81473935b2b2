"""Runs a server of somebody else's library alone on its port: the same options, the same first line, the same end as `python -m server`."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from .options import Launch, OptionError, parse_options
from .processes import StartError, bind, calm_collector, descriptors_allow, new_loop, write_ready_file
from .protocol import PATH
from .stack import Stack


class Listening(Protocol):
    """What serves one process's connections."""

    async def stop_accepting(self) -> None:
        """Let nobody in any more."""

    async def close(self) -> None:
        """Close what is left."""


def listen(launch: Launch) -> tuple[list[socket.socket], str]:
    """Return the sockets of one process and the line that says where they listen; raises `StartError`."""
    if launch.processes != 1:
        raise StartError("this server runs in one process; put several behind a proxy, or use python -m server --processes")
    descriptors_allow()
    (sockets,) = bind(launch.host, launch.port, 1)
    host, port = sockets[0].getsockname()[:2]
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    secure = "s" if launch.settings.tls is not None else ""
    return sockets, f"listening on ws{secure}://{authority}{PATH} (page: http{secure}://{authority}/)"


def announce(launch: Launch, line: str) -> None:
    """Say that it listens."""
    if launch.ready_file is not None:
        write_ready_file(launch.ready_file, line)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def serve(launch: Launch, start: Callable[[Stack, list[socket.socket]], Awaitable[Listening]]) -> None:
    """Serve until told to leave by a signal, then as R15 wants it."""
    stack = Stack(launch.settings)
    sockets, line = listen(launch)
    listening = await start(stack, sockets)
    for bound in sockets:
        bound.listen(launch.settings.backlog)
    leaving = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, leaving.set)
    stack.keep_house()
    announce(launch, line)
    await leaving.wait()
    await listening.stop_accepting()
    await stack.leave()
    await listening.close()


def run(name: str, start: Callable[[Stack, list[socket.socket]], Awaitable[Listening]], arguments: Sequence[str] | None) -> int:
    """Be `python -m NAME`; returns the exit code: 0 left, 2 the start was prevented."""
    try:
        launch = parse_options(arguments)
        loop = new_loop(uvloop=launch.uvloop)
        calm_collector()
        try:
            loop.run_until_complete(serve(launch, start))
        finally:
            loop.close()
    except (OptionError, StartError) as error:
        sys.stderr.write(f"python -m {name}: {error}\n")
        return 2
    return 0
