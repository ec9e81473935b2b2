"""A run's histograms as its report needs them: merged over workers and seconds, as one sample or as lines over time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from loadtest.histogram import bucket_bounds

from .sample import Sample
from .window import Batches

Ints = npt.NDArray[np.int64]

GAPS = ("itl", "inter_chunk")
"""Names of the gaps between arrivals: until a worker sees a message with several tokens it writes the first."""
PORTION = 1 << 21
"""Entries of histograms that are sorted at a time."""
GRID = 1 << 24
"""Cells that are counted in a grid; what has more is sorted."""


@dataclass(frozen=True, slots=True)
class SecondHistograms:
    """One metric's histograms: a row a worker and second (of a long run: a span of seconds, known by its first); entries are flat,
    ``row`` says to which row each belongs.
    """

    second: Ints
    tainted: npt.NDArray[np.bool_]
    total: Ints
    minimum: Ints
    maximum: Ints
    row: npt.NDArray[np.int32]
    bucket: npt.NDArray[np.int32]
    count: Ints

    def sample(self, batches: Batches, *, tainted: bool = False) -> Sample:
        """The merged sample of the seconds that ``batches`` hold; ``tainted``: with the tainted rows too."""
        row_batch = batches.of_seconds(self.second)
        rows = (row_batch >= 0) & (~self.tainted | tainted)
        if not rows.any():
            return Sample(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64), batches.strata, 0.0, 0.0, 0.0)
        # Values first, then batch: the sample has to rise. A dense grid would be mostly zeros; a sort of the used cells is not.
        width = len(batches.strata)
        cell, counts = self._tally(rows, lambda row, bucket: bucket * width + row_batch[row])
        low, high = bucket_bounds(cell // width)
        return Sample(
            ((low + high) // 2).astype(np.float64), counts, cell % width, batches.strata, float(self.total[rows].sum()),
            float(self.minimum[rows].min()), float(self.maximum[rows].max()),
        )  # fmt: skip

    def _tally(self, rows: npt.NDArray[np.bool_], number: Callable[[Ints, Ints], Ints]) -> tuple[Ints, Ints]:
        """Cells in rising order and their counts, of the entries of ``rows``; in portions, so that a long run needs no copies of itself."""
        cells, counts = [], []
        for start in range(0, len(self.row), PORTION):
            row = self.row[start : start + PORTION]
            kept = rows[row]
            bucket, count = self.bucket[start : start + PORTION][kept], self.count[start : start + PORTION][kept]
            numbers: Ints = number(row[kept].astype(np.int64), bucket.astype(np.int64))
            cell, inverse = np.unique(numbers, return_inverse=True)
            cells.append(cell)
            counts.append(np.bincount(inverse, weights=count).astype(np.int64))
        if len(cells) < 2:
            return (cells[0], counts[0]) if cells else (_NO_ROWS, _NO_ROWS)
        whole, inverse = np.unique(np.concatenate(cells), return_inverse=True)
        return whole, np.bincount(inverse, weights=np.concatenate(counts)).astype(np.int64)

    def quantiles_over_time(self, edges: Ints, qs: tuple[float, ...], *, tainted: bool = False) -> npt.NDArray[np.float64]:
        """Nearest-rank quantiles of each span of seconds [edges[i], edges[i+1]): shape (spans, qs), NaN where a span is empty."""
        spans = len(edges) - 1
        span = np.searchsorted(edges, self.second, "right") - 1
        rows = (span >= 0) & (span < spans) & (~self.tainted | tainted)
        out = np.full((spans, len(qs)), np.nan)
        if not rows.any():
            return out
        width = int(self.bucket.max()) + 1
        cell, counts = self._tally(rows, lambda row, bucket: span[row] * width + bucket)
        low, high = bucket_bounds(cell % width)
        middle = (low + high) // 2
        begins = np.searchsorted(cell, np.arange(spans + 1) * width)
        for i in np.flatnonzero(np.diff(begins)):
            part = slice(begins[i], begins[i + 1])
            cumulative = np.cumsum(counts[part])
            ranks = np.clip(np.ceil(np.round(np.asarray(qs) * cumulative[-1], 9)), 1, cumulative[-1])
            out[i] = middle[part][np.searchsorted(cumulative, ranks)]
        return out


_NO_ROWS = np.zeros(0, np.int64)
_NO_ENTRIES = np.zeros(0, np.int32)
NO_HISTOGRAMS = SecondHistograms(_NO_ROWS, np.zeros(0, bool), _NO_ROWS, _NO_ROWS, _NO_ROWS, _NO_ENTRIES, _NO_ENTRIES, _NO_ROWS)


def read_histograms(portions: Iterable[pa.Table], several: bool, spans: Ints | None) -> dict[str, SecondHistograms]:
    """Each metric's histograms; ``several``: a message carried several tokens, so that no gap of the run is one between tokens.

    ``spans``: the first second of the span that each second lies in, where seconds are to be merged; None: they stay as they are.
    """
    found: dict[str, list[SecondHistograms]] = {}
    for portion in portions:
        for metric in pc.unique(portion["metric"]).to_pylist():
            part = _read(portion.filter(pc.equal(portion["metric"], metric)).combine_chunks())
            name = "inter_chunk" if several and metric in GAPS else metric
            found.setdefault(name, []).append(part if spans is None else _merged(part, spans))
    return {name: _joined(parts) for name, parts in found.items()}


def _read(part: pa.Table) -> SecondHistograms:
    lengths = pc.list_value_length(part["index"]).to_numpy().astype(np.int64)
    return SecondHistograms(
        second=part["second"].to_numpy(),
        tainted=part["tainted"].to_numpy(),
        total=part["total"].to_numpy(),
        minimum=part["minimum"].to_numpy(),
        maximum=part["maximum"].to_numpy(),
        row=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        bucket=pc.list_flatten(part["index"]).to_numpy(),
        count=pc.list_flatten(part["count"]).to_numpy(),
    )


def _merged(part: SecondHistograms, spans: Ints) -> SecondHistograms:
    """The same values with one row for each span, tainted and not: counts, sums and extremes stay exact."""
    inside = (part.second >= 0) & (part.second < len(spans))
    first = np.where(inside, spans[np.where(inside, part.second, 0)], part.second)
    key, row = np.unique(2 * first + part.tainted, return_inverse=True)
    total = np.zeros(len(key), np.int64)
    np.add.at(total, row, part.total)
    minimum, maximum = np.full(len(key), np.iinfo(np.int64).max), np.zeros(len(key), np.int64)
    np.minimum.at(minimum, row, part.minimum)
    np.maximum.at(maximum, row, part.maximum)
    width = int(part.bucket.max(initial=0)) + 1
    number = row[part.row].astype(np.int64) * width + part.bucket
    if len(key) * width <= GRID:
        grid = np.bincount(number, weights=part.count, minlength=len(key) * width)
        cell = np.flatnonzero(grid)
        count = grid[cell].astype(np.int64)
    else:
        cell, inverse = np.unique(number, return_inverse=True)
        count = np.bincount(inverse, weights=part.count).astype(np.int64)
    return SecondHistograms(
        key // 2, key % 2 == 1, total, minimum, maximum, (cell // width).astype(np.int32), (cell % width).astype(np.int32), count
    )


def _joined(parts: list[SecondHistograms]) -> SecondHistograms:
    """All rows of the parts, one after the other; the parts are let go of on the way."""
    if len(parts) == 1:
        return parts[0]
    rows = np.cumsum([0, *(len(part.second) for part in parts)])
    columns: dict[str, Any] = {"row": np.concatenate([part.row + np.int32(begin) for part, begin in zip(parts, rows, strict=False)])}
    for name in ("second", "tainted", "total", "minimum", "maximum", "bucket", "count"):
        columns[name] = np.concatenate([getattr(part, name) for part in parts])
    parts.clear()
    return SecondHistograms(**columns)
