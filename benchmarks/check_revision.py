"""The base revision as a tree of its own: a git worktree in a temporary place, with its own packages where its lock differs."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from .check_targets import TargetError
from .processes import ROOT

LOCK: Final = "requirements.lock"


class BaseTree:
    """A worktree of one revision, there while entered and removed again whatever happens.

    ``path`` is its folder, ``revision`` the commit, ``python`` the interpreter to start its server with.
    """

    def __init__(self, name: str, merge_base: bool = True, repository: Path = ROOT) -> None:
        self._repository = repository
        if git(repository, "rev-parse", "--is-inside-work-tree") != "true":
            raise TargetError(f"expected a git checkout at {repository} to take the base revision from, and it is none")
        found = git(repository, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        if found is None:
            raise TargetError(
                f"expected a revision that git knows, found {name!r}; fetch it first (a shallow clone has only the newest), "
                "for instance: git fetch origin main"
            )
        # Against the tip of a branch that has moved on, its newer changes would count as ours.
        common = git(repository, "merge-base", found, "HEAD") if merge_base else None
        self.revision = common or found
        self.name = name
        self._folder: Path | None = None
        self.path = Path()
        self.python = sys.executable

    def __enter__(self) -> BaseTree:
        self._folder = Path(tempfile.mkdtemp(prefix="streamgauge-base-"))
        self.path = self._folder / "tree"
        try:
            added = run(["git", "-C", str(self._repository), "worktree", "add", "--detach", "--force", str(self.path), self.revision])
            if added.returncode:
                raise TargetError(f"git could not check {self.name} out: {added.stderr.strip()}")
            self._prepare()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._remove()

    def _prepare(self) -> None:
        """Packages of its own where its lock is not ours; built before anything is timed, so that the first start compiles nothing."""
        theirs, ours = self.path / LOCK, self._repository / LOCK
        if theirs.is_file() and not (ours.is_file() and filecmp.cmp(theirs, ours, shallow=False)):
            made = run(["sh", str(self.path / ".ci" / "venv"), "runtime"], environment={"PYTHON": sys.executable})
            if made.returncode:
                last = "\n".join(made.stderr.strip().splitlines()[-5:])
                raise TargetError(f"the packages of {self.name} could not be installed:\n{last}")
            self.python = str(self.path / ".venv" / "bin" / "python")
        run([self.python, "-m", "compileall", "-q", str(self.path / "server")])

    def _remove(self) -> None:
        if self._folder is None:
            return
        run(["git", "-C", str(self._repository), "worktree", "remove", "--force", str(self.path)])
        shutil.rmtree(self._folder, ignore_errors=True)
        run(["git", "-C", str(self._repository), "worktree", "prune"])
        self._folder = None


def run(command: Sequence[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command that talks to nobody, in a session of its own so that Ctrl-C is ours alone to act on."""
    try:
        return subprocess.run(
            list(command), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0", **(environment or {})},
        )  # fmt: skip
    except FileNotFoundError:
        raise TargetError(f"expected the program {command[0]} on the PATH, and it is not there") from None


def git(repository: Path, *arguments: str) -> str | None:
    """What git answers, or None when it says no."""
    done = run(["git", "-C", str(repository), *arguments])
    return done.stdout.strip() if done.returncode == 0 else None
