"""A stop prevails whenever it comes: at each point of a start with the runners alone, and from the web page of a real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest.ports import free_port
from tests.loadtest.conftest import DRIVERS
from tests.loadtest.hostile import HostileServer, Peer, after_prompt
from tests.loadtest.locust_run import ROOT, assert_plain, wait_until
from tests.loadtest.web_page import WebPage


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    command = [sys.executable, str(DRIVERS / "starts_driver.py"), "guarded"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


@pytest.mark.parametrize("point", ["not_begun", "beginning"])
def test_what_is_about_to_begin_does_not(told: dict[str, Any], point: str) -> None:
    assert told[point] == [[0, 0], [0, 0]], "in the first run, and in the next"


@pytest.mark.parametrize("way", ["draining", "shape"])
def test_nobody_comes_once_a_stop_has_been_said(told: dict[str, Any], way: str) -> None:
    assert told[way] == [0, 0, 0]


def test_stops_at_once_are_one(told: dict[str, Any]) -> None:
    assert told["twice"] == {"test_start": 1, "test_stopping": 1, "test_stop": 1}


def test_a_master_whose_start_goes_on_elsewhere_stops_it(told: dict[str, Any]) -> None:
    assert told["master"] == [False, 0, True]


# From the web page.


def statuses(page: WebPage) -> list[str]:
    return [json.loads(path.read_text())["status"] for path in sorted(page.runs.glob("*/run.json"))]


def stop(page: WebPage) -> None:
    """A stop that has been answered leaves no run, no user, and nobody who starts any."""
    before = page.post("/stop")
    assert before[0] == 200
    assert {*statuses(page)} <= {"complete"}, page.run.log
    state = json.loads(page.get("/stats/requests")[1])
    assert (state["state"], state["user_count"]) in {("ready", 0), ("stopped", 0), ("stopping", 0)}


@pytest.mark.parametrize("workers", [(), ("--processes", "2")], ids=["alone", "workers"])
def test_a_stop_from_the_page_prevails(
    start_locust: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path, workers: tuple[str, ...]
) -> None:
    page = WebPage(start_locust, tmp_path, "-H", serve().url, "--tokens", "4", "--gap-ms", "5", "--stop-timeout", "1", *workers)

    def start(**form: Any) -> bool:
        return bool(page.start(user_count=60, spawn_rate=10, **form)["success"])

    wait_until(start, "the first start", page.run)
    stop(page)
    for _ in range(2):
        # Workers are ready again a moment after a stop.
        wait_until(start, "a start after a stop", page.run)
        stop(page)
    wait_until(start, "a start", page.run)
    page.wait_for("some users", lambda data: 2 <= data["users"] < 60)
    stop(page)
    assert statuses(page)[-1:] == ["complete"]
    last = json.loads(sorted(page.runs.glob("*/run.json"))[-1].read_text())
    assert last["load"]["users_max"] < 60
    assert_plain(page.run.log)


def test_a_stop_while_the_directory_is_made_leaves_nothing(start_locust: Callable[..., Any], tmp_path: Path) -> None:
    """The target's metrics are read before the first user comes; a target that does not answer holds the beginning up for as long."""
    asked: list[Peer] = []

    def hold(peer: Peer) -> None:
        asked.append(peer)
        peer.sock.recv(1)

    with HostileServer({"ws": after_prompt(), "metrics": hold}) as server:
        page = WebPage(start_locust, tmp_path, "-H", server.url("ws"))
        for times in (1, 2):
            assert page.start()["success"]
            wait_until(lambda times=times: len(asked) == times, "the beginning", page.run)
            stop(page)
            assert not list(page.runs.glob("*"))
    assert_plain(page.run.log)


def test_ctrl_c_ends_a_master_that_is_told_to_stop_nothing(start_locust: Callable[..., Any], tmp_path: Path) -> None:
    """Ctrl-C reaches the workers of a terminal too, and the last one to leave has the master stop at that very moment."""
    locustfile = tmp_path / "locustfile.py"
    locustfile.write_text(
        textwrap.dedent(
            """\
            import os, signal
            import gevent
            from locust import User, events
            from loadtest.installation import install

            class Person(User):
                pass

            install(events)

            @events.init.add_listener
            def both_at_once(environment, **_):
                def at_once():
                    os.kill(os.getpid(), signal.SIGINT)
                    environment.runner.stop()

                gevent.spawn_later(0.1, at_once)
            """
        )
    )
    ports = ("--master-bind-port", str(free_port()), "--web-host", "127.0.0.1", "--web-port", str(free_port()))
    page = start_locust("-f", str(locustfile), "--master", *ports, headless=False, run_dir=False)
    assert page.wait() == 0, page.log
    assert_plain(page.log)
