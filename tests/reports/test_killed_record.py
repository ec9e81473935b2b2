"""kill -9 at random instants: the run directory is always readable, nothing in it is wrong, and the loss is stated."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTANTS = 200


def test_a_record_killed_at_any_instant_is_readable_and_states_its_loss(tmp_path: Path) -> None:
    # In memory where there is such a folder: what forces a file to disk takes no time there, and kills strike the writing itself.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        command = [sys.executable, "-m", "tests.reports.drivers.killed_record", folder, str(INSTANTS), "1"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert sum(found["states"].values()) == INSTANTS
    assert found["rows"]["intervals"] == 20
    assert found["rows"]["conversations"] == 80
    # Most are killed in the record itself, and some while it is compacted: or nothing was tried.
    assert found["states"]["in the record"] > INSTANTS / 10
    assert found["states"].get("in the compaction", 0) + found["states"].get("compacted", 0) > 0
