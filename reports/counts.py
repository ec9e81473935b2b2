"""What was counted: conversations by outcome, connections, tokens, errors by kind, offered load, the server's counters beside ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from loadtest.metrics import BEHAVIOURS, CONNECT_ERRORS, ERRORS, OUTCOMES

from .load import Run, error_examples

SERVER_COUNTERS = {
    "streamgauge_connections_accepted_total": "connections",
    "streamgauge_prompts_total": "conversations",
    "streamgauge_tokens_total": "tokens",
}
"""Counters of the reference server that must agree with ours when nobody else used it."""
SERVER_OPEN = "streamgauge_connections_open"
_EXAMPLES = 3
_EXAMPLE_LENGTH = 300


def _total(run: Run, column: str) -> int:
    return int(run.intervals[column].sum()) if len(run.intervals) else 0


def count_conversations(run: Run, inside: npt.NDArray[np.bool_]) -> dict[str, int]:
    """Conversations by outcome over the whole run; ``unknown``: started, but no row tells how they ended."""
    rows = run.conversations
    by_outcome = rows["outcome"].value_counts()
    started = _total(run, "conversations_started")
    # Those set apart on purpose are counted by themselves: ``count_behaviours``.
    tainted, apart = rows["tainted"].to_numpy(dtype=bool), run.set_apart()
    inside, tainted = inside & ~apart, tainted & ~apart
    return {
        "started": started,
        **{outcome: int(by_outcome.get(outcome, 0)) for outcome in OUTCOMES},
        "unknown": max(0, started - len(rows)), "rows": len(rows), "tainted": int(tainted.sum()),
        "in_window": int(inside.sum()), "in_window_tainted": int((tainted & inside).sum()), "set_apart": int(apart.sum()),
    }  # fmt: skip


def count_behaviours(run: Run) -> dict[str, dict[str, Any]]:
    """Conversations of users that misbehave on purpose, by what they do: outcomes, errors, and how they ended.

    ``silence_ns``: p50 from the last token to the end message. Where acknowledgements are withheld this is the time that the server waits
    for one.
    """
    out = {}
    for behaviour in BEHAVIOURS:
        rows = run.conversations[(run.conversations["taint"] == behaviour).to_numpy(dtype=bool)]
        if len(rows):
            silence = (rows["end_at_ns"] - rows["last_token_at_ns"]).dropna()
            out[behaviour] = {
                "conversations": len(rows), "tokens": int(rows["tokens"].sum()),
                "outcomes": {str(name): int(n) for name, n in rows["outcome"].value_counts().items() if n},
                "errors": {str(name): int(n) for name, n in rows["error"].value_counts().items() if n},
                "silence_ns": float(silence.median()) if len(silence) else None,
            }  # fmt: skip
    return out


def count_connections(run: Run) -> dict[str, Any]:
    """Connects and closes over the whole run."""
    rows = run.connections
    closed = rows[rows["close_code"].notna()]
    by_code = closed["close_code"].astype(int).value_counts().sort_index()
    failed = rows.loc[rows["outcome"] == "failed", "error"].value_counts()
    per_second = run.per_second()
    peak = per_second["open"].max() if len(per_second) else np.nan
    return {
        **{name: _total(run, f"connects_{name}") for name in ("attempted", "succeeded", "failed")},
        **{name: _total(run, name) for name in ("syn_retransmitted", "reconnects", "closed_clean", "closed_abnormal")},
        "failed_by_kind": {str(kind): int(n) for kind, n in failed.items() if n},
        "closed_by_code": {str(code): int(n) for code, n in by_code.items()},
        "open_max": 0 if pd.isna(peak) else int(peak),
    }


def count_tokens(run: Run) -> dict[str, int]:
    """Tokens and messages over the whole run."""
    names = ("tokens", "messages", "coalesced", "unstamped", "clamped", "ghost_tokens", "double_ends", "acks_sent", "stops_sent")
    return {**{name: _total(run, name) for name in names}, "in_rows": int(run.conversations["tokens"].sum())}


def measure_load(run: Run) -> dict[str, Any]:
    """Asked, offered and achieved load in the whole seconds of the steady window, conversations/s; what was late or dropped.

    ``asked_per_s`` is the mean of the rate that the schedule was to follow, ``offered_per_s`` what it made of it, both None in a closed
    loop; ``achieved_per_s`` counts prompts sent. An arrival is late or dropped in the second in which it was due.
    """
    stated = run.metadata.get("load") or {}
    seconds = run.window.seconds
    per_second = run.per_second().reindex(seconds)
    length = len(seconds)
    is_open = stated.get("loop") == "open"
    sent = np.floor(run.conversations["sent_at_ns"].to_numpy(dtype=np.float64) / 1e9)
    started = int(((sent >= seconds[0]) & (sent <= seconds[-1])).sum()) if length else 0
    return {
        "loop": stated.get("loop"), "stated_rate_per_s": stated.get("rate_per_s"), "users_max": stated.get("users_max"),
        "asked_per_s": stated.get("asked_per_s"),
        "offered_per_s": float(per_second["arrivals_due"].sum()) / length if is_open and length else None,
        "achieved_per_s": started / length if length else None,
        "due": _total(run, "arrivals_due"), "late": _total(run, "arrivals_late"), "dropped": _total(run, "arrivals_dropped"),
        "in_window": {name: int(per_second[f"arrivals_{name}"].sum()) for name in ("due", "late", "dropped")} if is_open else None,
    }  # fmt: skip


def list_errors(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Errors by kind, most frequent first, with what the kind means and examples of the detail."""
    out = {}
    for table, rows, meanings in (("conversations", run.conversations, ERRORS), ("connections", run.connections, CONNECT_ERRORS)):
        kinds = rows["error"].value_counts()
        kinds = kinds[kinds > 0]
        examples = error_examples(run.path, table) if len(kinds) else None
        out[table] = [
            {"kind": str(kind), "count": int(n), "meaning": meanings.get(str(kind), ""), "examples": _examples(examples, kind)}
            for kind, n in kinds.items()
        ]
    return out


def _examples(rows: pd.DataFrame | None, kind: object) -> list[str]:
    if rows is None:
        return []
    details = rows.loc[rows["error"] == kind, "error_detail"].dropna().value_counts()
    return [str(text)[:_EXAMPLE_LENGTH] for text in details[details > 0].index[:_EXAMPLES]]


def read_server(run: Run) -> dict[str, Any]:
    """The target's own counters over the run, beside ours, and the connections that it still held after the drain (leaked)."""
    scraped = run.metadata.get("server") or {}
    first, last = scraped.get("first") or {}, scraped.get("last") or {}
    if not scraped.get("scraped") or not last:
        return {"scraped": False, "counters": {}, "beside_ours": [], "leaked_connections": None, "exclusive": None}
    grown = {name: value - first.get(name, 0) for name, value in last.items() if name.partition("{")[0].endswith("_total")}
    ours = {
        "connections": _total(run, "connects_succeeded"), "conversations": _total(run, "conversations_started"),
        "tokens": _total(run, "tokens") + _total(run, "ghost_tokens"),
    }  # fmt: skip
    beside = [
        {"what": what, "server": int(grown[name]), "ours": ours[what], "difference": int(grown[name]) - ours[what]}
        for name, what in SERVER_COUNTERS.items()
        if name in grown
    ]
    exclusive = next((row["difference"] == 0 for row in beside if row["what"] == "connections"), None)
    leaked = int(last[SERVER_OPEN] - first.get(SERVER_OPEN, 0)) if SERVER_OPEN in last else None
    return {"scraped": True, "counters": grown, "beside_ours": beside, "leaked_connections": leaked, "exclusive": exclusive}
