"""Other programs, started without forking this process.

Under gevent the standard library's ``subprocess`` forks and runs Python in the child before the program replaces it; what is told to run
after a fork (OpenTelemetry starts its threads anew) then runs a second copy of this process instead. ``posix_spawn`` has no such moment.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# Not `os.waitpid`: gevent's own, which stands in its place, now and then never learns that a child has ended.
from posix import waitpid

_POLL_S = 0.02
# gevent's loop takes the status of whatever child ends, once it has watched any: so the program's own is written down, too.
_WRITE_STATUS = '"$@"; echo $? >&3'


class Program:
    """A program that runs in a process group of its own; what it writes, to both outputs, is kept. OSError when it cannot start."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        path = shutil.which(command[0])
        if path is None:
            raise FileNotFoundError(f"there is no program {command[0]}")
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._status = tempfile.TemporaryFile()  # noqa: SIM115
        self.code: int | None = None
        self.pid = os.posix_spawn(
            "/bin/sh", ["sh", "-c", _WRITE_STATUS, "sh", path, *command[1:]], {**os.environ, **(environment or {})}, setpgroup=0,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, self._output.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, self._errors.fileno(), 2),
                (os.POSIX_SPAWN_DUP2, self._status.fileno(), 3),
            ],
        )  # fmt: skip

    def poll(self) -> int | None:
        """The exit code (of one that a signal ended: negative), or None while it runs."""
        if self.code is None:
            try:
                ended = waitpid(self.pid, os.WNOHANG)[0] != 0
            except ChildProcessError:
                ended = True
            if ended:
                written = _text(self._status.fileno()).strip()
                self.code = int(written) if written else -signal.SIGTERM
        return self.code

    def wait(self, timeout_s: float) -> int | None:
        """Wait for its end; None when it has not come in time."""
        deadline = time.monotonic() + timeout_s
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return self.code

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.killpg(self.pid, number)

    @property
    def output(self) -> str:
        """What it has written to its standard output."""
        return _text(self._output.fileno())

    @property
    def errors(self) -> str:
        """What it has written to its standard error."""
        return _text(self._errors.fileno())

    def close(self) -> None:
        """End it by force if it still runs, and forget what it wrote."""
        self.signal(signal.SIGKILL)
        while self.poll() is None:
            time.sleep(_POLL_S)
        self._output.close()
        self._errors.close()
        self._status.close()


def _text(descriptor: int) -> str:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")


def read_output(command: Sequence[str], timeout_s: float, environment: Mapping[str, str] | None = None) -> str:
    """What a program writes to its standard output; OSError when it cannot start, fails, or does not end in time."""
    program = Program(command, environment)
    try:
        code = program.wait(timeout_s)
        if code != 0:
            told = program.errors.strip().rpartition("\n")[2]
            raise OSError(f"{command[0]} {'did not end in time' if code is None else f'ended with {code}'}{told and ': ' + told}")
        return program.output
    finally:
        program.close()


def own_command(python: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command line and environment of ``python -m ...`` that finds this repository's packages wherever it is started."""
    return [python, "-P", "-m", *arguments], {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
