"""What machine and which versions this was: goes into run.json, without host names or user names."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import psutil

from .programs import read_output

_VERSIONS = ("locust", "gevent", "websockets", "numpy", "pyarrow")


def describe_machine() -> dict[str, Any]:
    """Operating system, kernel, CPU, memory and Python of this machine; the host name only as a hash."""
    return {
        "os": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu_model": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "hostname_hash": hashlib.sha256(platform.node().encode()).hexdigest()[:12],
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe_versions() -> dict[str, str]:
    """Versions of what measures."""
    found = {"streamgauge": _own_version()}
    for name in _VERSIONS:
        found[name] = importlib.metadata.version(name)
    return found


def _own_version() -> str:
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    return next(line.split('"')[1] for line in text.splitlines() if line.startswith("version = "))


def describe_revision() -> dict[str, Any] | None:
    """Git revision of this checkout and whether it was changed; None outside a checkout or without git."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return read_output(["git", "-C", str(root), *arguments], timeout_s=10).strip()

    try:
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except OSError:
        return None
