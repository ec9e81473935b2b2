"""What the harness read in one run beside the server's own stamps: the tokens of a run, each with the instant at which it was sent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from loadtest.run_directory import RunDirectory
from reports.load import Run, load_run
from reports.sample import Sample, rank, sample_rows
from reports.summary import summarise_run
from reports.window import make_batches

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
KEYS = ["worker", "conversation"]


@dataclass(frozen=True, slots=True)
class Reading:
    """One run as the report reads it, and its tokens and conversations with the truth beside them. Instants: ns since the run's origin.

    ``tokens``: worker, connection, conversation, sequence, arrival_ns, sent_ns (the server's stamp), gap_ns and sent_gap_ns (NaN for
    a first message), coalesced, clean (not tainted), steady (arrived in a second that counts).
    ``conversations``: worker, connection, conversation, sent_at_ns, ttft_ns, first_sent_ns, last_sent_ns, outcome, tainted, ...
    """

    run: Run
    summary: dict[str, Any]
    tokens: pd.DataFrame
    conversations: pd.DataFrame

    def read_tokens(self, metric: str) -> Sample:
        """A token metric as the report has it: histograms of the steady seconds, tainted conversations left out."""
        return self.run.histogram(metric).sample(make_batches(self.run.window.seconds, 0.0))

    def read_all_tokens(self, metric: str) -> Sample:
        """A token metric over the whole run, tainted or not."""
        seconds = np.unique(self.run.histogram(metric).second)
        return self.run.histogram(metric).sample(make_batches(seconds, 0.0), tainted=True)

    def read_conversations(self, metric: str) -> Sample:
        """A metric of conversations as the report has it: those that started in the window and are not tainted."""
        rows = self.run.conversations[self.run.in_window() & self.run.untainted()]
        values = rows[f"{metric}_ns"].to_numpy(dtype=np.float64)
        return sample_rows(values, np.zeros(len(values), np.int64), np.zeros(1, np.int64))

    def clean_conversations(self) -> pd.DataFrame:
        """The conversations that enter the figures."""
        table, window = self.conversations, self.run.window
        start = table["due_at_ns"].fillna(table["sent_at_ns"])
        return table[(start >= window.warm_up_end_ns) & (start < window.steady_end_ns) & ~table["tainted"]]

    def true_gaps(self) -> tuple[Floats, Floats]:
        """The gaps between the server's stamps in the steady seconds: of clean conversations, and of all.

        Both, for tokens that were recorded before a stall of the generator was noticed are in the histograms although their
        conversation is tainted by now: what the report shows lies between the two.
        """
        steady = self.tokens[self.tokens["steady"] & self.tokens["sent_gap_ns"].notna()]
        clean = steady[steady["clean"]]
        return clean["sent_gap_ns"].to_numpy(dtype=np.float64), steady["sent_gap_ns"].to_numpy(dtype=np.float64)


def read_run(path: Path) -> Reading:
    """Read a finished run; RunDirectoryError when that is not possible."""
    run = load_run(path)
    origin = int(run.metadata["origin_wall_ns"])
    directory = RunDirectory.open(path)
    conversations = directory.table("conversations").to_pandas()
    tokens = stamp_tokens(directory.table("tokens").to_pandas(), origin)
    tokens = tokens.merge(conversations[[*KEYS, "tainted"]], on=KEYS, how="left")
    tokens["clean"] = ~tokens.pop("tainted").fillna(True).astype(bool)
    tokens["steady"] = np.isin(tokens["arrival_ns"].to_numpy() // 10**9, run.window.seconds)
    spans = tokens.groupby(KEYS)["sent_ns"].agg(first_sent_ns="first", last_sent_ns="last").reset_index()
    return Reading(run, summarise_run(run), tokens, conversations.merge(spans, on=KEYS, how="left"))


def stamp_tokens(tokens: pd.DataFrame, origin_ns: int) -> pd.DataFrame:
    """The messages in order, with the server's stamp (the last field of a traced token, the first of a null server's) and both gaps."""
    ordered = tokens.sort_values([*KEYS, "sequence"], kind="stable").reset_index(drop=True)
    last = ordered["text"].astype(str).str.strip().str.rpartition(":")[2].str.partition(" ")[0]
    stamps = pd.to_numeric(last, errors="coerce")
    if len(stamps) and stamps.isna().any():
        raise ValueError(f"expected a server's stamp in every token, got {ordered['text'][stamps.isna()].iloc[0]!r}")
    ordered["sent_ns"] = stamps.astype(np.int64) - origin_ns
    ordered["arrival_ns"] = ordered["arrival_at_ns"]
    grouped = ordered.groupby(KEYS)
    ordered["gap_ns"] = grouped["arrival_ns"].diff()
    ordered["sent_gap_ns"] = grouped["sent_ns"].diff()
    return ordered


def quantile(values: Floats, q: float) -> float:
    """Nearest rank, as the report reads it; NaN of nothing."""
    if not len(values):
        return math.nan
    return float(np.partition(values, rank(q, len(values)) - 1)[rank(q, len(values)) - 1])


def spread(populations: Sequence[Floats], q: float, slack: float) -> tuple[float, float, float]:
    """The q-quantile of the first population, and the range of all quantiles from q - slack to q + slack in any of them."""
    low = min(quantile(values, max(0.0, q - slack)) for values in populations)
    high = max(quantile(values, min(1.0, q + slack)) for values in populations)
    return quantile(populations[0], q), low, high
