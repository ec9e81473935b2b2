"""The alarm never rings early, however often it is set; in a process of its own, for it lives on gevent's hub."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import time
from gevent import monkey
monkey.patch_all()
import os
import gevent
from loadtest.alarm import Alarm

# What the hub opens for itself when it first watches a descriptor is not the alarm's.
first = Alarm()
first.wait_until(time.monotonic_ns() + 1_000_000)
first.close()
before = len(os.listdir("/dev/fd"))
alarm = Alarm()
early, turns = 0, []
other = gevent.spawn(lambda: [turns.append(gevent.sleep(0.001)) for _ in range(5)])
for gap_ns in (0, -5_000_000, 1, 50_000, 700_000, 1_000_000, 3_300_000, 20_000_000):
    instant = time.monotonic_ns() + gap_ns
    alarm.wait_until(instant)
    early += time.monotonic_ns() < instant
other.join()
alarm.close()
alarm.close()
print(early, len(turns), len(os.listdir("/dev/fd")) - before)
"""


def test_it_never_rings_early_lets_others_run_and_leaves_nothing_open() -> None:
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, cwd=root, check=False)
    assert (run.stdout.split(), run.stderr) == (["0", "5", "0"], "")
