"""What processes spend: a child's time is its parent's too, a process that ends takes its time with it, counters where there are some."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from loadtest.expense import Instructions, cpu_by_process, cpu_of, descendants, spent_between

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processor clocks of other processes are read on Linux")

BURN = "import time\nwhile time.process_time() < {seconds}: pass\nprint('burnt', flush=True)\nimport sys; sys.stdin.read()"
PARENT = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"


@pytest.fixture
def burner() -> Iterator[subprocess.Popen[str]]:
    command = PARENT.format(child=BURN.format(seconds=0.3))
    process = subprocess.Popen([sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "burnt\n"
    yield process
    process.communicate("", timeout=20)


def test_a_childs_time_belongs_to_the_tree(burner: subprocess.Popen[str]) -> None:
    tree = descendants(burner.pid)
    assert len(tree) == 2
    read = cpu_by_process(burner.pid)
    assert set(read) == set(tree)
    child = next(pid for pid in tree if pid != burner.pid)
    assert 0.3e9 <= read[child] < 2e9
    # It waits now: as good as nothing is spent.
    later = cpu_by_process(burner.pid)
    spent = spent_between(read, later)
    assert spent is not None
    assert 0 <= spent < 50e6


def test_our_own_clock_agrees() -> None:
    before, told = time.process_time_ns(), cpu_of(os.getpid())
    assert told is not None
    assert before <= told <= time.process_time_ns()


def test_who_has_ended_has_no_clock() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert cpu_of(process.pid) is None
    assert cpu_by_process(process.pid) == {}
    assert descendants(process.pid) == [process.pid]


def test_time_between_two_readings() -> None:
    assert spent_between({1: 10, 2: 5}, {1: 30, 2: 5, 3: 7}) == 27
    # One that ended took what it had spent with it.
    assert spent_between({1: 10, 2: 5}, {1: 30}) is None
    assert spent_between({}, {1: 30}) is None


def test_instructions_or_nothing() -> None:
    counter = Instructions([os.getpid()])
    first = counter.read()
    if first is None:
        pytest.skip("this machine has no counter of instructions")
    total = sum(range(100_000))
    second = counter.read()
    counter.close()
    assert total
    assert second is not None
    assert second > first


def test_counters_of_the_kernels_own_kind_work_the_same_way() -> None:
    # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK: nanoseconds a thread ran; there without any hardware counter.
    counter = Instructions([os.getpid()], kind=1, event=1)
    first = counter.read()
    if first is None:
        pytest.skip("this system lets nobody count")
    end = time.process_time_ns() + 20_000_000
    while time.process_time_ns() < end:
        pass
    second = counter.read()
    counter.close()
    assert second is not None
    assert second - first >= 15_000_000
    assert counter.read() is None
