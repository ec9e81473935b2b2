"""What the runs of a comparison of servers say: which rung a server holds, who climbs on, what the ceiling is. Pure.

A reading is one run of the generator against one server: ``server``, ``load`` ("ladder" or "ceiling"), ``conversations`` (at once),
``valid`` and ``reasons`` (of the run), ``state`` and ``missed`` (of the objectives: "met", "missed", "unknown"; sentences), ``gap_p50_ms``,
``gap_p99_ms``, ``ttft_p99_ms``, ``tokens_per_s``, ``cpu_us_per_token``, ``resident_bytes``; figures are None where the run has none.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Readings = Sequence[Mapping[str, Any]]
Verdict = Literal["held", "missed", "unjudged", "again"]
TRIES: Final = 2
"""Runs of a rung that is not held at once: a disturbance from outside makes figures worse, never better, so the better one counts."""


@dataclass(frozen=True, slots=True)
class Found:
    """``held``: the highest rung with every objective met; ``above``: the one after it that was tried; ``why`` it did not hold.

    ``limit`` says whose limit that is: the "server"'s; the "measurement"'s, where no run above was valid and had enough samples; the
    "ladder"'s, where it ends.
    """

    held: int | None
    above: int | None
    why: str
    limit: Literal["server", "measurement", "ladder"]


def servers(readings: Readings) -> list[str]:
    """The servers, in the order in which they were first driven."""
    return list(dict.fromkeys(reading["server"] for reading in readings))


def rungs(readings: Readings) -> list[int]:
    """The rungs that were driven."""
    return sorted({reading["conversations"] for reading in readings if reading["load"] == "ladder"})


def of(readings: Readings, server: str, load: str, conversations: int | None = None) -> list[Mapping[str, Any]]:
    """The readings of a server under one load."""
    return [
        reading for reading in readings
        if reading["server"] == server and reading["load"] == load and conversations in (None, reading["conversations"])
    ]  # fmt: skip


def judge(readings: Readings) -> Verdict:
    """What the runs of one server at one rung say; "again" while another one may still change it."""
    if any(reading["valid"] and reading["state"] == "met" for reading in readings):
        return "held"
    if len(readings) < TRIES:
        return "again"
    return "missed" if any(_says(reading) for reading in readings) else "unjudged"


def _says(reading: Mapping[str, Any]) -> bool:
    return bool(reading["valid"]) and reading["state"] != "unknown"


def climbing(readings: Readings, names: Sequence[str], rung: int, ladder: Sequence[int]) -> list[str]:
    """Who is to be driven at a rung (once more): those that held all rungs below and whose runs here do not say enough."""
    below = [other for other in ladder if other < rung]
    return [
        name for name in names
        if all(judge(of(readings, name, "ladder", other)) == "held" for other in below)
        and judge(of(readings, name, "ladder", rung)) == "again"
    ]  # fmt: skip


def find(readings: Readings, server: str) -> Found:
    """The highest rung that a server held, and what came above."""
    held: int | None = None
    for rung in rungs(readings):
        mine = of(readings, server, "ladder", rung)
        if not mine:
            break
        if judge(mine) == "held":
            held = rung
            continue
        # The last run that says something of the server; else what kept the last one from saying it.
        last = next((reading for reading in reversed(mine) if _says(reading)), mine[-1])
        why = "; ".join(last["missed"] if last["valid"] else last["reasons"])
        return Found(held, rung, why, "server" if _says(last) else "measurement")
    return Found(held, None, "", "ladder")


def common_rung(readings: Readings) -> int | None:
    """The highest rung that every server held that held any: where they can be compared under one load."""
    held = [found.held for found in (find(readings, server) for server in servers(readings)) if found.held is not None]
    return min(held, default=None)


def at_rung(readings: Readings, server: str, rung: int, name: str) -> float | None:
    """A figure of a server at a rung: of the valid run with the smallest gaps, else of the first."""
    mine = of(readings, server, "ladder", rung)
    sound = [reading for reading in mine if reading["valid"]] or mine
    values = [reading[name] for reading in sorted(sound, key=_gap) if reading[name] is not None]
    return values[0] if values else None


def _gap(reading: Mapping[str, Any]) -> float:
    return float("inf") if reading["gap_p99_ms"] is None else float(reading["gap_p99_ms"])


def most_tokens(readings: Readings, server: str) -> tuple[float | None, bool]:
    """The most tokens a second seen of a server in any run, and whether that run was valid (else it is the generator's limit, or noise)."""
    mine = [reading for reading in readings if reading["server"] == server and reading["tokens_per_s"] is not None]
    best = max(mine, key=lambda reading: reading["tokens_per_s"], default=None)
    return (None, False) if best is None else (best["tokens_per_s"], bool(best["valid"]))


def tokens_per_cpu_s(readings: Readings, server: str) -> float | None:
    """Tokens for a second of the server's processor, median of the runs at the ceiling."""
    values = [reading["cpu_us_per_token"] for reading in of(readings, server, "ceiling") if reading["cpu_us_per_token"]]
    return 1e6 / statistics.median(values) if values else None


def drift(readings: Readings) -> float | None:
    """How far apart the first and the last pass at the ceiling were: the median over the servers of the relative change of processor time
    a token; None with fewer than two passes."""
    changes = []
    for server in servers(readings):
        values = [reading["cpu_us_per_token"] for reading in of(readings, server, "ceiling") if reading["cpu_us_per_token"]]
        if len(values) > 1:
            changes.append(values[-1] / values[0] - 1)
    return statistics.median(changes) if changes else None
