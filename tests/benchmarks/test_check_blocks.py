"""From raw tokens to a block's figures: an arm's slices are pooled before any percentile is taken, and nothing is made up."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.check_blocks import arm_figures, block_lines, host_figures, nearest_rank
from benchmarks.check_plan import CheckPlan, draw_orders, make_gates
from benchmarks.check_progress import CheckProgress


def a_slice(number: int, arm: str, **changes: Any) -> dict[str, Any]:
    row = {
        "slice": number, "arm": arm, "duration_ns": 1_000_000, "failed_connects": 0, "cpu_ns": 400_000, "instructions": None,
        "generator_cpu_ns": 200_000, "steal_share": 0.0, "pressure_ns": 500_000, "clock_step_ns": 0, "conversations": 2, "tokens": 10,
        "errors": {}, "completed": 2, "stopped": 0, "empty": 0, "failed": 0, "abandoned": 0,
    }  # fmt: skip
    return row | changes


def some_arrays(slices: list[dict[str, Any]], latency: dict[int, list[int]]) -> dict[str, Any]:
    """Tokens of each slice with the latencies given; two conversations a slice, of which the second was stopped in slice 4."""
    tokens = [(number, value) for number, values in latency.items() for value in values]
    conversations = [(row["slice"], place) for row in slices for place in (0, 1)]
    stopped = np.array([number == 4 and place == 1 for number, place in conversations])
    return {
        "token_slice": np.array([number for number, _ in tokens], dtype=np.int8),
        "token_latency_ns": np.array([value for _, value in tokens]), "token_itl_ns": np.array([2 * value for _, value in tokens]),
        "token_receive_lag_ns": np.full(len(tokens), 30), "conversation_slice": np.array([number for number, _ in conversations]),
        "conversation_outcome": stopped.astype(np.int8), "conversation_tpot_ns": np.array([100 * number for number, _ in conversations]),
        "conversation_ttft_ns": np.array([7] * len(conversations)),
        "conversation_stop_latency_ns": np.where(stopped, 55, -1), "connect_time_ns_base": np.array([3, 1, 2]),
        "connect_time_ns_head": np.array([], dtype=np.int64),
    }  # fmt: skip


SLICES = [a_slice(1, "base"), a_slice(2, "head"), a_slice(3, "head"), a_slice(4, "base")]
LATENCY = {1: [1, 2, 3, -1], 2: [5] * 10, 3: [500] * 10, 4: [100]}


def test_an_arm_is_pooled_over_its_slices() -> None:
    arrays = some_arrays(SLICES, LATENCY)
    base, head = (arm_figures(arrays, SLICES, arm) for arm in ("base", "head"))
    assert base["token_latency_p50"] == 2
    assert base["token_latency_p99"] == 100
    assert (base["latencies"], base["gaps"], base["tokens"]) == (4, 4, 20)
    # Not the mean of two medians: one percentile over both slices.
    assert head["token_latency_p50"] == 5
    assert head["token_latency_p99"] == 500
    assert head["tpot_p50"] == 200
    # A stopped conversation has no place among the completed ones' times.
    assert base["tpot_p50"] == 100
    assert (base["stop_latency_p50"], head["stop_latency_p50"]) == (55, None)
    assert (base["connect_time_p50"], head["connect_time_p50"]) == (2, None)
    assert base["cpu_per_token"] == 40_000
    assert base["time_per_token"] == 100_000
    assert base["instructions_per_token"] is None


def test_what_is_missing_in_one_slice_is_missing_in_the_block() -> None:
    slices = [*SLICES[:3], a_slice(4, "base", cpu_ns=None)]
    assert arm_figures(some_arrays(slices, LATENCY), slices, "base")["cpu_per_token"] is None
    silent = [a_slice(1, "base", tokens=0), SLICES[1]]
    figures = arm_figures(some_arrays(silent, {}), silent, "base")
    assert (figures["cpu_per_token"], figures["token_latency_p99"], figures["latencies"]) == (None, None, 0)


def test_everything_that_did_not_end_well_has_failed() -> None:
    slices = [a_slice(1, "base", failed=1, errors={"connection_lost": 1}), a_slice(2, "base", empty=1, abandoned=1, failed_connects=3)]
    figures = arm_figures(some_arrays(slices, {}), slices, "base")
    assert (figures["failed"], figures["tried"]) == (6, 7)
    assert figures["errors"] == {"connection_lost": 1}


def test_the_machine_is_described_without_the_arms() -> None:
    arrays = some_arrays(SLICES, LATENCY)
    host = host_figures(arrays, SLICES)
    assert host == {
        "steal_share": 0.0, "pressure_share": 0.5, "generator_cpu_share": 0.2, "receive_lag_share": 30 / 200, "clock_step_ns": 0,
    }  # fmt: skip
    swapped = [row | {"arm": {"base": "head", "head": "base"}[row["arm"]]} for row in SLICES]
    assert host_figures(arrays, swapped) == host
    unknown = [row | {"steal_share": None, "pressure_ns": None} for row in SLICES]
    assert host_figures(arrays, unknown)["steal_share"] is host_figures(arrays, unknown)["pressure_share"] is None
    stepped = [*SLICES[:3], a_slice(4, "base", clock_step_ns=-7)]
    assert host_figures(arrays, stepped)["clock_step_ns"] == 7


def test_lines_of_a_block() -> None:
    lines = block_lines(6, "ABBA", SLICES, some_arrays(SLICES, LATENCY))
    assert [line["kind"] for line in lines] == ["slice"] * 4 + ["block"]
    assert {line["block"] for line in lines} == {6}
    assert lines[0]["token_latency_p50_ns"] == 2
    assert lines[-1]["order"] == "ABBA"


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_nearest_rank(values: list[int], share: float) -> None:
    found = nearest_rank(np.array(values), share)
    assert found in values
    below = sum(value <= found for value in values)
    assert below >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values)


def test_no_values_have_no_rank() -> None:
    assert nearest_rank(np.array([]), 0.5) is None


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_says_how_it_stands(terminal: bool) -> None:
    orders, starts = draw_orders(1, 30, 4)
    plan = CheckPlan(
        seed=1, gate="10", gates=make_gates("10", True, True), looks=(3, 20, 30), orders=orders, starts=starts, slice_s=0.1, warm_up_s=0.1,
        fresh=True, workload={}, targets={"base": {"label": "a"}, "head": {"label": "b"}},
    )  # fmt: skip
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=140)
    blocks = [block_lines(number, "ABBA", SLICES, some_arrays(SLICES, LATENCY))[-1] for number in (1, 2, 3)]
    with CheckProgress(console, plan) as progress:
        progress.slice_begins(1, 1, "base")
        for number in (1, 2, 3):
            progress.measured(blocks[:number], 4.0)
            progress.slice_begins(number + 1, 2, "head")
    said = written.getvalue()
    assert "looks after 3, 20, 30 blocks" in said
    assert "4 s to the look" in said
    assert "look at 3 blocks: undecided; " in said
    assert "nothing to compare yet" in said
    assert "TPOT p50 +" in said
