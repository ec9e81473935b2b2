"""What may befall a run with workers: each mishap does its harm to real processes at drawn instants, and says what must come."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest.run_directory import RunDirectory
from reports.recover import recover

from .cluster import Cluster
from .hostile_peer import forge, throw_garbage

DONE, USAGE, LACKING, INTERRUPTED, KILLED = 0, 2, 12, 130, -9
STALL_S: Final = 8.0
PARTITION_S: Final = 2.0


@dataclass(slots=True)
class Harm:
    """What was done: when (wall clock ns) something was killed for good, and to which workers."""

    killed_at_ns: int | None = None
    workers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mishap:
    """One way in which a run goes wrong. ``codes`` and ``statuses`` are how the master may end and what run.json may say then.

    ``hosts``: needs hosts of their own. ``directory`` False: there must be no run directory at all. ``whole``: whatever the run is called,
    nothing of it may be unknown.
    """

    name: str
    how: str
    act: Callable[[Cluster, random.Random], Harm]
    codes: tuple[int, ...]
    statuses: tuple[str, ...]
    workers: int = 2
    expected: int | None = None
    seconds: float = 10
    options: Sequence[str] = ()
    wait_s: float = 60.0
    hosts: bool = False
    directory: bool = True
    whole: bool = False
    says: str = ""


SPREAD_S: Final = 3.0
"""Mishaps strike within so long after every worker has begun; a run is much longer, for on a busy machine beginning takes its time."""


def _somewhere(cluster: Cluster, draw: random.Random) -> None:
    """Wait until all workers are at it, and then until an instant that is drawn."""
    cluster.begin()
    cluster.pause(draw.uniform(0, SPREAD_S))


def _kill(cluster: Cluster, numbers: Sequence[int]) -> Harm:
    names = tuple(cluster.name_of(number) for number in numbers)
    at = time.time_ns()
    for number in numbers:
        os.kill(cluster.workers[number].pid, signal.SIGKILL)
    return Harm(at, names)


def kill_worker(cluster: Cluster, draw: random.Random) -> Harm:
    """One of two."""
    _somewhere(cluster, draw)
    return _kill(cluster, [draw.randrange(len(cluster.workers))])


def kill_workers(cluster: Cluster, draw: random.Random) -> Harm:
    """All of them."""
    _somewhere(cluster, draw)
    return _kill(cluster, range(len(cluster.workers)))


def kill_master(cluster: Cluster, draw: random.Random) -> Harm:
    """The workers have to stop by themselves; what they have is joined to the run."""
    _somewhere(cluster, draw)
    at = time.time_ns()
    os.kill(cluster.master.pid, signal.SIGKILL)
    for worker in (cluster.master, *cluster.workers):
        cluster.end_of(worker)
    recover(cluster.path)
    return Harm(at)


def terminate_master(cluster: Cluster, draw: random.Random) -> Harm:
    """As a container is stopped."""
    _somewhere(cluster, draw)
    os.kill(cluster.master.pid, signal.SIGTERM)
    return Harm()


def interrupt(cluster: Cluster, draw: random.Random) -> Harm:
    """As from a terminal: all processes get it."""
    _somewhere(cluster, draw)
    for process in (cluster.master, *cluster.workers):
        os.kill(process.pid, signal.SIGINT)
    return Harm()


def slow_stop(cluster: Cluster, draw: random.Random) -> Harm:
    """Nothing is done: the answers are longer than the time that users have to stop."""
    cluster.begin_tokens()
    return Harm()


def stall_worker(cluster: Cluster, draw: random.Random) -> Harm:
    """One worker stands still for longer than the master waits for heartbeats."""
    _somewhere(cluster, draw)
    pid = cluster.workers[draw.randrange(len(cluster.workers))].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        cluster.pause(STALL_S)
    finally:
        os.kill(pid, signal.SIGCONT)
    return Harm()


def partition(cluster: Cluster, draw: random.Random) -> Harm:
    """One worker's host is cut off from all others, and comes back."""
    _somewhere(cluster, draw)
    assert cluster.network is not None
    host = f"w{draw.randrange(len(cluster.workers))}"
    cluster.network.cut(host)
    try:
        cluster.pause(PARTITION_S)
    finally:
        cluster.network.mend(host)
    return Harm()


def cut_off(cluster: Cluster, draw: random.Random) -> Harm:
    """One worker's host is cut off for good; its record is brought over afterwards."""
    _somewhere(cluster, draw)
    assert cluster.network is not None
    host = f"w{draw.randrange(len(cluster.workers))}"
    cluster.network.cut(host)
    at = time.time_ns()
    for process in (cluster.master, *cluster.workers):
        cluster.end_of(process)
    recover(cluster.path)
    return Harm(at)


def fill_disk(cluster: Cluster, draw: random.Random) -> Harm:
    """From an instant on the kernel lets no file of one process grow further: a worker's own record, or the master's copies."""
    _somewhere(cluster, draw)
    process = draw.choice((cluster.master, *cluster.workers))
    folder = cluster.path / "raw" if process is cluster.master else cluster.folder / "workers"
    size = min(path.stat().st_size for path in folder.rglob("*.frames"))
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
    if process is not cluster.master:
        return Harm()
    for one in (cluster.master, *cluster.workers):
        cluster.end_of(one)
    # The disk is not full any more: the records that the workers kept are joined.
    recover(cluster.path)
    return Harm()


def garbage(cluster: Cluster, draw: random.Random) -> Harm:
    """A peer that sends bytes without meaning."""
    _somewhere(cluster, draw)
    throw_garbage(cluster.address("master"), cluster.port, draw)
    return Harm()


def forgery(cluster: Cluster, draw: random.Random) -> Harm:
    """A peer that says what workers say: statistics, chunks, farewells."""
    _somewhere(cluster, draw)
    forge(cluster.address("master"), cluster.port, draw, str(RunDirectory.open(cluster.path).metadata().get("id")))
    return Harm()


def nothing(cluster: Cluster, draw: random.Random) -> Harm:
    """It begins wrong."""
    return Harm()


def late_worker(cluster: Cluster, draw: random.Random) -> Harm:
    """One more comes while the run goes on, which lasts until it has taken part for a while."""
    cluster.begin()
    cluster.add_worker()
    cluster.begin()
    cluster.pause(draw.uniform(2, 4))
    os.kill(cluster.master.pid, signal.SIGTERM)
    return Harm()


def other_version(cluster: Cluster, draw: random.Random) -> Harm:
    """One more comes that says it is of another version."""
    cluster.begin()
    stranger = cluster.add_worker("benchmarks/other_version.py")
    cluster.refused_code = cluster.end_of(stranger)
    os.kill(cluster.master.pid, signal.SIGTERM)
    return Harm()


def other_clock(cluster: Cluster, draw: random.Random) -> Harm:
    """One of the workers is as on another machine, whose clock is ahead."""
    cluster.add_worker("benchmarks/other_machine.py")
    cluster.begin()
    return Harm()


def worker_leaves(cluster: Cluster, draw: random.Random) -> Harm:
    """One is asked to end."""
    _somewhere(cluster, draw)
    os.kill(cluster.workers[draw.randrange(len(cluster.workers))].pid, signal.SIGTERM)
    return Harm()


def damage_record(cluster: Cluster, draw: random.Random) -> Harm:
    """Everything is killed at once, and a bit of the master's copy is flipped, or its end cut off."""
    _somewhere(cluster, draw)
    at = time.time_ns()
    for process in (cluster.master, *cluster.workers):
        os.kill(process.pid, signal.SIGKILL)
        cluster.end_of(process)
    copy = draw.choice(sorted((cluster.path / "raw").glob("*.frames")))
    _damage(copy, draw)
    recover(cluster.path)
    return Harm(at)


def _damage(path: Path, draw: random.Random) -> None:
    size = path.stat().st_size
    if draw.random() < 0.5:
        os.truncate(path, size - draw.randint(1, size // 2))
        return
    with path.open("r+b") as file:
        at = file.seek(draw.randrange(size))
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << draw.randrange(8)]))


_OPEN: Final = ("--loop", "open", "--rate", "12", "--tokens", "10")
MISHAPS: Final = (
    Mishap("none", "nothing happens", nothing, (DONE,), ("complete",), seconds=4),
    Mishap("kill-worker", "SIGKILL of one of two workers", kill_worker, (LACKING,), ("degraded",)),
    Mishap("kill-workers", "SIGKILL of all workers", kill_workers, (LACKING,), ("degraded",)),
    Mishap("kill-master", "SIGKILL of the master; `reports recover`", kill_master, (KILLED,), ("aborted",)),
    Mishap("terminate-master", "SIGTERM to the master", terminate_master, (INTERRUPTED,), ("aborted",), whole=True),
    Mishap("interrupt", "Ctrl-C", interrupt, (INTERRUPTED,), ("aborted",), whole=True),
    Mishap(
        "slow-stop", "users that take longer to stop than they may", slow_stop, (DONE,), ("complete",),
        options=("--tokens", "2000", "--gap-ms", "50", "--stop-timeout", "1"),
    ),
    Mishap("stall-worker", f"SIGSTOP of a worker for {STALL_S:g} s", stall_worker, (DONE, LACKING), ("complete", "degraded")),
    Mishap("partition", f"{PARTITION_S:g} s without a way to one worker's host", partition, (DONE,), ("complete",), hosts=True),
    Mishap(
        "cut-off", "one worker's host cut off for good; `reports recover`", cut_off, (LACKING,), ("degraded",), hosts=True
    ),
    Mishap("disk-full", "the disk of a worker, or the master's, takes no more", fill_disk, (LACKING,), ("degraded",)),
    Mishap("garbage", "30 messages that mean nothing", garbage, (DONE,), ("complete",), says="cannot be read"),
    Mishap("forgery", "17 messages of somebody who is no worker", forgery, (DONE,), ("complete",), says="refused"),
    Mishap("few-workers", "a worker fewer than expected", nothing, (USAGE,), (), expected=3, wait_s=6, directory=False, says="expected 3"),
    Mishap("late-worker", "one more worker during the run", late_worker, (INTERRUPTED,), ("aborted",), seconds=60, whole=True),
    Mishap(
        "other-version", "a worker of another version", other_version, (INTERRUPTED,), ("aborted",), seconds=60, whole=True,
        says="expected streamgauge",
    ),
    Mishap("other-clock", "one worker's clock is 3 s ahead", other_clock, (DONE,), ("complete",), workers=1, expected=2),
    Mishap("worker-leaves", "SIGTERM to one of two workers", worker_leaves, (LACKING,), ("degraded",), whole=True),
    Mishap("damaged-record", "all killed, the master's copy damaged; `reports recover`", damage_record, (KILLED,), ("aborted",)),
    Mishap("kill-worker-open", "SIGKILL of a worker, open loop", kill_worker, (LACKING,), ("degraded",), seconds=14, options=_OPEN),
    Mishap(
        "late-worker-open", "one more worker during the run, open loop", late_worker, (INTERRUPTED,), ("aborted",), seconds=60, whole=True,
        options=_OPEN,
    ),
)  # fmt: skip
"""Every mishap, the run to which nothing happens first."""
