"""A plausible run directory without a run: a seeded model of closed-loop users, a queueing server and a generator.

The tests and ``python -m benchmarks.summarise`` read such directories. The server of the model works through tokens one at a time
(``service_ms`` each), so that latency grows with the number of users; the generator reads a little late, and now and then very late.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtest.run_directory import RunDirectory

from .synthetic_tables import (
    READER_FIRST_S,
    READER_GAP_S,
    STALL_S,
    Columns,
    Floats,
    Ints,
    TokenRows,
    count_late,
    fairness_of,
    histograms_of,
    intervals_of,
    to_ns,
)

ORIGIN_WALL_NS = 1_795_341_600_000_000_000
NULL = np.nan
"""Absent value in a column of floats; written as null."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to pretend: seconds and milliseconds as named; the same plan gives the same directory."""

    seed: int = 1
    users: int = 20
    steps: tuple[tuple[int, float], ...] = ()
    seconds: float = 24.0
    warm_up_s: float = 4.0
    drain_s: float = 2.0
    tokens: int = 20
    service_ms: float = 0.5
    gap_ms: float = 0.0
    window: int = 1
    stop_share: float = 0.1
    fail_share: float = 0.0
    think_s: float = 0.05
    rate_per_s: float | None = None
    workers: int = 1
    lag_us: float = 15.0
    scraped: bool = True
    slo: tuple[str, ...] = ()

    @property
    def end_s(self) -> float:
        """End of the steady window, seconds since the origin."""
        return sum(s for _, s in self.steps) if self.steps else self.seconds

    def users_at(self, at_s: Floats) -> Floats:
        """Users that had been started by each instant."""
        if not self.steps:
            return np.full(len(at_s), float(self.users))
        starts = np.concatenate([[0.0], np.cumsum([s for _, s in self.steps])[:-1]])
        return np.asarray([u for u, _ in self.steps], dtype=float)[np.clip(np.searchsorted(starts, at_s, "right") - 1, 0, None)]


@dataclass(slots=True)
class SyntheticRun:
    """Metadata and, by worker, the columns of every table, open to sabotage before ``write``."""

    metadata: dict[str, Any]
    tables: dict[str, dict[str, Columns]] = field(default_factory=dict)

    def write(self, path: Path, *, compact: bool = True) -> Path:
        """Write the run directory ``path`` (must not exist) and return it; without ``compact`` the raw files stay."""
        run = RunDirectory.create(path, {**self.metadata, "name": path.name})
        for worker, tables in self.tables.items():
            writer = run.writer(worker)
            for table, columns in tables.items():
                size = len(columns["worker"])
                for start in range(0, size, 1 << 16):
                    writer.append(table, {k: nullable(v[start : start + (1 << 16)]) for k, v in columns.items()})
            writer.end()
        if compact:
            run.compact()
        return path


def nullable(column: Any) -> Any:
    """A column for the writer: floats as whole numbers, absent ones as null."""
    if isinstance(column, np.ndarray) and column.dtype == np.float64:
        absent = np.isnan(column)
        return np.ma.array(np.where(absent, 0, column).astype(np.int64), mask=absent) if absent.any() else column.astype(np.int64)
    return column


def _starts(plan: Plan, users: int, rng: np.random.Generator, k: int, ready: Floats) -> Floats:
    """When each user's k-th conversation is due, seconds; infinity when it has no further one."""
    if plan.rate_per_s is None:
        return ready + rng.exponential(plan.think_s, users)
    if k:
        return np.full(users, np.inf)
    return ready


def build_worker(plan: Plan, number: int) -> dict[str, Columns]:
    """Everything worker ``number`` would have recorded, table by table."""
    rng = np.random.default_rng([plan.seed, number])
    name = f"w{number}"
    end = plan.end_s
    if plan.rate_per_s is None:
        total = int(max(u for u, _ in plan.steps)) if plan.steps else plan.users
        mine = np.arange(number, total, plan.workers)
        levels = np.asarray([u for u, _ in plan.steps] or [plan.users])
        begins = np.concatenate([[0.0], np.cumsum([s for _, s in plan.steps])[:-1]]) if plan.steps else np.zeros(1)
        joined = begins[np.searchsorted(levels, mine, "right")] + 0.05 + rng.uniform(0, 0.4, len(mine))
    else:
        rate = plan.rate_per_s / plan.workers
        joined = np.cumsum(rng.exponential(1 / rate, int(rate * end * 1.3) + 10))
        joined = joined[joined < end]
        mine = np.arange(len(joined))
    users = len(mine)
    tcp, upgrade = rng.lognormal(np.log(9e-5), 0.4, users), rng.lognormal(np.log(6e-4), 0.5, users)
    ready = joined + tcp + upgrade
    if plan.rate_per_s is not None:
        joined = joined - tcp - upgrade - 0.02
        ready = joined + tcp + upgrade + 0.02
    rows: list[Columns] = []
    tokens: list[TokenRows] = []
    made, k = 0, 0
    while True:
        due = _starts(plan, users, rng, k, ready)
        alive = due < end
        if not alive.any():
            break
        part, arrivals, ready_alive = _conversations(plan, rng, due[alive], mine[alive], made)
        rows.append(part)
        tokens.append(arrivals)
        ready = np.full(users, np.inf)
        ready[alive] = ready_alive
        made += int(alive.sum())
        k += 1
    conversations = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
    flat = TokenRows(*(np.concatenate([getattr(t, f) for t in tokens]) for f in ("conversation", "first", "arrival", "latency", "lag")))
    closed = np.full(users, end + plan.drain_s * 0.9)
    connections: Columns = {
        "worker": [name] * users, "connection": mine, "user": mine,
        "opened_at_ns": to_ns(np.maximum(joined, 0)), "attempt": np.ones(users, np.int64),
        "conversations": np.bincount(np.searchsorted(mine, conversations["connection"]), minlength=users), "outcome": ["clean"] * users,
        "syn_retransmitted": np.zeros(users, bool), "tcp_ns": to_ns(tcp), "upgrade_ns": to_ns(upgrade),
        "connect_time_ns": to_ns(tcp + upgrade), "closed_at_ns": to_ns(closed), "close_code": np.full(users, 1000),
        "closed_by": ["us"] * users, "clock": ["kernel"] * users,
    }  # fmt: skip
    histograms = histograms_of(plan, name, conversations, flat, connections)
    intervals = intervals_of(plan, name, rng, conversations, flat, connections)
    fairness = fairness_of(name, conversations, flat)
    conversations["worker"] = np.full(made, name)
    return {
        "conversations": conversations,
        "connections": connections,
        "intervals": intervals,
        "histograms": histograms,
        "fairness": fairness,
    }


def _conversations(plan: Plan, rng: np.random.Generator, due: Floats, user: Ints, base: int) -> tuple[Columns, TokenRows, Floats]:
    """One conversation each for ``user``, due at ``due`` (s): rows, tokens, and when each user is free again."""
    n = len(due)
    open_loop = plan.rate_per_s is not None
    send_delay = rng.lognormal(np.log(4e-5), 0.6, n) if open_loop else np.zeros(n)
    sent = due + send_delay
    active = plan.users_at(sent) if not open_loop else np.full(n, 1.0)
    scale = np.maximum(3.0, active) * plan.service_ms / 1e3
    count = np.maximum(1, rng.poisson(plan.tokens, n))
    owner = np.repeat(np.arange(n), count)
    first = np.zeros(len(owner), bool)
    offsets = np.concatenate([[0], np.cumsum(count)[:-1]])
    first[offsets] = True
    latency = scale[owner] * rng.lognormal(0, 0.2, len(owner))
    slow = rng.random(len(owner)) < 0.01
    latency[slow] += rng.gamma(2.0, 0.004, int(slow.sum()))
    lag = plan.lag_us / 1e6 * rng.lognormal(0, 0.8, len(owner))
    late = rng.random(len(owner)) < 0.001
    lag[late] += rng.exponential(0.0015, int(late.sum()))
    gap = latency + np.concatenate([[0.0], lag[:-1]])
    if plan.gap_ms:
        # The server holds an absolute schedule; a late acknowledgement matters only when it is later than the gap.
        noise = rng.exponential(2e-4, len(owner)) + np.where(slow, rng.gamma(2.0, 0.004, len(owner)), 0)
        # After a long stall the schedule is caught up as fast as the wire allows.
        gap = np.maximum(2e-5, plan.gap_ms / 1e3 + noise - np.concatenate([[0.0], noise[:-1]]))
        latency = np.maximum(gap - np.concatenate([[0.0], lag[:-1]]), 1e-6)
    ttft = 1.5 * scale * rng.lognormal(0, 0.25, n) + 3e-4
    gap[first] = ttft
    running = np.cumsum(gap)
    arrival = sent[owner] + running - (running[offsets] - gap[offsets])[owner]
    last = offsets + count - 1
    end = arrival[last] + lag[last] + scale * 0.3 * rng.lognormal(0, 0.2, n)
    # Stops: drawn between two tokens.
    wants = (rng.random(n) < plan.stop_share) & (count > 2)
    after = offsets + np.minimum((rng.random(n) * (count - 1)).astype(np.int64), count - 2)
    stop = np.where(wants, arrival[after] + lag[after] + rng.random(n) * (arrival[after + 1] - arrival[after]), np.nan)
    stop_end = stop + 1.2e-4 * rng.lognormal(0, 0.5, n)  # a stop is acted on at once, whatever the gap
    crossed = wants & (end <= stop)
    stopped = wants & ~crossed
    end = np.where(stopped, stop_end, end)
    keep = arrival <= end[owner]
    cut = plan.end_s + plan.drain_s
    abandoned = end > cut
    keep &= arrival <= cut
    failed = (rng.random(n) < plan.fail_share) & ~stopped & ~abandoned
    keep &= ~failed[owner] | first
    got = np.bincount(owner[keep], minlength=n)
    latest = np.full(n, np.nan)
    np.fmax.at(latest, owner[keep], arrival[keep])
    first_at = np.where(got > 0, arrival[offsets], np.nan)
    overrun = np.bincount(owner[keep & (arrival > np.where(np.isnan(stop), np.inf, stop)[owner])], minlength=n).astype(float)
    outcome = np.full(n, "completed", dtype=object)
    outcome[stopped], outcome[failed], outcome[abandoned] = "stopped", "failed", "abandoned"
    completed = outcome == "completed"
    worst = np.zeros(n)
    np.maximum.at(worst, owner[keep], lag[keep])
    stall = np.full(n, np.nan)
    np.fmax.at(stall, owner[keep & ~first], gap[keep & ~first])
    late_tokens = count_late(arrival - sent[owner], owner, keep, offsets)
    due_ns = to_ns(due) if open_loop else np.full(n, np.nan)
    sent_ns, first_ns, last_ns = to_ns(sent), to_ns(first_at), to_ns(latest)
    end_ns = np.where(abandoned, np.nan, to_ns(end))
    stop_ns = to_ns(stop)
    many = got >= 2
    rows: Columns = {
        "connection": user, "conversation": base + np.arange(n), "users": active.astype(np.int64), "sent_at_ns": sent_ns,
        "tokens": got, "messages": got, "coalesced": np.zeros(n, np.int64), "window": np.full(n, plan.window),
        "received_bytes": got * 6, "receive_lag_max_ns": to_ns(worst), "outcome": outcome, "stop_crossed": crossed,
        "tainted": np.zeros(n, bool), "due_at_ns": due_ns, "first_token_at_ns": first_ns, "last_token_at_ns": last_ns,
        "end_at_ns": end_ns, "stop_sent_at_ns": stop_ns, "send_delay_ns": sent_ns - due_ns, "ttft_ns": first_ns - sent_ns,
        "ttft_due_ns": first_ns - due_ns, "e2e_ns": np.where(completed, end_ns - sent_ns, np.nan),
        "e2e_due_ns": np.where(completed, end_ns - due_ns, np.nan),
        "tpot_ns": np.where(many, np.round((last_ns - first_ns) / np.maximum(got - 1, 1)), np.nan), "longest_stall_ns": to_ns(stall),
        "stop_latency_ns": np.where(stopped, end_ns - stop_ns, np.nan), "overrun_tokens": np.where(stopped, overrun, np.nan),
        "stalls": np.bincount(owner[keep & ~first & (gap > STALL_S)], minlength=n), "late_tokens": late_tokens,
        "error": _texts(failed, "connection_lost"), "error_detail": _texts(failed, "closed by the peer: 1006"),
    }  # fmt: skip
    flat = TokenRows(base + owner[keep], first[keep], arrival[keep], latency[keep], lag[keep])
    return rows, flat, np.where(abandoned | failed, np.inf, end)


def _texts(where: npt.NDArray[np.bool_], text: str) -> npt.NDArray[np.object_]:
    column = np.full(len(where), None, dtype=object)
    column[where] = text
    return column


def build(plan: Plan) -> SyntheticRun:
    """The whole run of ``plan``, in memory."""
    tables = {f"w{number}": build_worker(plan, number) for number in range(plan.workers)}
    at, steps = 0.0, []
    for users, seconds in plan.steps or ((plan.users, plan.seconds),):
        steps.append({"at_ns": int((at + (0.5 if plan.steps else 0.0)) * 1e9), "users": users})
        at += seconds
    seen = [
        {
            "worker": name, "pid": 4000 + i, "host": "localhost", "clock": "kernel", "cpu_count": 2,
            "anchor": {"wall_ns": ORIGIN_WALL_NS, "monotonic_ns": 10**12, "uncertainty_ns": 80},
        }
        for i, name in enumerate(tables)
    ]  # fmt: skip
    warm_up = 0.0 if plan.steps else plan.warm_up_s
    metadata: dict[str, Any] = {
        "status": "complete", "status_reasons": [],
        "scenario": {
            "name": "synthetic", "title": "Synthetic run", "question": "Does the report read what the model wrote?",
        },
        "target": {"url": "ws://127.0.0.1:8001/ws", "adapter": "typewriter"}, "origin_wall_ns": ORIGIN_WALL_NS,
        "started_utc": "2026-11-22T10:00:00Z", "ended_utc": "2026-11-22T10:00:30Z", "seed": plan.seed, "options": {},
        "load": {
            "loop": "closed" if plan.rate_per_s is None else "open", "rate_per_s": plan.rate_per_s, "window": plan.window,
            "users_max": max([u for u, _ in plan.steps] or [plan.users]), "stall_timeout_s": 30.0, "tokens": plan.tokens,
            "gap_ms": plan.gap_ms, "stop_share": plan.stop_share, "slo": list(plan.slo), "stall_ns": int(STALL_S * 1e9),
            "reader_first_ns": int(READER_FIRST_S * 1e9), "reader_gap_ns": int(READER_GAP_S * 1e9),
        },
        "window": {
            "warm_up_end_at_ns": int(warm_up * 1e9), "steady_end_at_ns": int(plan.end_s * 1e9),
            "drain_end_at_ns": int((plan.end_s + plan.drain_s) * 1e9),
        },
        "steps": steps, "workers": {"expected": plan.workers, "seen": seen, "lost": [], "bad_bytes": {}},
        "environment": {
            "os": "Linux", "kernel": "6.1", "cpu_model": "Model CPU", "cpu_count": 2, "memory_bytes": 8 << 30, "python": "3.11",
            "hostname_hash": "0000",
        },
        "versions": {"streamgauge": "0.1.0"}, "git": None, "server": {"scraped": False, "first": {}, "last": {}}, "calibration": None,
    }  # fmt: skip
    return SyntheticRun(metadata, tables)
