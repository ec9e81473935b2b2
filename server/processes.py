"""Sockets, descriptors and processes: one process, or several that share a port, watched by a parent."""

from __future__ import annotations

import errno
import gc
import importlib
import os
import select
import signal
import socket
import ssl
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from . import precise
from .app import Settings, StreamServer
from .counters import Block
from .log import Log

LEAVE_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
RESTARTS_PER_MINUTE: Final = 10  # a worker that dies faster than that is a bug that restarting hides


class StartError(Exception):
    """The machine or the operator's choice prevents the start; the message is one sentence."""


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a server's TLS context; raises OSError or ssl.SSLError if the files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context


def descriptors_allow() -> int:
    """Raise the soft limit of open files to the hard one and return it."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, 1_048_576)
    for wanted in (hard, min(hard, 10_240)):  # macOS has a ceiling of its own below "unlimited"
        if soft >= wanted:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            return wanted
        except (OSError, ValueError):
            continue
    return soft


def write_ready_file(path: Path, text: str) -> None:
    """Write the line that says where the server listens, in one step, for a runner that watches for the file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def bind(host: str, port: int, processes: int) -> list[list[socket.socket]]:
    """Return for each process its own bound sockets, one for each address of `host`, all on one port (0 picks a free one).

    Raises `StartError` if the host is unknown or the port is taken.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise StartError(f"the host {host!r} cannot be resolved: {getattr(error, 'strerror', None) or error}") from None
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    shared = processes > 1
    if shared and not hasattr(socket, "SO_REUSEPORT"):
        raise StartError("several processes on one port need SO_REUSEPORT, which this system does not have; use --processes 1")
    bound: list[list[socket.socket]] = [[] for _ in range(processes)]
    try:
        for family, address in addresses:
            if shared and port:
                # With SO_REUSEPORT alone a second server would quietly take half of the first one's connections.
                _bind_one(family, address, port, shared=False).close()
            for sockets in bound:
                sockets.append(_bind_one(family, address, port, shared=shared))
                port = sockets[-1].getsockname()[1]
    except OSError as error:
        for sockets in bound:
            for each in sockets:
                each.close()
        where = f"{host}:{port}"
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"{where} is in use by another program; choose another --port, or 0 for a free one") from None
        raise StartError(f"cannot listen on {where}: {error.strerror or error}") from None
    return bound


def _bind_one(family: socket.AddressFamily | int, address: Any, port: int, *, shared: bool) -> socket.socket:
    # Named, because asyncio sets TCP_NODELAY only where it sees the protocol: without it a second small write waits up to 40 ms.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address[0], port, *address[2:]))
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


def new_loop(*, uvloop: bool) -> Any:
    """Return a new event loop; raises `StartError` if uvloop is asked for and not installed."""
    if not uvloop:
        return precise.new_event_loop()
    try:
        package = importlib.import_module("uvloop")
    except ImportError:
        raise StartError("--uvloop needs the package uvloop: pip install uvloop") from None
    return package.new_event_loop()


NEVER: Final = 1_000_000


def calm_collector(searches_between_middle: int = 10) -> None:
    """Keep the garbage collector from stopping the loop: no full search comes by itself.

    One takes 0.5 s with 12 000 connections open, and by default comes more often than connections do. With NEVER, the middle search
    does not come either, which took up to 21 ms and came with every few thousand prompts: for a server whose connections leave
    nothing behind (StreamServer, which searches in full once in `app.FULL_SEARCH_EVERY` connections).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, searches_between_middle, NEVER)


def serve_here(
    settings: Settings, block: Block, process: int, sockets: Sequence[socket.socket], ready: Callable[[], None], *, uvloop: bool
) -> None:
    """Serve in this process until told to leave."""
    loop = new_loop(uvloop=uvloop)
    calm_collector(NEVER)
    try:
        loop.run_until_complete(StreamServer(settings, block, process).run(sockets, ready))
    finally:
        loop.close()


class Crew:
    """The worker processes of one port. The parent holds every socket, so that none is lost with a worker that dies."""

    def __init__(self, settings: Settings, bound: list[list[socket.socket]], *, uvloop: bool) -> None:
        self._settings = settings
        self._bound = bound
        self._uvloop = uvloop
        self._block = Block(len(bound))
        self._log = Log(quiet=settings.quiet)
        self._workers: dict[int, int] = {}  # pid -> process number
        self._leaving = False
        self._failed = False
        self._started_s: list[float] = []
        # A worker reads the end of this pipe when the parent is gone, and leaves.
        self._life_read, self._life_write = os.pipe()
        self._ready_read, self._ready_write = os.pipe()

    def run(self, ready: Callable[[], None]) -> int:
        """Start the workers, call `ready()` when all listen, replace those that die; returns the exit code."""
        for number in LEAVE_SIGNALS:
            signal.signal(number, self._leave)
        for process in range(len(self._bound)):
            self._start(process)
        waiting = len(self._bound)
        while self._workers:
            if waiting and select.select([self._ready_read], [], [], 0)[0]:
                waiting -= len(os.read(self._ready_read, waiting))
                if not waiting and not self._leaving:
                    ready()
                continue
            self._reap(os.WNOHANG if waiting else 0)
            if waiting:
                time.sleep(0.002)
        return 1 if self._failed else 0

    def _start(self, process: int) -> None:
        self._started_s = [at for at in self._started_s if at > time.monotonic() - 60.0]
        self._started_s.append(time.monotonic())
        # No signal between the fork and the note of it, nor before the child can act on it: it would be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, LEAVE_SIGNALS)
        child = 0 if self._leaving else os.fork()
        if child or self._leaving:
            if child:
                self._workers[child] = process
            signal.pthread_sigmask(signal.SIG_UNBLOCK, LEAVE_SIGNALS)
            return
        code = 1
        try:
            self._work(process)
            code = 0
        except BaseException:  # whatever it is, a worker must not return into the parent's code
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _work(self, process: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the parent tells us
        os.close(self._life_write)
        os.close(self._ready_read)
        for other, sockets in enumerate(self._bound):
            if other != process:
                for each in sockets:
                    each.close()
        loop = new_loop(uvloop=self._uvloop)
        calm_collector(NEVER)
        server = StreamServer(self._settings, self._block, process, handles_interrupt=False)
        loop.add_reader(self._life_read, self._orphaned, loop, server)
        try:
            loop.run_until_complete(
                server.run(
                    self._bound[process],
                    lambda: os.write(self._ready_write, b"."),
                )
            )
        finally:
            loop.close()

    def _orphaned(self, loop: Any, server: StreamServer) -> None:
        loop.remove_reader(self._life_read)
        server.leave()

    def _reap(self, flags: int) -> None:
        try:
            pid, status = os.waitpid(-1, flags)
        except ChildProcessError:
            self._workers.clear()
            return
        process = self._workers.pop(pid, None)
        if process is None:
            return
        self._block.forget_gauges(process)
        if self._leaving:
            self._failed |= status != 0
            return
        code = os.waitstatus_to_exitcode(status)
        self._log.warn("worker_died", process=process, pid=pid, exit=code)
        if len(self._started_s) >= RESTARTS_PER_MINUTE + len(self._bound):
            self._log.warn("giving_up", restarts=len(self._started_s))
            self._failed = True
            self._leave()
            return
        self._start(process)

    def _leave(self, *_signal: object) -> None:
        self._leaving = True
        for pid in list(self._workers):
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
