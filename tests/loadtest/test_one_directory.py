"""Many processes that want one run directory at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from loadtest.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parents[2]
TRY = """
import sys
from pathlib import Path
from loadtest.run_directory import RunDirectory, RunDirectoryError
print("ready", flush=True)
sys.stdin.readline()
try:
    RunDirectory.create(Path(sys.argv[1]), {"id": sys.argv[2]})
except RunDirectoryError as error:
    sys.exit(f"refused: {error}")
"""


def test_of_many_that_want_one_directory_one_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "run"
    command = [sys.executable, "-c", TRY, str(path)]
    pipe = subprocess.PIPE
    tries = [subprocess.Popen([*command, str(n)], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for n in range(6)]
    try:
        for one in tries:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in tries:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        said = [one.communicate(timeout=60)[1] for one in tries]
    finally:
        for one in tries:
            one.kill()
            one.wait()
    winners = [number for number, one in enumerate(tries) if one.returncode == 0]
    assert len(winners) == 1
    assert RunDirectory.open(path).metadata()["id"] == str(winners[0])
    refused = [text for text in said if text]
    assert len(refused) == 5
    for text in refused:
        assert text.startswith("refused: ")
        assert "Traceback" not in text
