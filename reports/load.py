"""Reads a run directory into tables for pandas and mergeable histograms, from Parquet or from the raw files' good prefix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from loadtest.histogram import bucket_bounds
from loadtest.metrics import BEHAVIOURS
from loadtest.raw_file import RawFile
from loadtest.run_directory import RunDirectory, RunDirectoryError
from loadtest.tables import COUNTERS, GAUGES, TABLES

from .sample import Sample
from .window import Batches, Window, read_window

Ints = npt.NDArray[np.int64]

RUNS = Path("runs")
GAPS = ("itl", "inter_chunk")
"""Names of the gaps between arrivals: until a worker sees a message with several tokens it writes the first."""
PORTION = 1 << 21
"""Entries of histograms that are sorted at a time."""


@dataclass(frozen=True, slots=True)
class SecondHistograms:
    """One metric's histograms: a row a worker and second; entries are flat, ``row`` says to which row each belongs."""

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
_NO_HISTOGRAMS = SecondHistograms(_NO_ROWS, np.zeros(0, bool), _NO_ROWS, _NO_ROWS, _NO_ROWS, _NO_ENTRIES, _NO_ENTRIES, _NO_ROWS)


@dataclass(frozen=True, slots=True)
class Run:
    """One run in memory. Instants are nanoseconds since its origin; absent numbers are NaN."""

    path: Path
    metadata: dict[str, Any]
    conversations: pd.DataFrame
    connections: pd.DataFrame
    intervals: pd.DataFrame
    fairness: pd.DataFrame
    histograms: Mapping[str, SecondHistograms]
    raw_files: tuple[RawFile, ...]
    window: Window

    def histogram(self, metric: str) -> SecondHistograms:
        """The histograms of a metric, possibly without rows."""
        return self.histograms.get(metric, _NO_HISTOGRAMS)

    @property
    def gap_metric(self) -> str:
        """What the gaps between arrivals are called: ``inter_chunk`` as soon as any message carried several tokens."""
        return "inter_chunk" if "inter_chunk" in self.histograms else "itl"

    def starts_ns(self) -> npt.NDArray[np.float64]:
        """When each conversation was due, else sent."""
        table = self.conversations
        return table["due_at_ns"].fillna(table["sent_at_ns"]).to_numpy(dtype=np.float64)

    def in_window(self) -> npt.NDArray[np.bool_]:
        """Which conversations count for the steady window: those that started in it."""
        start = self.starts_ns()
        return np.asarray((start >= self.window.warm_up_end_ns) & (start < self.window.steady_end_ns), dtype=bool)

    def untainted(self) -> npt.NDArray[np.bool_]:
        """Which conversations may enter the target's figures."""
        return ~self.conversations["tainted"].to_numpy(dtype=bool)

    def set_apart(self) -> npt.NDArray[np.bool_]:
        """Which conversations are tainted because their users misbehaved as they were told."""
        return np.asarray(self.conversations["taint"].isin(tuple(BEHAVIOURS)), dtype=bool)

    def per_second(self) -> pd.DataFrame:
        """Counters and gauges summed over workers, the server's own as read last; a row a second, indexed by it, without gaps."""
        ours, servers = [*COUNTERS, *GAUGES], ["server_open", "server_streaming", "server_tokens", "server_cpu_ns", "server_rss_bytes"]
        if not len(self.intervals):
            return pd.DataFrame(columns=ours + servers)
        by_second = self.intervals.groupby("second")
        # min_count: a second in which nobody wrote a gauge has none, which is not the same as zero.
        table = by_second[ours].sum(min_count=1).join(by_second[servers].last())
        return table.reindex(range(int(table.index.min()), int(table.index.max()) + 1))


_CONVERSATION_COLUMNS = [
    name for name in TABLES["conversations"].names
    if name not in {"error_detail", "received_bytes", "conversation", "connection", "users", "messages", "window"}
]  # fmt: skip


def find_run(name: str | None, runs: Path = RUNS) -> Path:
    """The run directory meant by ``name``: a path, a name under ``runs``, or (None, "latest") the newest one there."""
    if name in {None, "", "latest"}:
        # A run stands under runs/ itself or in the folder of its suite.
        found = [path.parent for depth in ("*", "*/*") for path in runs.glob(f"{depth}/run.json")]
        if not found:
            raise RunDirectoryError(f"expected a run under {runs}/, found none; name a run directory, or run a benchmark first")
        return max(found, key=lambda path: ((path / "run.json").stat().st_ctime_ns, path.name))
    path = Path(str(name))
    if not path.exists() and (runs / path).is_dir():
        path = runs / path
    if not path.exists():
        raise RunDirectoryError(f"expected a run directory, but {path} does not exist; name one, or leave it out for the newest")
    return path


def load_run(path: Path) -> Run:
    """Read the run directory ``path``; RunDirectoryError when it is none, damaged, or of a newer schema."""
    # Arrow's own pool keeps what it has freed: of a long run that is as much again as the run itself.
    pa.set_memory_pool(pa.system_memory_pool())
    directory = RunDirectory.open(path)
    metadata = directory.metadata()
    try:
        intervals = _frame(directory.table("intervals"))
        several = len(intervals) > 0 and int(intervals["tokens"].sum()) > int(intervals["messages"].sum())
        conversations = _read_conversations(directory, _CONVERSATION_COLUMNS + ["messages"] * several)
        raw_files = tuple(directory.raw_files)
        connections = _frame(directory.table("connections"))
        fairness = _frame(directory.table("fairness"))
        histograms = _read_histograms(directory.table("histograms"), several)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise RunDirectoryError(f"cannot read the tables of {path}: {error}") from None
    return Run(path, metadata, conversations, connections, intervals, fairness, histograms, raw_files, read_window(metadata, intervals))


def error_examples(path: Path, table: str) -> pd.DataFrame:
    """Rows (error, error_detail) of ``table`` that ended in an error."""
    whole = RunDirectory.open(path).table(table, ["error", "error_detail"])
    return _frame(whole.filter(pc.is_valid(whole["error"])))


def _read_conversations(directory: RunDirectory, columns: list[str]) -> pd.DataFrame:
    """The conversations, column by column where they stand in a Parquet file: a million of them at once would be held twice over."""
    if not (directory.path / "conversations.parquet").exists():
        return _frame(directory.table("conversations", columns))
    made = {}
    for column in columns:
        made[column] = _frame(directory.table("conversations", [column]))[column]
    return pd.DataFrame(made, copy=False)


def _frame(table: pa.Table) -> pd.DataFrame:
    """Text as categories, integers with gaps as floats with NaN (exact below 2**53 ns = 104 days)."""
    for number, column in enumerate(table.schema):
        if pa.types.is_string(column.type):
            table = table.set_column(number, column.name, table[column.name].combine_chunks().dictionary_encode())
        elif pa.types.is_int64(column.type) and column.nullable:
            table = table.set_column(number, column.name, pc.cast(table[column.name], pa.float64(), safe=False))
    frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    return frame


def _read_histograms(table: pa.Table, several: bool) -> dict[str, SecondHistograms]:
    """Each metric's histograms; ``several``: a message carried several tokens, so that no gap of the run is one between tokens."""
    out = {}
    for metric in pc.unique(table["metric"]).to_pylist():
        rows, name = pc.equal(table["metric"], metric), metric
        if several and metric in GAPS:
            if GAPS[0] in out or GAPS[1] in out:
                continue
            rows, name = pc.is_in(table["metric"], pa.array(GAPS)), "inter_chunk"
        part = table.filter(rows).combine_chunks()
        lengths = pc.list_value_length(part["index"]).to_numpy().astype(np.int64)
        out[name] = SecondHistograms(
            second=part["second"].to_numpy(),
            tainted=part["tainted"].to_numpy(),
            total=part["total"].to_numpy(),
            minimum=part["minimum"].to_numpy(),
            maximum=part["maximum"].to_numpy(),
            row=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
            bucket=pc.list_flatten(part["index"]).to_numpy(),
            count=pc.list_flatten(part["count"]).to_numpy(),
        )
    return out
