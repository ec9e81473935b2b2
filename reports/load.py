"""Reads a run directory into tables for pandas and mergeable histograms, from Parquet or from the raw files' good prefix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from loadtest.metrics import BEHAVIOURS
from loadtest.raw_file import RawFile
from loadtest.run_directory import RunDirectory, RunDirectoryError
from loadtest.tables import COUNTERS, GAUGES, TABLES

from .histograms import NO_HISTOGRAMS, SecondHistograms, read_histograms
from .window import Window, read_window, spans_of

RUNS = Path("runs")


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
        return self.histograms.get(metric, NO_HISTOGRAMS)

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
        window = read_window(metadata, intervals)
        histograms = read_histograms(directory.portions("histograms"), several, spans_of(window))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise RunDirectoryError(f"cannot read the tables of {path}: {error}") from None
    return Run(path, metadata, conversations, connections, intervals, fairness, histograms, raw_files, window)


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
