"""The comparison with and without somebody who looks on: a short one, and what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.viewer import compare

ROOT = Path(__file__).parents[2]


def test_both_sides_are_measured_in_pairs() -> None:
    command = [sys.executable, "-m", "benchmarks", "viewer", "--pairs", "1", "--seconds", "3", "--users", "5", "--gap-ms", "20", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["pairs"] == 1
    assert found["without_tokens_per_cpu_s"] > 0
    assert found["ratio"] == pytest.approx(found["with_tokens_per_cpu_s"] / found["without_tokens_per_cpu_s"])
    assert found["ratio_low"] is found["ratio_high"] is None


def test_the_interval_holds_the_ratio_and_narrows_with_agreement() -> None:
    apart = compare([(100.0, 100.0 * change) for change in (0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3)])
    alike = compare([(100.0, 95.0 + step / 10) for step in range(8)])
    assert apart["ratio_low"] < 1 < apart["ratio_high"]
    assert alike["ratio_low"] == pytest.approx(0.95, abs=0.004)
    assert alike["ratio_low"] < alike["ratio"] < alike["ratio_high"] < 0.96
    assert (alike["without_tokens_per_cpu_s"], alike["with_tokens_per_cpu_s"]) == (100, 95.35)
