"""What tests start does not outlive them."""

from __future__ import annotations

import os
import select
import subprocess
import sys

import pytest

from tests.mortal import mortal

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_STARTER = """
import subprocess, sys
from tests.mortal import mortal
sleeper = subprocess.Popen(mortal([sys.executable, "-c", "print('up', flush=True); import time; time.sleep(99)"]), stdout=subprocess.PIPE)
sleeper.stdout.readline()
print(sleeper.pid, flush=True)
sleeper.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's kernel ends a process with the one that started it")
def test_a_process_dies_with_the_one_that_started_it() -> None:
    with subprocess.Popen([sys.executable, "-c", _STARTER], cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        watched = os.pidfd_open(int(starter.stdout.readline()))
        starter.kill()
    # The descriptor can be read once the process has ended.
    assert select.select([watched], [], [], 10)[0]
    os.close(watched)


def test_a_command_stays_what_it_is() -> None:
    command = mortal([sys.executable, "-c", "import sys; print(sys.argv[1:]); sys.exit(7)", "a b"])
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (7, b"['a b']\n")
