"""docs/your-server.md, tried: its files in a folder of their own, whose packages are called as ours, and its commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.keys import ScenarioError
from benchmarks.options import parse, server
from loadtest.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "your-server.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, as they stand in it."""
    folder = tmp_path_factory.mktemp("somewhere") / "chat"
    for language, name, text in re.findall(r"```(python|toml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        assert path.suffix == (".py" if language == "python" else ".toml")
    return folder


def bench(chat: Path, out: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """`python -m benchmarks bench` from the page, with this Python for the server's."""
    command = [
        sys.executable, "-m", "benchmarks", "bench", "--json", "--out", str(out), "--server-dir", str(chat), "--server-path", "/",
        "--server", f"{sys.executable} -m server {{port}}", *words,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def the_run(out: Path, name: str) -> RunDirectory:
    return RunDirectory.open(next(out.glob(f"*/{name}")))


def nobody_left(chat: Path) -> bool:
    """Whether no process runs in the folder any more."""
    places = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            places.append(os.readlink(process / "cwd"))
        except OSError:
            continue
    return str(chat) not in places


def test_the_page_names_its_files(chat: Path) -> None:
    found = {path.relative_to(chat).as_posix() for path in chat.rglob("*") if path.is_file()}
    modules = {"server/__init__.py", "server/__main__.py", "benchmarks/__init__.py", "load/chat_adapter.py"}
    assert found == modules | {"load/table.toml", "load/evening.toml"}


def test_a_scenario_of_ours_on_a_server_of_theirs(chat: Path, tmp_path: Path) -> None:
    table = f"{chat}/load/table.toml"
    code, suite, said = bench(chat, tmp_path, "--scenario", "smoke", "--run-time", "2s", "--users", "4", "--adapter-file", table)
    # A busy machine may refuse the figures (12); whatever happens they have been measured.
    assert code in (0, 12), said
    assert suite
    run = the_run(tmp_path, "smoke")
    assert run.metadata()["target"]["adapter"] == "json"
    rows = run.table("conversations").to_pylist()
    outcomes = {row["outcome"] for row in rows}
    assert rows
    assert outcomes <= {"completed", "stopped", "abandoned"}, [row for row in rows if row["error"]][:1]
    assert all(row["tokens"] > 5 for row in rows if row["outcome"] == "completed")
    assert (run.path / "server.log").exists()
    assert not list(tmp_path.glob("*/.*"))
    assert nobody_left(chat)


def test_their_scenario_with_its_adapter(chat: Path, tmp_path: Path) -> None:
    code, _, said = bench(chat, tmp_path, "--scenario", f"{chat}/load/evening.toml", "--run-time", "2s", "--users", "4")
    assert code in (0, 12), said
    metadata = the_run(tmp_path, "evening").metadata()
    assert metadata["target"]["adapter_options"] == {"manners": "please: "}
    assert metadata["scenario"]["adapter"] == {"name": f"{chat}/load/chat_adapter.py:Chat", "manners": "please: "}
    assert metadata["status"] == "complete"


def test_a_server_that_does_not_come_is_told_with_what_it_said(chat: Path, tmp_path: Path) -> None:
    broken = f"{sys.executable} -c \"raise SystemExit('no licence')\""
    code, _, said = bench(chat, tmp_path, "--scenario", "smoke", "--server", broken)
    assert code == 2
    assert "the server ended with exit code 1 before it was ready" in said
    assert "no licence" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--server-dir", "no/such"], "expected a folder to run the command in, and no/such is none"),
        (["--server-path", "http://127.0.0.1:9000/"], "expected {port} in the URL"),
    ],
)
def test_words_that_do_not_go_together(words: list[str], sentence: str) -> None:
    with pytest.raises(ScenarioError, match=re.escape(sentence)):
        server(parse(["bench", "--server", "x", *words]))


def test_a_server_that_is_asked_over_http_is_given_by_its_url() -> None:
    made = server(parse(["bench", "--server", "serve {port}", "--server-path", "http://127.0.0.1:{port}/v1/chat/completions"]))
    assert made is not None
    assert made.path == "http://127.0.0.1:{port}/v1/chat/completions"
