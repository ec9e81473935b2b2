"""The comparison with and without somebody who looks on: a short one, and what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_both_sides_are_measured_in_pairs() -> None:
    command = [sys.executable, "-m", "benchmarks", "viewer", "--pairs", "1", "--seconds", "3", "--users", "5", "--gap-ms", "20", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["pairs"] == 1
    assert found["without_tokens_per_cpu_s"] > 0
    assert found["ratio_least"] == found["ratio_median"] == found["ratio_most"] > 0
