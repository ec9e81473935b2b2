"""The verdict as it stands: the rules of docs/validity.md that can be judged while a run goes on, on the figures since the warm-up.

The last word is that of the report, which sees every row: it judges these rules again and the ones that are left out here. The limits
are the report's own; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from .live_history import History, milliseconds

LAG_SHARE_LIMIT = 0.5
CPU_LIMIT = 0.9
TAINTED_LIMIT = 0.25
COALESCED_SHARE = 0.1
CLOCK_STEP_SHARE = 0.1
CLAMPED_LIMIT = 1e-4
_ENDED = ("completed", "stopped", "empty", "failed", "abandoned")


@dataclass(frozen=True, slots=True)
class Standing:
    """What the rules look at: the figures, failed connects by kind, workers lost, names of workers, whether arrivals bear stamps."""

    history: History
    errors: dict[str, int]
    lost: Collection[str]
    name_of: Callable[[str], str]
    acknowledged: bool
    stamped: bool


Found = tuple[bool, str, str] | None
"""Whether the rule is broken, what was measured, and the sentence for that; None: nothing to judge yet."""


def _percent(part: float) -> str:
    return f"{100 * part:.3g} %"


def _median(standing: Standing, metric: str) -> int | None:
    return standing.history.figures[metric].quantiles((0.5,))[0]


def _workers(standing: Standing) -> Found:
    lost = ", ".join(sorted(standing.lost))
    return bool(lost), lost or "none lost", f"Lost: {lost}; their load is missing."


def _receive_lag(standing: Standing) -> Found:
    if not standing.acknowledged and standing.stamped:
        return None
    gap, lag = _median(standing, "itl"), _median(standing, "receive_lag")
    if not gap or lag is None:
        return None
    measured = f"{milliseconds(lag)} ms beside gaps of {milliseconds(gap)} ms"
    return lag > LAG_SHARE_LIMIT * gap, measured, f"Tokens are read late ({measured}): the gaps show the generator, not the target."


def _generator_cpu(standing: Standing) -> Found:
    shares = {worker: used / covered for worker, (used, covered) in standing.history.cpu.items() if covered}
    if not shares:
        return None
    worst = max(shares, key=lambda worker: shares[worker])
    share = _percent(shares[worst])
    told = f"{standing.name_of(worst)} uses {share} of a core: its rate is its own ceiling; use more processes."
    return shares[worst] >= CPU_LIMIT, f"{share} of a core", told


def _tainted(standing: Standing) -> Found:
    counts = standing.history.counts
    ended = sum(counts[f"conversations_{outcome}"] for outcome in _ENDED)
    if not ended:
        return None
    part = counts["conversations_tainted"] / ended
    return part > TAINTED_LIMIT, _percent(part), f"{_percent(part)} of the conversations overlapped a stall of the generator."


def _coalesced(standing: Standing) -> Found:
    counts, figures = standing.history.counts, standing.history.figures
    per_token, late = _median(standing, "tpot"), figures["receive_lag"].quantiles((0.99,))[0]
    if not counts["messages"] or per_token is None or late is None:
        return None
    part = counts["coalesced"] / counts["messages"]
    told = f"{_percent(part)} of the messages were read together with the one before because they were read late."
    return part > COALESCED_SHARE and late > per_token, _percent(part), told


def _clock(standing: Standing) -> Found:
    step = standing.history.clock_step_ns
    smallest = min((value for metric in ("ttft", "itl", "token_latency") if (value := _median(standing, metric))), default=0)
    measured = f"set by {milliseconds(step)} ms" if step else "not set"
    return bool(step) and step > CLOCK_STEP_SHARE * smallest, measured, f"The wall clock was {measured}."


def _clamped(standing: Standing) -> Found:
    counts = standing.history.counts
    part = counts["clamped"] / max(1, counts["tokens"])
    return part > CLAMPED_LIMIT, str(counts["clamped"]), f"{counts['clamped']} values lay outside what can be recorded."


def _generator_limit(standing: Standing) -> Found:
    failed = standing.errors.get("generator_limit", 0)
    return failed > 0, str(failed), f"{failed} connects failed because this machine ran out of descriptors or ports."


RULES: dict[str, tuple[str, str, Callable[[Standing], Found]]] = {
    "workers": ("All workers there", "none lost", _workers),
    "receive_lag": ("Receive lag small beside the gaps", f"at most {_percent(LAG_SHARE_LIMIT)} of the median gap", _receive_lag),
    "generator_cpu": ("Generator not saturated", f"below {_percent(CPU_LIMIT)} of a core", _generator_cpu),
    "tainted": ("Few conversations tainted", f"at most {_percent(TAINTED_LIMIT)}", _tainted),
    "coalesced": ("Stamps not shared by our lateness", f"at most {_percent(COALESCED_SHARE)} while we read late", _coalesced),
    "clock": ("Clock not set", f"{_percent(CLOCK_STEP_SHARE)} of the smallest median", _clock),
    "clamped": ("No value out of range", f"at most {_percent(CLAMPED_LIMIT)} of the tokens", _clamped),
    "generator_limit": ("Own limits not reached", "none", _generator_limit),
}
"""By their names in docs/validity.md: title, limit, and the look at it."""


def judge(standing: Standing) -> dict[str, Any]:
    """``valid`` so far, whether the figures are still those of the warm-up, and every rule with what it saw."""
    rules = []
    for name, (title, limit, look) in RULES.items():
        found = look(standing)
        rules.append(
            {
                "rule": name, "title": title, "limit": limit,
                "state": "not judged yet" if found is None else "broken" if found[0] else "holds",
                "measured": None if found is None else found[1], "sentence": found[2] if found is not None and found[0] else "",
            }
        )  # fmt: skip
    return {"valid": all(rule["state"] != "broken" for rule in rules), "warming_up": standing.history.warming_up, "rules": rules}
