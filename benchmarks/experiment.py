"""Servers and one generator of an experiment, as processes: started, watched, stopped with SIGSTOP where the experiment asks for it."""

from __future__ import annotations

import http.client
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from .processes import Interrupted, Interrupts, Process, ProcessError, Processes, ended, split_cpus

LISTENING: Final = re.compile(r"listening on (ws://\S+)")
ATTACKING: Final = re.compile(r"attacking ws://")
READY_S: Final = 20.0
BEGIN_S: Final = 60.0
GRACE_S: Final = 60.0
"""What a generator may take beyond its load: conversations in flight, writing and compacting on a slow machine."""
WRITTEN: Final = (0, 12)
"""Exit codes of a generator that has closed its record."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server and where it listens."""

    process: Process
    url: str

    def counts(self) -> dict[str, float] | None:
        """Its own counts now, by Prometheus sample name; None when it does not answer within a second."""
        where = urlsplit(self.url)
        connection = http.client.HTTPConnection(where.hostname or "127.0.0.1", where.port, timeout=1)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
            samples = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
            return {name: float(value) for name, _, value in samples}
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()


class Experiment:
    """Starts programs below ``folder`` and waits for them; raises Interrupted when asked to stop, ProcessError when one fails."""

    def __init__(self, folder: Path, processes: Processes, interrupts: Interrupts) -> None:
        self.folder = folder
        self._processes = processes
        self._interrupts = interrupts
        self.go_on, self.pause = interrupts.go_on, interrupts.pause
        self._cpus = split_cpus()

    def start_reference(self, *options: str) -> Server:
        """The reference server on a free port."""
        return self._start_server("the reference server", "reference.log", ["-m", "server", "--port", "0", "--quiet", *options])

    def start_null(self, *options: str) -> Server:
        """The null server on a free port."""
        return self._start_server("the null server", "null.log", ["-m", "benchmarks.null_server", *options])

    def start_hostile(self, url: str, connections: int, seed: int) -> Process:
        """Hostile clients that attack a server until they are stopped."""
        command = [sys.executable, "-m", "benchmarks.hostile_clients", url, "--connections", str(connections), "--seed", str(seed)]
        process = self._processes.start("the hostile clients", command, self.folder / f"hostile-{seed}.log", self._cpus and self._cpus[1])
        if process.wait_for_line(ATTACKING, READY_S, self._interrupts.asked) is None:
            raise Interrupted
        return process

    def stop_server(self, server: Server) -> None:
        """Let a server leave."""
        server.process.stop(signal.SIGTERM, 10, self._interrupts.asked)

    def generate(
        self, name: str, url: str, options: Sequence[str], seconds: float, during: Callable[[Process, Path], None] | None = None,
        codes: Container[int | None] = WRITTEN,
    ) -> Path:  # fmt: skip
        """Run the generator to its end and return its run directory; ``during`` is called once its record has begun.

        ``codes`` are the exit codes with which it may end, negative for a signal.
        """
        directory = self.folder / name
        command = [
            sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary", "--host", url,
            "--run-dir", str(directory), "--run-time", f"{seconds:g}s", *options,
        ]  # fmt: skip
        generator = self._processes.start("the generator", command, self.folder / f"{name}.log", self._cpus and self._cpus[1])
        begin = time.monotonic()
        while not (directory / "raw" / "w0.frames").exists():
            self._check(generator, begin + BEGIN_S, "begin")
            time.sleep(0.02)
        if during is not None:
            during(generator, directory)
        deadline = time.monotonic() + seconds + GRACE_S
        while generator.wait(0.2, self._interrupts.asked) is None:
            self._check(generator, deadline, "end")
        code = generator.poll()
        if code not in codes:
            raise ProcessError(f"the generator {ended(code or 0)}{generator.said()}", code)
        return directory

    def freeze(self, process: Process, until: Callable[[int], bool]) -> tuple[int, int]:
        """Stop a process with SIGSTOP until ``until`` (which is told since when) is true.

        Returns both instants, wall clock ns: it surely stood still between them.
        """
        os.kill(process.pid, signal.SIGSTOP)
        try:
            # The signal is on its way to all threads of the process; it stands still when the kernel says so.
            while not _stands_still(process.pid):
                self.go_on()
                time.sleep(0.001)
            began = time.time_ns()
            while not until(began):
                self.go_on()
                time.sleep(0.005)
            return began, time.time_ns()
        finally:
            os.kill(process.pid, signal.SIGCONT)

    def freeze_for(self, process: Process, seconds: float) -> tuple[int, int]:
        """Stop a process with SIGSTOP for a time; returns both instants, wall clock ns."""
        return self.freeze(process, lambda began: time.time_ns() - began >= seconds * 1e9)

    def _start_server(self, name: str, log: str, command: Sequence[str]) -> Server:
        process = self._processes.start(name, [sys.executable, *command], self.folder / log, self._cpus and self._cpus[0])
        match = process.wait_for_line(LISTENING, READY_S, self._interrupts.asked)
        if match is None:
            raise Interrupted
        return Server(process, match[1])

    def _check(self, generator: Process, deadline: float, what: str) -> None:
        self.go_on()
        code = generator.poll()
        if what == "begin" and code is not None:
            raise ProcessError(generator.refusal() if code == 2 else f"the generator {ended(code)}{generator.said()}", code)
        if time.monotonic() > deadline:
            raise ProcessError(f"the generator did not {what} in time{generator.said()}")


def _stands_still(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] in ("T", "t")
    except OSError:
        return True  # where there is no such file, the signal has been sent and that is all one can know
