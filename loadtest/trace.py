"""Recorded traffic as a schedule: reads a trace (CSV or JSON lines) and replays its arrivals with their prompt and answer lengths.

Known by their columns: the Azure LLM inference traces (``TIMESTAMP``, ``ContextTokens``, ``GeneratedTokens``), Mooncake's
(``timestamp`` in ms, ``input_length``, ``output_length``), BurstGPT's (``Timestamp`` in s, ``Request tokens``, ``Response tokens``) and
generic names. Pure but for reading the file.
"""

from __future__ import annotations

import csv
import datetime
import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrivals import SECOND_NS, Arrival

Ints = npt.NDArray[np.int64]

UNITS = {"s": SECOND_NS, "ms": 1_000_000, "us": 1_000, "ns": 1}
SPREADS = ("random", "even", "none")
LEAST_TICK_NS = 1_000_000
"""A coarser grid than this shows in what is measured; a finer one is the resolution of a clock."""
_BLOCK = 4096
_TIMES = ("timestamp", "arrivaltime", "arrivedat", "arrival", "time", "starttime", "requesttimestamp", "relativetime", "offset")
_PROMPTS = (
    "contexttokens", "inputlength", "requesttokens", "prompttokens", "inputtokens", "promptlength", "promptlen", "inputlen",
    "numprefilltokens",
)  # fmt: skip
_ANSWERS = (
    "generatedtokens", "outputlength", "responsetokens", "outputtokens", "answertokens", "completiontokens", "outputlen",
    "numdecodetokens",
)  # fmt: skip
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?\s*(Z|[+-]\d\d:?\d\d)?")
_SUFFIX = re.compile(r"[ _(](ns|us|ms|s)\)?$", re.IGNORECASE)
_MOST_TOKENS = 10**9


class TraceError(Exception):
    """The file is no trace; the message says which line, what was expected and what was found."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Arrivals in the order of time: offsets from the first in ns, prompt and answer tokens (-1: not said).

    ``tick_ns``: the grid on which the recorded instants lie, 0 where there is none coarse enough to matter.
    """

    name: str
    offsets_ns: Ints
    prompt_tokens: Ints
    answer_tokens: Ints
    tick_ns: int = 0

    def __len__(self) -> int:
        return len(self.offsets_ns)

    @property
    def length_ns(self) -> int:
        """How long the trace lasts: to where its next arrival would be."""
        last = int(self.offsets_ns[-1])
        return last + (self.tick_ns or max(1, last // max(1, len(self) - 1)))


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """A trace as it is to be replayed: ``speed`` times as fast, from ``start_s`` of its own time on, over and over where ``repeat`` is set.

    ``spread`` says what becomes of instants that lie on a grid: drawn evenly over their tick (for a Poisson process the very
    distribution of its arrivals, given how many there were), put at equal distances in it, or left where they are.
    """

    trace: Trace
    speed: float = 1.0
    start_s: float = 0.0
    repeat: bool = False
    spread: str = "random"
    tick_ns: int | None = None

    def _part(self, seed: int) -> tuple[Ints, Ints, Ints, int]:
        """Offsets (as replayed), prompt and answer tokens, and the length of one turn, ns."""
        trace = self.trace
        tick = trace.tick_ns if self.tick_ns is None else self.tick_ns
        offsets = trace.offsets_ns
        if tick and self.spread != "none":
            offsets = spread(offsets, tick, self.spread, seed)
        start = round(self.start_s * SECOND_NS)
        first = int(np.searchsorted(offsets, start))
        replayed = ((offsets[first:] - start) / self.speed).astype(np.int64)
        return replayed, trace.prompt_tokens[first:], trace.answer_tokens[first:], math.ceil((trace.length_ns - start) / self.speed)

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        """The arrivals in order; the same for the same seed."""
        offsets, prompts, answers, turn_ns = self._part(seed)
        number, begin = 0, 0
        while len(offsets):
            for at in range(0, len(offsets), _BLOCK):
                block = slice(at, at + _BLOCK)
                for offset, prompt, answer in zip(offsets[block].tolist(), prompts[block].tolist(), answers[block].tolist(), strict=True):
                    yield Arrival(number, begin + offset, None if prompt < 0 else prompt, None if answer < 0 else answer)
                    number += 1
            if not self.repeat:
                return
            begin += turn_ns

    def expected(self, at_s: float, seed: int) -> float:
        """How many arrivals come before ``at_s`` of the replay."""
        offsets, _, _, turn_ns = self._part(seed)
        turns, rest = divmod(round(at_s * SECOND_NS), turn_ns) if self.repeat else (0, round(at_s * SECOND_NS))
        return float(turns * len(offsets) + int(np.searchsorted(offsets, rest)))


def spread(offsets_ns: Ints, tick_ns: int, how: str, seed: int) -> Ints:
    """Instants moved inside the ticks in which they lie, in their order: ``random`` (drawn from the seed) or ``even``."""
    ticks, place, counts = np.unique(offsets_ns // tick_ns, return_inverse=True, return_counts=True)
    if how == "random":
        share = np.random.Generator(np.random.PCG64([seed, 1])).random(len(offsets_ns))
        share = share[np.lexsort((share, place))]
    else:
        nth = np.arange(len(offsets_ns)) - np.repeat(np.cumsum(counts) - counts, counts)
        share = (nth + 0.5) / np.repeat(counts, counts)
    moved: Ints = ticks[place] * tick_ns + (share * tick_ns).astype(np.int64)
    return moved


def find_tick(offsets_ns: Ints) -> int:
    """The grid on which instants lie, ns: the greatest common divisor of their distances where some fall together; else 0."""
    distinct = np.unique(offsets_ns)
    if len(distinct) == len(offsets_ns) or len(distinct) < 2:
        return 0
    tick = int(np.gcd.reduce(np.diff(distinct)))
    return tick if tick >= LEAST_TICK_NS else 0


def read_trace(path: Path, unit: str = "auto") -> Trace:
    """A trace from a file of CSV with a header line, or of JSON objects, one a line; TraceError names the line that is wrong.

    ``unit``: of numeric times: s, ms, us, ns, or auto (by the column's name, ms for Mooncake's, else s). The last file read is kept.
    """
    try:
        stamp = path.stat()
        return _read(path, unit, stamp.st_mtime_ns, stamp.st_size)
    except OSError as error:
        raise TraceError(f"cannot read the trace {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TraceError(f"expected UTF-8 text in the trace {path}, found a byte that is none at offset {error.start}") from None


@functools.lru_cache(maxsize=1)
def _read(path: Path, unit: str, _changed_ns: int, _size: int) -> Trace:
    with path.open(encoding="utf-8-sig", newline="") as file:
        beginning = file.read(1)
        file.seek(0)
        rows = _json_rows(file, path) if beginning == "{" else _csv_rows(file, path)
        times: list[int] = []
        prompts: list[int] = []
        answers: list[int] = []
        columns: _Columns | None = None
        for line, row in rows:
            columns = columns or _Columns(list(row), unit, path)
            times.append(columns.instant(row, line))
            prompts.append(columns.tokens(row, columns.prompt, line))
            answers.append(columns.tokens(row, columns.answer, line))
    if not times:
        raise TraceError(f"expected at least one arrival in the trace {path}, found none")
    at = np.array(times, dtype=np.int64)
    order = np.argsort(at, kind="stable")
    at = at[order] - at.min()
    return Trace(path.name, at, np.array(prompts, dtype=np.int64)[order], np.array(answers, dtype=np.int64)[order], find_tick(at))


class _Columns:
    """Which columns of a trace say what."""

    def __init__(self, names: Sequence[str], unit: str, path: Path) -> None:
        self._path = path
        self.time = _find(names, _TIMES)
        self.prompt = _find(names, _PROMPTS)
        self.answer = _find(names, _ANSWERS)
        if self.time is None:
            raise TraceError(
                f"expected a column with the instant of arrival (such as TIMESTAMP, timestamp or arrival_time) in line 1 of {path}, "
                f"found {', '.join(names) if names else 'none'}"
            )
        suffix = _SUFFIX.search(self.time)
        if unit != "auto":
            self._scale = UNITS[unit]
        elif suffix is not None:
            self._scale = UNITS[suffix[1].lower()]
        else:
            # Mooncake's names, whose times are milliseconds.
            self._scale = UNITS["ms" if (self.time, self.prompt) == ("timestamp", "input_length") else "s"]

    def instant(self, row: Mapping[str, Any], line: int) -> int:
        found = row.get(self.time or "")
        try:
            if isinstance(found, str) and (moment := _MOMENT.fullmatch(found.strip())):
                return _nanoseconds(moment)
            if isinstance(found, int) or (isinstance(found, str) and found.strip().lstrip("-").isdigit()):
                return int(found) * self._scale
            if isinstance(found, str | float) and math.isfinite(float(found)):
                return round(float(found) * self._scale)
        except ValueError:
            pass
        raise TraceError(
            f"line {line} of {self._path}: expected in {self.time} a number or an instant such as 2023-11-16 18:15:46.68, found {found!r}"
        )

    def tokens(self, row: Mapping[str, Any], column: str | None, line: int) -> int:
        if column is None:
            return -1
        found = row.get(column)
        if found is None or found == "":
            return -1
        try:
            count = float(found) if not isinstance(found, bool) else -1.0
        except (TypeError, ValueError):
            count = -1.0
        if not 0 <= count <= _MOST_TOKENS or count != int(count):
            raise TraceError(f"line {line} of {self._path}: expected in {column} a whole number of tokens, found {found!r}")
        return int(count)


def _find(names: Sequence[str], known: Sequence[str]) -> str | None:
    """The first column that has one of the known names, whatever its case, blanks and a unit behind it."""
    plain = {re.sub(r"[^a-z]", "", _SUFFIX.sub("", name).lower()): name for name in reversed(names)}
    return next((plain[name] for name in known if name in plain), None)


def _nanoseconds(moment: re.Match[str]) -> int:
    day, clock, fraction, zone = moment.groups()
    at = datetime.datetime.fromisoformat(f"{day}T{clock}{zone or '+00:00'}")
    return round(at.timestamp()) * SECOND_NS + int((fraction or "0").ljust(9, "0"))


def _csv_rows(file: Any, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(file, strict=True)
    try:
        width = len(reader.fieldnames or ())
        for row in reader:
            if None in row or None in row.values():
                raise TraceError(f"line {reader.line_num} of {path}: expected {width} fields, found another number")
            yield reader.line_num, row
    except csv.Error as error:
        raise TraceError(f"line {reader.reader.line_num} of {path} is not CSV: {error}") from None


def _json_rows(file: Any, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text.rstrip())
        except json.JSONDecodeError as error:
            raise TraceError(f"line {line} of {path} is not JSON: {error.msg} at column {error.colno}") from None
        if not isinstance(row, dict):
            raise TraceError(f"line {line} of {path}: expected a JSON object, found {type(row).__name__}")
        yield line, row
