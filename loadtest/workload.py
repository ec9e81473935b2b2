"""The built-in workloads: how long prompts and answers are, and in which bursts they come. Pure; the tables are the server's."""

from __future__ import annotations

import math
import random

import numpy as np

from server.workloads import ANSWER_TOKENS, GAPS, PERCENTS, PROMPT_TOKENS, quantile

from .arrivals import Floats, Gaps


def draw_lengths(workload: str, draw: random.Random) -> tuple[int, int]:
    """Prompt and answer tokens of one conversation; two numbers are drawn."""
    prompt = quantile(PROMPT_TOKENS[workload], draw.random())
    answer = quantile(ANSWER_TOKENS[workload], draw.random())
    return max(1, math.floor(prompt + 1e-9)), max(1, math.floor(answer + 1e-9))


def workload_gaps(workload: str) -> Gaps:
    """Gaps between arrivals distributed as in the workload's trace, with a mean of 1.

    Each gap is drawn by itself: what the trace has in bursts longer than a few arrivals (its gaps go together a little, the
    correlation of the logarithms of neighbours is 0.03 for chat and 0.11 for code) is not in them; replay the trace for that.
    """
    percents, logarithms = np.array(PERCENTS, dtype=np.float64) / 100, np.log(np.array(GAPS[workload]))
    table = GAPS[workload]
    # The mean of a geometric piece from a to b is (b - a) / ln(b / a).
    mean = sum(
        (high - low) * (b - a) / math.log(b / a) for low, high, a, b in zip(percents[:-1], percents[1:], table[:-1], table[1:], strict=True)
    )

    def draw_gaps(draw: np.random.Generator, count: int) -> Floats:
        gaps: Floats = np.exp(np.interp(draw.random(count), percents, logarithms)) / mean
        return gaps

    return draw_gaps
