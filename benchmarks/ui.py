"""The reference server and Locust's web page, started together and stopped together."""

from __future__ import annotations

import re
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape

from loadtest.ports import free_port

from . import limits
from .processes import Interrupts, Process, ProcessError, Processes, ended, split_cpus
from .reachability import Access, UnreachableError, check_target
from .runner import LISTENING, SERVER_DRAIN_S, SERVER_READY_S, BenchError

WEB_PORT: Final = 8089
"""Locust's usual port."""
WEB_READY: Final = re.compile(r"Starting web interface at (\S+?),? ")
WEB_READY_S: Final = 30.0
WEB_DRAIN_S: Final = 30.0
FORM: Final = ("--tokens=40", "--gap-ms=50", "--stop-share=0.2", "--users=10", "--spawn-rate=10")
"""What the form says at first beside our own server: answers of two seconds, some of them stopped, so that every chart moves."""


def choose_port(wanted: int | None) -> int:
    """The port of the web page: the wanted one, else Locust's usual one, else a free one; BenchError when the wanted one is taken."""
    for port in (wanted if wanted is not None else WEB_PORT, 0):
        with socket.socket() as probe:
            # As the web server does it: a port that only waits for its last packets is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if wanted is not None:
                    raise BenchError(
                        f"port {wanted} for the web page is not free ({error.strerror}); choose another (--web-port)", 2
                    ) from None
                continue
            return int(probe.getsockname()[1])
    raise BenchError("this machine has no free port for the web page", 2)


def _master_port() -> list[str]:
    port = free_port()
    return ["--master-bind-host=127.0.0.1", f"--master-bind-port={port}", f"--master-port={port}"]


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def serve_ui(host: str | None, web_port: int | None, processes_wanted: int, console: Console) -> int:
    """Start both, print the page's address, wait for Ctrl-C, stop both; returns the exit code."""
    if host is not None:
        try:
            check_target(host, Access())
        except UnreachableError as error:
            raise BenchError(str(error), 2) from None
    limits.raise_file_limit()
    port = choose_port(web_port)
    cpus = split_cpus() if host is None else None
    with tempfile.TemporaryDirectory(prefix="streamgauge-") as folder, Interrupts() as interrupts, Processes() as processes:
        server: Process | None = None
        generator: Process | None = None
        try:
            url = host
            if url is None:
                command = [sys.executable, "-m", "server", "--port", "0"]
                server = processes.start("the reference server", command, Path(folder) / "server.log", cpus and cpus[0])
                match = server.wait_for_line(LISTENING, SERVER_READY_S, interrupts.asked)
                url = match[1] if match else ""
            if not interrupts.count:
                command = [
                    sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--host", url, "--web-host", "127.0.0.1",
                    "--web-port", str(port), "--class-picker", *(FORM if host is None else ()),
                    # The workers find their master on a port of their own, so that two pages do not meet.
                    *([f"--processes={processes_wanted}", *_master_port()] if processes_wanted > 1 else []),
                ]  # fmt: skip
                generator = processes.start("Locust", command, Path(folder) / "generator.log", cpus and cpus[1])
                generator.wait_for_line(WEB_READY, WEB_READY_S, interrupts.asked)
                # Locust says so before it listens.
                generator.wait(WEB_READY_S, lambda: interrupts.count > 0 or _listens(port))
                if not interrupts.count:
                    console.print(f"server   {escape(url)}", highlight=False, soft_wrap=True)
                    console.print(f"Locust   http://127.0.0.1:{port}/   (Ctrl-C ends both)", highlight=False, soft_wrap=True)
                    console.print(f"figures  http://127.0.0.1:{port}/streaming/", highlight=False, soft_wrap=True)
                    if server is not None:
                        page = url.replace("ws://", "http://").removesuffix("ws")
                        console.print(f"the server's own page, to type in by hand: {escape(page)}", highlight=False, soft_wrap=True)
            while not interrupts.count:
                for process in (generator, server):
                    if process is not None and (code := process.wait(0.2, interrupts.asked)) is not None:
                        raise ProcessError(f"{process.name} {ended(code)}{process.said()}")
        except ProcessError as error:
            raise BenchError(str(error), 1) from None
        finally:
            for process, number, deadline_s in ((generator, signal.SIGINT, WEB_DRAIN_S), (server, signal.SIGTERM, SERVER_DRAIN_S)):
                if process is not None:
                    process.stop(number, deadline_s, lambda: interrupts.count >= 2)
    # Ctrl-C is how this command is meant to end.
    return 0
