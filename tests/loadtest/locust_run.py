"""Locust as a real process, and what it left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadtest.run_directory import RunDirectory
from tests.mortal import mortal

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0
OUTCOMES = ("completed", "stopped", "empty", "failed", "abandoned")


def wait_until(true: Callable[[], Any], what: str, run: LocustRun | None = None, timeout_s: float = PATIENCE_S) -> Any:
    """Ask again and again until the answer is true; returns it."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not (answer := true()):
        assert time.monotonic() < deadline, f"waited in vain: {what}; {run.log if run is not None else None}"
        pause.wait(0.02)
    return answer


class LocustRun:
    """`locust -f loadtest/locustfile.py` with a run directory of its own; `files_bytes` limits how large its files may grow."""

    def __init__(self, folder: Path, *options: str, headless: bool = True, files_bytes: int | None = None, run_dir: bool = True) -> None:
        self.path = folder / "run"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", *options]
        command += (["--headless", "--only-summary"] if headless else []) + (["--run-dir", str(self.path)] if run_dir else [])
        if files_bytes is not None:
            limit = (
                f"import os,resource,sys;resource.setrlimit(resource.RLIMIT_FSIZE,({files_bytes},)*2);os.execv(sys.argv[1],sys.argv[1:])"
            )
            command = [sys.executable, "-c", limit, *command]
        # A process group of its own: Ctrl-C is sent to all of it, as a terminal does.
        self.process = subprocess.Popen(
            mortal(command), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )

    @property
    def log(self) -> str:
        """What it has written to stdout and stderr so far."""
        return os.pread(self._log.fileno(), 10_000_000, 0).decode()

    def wait(self) -> int:
        """Wait for its end; returns the exit code. Whatever of its process group is left is then killed."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"Locust did not end: {self.log}") from None

    def interrupt(self, number: int = signal.SIGINT) -> None:
        """Ctrl-C, or another signal to the whole group."""
        os.killpg(self.process.pid, number)

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory.open(self.path)

    def rows(self, table: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.directory.table(table).to_pylist()
        return found

    def has_rows(self, table: str = "conversations") -> bool:
        """Whether something has been written by now."""
        return (self.path / "run.json").exists() and bool(self.rows(table))

    @property
    def metadata(self) -> dict[str, Any]:
        return self.directory.metadata()

    def total(self, counter: str) -> int:
        return sum(row[counter] for row in self.rows("intervals"))

    def check_accounts(self) -> list[dict[str, Any]]:
        """Whatever happened: each conversation has one row and one outcome, and the counters equal the rows; returns the conversations."""
        conversations, connections = self.rows("conversations"), self.rows("connections")
        assert self.total("conversations_started") == len(conversations)
        counted = {outcome: self.total(f"conversations_{outcome}") for outcome in OUTCOMES}
        assert counted == {outcome: sum(row["outcome"] == outcome for row in conversations) for outcome in OUTCOMES}
        assert sum(counted.values()) == len(conversations)
        assert len({(row["worker"], row["conversation"]) for row in conversations}) == len(conversations)
        assert self.total("tokens") == sum(row["tokens"] for row in conversations)
        assert self.total("messages") == sum(row["messages"] for row in conversations)
        assert self.total("stops_sent") == sum(row["stop_sent_at_ns"] is not None for row in conversations)
        assert self.total("conversations_tainted") == sum(row["tainted"] for row in conversations)
        ended = {outcome: sum(row["outcome"] == outcome for row in connections) for outcome in ("clean", "abnormal", "failed")}
        assert self.total("connects_succeeded") == ended["clean"] + ended["abnormal"]
        assert (self.total("closed_clean"), self.total("closed_abnormal")) == (ended["clean"], ended["abnormal"])
        assert self.total("connects_failed") == ended["failed"]
        assert sum(row["conversations"] for row in connections) == len(conversations)
        assert self.total("ghost_tokens") == self.total("double_ends") == 0
        return conversations

    @property
    def has_processes(self) -> bool:
        """Whether any process of its group, such as a worker, is still there."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """End by force whatever still runs of it."""
        if self.has_processes:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()


def server_counts(run: LocustRun) -> dict[str, float]:
    """By how much the server's own counters rose during the run, as run.json has them."""
    server = run.metadata["server"]
    assert server["scraped"]
    return {name: value - server["first"].get(name, 0) for name, value in server["last"].items()}


def check_stops(run: LocustRun, rows: list[dict[str, Any]]) -> None:
    """Our stops and the server's are the same ones, those included that crossed the end of an answer.

    A stop that finds no answer is stale to the server. It had crossed the end before it was sent (``stop_crossed``: the end lay in our
    kernel, and we call the conversation completed), or on its way (the end came after it: nothing tells us that it was not the reason, and
    we call the conversation stopped). Everything is counted on both sides, so both kinds are known.
    """
    counted = server_counts(run)
    taken, stale = counted["streamgauge_stops_total"], counted["streamgauge_stale_stops_total"]
    sent = sum(row["stop_sent_at_ns"] is not None for row in rows)
    crossed_before = sum(row["stop_crossed"] for row in rows)
    crossed_on_its_way = stale - crossed_before
    assert taken + stale == sent
    assert crossed_on_its_way >= 0
    assert sum(row["outcome"] == "stopped" for row in rows) == taken + crossed_on_its_way
    assert counted['streamgauge_answers_total{outcome="stopped"}'] == taken
    assert counted['streamgauge_answers_total{outcome="completed"}'] == len(rows) - taken


def assert_plain(log: str) -> None:
    """No traceback, and nothing that only a developer reads."""
    for word in ("Traceback", "KeyboardInterrupt", "Unhandled", "CRITICAL"):
        assert word not in log, log


def describe(run: LocustRun) -> str:
    return json.dumps(run.metadata, indent=1) + run.log
