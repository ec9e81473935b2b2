"""What tests of every room may use: the reference server as a real process, started on a free port and always stopped."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.browser import CHROMIUM, FLAGS
from tests.mortal import mortal

# A slow moment of a busy machine is no failure.
settings.register_profile("streamgauge", deadline=None)
settings.load_profile("streamgauge")

ROOT = Path(__file__).resolve().parent.parent
STARTED = re.compile(r"listening on (wss?://\S+) \(page: (https?://\S+?)/\)")


class RunningServer:
    """`python -m server`, or another `module` of the same options, in a process of its own.

    `url` is the WebSocket's, `http_url` has no slash at its end.
    """

    def __init__(self, *options: str, port: int = 0, environment: dict[str, str] | None = None, module: str = "server") -> None:
        self.log_file = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        self.process = subprocess.Popen(
            mortal([sys.executable, "-m", module, "--port", str(port), *options]),
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=self.log_file,
            start_new_session=True,  # a test's Ctrl-C is not the server's
        )
        assert self.process.stdout is not None
        # A server that neither starts nor ends must not hang the test.
        guard = threading.Timer(30, self.process.kill)
        guard.start()
        line = self.process.stdout.readline().decode()
        guard.cancel()
        found = STARTED.match(line)
        if found is None:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server did not start: {line!r} {self.log()}")
        self.url, self.http_url = found[1], found[2]
        self.pid = self.process.pid
        self.port = int(self.url.rpartition(":")[2].removesuffix("/ws"))

    def log(self) -> str:
        """Return what the server has written to stderr so far."""
        self.log_file.flush()
        return os.pread(self.log_file.fileno(), 10_000_000, 0).decode()

    def get(self, path: str, context: ssl.SSLContext | None = None) -> str:
        """Return the body of a page."""
        with urllib.request.urlopen(self.http_url + path, timeout=10, context=context) as response:
            return str(response.read().decode())

    def metrics(self) -> dict[str, float]:
        """Return the server's metrics by name and labels, as they are written."""
        lines = [line for line in self.get("/metrics").splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def wait_for(self, metric: str, value: float) -> dict[str, float]:
        """Scrape until a metric has a value (10 s at most); returns the scrape that showed it."""
        seen: float | None = None
        pause = threading.Event()
        for _ in range(1000):
            scraped = self.metrics()
            seen = scraped.get(metric)
            if seen == value:
                return scraped
            pause.wait(0.01)
        raise AssertionError(f"{metric} is {seen}, not {value}")

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def stop(self, timeout_s: float = 20) -> int:
        """Ask the server to leave, by force if it does not; returns its exit code. Idempotent."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return self.process.returncode

    def close(self) -> None:
        """Stop, and give up the log."""
        self.stop()
        self.log_file.close()


@pytest.fixture(scope="session")
def server_process() -> type[RunningServer]:
    """Return the class itself, for fixtures of a wider scope that start and close a server themselves."""
    return RunningServer


@pytest.fixture
def start_server() -> Iterator[Callable[..., RunningServer]]:
    """Return a function that starts a server with the given options; each is stopped when the test is over."""
    running: list[RunningServer] = []

    def start(*options: str, port: int = 0, environment: dict[str, str] | None = None, module: str = "server") -> RunningServer:
        server = RunningServer(*options, port=port, environment=environment, module=module)
        running.append(server)
        return server

    yield start
    for server in running:
        server.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium of the machine's own; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield started
        started.close()
