"""Shares of attempts: how many went wrong, with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from .load import Run
from .sample import CONFIDENCE, MINIMUM_BATCHES, sample_rows, student_t

BAD_OUTCOMES = ("failed", "empty")
"""Outcomes that count as errors: the user got no answer, or not all of it."""


def share_of(count: int, n: int, effect: float = 1.0, z: float | None = None) -> dict[str, Any]:
    """``count`` of ``n`` as {"value", "low", "high", "count", "n"}, shares of one; the three are None where n is 0.

    The 95 % interval is Wilson's (E. B. Wilson, JASA 22, 1927), sound for shares near 0 and 1. ``effect``: the design effect of attempts
    that are not independent; ``z``: the quantile, where the normal one would promise too much.
    """
    if not n:
        return {"value": None, "low": None, "high": None, "count": count, "n": n}
    z = z or NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    p, worth = count / n, n / effect
    scale = 1 + z * z / worth
    centre = (p + z * z / (2 * worth)) / scale
    reach = z * math.sqrt(p * (1 - p) / worth + z * z / (4 * worth * worth)) / scale
    low, high = (0.0 if not count else max(0.0, centre - reach)), (1.0 if count == n else min(1.0, centre + reach))
    return {"value": p, "low": low, "high": high, "count": count, "n": n}


def batched_share(flags: npt.NDArray[np.bool_], batch: npt.ArrayLike, strata: npt.NDArray[np.int64], others: int = 0) -> dict[str, Any]:
    """Share of the flags that are set, of them and of ``others`` that are not; the interval carries the spread between batches of time."""
    n, count = len(flags), int(flags.sum())
    effect, z = 1.0, None
    if 0 < count < n:
        sample = sample_rows((~flags).astype(np.float64), batch, strata)
        error, freedom = sample.share_error(count - 1, count / n)
        if error is not None and freedom >= MINIMUM_BATCHES - 1:
            effect, z = max(1.0, error**2 / (count / n * (1 - count / n) / n)), student_t(freedom)
    return share_of(count, n + others, min(effect, max(1, n)), z)


def measure_errors(run: Run, chosen: npt.NDArray[np.bool_], connections: Mapping[str, Any]) -> dict[str, Any]:
    """Failed attempts of all: of the ``chosen`` conversations those that failed or stayed empty, and the run's failed connects.

    Conversations cut by the end of the run are in neither number; connects that this machine refused are not the target's errors.
    """
    outcome = run.conversations["outcome"].to_numpy()[chosen]
    refused = sum(int(n) for kind, n in connections["failed_by_kind"].items() if kind != "generator_limit")
    bad = int(np.isin(outcome, BAD_OUTCOMES).sum())
    ended = int((outcome != "abandoned").sum())
    return share_of(bad + refused, ended + refused)


def measure_dropped(run: Run) -> dict[str, Any] | None:
    """Arrivals of the window that found no free user, of all that were due in it; None in a closed loop."""
    if (run.metadata.get("load") or {}).get("loop") != "open":
        return None
    rows = run.per_second().reindex(run.window.seconds)
    return share_of(int(rows["arrivals_dropped"].sum()), int(rows["arrivals_due"].sum()))
