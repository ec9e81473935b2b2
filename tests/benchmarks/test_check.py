"""The check from its command line, with real servers: files, exit codes, replay, Ctrl-C, a base revision in a worktree."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from benchmarks.check import main, make_plan
from benchmarks.check_options import Setup, make_workload, parser, read_load, read_setup
from benchmarks.check_plan import PlanError
from benchmarks.check_revision import BaseTree
from benchmarks.check_run import CheckRun
from benchmarks.check_targets import TargetError, read_side
from benchmarks.processes import ROOT, Interrupts
from benchmarks.verdict_files import COLUMNS

SERVER = f"{shlex.quote(sys.executable)} -m server --quiet --port {{port}}"
SHORT = ("--slices", "4", "--slice", "0.03", "--looks", "9", "--seed", "5")


def a_setup(tmp_path: Path, base: str = SERVER, head: str = SERVER, looks: tuple[int, ...] = (10,)) -> Setup:
    load = read_load("regression")
    sides = {name: read_side(name, text, ROOT, "/ws") for name, text in (("base", base), ("head", head))}
    return Setup(
        sides=sides, gate="10", looks=looks, slices=4, slice_s=0.05, warm_up_s=0.05, workload=make_workload(load), query=load.query_pairs,
        out=tmp_path, seed=3,
    )  # fmt: skip


def a_run(setup: Setup, folder: Path) -> CheckRun:
    folder.mkdir()
    return CheckRun(make_plan(setup), setup.sides, setup.query, setup.access, setup.workload, folder)


def test_two_urls_from_the_command_line_to_the_files(
    start_server: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = start_server().url
    code = main(["--base", url, "--head", url, *SHORT, "--out", str(tmp_path), "--json"])
    said = capsys.readouterr()
    (folder,) = tmp_path.glob("*_check")
    verdict = json.loads((folder / "verdict.json").read_text())
    assert code == verdict["exit_code"] == {"pass": 0, "regressed": 10, "inconclusive": 11}[verdict["verdict"]]
    assert said.out == (folder / "verdict.json").read_text()
    assert "look at 9 blocks: " in said.err
    # They cannot be started fresh, and nobody can read their processor time.
    assert not verdict["fresh"]
    assert [gate["metric"] for gate in verdict["gates"]] == ["tpot_p50", "token_latency_p99", "time_per_token"]
    assert "not started fresh" in (folder / "verdict.md").read_text()
    assert verdict["errors"]["failed"] == {"base": 0, "head": 0}
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["targets"]["base"] == {"kind": "url", "label": url, "command": None, "url": url}
    lines = [json.loads(line) for line in (folder / "blocks.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == [*["slice"] * 4, "block"] * 9
    tokens = pq.read_table(folder / "tokens.parquet")
    assert tokens.num_rows == sum(line["tokens"] for line in lines if line["kind"] == "slice")
    assert set(tokens["arm"].to_pylist()) == {"base", "head"}
    assert ElementTree.parse(folder / "junit.xml").getroot().get("tests") == "5"
    assert json.loads((folder / "env.json").read_text())["environment"]["cpu_count"] > 0
    with (tmp_path / "history.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == COLUMNS
    assert (row["verdict"], row["blocks"]) == (verdict["verdict"], "9")
    # The same verdict again from the blocks alone, byte for byte.
    assert main(["--replay", str(folder / "blocks.jsonl"), "--json"]) == code
    assert capsys.readouterr().out == (folder / "verdict.json").read_text()


def test_a_block_starts_both_servers_fresh_and_leaves_none_behind(tmp_path: Path) -> None:
    setup = a_setup(tmp_path, looks=(9,))
    run = a_run(setup, tmp_path / "run")
    pids: list[int] = []
    turns: list[tuple[int, int, str]] = []
    run.follower.slice_begins = lambda block, number, arm: turns.append((block, number, arm))

    def measured(blocks: Any, seconds: float) -> None:
        pids.extend(child.pid for child in psutil.Process().children(recursive=True) if "server" in child.cmdline())
        interrupts.count = 1

    run.follower.measured = measured
    with Interrupts() as interrupts:
        assert not run.run(interrupts)
    assert len(run.blocks) == 1
    assert pids == []
    block = run.blocks[0]
    for arm in ("base", "head"):
        assert block[arm]["tokens"] > 0
        assert block[arm]["failed"] == 0
        assert 1_000 < block[arm]["cpu_per_token"] < block[arm]["time_per_token"]
        assert block[arm]["tpot_p50"] > 0
        assert block[arm]["connect_time_p50"] > 0
    assert [turn[:2] for turn in turns] == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert "".join("AB"[arm == "head"] for _, _, arm in turns) == make_plan(setup).orders[0]


def test_a_slower_head_is_measured_as_slower(tmp_path: Path) -> None:
    setup = a_setup(tmp_path, f"{SERVER} --cpu-us=100", f"{SERVER} --cpu-us=300", looks=(9,))
    run = a_run(setup, tmp_path / "run")
    with Interrupts() as interrupts:
        run.follower.measured = lambda blocks, seconds: setattr(interrupts, "count", 1)
        run.run(interrupts)
    figures = run.blocks[0]
    # 200 us of work more a token, on top of 100 us and the server's own.
    assert 180_000 < figures["head"]["cpu_per_token"] - figures["base"]["cpu_per_token"] < 300_000


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "either --base"),
        (["--base", "x", "--base-revision", "y"], "either --base"),
        (["--base", SERVER], "expected --head beside --base"),
        (["--base", "ws:///nowhere", "--head", SERVER], "--base: expected a target"),
        (["--base", "'unfinished", "--head", SERVER], "quotes"),
        (["--base", "", "--head", SERVER], "found nothing"),
        (["--base", SERVER, "--head", SERVER, "--head-dir", "/no/such/folder"], "--head-dir: expected a folder"),
        (["--base", SERVER, "--head", SERVER, "--scenario", "ladder"], "a check cannot make a load with load.steps"),
        (["--base", SERVER, "--head", SERVER, "--scenario", "nothing"], "there is no scenario 'nothing'"),
        (["--base", SERVER, "--head", SERVER, "--looks", "5"], "at least 9 blocks"),
        (["--base", SERVER, "--head", SERVER, "--adapter", "nothing"], "expected an adapter"),
        (["--base", "http://127.0.0.1:1/", "--head", SERVER], "--base: expected a target"),
        (["--base", "ws://127.0.0.1:1/", "--head", SERVER, "--adapter", "openai-chat"], "expected an http:// or https:// URL"),
        (["--base-revision", "no-such-revision"], "expected a revision that git knows"),
        (["--replay", "/no/such/blocks.jsonl"], "needs the plan.json beside the blocks"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "--replay" not in words:
        words = [*words, "--out", str(tmp_path)]
    assert main(words) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert sentence in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--looks", "20,10"], ["--slices", "5"], ["--slice", "0"], ["--gate", "7"], ["--looks", "x"]])
def test_options_that_mean_nothing_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(words)
    assert ended.value.code == 2


def test_a_server_that_does_not_start_is_told_with_what_it_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = f"{shlex.quote(sys.executable)} -c \"raise SystemExit('no model here')\""
    assert main(["--base", SERVER, "--head", broken, *SHORT, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "the head server ended with exit code 1 before it was ready" in said
    assert "no model here" in said
    assert [path.name for path in tmp_path.glob("*_check/logs/*.job")] == []
    assert main(["--base", SERVER, "--head", broken, *SHORT, "--out", str(tmp_path), "--shadow"]) == 0


def test_a_port_may_come_from_the_environment(tmp_path: Path) -> None:
    code = "import os, sys, server.__main__ as m; sys.exit(m.main(['--quiet', '--port', os.environ['PORT']]))"
    setup = a_setup(tmp_path, base=f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}", looks=(9,))
    run = a_run(setup, tmp_path / "run")
    with Interrupts() as interrupts:
        run.follower.measured = lambda blocks, seconds: setattr(interrupts, "count", 1)
        run.run(interrupts)
    assert run.blocks[0]["base"]["tokens"] > 0


def test_a_head_that_crashes_loses_its_conversations_and_no_latency(tmp_path: Path) -> None:
    # Half a second after its first prompt, which is one of the warm-up.
    code = (
        "import os, sys, threading, server.__main__ as m, server.answers as a\n"
        "begin = a.Answers._start\n"
        "def start(self):\n"
        "    a.Answers._start = begin\n"
        "    threading.Timer(0.5, os._exit, (3,)).start()\n"
        "    begin(self)\n"
        "a.Answers._start = start\n"
        "sys.exit(m.main(['--quiet', '--port', os.environ['PORT']]))"
    )
    setup = a_setup(tmp_path, head=f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}", looks=(9,))
    setup.slices, setup.slice_s = 8, 0.5
    run = a_run(setup, tmp_path / "run")
    with Interrupts() as interrupts:
        run.follower.measured = lambda blocks, seconds: setattr(interrupts, "count", 1)
        run.run(interrupts)
    block = run.blocks[0]
    assert block["head"]["failed"] > 0
    assert block["head"]["cpu_per_token"] is None
    assert block["base"]["failed"] == 0


def test_ctrl_c_keeps_what_was_measured_and_leaves_nothing_running(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "check", "--base", SERVER, "--head", SERVER, "--out", str(tmp_path)]
    process = subprocess.Popen([*command, "--slices", "4"], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "block  1 of" in line:
            break
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"interrupted after \d+ blocks", said)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    (folder,) = tmp_path.glob("*_check")
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["verdict"] == "invalid"
    assert verdict["blocks"] >= 1
    assert not (tmp_path / "history.csv").exists()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c", *words], check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    (folder / "server").mkdir()
    (folder / "requirements.lock").write_text("one\n")
    (folder / "server" / "__init__.py").write_text("AGE = 1\n")
    git("add", ".")
    git("commit", "-qm", "one")
    git("checkout", "-qb", "change")
    (folder / "server" / "__init__.py").write_text("AGE = 2\n")
    git("commit", "-qam", "two")
    git("checkout", "-q", "main")
    (folder / "server" / "__init__.py").write_text("AGE = 3\n")
    git("commit", "-qam", "three")
    git("checkout", "-q", "change")
    return folder


def test_the_base_is_where_both_parted_and_its_tree_goes_again(repository: Path) -> None:
    with BaseTree("main", repository=repository) as tree:
        path = tree.path
        assert (path / "server" / "__init__.py").read_text() == "AGE = 1\n"
        assert tree.python == sys.executable
        assert list((path / "server" / "__pycache__").iterdir())
    assert not path.exists()
    listed = subprocess.run(["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True, check=True).stdout
    assert len(listed.splitlines()) == 1
    tree = BaseTree("main", repository=repository)
    with pytest.raises(RuntimeError, match="in the middle"), tree:
        raise RuntimeError("in the middle")
    assert tree.path != path
    assert not tree.path.exists()


def test_packages_that_cannot_be_installed_are_told_and_the_tree_goes(repository: Path) -> None:
    (repository / "requirements.lock").write_text("another\n")
    (repository / ".ci").mkdir()
    tree = BaseTree("main", repository=repository)
    with pytest.raises(TargetError, match="the packages of main could not be installed"):
        tree.__enter__()
    assert not tree.path.exists()


def test_no_repository_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="expected a git checkout"):
        BaseTree("main", repository=tmp_path)


def test_this_trees_own_base_revision(tmp_path: Path) -> None:
    given = parser().parse_args(["--base-revision", "HEAD", "--out", str(tmp_path)])
    with ExitStack() as stack:
        try:
            setup = read_setup(given, stack, Console(file=io.StringIO()))
        except TargetError as error:
            pytest.skip(f"no git checkout: {error}")
        base, head = setup.sides["base"], setup.sides["head"]
        assert (base.cwd / "server" / "app.py").is_file()
        assert base.cwd != ROOT
        assert (head.cwd, head.label) == (ROOT, "this tree")
        assert base.label.startswith("HEAD (")
    assert not base.cwd.exists()


def test_a_plan_with_too_few_blocks_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(PlanError):
        make_plan(a_setup(tmp_path, looks=(3,)))
