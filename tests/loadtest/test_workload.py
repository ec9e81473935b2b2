"""The built-in workloads: the figures of the trace they were read from."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest

from loadtest.workload import draw_lengths, workload_gaps
from server.workloads import GAPS, PERCENTS, PROMPT_TOKENS, WORKLOADS


# The traces' own figures: mean of prompts and answers, variation of the gaps.
@pytest.mark.parametrize(("workload", "prompt", "answer", "variation"), [("chat", 1155, 211, 1.09), ("code", 2048, 28, 13.2)])
def test_workloads_have_the_figures_of_their_trace(workload: str, prompt: float, answer: float, variation: float) -> None:
    draw = random.Random(1)
    lengths = [draw_lengths(workload, draw) for _ in range(40_000)]
    assert statistics.fmean(p for p, _ in lengths) == pytest.approx(prompt, rel=0.05)
    assert statistics.fmean(a for _, a in lengths) == pytest.approx(answer, rel=0.03)
    gaps = workload_gaps(workload)(np.random.default_rng(1), 2_000_000)
    assert gaps.min() > 0
    assert gaps.mean() == pytest.approx(1, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.1)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_tables_rise_and_have_a_value_for_each_percent(workload: str) -> None:
    for table in (GAPS[workload], PROMPT_TOKENS[workload]):
        assert len(table) == len(PERCENTS)
        assert list(table) == sorted(table)
