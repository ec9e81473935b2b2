"""Programs that the runner starts: each in a session of its own, its output in a log file, on its own CPUs, and never left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
"""The project's folder, from which every program is started."""
POLL_S: Final = 0.05
TAIL_LINES: Final = 15
REFUSAL: Final = re.compile(r"^(?:streamgauge|python -m server|\S+: error|.*/ERROR/streamgauge): (.+)$", re.MULTILINE)
"""How our programs, and argparse, begin the sentence with which they refuse to start."""


class ProcessError(Exception):
    """A program did not start, or ended when it should not; the message says which, how, and what it said last.

    ``usage`` is set when the program itself refused what it was told (its exit code was 2).
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.usage = code == 2


class Interrupted(Exception):  # noqa: N818 - it is no error
    """Somebody asked us to stop."""


class Interrupts:
    """Counts Ctrl-C, SIGTERM and SIGHUP while entered, instead of raising in the middle of something."""

    NUMBERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.count = 0
        self.raising = False
        """When set, the next interrupt raises KeyboardInterrupt: for work that cannot ask ``count``."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in self.NUMBERS:
            self._before[number] = signal.signal(number, self._caught)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def asked(self) -> bool:
        """Whether somebody has asked us to stop."""
        return self.count > 0

    def go_on(self) -> None:
        """Interrupted when somebody has asked us to stop."""
        if self.count:
            raise Interrupted

    def pause(self, seconds: float) -> None:
        """Let time pass, unless somebody asks us to stop."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.go_on()
            time.sleep(min(left, POLL_S))

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.raising:
            raise KeyboardInterrupt


class Process:
    """One running program, leader of its own process group."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path, reaped: Callable[[int], None]) -> None:
        self.name = name
        self.log = log
        self.pid = popen.pid
        self._popen = popen
        self._reaped = reaped
        self._told = False

    def poll(self) -> int | None:
        """Its exit code, negative for a signal, or None while it runs."""
        code = self._popen.poll()
        if code is not None and not self._told:
            self._told = True
            self._reaped(self.pid)
        return code

    def wait(self, deadline_s: float, until: Callable[[], bool] = lambda: False) -> int | None:
        """Its exit code, or None when ``deadline_s`` seconds have passed or ``until`` has become true before."""
        deadline = time.monotonic() + deadline_s
        while (code := self.poll()) is None and time.monotonic() < deadline and not until():
            time.sleep(POLL_S)
        return code

    def stop(self, number: signal.Signals, deadline_s: float, hurry: Callable[[], bool] = lambda: False) -> int:
        """Signal it, give it ``deadline_s`` seconds (or until ``hurry``), then kill its whole group; returns the exit code."""
        if (code := self.poll()) is None:
            self._popen.send_signal(number)
            code = self.wait(deadline_s, hurry)
        if code is None:
            # Its children too: they are in the group that it leads, and would hold the port or the directory.
            self._kill_group()
            self._popen.wait()
            code = self.poll()
            assert code is not None
        return code

    def _kill_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

    def wait_for_line(self, pattern: re.Pattern[str], deadline_s: float, until: Callable[[], bool] = lambda: False) -> re.Match[str] | None:
        """The first match in its log; None when ``until`` became true before; ProcessError when it ended or took too long."""
        deadline = time.monotonic() + deadline_s
        while True:
            code = self.poll()
            if match := pattern.search(self.text()):
                return match
            if code is not None:
                refused = self.refusal() if code == 2 else f"{self.name} {ended(code)} before it was ready{self.said()}"
                raise ProcessError(refused, code)
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name} was not ready after {deadline_s:g} s{self.said()}")
            if until():
                return None
            time.sleep(POLL_S)

    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def refusal(self) -> str:
        """The sentence with which it refused to start, or the end of what it printed."""
        found = REFUSAL.findall(self.text())
        return f"{self.name} says: {found[-1]}" if found else f"{self.name} refused to start{self.said()}"

    def said(self) -> str:
        """The end of what it printed, for the end of a message."""
        lines = [line for line in self.text().splitlines() if line.strip()][-TAIL_LINES:]
        if not lines:
            return f", and it printed nothing ({self.log})"
        return f"; it printed last ({self.log}):\n" + "\n".join(f"    {line}" for line in lines)


class Processes:
    """Everything that was started; leaving it stops what still runs, the last one first."""

    def __init__(self) -> None:
        self._started: list[Process] = []
        self._watcher: subprocess.Popen[str] | None = None

    def __enter__(self) -> Processes:
        script = Path(__file__).with_name("watcher.py")
        # Isolated: it needs nothing of ours, and starts in a few milliseconds.
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, text=True,
        )  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in reversed(self._started):
            process.stop(signal.SIGTERM, 5)
        if self._watcher is not None and self._watcher.stdin is not None:
            try:
                self._watcher.stdin.close()
            except BrokenPipeError:
                pass
            self._watcher.wait()

    def start(
        self, name: str, command: Sequence[str], log: Path, cpus: frozenset[int] | None = None,
        environment: Mapping[str, str] | None = None, cwd: Path = ROOT,
    ) -> Process:  # fmt: skip
        """Start ``command`` from ``cwd`` (the project's folder) with its output in ``log``; ProcessError when that is not possible.

        ``environment`` is laid over ours, out of which Locust's variables are taken: they would change the load behind the scenario's back.
        """
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("LOCUST_")}
        try:
            with log.open("wb") as output:
                popen = subprocess.Popen(
                    list(command), cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                    env={**inherited, "PYTHONUNBUFFERED": "1", **(environment or {})},
                )  # fmt: skip
        except OSError as error:
            raise ProcessError(f"{name} could not be started: {error}") from None
        self._tell(f"+{popen.pid}")
        process = Process(name, popen, log, lambda pid: self._tell(f"-{pid}"))
        self._started.append(process)
        if cpus:
            # Set from outside, at once: before exec nothing of ours would run in the child, and threads begin much later.
            try:
                os.sched_setaffinity(popen.pid, cpus)
            except ProcessLookupError:
                pass
        return process

    def _tell(self, line: str) -> None:
        if self._watcher is not None and self._watcher.stdin is not None and not self._watcher.stdin.closed:
            try:
                self._watcher.stdin.write(line + "\n")
                self._watcher.stdin.flush()
            except BrokenPipeError:
                pass


def ended(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def split_cpus() -> tuple[frozenset[int], frozenset[int]] | None:
    """CPUs for the server and, apart from them, for the generator; None where there is only one, or the system cannot pin."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    cpus = sorted(os.sched_getaffinity(0))
    half = len(cpus) // 2
    return (frozenset(cpus[:half]), frozenset(cpus[half:])) if half else None
