"""Who is let through to the master, by the word of each peer; and what is refused, by its reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WELCOME = ["streamgauge_welcome"]


def play(scene: str, *arguments: str) -> Any:
    """What a scene came to, played in a process that may import Locust."""
    command = [sys.executable, str(Path(__file__).with_name("drivers") / "gate_driver.py"), scene, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def told() -> Any:
    return play("gate")


@pytest.mark.parametrize(
    ("peer", "key", "family_only", "reason"),
    [
        ("own", "", True, None), ("own", "word", True, None), ("own", "", False, None),
        ("keyed", "word", True, None), ("keyed", "word", False, None), ("keyed", "", False, None),
        ("keyed", "", True, "another master's worker"),
        ("wrong key", "word", False, "wrong key"), ("wrong key", "word", True, "wrong key"),
        ("stranger", "", False, None), ("stranger", "", True, "another master's worker"), ("stranger", "word", False, "wrong key"),
        ("borrowed", "word", False, "wrong key"),
        ("old", "word", False, "another version"), ("old", "", False, "another version"), ("old", "", True, "another version"),
        ("rubbish", "", False, "unreadable hello"), ("rubbish", "word", True, "unreadable hello"),
    ],
)  # fmt: skip
def test_a_hello_decides(told: Any, peer: str, key: str, family_only: bool, reason: str | None) -> None:
    what = told[f"{peer}/{key}/{family_only}"]
    if reason is None:
        assert what["said"] == WELCOME
        # Nothing before it was admitted; then everything in its own name, but what breaks.
        assert what["heard"] == ["client_ready", "stats"]
        assert what["refused"] == {"no hello before it": 1, "could not be handled": 1, "in another's name": 1}
    else:
        assert what["said"] == ["streamgauge_refused"]
        assert what["heard"] == []
        assert what["refused"][reason] == 1
        assert what["refused"]["no hello before it"] == 4


def test_who_says_nothing_is_not_heard(told: Any) -> None:
    what = told["mute//False"]
    assert (what["heard"], what["said"]) == ([], [])


def test_what_other_machines_can_reach() -> None:
    assert play("exposed", "127.0.0.1", "127.9.9.9", "::1", "localhost") == [False] * 4
    assert play("exposed", "*", "0.0.0.0", "10.0.0.1", "host.example") == [True] * 4
