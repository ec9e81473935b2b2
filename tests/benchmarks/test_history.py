"""The history of checks: read, drawn, told; what is none is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.history import chart_changes, chart_figures, draw_history, main, read_history
from benchmarks.verdict_files import COLUMNS, append_history


def a_row(number: int, verdict: str = "pass", **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {
        "ended_utc": f"2026-01-{number:02d}T00:00:00Z", "revision": f"{number:040x}", "verdict": verdict, "blocks": 10, "seconds": 40.0,
        "gate": "10", "base": "a", "head": "b", "load_average": 1.0, "machine": "m",
    }  # fmt: skip
    for name, figure in (("tpot_p50", 160_000.0), ("token_latency_p99", 500_000.0), ("cpu_per_token", 20_000.0)):
        row |= {f"{name}_base_ns": figure, f"{name}_head_ns": figure * (1 + number / 100), f"{name}_change": 0.01 * (number - 3)}
        row |= {f"{name}_low": 0.01 * (number - 5), f"{name}_high": 0.01 * (number - 1)}
    return row | changes


@pytest.fixture
def history(tmp_path: Path) -> Path:
    path = tmp_path / "history.csv"
    for number, verdict in enumerate(("pass", "pass", "regressed", "inconclusive", "invalid"), start=1):
        missing = {name: None for name in COLUMNS if name.endswith(("_ns", "_change", "_low", "_high"))} if verdict == "invalid" else {}
        append_history(path, a_row(number, verdict, **missing))
    return path


def test_the_page_and_its_charts(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(history)]) == 0
    assert "5 checks: 2 pass" in capsys.readouterr().out
    page = history.with_suffix(".html").read_text()
    assert page.count("<svg") == 2
    assert "Content-Security-Policy" in page
    assert "<script" not in page
    assert "+0.0 %" in page
    assert (history.parent / "history_changes.png").stat().st_size > 5_000


def test_points_stand_where_the_rows_say(history: Path) -> None:
    table = read_history(history)
    figure = chart_changes(table)
    names = ("pass", "regressed", "inconclusive")
    drawn = [np.asarray(one.get_offsets()) for one in figure.axes[0].collections if one.get_label() in names]
    points = sorted((float(x), float(y)) for part in drawn for x, y in part)
    assert points == [(1.0, -2.0), (2.0, -1.0), (3.0, 0.0), (4.0, 1.0)]
    line = chart_figures(table).axes[0].lines[0]
    assert np.asarray(line.get_ydata())[:4] == pytest.approx([161.6, 163.2, 164.8, 166.4])


def test_a_history_without_any_figure_has_no_charts(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    append_history(path, dict.fromkeys(COLUMNS) | {"ended_utc": "2026-01-01T00:00:00Z", "verdict": "invalid", "blocks": 0, "gate": "10"})
    assert draw_history(read_history(path)) == []
    assert main([str(path)]) == 0


def test_what_is_no_history_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.csv")]) == 2
    assert "expected the history of checks" in capsys.readouterr().err
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert main([str(tmp_path / "other.csv")]) == 2
    (tmp_path / "empty.csv").write_text(",".join(COLUMNS) + "\n")
    assert main([str(tmp_path / "empty.csv")]) == 2
    assert "expected at least one check" in capsys.readouterr().err
