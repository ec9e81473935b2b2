"""What did the target's processes spend: processor time to the nanosecond and, where the machine counts them, instructions.

Both belong to one process and all its descendants. Processor time is what contention by others hardly moves: it counts only while the
target really runs.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import psutil

_PROC: Final = Path("/proc")
_LINUX: Final = _PROC.joinpath("self", "task").is_dir()
_HARDWARE, _INSTRUCTIONS = 0, 1
# linux/perf_event.h: struct perf_event_attr of 112 bytes (version 5); flags: disabled, inherit, ..., exclude_kernel, exclude_hypervisor.
_ATTRIBUTES: Final = struct.Struct("IIQQQQQ72x")
_INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HYPERVISOR = 1 << 1, 1 << 5, 1 << 6
_PERF_EVENT_OPEN: Final = {"x86_64": 298, "aarch64": 241}


def descendants(pid: int) -> list[int]:
    """``pid`` and everything that descends from it, as far as it runs."""
    found, look = [pid], [pid]
    while look:
        children = _children(look.pop())
        found += children
        look += children
    return found


def _children(pid: int) -> list[int]:
    try:
        threads = list((_PROC / str(pid) / "task").iterdir())
        # A file of the kernel's that names them costs microseconds; searching all processes for their parents costs milliseconds.
        return [int(word) for thread in threads for word in (thread / "children").read_text(encoding="ascii").split()]
    except OSError:
        if _LINUX:
            return []
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def cpu_of(pid: int) -> int | None:
    """Processor time of all threads of a process, ns; None when it has ended.

    Linux gives each process a clock of its own, numbered by its pid (clock_getcpuclockid(3)); elsewhere psutil reads what there is.
    """
    if _LINUX:
        try:
            return time.clock_gettime_ns((~pid << 3) | 2)
        except OSError:
            return None
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return round((times.user + times.system) * 1e9)


def cpu_by_process(pid: int) -> dict[int, int]:
    """Processor time of ``pid`` and each of its descendants, ns by pid."""
    read = {one: cpu_of(one) for one in descendants(pid)}
    return {one: spent for one, spent in read.items() if spent is not None}


def spent_between(before: Mapping[int, int], after: Mapping[int, int]) -> int | None:
    """Processor time spent from one reading to the next, ns; None when a process ended meanwhile and took its own with it."""
    if not before or not before.keys() <= after.keys():
        return None
    return sum(after.values()) - sum(before.values())


class Instructions:
    """Counts the instructions that threads retire in user space; ``read`` is None where there is no such counter. ``close`` it."""

    def __init__(self, pids: Iterable[int], kind: int = _HARDWARE, event: int = _INSTRUCTIONS) -> None:
        self._descriptors: list[int] = []
        number = _PERF_EVENT_OPEN.get(os.uname().machine) if _LINUX else None
        if number is None:
            return
        system = ctypes.CDLL(None, use_errno=True).syscall
        flags = _INHERIT | _EXCLUDE_KERNEL | _EXCLUDE_HYPERVISOR
        attributes = _ATTRIBUTES.pack(kind, _ATTRIBUTES.size, event, 0, 0, 0, flags)
        for pid in pids:
            for thread in _threads(pid):
                descriptor = system(number, attributes, thread, -1, -1, 0)
                if descriptor < 0:
                    # Counted in part is not counted.
                    self.close()
                    return
                self._descriptors.append(descriptor)

    def read(self) -> int | None:
        """The count so far, over all threads and what they started since."""
        if not self._descriptors:
            return None
        return sum(int.from_bytes(os.read(descriptor, 8), sys.byteorder) for descriptor in self._descriptors)

    def close(self) -> None:
        """Give the counters back."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()


def _threads(pid: int) -> list[int]:
    try:
        return [int(entry.name) for entry in (_PROC / str(pid) / "task").iterdir()]
    except OSError:
        return []
