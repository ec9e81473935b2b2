"""The GitHub Action and the workflow beside it: what they promise to each other, and that the action's script runs the check."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/regression.yml").read_text(encoding="utf-8"))
CHECK: dict[str, Any] = next(step for step in ACTION["runs"]["steps"] if step.get("id") == "check")


def test_every_input_is_used_and_none_is_text_of_a_script() -> None:
    given = {value for step in ACTION["runs"]["steps"] for value in step.get("env", {}).values()}
    assert {f"${{{{ inputs.{name} }}}}" for name in ACTION["inputs"]} == given
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step["run"]
        assert set(step["env"]) <= set(re.findall(r"\$([A-Z_]+)", step["run"])) | {"PYTHON"}
    for job in WORKFLOW["jobs"].values():
        for step in job["steps"]:
            assert "${{" not in step.get("run", "")


def test_the_workflow_gives_only_what_the_action_takes() -> None:
    used = [step for job in WORKFLOW["jobs"].values() for step in job["steps"] if step.get("uses") == "./"]
    assert len(used) == 2
    assert all(set(step["with"]) <= set(ACTION["inputs"]) for step in used)
    text = json.dumps(WORKFLOW["jobs"])
    assert set(re.findall(r"steps\.check\.outputs\.([a-z-]+)", text)) <= set(ACTION["outputs"])


def test_only_a_fail_is_repeated_and_only_a_repeated_one_fails() -> None:
    assert WORKFLOW["jobs"]["repeat"]["if"] == "needs.check.outputs.verdict == 'regressed'"
    script = next(step["run"] for step in WORKFLOW["jobs"]["verdict"]["steps"] if step.get("name") == "Verdict")
    for first, second, code in (
        ("regressed", "regressed", 10),
        ("regressed", "pass", 0),
        ("regressed", "inconclusive", 0),
        ("pass", "", 0),
        ("", "", 0),
    ):
        done = subprocess.run(
            ["bash", "-c", script], env={**os.environ, "FIRST": first, "SECOND": second}, check=False, capture_output=True
        )
        assert done.returncode == code


def test_the_script_passes_its_inputs_on_word_by_word(tmp_path: Path) -> None:
    action = tmp_path / "action"
    (action / ".venv" / "bin").mkdir(parents=True)
    python = action / ".venv" / "bin" / "python"
    python.write_text(f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open('words.json', 'w'))\nsys.exit(10)\n")
    python.chmod(0o755)
    output = tmp_path / "output"
    inputs = {name: str(spec["default"]) for name, spec in ACTION["inputs"].items()}
    inputs |= {"base": "./old server --port {port}", "head": "$(touch hacked) --port {port}", "args": "--seed\n7\n", "scenario": "my.toml"}
    environment = {name: inputs[re.findall(r"inputs\.([a-z-]+)", value)[0]] for name, value in CHECK["env"].items()}
    environment |= {
        "GITHUB_ACTION_PATH": str(action), "GITHUB_WORKSPACE": "/space", "RUNNER_TEMP": "/tmp", "GITHUB_OUTPUT": str(output),
        "PATH": os.environ["PATH"],
    }  # fmt: skip
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", CHECK["run"]]
    assert subprocess.run(shell, env=environment, cwd=tmp_path, check=False).returncode == 10
    assert output.read_text() == "exit-code=10\n"
    words = json.loads((action / "words.json").read_text())
    assert words[:3] == ["-m", "benchmarks", "check"]
    pairs = dict(zip(words[3::2], words[4::2], strict=True))
    assert pairs == {
        "--gate": "10", "--path": "/ws", "--out": "/tmp/streamgauge", "--scenario": "/space/my.toml",
        "--base": "./old server --port {port}",
        "--base-dir": "/space/.", "--head": "$(touch hacked) --port {port}", "--head-dir": "/space/.", "--seed": "7",
    }  # fmt: skip
    assert not list(tmp_path.rglob("hacked"))
    assert subprocess.run(shell, env=environment | {"SHADOW": "true"}, cwd=tmp_path, check=False).returncode == 0
