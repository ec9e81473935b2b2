"""One metric's figures: count, mean, extremes, and percentiles where the data carry them.

A percentile is withheld, with the reason as text, when
- fewer independent samples stand behind it than ``loadtest.metrics.MINIMUM_SAMPLES`` asks for (tokens count by their effective
  number: n divided by the design effect of whole conversations; what clusters in time widens the interval instead),
- a token metric rests on fewer than ``MINIMUM_CONVERSATIONS`` conversations,
- conversations that were cut before they could show the value (censored) could move it by more than ``CENSORING_TOLERANCE``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtest.metrics import BY_NAME, MINIMUM_CONVERSATIONS, MINIMUM_SAMPLES

from .sample import Sample, rank
from .units import share

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
HEADLINE = "p99"
"""The percentile whose effective number of samples is shown beside the metric."""
CENSORING_TOLERANCE = 0.01
"""Ten times the histogram's own error, and less than any difference a reader acts on."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Censored:
    """Conversations whose value is only known to be larger than ``bounds`` (ns), beside the observed ``values`` (ns)."""

    bounds: Floats = field(default_factory=lambda: np.zeros(0))
    values: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def share(self) -> float:
        """Censored share of those that are observed or censored; 0 when there are none."""
        both = len(self.bounds) + len(self.values)
        return len(self.bounds) / both if both else 0.0

    def moves(self, q: float) -> bool:
        """Whether the q-quantile depends on what the censored values are: all at their bounds, or all infinite."""
        if not len(self.bounds):
            return False
        both = len(self.bounds) + len(self.values)
        wanted = rank(q, both)
        if wanted > len(self.values):
            return True
        high = np.partition(self.values, wanted - 1)[wanted - 1]
        low = np.partition(np.concatenate([self.values, self.bounds]), wanted - 1)[wanted - 1]
        return bool(high > low * (1 + CENSORING_TOLERANCE))


def measure(
    metric: str, sample: Sample, *, conversations: int | None = None, effect: float = 1.0, censored: Censored | None = None
) -> dict[str, Any]:
    """Figures of one metric in its stored unit.

    ``conversations``: how many stand behind a token metric (None: not a token metric); ``effect``: the design effect.
    """
    about = BY_NAME[metric]
    n = sample.n
    percentiles = {
        name: _percentile(sample, q, conversations=conversations, effect=effect, censored=censored) for name, q in PERCENTILES.items()
    }
    figures: dict[str, Any] = {
        "title": about.title, "unit": about.unit, "better": about.better, "population": about.population,
        "n": n, "n_effective": percentiles[HEADLINE]["n_effective"],
        "mean": sample.mean, "min": sample.minimum if n else None, "max": sample.maximum if n else None, "percentiles": percentiles,
    }  # fmt: skip
    if conversations is not None:
        figures["conversations"] = conversations
    if censored is not None:
        figures["censored"] = len(censored.bounds)
        figures["censored_share"] = censored.share
    return figures


def _percentile(sample: Sample, q: float, *, conversations: int | None, effect: float, censored: Censored | None) -> dict[str, Any]:
    needed = MINIMUM_SAMPLES[q]
    estimate = sample.estimate(q)
    entry: dict[str, Any] = {"value": None, "low": None, "high": None, "n_effective": 0, "n_needed": needed, "withheld": None, "text": None}
    if estimate is not None:
        entry["n_effective"] = int(sample.n / effect)
    if entry["n_effective"] < needed:
        entry |= {"withheld": "samples", "text": f"n/a ({entry['n_effective']} of {needed})"}
    elif conversations is not None and conversations < MINIMUM_CONVERSATIONS:
        text = f"n/a ({conversations} of {MINIMUM_CONVERSATIONS} conversations)"
        entry |= {"withheld": "conversations", "text": text}
    elif censored is not None and censored.moves(q):
        entry |= {"withheld": "censored", "text": f"n/a (censored {share(censored.share)})"}
    elif estimate is not None:
        entry |= {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return entry


def gap_metric(summary: Mapping[str, Any]) -> str:
    """What the run's gaps between arrivals are called."""
    return "inter_chunk" if "inter_chunk" in summary["metrics"] else "itl"


def headline_metric(summary: Mapping[str, Any]) -> str:
    """The token metric a reader looks at first: token latency of an unpaced server, else (it would contain the pacing) the gap."""
    unpaced = summary["run"]["load"].get("gap_ms") == 0
    return "token_latency" if unpaced and summary["metrics"].get("token_latency", {}).get("n") else gap_metric(summary)
