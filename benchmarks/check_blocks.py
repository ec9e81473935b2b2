"""What does a block of a regression check say? From its raw tokens and slices to one figure an arm and metric; ``blocks.jsonl``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .check_plan import BASE, COUNTED, HEAD, METRICS, PlanError

Arrays = Mapping[str, npt.NDArray[Any]]
COMPLETED, STOPPED = 0, 1
"""Outcomes as the generator numbers them."""
ARMS: Final = (BASE, HEAD)


def nearest_rank(values: npt.NDArray[Any], share: float) -> float | None:
    """The value below or at which ``share`` of the values lie; None without values."""
    if not values.size:
        return None
    place = max(0, math.ceil(share * values.size) - 1)
    return float(np.partition(values, place)[place])


def arm_figures(arrays: Arrays, slices: Sequence[Mapping[str, Any]], arm: str) -> dict[str, Any]:
    """Counts and metrics of one arm over all its slices of a block, pooled before any percentile is taken; None for no figure."""
    own = [row for row in slices if row["arm"] == arm]
    numbers = [row["slice"] for row in own]
    tokens = {name: arrays[f"token_{name}"][np.isin(arrays["token_slice"], numbers)] for name in ("latency_ns", "itl_ns")}
    here = np.isin(arrays["conversation_slice"], numbers)
    outcome = arrays["conversation_outcome"][here]
    of_conversations = {name: arrays[f"conversation_{name}"][here] for name in ("tpot_ns", "ttft_ns", "stop_latency_ns")}
    latency, itl = (tokens[name][tokens[name] >= 0] for name in ("latency_ns", "itl_ns"))
    tpot = of_conversations["tpot_ns"][(outcome == COMPLETED) & (of_conversations["tpot_ns"] >= 0)]
    received = sum(row["tokens"] for row in own)

    def by_token(name: str) -> float | None:
        spent = [row[name] for row in own]
        return None if not received or any(one is None for one in spent) else sum(spent) / received

    failed = sum(row["failed"] + row["empty"] + row["abandoned"] + row["failed_connects"] for row in own)
    tried = sum(row["conversations"] + row["failed_connects"] for row in own)
    return {
        "conversations": sum(row["conversations"] for row in own), "tokens": received, "tried": tried, "failed": failed,
        "latencies": int(latency.size), "gaps": int(itl.size),
        "errors": _added(row["errors"] for row in own), "tpot_p50": nearest_rank(tpot, 0.5),
        "token_latency_p99": nearest_rank(latency, 0.99), "itl_p99": nearest_rank(itl, 0.99), "cpu_per_token": by_token("cpu_ns"),
        "time_per_token": by_token("duration_ns"), "token_latency_p50": nearest_rank(latency, 0.5),
        "ttft_p50": nearest_rank(_present(of_conversations["ttft_ns"]), 0.5),
        "connect_time_p50": nearest_rank(arrays[f"connect_time_ns_{arm}"], 0.5),
        "stop_latency_p50": nearest_rank(_present(of_conversations["stop_latency_ns"]), 0.5),
        "instructions_per_token": by_token("instructions"),
    }  # fmt: skip


def _present(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values[values >= 0]


def _added(tables: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for table in tables:
        for name, count in table.items():
            total[name] = total.get(name, 0) + count
    return total


def host_figures(arrays: Arrays, slices: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """What the machine was like in a block, both arms together; None where the system does not say."""
    duration = sum(row["duration_ns"] for row in slices)
    steal = [row["steal_share"] for row in slices if row["steal_share"] is not None]
    pressure = [row["pressure_ns"] for row in slices]
    lag = nearest_rank(arrays["token_receive_lag_ns"], 0.5)
    tpot = nearest_rank(_present(arrays["conversation_tpot_ns"]), 0.5)
    return {
        "steal_share": sum(steal) / len(steal) if steal else None,
        "pressure_share": None if any(one is None for one in pressure) or not duration else sum(pressure) / duration,
        "generator_cpu_share": sum(row["generator_cpu_ns"] for row in slices) / duration if duration else None,
        "receive_lag_share": None if lag is None or not tpot else max(0.0, lag) / tpot,
        "clock_step_ns": max((abs(row["clock_step_ns"]) for row in slices), default=0),
    }


def block_lines(block: int, order: str, slices: Sequence[Mapping[str, Any]], arrays: Arrays) -> list[dict[str, Any]]:
    """The lines of one block for ``blocks.jsonl``: one a slice, then the block's own, on which the verdict stands."""
    lines: list[dict[str, Any]] = []
    for row in slices:
        mine = arrays["token_slice"] == row["slice"]
        latency = _present(arrays["token_latency_ns"][mine])
        lines.append(
            {
                "kind": "slice", "block": block, **row, "token_latency_p50_ns": nearest_rank(latency, 0.5),
                "token_latency_p99_ns": nearest_rank(latency, 0.99),
            }
        )  # fmt: skip
    figures = {arm: arm_figures(arrays, slices, arm) for arm in ARMS}
    lines.append({"kind": "block", "block": block, "order": order, **figures, "host": host_figures(arrays, slices)})
    return lines


def read_blocks(path: Path) -> list[dict[str, Any]]:
    """The block lines of a ``blocks.jsonl``, in order; PlanError where it is none. A line cut by a kill at the end is left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PlanError(f"cannot read {path}: {error.strerror}; expected the blocks.jsonl of a check") from None
    blocks: list[dict[str, Any]] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            kind = row["kind"]
            if kind == "block":
                _check_block(row, len(blocks) + 1)
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise PlanError(f"line {number} of {path} is no line of a check ({type(error).__name__}: {error})") from None
        if kind == "block":
            blocks.append(row)
    return blocks


def _check_block(row: Mapping[str, Any], expected: int) -> None:
    if row["block"] != expected:
        raise ValueError(f"expected block {expected}, found {row['block']}")
    for arm in ARMS:
        missing = [name for name in (*METRICS, "tried", "failed", *COUNTED.values()) if name not in row[arm]]
        if missing:
            raise KeyError(missing[0])
