"""Load shapes: users over time, and as Locust runs them, without a page and from its class picker."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.loadtest.locust_run import LocustRun, assert_plain, wait_until
from tests.loadtest.web_page import WebPage

Start = Callable[..., LocustRun]


@pytest.fixture(scope="module")
def wanted(play: Callable[..., Any]) -> dict[str, list[Any]]:
    """What each shape wants, second by second: 20 users at most, 4 at least, 12 s, from 2 s on, 4 s long."""
    told: dict[str, list[Any]] = play("shapes")
    return told


def test_users_over_time(wanted: dict[str, list[Any]]) -> None:
    users = {name: [one[0] for one in seen] for name, seen in wanted.items()}
    assert users == {
        "ramp": [4, 4, 4, 8, 12, 16, 20, 20, 20, 20, 20, 20],
        "spike": [4, 4, 20, 20, 20, 20, 4, 4, 4, 4, 4, 4],
        "soak": [4, 8, 12, 16, 20, 20, 20, 20, 20, 16, 12, 8],
        "sawtooth": [8, 12, 16, 20, 8, 12, 16, 20, 8, 12, 16, 20],
        "storm": [20] * 12,
        "steps": [7, 7, 7, 10, 10, 14, 14, 14, 17, 17, 20, 20],
        "ladder": [3, 3, 9, 9, 9],
    }


def test_who_comes_in_a_ramp_comes_evenly_and_in_a_spike_at_once(wanted: dict[str, list[Any]]) -> None:
    assert {pace for _, pace in wanted["ramp"]} == {4.0}
    assert {pace for _, pace in wanted["spike"] + wanted["storm"]} == {20.0}
    # Up with the tooth, away at once.
    assert [pace for _, pace in wanted["sawtooth"][:5]] == [20.0, 4.0, 4.0, 4.0, 20.0]


def test_a_shape_by_option(serve: Callable[..., Any], start_locust: Start) -> None:
    server = serve()
    runs = {
        name: start_locust(
            "-H", server.url, "-u", "12", "-t", "5s", "--tokens", "3", "--gap-ms", "5", "--warm-up", "0", "--load-shape", name,
            "--shape-length", "2", *more,
        )
        for name, more in {"sawtooth": (), "steps": ("--steps", "3:2,9:2")}.items()
    }  # fmt: skip
    for name, run in runs.items():
        assert run.wait() == 0, (name, run.log)
        assert_plain(run.log)
        assert run.check_accounts()
        assert run.metadata["status"] == "complete"
    assert runs["sawtooth"].metadata["load"]["users_max"] == 12
    # Without levels the whole is one step; with them each has its own.
    assert len(runs["sawtooth"].metadata["steps"]) == 1
    assert [step["users"] for step in runs["steps"].metadata["steps"]] == [3, 9]
    # Who leaves comes again: more connections than users.
    assert len(runs["sawtooth"].rows("connections")) > 12


def test_without_a_shape_and_a_choice_everything_is_as_the_options_say(serve: Callable[..., Any], start_locust: Start) -> None:
    run = start_locust("-H", serve().url, "-u", "6", "-t", "2s", "--tokens", "3", "--gap-ms", "5", "--warm-up", "0", "-r", "6")
    assert run.wait() == 0, run.log
    rows = run.check_accounts()
    assert {(row["taint"], row["due_at_ns"]) for row in rows if row["taint"] in (None, "withheld", "slow_reader")} == {(None, None)}
    assert len(run.rows("connections")) == 6
    assert len(run.metadata["steps"]) == 1


def test_the_page_offers_classes_and_shapes(serve: Callable[..., Any], start_locust: Start, tmp_path: Path) -> None:
    server = serve()
    page = WebPage(start_locust, tmp_path, "-H", server.url, "--tokens", "3", "--gap-ms", "5", "--rate", "30")
    run, seen = page.run, set[Path]()
    text = page.get("/")[1]
    everybody = sorted(set(re.findall(r"\w+User\b", text)) & {one.__name__ for one in classes_of()})
    assert len(everybody) == 7
    for name in ("SpikeShape", "StormShape", "SawtoothShape", "SoakShape", "RampShape", "StepsShape"):
        assert name in text
    # Nobody chosen, everybody chosen: the options say it, which is a closed loop. One chosen: what that one is for.
    for chosen, shape, is_open in (([], "Default", False), (everybody, "Default", False), (["OpenLoopUser"], "StormShape", True)):
        answer = page.start(user_count=4, spawn_rate=4, host=server.url, shape_class=shape, user_classes=chosen, loop="closed")
        assert answer["success"], answer
        (run.path,) = wait_until(lambda: set(page.runs.glob("*")) - seen, "the run's directory", run)
        seen.add(run.path)
        server.wait_for("streamgauge_connections_open", 4)
        wait_until(run.has_rows, "conversations", run)
        assert page.post("/stop")[0] == 200
        wait_until(lambda: run.metadata["status"] == "complete", "the end of the run", run)
        rows = run.check_accounts()
        assert {row["due_at_ns"] is not None for row in rows} == {is_open}, (chosen, shape)
        assert not {row["taint"] for row in rows} & {"withheld", "slow_reader"}
        assert run.metadata["load"]["loop"] == ("open" if is_open else "closed")
        assert len({row["connection"] for row in run.rows("connections")}) == 4
    assert_plain(run.log)


def classes_of() -> list[type]:
    """The names in ``loadtest/users.py``, without importing it: that would patch this process."""
    tree = ast.parse((Path(__file__).resolve().parents[2] / "loadtest" / "users.py").read_text(encoding="utf-8"))
    return [type(node.name, (), {}) for node in tree.body if isinstance(node, ast.ClassDef)]
