"""Judges service level objectives on a run's summary: met, missed, or unknown where the run does not carry the figure.

An objective compares the figure itself, as a reader would; ``certain`` says whether the whole 95 % interval lies on the same side of
the bound. What an objective may say stands in ``loadtest.objectives``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from loadtest.objectives import PERCENTILES, SCALARS, Objective, ObjectiveError, parse, parse_all

from .units import duration, share, significant

__all__ = ["Judgement", "Objective", "ObjectiveError", "State", "judge_all", "judge_objective", "overall", "parse", "parse_all"]

State = Literal["met", "missed", "unknown"]
Summary = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Judgement:
    """One objective held against one summary; numbers in the objective's unit, None where the summary has none.

    ``reason`` says why the state is unknown, or on what a miss without the figure itself rests.
    """

    objective: Objective
    state: State
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    reason: str = ""

    @property
    def certain(self) -> bool:
        """Whether the whole 95 % interval says the same as the figure; False where there is no interval."""
        far = self.high if self.objective.upper == (self.state == "met") else self.low
        return self.state != "unknown" and far is not None and self.objective.met_by(far) == (self.state == "met")

    @property
    def sentence(self) -> str:
        """The judgement in words."""
        if self.state == "unknown":
            return f"{self.objective}: unknown, {self.reason}."
        told = f" ({self.reason})" if self.reason else ""
        return f"{self.objective}: {self.state}, {shown(self.value, self.objective.unit)}{told}."

    def as_dict(self) -> dict[str, Any]:
        """For ``summary.json``."""
        one = self.objective
        return {
            "objective": str(one), "metric": one.metric, "statistic": one.statistic, "comparison": one.comparison, "bound": one.bound,
            "unit": one.unit, "state": self.state, "value": self.value, "low": self.low, "high": self.high, "n": self.n,
            "certain": self.certain, "reason": self.reason, "sentence": self.sentence,
        }  # fmt: skip


def judge_all(objectives: Iterable[Objective], summary: Summary) -> tuple[Judgement, ...]:
    """Every objective judged, in the order given."""
    return tuple(judge_objective(one, summary) for one in objectives)


def overall(judgements: Sequence[Judgement]) -> State:
    """missed when one is missed, else unknown when one is unknown, else met."""
    states = {one.state for one in judgements}
    return "missed" if "missed" in states else "unknown" if "unknown" in states else "met"


def judge_objective(objective: Objective, summary: Summary) -> Judgement:
    """One objective held against a summary; whether the run is valid is another question, to be asked first."""
    if objective.metric in SCALARS:
        return _judge_scalar(objective, summary)
    figures = summary["metrics"].get(objective.metric)
    if not figures or not figures["n"]:
        return Judgement(objective, "unknown", n=0, reason=_why_absent(objective, summary))
    n = int(figures["n"])
    if objective.statistic not in PERCENTILES:
        return _compare(objective, {"value": figures[objective.statistic]}, n)
    entry = figures["percentiles"][objective.statistic]
    if entry["value"] is not None:
        return _compare(objective, entry, n)
    # A lower percentile that is too high already settles what the withheld one could only make worse.
    for name in PERCENTILES[: PERCENTILES.index(objective.statistic)]:
        lower = figures["percentiles"][name]
        if objective.upper and lower["value"] is not None and not objective.met_by(lower["value"]):
            reason = f"{name} already; {objective.statistic} itself is {entry['text']}"
            return Judgement(objective, "missed", lower["value"], lower["low"], None, n, reason)
    return Judgement(objective, "unknown", n=n, reason=f"{objective.statistic} is {entry['text']}")


def _judge_scalar(objective: Objective, summary: Summary) -> Judgement:
    metric = objective.metric
    if metric in ("throughput_tokens", "throughput_conversations"):
        figure: Mapping[str, Any] | None = {"value": summary["rates"][metric]}
    elif metric in ("goodput", "goodput_rate"):
        figure = (summary.get("goodput") or {}).get("share" if metric == "goodput" else "rate")
    elif metric in ("fairness", "fluidity", "stalled"):
        place, name = {"fairness": ("fairness", "mean"), "fluidity": ("fluidity", "tokens"), "stalled": ("stalls", "share")}[metric]
        found = (summary.get(place) or {}).get(name)
        figure = found if found is None or isinstance(found, Mapping) else {"value": found}
    else:
        figure = (summary.get("shares") or {}).get(metric)
    if figure is None or figure["value"] is None:
        return Judgement(objective, "unknown", n=0, reason=_why_absent(objective, summary))
    n = figure.get("n")
    return _compare(objective, figure, None if n is None else int(n))


def _compare(objective: Objective, figure: Mapping[str, Any], n: int | None) -> Judgement:
    value = float(figure["value"])
    state: State = "met" if objective.met_by(value) else "missed"
    return Judgement(objective, state, value, figure.get("low"), figure.get("high"), n)


def _why_absent(objective: Objective, summary: Summary) -> str:
    metric = objective.metric
    if (metric.endswith("_due") or metric in ("send_delay", "dropped")) and summary["load"]["loop"] != "open":
        return f"{metric} exists only in an open loop"
    if metric.startswith("goodput") and not summary.get("goodput"):
        return "the run states no objectives for a conversation (--slo ttft=500ms), so none can meet them"
    if metric == "fairness":
        return "no interval of the window was streamed through by two conversations and held ten gaps"
    if metric == "itl" and summary["metrics"].get("inter_chunk", {}).get("n"):
        return "messages carried several tokens; ask for inter_chunk, the gap between two messages"
    if metric == "stop_latency" and not summary["stop"]["sent"]:
        return "no conversation was stopped"
    if metric in ("stop_latency", "overrun_tokens") and summary["stop"].get("by_closing"):
        return "not measurable: every stop closed the connection, and nothing comes back that says when the server heard of it"
    return f"the run has no {metric} in its steady window"


def shown(value: float | None, unit: str) -> str:
    """A value of an objective as text."""
    if value is None:
        return "n/a"
    if unit == "ns":
        return duration(value)
    return share(value) if unit == "share" else significant(value) + ("/s" if unit == "1/s" else "")
