"""Several processes on one port, and everything that can prevent a start."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from server.protocol import END

ROOT = Path(__file__).resolve().parents[2]
Start = Callable[..., Any]


def workers(server: Any) -> list[int]:
    """Return the worker processes of a server."""
    return [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]


def scrape_many(server: Any) -> dict[str, float]:
    """Scrape often enough that each process has been asked; all answers must agree."""
    scrapes = [server.metrics() for _ in range(12)]
    names = ("streamgauge_connections_open", "streamgauge_tokens_total", "streamgauge_connections_accepted_total", "streamgauge_processes")
    assert len({tuple(scrape[name] for name in names) for scrape in scrapes}) == 1
    return dict(scrapes[-1])


def converse(server: Any) -> int:
    """Hold one conversation; returns the number of tokens."""
    with connect(server.url) as client:
        client.send("p")
        tokens = 0
        while client.recv(20) != END:
            tokens += 1
            client.send("")
    return tokens


def test_metrics_are_right_whichever_process_is_asked(start_server: Start) -> None:
    server = start_server("--processes", "2", "--tokens", "5", "--gap-ms", "1")
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(server.url))
        assert sum(converse(server) for _ in range(10)) == 50
        server.wait_for("streamgauge_connections_open", 20)
        metrics = scrape_many(server)
        assert metrics["streamgauge_tokens_total"] == 50
        assert metrics["streamgauge_connections_accepted_total"] == 30
        assert metrics["streamgauge_processes"] == 2
    server.wait_for("streamgauge_connections_open", 0)
    assert server.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to find the workers")
def test_a_process_that_dies_leaves_its_counts_and_no_gauge_and_is_replaced(start_server: Start) -> None:
    server = start_server("--processes", "2", "--tokens", "5", "--gap-ms", "1")
    with ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(connect(server.url))
        for _ in range(5):
            converse(server)
        server.wait_for("streamgauge_connections_open", 30)
        tokens = scrape_many(server)["streamgauge_tokens_total"]
        before = workers(server)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while len(workers(server)) < 2 or set(workers(server)) & set(before):
            assert time.monotonic() < deadline
        server.wait_for("streamgauge_processes", 2)
        metrics = scrape_many(server)
        assert metrics["streamgauge_connections_open"] == 0
        assert metrics["streamgauge_tokens_total"] == tokens == 25
        assert converse(server) == 5
    assert server.log().count("worker_died") == 2
    assert server.stop() == 0


def test_drain_with_several_processes(start_server: Start) -> None:
    server = start_server("--processes", "2", "--tokens", "100000", "--gap-ms", "20", "--window", "0")
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(server.url)) for _ in range(20)]
        for client in clients:
            client.send("p")
        server.wait_for("streamgauge_connections_streaming", 20)
        server.signal(signal.SIGINT)
        for client in clients:
            while client.recv(20) != END:
                pass
    assert server.process.wait(20) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to find the workers")
def test_workers_leave_when_their_parent_is_gone(start_server: Start) -> None:
    server = start_server("--processes", "2")
    left = workers(server)
    server.process.kill()
    server.process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split() for pid in left):
        assert time.monotonic() < deadline
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)


def test_the_cap_in_all_holds_over_the_processes(start_server: Start) -> None:
    server = start_server("--processes", "2", "--max-connections", "6")
    with ExitStack() as stack:
        statuses = []
        for _ in range(30):
            try:
                stack.enter_context(connect(server.url))
            except InvalidStatus as refused:
                statuses.append(refused.response.status_code)
        assert statuses == [503] * 24


# -- what prevents a start -----------------------------------------------------------------------------------------------


def run(*options: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *options], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, **more
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--port", "70000"], "a port is a whole number from 0 to 65535, not '70000'"),
        (["--port", "x"], "not 'x'"),
        (["--tokens", "-1"], "tokens is a whole number of tokens, 0 or more, not '-1'"),
        (["--tokens", "many"], "tokens is a whole number of tokens, 0 or more, not 'many'"),
        (["--lengths", "short"], "lengths is one of fixed, lognormal, gamma, chat, code, prompt, not 'short'"),
        (["--cap", "trace=1"], "a cap is NAME=VALUE"),
        (["--cap", "tokens=5"], "--tokens 12 is over its own cap, --cap tokens=5; set both"),
        (["--origin", "example.com"], "an origin is scheme://host[:port]"),
        (["--origin", "http://example.com/"], "an origin is scheme://host[:port]"),
        (["--ack-timeout", "never"], "expected 0.01 to 86400 seconds, not 'never'"),
        (["--processes", "0"], "the number of processes is a whole number from 1 to 256"),
        (["--host", "no.such.host.invalid"], "the host 'no.such.host.invalid' cannot be resolved"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1:0"),
        (["--keyfile", "key.pem"], "--keyfile is of no use without --certfile"),
        (["--certfile", "no/such/file.pem"], "cannot read no/such/file.pem: No such file or directory"),
        (["--certfile", "pyproject.toml"], "are not a certificate and its key (PEM)"),
        (["--ready-file", "/no/such/folder/ready"], "cannot write --ready-file /no/such/folder/ready"),
        (["--history", "/no/such/folder/history"], "cannot write --history /no/such/folder/history"),
    ],
)
def test_a_wrong_option_is_one_sentence_and_status_2(options: list[str], sentence: str) -> None:
    done = run("--port", "0", *options) if "--port" not in options else run(*options)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_port_in_use(start_server: Start, processes: str) -> None:
    server = start_server("--processes", processes)
    for again in ("1", "2"):
        done = run("--port", str(server.port), "--processes", again)
        assert done.returncode == 2
        assert done.stderr == (
            f"python -m server: 127.0.0.1:{server.port} is in use by another program; choose another --port, or 0 for a free one\n"
        )


def test_a_certificate_without_its_key(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "certificate.pem")
    authority.issue_cert("other.example").private_key_pem.write_to_path(tmp_path / "key.pem")
    done = run("--port", "0", "--certfile", str(tmp_path / "certificate.pem"), "--keyfile", str(tmp_path / "key.pem"))
    assert done.returncode == 2
    assert "are not a certificate and its key (PEM)" in done.stderr
    assert done.stderr.count("\n") == 1


def test_too_few_descriptors() -> None:
    done = run("--port", "0", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)))
    assert done.returncode == 2
    assert "raise it: ulimit -n 1024" in done.stderr


def test_help_names_every_option_group() -> None:
    done = run("--help")
    assert done.returncode == 0
    for word in ("listening:", "answers (defaults", "limits:", "--gap-ms", "docs/protocol.md"):
        assert word in done.stdout


def test_used_up_descriptors_leave_the_streams_alone_and_the_log_short(start_server: Start) -> None:
    # The limit is lowered after the start: the cap that the server computed from it no longer protects it.
    server = start_server("--tokens", "30", "--gap-ms", "20")
    with ExitStack() as stack:
        client = stack.enter_context(connect(server.url))
        client.send("p")
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (20, hard))
        for _ in range(60):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
        tokens = 0
        while client.recv(20) != END:
            tokens += 1
            client.send("")
        assert tokens == 30
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard, hard))
    deadline = time.monotonic() + 20
    pause = threading.Event()
    while True:
        try:
            assert converse(server) == 30
            break
        except OSError:
            assert time.monotonic() < deadline
            pause.wait(0.1)
    assert server.log().count("\n") < 100
    assert "Traceback" not in server.log()


def test_the_ready_file(start_server: Start, tmp_path: Path) -> None:
    server = start_server("--ready-file", str(tmp_path / "ready"))
    assert (tmp_path / "ready").read_text() == f"listening on {server.url} (page: {server.http_url}/)\n"


def test_killed_and_started_again_on_the_same_port(start_server: Start) -> None:
    server = start_server("--gap-ms", "1")
    with connect(server.url) as client:
        client.send("p")
        client.recv(10)
        server.process.kill()
        server.process.wait()
    assert converse(start_server("--gap-ms", "1", port=server.port)) == 12
