"""Where the last calibration of a machine is kept, and the few words of it that each run carries. Pure but for its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .run_directory import write_text

FOLDER = "calibration"
"""Below the folder of all runs: one file a machine."""
_CARRIED = ("ended_utc", "passed", "figures", "failed", "worst", "page", "versions")


def machine_key(machine: Mapping[str, Any]) -> str:
    """The name of a machine, from ``environment.describe_machine``: the same host with another processor is another instrument."""
    return hashlib.sha256(f"{machine.get('hostname_hash')}\n{machine.get('cpu_model')}".encode()).hexdigest()[:12]


def record_path(runs_folder: Path, machine: Mapping[str, Any]) -> Path:
    """Where this machine's last calibration stands, or would stand."""
    return runs_folder / FOLDER / f"{machine_key(machine)}.json"


def keep_calibration(runs_folder: Path, machine: Mapping[str, Any], calibration: Mapping[str, Any]) -> Path:
    """Make ``calibration`` the last one of this machine; OSError when it cannot be written."""
    path = record_path(runs_folder, machine)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(calibration, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def last_calibration(runs_folder: Path, machine: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a run says of the last calibration of its machine; None when there is none that can be read.

    ``ended_utc``, ``passed``, ``figures`` (how many were judged), ``failed`` (names), ``worst`` (the figure nearest to its bound, or
    farthest beyond it), ``page`` (below the folder of runs), ``versions`` (what was calibrated) and ``path`` of the whole.
    """
    path = record_path(runs_folder, machine)
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(whole, dict) or not isinstance(whole.get("passed"), bool):
        return None
    short = {name: whole.get(name) for name in _CARRIED}
    if isinstance(whole.get("figures"), list):
        short["figures"] = len(whole["figures"])
    return {**short, "path": str(path)}
