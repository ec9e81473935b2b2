"""The rules of the protocol, checked from outside: the reference server keeps them all, and each way to break one is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from loadtest.conformance import as_dict, examine_server, exit_code, main
from loadtest.dialogues import CHECKS
from loadtest.examination import HOLDS, NOT_CHECKED, VIOLATED, Finding, examine
from loadtest.examinee import Subject, acquaint
from tests.mortal import mortal

ROOT = Path(__file__).resolve().parents[2]
ONE_PROCESS = ("R15", "others")
FAULTS = {
    **{rule: rule for rule in ("R1", "R2", "R3", "R4", "R5", "R6", "R7", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15")},
    "R3-ghost": "R3", "R3-twice": "R3", "others": "R3 (others)",
}  # fmt: skip
"""What the server does wrong, and the rule whose check must find it."""


class Broken:
    """`drivers/broken_server.py` as a process."""

    def __init__(self, whole: str = "") -> None:
        command = [sys.executable, str(Path(__file__).parent / "drivers" / "broken_server.py"), *([whole] if whole else [])]
        self.process = subprocess.Popen(mortal(command), stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().split()[-1])

    def subject(self, fault: str) -> Subject:
        pid = self.process.pid if fault == "R15" else None
        # Gaps below 50 ms are too short to tell a late stop by: above it, whatever the machine is busy with.
        gap_ms = 80 if fault == "R3" else 40
        return Subject(f"ws://127.0.0.1:{self.port}/{fault}?gap_ms={gap_ms}&tokens=5", patience_s=4, ack_timeout_s=1.0, pid=pid)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, Finding]]:
    """What the check of the rule that each fault breaks finds, and what it finds on the server without that fault."""
    servers = {word: Broken(word) for word in ("", *ONE_PROCESS)}

    def check(fault: str, rule: str) -> Finding:
        word = fault if fault in ONE_PROCESS else ""
        subject = servers[word].subject(fault)
        acquaint(subject)
        chosen: list[tuple[str, str, Callable[[], None]]] = [
            (name, title, lambda check=check: check(subject)) for name, title, check in CHECKS if name == rule
        ]
        return examine(chosen)[0]

    rules = sorted({rule for fault, rule in FAULTS.items() if fault != "R15"})
    try:
        with ThreadPoolExecutor(12) as pool:
            broken = {fault: pool.submit(check, fault, rule) for fault, rule in FAULTS.items()}
            whole = {f"whole {rule}": pool.submit(check, "none", rule) for rule in rules}
            made = {name: job.result(60) for name, job in {**broken, **whole}.items()}
        yield made
    finally:
        for server in servers.values():
            server.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_rule_is_found(found: dict[str, Finding], fault: str) -> None:
    finding = found[fault]
    assert (finding.rule, finding.outcome) == (FAULTS[fault], VIOLATED)
    assert finding.sentence.startswith("expected ")


@pytest.mark.parametrize("rule", sorted(set(FAULTS.values()) - {"R15"}))
def test_a_kept_rule_is_not_found_broken(found: dict[str, Finding], rule: str) -> None:
    assert (found[f"whole {rule}"].outcome, found[f"whole {rule}"].sentence) == (HOLDS, "")


def test_the_reference_server_keeps_every_rule(start_server: Any) -> None:
    server = start_server("--quiet", "--ack-timeout", "1")
    findings = examine_server(Subject(f"{server.url}?tokens=5&gap_ms=50", ack_timeout_s=1.0, pid=server.pid))
    assert [(finding.rule, finding.sentence) for finding in findings if finding.outcome != HOLDS] == []
    assert len(findings) == 16


def test_what_cannot_be_checked_says_what_that_needs(start_server: Any) -> None:
    subject = Subject(f"{start_server('--quiet').url}?tokens=3&gap_ms=1&window=0", window=0)
    findings = {finding.rule: finding for finding in examine_server(subject)}
    for rule, needed in (("R1", "window"), ("R8", "window"), ("R15", "--pid")):
        assert findings[rule].outcome == NOT_CHECKED
        assert needed in findings[rule].sentence
    assert findings["R9"].outcome == HOLDS


def test_the_exit_code_says_the_worst() -> None:
    made = {outcome: Finding("R", "", outcome) for outcome in (HOLDS, VIOLATED, NOT_CHECKED)}
    assert exit_code([made[HOLDS], made[NOT_CHECKED]]) == 0
    assert exit_code([made[HOLDS], made[VIOLATED]]) == 10
    assert exit_code([made[NOT_CHECKED]]) == 2
    assert as_dict("ws://h/", [made[VIOLATED]])["conforms"] is False


def test_without_a_server_it_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ws://127.0.0.1:1/ws"]) == 2
    assert capsys.readouterr().err.startswith("no WebSocket at ws://127.0.0.1:1/ws")


@pytest.mark.parametrize("words", [[], ["--window", "2000", "ws://h/"], ["ws://h/", "--patience", "0"], ["ws://h/", "--nonsense"]])
def test_wrong_words_end_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "expected" in (said := capsys.readouterr().err) or "unrecognized" in said


def conformance(*words: str) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, "-m", "loadtest.conformance", "--json", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False, env=environment)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


MINE = """
class Mine:
    acknowledgement = ""
    window = 1
    def __init__(self, options): self.options = options
    def start(self, prompt): return [prompt]
    def receive(self, message): return -1 if message == "_end_" else 1 if message else 0
    def stop(self): return ["stop"]

class NoList(Mine):
    def start(self, prompt): return prompt

class Truthy(Mine):
    def receive(self, message): return message != "_end_"

class WrongEnd(Mine):
    def receive(self, message): return 1
"""


def test_an_adapter_and_its_server_without_pytest(start_server: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    url = f"{start_server('--quiet').url}?tokens=6&gap_ms=30"
    code, result, _ = conformance(url, "--adapter", f"{tmp_path}/mine.py:Mine")
    assert (code, [finding for finding in result["findings"] if finding["outcome"] != HOLDS]) == (0, [])
    assert len(result["findings"]) == 11
    code, result, _ = conformance(url, "--adapter", f"{tmp_path}/mine.py:WrongEnd", "--patience", "1")
    assert code == 10
    answer = next(finding for finding in result["findings"] if finding["rule"] == "answer")
    assert "stalled" in answer["sentence"]


@pytest.mark.parametrize(("name", "rule"), [("NoList", "start"), ("Truthy", "receive")])
def test_an_adapter_that_is_none(tmp_path: Path, name: str, rule: str) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    code, result, _ = conformance("--adapter", f"{tmp_path}/mine.py:{name}")
    assert (code, [finding["rule"] for finding in result["findings"] if finding["outcome"] == VIOLATED]) == (10, [rule])


def test_an_adapter_that_cannot_be_loaded_ends_with_2(tmp_path: Path) -> None:
    code, _, said = conformance("--adapter", f"{tmp_path}/none.py:Mine")
    assert (code, said.startswith("cannot load the adapter")) == (2, True)
    code, _, said = conformance("ws://127.0.0.1:1/", "--adapter", "openai-chat")
    assert (code, said.startswith("expected a http:// or https:// URL, which this adapter speaks")) == (2, True)
