"""Runs whose generator died."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.synthetic import SyntheticRun
from loadtest.run_directory import RunDirectory, RunDirectoryError
from reports.recover import recover
from reports.summary import summarise

Models = Callable[[str], SyntheticRun]


def killed(model: SyntheticRun, path: Path, cut: int) -> Path:
    """A run of two workers; the second was killed and the last bytes of its file are cut off."""
    model.metadata |= {"status": "running", "window": None, "steps": []}
    model.write(path, compact=False)
    raw = path / "raw" / "w1.frames"
    raw.write_bytes(raw.read_bytes()[:-cut])
    return path


def test_good_prefix_is_kept_and_the_loss_is_stated(models: Models, tmp_path: Path) -> None:
    path = killed(models("two_workers"), tmp_path / "run", 5000)
    sentence = recover(path)
    assert "2 raw files" in sentence
    assert "status aborted" in sentence
    metadata = RunDirectory.open(path).metadata()
    assert metadata["status"] == "aborted"
    assert metadata["workers"]["bad_bytes"].keys() == {"w1"}
    assert any("w1:" in reason and "were no good record" in reason for reason in metadata["status_reasons"])
    assert not (path / "raw").exists()
    summary = summarise(path)
    assert not summary["validity"]["valid"]
    assert {"status", "records"} <= {reason["rule"] for reason in summary["validity"]["reasons"]}
    assert summary["metrics"]["ttft"]["n"] > 500


def test_a_missing_end_mark_alone_is_stated(models: Models, tmp_path: Path) -> None:
    # A frame without payload is as long as its header.
    path = killed(models("two_workers"), tmp_path / "run", 17)
    assert "1 without an end mark" in recover(path)
    assert any("without an end mark" in reason for reason in RunDirectory.open(path).metadata()["status_reasons"])


def test_a_complete_run_is_left_alone(models: Models, tmp_path: Path) -> None:
    path = models("plain").write(tmp_path / "run")
    before = (path / "run.json").read_bytes()
    assert "no raw record to recover" in recover(path)
    assert (path / "run.json").read_bytes() == before


def test_a_complete_run_that_was_not_compacted_stays_complete(models: Models, tmp_path: Path) -> None:
    path = models("plain").write(tmp_path / "run", compact=False)
    assert "status complete" in recover(path)
    assert summarise(path)["validity"]["valid"]


def test_recovering_twice_is_recovering_once(models: Models, tmp_path: Path) -> None:
    path = killed(models("two_workers"), tmp_path / "run", 5000)
    recover(path)
    before = (path / "run.json").read_bytes()
    assert "was compacted already" in recover(path)
    assert (path / "run.json").read_bytes() == before


def test_nothing_recorded_is_a_clear_error(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", {})
    with pytest.raises(RunDirectoryError, match="nothing was recorded"):
        recover(tmp_path / "run")
