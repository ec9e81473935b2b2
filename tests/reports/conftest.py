"""Synthetic runs for the tests of reports; each is built once and copied by whoever changes it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.synthetic import Plan, SyntheticRun, build
from reports.summary import summarise

PLANS = {
    "plain": Plan(),
    "open": Plan(rate_per_s=60.0),
    "ladder": Plan(steps=((5, 8.0), (20, 8.0), (60, 8.0))),
    "two_workers": Plan(workers=2, seed=3),
    "paced": Plan(gap_ms=20.0),
    "unacknowledged": Plan(gap_ms=20.0, window=0),
}


@pytest.fixture(scope="session")
def models() -> Callable[[str], SyntheticRun]:
    """A synthetic run by the name of its plan, in memory and free to change."""
    made: dict[str, SyntheticRun] = {}

    def get(name: str) -> SyntheticRun:
        if name not in made:
            made[name] = build(PLANS[name])
        return copy.deepcopy(made[name])

    return get


@pytest.fixture(scope="session")
def run_path(models: Callable[[str], SyntheticRun], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of an unchanged synthetic run; not to be written into."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = models(name).write(tmp_path_factory.mktemp("runs") / name)
        return made[name]

    return get


@pytest.fixture
def summary_of(tmp_path: Path) -> Callable[[SyntheticRun], dict[str, Any]]:
    """Write a (changed) synthetic run and summarise it."""
    written = []

    def get(model: SyntheticRun) -> dict[str, Any]:
        written.append(model)
        return summarise(model.write(tmp_path / f"run{len(written)}"))

    return get
