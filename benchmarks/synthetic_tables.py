"""What a worker's other tables say, given its conversations and tokens: the second half of ``synthetic.py``'s model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from loadtest.fairness import Shares
from loadtest.histogram import bucket_index
from loadtest.tables import COUNTERS, GAUGES

if TYPE_CHECKING:
    from .synthetic import Plan

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Columns = dict[str, Any]

STALL_S, READER_FIRST_S, READER_GAP_S = 0.25, 0.03, 0.015
"""Yardsticks of the model, short enough that some of its tokens are late."""


def to_ns(seconds: Floats) -> Floats:
    """Whole nanoseconds of seconds; absent values stay absent."""
    return np.round(seconds * 1e9)


@dataclass(slots=True)
class TokenRows:
    """One row a token, seconds: who, when it arrived, and what was measured on it."""

    conversation: Ints
    first: npt.NDArray[np.bool_]
    arrival: Floats
    latency: Floats
    lag: Floats


def count_late(since: Floats, owner: Ints, keep: npt.NDArray[np.bool_], offsets: Ints) -> Ints:
    """Tokens of each conversation after a reader's deadline: those further beyond their first deadline than every one before them."""
    place = np.arange(len(owner)) - offsets[owner]
    beyond = np.where(keep, since - READER_FIRST_S - place * READER_GAP_S, 0.0).clip(0, 1000)
    # Conversations stand one above the other, so that one running maximum serves them all.
    level = np.round(beyond * 1e9).astype(np.int64) + (owner << 40)
    earlier = np.concatenate([[0], np.maximum.accumulate(level)[:-1]])
    earlier[offsets] = owner[offsets] << 40
    return np.bincount(owner[keep & (level > earlier)], minlength=len(offsets))


def fairness_of(name: str, rows: Columns, flat: TokenRows) -> Columns:
    """What a worker would have written about fairness."""
    shares = Shares()
    shares.add(flat.conversation, np.floor(flat.arrival).astype(np.int64), np.ones(len(flat.arrival), np.int64))
    end_ns, last_ns = (np.asarray(rows[key], dtype=np.float64) for key in ("end_at_ns", "last_token_at_ns"))
    ended = np.where(np.isnan(end_ns), last_ns, end_ns)
    known = ~np.isnan(ended)
    for conversation, second in zip(np.flatnonzero(known).tolist(), (ended[known] // 1e9).astype(int).tolist(), strict=True):
        shares.end(conversation, second)
    found = shares.take()
    columns: Columns = {
        key: [row[key] for row in found] for key in ("second", "length_s", "conversations", "served", "tokens", "tokens_squared")
    }
    return {"worker": [name] * len(found), **columns}


def encode_seconds(worker: str, metric: str, at_s: npt.ArrayLike, values_ns: Floats) -> Columns:
    """Rows of the histogram table for values that fell at the given instants."""
    sound = ~np.isnan(values_ns)
    seconds, values = np.floor(np.asarray(at_s, dtype=np.float64)[sound]).astype(np.int64), np.round(values_ns[sound]).astype(np.int64)
    order = np.argsort(seconds, kind="stable")
    seconds, values = seconds[order], values[order]
    names, begin = np.unique(seconds, return_index=True)
    columns: Columns = {key: [] for key in ("worker", "second", "metric", "tainted", "index", "count", "total", "minimum", "maximum")}
    for second, piece in zip(names.tolist(), np.split(values, begin[1:]) if len(names) else [], strict=True):
        index, counts = np.unique(bucket_index(piece), return_counts=True)
        row = (worker, second, metric, False, index.astype(np.int32), counts, int(piece.sum()), int(piece.min()), int(piece.max()))
        for key, value in zip(columns, row, strict=True):
            columns[key].append(value)
    return columns


def histograms_of(plan: Plan, name: str, rows: Columns, flat: TokenRows, connections: Columns) -> Columns:
    """What a worker would have counted into histograms, second by second."""
    order = np.lexsort((flat.arrival, flat.conversation))
    for key in ("conversation", "first", "arrival", "latency", "lag"):
        setattr(flat, key, getattr(flat, key)[order])
    gap = np.diff(flat.arrival, prepend=0.0)
    due: Floats = rows["due_at_ns"]
    starts = np.where(np.isnan(due), rows["sent_at_ns"], due) / 1e9
    later = ~flat.first
    parts = [
        encode_seconds(name, "itl", flat.arrival[later], to_ns(gap[later])),
        encode_seconds(name, "receive_lag", flat.arrival, to_ns(flat.lag)),
        encode_seconds(name, "connect_time", connections["opened_at_ns"] / 1e9, connections["connect_time_ns"]),
    ]
    if plan.window:
        parts.append(encode_seconds(name, "token_latency", flat.arrival[later], to_ns(flat.latency[later])))
    for metric in ("ttft", "ttft_due", "e2e", "e2e_due", "tpot", "longest_stall", "stop_latency", "send_delay"):
        parts.append(encode_seconds(name, metric, starts, rows[f"{metric}_ns"]))
    return {key: [value for part in parts for value in part[key]] for key in parts[0]}


def intervals_of(plan: Plan, name: str, rng: np.random.Generator, rows: Columns, flat: TokenRows, connections: Columns) -> Columns:
    """What a worker would have counted, second by second, and its gauges at the end of each."""
    seconds = int(np.ceil(plan.end_s + plan.drain_s))

    def tally(at_s: Floats) -> Ints:
        at = np.floor(at_s[~np.isnan(at_s)]).astype(np.int64)
        return np.bincount(np.clip(at, 0, seconds - 1), minlength=seconds).astype(np.int64)

    sent, end = rows["sent_at_ns"] / 1e9, rows["end_at_ns"] / 1e9
    outcome = rows["outcome"]
    finish = np.where(np.isnan(end), plan.end_s + plan.drain_s - 1e-6, end)
    columns: Columns = {key: np.zeros(seconds, np.int64) for key in COUNTERS}
    columns["tokens"] = tally(flat.arrival)
    columns["messages"] = columns["tokens"]
    columns["acks_sent"] = columns["tokens"] if plan.window else np.zeros(seconds, np.int64)
    columns["stops_sent"] = tally(rows["stop_sent_at_ns"] / 1e9)
    columns["conversations_started"] = tally(sent)
    for kind in ("completed", "stopped", "failed", "abandoned"):
        columns[f"conversations_{kind}"] = tally(finish[outcome == kind])
    opened, closed = connections["opened_at_ns"] / 1e9, connections["closed_at_ns"] / 1e9
    columns["connects_attempted"] = columns["connects_succeeded"] = tally(opened)
    columns["closed_clean"] = tally(closed)
    if plan.rate_per_s is not None:
        columns["arrivals_due"] = tally(rows["due_at_ns"] / 1e9)
    edge = np.arange(1, seconds + 1)
    open_now = np.searchsorted(np.sort(opened), edge) - np.searchsorted(np.sort(closed), edge)
    streaming = np.searchsorted(np.sort(sent), edge) - np.searchsorted(np.sort(finish), edge)
    gauges: Mapping[str, Ints] = {
        "users": np.where(edge <= plan.end_s, np.searchsorted(np.sort(opened), edge), 0), "opening": np.zeros(seconds, np.int64),
        "open": open_now, "streaming": streaming,
    }  # fmt: skip
    assert set(gauges) == set(GAUGES)
    worst = np.zeros(seconds)
    np.maximum.at(worst, np.clip(np.floor(flat.arrival).astype(np.int64), 0, seconds - 1), flat.lag)
    columns |= gauges
    columns |= {
        "worker": [name] * seconds, "second": np.arange(seconds), "covered_ns": np.full(seconds, 1_000_000_000),
        "cpu_ns": (columns["messages"] * 9_000 + rng.integers(5_000_000, 15_000_000, seconds)).clip(max=850_000_000),
        "rss_bytes": 90_000_000 + open_now * 12_000, "loop_lag_max_ns": to_ns(worst + rng.exponential(4e-4, seconds)),
        "receive_lag_max_ns": to_ns(worst),
    }  # fmt: skip
    if plan.scraped and name == "w0":
        columns |= {"server_open": open_now * plan.workers, "server_streaming": streaming * plan.workers}
        columns |= {"server_cpu_ns": np.cumsum((columns["tokens"] * plan.workers * 41_000).clip(max=850_000_000))}
        columns |= {"server_rss_bytes": 60_000_000 + open_now * 30_000, "server_tokens": np.cumsum(columns["tokens"]) * plan.workers}
    return columns
