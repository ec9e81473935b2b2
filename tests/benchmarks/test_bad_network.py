"""One generator and one server, each a host of its own: packets lost on the way, the way cut for a while, and cut for good."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accounting import Account, account
from benchmarks.namespaces import Network, NetworkError, unavailable
from loadtest.run_directory import RunDirectory
from reports.summary import summarise

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("server", "generator")
CUT_S = 2.0
LOSS = 0.05
PATIENCE_S = 40.0


@dataclass
class Outcome:
    """What came of a run: its exit code and log, its tables, its books against the server's."""

    code: int
    log: str
    run: RunDirectory
    books: Account
    lost: int = 0

    def rows(self, table: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.run.table(table).to_pylist()
        return found


def load(network: Network, folder: Path, during: Callable[[Callable[[], int]], None], *options: str) -> Outcome:
    """A run of four seconds between two hosts; ``during`` is called with a way to ask for the conversations so far."""
    history, path, log = folder / "history.txt", folder / "run", folder / "generator.log"
    command = ["-m", "server", "--host", network.address("server"), "--port", "0", "--quiet", "--history", str(history)]
    server = subprocess.Popen([*network.inside("server"), sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    generator = None
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[2]
        command = [
            "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary", "--host", url, "--run-dir", str(path),
            "--users", "5", "--spawn-rate", "100", "--tokens", "10", "--gap-ms", "20", "--warm-up", "0", "--run-time", "4s", "--trace",
            "--stop-timeout", "6", *options,
        ]  # fmt: skip
        with log.open("wb") as output:
            generator = subprocess.Popen(
                [*network.inside("generator"), sys.executable, *command], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
            )

        def conversations() -> int:
            return RunDirectory.open(path).table("conversations").num_rows if (path / "run.json").exists() else 0

        during(conversations)
        code = generator.wait(PATIENCE_S)
        lost = network.lost("generator") + network.lost("server")
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
    finally:
        for process in (generator, server):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        if server.stdout is not None:
            server.stdout.close()
    return Outcome(code, log.read_text(), RunDirectory.open(path), account(path, history), lost)


def wait_for(true: Callable[[], object]) -> None:
    pause = threading.Event()
    for _ in range(round(PATIENCE_S / 0.05)):
        if true():
            return
        pause.wait(0.05)
    raise AssertionError("waited in vain")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outcome]]:
    """All three at the same time, each on a network of its own."""
    if (why := unavailable()) is not None:
        pytest.skip(why)

    def lossy(folder: Path) -> Outcome:
        with Network(HOSTS, f"loss{os.getpid()}") as network:
            try:
                for host in HOSTS:
                    network.lose(host, LOSS)
            except NetworkError as error:
                pytest.skip(str(error))
            return load(network, folder, lambda conversations: None)

    def cut(folder: Path) -> Outcome:
        with Network(HOSTS, f"cut{os.getpid()}") as network:

            def during(conversations: Callable[[], int]) -> None:
                wait_for(conversations)
                network.cut("server")
                threading.Event().wait(CUT_S)
                network.mend("server")

            return load(network, folder, during)

    def gone(folder: Path) -> Outcome:
        with Network(HOSTS, f"gone{os.getpid()}") as network:

            def during(conversations: Callable[[], int]) -> None:
                wait_for(conversations)
                network.cut("server")

            return load(network, folder, during, "--stall-timeout", "1", "--connect-timeout", "1")

    cases = {"loss": lossy, "cut": cut, "gone": gone}
    with ThreadPoolExecutor(len(cases)) as pool:
        running = {name: pool.submit(case, tmp_path_factory.mktemp(name)) for name, case in cases.items()}
        yield {name: one.result() for name, one in running.items()}


def test_lost_packets_cost_time_and_no_token(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["loss"]
    assert outcome.lost > 0
    assert outcome.code == 0, outcome.log
    assert outcome.run.metadata()["status"] == "complete"
    assert (outcome.books.balanced, outcome.books.unknown) == (True, 0), outcome.books
    assert outcome.books.ok == outcome.books.sent > 100
    assert {row["outcome"] for row in outcome.rows("conversations")} == {"completed"}
    # What was sent again came a retransmission's time late, which is at least 200 ms on Linux, and was counted as the target's.
    assert max(row["longest_stall_ns"] for row in outcome.rows("conversations")) > 150_000_000
    assert "Traceback" not in outcome.log


def test_a_way_cut_for_two_seconds_is_a_stall_and_loses_nothing(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["cut"]
    assert outcome.code == 0, outcome.log
    assert outcome.run.metadata()["status"] == "complete"
    assert (outcome.books.balanced, outcome.books.unknown) == (True, 0), outcome.books
    assert max(row["longest_stall_ns"] or row["ttft_ns"] or 0 for row in outcome.rows("conversations")) > CUT_S * 0.8e9
    assert "Traceback" not in outcome.log


def test_a_way_cut_for_good_is_named_and_what_was_under_way_is_no_success(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["gone"]
    assert "Traceback" not in outcome.log
    assert outcome.books.balanced, outcome.books
    failed = [row for row in outcome.rows("conversations") if row["outcome"] == "failed"]
    assert len(failed) == 5
    assert {row["error"] for row in failed} == {"stalled"}
    refused = [row["error"] for row in outcome.rows("connections") if row["outcome"] == "failed"]
    assert refused
    assert set(refused) == {"connect_timeout"}
    summary = summarise(outcome.run.path)
    assert sum(error["count"] for error in summary["errors"]["conversations"]) == 5
