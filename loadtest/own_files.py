"""Files that are ours: forced to disk, and never reached through a link that somebody else has laid."""

from __future__ import annotations

import os
from pathlib import Path


def first_link(path: Path) -> Path | None:
    """A symbolic link in a run directory or among its raw records, by name the first; None when all files are its own.

    Whoever hands over a run directory could lay one, and what is written or removed through it would be elsewhere.
    """
    for folder in (path, path / "raw"):
        try:
            with os.scandir(folder) as entries:
                links = sorted(entry.name for entry in entries if entry.is_symlink())
        except OSError:
            continue  # what is not there, or is no folder, is told of by whoever needs it
        if links:
            return folder / links[0]
    return None


def open_no_link(name: str, flags: int) -> int:
    """The opener of ``open`` for a file that is written: OSError where a link lies in its place."""
    return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
