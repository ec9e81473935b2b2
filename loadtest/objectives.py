"""What a service level objective says: ``token_p99 < 50ms``, ``errors = 0.1%``, and for one conversation ``ttft = 500ms``.

An objective of a run bounds a figure of its summary; ``reports.slo`` judges it. A limit bounds what one conversation may take; a
conversation that keeps every stated limit counts for goodput. Both are read here, where options and scenario files are checked.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from .metrics import BY_NAME, MINIMUM_SAMPLES, Better

Comparison = Literal["<", "<=", ">", ">="]

ALIASES: Final[Mapping[str, str]] = {
    "token": "token_latency", "stop": "stop_latency", "connect": "connect_time", "overrun": "overrun_tokens", "lag": "receive_lag",
    "tokens_per_s": "throughput_tokens", "conversations_per_s": "throughput_conversations",
    "error": "errors", "error_rate": "errors", "drops": "dropped",
}  # fmt: skip
"""Short names of metrics."""

PERCENTILES: Final = tuple(f"p{100 * q:g}" for q in MINIMUM_SAMPLES)
STATISTICS: Final[Mapping[str, str]] = {
    **{name: name for name in PERCENTILES}, "p999": "p99.9", "med": "p50", "median": "p50", "mean": "mean", "avg": "mean", "min": "min",
    "max": "max",
}  # fmt: skip
"""What may stand behind a metric's name, and what it means."""

SCALARS: Final[Mapping[str, tuple[str, Better, str]]] = {
    "errors": (
        "share", "lower",
        "share of conversations and connects that failed: conversations of the window that failed or ended without a token, and connects "
        "of the whole run that failed, of both kinds of attempt",
    ),
    "dropped": ("share", "lower", "share of the arrivals that were due in the window and found no free user; open loop only"),
    "goodput": ("share", "higher", "share of conversations that met every stated objective (with /s: such conversations a second)"),
    "goodput_rate": ("1/s", "higher", "conversations a second that met every stated objective"),
    "fairness": ("1", "higher", "Jain's index of tokens a second between conversations, mean over the intervals of the window"),
    "fluidity": ("share", "higher", "share of the tokens that came by a reader's deadline"),
    "stalled": ("share", "lower", "share of the conversations with a gap above the stated threshold"),
    "throughput_tokens": ("1/s", "higher", BY_NAME["throughput_tokens"].definition),
    "throughput_conversations": ("1/s", "higher", BY_NAME["throughput_conversations"].definition),
}  # fmt: skip
"""Figures of a run that are one number: unit, direction, what they are."""

LIMITS: Final = (
    "ttft", "ttft_due", "e2e", "e2e_due", "tpot", "longest_stall", "send_delay", "stop_latency", "overrun_tokens", "stalls",
)  # fmt: skip
"""Metrics of one conversation that a limit may bound."""

_TIMES_NS: Final[Mapping[str, float]] = {"ns": 1, "us": 1e3, "µs": 1e3, "μs": 1e3, "ms": 1e6, "s": 1e9}
_SENTENCE: Final = re.compile(r"\s*([a-z][a-z0-9_.]*)\s*(<=|>=|==|=|<|>)\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zµμ%/]*)\s*", re.IGNORECASE)
_EXAMPLES: Final = "such as ttft_p99=500ms, token_p99<50ms, errors<0.1% or goodput>=95%"


class ObjectiveError(ValueError):
    """An objective cannot be understood; the message says what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class Objective:
    """One bound. ``metric`` as in METRICS or SCALARS; ``statistic`` is empty for a scalar and for a limit of one conversation.

    ``bound`` is in ``unit``, the stored one: ``ns``, ``1`` (a count), ``share`` (of one) or ``1/s``.
    """

    metric: str
    statistic: str
    comparison: Comparison
    bound: float
    unit: str

    def met_by(self, value: float) -> bool:
        """Whether a value in the stored unit keeps the bound."""
        if self.comparison == "<":
            return value < self.bound
        if self.comparison == "<=":
            return value <= self.bound
        return value > self.bound if self.comparison == ">" else value >= self.bound

    @property
    def upper(self) -> bool:
        """Whether it bounds from above."""
        return self.comparison in ("<", "<=")

    @property
    def name(self) -> str:
        """What it bounds: ``token_latency_p99``, ``errors``."""
        return f"{self.metric}_{self.statistic}" if self.statistic else self.metric

    def __str__(self) -> str:
        """The objective in words that can be read back: ``token_latency_p99 < 50ms``."""
        return f"{self.name} {self.comparison} {_written(self.bound, self.unit)}"


def parse(text: str) -> Objective:
    """An objective of a run; ObjectiveError says in one sentence what is wrong with it.

    ``=`` stands for at most where lower is better and for at least where higher is better.
    """
    name, comparison, number, unit = _split(text)
    metric, statistic = _figure(name, text)
    if metric in SCALARS:
        if metric == "goodput" and unit == "/s":
            metric = "goodput_rate"
        stored, better, _ = SCALARS[metric]
    else:
        stored, better = BY_NAME[metric].unit, BY_NAME[metric].better
    bound = _bound(text, number, unit, stored)
    return Objective(metric, statistic, _comparison(text, metric, comparison, better), bound, stored)


def parse_limit(text: str) -> Objective:
    """A limit of one conversation (``ttft=500ms``); ObjectiveError says in one sentence what is wrong with it."""
    name, comparison, number, unit = _split(text)
    metric = ALIASES.get(name, name)
    if metric not in LIMITS:
        hint = (
            f"{name} has a percentile: a limit of one conversation has none" if _statistic(name) else f"found {name}{_near(name, LIMITS)}"
        )
        raise ObjectiveError(
            f"expected a limit of one conversation such as ttft=500ms or tpot<50ms, with one of {', '.join(LIMITS)}; in {text!r} {hint}"
        )
    about = BY_NAME[metric]
    return Objective(metric, "", _comparison(text, metric, comparison, about.better), _bound(text, number, unit, about.unit), about.unit)


def parse_all(texts: Iterable[str]) -> tuple[Objective, ...]:
    """Objectives of a run, of texts that may hold several with commas between; ObjectiveError as ``parse``, or when one comes twice."""
    return _distinct(parse(part) for text in texts for part in text.split(","))


def parse_limits(texts: Iterable[str]) -> tuple[Objective, ...]:
    """Limits of one conversation, of texts that may hold several with commas between; ObjectiveError as for ``parse_all``."""
    return _distinct(parse_limit(part) for text in texts for part in text.split(","))


def _distinct(objectives: Iterable[Objective]) -> tuple[Objective, ...]:
    found: list[Objective] = []
    for one in objectives:
        if any(one.name == other.name and one.upper == other.upper for other in found):
            raise ObjectiveError(f"expected one bound for {one.name}, found a second one: {one}")
        found.append(one)
    return tuple(found)


def _split(text: str) -> tuple[str, str, float, str]:
    match = _SENTENCE.fullmatch(text)
    if match is None:
        raise ObjectiveError(f"expected an objective {_EXAMPLES}, found {text!r}")
    return match[1].lower(), match[2], float(match[3]), match[4].lower()


def _statistic(name: str) -> tuple[str, str] | None:
    metric, separator, statistic = name.rpartition("_")
    return (ALIASES.get(metric, metric), STATISTICS[statistic]) if separator and statistic in STATISTICS else None


def _figure(name: str, text: str) -> tuple[str, str]:
    """Metric and statistic of a figure's name."""
    if ALIASES.get(name, name) in SCALARS:
        return ALIASES.get(name, name), ""
    distributed = [metric.name for metric in BY_NAME.values() if metric.histogram or metric.name == "overrun_tokens"]
    if found := _statistic(name):
        if found[0] in distributed:
            return found
        if found[0] in SCALARS:
            raise ObjectiveError(f"expected {found[0]} without {found[1]}, for it is one number a run; found {text!r}")
        name = found[0]
    metric = ALIASES.get(name, name)
    if metric in distributed:
        raise ObjectiveError(f"expected {name} with one of {', '.join((*PERCENTILES, 'mean', 'max'))}, as in {name}_p99; found {text!r}")
    head = name.rpartition("_")[0]
    if ALIASES.get(head, head) in distributed:
        raise ObjectiveError(f"expected one of {', '.join((*PERCENTILES, 'mean', 'min', 'max'))} behind {head}_, found {text!r}")
    known = (*distributed, *SCALARS)
    raise ObjectiveError(f"there is no figure {name!r}{_near(name, (*known, *ALIASES))}; expected one of {', '.join(known)}, in {text!r}")


def _bound(text: str, number: float, unit: str, stored: str) -> float:
    """The number in the stored unit."""
    if stored == "ns":
        if unit not in _TIMES_NS:
            raise ObjectiveError(f"expected a time with one of the units ns, us, ms, s, found {text!r}")
        # 0.1 * 1e6 is not a whole number of nanoseconds in binary, and times are.
        return round(number * _TIMES_NS[unit], 3)
    if stored == "share":
        if unit not in ("", "%"):
            raise ObjectiveError(f"expected a share such as 0.1% or 0.001, found {text!r}")
        share = number / 100 if unit == "%" else number
        if share > 1:
            raise ObjectiveError(f"expected a share of at most 100%, found {text!r}{'' if unit else '; a share in per cent ends with %'}")
        return share
    if unit not in ("", "/s" if stored == "1/s" else ""):
        raise ObjectiveError(f"expected {'a number a second (100/s)' if stored == '1/s' else 'a plain number'}, found {text!r}")
    return number


def _comparison(text: str, metric: str, given: str, better: Better) -> Comparison:
    if given in ("=", "=="):
        return ">=" if better == "higher" else "<="
    if (given in ("<", "<=")) == (better == "higher"):
        wanted = "a lower bound (>=)" if better == "higher" else "an upper bound (<=)"
        raise ObjectiveError(f"expected {wanted}, for {metric} is better when {better}; found {text!r}")
    comparison: Comparison = given  # type: ignore[assignment]
    return comparison


def _written(bound: float, unit: str) -> str:
    """A bound as it can be read back."""
    if unit == "ns":
        for scale, name in ((1e9, "s"), (1e6, "ms"), (1e3, "us")):
            if bound >= scale:
                return f"{bound / scale:.12g}{name}"
        return f"{bound:.12g}ns"
    if unit == "share":
        return f"{bound * 100:.12g}%"
    return f"{bound:.12g}" + ("/s" if unit == "1/s" else "")


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
