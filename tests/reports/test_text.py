"""The summary for a terminal."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.synthetic import Plan, build
from reports.summary import summarise
from reports.text import print_summary
from reports.units import duration, in_unit, milliseconds, share, significant


def text_of(path: Path) -> str:
    file = io.StringIO()
    print_summary(summarise(path), file)
    return file.getvalue()


def test_verdict_stands_first_and_figures_follow(run_path: Callable[[str], Path]) -> None:
    lines = text_of(run_path("plain")).splitlines()
    assert lines[0] == "Valid run: Synthetic run, ws://127.0.0.1:8001/ws"
    assert lines[1].split() == ["metric", "p50", "p90", "p99", "n", "unit"]
    assert any(line.startswith("Token latency") for line in lines)
    assert any(line.startswith("stops") for line in lines)


def test_plain_without_a_terminal(run_path: Callable[[str], Path]) -> None:
    assert "\x1b" not in text_of(run_path("ladder"))


def test_steps_and_errors_have_their_lines(run_path: Callable[[str], Path], tmp_path: Path) -> None:
    assert "users  tokens/s" in text_of(run_path("ladder"))
    failing = text_of(build(Plan(fail_share=0.1)).write(tmp_path / "run"))
    assert "error          connection_lost x" in failing
    assert "e.g. 'closed by the peer: 1006'" in failing


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (1.5, "1.50"), (12.34, "12.3"), (999.6, "1\u202f000"), (123456, "123\u202f456"), (-2.5, "-2.50")],
)
def test_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


def test_units() -> None:
    assert [duration(ns) for ns in (12, 1_500, 2_500_000, 3e9, None)] == ["12.0 ns", "1.50 µs", "2.50 ms", "3.00 s", "–"]
    assert (milliseconds(None), milliseconds(1e6), in_unit(2.0, "1")) == ("–", "1.00", "2.00")
    assert [share(value) for value in (0.031, 0.5, 1.0, None)] == ["3.1 %", "50 %", "100 %", "–"]
