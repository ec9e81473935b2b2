"""One probe of a capacity search: which load it makes, how long, and what its summary answers. Pure.

A probe is as long as the percentiles of its objectives need (docs/metrics.md: 662 independent samples for a p99), by what the probes before
it saw of how many samples a second a level gives; a repeat is longer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loadtest.metrics import BY_NAME, MINIMUM_CONVERSATIONS, MINIMUM_SAMPLES
from loadtest.objectives import LIMITS, PERCENTILES, SCALARS, Objective
from reports.sample import MINIMUM_BATCHES
from reports.slo import Judgement, judge_all

from .capacity_search import Answer
from .workload import Load, Stop

Summary = Mapping[str, Any]

RATE_STEP: Final = 0.1
"""Levels of an arrival rate are tenths of a conversation a second."""
MARGIN: Final = 2.0
"""Times the samples that a percentile needs: with just those its interval is often open above, and says nothing."""
MOST_DOUBLINGS: Final = 2
TOKENS_WORTH: Final = 0.25
"""Before anything is known, four tokens count as one independent sample."""
POOL: Final = 3.0
"""Users of an open loop beside those that an unloaded server would keep busy: room for answers three times as long."""
SUSTAINED: Final = 0.98
"""Of the offered rate: what starts less has a growing backlog, whatever the times of those that did start."""
STOP_SHARE: Final = 0.2
"""Share of the conversations that are stopped where an objective asks for the stop and the load has none."""
BATCHES: Final = 1.5 * MINIMUM_BATCHES
"""Batches wanted: some more than an interval needs."""
COUNTED: Final = ("errors", "dropped")
"""Held against what was counted, not against an interval: showing that one in a thousand fails would take thousands of conversations."""
SPAWN_PER_S: Final = 2000.0
"""Users that Locust has there in a second; the warm-up grows with it."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: the objectives, the load that is varied, by rate or by users, and how long a probe may be."""

    objectives: tuple[Objective, ...]
    load: Load
    by_rate: bool = False
    shortest_s: float = 10.0
    longest_s: float = 60.0

    def value(self, level: int) -> float:
        """A level in its unit: users, or conversations a second."""
        return level * RATE_STEP if self.by_rate else float(level)

    def level(self, value: float) -> int:
        """The nearest level of a value."""
        return max(1, round(value / RATE_STEP if self.by_rate else value))

    def text(self, level: int | None) -> str:
        """A level for people."""
        if level is None:
            return "none"
        return f"{self.value(level):.1f} conversations/s" if self.by_rate else f"{level} conversation{'' if level == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Experience:
    """What probes have shown: how long a conversation takes, and independent samples a second and unit of level, by metric."""

    conversation_s: float
    samples: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def after(self, summary: Summary, value: float) -> Experience:
        """What is known after a probe at a level of this value."""
        steady_s, metrics = summary["window"]["steady_s"], summary["metrics"]
        if not steady_s or not value:
            return self
        found = {
            name: figures["n_effective"] / steady_s / value
            for name, figures in metrics.items()
            if figures.get("n_effective") and BY_NAME[name].population in ("conversation", "token")
        }
        length = (metrics.get("e2e") or {}).get("percentiles", {}).get("p50", {}).get("value")
        return Experience(length / 1e9 if length else self.conversation_s, {**self.samples, **found})


def first_guess(load: Load) -> Experience:
    """What the load itself says of the length of a conversation: a second where it says nothing."""
    gap_s, ttft_s = (load.gap_ms or 0.0) / 1e3, (load.ttft_ms or 0.0) / 1e3
    said = bool(load.tokens and load.gap_ms)
    return Experience(max(0.01, ttft_s + (load.tokens - 1) * gap_s if said else 1.0))


def with_objectives(load: Load, objectives: Sequence[Objective]) -> Load:
    """The load with some stops, where an objective is about them and it has none, and with limits for goodput where it states none."""
    load = load if load.slo else dataclasses.replace(load, slo=tuple(map(str, limits_of(objectives))))
    asks = any(one.metric in ("stop_latency", "overrun_tokens") for one in objectives)
    return dataclasses.replace(load, stop=Stop(STOP_SHARE, after_tokens=(2, 10))) if asks and load.stop is None else load


def samples_per_s(question: Question, objective: Objective, value: float, known: Experience) -> float | None:
    """Independent samples a second that a level gives for an objective; None where time does not matter."""
    about = BY_NAME[objective.metric]
    if objective.metric in known.samples:
        return known.samples[objective.metric] * value
    if about.population not in ("conversation", "token"):
        return None
    busy = 1.0 if question.by_rate else 1.0 / (known.conversation_s + question.load.think_time_s)
    rate = value * busy
    if objective.metric in ("stop_latency", "overrun_tokens"):
        return rate * (question.load.stop.share if question.load.stop else STOP_SHARE)
    return rate if about.population == "conversation" else rate * max(1.0, (question.load.tokens or 12) * TOKENS_WORTH)


def seconds_needed(question: Question, value: float, known: Experience) -> float:
    """How long a probe must measure at a level so that every objective's percentile stands on enough samples."""
    # An interval is read from the spread between batches, none shorter than a conversation.
    longest = BATCHES * max(1.0, math.ceil(known.conversation_s))
    conversations_per_s = value * (1.0 if question.by_rate else 1.0 / (known.conversation_s + question.load.think_time_s))
    for objective in question.objectives:
        if objective.metric in SCALARS or objective.statistic not in PERCENTILES:
            longest = max(longest, MARGIN * MINIMUM_CONVERSATIONS / conversations_per_s)
            continue
        rate = samples_per_s(question, objective, value, known)
        if rate is not None:
            needed = MINIMUM_SAMPLES[PERCENTILE_QS[objective.statistic]]
            longest = max(longest, MARGIN * max(needed / rate, MINIMUM_CONVERSATIONS / conversations_per_s))
    return longest


PERCENTILE_QS: Final[dict[str, float]] = dict(zip(PERCENTILES, MINIMUM_SAMPLES, strict=True))


def lowest_level(question: Question, known: Experience) -> int:
    """The lowest level that a probe of the longest time can judge."""
    least = RATE_STEP if question.by_rate else 1.0
    if seconds_needed(question, least, known) <= question.longest_s:
        return question.level(least)
    # Samples grow with the level, so the time needed at one unit says it.
    return max(1, math.ceil(seconds_needed(question, 1.0, known) / question.longest_s / (RATE_STEP if question.by_rate else 1.0)))


def measured_s(question: Question, level: int, attempt: int, known: Experience) -> int:
    """Whole seconds that a probe measures: as needed, within bounds; a second attempt twice, further ones four times as long."""
    needed = min(question.longest_s, max(question.shortest_s, seconds_needed(question, question.value(level), known)))
    return math.ceil(needed) << min(attempt, MOST_DOUBLINGS)


def load_of(question: Question, level: int, attempt: int, known: Experience) -> Load:
    """The load of a probe: the figures begin when all connections are open and a whole conversation has passed.

    Those that all began at once have gone their ways by then.
    """
    value = question.value(level)
    users = pool_of(value, known) if question.by_rate else level
    given = question.load
    opening_s = users / given.connect_rate_per_s if given.connect_rate_per_s else users / SPAWN_PER_S
    warm_up_s = round(max(given.warm_up_s, min(10.0, 1.0 + known.conversation_s)) + opening_s, 1)
    spawning_s = 1 + users / (given.spawn_rate or SPAWN_PER_S)
    load = dataclasses.replace(
        given, users=users, steps=(), warm_up_s=warm_up_s,
        run_time_s=math.ceil(warm_up_s + spawning_s) + measured_s(question, level, attempt, known),
    )  # fmt: skip
    return dataclasses.replace(load, loop="open", rate_per_s=round(value, 3)) if question.by_rate else load


def pool_of(rate_per_s: float, known: Experience) -> int:
    """Users that serve an arrival rate."""
    return max(10, math.ceil(POOL * rate_per_s * known.conversation_s) + 10)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe came to, why in a sentence, each objective's judgement."""

    answer: Answer
    reason: str
    judgements: tuple[Judgement, ...] = ()


def find(question: Question, summary: Summary, aborted: str | None) -> Finding:
    """The answer of a probe by its summary; ``aborted``: why it was ended before its time, or None."""
    # A run that was ended on purpose was not complete, and says so; every other rule stands.
    ours = {"status", "window"} if aborted else set()
    broken = [reason for reason in summary["validity"]["reasons"] if reason["rule"] not in ours]
    judgements = judge_all(question.objectives, summary)
    if broken:
        return Finding(Answer.INVALID, " ".join(str(reason["sentence"]) for reason in broken), judgements)
    if aborted:
        return Finding(Answer.MISSED, aborted, judgements)
    missed = [one for one in judgements if one.state == "missed" and settled(one)]
    if missed:
        return Finding(Answer.MISSED, " ".join(one.sentence for one in missed), judgements)
    load = summary["load"]
    if question.by_rate and load["offered_per_s"] and load["achieved_per_s"] < SUSTAINED * load["offered_per_s"]:
        sentence = f"{load['offered_per_s']:.1f} conversations/s fell due and {load['achieved_per_s']:.1f}/s were started: a backlog grew."
        return Finding(Answer.MISSED, sentence, judgements)
    unsettled = [one for one in judgements if one.state == "unknown" or not settled(one)]
    if unsettled:
        return Finding(Answer.UNCERTAIN, " ".join(_unsettled(one) for one in unsettled), judgements)
    return Finding(Answer.MET, "Every objective was met, and so was its whole 95 % interval.", judgements)


def settled(judgement: Judgement) -> bool:
    """Whether a judgement stands: its whole interval says the same. A mean, an extreme or a counted share is taken as it is."""
    if judgement.state == "unknown":
        return False
    one = judgement.objective
    if one.metric in COUNTED or (one.statistic not in PERCENTILES and judgement.low is None and judgement.high is None):
        return True
    return judgement.certain


def _unsettled(judgement: Judgement) -> str:
    if judgement.state == "unknown":
        return judgement.sentence
    open_ended = judgement.low is None or judgement.high is None
    why = "reaches further than the probe could see" if open_ended else "spans the bound"
    return f"{judgement.sentence[:-1]}, but its 95 % interval {why}."


def limits_of(objectives: Sequence[Objective]) -> tuple[Objective, ...]:
    """What one conversation has to keep to count for goodput, where the load does not say it.

    A bound on a percentile of conversations bounds each of them; one on tokens bounds a conversation's time per token.
    """
    limits: dict[str, Objective] = {}
    for one in objectives:
        if not one.upper or one.metric in SCALARS or one.metric == "receive_lag":
            continue
        metric = one.metric if one.metric in LIMITS else "tpot" if BY_NAME[one.metric].population == "token" else None
        if metric is not None and (metric not in limits or one.bound < limits[metric].bound):
            limits[metric] = Objective(metric, "", one.comparison, one.bound, one.unit)
    return tuple(limits.values())
