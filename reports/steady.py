"""Where a run had settled, read from its data: MSER on one-second throughput, to be held against the warm-up that was stated.

MSER (K. P. White, "An effective truncation heuristic for bias reduction in simulation output", Simulation 69, 1997) cuts the start
of a series where the standard error of what remains is least. Only cuts in the first half are looked at, as its author advises.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .load import Run

LEAST_SECONDS = 8
"""Shorter series say nothing about a trend."""


def truncation(series: npt.NDArray[np.float64]) -> int:
    """How many leading values to cut: the d in the first half that minimises variance(rest) / (n - d)."""
    n = len(series)
    if n < 2:
        return 0
    # Sums from the end, so that all cuts cost one pass.
    left = np.arange(n, 0, -1)
    mean = np.cumsum(series[::-1])[::-1] / left
    square = np.cumsum((series**2)[::-1])[::-1] / left
    error = np.maximum(square - mean**2, 0) / left
    return int(np.argmin(error[: n // 2 + 1]))


def settled_at(run: Run) -> float | None:
    """Second since the origin from which the rate of tokens had settled; None for a run with steps or one too short to say."""
    if len(run.window.steps) > 1:
        return None
    per_second = run.per_second()
    tokens = per_second["tokens"].fillna(0).to_numpy(dtype=np.float64)
    first = int(per_second.index.min()) if len(per_second) else 0
    end = run.window.steady_end_ns // 10**9 - first
    if end < LEAST_SECONDS:
        return None
    return float(first + truncation(tokens[:end]))
