"""What this machine must have before a run: descriptors, addresses, ports, memory, disk space, a folder to write to.

What is missing, as sentences.
"""

from __future__ import annotations

import ipaddress
import math
import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import psutil

SPARE_FILES: Final = 256  # beside the connections: libraries, logs, the run's own files, Locust's web UI
PORT_RANGE_FILE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
DEFAULT_PORT_RANGE: Final = (49152, 65535)  # IANA's dynamic ports, which macOS uses
HEADROOM: Final = 0.9  # of the ports: others on this machine use some, and a closed connection keeps its own for a minute
# Linux gives a connect one half of the ports first, every other one (`ip_local_port_range` in its documentation of sysctls). With that half
# in use each connect looks through all of it: 25 us became 900 us in the process that measures, so the other half is not counted on.
QUICK_SHARE: Final = 0.5
BASE_DISK_BYTES: Final = 64 << 20  # report, charts and intervals of a standard suite, with room
DISK_BYTES_PER_USER_SECOND: Final = 512  # a conversation row takes about 200 bytes raw and is written twice for a moment (compaction)
MOST_FILES: Final = 65_536  # more is not asked for: some systems refuse, or make each process pay for it
GENERATOR_BYTES_PER_CONNECTION: Final = 40 << 10  # in conversation, with its kernel buffers; measured: 11 KiB of process memory
SERVER_BYTES_PER_CONNECTION: Final = 60 << 10  # the same of the reference server; measured: 18 KiB of process memory
DEVIATIONS: Final = 6  # the kernel deals connections to the processes of a port by a hash: one gets more than its share by chance


def raise_file_limit(wanted: int = MOST_FILES) -> int:
    """Raise this process's soft limit of open files to `wanted`, or as near as the system allows; return the limit in force.

    The hard limit is raised too where that is needed and allowed (root outside most containers).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
        except (ValueError, OSError):
            pass
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


def server_files_needed(users: int, processes: int = 1) -> int:
    """Return how many descriptors one of the server's `processes` needs: its share is drawn, so a little more than that.

    The kernel chooses a process by a hash of the connection's addresses and ports (SO_REUSEPORT), which is binomial.
    """
    if processes <= 1:
        return users + SPARE_FILES
    mean = users / processes
    return math.ceil(mean + DEVIATIONS * math.sqrt(mean * (1 - 1 / processes))) + SPARE_FILES


def check_files(users: int, limit: int, processes: int = 1) -> list[str]:
    """Say what is missing when a process of the generator may open `limit` files."""
    return _check_files(users, limit, processes, files_needed, "")


def check_server_files(users: int, limit: int, processes: int = 1) -> list[str]:
    """Say what is missing when a process of the reference server may open `limit` files."""
    return _check_files(users, limit, processes, server_files_needed, " of the server")


def _check_files(users: int, limit: int, processes: int, needs: Callable[[int, int], int], whose: str) -> list[str]:
    processes = max(1, processes)
    needed = needs(users, processes)
    if limit >= needed:
        return []
    spread = _counted(processes, "process", "processes")
    most = max(0, limit - SPARE_FILES) * processes
    while most and needs(most, processes) > limit:
        most = max(0, most - processes * max(1, needs(most, processes) - limit))
    return [
        f"{users} users in {spread}{whose} need {needed} open files a process and {limit} are allowed: "
        f"raise the limit (ulimit -n {needed}; beyond the hard limit as root, or with LimitNOFILE= of systemd, --ulimit nofile= of "
        f"Docker), take more processes{whose}, or take at most {most} users."
    ]


def read_port_range(path: Path = PORT_RANGE_FILE) -> tuple[int, int]:
    """Return the first and the last port that the system gives to outgoing connections."""
    try:
        first, last = (int(word) for word in path.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return DEFAULT_PORT_RANGE
    return first, last


def check_ports(users: int, port_range: tuple[int, int], sources: int = 1, targets: int = 1) -> list[str]:
    """Say what is missing when `users` connections leave from `sources` addresses to `targets` pairs of address and port.

    Only the ports that a connect finds at once count, half of `port_range`.
    """
    first, last = port_range
    each = int(max(0, last - first + 1) * QUICK_SHARE * HEADROOM)
    most = each * max(1, sources) * max(1, targets)
    if users <= most:
        return []
    more = -(-users // (max(1, each) * max(1, targets)))
    return [
        f"{users} connections to one server need {users} local ports and about {most} are found quickly "
        f"({first} to {last}, from {_counted(max(1, sources), 'source address', 'source addresses')}): "
        f"use {more} source addresses (--source-address A,B) or at most {most} users, or widen net.ipv4.ip_local_port_range."
    ]


def check_sources(addresses: Sequence[str], target: str = "") -> list[str]:
    """Say which of the source `addresses` this machine cannot connect from, to the host `target`."""
    for text in addresses:
        address = ipaddress.ip_address(text)
        with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((text, 0))
            except OSError as error:
                return [
                    f"{text} is to be connected from and is no address of this machine ({error.strerror}): "
                    f"add it (Linux: ip addr add {text} dev DEVICE; macOS: ifconfig lo0 alias {text}), "
                    "or name others (--source-address A,B)."
                ]
        if address.is_loopback and target and not is_loopback(target):
            return [
                f"{text} is to be connected from, and from there only this machine can be reached, not {target}: "
                "name addresses of the network card (--source-address A,B), or none (--source-address=)."
            ]
    return []


def check_memory(users: int, free: int, *, own_server: bool) -> list[str]:
    """Say what is missing when `users` connections are to be held, by both sides with `own_server`, and `free` bytes are available."""
    each = GENERATOR_BYTES_PER_CONNECTION + (SERVER_BYTES_PER_CONNECTION if own_server else 0)
    if users * each <= free:
        return []
    return [
        f"{users} connections may take {_mebibytes(users * each)} of memory and {_mebibytes(free)} are available: "
        f"take at most {free // each} users, or a machine with more."
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
    server_processes: int = 1,
    sources: Sequence[str] = (),
    target: str = "",
    own_server: bool = True,
    bytes_per_token: float = 0.0,
    tokens_per_s: float = 0.0,
) -> list[str]:
    """Return a plain sentence for everything that this machine lacks for a run; an empty list when it lacks nothing.

    `users` counts connections at once, over all `processes`, from the addresses `sources` to the host `target`. With `own_server` the
    server's descriptors and memory count too. Raises this process's soft limit of open files on the way, which its children inherit.
    """
    missing = check_connections(
        users, processes=processes, server_processes=server_processes, sources=sources, target=target, own_server=own_server
    )
    missing += check_folder(folder)
    needed = disk_needed(users, run_time_s, bytes_per_token, tokens_per_s)
    return missing + check_disk(needed, shutil.disk_usage(nearest_existing(folder)).free, folder)


def check_connections(
    users: int, *, processes: int, server_processes: int, sources: Sequence[str], target: str, own_server: bool
) -> list[str]:
    """The part of ``check_machine`` that is about `users` connections: files, addresses, ports, memory."""
    limit = raise_file_limit(max(MOST_FILES, files_needed(users, processes), server_files_needed(users, server_processes)))
    missing = check_files(users, limit, processes)
    if own_server:
        missing += check_server_files(users, limit, server_processes)
    missing += check_sources(sources, target)
    missing += check_ports(users, read_port_range(), len(sources))
    missing += check_memory(users, psutil.virtual_memory().available, own_server=own_server)
    return missing


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
