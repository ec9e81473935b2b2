"""Two runs beside one another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.synthetic import Plan, SyntheticRun, build
from loadtest.run_directory import RunDirectoryError
from reports.compare import change_text, compare_runs

Models = Callable[[str], SyntheticRun]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("compare")
    base = build(Plan(seed=1)).write(folder / "base")
    same = build(Plan(seed=2)).write(folder / "same")
    slower = build(Plan(seed=3, service_ms=0.6)).write(folder / "slower")
    return compare_runs([base, same, slower])


def row(comparison: dict[str, Any], metric: str, percentile: str = "p50") -> dict[str, Any]:
    (found,) = [row for row in comparison["rows"] if (row["metric"], row["percentile"]) == (metric, percentile)]
    return found


def test_change_is_relative_to_the_first(comparison: dict[str, Any]) -> None:
    values = row(comparison, "token_latency")["values"]
    assert values[0]["change"] == 0
    assert values[1]["change"] == pytest.approx(0, abs=0.02)
    assert values[2]["change"] == pytest.approx(0.2, abs=0.03)


def test_worse_only_where_the_intervals_do_not_meet(comparison: dict[str, Any]) -> None:
    found = row(comparison, "token_latency")
    texts = [change_text(found, value) for value in found["values"]]
    assert not texts[1].endswith(("worse", "better"))
    assert texts[2].endswith("worse")
    assert texts[2].startswith("+")


def test_throughput_is_better_when_higher(comparison: dict[str, Any]) -> None:
    assert row(comparison, "throughput_tokens", "mean")["better"] == "higher"
    assert row(comparison, "throughput_tokens", "mean")["values"][2]["change"] < -0.1


def test_page_charts_and_json_are_written(comparison: dict[str, Any]) -> None:
    folder = Path(comparison["path"])
    assert folder.name == "compare_base_same_slower"
    assert json.loads((folder / "comparison.json").read_text())["rows"] == comparison["rows"]
    page = (folder / "compare.html").read_text()
    assert "<script" not in page
    assert 'style="' not in page
    assert {file.stem for file in (folder / "charts").glob("*.svg")} >= {"token_percentiles", "ttft_percentiles", "tokens_over_time"}


def test_other_conditions_are_warned_of(run_path: Callable[[str], Path], tmp_path: Path) -> None:
    warnings = " ".join(compare_runs([run_path("plain"), run_path("open")], tmp_path)["warnings"])
    assert "different kinds of load: closed, open" in warnings


def test_ladders_are_drawn_over_one_another(models: Models, run_path: Callable[[str], Path], tmp_path: Path) -> None:
    other = build(Plan(seed=9, steps=((5, 8.0), (20, 8.0), (60, 8.0)), service_ms=0.7)).write(tmp_path / "other")
    compare_runs([run_path("ladder"), other], tmp_path / "out")
    assert (tmp_path / "out" / "charts" / "ladders.svg").exists()


def test_invalid_runs_are_marked(models: Models, run_path: Callable[[str], Path], tmp_path: Path) -> None:
    model = models("plain")
    model.metadata |= {"status": "aborted", "status_reasons": ["interrupted"]}
    compared = compare_runs([run_path("paced"), model.write(tmp_path / "cut")], tmp_path / "out")
    assert [run["valid"] for run in compared["runs"]] == [True, False]
    assert "cut is invalid: do not use its figures" in (tmp_path / "out" / "compare.html").read_text()


def test_what_cannot_be_compared_is_refused(models: Models, run_path: Callable[[str], Path], tmp_path: Path) -> None:
    one = run_path("plain")
    for paths in ([one], [one, one], [one] * 7):
        with pytest.raises(RunDirectoryError, match="expected two to 6 different runs"):
            compare_runs(paths, tmp_path / "out")
    model = models("plain")
    model.metadata["target"] = {"url": "ws://x/", "adapter": "mine:Mine"}
    with pytest.raises(RunDirectoryError, match="adapters mine:Mine, typewriter"):
        compare_runs([one, model.write(tmp_path / "mine")], tmp_path / "out")
    assert not (tmp_path / "out").exists()
