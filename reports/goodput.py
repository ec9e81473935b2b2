"""Goodput: which conversations met every stated objective, as a share and as a rate.

What a conversation did not show is not held against the target: one that was stopped before its first token, or cut by the end of the
run, is *unseen* unless it had already waited longer than a limit allows; unseen ones are counted apart. Failed and empty conversations
and dropped arrivals never are good. Tainted ones are neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtest.objectives import Objective, ObjectiveError, parse_limits
from loadtest.run_directory import RunDirectoryError

from .load import Run
from .shares import batched_share
from .window import Batches

GOOD, MISSED, UNSEEN = 1, 0, -1
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """One entry a conversation: GOOD, MISSED or UNSEEN, and by cause which ones missed (one may have several causes)."""

    state: Ints
    causes: dict[str, Flags]


def stated_limits(run: Run) -> tuple[Objective, ...]:
    """The limits of a conversation that run.json states; RunDirectoryError when they cannot be read."""
    try:
        return parse_limits((run.metadata.get("load") or {}).get("slo") or ())
    except ObjectiveError as error:
        raise RunDirectoryError(f"cannot read load.slo in {run.path / 'run.json'}: {error}") from None


def judge_conversations(run: Run, limits: Sequence[Objective], chosen: Flags | None = None) -> Verdicts:
    """Hold every conversation (or the chosen ones) against the limits."""
    rows = run.conversations if chosen is None else run.conversations[chosen]
    outcome = rows["outcome"].to_numpy()
    abandoned = outcome == "abandoned"
    causes: dict[str, Flags] = {name: np.asarray(outcome == name) for name in ("failed", "empty")}
    unseen = abandoned.copy()
    for one in limits:
        column = one.metric if one.unit == "1" else f"{one.metric}_ns"
        values = rows[column].to_numpy(dtype=np.float64)
        known = ~np.isnan(values)
        final = known & ~abandoned if one.metric == "tpot" else known
        broken = final & ~_keep(one, values)
        least, waiting = _waited(run, rows, one.metric, known)
        # Who has waited longer than the limit allows has missed it, whatever would have come.
        broken |= waiting & ~_keep(one, least)
        unseen |= waiting
        causes[one.metric] = broken & ~causes["failed"] & ~causes["empty"]
    missed = np.any(list(causes.values()), axis=0) if len(outcome) else np.zeros(0, np.bool_)
    return Verdicts(np.where(missed, MISSED, np.where(unseen, UNSEEN, GOOD)).astype(np.int64), causes)


def _keep(limit: Objective, values: Floats) -> Flags:
    with np.errstate(invalid="ignore"):
        kept: Flags = values < limit.bound if limit.comparison == "<" else values <= limit.bound
    return kept


def _waited(run: Run, rows: Any, metric: str, known: Flags) -> tuple[Floats, Flags]:
    """How long (ns) those have waited at least that had no value when they were stopped or cut, and which they are."""
    outcome = rows["outcome"].to_numpy()
    cut = outcome == "abandoned"
    if metric in ("ttft", "ttft_due", "e2e", "e2e_due"):
        start = rows["due_at_ns" if metric.endswith("_due") else "sent_at_ns"].to_numpy(dtype=np.float64)
        stop = rows["stop_sent_at_ns"].to_numpy(dtype=np.float64)
        until = np.where(np.isnan(stop), float(run.window.drain_end_ns), stop)
        waiting = ~known & (cut | (outcome == "stopped")) & ~np.isnan(start)
    elif metric == "stop_latency":
        start = rows["stop_sent_at_ns"].to_numpy(dtype=np.float64)
        until, waiting = np.full(len(rows), float(run.window.drain_end_ns)), ~known & cut & ~np.isnan(start)
    else:
        return np.zeros(len(rows)), np.zeros(len(rows), np.bool_)
    return np.where(waiting, np.maximum(0.0, until - start), 0.0), waiting


def measure_goodput(
    run: Run, limits: Sequence[Objective], inside: Flags, batches: Batches, length_s: float, dropped: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """Goodput of the conversations ``inside`` a window of ``length_s`` seconds; None when no limit is stated.

    ``share`` is of the conversations of which it is known, and of dropped arrivals; ``rate`` is of good ones a second.
    """
    if not limits:
        return None
    clean = inside & run.untainted()
    verdicts = judge_conversations(run, limits, clean)
    seen = verdicts.state != UNSEEN
    good = verdicts.state == GOOD
    lost = int(dropped["count"]) if dropped else 0
    share = batched_share(good[seen], batches.of_instants(run.starts_ns()[clean][seen]), batches.strata, lost)
    rate = int(good.sum()) / length_s if length_s else None
    tried = share["n"] / length_s if length_s else 0.0
    missed_by = {cause: int((flags & seen).sum()) for cause, flags in verdicts.causes.items()}
    return {
        "objectives": [str(one) for one in limits], "share": share,
        "rate": {
            "value": rate, "n": share["n"],
            "low": None if share["low"] is None else share["low"] * tried, "high": None if share["high"] is None else share["high"] * tried,
        },
        "good": int(good.sum()), "missed": int((verdicts.state == MISSED).sum()), "unseen": int((~seen).sum()), "dropped": lost,
        "tainted": int((inside & ~run.untainted()).sum()), "missed_by": {cause: n for cause, n in missed_by.items() if n},
    }  # fmt: skip
