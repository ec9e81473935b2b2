"""A server that keeps a history, a master and workers: real processes, on one machine or each on a host (namespace) of its own."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from loadtest.ports import free_port
from loadtest.run_directory import RunDirectory, RunDirectoryError

from .namespaces import Network
from .processes import Interrupted, Interrupts, Process, ProcessError, Processes

LISTENING: Final = re.compile(r"listening on (ws://\S+)")
START_S: Final = 60.0
END_S: Final = 120.0
LOAD: Final = (
    "--users", "6", "--spawn-rate", "100", "--tokens", "20", "--gap-ms", "20", "--ttft-ms", "20", "--warm-up", "0", "--stop-timeout", "3",
)  # fmt: skip


class Cluster:
    """One run with workers, below ``folder``. ``network`` has the hosts server, master, w0, w1, ...; None: all on this machine.

    ``server``: the command of another server than the reference server, which keeps no history; without ``trace`` none is asked for.
    """

    def __init__(
        self, folder: Path, processes: Processes, interrupts: Interrupts, *, workers: int = 2, expected: int | None = None,
        seconds: float = 6, options: Sequence[str] = (), network: Network | None = None, wait_s: float = START_S,
        server: Sequence[str] = (), trace: bool = True,
    ) -> None:  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / "run"
        self.history = folder / "history.txt"
        self.seconds = seconds
        self.network = network
        self.port = free_port()
        self.workers: list[Process] = []
        self.refused_code: int | None = None
        self._processes = processes
        self._interrupts = interrupts
        self.go_on, self.pause = interrupts.go_on, interrupts.pause
        reference = ["-m", "server", "--host", self.address("server"), "--port", "0", "--quiet", "--history", str(self.history)]
        self.server = self._start("server", [sys.executable, *(server or reference)])
        match = self.server.wait_for_line(LISTENING, START_S, interrupts.asked)
        if match is None:
            raise Interrupted
        bind = ["--master-bind-host", self.address("master"), "--master-bind-port", str(self.port)]
        self.master = self._start("master", [
            sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary", "--master", *bind,
            "--expect-workers", str(expected or workers), "--expect-workers-max-wait", f"{wait_s:g}", "--host", match[1],
            "--run-dir", str(self.path), "--run-time", f"{seconds:g}s", *LOAD, *([] if server or not trace else ["--trace"]), *options,
        ])  # fmt: skip
        for _ in range(workers):
            self.add_worker()

    def address(self, host: str) -> str:
        """Where a host is reached."""
        return "127.0.0.1" if self.network is None else self.network.address(host)

    def add_worker(self, locustfile: str = "loadtest/locustfile.py") -> Process:
        """Start one more worker."""
        host = f"w{len(self.workers)}"
        worker = self._start(host, [
            sys.executable, "-m", "locust", "-f", locustfile, "--worker", "--master-host", self.address("master"),
            "--master-port", str(self.port), "--worker-folder", str(self.folder),
        ])  # fmt: skip
        self.workers.append(worker)
        return worker

    def wait_until(self, true: Callable[[], object], what: str, within_s: float = START_S) -> None:
        """Ask again and again until the answer is true; ProcessError when it never is."""
        deadline = time.monotonic() + within_s
        while not true():
            self.go_on()
            if time.monotonic() > deadline or (self.master.poll() is not None and not true()):
                raise ProcessError(f"waited in vain for {what}{self.master.said()}")
            time.sleep(0.05)

    def begin(self) -> None:
        """Wait until conversations of every worker are in the master's record."""
        self.wait_until(
            lambda: len({row["worker"] for row in self.rows("conversations")}) >= sum(w.poll() is None for w in self.workers),
            "the first conversations",
        )

    def begin_tokens(self) -> None:
        """Wait until tokens are in the master's record, be it of no whole conversation."""
        self.wait_until(lambda: self.rows("tokens"), "the first tokens")

    def name_of(self, number: int) -> str:
        """What the master calls a worker that takes part."""
        for path in (self.path / "raw").glob("*.json"):
            information = json.loads(path.read_text(encoding="utf-8"))
            if information["pid"] == self.workers[number].pid:
                return str(information["worker"])
        raise ProcessError(f"the master knows no worker with the process id {self.workers[number].pid}")

    def rows(self, table: str) -> list[dict[str, Any]]:
        """What the master's directory has of a table now; nothing while there is none."""
        try:
            found: list[dict[str, Any]] = RunDirectory.open(self.path).table(table).to_pylist()
        except (RunDirectoryError, OSError):
            return []
        return found

    def end(self) -> int:
        """Wait for the master's end, then for the workers', then let the server leave, so that its history is whole; the exit code."""
        code = self.end_of(self.master)
        for worker in self.workers:
            self.end_of(worker)
        self.server.stop(signal.SIGTERM, 10, self._interrupts.asked)
        return code

    def end_of(self, process: Process) -> int:
        """Wait for the end of one process; ProcessError when it does not come."""
        deadline = time.monotonic() + END_S
        while (code := process.poll()) is None:
            self.go_on()
            if time.monotonic() > deadline:
                process.stop(signal.SIGKILL, 1)
                raise ProcessError(f"{process.name} did not end{process.said()}")
            time.sleep(0.05)
        return code

    def stop(self) -> None:
        """End by force whatever still runs."""
        for process in (self.master, *self.workers, self.server):
            if process.poll() is None:
                process.stop(signal.SIGKILL, 5)

    def logs(self) -> str:
        """What master and workers have said."""
        return "\n".join(process.text() for process in (self.master, *self.workers))

    def _start(self, host: str, command: Sequence[str]) -> Process:
        before = [] if self.network is None else self.network.inside(host)
        return self._processes.start(host, [*before, *command], self.folder / f"{host}.log")
