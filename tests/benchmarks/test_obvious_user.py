"""The obvious Locust user against the null server: it runs headless, and its figures are whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def url() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.null_server", "--tokens", "10"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"ws://\S+", process.stdout.readline())
            assert found
            yield found[0]
        finally:
            process.terminate()


def drive(url: str, out: Path, **environment: str) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        "benchmarks/obvious_user.py",
        "--headless",
        "-u",
        "3",
        "-r",
        "3",
        "-t",
        "2s",
        "-H",
        url,
    ]
    environment = {**os.environ, "OBVIOUS_OUT": str(out), "OBVIOUS_WARM_UP_S": "0", **environment}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(out.read_text())
    assert isinstance(figures, dict)
    return figures


@pytest.mark.parametrize("query", ["", "?stamp=1", "?stamp=1&window=0"])
def test_it_converses_and_writes_its_figures(url: str, tmp_path: Path, query: str) -> None:
    figures = drive(url + query, tmp_path / "out.json")
    assert figures["failed"] == 0
    assert figures["connections"] == 3
    assert figures["tokens"] > 0
    assert figures["conversations"] > 0
    assert abs(figures["tokens"] - 10 * figures["conversations"]) <= 30  # three conversations are cut at each end
    assert figures["cpu_s"] > 0
    assert figures["tokens_per_cpu_s"] == pytest.approx(figures["tokens"] / figures["cpu_s"])
    latency = figures["token_latency_us"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]
    if "stamp" in query:
        assert figures["lateness_us"]["p50"] > 0
    else:
        assert figures["lateness_us"] is None


def test_it_can_hold_its_connections_idle(url: str, tmp_path: Path) -> None:
    figures = drive(url, tmp_path / "out.json", OBVIOUS_IDLE="1")
    assert (figures["connections"], figures["tokens"], figures["failed"]) == (3, 0, 0)
    assert figures["resident_bytes"] >= figures["resident_before_bytes"] > 0
