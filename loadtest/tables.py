"""The tables of a run's record: names, columns with types and units, and which version of the schema brought each.

Column suffixes: ``_at_ns`` an instant in nanoseconds since the run's origin, ``_ns`` a duration in nanoseconds, ``_bytes`` bytes;
plain names are counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

SCHEMA_VERSION = 2
# 1: first. 2: stalls, late tokens, good conversations, tokens of a message, fairness, late arrivals.

_INT, _FLAG, _TEXT = pa.int64(), pa.bool_(), pa.string()


def _schema(required: Mapping[str, pa.DataType], optional: Mapping[str, pa.DataType] | None = None) -> pa.Schema:
    return pa.schema(
        [pa.field(name, kind, nullable=False) for name, kind in required.items()]
        + [pa.field(name, kind, nullable=True) for name, kind in (optional or {}).items()]
    )


COUNTERS = (
    "tokens", "messages", "coalesced", "unstamped", "acks_sent", "stops_sent",
    "conversations_started", "conversations_completed", "conversations_stopped", "conversations_empty",
    "conversations_failed", "conversations_abandoned", "conversations_tainted",
    "connects_attempted", "connects_succeeded", "connects_failed", "syn_retransmitted", "reconnects",
    "closed_clean", "closed_abnormal", "ghost_tokens", "double_ends", "clamped", "arrivals_due", "arrivals_dropped",
    "arrivals_late", "conversations_good", "stalls",
)  # fmt: skip
"""Columns of ``intervals`` that add up over workers and over rows of the same second."""
GAUGES = ("users", "opening", "open", "streaming")
"""Columns of ``intervals`` that add up over workers in the same second; a worker has one row with gauges a second."""

TABLES: dict[str, pa.Schema] = {
    "conversations": _schema(
        {
            "worker": _TEXT, "connection": _INT, "conversation": _INT, "users": _INT,
            "sent_at_ns": _INT, "tokens": _INT, "messages": _INT, "coalesced": _INT, "window": _INT, "received_bytes": _INT,
            "receive_lag_max_ns": _INT, "outcome": _TEXT, "stop_crossed": _FLAG, "tainted": _FLAG,
        },
        {
            "due_at_ns": _INT, "first_token_at_ns": _INT, "last_token_at_ns": _INT, "end_at_ns": _INT, "stop_sent_at_ns": _INT,
            "send_delay_ns": _INT, "ttft_ns": _INT, "ttft_due_ns": _INT, "e2e_ns": _INT, "e2e_due_ns": _INT, "tpot_ns": _INT,
            "longest_stall_ns": _INT, "stop_latency_ns": _INT, "overrun_tokens": _INT,
            "error": _TEXT, "error_detail": _TEXT, "taint": _TEXT, "stalls": _INT, "late_tokens": _INT,
        },
    ),
    "connections": _schema(
        {
            "worker": _TEXT, "connection": _INT, "user": _INT, "opened_at_ns": _INT, "attempt": _INT, "conversations": _INT,
            "outcome": _TEXT, "syn_retransmitted": _FLAG,
        },
        {
            "tcp_ns": _INT, "tls_ns": _INT, "upgrade_ns": _INT, "connect_time_ns": _INT, "closed_at_ns": _INT, "close_code": _INT,
            "closed_by": _TEXT, "clock": _TEXT, "error": _TEXT, "error_detail": _TEXT,
        },
    ),
    "intervals": _schema(
        {"worker": _TEXT, "second": _INT, **dict.fromkeys(COUNTERS, _INT)},
        {
            **dict.fromkeys(GAUGES, _INT), "covered_ns": _INT, "cpu_ns": _INT, "rss_bytes": _INT, "loop_lag_max_ns": _INT,
            "receive_lag_max_ns": _INT, "clock_step_ns": _INT, "server_open": _INT, "server_streaming": _INT,
            "server_tokens": _INT, "server_cpu_ns": _INT, "server_rss_bytes": _INT,
        },
    ),
    "histograms": _schema(
        {
            "worker": _TEXT, "second": _INT, "metric": _TEXT, "tainted": _FLAG, "index": pa.list_(pa.int32()),
            "count": pa.list_(_INT), "total": _INT, "minimum": _INT, "maximum": _INT,
        }
    ),
    "tokens": _schema(
        {
            "worker": _TEXT, "connection": _INT, "conversation": _INT, "sequence": _INT, "arrival_at_ns": _INT, "read_at_ns": _INT,
            "coalesced": _FLAG,
        },
        {"text": _TEXT, "tokens": _INT},
    ),
    "fairness": _schema(
        {"worker": _TEXT, "second": _INT, "length_s": _INT, "conversations": _INT, "served": _INT, "tokens": _INT, "tokens_squared": _INT}
    ),
}  # fmt: skip
"""Every table's columns. ``connections.outcome``: clean, abnormal, failed (never opened), abandoned (cut while opening).

``tokens`` is written on request only."""

ADDED: dict[int, dict[str, tuple[str, ...]]] = {
    2: {
        "conversations": ("stalls", "late_tokens"), "intervals": ("arrivals_late", "conversations_good", "stalls"), "tokens": ("tokens",),
        "fairness": tuple(TABLES["fairness"].names),
    },
}  # fmt: skip
"""Columns that came with each schema version. Read from an older run they are null, or 0 where they may not be null."""


def schema_of(table: str, version: int = SCHEMA_VERSION) -> pa.Schema:
    """The columns of a table as that version of the schema wrote them."""
    later = {name for since, tables in ADDED.items() if since > version for name in tables.get(table, ())}
    return pa.schema([field for field in TABLES[table] if field.name not in later])


def completed(name: str, table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The table with the columns that its version did not know yet."""
    for column in columns:
        if column not in table.column_names:
            field = TABLES[name].field(column)
            empty = pa.nulls(table.num_rows, field.type) if field.nullable else pa.array([0] * table.num_rows, type=field.type)
            table = table.append_column(field, empty)
    return table.select(list(columns))
