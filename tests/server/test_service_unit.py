"""The service file: what it starts can be started, and what it promises stands in it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from server.options import parse_options

UNIT = Path(__file__).resolve().parents[2] / "deploy/streamgauge-server.service"


def settings() -> dict[str, str]:
    lines = [line.partition("=") for line in UNIT.read_text().splitlines() if line and not line.startswith(("#", "["))]
    return {name: value for name, _, value in lines}


def test_its_command_is_one_the_server_takes() -> None:
    found = settings()
    options = re.fullmatch(r'"OPTIONS=(.*)"', found["Environment"])
    assert options is not None
    command = shlex.split(found["ExecStart"].replace("$OPTIONS", options[1]))
    assert command[:3] == ["/opt/streamgauge/.venv/bin/python", "-m", "server"]
    launch = parse_options(command[3:])
    assert launch.host == "127.0.0.1"
    assert launch.settings.drain_s < float(found["TimeoutStopSec"]), "systemd kills before the server has let everybody leave"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_but_that_it_is_not_installed() -> None:
    checked = subprocess.run(["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True, check=False)
    complaints = [line for line in checked.stderr.splitlines() if UNIT.name in line and "is not executable" not in line]
    assert complaints == []
