"""What this machine must have before a run: descriptors, ports, disk space, a folder to write to. What is missing, as sentences."""

from __future__ import annotations

import ipaddress
import os
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

SPARE_FILES: Final = 256  # beside the connections: libraries, logs, the run's own files, Locust's web UI
PORT_RANGE_FILE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
DEFAULT_PORT_RANGE: Final = (49152, 65535)  # IANA's dynamic ports, which macOS uses
HEADROOM: Final = 0.9  # of the ports: others on this machine use some, and a closed connection keeps its own for a minute
BASE_DISK_BYTES: Final = 64 << 20  # report, charts and intervals of a standard suite, with room
DISK_BYTES_PER_USER_SECOND: Final = 512  # a conversation row takes about 200 bytes raw and is written twice for a moment (compaction)
MOST_FILES: Final = 65_536  # more is not asked for: some systems refuse, or make each process pay for it


def raise_file_limit(wanted: int = MOST_FILES) -> int:
    """Raise this process's soft limit of open files to `wanted`, or as near as the system allows; return the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_FILES
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    # The last two are for a kernel (macOS) that says "unlimited" and refuses a number it finds too large.
    for limit in (most, 24_576, 10_240):
        if soft < limit <= most:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                return limit
            except (ValueError, OSError):
                continue
    return soft


def files_needed(users: int, processes: int = 1) -> int:
    """Return how many descriptors one generator process needs when `users` connections are spread over `processes`."""
    return -(-users // max(1, processes)) + SPARE_FILES


def check_files(users: int, limit: int, processes: int = 1) -> list[str]:
    """Say what is missing when a process may open `limit` files."""
    needed = files_needed(users, processes)
    if limit >= needed:
        return []
    spread = _counted(max(1, processes), "process", "processes")
    most = max(0, limit - SPARE_FILES) * max(1, processes)
    return [
        f"{users} users in {spread} need {needed} open files a process and {limit} are allowed: "
        f"raise the limit (ulimit -n {needed}), take more processes, or take at most {most} users."
    ]


def read_port_range(path: Path = PORT_RANGE_FILE) -> tuple[int, int]:
    """Return the first and the last port that the system gives to outgoing connections."""
    try:
        first, last = (int(word) for word in path.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return DEFAULT_PORT_RANGE
    return first, last


def check_ports(users: int, port_range: tuple[int, int], sources: int = 1, targets: int = 1) -> list[str]:
    """Say what is missing when `users` connections leave from `sources` addresses to `targets` pairs of address and port."""
    first, last = port_range
    each = int(max(0, last - first + 1) * HEADROOM)
    most = each * max(1, sources) * max(1, targets)
    if users <= most:
        return []
    more = -(-users // (max(1, each) * max(1, targets)))
    return [
        f"{users} connections to one server need {users} local ports and there are about {most} "
        f"({first} to {last}, from {_counted(max(1, sources), 'source address', 'source addresses')}): "
        f"use {more} source addresses or at most {most} users, or widen net.ipv4.ip_local_port_range."
    ]


def disk_needed(users: int, run_time_s: float, bytes_per_token: float = 0.0, tokens_per_s: float = 0.0) -> int:
    """Return a generous estimate, in bytes, of what a run writes; token rows only count when they are asked for."""
    return int(BASE_DISK_BYTES + run_time_s * (users * DISK_BYTES_PER_USER_SECOND + bytes_per_token * tokens_per_s))


def check_disk(needed: int, free: int, folder: Path) -> list[str]:
    """Say what is missing when `needed` bytes are to be written where `free` are left."""
    if free >= needed:
        return []
    return [
        f"The run may write {_mebibytes(needed)} to {folder} and {_mebibytes(free)} are free: "
        "make room, shorten the run, or choose another folder."
    ]


def nearest_existing(folder: Path) -> Path:
    """Return `folder` or its nearest ancestor that exists: where its space will come from."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def check_folder(folder: Path, write: Callable[[Path], None] | None = None) -> list[str]:
    """Try to make `folder` and to write a file in it; say what came when that fails. Leaves an empty folder behind."""
    try:
        (write or _write_probe)(folder)
    except OSError as error:
        return [
            f"The run is written to {folder}, which failed ({error.strerror or error}): "
            "choose a folder that can be written to, or mend its permissions."
        ]
    return []


def _write_probe(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"0")
        probe.flush()
        os.fsync(probe.fileno())


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine, without asking a name server."""
    if host in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_machine(
    users: int,
    run_time_s: float,
    folder: Path,
    *,
    processes: int = 1,
    sources: int = 1,
    own_server: bool = True,
    bytes_per_token: float = 0.0,
    tokens_per_s: float = 0.0,
) -> list[str]:
    """Return a plain sentence for everything that this machine lacks for a run; an empty list when it lacks nothing.

    `users` counts connections at once, over all `processes`. With `own_server` the server's descriptors count too: all connections
    end in one of its processes at worst. Raises this process's soft limit of open files on the way, which its children inherit.
    """
    limit = raise_file_limit(max(MOST_FILES, files_needed(users)))
    missing = check_files(users, limit, 1 if own_server else processes)
    missing += check_ports(users, read_port_range(), sources)
    missing += check_folder(folder)
    needed = disk_needed(users, run_time_s, bytes_per_token, tokens_per_s)
    return missing + check_disk(needed, shutil.disk_usage(nearest_existing(folder)).free, folder)


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
