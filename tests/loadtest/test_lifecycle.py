"""A run from its first option to its last byte, by real Locust processes: ends, interrupts, refusals, workers, the web page."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import urllib.parse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from loadtest.ports import free_port
from tests.loadtest.hostile import HostileServer, Peer, after_prompt, respond
from tests.loadtest.locust_run import LocustRun, assert_plain, check_stops, server_counts, wait_until

QUICK = ("--spawn-rate", "100", "--warm-up", "0")
Start = Callable[..., LocustRun]


def workers(count: int) -> tuple[str, ...]:
    port = str(free_port())
    return ("--processes", str(count), "--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port)


# Refusals: nothing is started, nothing is left behind.


@pytest.fixture(scope="module")
def refusals(start_locust: Start, serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, LocustRun]:
    folder = tmp_path_factory.mktemp("refusals")
    (folder / "prompts.txt").write_bytes(b"good\n\xff\n")
    (folder / "file").touch()
    with (
        HostileServer(raw=respond(b"HTTP/1.1 404 Not Found\r\n\r\n")) as missing,
        HostileServer(raw=respond(b"SSH-2.0\r\n")) as garbage,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        taken = str(listener.getsockname()[1])
        server = serve().url
        options: dict[str, tuple[str, ...]] = {
            "no_host": (),
            "bad_option": ("-H", server, "--stop-share", "3"),
            "broken_prompts": ("-H", server, "--prompts", str(folder / "prompts.txt")),
            "dead": ("-H", f"ws://127.0.0.1:{free_port()}/ws"),
            "not_found": ("-H", missing.url("ws")),
            "garbage": ("-H", garbage.url("ws")),
            "no_such_host": ("-H", "ws://a..b/ws"),
            "dead_for_workers": ("-H", f"ws://127.0.0.1:{free_port()}/ws", *workers(2)),
            "bad_option_for_workers": ("-H", server, "--rate", "0", *workers(2)),
            "master_port_taken": ("-H", server, "--master", "--master-bind-port", taken),
            "folder_is_a_file": ("-H", server, "--run-dir", str(folder / "file" / "run")),
        }
        started: dict[str, LocustRun] = {}
        names = list(options)
        for at in range(0, len(names), 5):
            batch = names[at : at + 5]
            for name in batch:
                started[name] = start_locust("-u", "2", "-t", "30s", *options[name], run_dir=name != "folder_is_a_file")
            for name in batch:
                started[name].wait()
    return started


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no_host", "expected a target such as -H ws://"),
        ("bad_option", "--stop-share to be a share from 0 to 1, got 3"),
        ("broken_prompts", "expected UTF-8 text in the prompt file"),
        ("dead", "got refused"), ("not_found", "got handshake_status (HTTP 404 Not Found)"),
        ("garbage", "got handshake_invalid"), ("no_such_host", "got dns_error"), ("dead_for_workers", "got refused"),
        ("bad_option_for_workers", "--rate above 0, got 0"), ("folder_is_a_file", "cannot write the run directory"),
        ("master_port_taken", "choose another --master-bind-port"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_in_a_sentence(refusals: dict[str, LocustRun], name: str, sentence: str) -> None:
    run = refusals[name]
    assert run.process.returncode == 2
    assert run.log.count(sentence) == 1, run.log
    assert_plain(run.log)
    assert not run.path.exists()


def test_no_worker_outlives_its_master(refusals: dict[str, LocustRun], ends: dict[str, LocustRun]) -> None:
    for run in (refusals["dead_for_workers"], refusals["bad_option_for_workers"], ends["workers"], ends["workers_sigint"]):
        wait_until(lambda run=run: not run.has_processes, "the workers' end", run, timeout_s=15)


def test_an_existing_run_directory_is_refused_and_left_alone(start_locust: Start, serve: Callable[..., Any], tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "old").write_text("old")
    run = start_locust("-H", serve().url, "-t", "30s", "--run-dir", str(kept), run_dir=False)
    assert run.wait() == 2
    assert "exists; choose another --run-dir or remove it" in run.log
    assert_plain(run.log)
    assert [path.name for path in kept.iterdir()] == ["old"]


# Ends.


@pytest.fixture(scope="module")
def ends(start_locust: Start, serve: Callable[..., Any]) -> dict[str, LocustRun]:
    """Runs that end each in a way of its own, side by side."""
    ours, other = serve(), serve().url
    paced = ("--tokens", "10", "--gap-ms", "10")
    answering = ("--tokens", "1000", "--gap-ms", "100")
    runs = {
        "workers": start_locust(*QUICK, "-H", ours.url, "-u", "5", "-t", "4s", *paced, "--stop-share", "0.3", *workers(2)),
        "ladder": start_locust(*QUICK, "-H", other, *paced, "--steps", "2:1,4:0.5,1:0.5"),
        "sigint": start_locust(*QUICK, "-H", other, "-u", "4", "-t", "120s", *paced),
        "sigterm": start_locust(*QUICK, "-H", other, "-u", "4", "-t", "120s", *paced),
    }
    wait_until(runs["sigint"].has_rows, "conversations on disk", runs["sigint"])
    runs["sigint"].interrupt()
    wait_until(runs["sigterm"].has_rows, "conversations on disk", runs["sigterm"])
    runs["sigterm"].interrupt(signal.SIGTERM)
    more = {
        "twice": start_locust(*QUICK, "-H", other, "-u", "3", "-t", "120s", *answering, "--stop-timeout", "100", "--record-tokens"),
        "cut": start_locust(*QUICK, "-H", other, "-u", "3", "-t", "3s", *answering, "--stop-timeout", "1"),
        "full": start_locust(*QUICK, "-H", other, "-u", "4", "-t", "120s", *paced, files_bytes=60_000),
        "workers_sigint": start_locust(*QUICK, "-H", other, "-u", "4", "-t", "120s", *paced, *workers(2)),
    }
    streaming = lambda: more["twice"].has_rows("tokens") and len({row["conversation"] for row in more["twice"].rows("tokens")}) == 3  # noqa: E731
    wait_until(streaming, "tokens of three users", more["twice"])
    more["twice"].interrupt()
    wait_until(lambda: "draining" in more["twice"].log, "the drain", more["twice"])
    more["twice"].interrupt()
    wait_until(more["workers_sigint"].has_rows, "conversations on disk", more["workers_sigint"])
    more["workers_sigint"].interrupt()
    runs |= more
    for run in runs.values():
        run.wait()
    return runs


def test_workers_lose_nothing(ends: dict[str, LocustRun]) -> None:
    run = ends["workers"]
    assert run.process.returncode == 0, run.log
    metadata = run.metadata
    assert (metadata["status"], metadata["workers"]["expected"], metadata["workers"]["lost"]) == ("complete", 2, [])
    assert sorted(worker["worker"] for worker in metadata["workers"]["seen"]) == ["w0", "w1"]
    rows = run.check_accounts()
    assert {row["worker"] for row in rows} == {"w0", "w1"}
    assert {row["outcome"] for row in rows} <= {"completed", "stopped"}
    counted = server_counts(run)
    assert counted["streamgauge_prompts_total"] == len(rows)
    assert counted["streamgauge_tokens_total"] == sum(row["tokens"] for row in rows)
    check_stops(run, rows)
    assert_plain(run.log)


def test_a_ladder_climbs_and_ends_by_itself(ends: dict[str, LocustRun]) -> None:
    run = ends["ladder"]
    assert run.process.returncode == 0, run.log
    assert run.metadata["status"] == "complete"
    steps = run.metadata["steps"]
    assert [step["users"] for step in steps] == [2, 4, 1]
    lasted = [after["at_ns"] - before["at_ns"] for before, after in pairwise(steps)]
    assert lasted[0] >= 0.95e9
    assert lasted[1] >= 0.45e9
    assert run.metadata["window"]["steady_end_at_ns"] - steps[-1]["at_ns"] >= 0.45e9
    assert run.metadata["load"]["users_max"] == 4
    run.check_accounts()
    assert_plain(run.log)


@pytest.mark.parametrize("name", ["sigint", "sigterm", "workers_sigint"])
def test_an_interrupted_run_is_aborted_and_wholly_recorded(ends: dict[str, LocustRun], name: str) -> None:
    run = ends[name]
    assert run.process.returncode == 130, run.log
    metadata = run.metadata
    assert (metadata["status"], metadata["status_reasons"]) == ("aborted", ["interrupted before its planned end"])
    rows = run.check_accounts()
    # The conversations in flight were let finish.
    assert {row["outcome"] for row in rows} == {"completed"}
    assert not (run.path / "raw").exists()
    assert (run.path / "conversations.parquet").exists()
    assert_plain(run.log)


def test_ctrl_c_twice_cuts_the_drain_short(ends: dict[str, LocustRun]) -> None:
    run = ends["twice"]
    assert run.process.returncode == 130, run.log
    assert run.metadata["status"] == "aborted"
    rows = run.check_accounts()
    assert [row["outcome"] for row in rows] == ["abandoned"] * 3
    assert all(row["tokens"] > 0 for row in rows)
    assert {row["outcome"] for row in run.rows("connections")} == {"clean"}
    assert_plain(run.log)


def test_what_does_not_end_in_time_is_abandoned(ends: dict[str, LocustRun]) -> None:
    run = ends["cut"]
    assert run.process.returncode == 0, run.log
    assert run.metadata["status"] == "complete"
    rows = run.check_accounts()
    assert [row["outcome"] for row in rows] == ["abandoned"] * 3
    window = run.metadata["window"]
    assert window["drain_end_at_ns"] - window["steady_end_at_ns"] >= 0.9e9


def test_a_full_disk_degrades_the_run_and_keeps_what_was_written(ends: dict[str, LocustRun]) -> None:
    run = ends["full"]
    assert run.process.returncode == 12, run.log
    metadata = run.metadata
    assert metadata["status"] == "degraded"
    assert any("could not write its record" in reason or "could not be written" in reason for reason in metadata["status_reasons"])
    rows = run.rows("conversations")
    assert rows
    assert {row["outcome"] for row in rows} == {"completed"}
    assert "cannot write the record: File too large; the run is stopped, what was written is kept" in run.log
    assert list(run.path.rglob(".*")) == [], "nothing half written"
    assert_plain(run.log)


def test_a_run_lasts_as_long_as_was_asked(ends: dict[str, LocustRun]) -> None:
    # Timers of a loop whose clock has stood still since the imports would be early by a second.
    window = ends["workers"].metadata["window"]
    assert window["steady_end_at_ns"] > 2.5e9
    assert window["warm_up_end_at_ns"] <= window["steady_end_at_ns"] <= window["drain_end_at_ns"]


# The web page.


class Page:
    """Locust's web interface, as a browser would use it."""

    def __init__(self, port: str) -> None:
        self.port = int(port)

    def ask(self, method: str, path: str, **form: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            headers = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
            connection.request(method, path, urllib.parse.urlencode(form), headers)
            return connection.getresponse().read().decode()
        except ConnectionRefusedError:
            return ""
        finally:
            connection.close()

    def state(self) -> str:
        return str(json.loads(self.ask("GET", "/stats/requests"))["state"])


def test_the_web_page_starts_and_stops_one_test_after_another(start_locust: Start, serve: Callable[..., Any], tmp_path: Path) -> None:
    port = str(free_port())
    folder = tmp_path / "runs"
    run = start_locust(
        "-H", serve().url, "--web-host", "127.0.0.1", "--web-port", port, "--tokens", "4", "--gap-ms", "10", "--runs-folder", str(folder),
        headless=False, run_dir=False,
    )  # fmt: skip
    page = Page(port)
    wait_until(lambda: page.ask("GET", "/"), "the page", run)
    assert "stop_share" in page.ask("GET", "/")

    def directories() -> list[Path]:
        return sorted(path.parent for path in folder.glob("*/run.json"))

    def status(path: Path) -> str:
        return str(json.loads((path / "run.json").read_text())["status"])

    # A mistake in the form is said, and the page goes on.
    answer = json.loads(page.ask("POST", "/swarm", user_count="1", spawn_rate="10", stop_share="7"))
    assert not answer["success"]
    assert "--stop-share to be a share from 0 to 1, got 7" in answer["message"]
    assert page.state() == "ready"
    assert not folder.exists() or list(folder.iterdir()) == []
    for number, users in ((1, 3), (2, 5)):
        answer = json.loads(page.ask("POST", "/swarm", user_count=str(users), spawn_rate="50", stop_share="0.0", window="2"))
        assert answer["success"], answer
        wait_until(lambda number=number: len(directories()) == number, "a run directory", run)
        path = directories()[-1]
        kept = run.path = path
        # All users connect at the rate that the form gave.
        wait_until(lambda users=users: any(row["open"] == users for row in run.rows("intervals")), "all users connected", run)
        wait_until(run.has_rows, "conversations on disk", run)
        assert status(path) == "running"
        assert page.ask("POST", "/stop", x="")
        wait_until(lambda kept=kept: status(kept) != "running", "the end", run)
        assert status(path) == "complete"
        rows = run.check_accounts()
        assert {row["window"] for row in rows} == {2}
        assert {row["outcome"] for row in rows} == {"completed"}
        assert run.metadata["load"]["users_max"] == users
    assert re.search(r"first token", page.ask("GET", "/stats/requests"))
    run.interrupt()
    assert run.wait() == 0, run.log
    assert len(directories()) == 2
    assert_plain(run.log)


def test_the_web_page_starts_and_stops_runs_with_workers(start_locust: Start, serve: Callable[..., Any], tmp_path: Path) -> None:
    port, folder = str(free_port()), tmp_path / "runs"
    run = start_locust(
        "-H", serve().url, "--web-host", "127.0.0.1", "--web-port", port, "--tokens", "4", "--gap-ms", "10", "--runs-folder", str(folder),
        "--stop-timeout", "1", "--processes", "2", headless=False, run_dir=False,
    )  # fmt: skip
    page = Page(port)
    wait_until(lambda: page.ask("GET", "/"), "the page", run)

    def ready() -> bool:
        workers = json.loads(page.ask("GET", "/stats/requests")).get("workers") or []
        return [worker["state"] for worker in workers] == ["ready"] * 2

    for number in (1, 2):
        wait_until(ready, "two workers that are ready", run)
        assert json.loads(page.ask("POST", "/swarm", user_count="4", spawn_rate="50"))["success"]
        wait_until(lambda number=number: len(list(folder.glob("*/run.json"))) == number, "a run directory", run)
        run.path = sorted(path.parent for path in folder.glob("*/run.json"))[-1]
        wait_until(lambda: {row["worker"] for row in run.rows("conversations")} == {"w0", "w1"}, "conversations of both", run)
        assert page.ask("POST", "/stop", x="")
        wait_until(lambda: run.metadata["status"] != "running", "the end", run)
        assert run.metadata["status"] == "complete", run.metadata["status_reasons"]
        assert run.metadata["workers"]["refused"] == {}
        assert {row["outcome"] for row in run.check_accounts()} == {"completed"}
    run.interrupt()
    assert run.wait() == 0, run.log
    assert not (folder / "workers").exists()
    assert_plain(run.log)


def test_a_target_that_dies_at_once_is_survived(start_locust: Start) -> None:
    """A server that takes connections and drops them: users wait longer and longer instead of storming it."""

    def drop(peer: Peer) -> None:
        peer.send(peer.upgrade() + b"\x88\x02\x03\xf5")

    with HostileServer({"ws": drop, "good": after_prompt(), "metrics": respond(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")}) as server:
        run = start_locust(*QUICK, "-H", server.url("ws"), "-u", "4", "-t", "2s", "--reconnect-backoff", "0.2")
        assert run.wait() == 0, run.log
    assert run.check_accounts() == []
    connections = run.rows("connections")
    assert {(row["outcome"], row["close_code"]) for row in connections} == {("abnormal", 1013)}
    assert 4 <= len(connections) <= 4 * 8
    assert_plain(run.log)
