"""Turns a run directory into ``summary.json``: figures, counts, rates, steps and the verdict of validity.

Rules. A conversation counts for the steady window when it started in it (due, else sent); tokens count by the whole second of their
arrival inside it. Tainted conversations are counted and kept out of the target's figures. Connects are measured over the whole run,
for most connections open before the window does. Values are in stored units (``unit``: ns, 1, 1/s); shares are of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from loadtest.objectives import Objective

from .counts import count_behaviours, count_connections, count_conversations, count_tokens, list_errors, measure_load, read_server
from .goodput import measure_goodput, stated_limits
from .holding import measure_holding
from .instrument import measure_instrument
from .load import Run, load_run
from .measures import Censored, measure
from .sample import Sample, conversation_effect, sample_rows
from .shares import measure_dropped, measure_errors
from .smoothness import measure_fairness, measure_fluidity, measure_service, measure_stalls
from .steady import settled_at
from .thresholds import Asked, judge_thresholds, stated_thresholds
from .validity import judge
from .window import Batches, Step, make_batches

SCHEMA_VERSION = 2
# 1: first. 2: goodput, stalls, fluidity, fairness, shares, thresholds.

CONVERSATION_METRICS = ("ttft", "ttft_due", "e2e", "e2e_due", "tpot", "longest_stall", "send_delay", "stop_latency", "overrun_tokens")
OWN_DELAY_SHARE = 0.25
"""A gap's percentile is marked when the receive lag's same percentile is more than a quarter of it; beyond a half the run is invalid."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def summarise(run_dir: Path, asked: Asked | None = None) -> dict[str, Any]:
    """The contents of ``summary.json`` for a run directory; RunDirectoryError when it cannot be read."""
    return summarise_run(load_run(Path(run_dir)), asked)


def summarise_run(run: Run, asked: Asked | None = None) -> dict[str, Any]:
    """The summary of a run in memory; ``asked``: objectives that stand in place of, or beside, those that run.json states."""
    asked = asked or Asked()
    limits = asked.limits or stated_limits(run)
    window, metadata = run.window, run.metadata
    inside = run.in_window()
    batches = make_batches(window.seconds, typical_s(run.conversations, inside), window.steps)
    untainted = inside & run.untainted()
    clean = _Chosen(run, untainted)
    connections = count_connections(run)
    lag = measure_tokens(run, "receive_lag", batches)
    metrics = {"connect_time": _connect_time(run)}
    for metric in CONVERSATION_METRICS:
        metrics[metric] = measure_conversations(clean, metric, batches)
    for metric in token_metrics(run):
        metrics[metric] = lag if metric == "receive_lag" else measure_tokens(run, metric, batches)
    if _acknowledged(metadata):
        _mark_own_delay(metrics[run.gap_metric], lag)
    dropped = measure_dropped(run)
    summary: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run": _describe(run),
        "validity": {},
        "window": {
            "warm_up_end_s": window.warm_up_end_ns / 1e9, "steady_end_s": window.steady_end_ns / 1e9,
            "drain_end_s": window.drain_end_ns / 1e9, "steady_s": window.steady_s, "whole_seconds": len(window.seconds),
            "batches": len(batches.strata), "batch_s": batches.length_s, "settled_at_s": settled_at(run),
        },
        "metrics": {name: figures for name, figures in metrics.items() if figures["n"] or name in {"ttft", "e2e", run.gap_metric}},
        "rates": measure_rates(run, window.seconds, inside, window.steady_s),
        "counts": {
            "conversations": count_conversations(run, inside), "connections": connections, "tokens": count_tokens(run),
        },
        "shares": {"errors": measure_errors(run, untainted, connections), "dropped": dropped},
        "goodput": measure_goodput(run, limits, inside, batches, window.steady_s, dropped),
        "stalls": measure_stalls(run, untainted, batches), "fluidity": measure_fluidity(run, untainted, batches),
        "fairness": measure_fairness(run, metrics[run.gap_metric]), "served": measure_service(run),
        "stop": _measure_stop(run, clean.rows, metrics),
        "load": measure_load(run), "behaviours": count_behaviours(run),
        "errors": list_errors(run),
        "steps": [measure_step(run, step, limits) for step in window.steps] if len(window.steps) > 1 else [],
        "instrument": measure_instrument(run, lag),
        "server": read_server(run),
        "holding": measure_holding(run),
        "environment": metadata.get("environment") or {}, "versions": metadata.get("versions") or {}, "git": metadata.get("git"),
        "calibration": metadata.get("calibration"),
    }  # fmt: skip
    summary["thresholds"] = judge_thresholds(stated_thresholds(run), asked.thresholds, summary)
    summary["validity"] = judge(run, summary)
    return summary


def token_metrics(run: Run) -> tuple[str, ...]:
    """The metrics of tokens that a run has."""
    return ("token_latency", run.gap_metric, "receive_lag")


def typical_s(conversations: pd.DataFrame, inside: npt.NDArray[np.bool_]) -> float:
    """Median length of the conversations, seconds, prompt to last sign of life; 0 without any."""
    rows = conversations.loc[inside, ["sent_at_ns", "last_token_at_ns", "end_at_ns"]]
    ended = rows["end_at_ns"].fillna(rows["last_token_at_ns"])
    length = (ended - rows["sent_at_ns"]).median()
    return 0.0 if pd.isna(length) else float(length) / 1e9


class _Chosen:
    """Some conversations: their rows, taken from the whole once, and their starts (ns)."""

    def __init__(self, run: Run, chosen: npt.NDArray[np.bool_]) -> None:
        self.rows = run.conversations[_MEASURED_COLUMNS][chosen]
        self.starts_ns = run.starts_ns()[chosen]


_MEASURED_COLUMNS = [
    "sent_at_ns", "due_at_ns", "first_token_at_ns", "last_token_at_ns", "stop_sent_at_ns", "outcome", "stop_crossed", "overrun_tokens",
    *(f"{metric}_ns" for metric in CONVERSATION_METRICS if metric != "overrun_tokens"),
]  # fmt: skip


def measure_conversations(chosen: _Chosen, metric: str, batches: Batches) -> dict[str, Any]:
    """Figures of a per-conversation metric over the chosen rows."""
    rows = chosen.rows
    column = "overrun_tokens" if metric == "overrun_tokens" else f"{metric}_ns"
    values = rows[column].to_numpy(dtype=np.float64)
    if metric == "overrun_tokens":
        # A stop that crossed the end message wasted nothing, and is counted apart.
        values = np.where(rows["outcome"].to_numpy() == "stopped", values, np.nan)
    sample = sample_rows(values, batches.of_instants(chosen.starts_ns), batches.strata)
    return measure(metric, sample, censored=_censored(rows, metric, values))


def _censored(rows: pd.DataFrame, metric: str, values: Floats) -> Censored | None:
    """Who was cut before the value could be seen: stopped or abandoned without a first token, or (e2e) before the end."""
    if metric not in {"ttft", "ttft_due", "e2e", "e2e_due"}:
        return None
    observed = values[~np.isnan(values)]
    if metric.endswith("_due") and not len(observed):
        return Censored()
    cut = rows["outcome"].isin(["stopped", "abandoned"]).to_numpy(dtype=bool) & np.isnan(values)
    if metric.startswith("ttft"):
        cut &= rows["first_token_at_ns"].isna().to_numpy(dtype=bool)
    gone = rows[cut]
    until = gone["stop_sent_at_ns"].fillna(gone["last_token_at_ns"]).fillna(gone["sent_at_ns"])
    since = gone["due_at_ns"] if metric.endswith("_due") else gone["sent_at_ns"]
    return Censored(np.maximum(0.0, (until - since).to_numpy(dtype=np.float64)), observed)


def measure_tokens(run: Run, metric: str, batches: Batches) -> dict[str, Any]:
    """Figures of a per-token metric over the seconds of ``batches``; the receive lag counts tainted tokens too, being our own."""
    own = metric == "receive_lag"
    sample = run.histogram(metric).sample(batches, tainted=own)
    rows = _present(run, batches)
    effect = 1.0 if own else _effect(rows, sample)
    if not own and len(run.window.steps) > 1 and batches.strata.any():
        # The steps differ on purpose; how much conversations differ is read within each.
        parts = [make_batches(step.seconds, 0.0) for step in run.window.steps if len(step.seconds)]
        samples = [run.histogram(metric).sample(part) for part in parts]
        total = sum(part.n for part in samples)
        weighted = [_effect(_present(run, part), piece) * piece.n for part, piece in zip(parts, samples, strict=True)]
        effect = sum(weighted) / total if total else 1.0
    return measure(metric, sample, conversations=len(rows), effect=effect)


def _present(run: Run, batches: Batches) -> pd.DataFrame:
    """Untainted conversations with tokens that overlap the seconds of ``batches``."""
    table = run.conversations
    if not len(batches.seconds):
        return table.iloc[:0]
    begin, end = float(batches.seconds[0]) * 1e9, float(batches.seconds[-1] + 1) * 1e9
    there = (table["tokens"] > 0) & ~table["tainted"] & (table["first_token_at_ns"] < end) & (table["last_token_at_ns"] >= begin)
    return table.loc[there, ["tokens", "tpot_ns", *(["messages"] if "messages" in table else [])]]


def _effect(rows: pd.DataFrame, sample: Sample) -> float:
    if not sample.n:
        return 1.0
    gaps, mean = rows["tokens"].to_numpy() - 1, rows["tpot_ns"].to_numpy()
    if "messages" in rows:
        # One gap a message: the mean of a conversation's gaps is its time a message.
        between = rows["messages"].to_numpy() - 1
        mean, gaps = mean * gaps / np.maximum(between, 1), between
    return conversation_effect(gaps, mean, sample)


def _acknowledged(metadata: dict[str, Any]) -> bool:
    return bool((metadata.get("load") or {}).get("window", 1))


def _mark_own_delay(gaps: dict[str, Any], lag: dict[str, Any]) -> None:
    for name, entry in gaps["percentiles"].items():
        ours = lag["percentiles"][name]["value"]
        entry["own_delay"] = bool(entry["value"] and ours and ours > OWN_DELAY_SHARE * entry["value"])


def _connect_time(run: Run) -> dict[str, Any]:
    rows = run.connections
    seconds = np.unique((rows["opened_at_ns"].to_numpy() // 10**9).astype(np.int64)) if len(rows) else np.zeros(0, np.int64)
    batches = make_batches(seconds, 0.0)
    return measure("connect_time", sample_rows(rows["connect_time_ns"], batches.of_instants(rows["opened_at_ns"]), batches.strata))


def measure_rates(run: Run, seconds: Ints, inside: npt.NDArray[np.bool_], length_s: float) -> dict[str, Any]:
    """Tokens and conversations a second; None where no time passed."""
    per_second = run.per_second().reindex(seconds)
    outcome = run.conversations["outcome"].to_numpy()[inside]
    good = int(np.isin(outcome, ["completed", "stopped"]).sum())
    tokens = float(per_second["tokens"].sum())

    def mean(column: str) -> float | None:
        value = per_second[column].astype(float).mean() if len(per_second) else np.nan
        return None if pd.isna(value) else float(value)

    return {
        "throughput_tokens": tokens / len(seconds) if len(seconds) else None,
        "throughput_conversations": good / length_s if length_s else None,
        "connections_open": mean("open"), "connections_streaming": mean("streaming"),
    }  # fmt: skip


def _measure_stop(run: Run, rows: pd.DataFrame, metrics: dict[str, Any]) -> dict[str, Any]:
    asked = rows["stop_sent_at_ns"].notna()
    stopped = rows[rows["outcome"] == "stopped"]
    # Of a conversation that was stopped by closing its connection nobody knows what the server still sent.
    overrun = stopped["overrun_tokens"].dropna()
    return {
        "sent": int(asked.sum()), "stopped": int((rows["outcome"] == "stopped").sum()), "crossed": int(rows["stop_crossed"].sum()),
        "by_closing": int(stopped["overrun_tokens"].isna().sum()),
        "overrun_tokens_total": int(overrun.sum()), "overrun_tokens_mean": float(overrun.mean()) if len(overrun) else None,
        "overrun_tokens_max": int(overrun.max()) if len(overrun) else None,
        "latency_p50_ns": metrics["stop_latency"]["percentiles"]["p50"]["value"],
        "way_ns": None if pd.isna(way := run.connections["tcp_ns"].min()) else int(way),
    }  # fmt: skip


def measure_step(run: Run, step: Step, limits: Sequence[Objective] = ()) -> dict[str, Any]:
    """Figures of one step of a ladder, over the seconds that count for it."""
    inside = np.isin(np.floor(run.starts_ns() / 1e9).astype(np.int64), step.seconds)
    clean = _Chosen(run, inside & run.untainted())
    batches = make_batches(step.seconds, typical_s(run.conversations, inside))
    outcome = run.conversations["outcome"].to_numpy()[inside]
    figures: dict[str, Any] = {
        "users": step.users, "start_s": step.start_s, "end_s": step.end_s, "settle_s": step.settle_s, "seconds": len(step.seconds),
        "rates": measure_rates(run, step.seconds, inside, float(len(step.seconds))),
        "conversations": int(inside.sum()), "failed": int((outcome == "failed").sum()),
        "ttft": measure_conversations(clean, "ttft", batches),
        "goodput": measure_goodput(run, limits, inside, batches, float(len(step.seconds))),
    }  # fmt: skip
    for metric in token_metrics(run):
        figures[metric] = measure_tokens(run, metric, batches)
    return figures


def _describe(run: Run) -> dict[str, Any]:
    metadata = run.metadata
    scenario = metadata.get("scenario") or {}
    return {
        "path": str(run.path), "name": metadata.get("name") or run.path.name, "status": metadata.get("status", "running"),
        "status_reasons": metadata.get("status_reasons") or [], "schema_version": metadata.get("schema_version"),
        "scenario": {key: scenario.get(key) for key in ("name", "title", "question")},
        "target": metadata.get("target") or {}, "started_utc": metadata.get("started_utc"), "ended_utc": metadata.get("ended_utc"),
        "seed": metadata.get("seed"), "load": metadata.get("load") or {}, "options": metadata.get("options") or {},
        "workers": metadata.get("workers") or {},
    }  # fmt: skip
