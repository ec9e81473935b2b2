"""How a verdict reads: the comment, its chart, JUnit, annotations, the row of the history, GitHub's files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.verdict_files import COLUMNS, append_history, history_row, tell_github, verdict_json, write_verdict
from benchmarks.verdict_text import annotation, junit, markdown, sentence, text_chart

TARGET = {"kind": "command", "label": "python -m server `x`", "command": "python -m server", "url": None}


def a_gate(metric: str = "tpot_p50", title: str = "TPOT p50", **changes: Any) -> dict[str, Any]:
    row = {
        "metric": metric, "title": title, "unit": "ns", "base": 165_000.0, "head": 181_500.0, "change": 0.1, "low": 0.08, "high": 0.12,
        "spread": 0.02, "reason": None, "tolerance": 0.02, "matters": 0.1, "verdict": "regressed", "p": 0.001, "improved_high": None,
    }  # fmt: skip
    return row | changes


def a_verdict(outcome: str = "regressed", **changes: Any) -> dict[str, Any]:
    codes = {"pass": 0, "regressed": 10, "inconclusive": 11, "invalid": 12}
    gates = [
        a_gate(reason="TPOT p50 is +10.0 % (at least +8.0 %, tolerance +2.0 %)"),
        a_gate("token_latency_p99", "token latency p99", verdict="pass", change=0.01, low=-0.2, high=0.15, tolerance=0.05, matters=0.3),
        a_gate("cpu_per_token", "server CPU per token", verdict="pass", change=0.001, low=-0.01, high=0.01),
    ]
    made = {
        "schema_version": 1, "verdict": outcome, "exit_code": codes[outcome], "candidate": outcome == "regressed", "gate": "10",
        "blocks": 10, "looks": [10, 20, 30], "base": TARGET, "head": TARGET, "fresh": True,
        "gates": gates, "reasons": ["TPOT p50 is +10.0 %"],
        "errors": {"failed": {"base": 0, "head": 2}, "tried": {"base": 900, "head": 910}, "verdict": "pass", "reason": None},
        "informational": [a_gate("ttft_p50", "TTFT p50", verdict="informational")],
        "host": [{"rule": "steal_share", "title": "steal", "measured": 0.0, "limit": 0.1, "holds": True, "sentence": None}],
    }  # fmt: skip
    for row in made["informational"]:
        del row["tolerance"], row["matters"]
    return made | changes


@pytest.mark.parametrize("outcome", ["pass", "regressed", "inconclusive", "invalid"])
def test_one_sentence_that_ends(outcome: str) -> None:
    said = sentence(a_verdict(outcome))
    assert said.endswith(".")
    assert "\n" not in said


def test_a_pass_says_what_it_excludes() -> None:
    assert "10 blocks exclude TPOT p50 +10.0 %, token latency p99 +30.0 %, server CPU per token +10.0 %" in sentence(a_verdict("pass"))
    improved = a_verdict("pass", gates=[a_gate(verdict="improved", change=-0.2)])
    assert "TPOT p50 improved by −20.0 %" in sentence(improved)


def test_the_comment_has_one_sentence_one_table_one_chart() -> None:
    text = markdown(a_verdict())
    assert text.startswith("### ❌ Streaming performance: regressed\n\nHead is slower than base: TPOT p50 is +10.0 %")
    assert "A candidate until it repeats in a fresh job." in text
    assert "| TPOT p50 | 165 µs | 182 µs | +10.0 % (+8.0 % … +12.0 %) | +2.0 % | **regressed** |" in text
    assert "| failed conversations | 0 of 900 | 2 of 910 | – | – | pass |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert text.count("```") == 2
    # A label cannot end the code that it stands in.
    assert "`python -m server 'x'`" in text


def test_the_chart_puts_marks_in_their_order() -> None:
    lines = text_chart(a_verdict()["gates"])
    tpot = lines[0]
    assert tpot.index("│") < tpot.index("┊") < tpot.index("├") < tpot.index("●") <= tpot.index("┤")
    assert len({line.index("│") for line in (lines[0], lines[2]) if "│" in line}) == 1
    assert max(map(len, lines)) <= 100
    wild = text_chart([a_gate(low=-0.9, high=9.0, change=0.1)])
    assert "◀" in wild[0]
    assert "▶" in wild[0]
    far = text_chart([a_gate(low=4.0, high=5.0, change=4.5)])
    assert far[0].rstrip().endswith("▶")
    assert text_chart([a_gate(change=None, low=None, high=None)]) == []


def test_a_verdict_without_figures_is_told_too() -> None:
    verdict = a_verdict("invalid", gates=[], errors=None, informational=[], reasons=["the check ended after 3 of at least 10 blocks"])
    text = markdown(verdict)
    assert "No verdict: the check ended after 3" in text
    assert "|---" not in text
    root = ElementTree.fromstring(junit(verdict))
    assert root.get("errors") == "1"


def test_junit_counts_what_it_holds() -> None:
    verdict = a_verdict()
    verdict["gates"][1] |= {"verdict": "undecided", "reason": 'cannot exclude "<&>"'}
    root = ElementTree.fromstring(junit(verdict))
    cases = root.findall("testcase")
    assert int(root.get("tests", "0")) == len(cases) == 5
    assert int(root.get("failures", "0")) == len(root.findall("testcase/failure")) == 1
    assert int(root.get("skipped", "0")) == len(root.findall("testcase/skipped")) == 1
    skipped = root.find("testcase/skipped")
    assert skipped is not None
    assert skipped.get("message") == 'cannot exclude "<&>"'


def test_annotations_are_one_escaped_line() -> None:
    assert annotation(a_verdict()).startswith("::error title=Streaming performance%3A regressed::Head is slower")
    assert annotation(a_verdict(), shadow=True).startswith("::warning ")
    assert annotation(a_verdict("pass")).startswith("::notice ")
    assert annotation(a_verdict("inconclusive")).startswith("::warning ")
    text = annotation(a_verdict(reasons=["50 %\nmore"]))
    assert "\n" not in text
    assert "50 %25%0Amore" in text


def test_github_gets_its_files_and_nobody_else(tmp_path: Path) -> None:
    summary, output = tmp_path / "summary", tmp_path / "output"
    asked = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(output)}
    assert tell_github(a_verdict(), False, None, {}) is None
    line = tell_github(a_verdict(), False, Path("runs/x"), asked)
    assert line is not None
    assert line.startswith("::error")
    assert summary.read_text().startswith("### ❌")
    assert output.read_text() == "verdict=regressed\ndirectory=runs/x\n"


def test_files_of_a_verdict(tmp_path: Path) -> None:
    verdict = a_verdict()
    write_verdict(tmp_path, verdict)
    assert (tmp_path / "verdict.json").read_text() == verdict_json(verdict)
    assert json.loads(verdict_json(verdict))["sentence"] == sentence(verdict)
    assert (tmp_path / "verdict.md").read_text() == markdown(verdict)


def test_the_history_grows_by_a_row_and_keeps_foreign_files_as_they_are(tmp_path: Path) -> None:
    environment = {
        "ended_utc": "2026-01-02T03:04:05Z", "seconds": 41.3, "load_average": [1.5, 1.0, 0.5], "git": None,
        "environment": {"hostname_hash": "abc"},
    }  # fmt: skip
    path = tmp_path / "deep" / "history.csv"
    for outcome in ("pass", "regressed"):
        append_history(path, history_row(a_verdict(outcome), environment))
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["verdict"] for row in rows] == ["pass", "regressed"]
    assert float(rows[0]["tpot_p50_change"]) == 0.1
    assert rows[0]["itl_p99_change"] == ""
    assert rows[1]["failed_head"] == "2"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="expected the columns"):
        append_history(path, rows[0])
    assert path.read_text() == "a,b\n1,2\n"


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", " =1", "\t=1", "\r\n=1"])
def test_no_cell_of_the_history_is_a_formula(text: str, tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    append_history(path, dict.fromkeys(COLUMNS) | {"head": text, "base": "main", "tpot_p50_change": -0.5})
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["head"], row["base"], float(row["tpot_p50_change"])) == (f"'{text.translate({9: ' ', 10: ' ', 13: ' '})}", "main", -0.5)
