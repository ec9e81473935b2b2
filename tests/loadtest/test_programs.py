"""Programs started without a fork: output, failures, time limits, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.programs import Program, own_command, read_output


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_what_it_writes_is_read() -> None:
    assert read_output(python("import sys; print('füße'); sys.stderr.write('no')"), 30) == "füße\n"


def test_a_failure_is_told_with_its_last_line() -> None:
    with pytest.raises(OSError, match=r"ended with 3: because$"):
        read_output(python("import sys; sys.stderr.write('so\\nbecause\\n'); sys.exit(3)"), 30)


def test_no_such_program() -> None:
    with pytest.raises(FileNotFoundError, match="no program"):
        Program(["there-is-no-such-program"])


def test_one_that_does_not_end_is_ended() -> None:
    with pytest.raises(OSError, match="did not end in time"):
        read_output(python("import time; time.sleep(600)"), 0.05)


def test_a_signal_is_told_from_an_exit_and_nothing_stays() -> None:
    program = Program(python("import time; time.sleep(600)"))
    assert program.poll() is None
    assert os.getpgid(program.pid) == program.pid
    program.signal()
    assert program.wait(30) == -signal.SIGTERM
    program.close()
    with pytest.raises(ProcessLookupError):
        os.kill(program.pid, 0)


def test_our_own_packages_are_found_from_anywhere(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    command, where = own_command(sys.executable, "benchmarks", "list", "--json")
    assert '"smoke"' in read_output(command, 60, where)


_BESIDE_FORKS = """
from gevent import monkey
monkey.patch_all()
import gevent, os, sys
from loadtest.programs import read_output
for delay in range(4):
    if not gevent.fork():
        os.execv("/bin/sleep", ["sleep", f"0.{delay}"])
reading = [gevent.spawn(read_output, ["/bin/echo", str(number)], 30) for number in range(20)]
print([int(one.get()) for one in reading] == list(range(20)))
"""


def test_a_master_whose_workers_end_meanwhile_reads_what_programs_say() -> None:
    """Once gevent has forked, its loop takes the status of every child that ends."""
    assert read_output(python(_BESIDE_FORKS), 60, {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}) == "True\n"


def test_a_status_that_somebody_else_has_taken_is_known_all_the_same() -> None:
    program = Program(python("import sys; sys.exit(7)"))
    os.waitpid(program.pid, 0)
    assert program.wait(30) == 7
    program.close()


def test_a_forked_process_has_a_loop_of_its_own_before_others_are_told_of_the_fork() -> None:
    """Who starts threads after a fork, as OpenTelemetry does, would otherwise turn the parent's loop from the child."""
    code = """
import os, sys
from loadtest import installation
import gevent
seen, reinit = [], gevent.reinit
gevent.reinit = lambda: (seen.append("own loop"), reinit())
installation.keep_loops_apart()
os.register_at_fork(after_in_child=lambda: seen.append("others"))
if not (child := gevent.fork()):
    os._exit(0 if seen[:2] == ["own loop", "others"] else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run(python(code), check=True, timeout=60, cwd=Path(__file__).parents[2])
