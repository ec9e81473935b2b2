"""The clockwork that connections share: ticks, sweeps, flushes, names; and that importing the pure half patches nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.loadtest.locust_run import ROOT


@pytest.fixture(scope="module")
def clockwork(play: Callable[..., Any]) -> Any:
    return play("clockwork")


def test_a_loop_that_was_held_up_taints_what_was_in_flight(clockwork: Any) -> None:
    assert clockwork["tainted"] == "loop_stall"
    assert clockwork["lag_ns"] >= 150_000_000


def test_a_sweep_ends_what_has_stalled(clockwork: Any) -> None:
    assert "stalled" in clockwork["failed"]


def test_each_second_has_one_row_of_gauges(clockwork: Any) -> None:
    assert len(clockwork["seconds"]) == len(set(clockwork["seconds"])) >= 2
    assert clockwork["users"] == ["7"]


def test_a_full_disk_is_told(clockwork: Any) -> None:
    assert set(clockwork["broken"]) == {"No space left on device"}


def test_names_are_resolved_or_refused_as_an_os_error(play: Callable[..., Any]) -> None:
    told = play("resolved")
    assert told["127.0.0.1"] == [2, 80]
    assert told["localhost"][1] == 80
    assert told["::1"] == [10, 80] or told["::1"] == "gaierror"
    for host in ("no-such-host.invalid", "a..b", "x" * 64 + ".invalid"):
        assert told[host] == "gaierror", host


def test_an_arrival_is_served_late_or_dropped_but_never_lost(play: Callable[..., Any]) -> None:
    assert play("arrivals") == {
        "False/kept": [[5], 0], "taken": 5, "False/handed": 6, "False/killed": [[7], 0, 0], "False/over": [2, 0, True],
        "True/kept": [[], 1], "True/handed": 6, "True/killed": [[], 2, 0], "True/over": [3, 0, True],
    }  # fmt: skip


def test_a_process_that_leaves_and_one_that_takes_over_start_each_arrival_once(play: Callable[..., Any]) -> None:
    told = play("redeal")
    from_ns, (leaving, staying) = told["from_ns"], told["taken"]
    started = sorted(number for number, _ in leaving + staying)
    assert started == list(range(len(started)))
    assert max(offset for _, offset in leaving) < from_ns < max(offset for _, offset in staying)
    # Until then every second one each, then all to the one that stays.
    assert {number % 2 for number, offset in staying if offset < from_ns} == {1}
    assert {number % 2 for number, offset in staying if offset >= from_ns} == {0, 1}


def test_an_arrival_that_has_waited_for_too_long_gives_up_and_is_counted(play: Callable[..., Any]) -> None:
    told = play("patience")
    counts = told["counts"]
    assert counts["arrivals_due"] == counts["arrivals_late"]
    # All but the one that was taken.
    assert counts["arrivals_dropped"] == counts["arrivals_due"] - 1
    # Nobody took any for 200 ms, and what had waited longer than 20 ms was gone.
    assert told["waiting"] < counts["arrivals_due"]


def test_what_tests_and_reports_import_patches_nothing() -> None:
    code = (
        "import sys, socket, loadtest.run_directory, loadtest.recorder, loadtest.metrics, tests.loadtest.locust_run\n"
        "assert not {'gevent', 'locust'} & set(sys.modules), 'patched'\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
