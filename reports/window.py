"""Which instants count: the steady window, its whole seconds, the seconds of each step, and the batches for the intervals.

A conversation belongs to the window that holds its start (due, else sent). Tokens belong by arrival, in whole seconds that lie
inside the window. Of each step the first part is dropped (``settle_s``), and a second counts for a step only while its number of
users was running.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Ints = npt.NDArray[np.int64]

SETTLE_S = 1.0
"""Least time dropped at the start of a step: connections made for it open and send their first prompts then."""
SETTLE_SHARE = 0.1
"""And no less than this share of the step."""
BATCHES = 30
"""Aimed at: enough for a t quantile near the normal one, few enough that a batch holds a whole conversation."""

SPANS = 240
"""Points of a series over time; more cannot be told apart on a page."""
PARTS = 4
"""Parts of such a point that a long run's histograms are kept in."""


@dataclass(frozen=True, slots=True)
class Step:
    """A level of users and the whole seconds that count for it."""

    users: int
    start_s: float
    end_s: float
    settle_s: float
    seconds: Ints


@dataclass(frozen=True, slots=True)
class Window:
    """Nanoseconds since the run's origin, the steady window's whole seconds, and the steps inside."""

    warm_up_end_ns: int
    steady_end_ns: int
    drain_end_ns: int
    seconds: Ints
    steps: tuple[Step, ...]

    @property
    def steady_s(self) -> float:
        """Length of the steady window in seconds."""
        return max(0, self.steady_end_ns - self.warm_up_end_ns) / 1e9

    @property
    def end_s(self) -> int:
        """Seconds from the origin to the end of the drain, the last one whole."""
        return max(1, -(-self.drain_end_ns // 10**9))

    @property
    def span_s(self) -> int:
        """Length of what one point of a series over time stands for."""
        return max(1, -(-self.end_s // SPANS))


def spans_of(window: Window) -> Ints | None:
    """The first second of the span that each second's histograms may be merged into; None where each stands for itself.

    A span lies in one point of every series over time, and wholly in or out of the steady window and of the seconds of a step. So only
    the edges of batches can be off, by less than a span: a thousandth part of the run, where a batch is a thirtieth.
    """
    if window.span_s <= PARTS:
        return None
    second = np.arange(window.end_s, dtype=np.int64)
    kind = np.isin(second, window.seconds).astype(np.int64)
    for number, step in enumerate(window.steps, start=2):
        kind[np.isin(second, step.seconds)] = number
    part = (second // window.span_s) * PARTS + second % window.span_s * PARTS // window.span_s
    begins = np.ones(len(second), dtype=bool)
    begins[1:] = (np.diff(part) != 0) | (np.diff(kind) != 0)
    return np.maximum.accumulate(np.where(begins, second, 0))


def read_window(metadata: Mapping[str, Any], intervals: pd.DataFrame) -> Window:
    """The window that ``run.json`` states; where it states none (a run that was killed), everything that was recorded."""
    stated = metadata.get("window") or {}
    last = int(intervals["second"].max()) + 1 if len(intervals) else 0
    warm_up = int(stated.get("warm_up_end_at_ns") or 0)
    steady = int(stated.get("steady_end_at_ns") or last * 10**9)
    drain = max(steady, int(stated.get("drain_end_at_ns") or last * 10**9))
    seconds = np.arange(math.ceil(warm_up / 1e9), steady // 10**9, dtype=np.int64)
    return Window(warm_up, steady, drain, seconds, _read_steps(metadata.get("steps") or [], warm_up, steady, intervals))


def _read_steps(stated: list[Mapping[str, Any]], warm_up_ns: int, steady_ns: int, intervals: pd.DataFrame) -> tuple[Step, ...]:
    users_then = intervals.groupby("second")["users"].sum(min_count=1) if len(intervals) else pd.Series(dtype=float)
    steps = []
    for number, step in enumerate(stated):
        start = max(int(step["at_ns"]), warm_up_ns)
        end = min(int(stated[number + 1]["at_ns"]), steady_ns) if number + 1 < len(stated) else steady_ns
        length = max(0, end - start) / 1e9
        settle = max(SETTLE_S, SETTLE_SHARE * length)
        seconds = np.arange(math.ceil(start / 1e9 + settle), end // 10**9, dtype=np.int64)
        then = users_then.reindex(seconds)
        seconds = seconds[((then == int(step["users"])) | then.isna()).to_numpy(dtype=bool)]
        steps.append(Step(int(step["users"]), start / 1e9, end / 1e9, settle, seconds))
    return tuple(steps)


@dataclass(frozen=True, slots=True)
class Batches:
    """Batch number of each whole second of a window, the stratum of each batch, and the least batch length asked for."""

    seconds: Ints
    number: Ints
    strata: Ints
    length_s: int

    def of_seconds(self, seconds: npt.ArrayLike) -> Ints:
        """Batch number of each second; -1 for a second in none."""
        asked = np.asarray(seconds, dtype=np.int64)
        if not len(self.seconds):
            return np.full(len(asked), -1, np.int64)
        position = np.clip(np.searchsorted(self.seconds, asked), 0, len(self.seconds) - 1)
        return np.where(self.seconds[position] == asked, self.number[position], -1)

    def of_instants(self, at_ns: npt.ArrayLike) -> Ints:
        """Batch number of each instant; an instant in the cut-off part of an edge second goes to the batch beside it."""
        asked = np.floor(np.asarray(at_ns, dtype=np.float64) / 1e9).astype(np.int64)
        if not len(self.seconds):
            return np.full(len(asked), -1, np.int64)
        return self.of_seconds(np.clip(asked, self.seconds[0], self.seconds[-1]))


def make_batches(seconds: Ints, typical_s: float, steps: tuple[Step, ...] = ()) -> Batches:
    """Cut whole seconds into about thirty batches, each no shorter than ``typical_s`` (a conversation), none across a step."""
    if not len(seconds):
        return Batches(seconds, np.zeros(0, np.int64), np.zeros(0, np.int64), 1)
    stratum = np.zeros(len(seconds), np.int64)
    if len(steps) > 1:
        stratum = np.searchsorted(np.asarray([step.start_s for step in steps]), seconds, "right").astype(np.int64)
    _, stratum = np.unique(stratum, return_inverse=True)
    length = max(1, math.ceil(typical_s), math.ceil(len(seconds) / BATCHES))
    number, strata = np.zeros(len(seconds), np.int64), list[int]()
    for level in range(int(stratum.max()) + 1):
        inside = np.flatnonzero(stratum == level)
        for piece in np.array_split(inside, max(1, len(inside) // length)):
            number[piece] = len(strata)
            strata.append(level)
    return Batches(seconds, number, np.asarray(strata, dtype=np.int64), length)
