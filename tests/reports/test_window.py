"""Which seconds and conversations count."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from reports.window import BATCHES, Step, make_batches, read_window


def intervals(users: list[int | None]) -> pd.DataFrame:
    return pd.DataFrame({"second": range(len(users)), "users": [np.nan if u is None else u for u in users]})


def test_only_whole_seconds_inside_the_window() -> None:
    stated = {"window": {"warm_up_end_at_ns": 1_500_000_000, "steady_end_at_ns": 4_900_000_000, "drain_end_at_ns": 6_000_000_000}}
    window = read_window(stated, intervals([1] * 6))
    assert window.seconds.tolist() == [2, 3]
    assert window.steady_s == pytest.approx(3.4)


def test_a_run_without_a_stated_window_counts_whole() -> None:
    assert read_window({"window": None}, intervals([1] * 4)).seconds.tolist() == [0, 1, 2, 3]
    assert read_window({}, intervals([])).seconds.tolist() == []


def test_steps_drop_the_settling_time_and_seconds_with_other_users() -> None:
    stated = {
        "window": {"warm_up_end_at_ns": 0, "steady_end_at_ns": 20_000_000_000, "drain_end_at_ns": 21_000_000_000},
        "steps": [{"at_ns": 500_000_000, "users": 10}, {"at_ns": 10_500_000_000, "users": 50}],
    }
    # The ramp to 50 begins in second 8; second 12 has no gauge.
    users = [10] * 8 + [30, 40] + [50, 50, None] + [50] * 8
    first, second = read_window(stated, intervals(users)).steps
    assert first.seconds.tolist() == [2, 3, 4, 5, 6, 7]
    assert second.seconds.tolist() == [12, 13, 14, 15, 16, 17, 18, 19]
    assert (first.settle_s, second.settle_s) == (1.0, 1.0)


def test_long_steps_settle_longer() -> None:
    stated = {"window": {"warm_up_end_at_ns": 0, "steady_end_at_ns": 60_000_000_000}, "steps": [{"at_ns": 0, "users": 1}]}
    (step,) = read_window(stated, intervals([1] * 60)).steps
    assert step.settle_s == 6.0
    assert step.seconds[0] == 6


@pytest.mark.parametrize(("seconds", "typical_s", "batches"), [(20, 0.2, 20), (60, 0.2, 30), (600, 1, 30), (20, 6.0, 3), (3, 9.0, 1)])
def test_batches_are_as_long_as_a_conversation(seconds: int, typical_s: float, batches: int) -> None:
    made = make_batches(np.arange(5, 5 + seconds), typical_s)
    assert len(made.strata) == batches <= BATCHES
    assert np.bincount(made.number).min() >= min(seconds, int(np.ceil(typical_s)))
    assert made.of_seconds([4, 5, 4 + seconds, 5 + seconds]).tolist() == [-1, 0, batches - 1, -1]


def test_no_batch_lies_across_a_step() -> None:
    steps = (Step(1, 0.0, 10.0, 1.0, np.arange(1, 10)), Step(2, 10.0, 20.0, 1.0, np.arange(11, 20)))
    made = make_batches(np.arange(20), 3.0, steps)
    assert set(made.number[:10]).isdisjoint(made.number[10:])
    assert made.strata.tolist() == [0, 0, 0, 1, 1, 1]


def test_an_instant_in_a_cut_off_edge_second_goes_to_the_batch_beside() -> None:
    made = make_batches(np.array([2, 3]), 0.0)
    assert made.of_instants([1.6e9, 2.1e9, 3.9e9, 4.2e9]).tolist() == [0, 0, 1, 1]
    assert make_batches(np.zeros(0, np.int64), 0.0).of_instants([1e9]).tolist() == [-1]
