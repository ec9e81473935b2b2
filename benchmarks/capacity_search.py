"""Which level to probe next, and when to stop: the capacity search as a pure function of the probes made so far. No clock, no process.

A level is a whole number of steps (users, or tenths of a conversation a second). A probe says that the objectives were met there with
confidence, missed with confidence, neither (its intervals span a bound), or that the run cannot be believed.

- A level *holds* when more of its probes met than missed; it *fails* when more missed. A tie is probed again, longer, up to
  ``Limits.attempts`` times; what is a tie even then fails, and so does what was met once and never again in so many: capacity is claimed
  only where it was shown.
- A level whose run was invalid is probed once more; invalid twice, it cannot be judged on this machine: not the server's answer, but
  an upper end for the search.
- Doubling from the start until a level fails, or halving until one holds; then bisection between the highest level that holds below the
  first that does not, until they are within ``Limits.within`` of one another. Then each end is probed again, so that both rest on
  two probes: one unlucky probe on the way cannot decide. Where the second probe disagrees, a third decides, and the search goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Answer(StrEnum):
    """What one probe said."""

    MET = "met"
    MISSED = "missed"
    UNCERTAIN = "uncertain"
    INVALID = "invalid"


class Standing(StrEnum):
    """What all probes of a level say together."""

    HOLDS = "holds"
    FAILS = "fails"
    OPEN = "open"
    UNJUDGED = "unjudged"


class Kind(StrEnum):
    """How a search ended."""

    FOUND = "found"
    """The level above fails: the server's answer."""
    CEILING = "ceiling"
    """Even the highest level that may be probed holds."""
    GENERATOR = "generator"
    """The level above cannot be judged: the generator's limit, not the server's."""
    BELOW = "below"
    """Not even the lowest level that may be probed holds."""
    UNFINISHED = "unfinished"
    """Interrupted, or out of probes, before the ends met."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe's level and answer."""

    level: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Limits:
    """Where to begin and how far to go; levels are whole steps, ``within`` a share of the level that holds."""

    start: int
    lowest: int = 1
    highest: int = 1 << 40
    within: float = 0.05
    attempts: int = 3
    probes: int = 40

    def __post_init__(self) -> None:
        if not 1 <= self.lowest <= self.start <= self.highest:
            raise ValueError(f"expected 1 <= lowest <= start <= highest, got {self.lowest}, {self.start}, {self.highest}")
        if not 0 < self.within < 1 or self.attempts < 1 or self.probes < 1:
            raise ValueError("expected 0 < within < 1 and at least one attempt and probe")

    def close(self, low: int, high: int) -> bool:
        """Whether nothing is left to bisect between two levels."""
        return high - low <= max(1, math.floor(self.within * low))


@dataclass(frozen=True, slots=True)
class Ask:
    """Probe this level next. ``attempt`` counts its valid probes so far (0: the first), ``why`` says what for."""

    level: int
    attempt: int
    why: str


@dataclass(frozen=True, slots=True)
class End:
    """The search is over: the highest level that holds (None: none does), the level that ended it above (None: none)."""

    kind: Kind
    low: int | None
    high: int | None


BOTH_ENDS = 2
"""Probes that each end of the bracket rests on."""


def standing(level: int, probes: Sequence[Probe], attempts: int) -> Standing:
    """What the probes of one level say together."""
    answers = [probe.answer for probe in probes if probe.level == level]
    valid = [answer for answer in answers if answer is not Answer.INVALID]
    if not valid:
        return Standing.UNJUDGED if len(answers) >= BOTH_ENDS else Standing.OPEN
    met, missed = valid.count(Answer.MET), valid.count(Answer.MISSED)
    if met > missed:
        # Met once, and neither in all that came after: the level is at the bound itself, and one below is the better answer.
        return Standing.HOLDS if met >= BOTH_ENDS or len(valid) < max(attempts, BOTH_ENDS) else Standing.FAILS
    if missed > met or len(valid) >= attempts:
        return Standing.FAILS
    # A level that once gave a judgement, and then only invalid runs, is not asked for ever.
    return Standing.FAILS if len(answers) >= 2 * attempts else Standing.OPEN


def bracket(probes: Sequence[Probe], limits: Limits) -> tuple[int | None, int | None]:
    """The highest level that holds below the first that does not, and that one; None where there is none yet.

    What holds above a level that fails does not count: capacity is what can be relied on up to it.
    """
    by_level = {probe.level: standing(probe.level, probes, limits.attempts) for probe in probes}
    high = min((level for level, state in by_level.items() if state in (Standing.FAILS, Standing.UNJUDGED)), default=None)
    low = max((level for level, state in by_level.items() if state is Standing.HOLDS and (high is None or level < high)), default=None)
    return low, high


def decide(probes: Sequence[Probe], limits: Limits) -> Ask | End:
    """The next probe, or the end, from all probes so far."""
    low, high = bracket(probes, limits)
    if len(probes) >= limits.probes:
        return End(Kind.UNFINISHED, low, high)
    if probes and standing(probes[-1].level, probes, limits.attempts) is Standing.OPEN:
        return _ask(probes[-1].level, probes, "undecided: once more, longer")
    if low is None and high is None:
        return _ask(limits.start, probes, "start")
    if low is None:
        assert high is not None
        if high <= limits.lowest:
            return _confirm(high, probes, limits) or End(_kind(high, probes, limits, Kind.BELOW), None, high)
        return _ask(max(limits.lowest, high // 2), probes, "halving")
    if high is None:
        if low >= limits.highest:
            return _confirm(low, probes, limits) or End(Kind.CEILING, low, None)
        return _ask(min(limits.highest, 2 * low), probes, "doubling")
    if not limits.close(low, high):
        return _ask((low + high) // 2, probes, "bisection")
    return _confirm(low, probes, limits) or _confirm(high, probes, limits) or End(_kind(high, probes, limits, Kind.FOUND), low, high)


def _kind(high: int, probes: Sequence[Probe], limits: Limits, otherwise: Kind) -> Kind:
    return Kind.GENERATOR if standing(high, probes, limits.attempts) is Standing.UNJUDGED else otherwise


def _ask(level: int, probes: Sequence[Probe], why: str) -> Ask:
    return Ask(level, sum(probe.level == level and probe.answer is not Answer.INVALID for probe in probes), why)


def _confirm(level: int, probes: Sequence[Probe], limits: Limits) -> Ask | None:
    """Another probe of an end of the bracket that rests on too few answers; one that says neither confirms nothing."""
    answers = [probe.answer for probe in probes if probe.level == level]
    valid = [answer for answer in answers if answer is not Answer.INVALID]
    confident = sum(answer is not Answer.UNCERTAIN for answer in valid)
    enough = confident >= BOTH_ENDS or len(valid) >= limits.attempts or len(answers) >= 2 * limits.attempts
    return None if enough or (not valid and len(answers) >= BOTH_ENDS) else _ask(level, probes, "confirming")


def contradictions(probes: Sequence[Probe], limits: Limits) -> list[int]:
    """Levels that hold although a lower one fails: the server (or the machine) did not answer alike all along."""
    _, high = bracket(probes, limits)
    levels = sorted({probe.level for probe in probes})
    return [one for one in levels if high is not None and one > high and standing(one, probes, limits.attempts) is Standing.HOLDS]


def probes_left(probes: Sequence[Probe], limits: Limits) -> int:
    """A guess at how many probes are still to come in a search that goes on (at least one): for a display, not for a decision."""
    low, high = bracket(probes, limits)
    within = max(math.log2(1 / limits.within), 1)
    if high is None:
        # Nobody knows how often the level will be doubled; one more, then the bisection.
        return math.ceil(1 + within + BOTH_ENDS)
    if low is None:
        return math.ceil(1 + within + BOTH_ENDS)
    steps = max(0, math.ceil(math.log2(max(1.0, (high - low) / max(1, math.floor(limits.within * low))))))
    confirmed = sum(min(BOTH_ENDS, sum(probe.level == level for probe in probes)) for level in (low, high)) if steps == 0 else 2
    return max(1, steps + 2 * BOTH_ENDS - confirmed)
