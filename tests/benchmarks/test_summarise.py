"""The benchmark of the report, and the synthetic runs that it and the tests of reports stand on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.summarise import LIMIT_BYTES, LIMIT_S, Cost, main
from benchmarks.synthetic import Plan, SyntheticRun, build
from loadtest.metrics import OUTCOMES


def test_benchmark_measures_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--conversations", "8000", "--keep", str(tmp_path / "run"), "--json"]) in {0, 10}
    result = json.loads(capsys.readouterr().out)
    assert 4000 < result["conversations"] < 12_000
    assert result["cpu_s"] > 0
    assert 10_000_000 < result["peak_bytes"] < LIMIT_BYTES
    assert (tmp_path / "run" / "report.html").exists()


def test_a_peak_is_the_programs_own_not_that_of_who_started_it() -> None:
    """Linux goes on counting the parent's memory in the child's ``ru_maxrss``."""
    held = np.ones(60_000_000)  # 480 MB
    asked = "from benchmarks.summarise import peak_bytes; print(peak_bytes())"
    own = int(subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True).stdout)
    assert held.nbytes == 480_000_000
    assert 5_000_000 < own < 300_000_000


@pytest.mark.parametrize(("elapsed_s", "peak_bytes", "kept"), [(9.9, 10**9, True), (LIMIT_S, 10**9, False), (1.0, LIMIT_BYTES, False)])
def test_promise(elapsed_s: float, peak_bytes: int, kept: bool) -> None:
    assert Cost(1, elapsed_s, 1.0, peak_bytes).kept is kept


@pytest.fixture(scope="module", params=[Plan(), Plan(rate_per_s=50.0), Plan(gap_ms=20.0, workers=2), Plan(fail_share=0.1)])
def model(request: pytest.FixtureRequest) -> SyntheticRun:
    return build(request.param)


def test_same_plan_gives_the_same_run(model: SyntheticRun) -> None:
    one, two = build(Plan(seconds=6, seed=5)), build(Plan(seconds=6, seed=5))
    for name, column in one.tables["w0"]["conversations"].items():
        np.testing.assert_array_equal(column, two.tables["w0"]["conversations"][name])


def test_books_balance(model: SyntheticRun) -> None:
    for tables in model.tables.values():
        rows, intervals = tables["conversations"], tables["intervals"]
        assert intervals["conversations_started"].sum() == len(rows["tokens"])
        assert intervals["tokens"].sum() == rows["tokens"].sum()
        assert set(rows["outcome"]) <= set(OUTCOMES)
        for outcome in ("completed", "stopped", "failed", "abandoned"):
            assert intervals[f"conversations_{outcome}"].sum() == (rows["outcome"] == outcome).sum()


def test_nothing_happens_before_its_cause(model: SyntheticRun) -> None:
    for tables in model.tables.values():
        rows = tables["conversations"]
        for before, after in (
            ("due_at_ns", "sent_at_ns"),
            ("sent_at_ns", "first_token_at_ns"),
            ("first_token_at_ns", "last_token_at_ns"),
            ("last_token_at_ns", "end_at_ns"),
            ("first_token_at_ns", "stop_sent_at_ns"),
        ):
            both = ~np.isnan(rows[before]) & ~np.isnan(rows[after])
            assert (rows[before][both] <= rows[after][both]).all(), (before, after)


def test_gaps_are_as_many_as_tokens_allow(model: SyntheticRun) -> None:
    for tables in model.tables.values():
        table = tables["histograms"]
        counted = {
            name: sum(int(c.sum()) for m, c in zip(table["metric"], table["count"], strict=True) if m == name)
            for name in set(table["metric"])
        }
        tokens = tables["conversations"]["tokens"]
        assert counted["itl"] == (tokens - 1)[tokens > 0].sum()
        assert counted["receive_lag"] == tokens.sum()
