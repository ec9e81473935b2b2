"""A server of one's own, started by a command: the port it is told, when it is ready, and what is said when it never is."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.keys import ScenarioError
from benchmarks.options import parse, server
from benchmarks.processes import ProcessError, Processes
from benchmarks.server_command import ServerCommand, read_command

LISTEN = "import os, socket, sys, time; s = socket.create_server(('127.0.0.1', int({port}))); print('up', flush=True); time.sleep(99)"


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as started:
        yield started


def command(code: str, *words: str) -> ServerCommand:
    return ServerCommand((sys.executable, "-c", code, *words), Path.cwd(), "chat")


@pytest.mark.parametrize(
    ("code", "words"), [(LISTEN.format(port="sys.argv[1]"), ("{port}",)), (LISTEN.format(port="os.environ['PORT']"), ())]
)
def test_it_is_told_its_port_and_is_ready_when_it_listens(processes: Processes, tmp_path: Path, code: str, words: tuple[str, ...]) -> None:
    process, url = command(code, *words).start(processes, tmp_path / "log", None, lambda: False)
    assert url is not None
    assert url.startswith("ws://127.0.0.1:")
    assert url.endswith("/chat")
    assert process.poll() is None
    assert process.stop(signal.SIGTERM, 30) == -signal.SIGTERM


def test_one_that_ends_at_once_is_quoted(processes: Processes, tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="the server ended with exit code 3 before it was ready") as caught:
        command("print('no database'); raise SystemExit(3)").start(processes, tmp_path / "log", None, lambda: False)
    assert "no database" in str(caught.value)
    assert caught.value.usage


def test_one_that_never_listens_is_told_where_the_port_stands(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.server_command.READY_S", 0.1)
    with pytest.raises(ProcessError, match=r"did not listen on 127\.0\.0\.1:\d+ within 0\.1 s; its command has no \{port\}"):
        command("import time; time.sleep(99)").start(processes, tmp_path / "log", None, lambda: False)


def test_one_that_is_not_wanted_any_more_has_no_url(processes: Processes, tmp_path: Path) -> None:
    _, url = command("import time; time.sleep(99)").start(processes, tmp_path / "log", None, lambda: True)
    assert url is None


def test_commands_are_read_as_a_shell_would() -> None:
    assert read_command("node 'my server.js' --port {port}", "/ws").words == ("node", "my server.js", "--port", "{port}")
    for text in ("node 'x", "  "):
        with pytest.raises(ValueError, match="expected"):
            read_command(text, "/ws")


def test_a_server_is_started_or_runs_already_not_both() -> None:
    assert server(parse(["bench"])) is None
    assert server(parse(["bench", "--server", "a b", "--server-path", "/x"])) == ServerCommand(("a", "b"), Path.cwd(), "/x")
    with pytest.raises(ScenarioError, match="--host and --server: expected one of them"):
        server(parse(["bench", "--server", "a", "--host", "ws://x/"]))
