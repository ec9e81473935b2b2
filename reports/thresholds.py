"""Thresholds: objectives that a run was asked to keep, and what the run says to each. Validity comes first, and is judged elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.objectives import Objective, ObjectiveError, parse_all, parse_limits
from loadtest.run_directory import RunDirectoryError

from .load import Run
from .slo import judge_all, overall


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a report beyond what run.json states: ``limits`` replace the stated ones, ``thresholds`` come on top."""

    limits: tuple[Objective, ...] = ()
    thresholds: tuple[Objective, ...] = ()


def read_asked(limits: Sequence[str], thresholds: Sequence[str]) -> Asked:
    """What options ask for; ObjectiveError says which one cannot be read."""
    return Asked(parse_limits(limits), parse_all(thresholds))


def stated_thresholds(run: Run) -> tuple[Objective, ...]:
    """The thresholds of the run's scenario; RunDirectoryError when they cannot be read."""
    found = (run.metadata.get("scenario") or {}).get("thresholds") or ()
    try:
        return parse_all(found if isinstance(found, Sequence) and not isinstance(found, str) else ())
    except ObjectiveError as error:
        raise RunDirectoryError(f"cannot read scenario.thresholds in {run.path / 'run.json'}: {error}") from None


def judge_thresholds(stated: Sequence[Objective], asked: Sequence[Objective], summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """``state`` (met, missed, unknown) and the judgement of every threshold; one asked for replaces the stated one of its figure."""
    kept = [one for one in stated if not any(one.name == other.name and one.upper == other.upper for other in asked)]
    objectives = [*kept, *asked]
    if not objectives:
        return None
    judged = judge_all(objectives, summary)
    return {"state": overall(judged), "results": [one.as_dict() for one in judged]}
