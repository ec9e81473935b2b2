"""The same samples recorded by one process and split over several come to the same figures, to the last digit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.synthetic import SyntheticRun
from loadtest.conversation import Conversation
from loadtest.recorder import SECOND_NS, Recorder
from loadtest.run_directory import RunDirectory
from loadtest.tables import GAUGES
from reports.load import load_run

Models = Callable[[str], SyntheticRun]


def conversation(number: int, draw: np.random.Generator) -> Conversation:
    """A conversation that is over, with drawn gaps, some of them long."""
    made = Conversation(number, number, 1, 1, -1)
    sent = int(draw.integers(0, 20 * SECOND_NS))
    arrivals = sent + np.cumsum(draw.lognormal(17, 1.5, 30).astype(np.int64))
    made.sent = sent
    made.arrivals += [int(at) for at in arrivals]
    made.reads += [int(at) + 1000 for at in arrivals]
    return made


def test_gauges_add_up_within_the_same_second(models: Models, tmp_path: Path) -> None:
    path = models("two_workers").write(tmp_path / "run")
    rows = RunDirectory.open(path).table("intervals").to_pylist()
    per_second = load_run(path).per_second()
    for gauge in GAUGES:
        for second in {row["second"] for row in rows}:
            present = [row[gauge] for row in rows if row["second"] == second and row[gauge] is not None]
            if present:
                assert per_second.loc[second, gauge] == sum(present)


@pytest.mark.parametrize("workers", [2, 5])
def test_recorders_of_a_part_each_add_up_to_one_of_all(workers: int, tmp_path: Path) -> None:
    """Real recorders: conversations dealt over several of them, each with a file of its own, and the same all in one."""
    totals: list[dict[tuple[int, str, bool], tuple[dict[int, int], int, int, int]]] = []
    counts: list[dict[str, int]] = []
    for parts in (1, workers):
        directory = RunDirectory.create(tmp_path / f"run{parts}", {"name": "run"})
        writers = [directory.writer(f"w{part}") for part in range(parts)]
        recorders = [Recorder(f"w{part}", 0, writer) for part, writer in enumerate(writers)]
        draw = np.random.default_rng(5)
        for number in range(60):
            one = conversation(number, draw)
            one.outcome = "completed"
            one.ended_arrival, one.ended_read = one.reads[-1] + 4000, one.reads[-1] + 5000
            recorders[number % parts].finish(one)
        for recorder, writer in zip(recorders, writers, strict=True):
            recorder.flush(60 * SECOND_NS, dict.fromkeys(GAUGES, 1), {})
            writer.end()
        totals.append(histograms(directory))
        rows = directory.table("intervals").to_pylist()
        counts.append({name: sum(row[name] for row in rows) for name in ("tokens", "messages", "conversations_completed")})
    assert totals[0] == totals[1]
    assert counts[0] == counts[1]
    assert {metric for _, metric, _ in totals[0]} >= {"itl", "ttft", "e2e"}


def histograms(directory: RunDirectory) -> dict[tuple[int, str, bool], tuple[dict[int, int], int, int, int]]:
    """Counts by bucket, sum and extremes, merged over workers by adding."""
    merged: dict[tuple[int, str, bool], Any] = {}
    for row in directory.table("histograms").to_pylist():
        key = (row["second"], row["metric"], row["tainted"])
        counts, total, least, most = merged.get(key, ({}, 0, row["minimum"], row["maximum"]))
        for index, count in zip(row["index"], row["count"], strict=True):
            counts[index] = counts.get(index, 0) + count
        merged[key] = (counts, total + row["total"], min(least, row["minimum"]), max(most, row["maximum"]))
    return merged
