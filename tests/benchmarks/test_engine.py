"""The comparison of engines: its arithmetic on made-up figures, and one real probe of each kind."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.engine import Bench, held_connections, lateness_us, measure_lateness, measure_opening, measure_speed, plan, steady_work
from benchmarks.engine_result import HELD, Engine, Reading, as_dict, draw, print_result, ratio, summarise
from benchmarks.processes import Interrupts, Processes, split_cpus
from loadtest.run_directory import RunDirectory
from loadtest.tables import COUNTERS, TABLES

SECOND_NS = 10**9


def reading(figure: str, engine: Engine, connections: int, *values: float | None) -> list[Reading]:
    return [Reading(figure, engine, connections, value) for value in values]


class TestSummary:
    def test_ratios_are_of_medians(self) -> None:
        summary = summarise(
            reading("tokens_per_cpu_s", "ours", 100, 90.0, 100.0, 1000.0) + reading("tokens_per_cpu_s", "obvious", 100, 10.0, 20.0, 30.0)
        )
        assert ratio(summary, 100) == 5.0
        assert ratio(summary, 1000) is None

    def test_memory_of_a_connection_is_the_growth(self) -> None:
        readings = [
            *reading("resident_bytes", "ours", 1, 100_000_000.0),
            *reading("resident_bytes", "ours", 50, 100_500_000.0),
            *reading("resident_bytes", "ours", 1001, 110_000_000.0),
            *reading("resident_bytes", "ours", 5001, 160_000_000.0),
        ]
        summary = summarise(readings)
        assert summary.counts("bytes_per_connection") == [1001, 5001]
        assert summary.median("bytes_per_connection", "ours", 1001) == 10_000
        assert summary.median("bytes_per_connection", "ours", 5001) == 12_000

    def test_targets_are_reached_missed_or_not_measured(self) -> None:
        readings = [
            *reading("tokens_per_cpu_s", "ours", 100, 500.0),
            *reading("tokens_per_cpu_s", "obvious", 100, 100.0),
            *reading("tokens_per_cpu_s", "ours", 1000, 599.0),
            *reading("tokens_per_cpu_s", "obvious", 1000, 100.0),
            *reading("lateness_p99_us", "ours", 1000, 20.0),
            *reading("resident_bytes", "ours", 1, 0.0),
            *reading("resident_bytes", "ours", 1001, 16_385_000.0),
            *reading("held", "ours", HELD, HELD - 1.0),
            *reading("connects_per_s", "ours", HELD, None),
        ]
        reached = {target.title.split(",")[-1].strip(): target.reached for target in summarise(readings).targets}
        assert list(reached.values()) == [True, False, True, False, False, None]

    def test_table_json_and_chart(self, tmp_path: Path) -> None:
        readings = [
            *reading("tokens_per_cpu_s", "ours", 100, 150_000.0),
            *reading("tokens_per_cpu_s", "obvious", 100, 25_000.0),
            *reading("lateness_p99_us", "ours", 1000, 6.0),
            *reading("lateness_p99_us", "obvious", 1000, 1_000_000.0),
        ]
        summary = summarise(readings)
        console = Console(file=io.StringIO(), width=160)
        print_result(summary, console, pinned=False)
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        for part in ("150\u202f000", "25\u202f000", "6.0 x", "reached", "not measured", "say little"):
            assert part in text
        loaded = json.loads(json.dumps(as_dict(summary, readings, {"git": None}, 3, 5, pinned=True)))
        assert loaded["targets"][0] == {
            "title": "tokens per CPU-second, ours over obvious, 100 connections", "value": 6.0, "bound": 5.0, "at_least": True,
            "unit": "x", "reached": True,
        }  # fmt: skip
        draw(summary, tmp_path)
        assert (tmp_path / "engine.png").stat().st_size > 10_000
        assert "Tokens per CPU-second" in (tmp_path / "engine.svg").read_text(encoding="utf-8")


def rows(table: str, **columns: list[Any]) -> dict[str, list[Any]]:
    """The given columns, and every other needed one filled with what means nothing."""
    count = len(next(iter(columns.values())))
    filler: dict[str, Any] = {"string": "w0", "int64": 0, "bool": False}
    needed = {field.name: [filler[str(field.type)]] * count for field in TABLES[table] if not field.nullable}
    return {**needed, **columns}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Four seconds of a run whose steady window is from 1.2 s to 3.5 s."""
    window = {"warm_up_end_at_ns": 1_200_000_000, "steady_end_at_ns": 3_500_000_000, "drain_end_at_ns": 4_000_000_000}
    made = RunDirectory.create(tmp_path / "run", {"origin_wall_ns": 1_000_000_000_000, "window": window})
    writer = made.writer("w0")
    assert "tokens" in COUNTERS
    memory = {"open": [1, 3, 3, 2], "rss_bytes": [1, 7, 8, 9]}
    writer.append("intervals", rows("intervals", second=[0, 1, 2, 3], tokens=[1, 10, 100, 1000], cpu_ns=[5, 50, 500, 5000], **memory))
    arrivals = [SECOND_NS, *(2 * SECOND_NS + n for n in range(100)), 4 * SECOND_NS]
    texts = [str(1_000_000_000_000 + at - 1000 * (n + 1)) for n, at in enumerate(arrivals)]
    writer.append("tokens", rows("tokens", arrival_at_ns=arrivals, text=texts))
    opened = [0, SECOND_NS // 2, SECOND_NS]
    writer.append("connections", rows("connections", opened_at_ns=opened, connect_time_ns=[SECOND_NS // 4, SECOND_NS // 2, None]))
    writer.end()
    return made


class TestReadingOurRuns:
    def test_work_is_that_of_whole_steady_seconds(self, run: RunDirectory) -> None:
        assert steady_work(run) == (100, 500)

    def test_lateness_is_arrival_minus_stamp_in_the_steady_window(self, run: RunDirectory) -> None:
        # The first token (1 us late) is warm-up, the last (102 us) drain: between are 2 to 101 us.
        assert lateness_us(run) == {"p50": 51.0, "p99": 100.0, "max": 101.0}

    def test_connections_held_their_memory_and_their_rate(self, run: RunDirectory) -> None:
        # The memory of the last second but one: the last is written while connections are being closed.
        assert held_connections(run) == (3, 7.0, 2.0)


@pytest.fixture
def probes(tmp_path: Path) -> Iterator[Bench]:
    with Interrupts() as interrupts, Processes() as processes:
        yield Bench(tmp_path, processes, interrupts, Console(file=io.StringIO()), 2, split_cpus())


class TestProbes:
    def test_engines_take_turns(self, probes: Bench) -> None:
        words = [words for words, _ in plan(probes, [1, 100, 1000, 5000], 2)]
        speed = [text.split(",")[0] for text in words if "CPU-second, 100 " in text]
        assert speed == ["round 1: ours", "round 1: obvious", "round 2: obvious", "round 2: ours"]
        assert not any("CPU-second, 5000" in text for text in words)
        assert any("memory of 5000" in text for text in words)

    def test_ours_stamps_within_a_millisecond(self, probes: Bench) -> None:
        found = {one.figure: one.value for one in measure_lateness(probes, "ours", 3)}
        # A median beyond this would mean another clock or another token, not a busy machine.
        assert found["lateness_p50_us"] is not None
        assert 0 < found["lateness_p50_us"] < 1000
        assert probes.machine["versions"]["locust"]

    def test_the_obvious_user_works(self, probes: Bench) -> None:
        (speed,) = measure_speed(probes, "obvious", 2)
        assert speed.value is not None
        assert speed.value > 100

    def test_idle_connections_are_held(self, probes: Bench) -> None:
        found = {one.figure: one.value for one in measure_opening(probes, "ours", 5)}
        assert found["held"] == 5
        assert found["connects_per_s"] is not None
        assert found["connects_per_s"] > 1
