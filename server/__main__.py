"""`python -m server`: options, start, say where it listens when it does."""

from __future__ import annotations

import dataclasses
import socket
import sys
from collections.abc import Sequence

from .connections import RESERVED_DESCRIPTORS
from .counters import Block
from .options import Launch, OptionError, parse_options
from .processes import Crew, StartError, bind, descriptors_allow, new_loop, serve_here, write_ready_file
from .protocol import PATH


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to leave; returns the exit code: 0 left, 1 a bug, 2 the start was prevented."""
    try:
        return _serve(parse_options(arguments))
    except (OptionError, StartError) as error:
        print(f"python -m server: {error}", file=sys.stderr)
        return 2


def _serve(launch: Launch) -> int:
    if launch.uvloop:
        new_loop(uvloop=True).close()  # is it there?
    room = (descriptors_allow() - RESERVED_DESCRIPTORS) * launch.processes
    if room < 1:
        raise StartError(f"the limit of open files leaves no room for connections; raise it: ulimit -n {RESERVED_DESCRIPTORS * 16}")
    settings = dataclasses.replace(launch.settings, max_connections=min(launch.settings.max_connections, room))
    bound = bind(launch.host, launch.port, launch.processes)
    line = _where(bound[0][0], tls=settings.tls is not None)

    def ready() -> None:
        if launch.ready_file is not None:
            write_ready_file(launch.ready_file, line)
        print(line, flush=True)

    if launch.processes > 1:
        return Crew(settings, bound, uvloop=launch.uvloop).run(ready)
    serve_here(settings, Block(), 0, bound[0], ready, uvloop=launch.uvloop)
    return 0


def _where(listening: socket.socket, *, tls: bool) -> str:
    host, port = listening.getsockname()[:2]
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    secure = "s" if tls else ""
    return f"listening on ws{secure}://{authority}{PATH} (page: http{secure}://{authority}/)"


if __name__ == "__main__":
    sys.exit(main())
