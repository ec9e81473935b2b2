"""The proof of the rules: every rule has a fault, the tables say what came out, and real runs are told apart."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.__main__ import main
from benchmarks.fault_bench import healthy_load
from benchmarks.faults import FAULTS
from benchmarks.sabotage import Row, Verdict, print_rows, read_options, write_page_text
from reports.validity import RULES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of a running process can be changed on Linux only")

CALM_SEED = 43
"""Draws a first healthy load with long gaps, in a closed loop and one process: sound on a busy machine too."""


def verdict(*refused_by: str, code: int | None = None) -> Verdict:
    exit_code = (12 if refused_by else 0) if code is None else code
    return Verdict("run", exit_code, refused_by, {"tainted": "40 %"}, tuple(f"{rule} is broken." for rule in refused_by))


def spoilt(*verdicts: Verdict) -> Row:
    return Row("tainted", "stopped", "it stood still", list(verdicts))


def test_every_rule_has_a_fault_and_every_fault_a_rule() -> None:
    assert {fault.rule for fault in FAULTS} == {rule.name for rule in RULES}
    names = [(fault.rule, fault.name) for fault in FAULTS]
    assert len(set(names)) == len(names)


def test_a_fault_holds_when_its_rule_refused_every_run() -> None:
    assert spoilt(verdict("tainted"), verdict("clock", "tainted")).holds
    assert spoilt().holds
    assert not spoilt(verdict("tainted"), verdict("clock")).holds
    assert not spoilt(verdict("tainted", code=0)).holds
    row = spoilt(verdict("tainted"))
    row.failures.append("run: it did not begin")
    assert not row.holds
    assert row.runs == 2


def test_healthy_runs_hold_when_no_rule_refused_any() -> None:
    assert Row(None, "none", "healthy", [verdict(), verdict()]).holds
    assert not Row(None, "none", "healthy", [verdict(), verdict("clock")]).holds


def test_tables_show_what_was_refused_by_whom() -> None:
    rows = [Row(None, "none", "healthy", [verdict(), verdict("clock")]), spoilt(verdict("tainted", "clock"), verdict())]
    written = io.StringIO()
    print_rows(rows, Console(width=200, file=written))
    shown = written.getvalue()
    assert "NOT SO" in shown
    assert "run: clock is broken." in shown
    assert "run: was not refused" in shown
    page = write_page_text(rows, 5, {"cpu_model": "a processor", "cpu_count": 2, "os": "Linux", "kernel": "6"})
    assert "**Healthy: 2 runs, 1 refused.**" in page
    assert "| `tainted` | it stood still | 2 | 1 | clock 1 | 0, 12 | 40 %; 40 % |" in page


def test_healthy_loads_differ_and_are_drawn_alike_again() -> None:
    loads = [healthy_load(number, 1) for number in range(30)]
    assert loads == [healthy_load(number, 1) for number in range(30)]
    told = " ".join(what for what, _ in loads)
    for shape in ("closed", "open,", "open, Poisson", "window 0", "window 1", "window 8", "stopped 30%", "1 process", "2 process"):
        assert shape in told, shape


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--only", "taint"], "--only"), (["--seconds", "2"], "--seconds"), (["--seconds", "4.5"], "int"), (["--each", "-1"], "0 or more"),
        (["--healty", "3"], "unrecognized"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["sabotage", *words])
    assert left.value.code == 2
    assert expected in capsys.readouterr().err


def test_only_some_rules() -> None:
    assert {fault.name for fault in read_options(["--only", "status"]).faults} == {"interrupted", "disk", "killed"}


def test_real_runs_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--healthy", "1", "--each", "1", "--seconds", "4", "--only", "window,accounting", "--seed", str(CALM_SEED), "--json"]
    code = main(["sabotage", *words, "--out", str(tmp_path)])
    told = json.loads(capsys.readouterr().out)
    healthy, window, accounting = told["rows"]
    assert healthy["exit_codes"] == {"0": 1}, healthy
    assert window["each"][0]["refused_by"] == ["window"]
    assert accounting["each"][0]["refused_by"] == ["accounting"]
    assert window["exit_codes"] == accounting["exit_codes"] == {"12": 1}
    assert code == 0
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "proof.json").read_text()) == told
    assert (folder / "proof.md").read_text().startswith("# The rules of validity, proved")
