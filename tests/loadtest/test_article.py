"""The server that the project began from, unchanged, driven through an adapter: what is wrong with it is named.

Its file is no part of this repository: the environment's STREAMGAUGE_ARTICLE says where it is, else it is looked for beside the repository.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.conformance import examine_server
from loadtest.examination import VIOLATED
from loadtest.examinee import Subject
from reports.build import build
from tests.mortal import mortal

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(os.environ.get("STREAMGAUGE_ARTICLE") or ROOT.parent / "shared" / "seed" / "main.py")
# Its tokens come a second apart. The same program on a clock on which a second is shorter has the same faults sooner.
ON_A_FASTER_CLOCK = """
import sys, time
from pathlib import Path
sleep = time.sleep
time.sleep = lambda seconds: sleep(seconds * float(sys.argv[2]))
sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(sys.argv[1]).parent))
import socket, uvicorn, main
listener = socket.create_server(("127.0.0.1", 0))
print("listening on", listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(main.app, log_level="error")).run(sockets=[listener])
"""


@pytest.fixture(scope="module")
def article() -> Iterator[Callable[[float], str]]:
    """Return a function that starts it on a clock whose second is as short as told, and returns its URL."""
    if not FILE.is_file():
        pytest.skip(f"the article's server is not there ({FILE.name}; STREAMGAUGE_ARTICLE)")
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    running = []

    def start(second_s: float) -> str:
        command = [sys.executable, "-c", ON_A_FASTER_CLOCK, str(FILE), str(second_s)]
        process = subprocess.Popen(mortal(command), stdout=subprocess.PIPE, text=True, cwd=FILE.parent)
        running.append(process)
        assert process.stdout is not None
        return f"ws://127.0.0.1:{process.stdout.readline().split()[-1]}/ws"

    yield start
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_its_broken_rules_are_named(article: Callable[[float], str]) -> None:
    broken = {finding.rule for finding in examine_server(Subject(article(0.05), patience_s=6)) if finding.outcome == VIOLATED}
    assert {"R2", "R3", "R4", "R6", "R11", "R12"} <= broken
    assert not broken & {"R5", "R9"}


@pytest.mark.slow
def test_the_report_of_a_load_test_names_its_faults(article: Callable[[float], str], start_locust: Callable[..., Any]) -> None:
    run = start_locust(
        "--host", article(0.02), "--adapter", "typewriter", "--steps", "2:4,8:5", "--spawn-rate", "50", "--warm-up", "0.5",
        "--gap-ms", "20", "--stop-share", "0.5", "--stop-after-tokens", "2-4", "--think-time", "0.1", "--stop-timeout", "2",
    )  # fmt: skip
    run.wait()
    found = {finding["finding"] for finding in build(run.path, charts=False)["validity"]["findings"]}
    # Answers to nobody after each stop, stops that wait for the next token, eight users who get no more tokens than two.
    assert {"ghost_tokens", "late_stop", "serial"} <= found
