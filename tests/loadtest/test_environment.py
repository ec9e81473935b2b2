"""What machine and versions a run was made with, without a word about whose they are."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from loadtest import environment
from loadtest.environment import describe_machine, describe_revision, describe_versions


def test_the_machine_is_described_without_its_name() -> None:
    machine = describe_machine()
    assert machine["os"] == platform.system()
    assert machine["cpu_count"] == os.cpu_count()
    assert machine["memory_bytes"] > 1 << 20
    assert machine["cpu_model"]
    assert len(machine["hostname_hash"]) == 12
    for private in (platform.node(), str(Path.home()), f"user {getpass.getuser()}"):
        assert private not in json.dumps(machine)


def test_a_machine_without_cpuinfo_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert describe_machine()["cpu_model"]


def test_versions_of_what_measures() -> None:
    versions = describe_versions()
    assert set(versions) == {"streamgauge", "locust", "gevent", "websockets", "numpy", "pyarrow"}
    assert all(version[0].isdigit() for version in versions.values())


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the module believes to be the project's."""
    (tmp_path / "loadtest").mkdir()
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "loadtest" / "environment.py"))
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    return tmp_path


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A Test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_outside_a_checkout_there_is_no_revision(root: Path) -> None:
    assert describe_revision() is None


def test_without_git_there_is_no_revision(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ".git").mkdir()
    monkeypatch.setenv("PATH", str(root / "nothing"))
    assert describe_revision() is None


def test_a_checkout_that_git_does_not_know_has_no_revision(root: Path) -> None:
    (root / ".git").mkdir()
    assert describe_revision() is None


def test_git_that_hangs_is_not_waited_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ".git").mkdir()

    def hang(*_: object, timeout_s: float) -> str:
        assert 0 < timeout_s <= 10
        raise OSError("git did not end in time")

    monkeypatch.setattr(environment, "read_output", hang)
    assert describe_revision() is None


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_revision_and_whether_it_was_changed(root: Path) -> None:
    git(root, "init", "--quiet")
    assert describe_revision() is None  # nothing committed yet
    (root / "file").write_text("1")
    git(root, "add", "file")
    git(root, "commit", "--quiet", "--message", "first")
    revision = git(root, "rev-parse", "HEAD")
    assert describe_revision() == {"revision": revision, "dirty": False}
    (root / "file").write_text("2")
    assert describe_revision() == {"revision": revision, "dirty": True}
