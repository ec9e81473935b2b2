"""Reading run directories: compacted or raw, sound or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.synthetic import Plan, SyntheticRun, build
from loadtest.histogram import Histogram
from loadtest.run_directory import RunDirectory, RunDirectoryError
from loadtest.tables import SCHEMA_VERSION
from reports.histograms import read_histograms
from reports.load import error_examples, find_run, load_run
from reports.summary import summarise_run
from reports.timelines import span_edges
from reports.window import Step, Window, make_batches, spans_of

Models = Callable[[str], SyntheticRun]


def test_raw_and_compacted_read_alike(models: Models, tmp_path: Path) -> None:
    raw = load_run(models("two_workers").write(tmp_path / "raw", compact=False))
    compacted = load_run(models("two_workers").write(tmp_path / "compacted"))
    for table in ("conversations", "connections", "intervals"):
        columns = {"check_dtype": False, "check_categorical": False}
        pd.testing.assert_frame_equal(getattr(raw, table), getattr(compacted, table), **columns)
    assert [file.worker for file in raw.raw_files] == ["w0", "w1"]
    assert not compacted.raw_files


def test_newer_schema_is_refused_with_both_versions(models: Models, tmp_path: Path) -> None:
    path = models("plain").write(tmp_path / "run")
    RunDirectory(path).update_metadata(schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(RunDirectoryError, match=rf"schema {SCHEMA_VERSION + 1}, this version reads up to {SCHEMA_VERSION}"):
        load_run(path)


def test_a_damaged_table_is_a_clear_error(models: Models, tmp_path: Path) -> None:
    path = models("plain").write(tmp_path / "run")
    (path / "conversations.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(RunDirectoryError, match="cannot read the tables"):
        load_run(path)


def test_merged_histograms_are_the_histogram_of_all_values(run_path: Callable[[str], Path]) -> None:
    run = load_run(run_path("two_workers"))
    table = RunDirectory(run.path).table("histograms").to_pandas()
    whole = Histogram()
    for row in table[table["metric"] == "itl"].itertuples():
        if 4 <= row.second < 24:
            whole.add_counts(row.index, row.count, row.total, row.minimum, row.maximum)
    sample = run.histogram("itl").sample(make_batches(run.window.seconds, 0.0))
    assert (sample.n, sample.mean, sample.minimum, sample.maximum) == (whole.count, whole.mean(), whole.minimum, whole.maximum)
    assert [sample.quantile(q) for q in (0.001, 0.5, 0.9, 0.99, 1.0)] == whole.quantiles([0.001, 0.5, 0.9, 0.99, 1.0])


def test_quantiles_over_time_are_those_of_each_span(run_path: Callable[[str], Path]) -> None:
    histograms = load_run(run_path("plain")).histogram("itl")
    edges = np.array([0, 3, 7, 20, 90, 100])
    lines = histograms.quantiles_over_time(edges, (0.5, 0.99))
    for i in range(3):
        part = histograms.sample(make_batches(np.arange(edges[i], edges[i + 1]), 0.0))
        # The extremes of a span are not kept in lines over time.
        assert lines[i].tolist() == pytest.approx([part.quantile(0.5), part.quantile(0.99)], rel=1e-3)
    assert np.isnan(lines[4]).all()


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-five minutes: seconds are merged into spans of one and two."""
    plan = Plan(seconds=1500, users=2, tokens=3, think_s=1.0, warm_up_s=7, workers=2)
    return build(plan).write(tmp_path_factory.mktemp("long") / "run")


def test_what_a_long_run_merges_is_exact(long_run: Path) -> None:
    run = load_run(long_run)
    spans = spans_of(run.window)
    assert spans is not None
    whole = read_histograms(RunDirectory.open(long_run).portions("histograms"), False, None)
    assert set(whole) == set(run.histograms)
    edges = span_edges(run)
    for metric, seconds in whole.items():
        merged = run.histogram(metric)
        one, two = (histograms.sample(make_batches(run.window.seconds, 0.0), tainted=True) for histograms in (merged, seconds))
        assert (one.n, one.mean, one.minimum, one.maximum) == (two.n, two.mean, two.minimum, two.maximum)
        assert [one.quantile(q) for q in (0.01, 0.5, 0.99, 1.0)] == [two.quantile(q) for q in (0.01, 0.5, 0.99, 1.0)]
        lines = [histograms.quantiles_over_time(edges, (0.5, 0.99), tainted=True) for histograms in (merged, seconds)]
        np.testing.assert_array_equal(*lines)
    assert len(run.histogram("itl").second) < len(whole["itl"].second) * 0.75


def test_a_long_run_gives_the_same_figures_in_spans_as_in_seconds(long_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_spans = summarise_run(load_run(long_run))
    monkeypatch.setattr("reports.load.spans_of", lambda window: None)
    in_seconds = summarise_run(load_run(long_run))
    for metric, entry in in_seconds["metrics"].items():
        other = in_spans["metrics"][metric]
        assert (other["n"], other["mean"], other["max"]) == (entry["n"], entry["mean"], entry["max"])
        for name, percentile in entry["percentiles"].items():
            assert other["percentiles"][name]["value"] == percentile["value"], (metric, name)


def test_spans_begin_where_the_window_the_steps_and_the_series_do() -> None:
    steps = tuple(Step(users, start, start + 400.0, 40.0, np.arange(start + 40, start + 400)) for users, start in ((1, 100), (2, 500)))
    window = Window(7_000_000_000, 2_399_000_000_000, 2_400_000_000_000, np.arange(7, 2399), steps)
    spans = spans_of(window)
    assert spans is not None
    begins = set(spans.tolist())
    assert {0, 7, 140, 500, 540, 900, 2399} <= begins
    assert set(range(0, 2400, window.span_s)) <= begins
    assert len(begins) < 1000
    assert spans_of(Window(0, 900 * 10**9, 900 * 10**9, np.arange(900), ())) is None


def test_how_the_work_is_split_over_workers_and_rows_changes_nothing(models: Models, tmp_path: Path) -> None:
    whole = models("plain")
    split = models("plain")
    tables = split.tables["w0"]
    half = {name: len(columns["worker"]) // 2 for name, columns in tables.items()}
    split.tables = {
        "w0": {name: {k: v[: half[name]] for k, v in columns.items()} for name, columns in tables.items()},
        "w1": {name: {k: v[half[name] :] for k, v in columns.items()} for name, columns in tables.items()},
    }
    for name in ("conversations", "connections", "intervals", "histograms"):
        split.tables["w1"][name]["worker"] = ["w1"] * len(split.tables["w1"][name]["worker"])
    runs = [load_run(model.write(tmp_path / name)) for name, model in (("whole", whole), ("split", split))]
    batches = make_batches(runs[0].window.seconds, 1.0)
    one, two = (run.histogram("token_latency").sample(batches) for run in runs)
    assert one.estimate(0.99) == two.estimate(0.99)
    assert (one.n, one.total) == (two.n, two.total)
    pd.testing.assert_frame_equal(runs[0].per_second(), runs[1].per_second())


def test_newest_run_is_found(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="found none"):
        find_run(None, tmp_path / "runs")
    for name in ("b", "a"):
        RunDirectory.create(tmp_path / "runs" / name, {})
    (tmp_path / "runs" / "compare_a_b").mkdir()
    assert find_run("latest", tmp_path / "runs").name == "a"
    assert find_run(None, tmp_path / "runs").name == "a"
    assert find_run("b", tmp_path / "runs") == tmp_path / "runs" / "b"
    with pytest.raises(RunDirectoryError, match="nowhere does not exist"):
        find_run("nowhere", tmp_path / "runs")


def test_newest_run_of_a_suite_is_found(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "runs" / "suite" / "ladder", {})
    assert find_run("latest", tmp_path / "runs") == tmp_path / "runs" / "suite" / "ladder"


def test_error_examples_are_only_rows_with_errors(tmp_path: Path) -> None:
    path = build(Plan(seconds=6, warm_up_s=1, fail_share=0.2)).write(tmp_path / "run")
    examples = error_examples(path, "conversations")
    assert set(examples["error"]) == {"connection_lost"}
    assert json.loads((path / "run.json").read_text())["name"] == "run"
