"""The engine's driver process, and Locust as a real process; nothing here imports gevent or Locust."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loadtest.locust_run import LocustRun

ROOT = Path(__file__).resolve().parents[2]
DRIVERS = Path(__file__).resolve().parent / "drivers"


class Driver:
    """A process that runs connections of the engine: `ask` sends cases and returns their results."""

    def __init__(self, name: str = "stream_driver.py") -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self.process = subprocess.Popen(
            [sys.executable, str(DRIVERS / name)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
        )

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def read_line(self) -> str:
        assert self.process.stdout is not None
        guard = threading.Timer(60, self.process.kill)
        guard.start()
        line = self.process.stdout.readline()
        guard.cancel()
        assert line, f"the driver is gone: {self.errors()}"
        return line.decode()

    def ask(self, cases: Any) -> Any:
        self.write(json.dumps(cases).encode() + b"\n")
        return json.loads(self.read_line())

    def errors(self) -> str:
        """What the process has written to stderr: gevent prints there what went wrong in the hub."""
        return os.pread(self.log.fileno(), 100_000, 0).decode()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    running = Driver()
    yield running
    running.close()


@pytest.fixture(scope="module")
def start_driver() -> Iterator[Callable[..., Driver]]:
    running: list[Driver] = []

    def start(name: str = "stream_driver.py") -> Driver:
        running.append(Driver(name))
        return running[-1]

    yield start
    for one in running:
        one.close()


@pytest.fixture(scope="module")
def start_locust(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., LocustRun]]:
    """Return a function that starts Locust with options; whatever still runs is killed when the module is through."""
    running: list[LocustRun] = []

    def start(*options: str, **more: Any) -> LocustRun:
        running.append(LocustRun(tmp_path_factory.mktemp("run"), *options, **more))
        return running[-1]

    yield start
    for run in running:
        run.close()


@pytest.fixture(scope="module")
def serve(server_process: Any) -> Iterator[Callable[..., Any]]:
    """Return a function that starts a reference server for the whole module."""
    running: list[Any] = []

    def start(*options: str, port: int = 0) -> Any:
        running.append(server_process("--quiet", *options, port=port))
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.fixture(scope="session")
def play() -> Callable[..., Any]:
    """Return a function that plays a scene of the Locust half in a process of its own; it returns what the scene printed."""

    def run(scene: str, *arguments: str) -> Any:
        command = [sys.executable, str(DRIVERS / "parts_driver.py"), scene, *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return run
