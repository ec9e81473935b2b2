"""The engine's own reading of frames against the library's, over many byte streams and cuts: drawn ones, and guided by coverage."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).with_name("drivers") / "frame_fuzzer.py"


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(FUZZER), *arguments], capture_output=True, text=True, check=False)


def test_drawn_byte_streams_mean_the_same() -> None:
    ended = fuzz("--cases", "20000", "--seed", "7")
    assert (ended.returncode, ended.stdout) == (0, "20000 cases, all the same\n"), ended.stdout


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed: it has no wheel for this system")
def test_byte_streams_that_coverage_leads_to_mean_the_same(tmp_path: Path) -> None:
    ended = fuzz("--guided", "-runs=10000", "-max_len=300", "-seed=7", f"-artifact_prefix={tmp_path}/", str(tmp_path))
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
    assert "Done 10000 runs" in ended.stderr
    assert len(list(tmp_path.iterdir())) > 5, "inputs that reach new code are kept: without them nothing guides"
