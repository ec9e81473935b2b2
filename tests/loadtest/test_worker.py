"""A worker's record of a run, and what it is told, in a process with gevent: `drivers/worker_driver.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.loadtest.conftest import DRIVERS, ROOT


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(DRIVERS / "worker_driver.py"), str(tmp_path_factory.mktemp("worker"))], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "errors": done.stderr}


def test_its_record_is_a_directory_of_its_own(told: dict[str, Any]) -> None:
    assert told["names"] == ["run.w3", "run.w3-2"]
    assert told["part_of"] == {"run": "run", "id": "1", "worker": "w3"}


def test_heartbeats_go_on_while_a_slow_disk_makes_it(told: dict[str, Any]) -> None:
    """The driver's disk waits for something that can only be done meanwhile: in the way of it, it would wait for ever."""
    assert told["after_a_wait"] == "running"


def test_a_folder_that_cannot_be_written_is_a_sentence(told: dict[str, Any]) -> None:
    assert "cannot write the run directory" in told["refused"]
    assert told["errors"] == "", "nothing of a thread that failed"


def test_its_users_are_told_without_a_parser_for_each_option(told: dict[str, Any]) -> None:
    assert told["parsers_made"] == 1
