"""What do the proof's jobs add up to? The tables of docs/regressions.md, made from the lines of real and simulated jobs."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from reports.units import count, significant

from .prove_cases import CASES
from .verdict import INCONCLUSIVE, PASS, REGRESSED, percent

Line = Mapping[str, Any]
CONFIDENCE: Final = 0.95
BEGIN, END = "<!-- {name}: made by `python -m benchmarks prove table` -->", "<!-- end of {name} -->"
SHOWN: Final = (REGRESSED, PASS, INCONCLUSIVE)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; none where the file is not there yet. ValueError where a line is no JSON."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def at_most(seen: int, jobs: int, confidence: float = CONFIDENCE) -> float:
    """The largest true share with which ``seen`` or fewer of ``jobs`` are not yet unlikely (Clopper and Pearson 1934, one-sided)."""
    if seen >= jobs:
        return 1.0
    low, high = seen / jobs, 1.0
    for _ in range(60):
        share = (low + high) / 2
        chance = sum(math.comb(jobs, k) * share**k * (1 - share) ** (jobs - k) for k in range(seen + 1))
        low, high = (share, high) if chance > 1 - confidence else (low, share)
    return high


def real_table(lines: Sequence[Line]) -> list[str]:
    """A row a kind of job: what came out, how long it took, and by how much the gates moved."""
    out = [
        "| what was done to head | gate | jobs | FAIL | PASS | INCONCLUSIVE | wrong, at most | blocks | time, median (longest) "
        "| load average | TPOT p50 | token latency p99 | CPU per token |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for case in CASES:
        mine = [line for line in lines if line["case"] == case.name]
        if not mine:
            continue
        counts = {verdict: sum(line["verdict"] == verdict for line in mine) for verdict in SHOWN}
        wrong = counts[case.forbidden]
        loads = [line["load_average"][1] for line in mine]
        seconds = [line["seconds"] for line in mine]
        blocks = [line["blocks"] for line in mine]
        changes = [_median_change(mine, metric) for metric in ("tpot_p50", "token_latency_p99", "cpu_per_token")]
        cells = [
            case.title, f"{case.gate} %", str(len(mine)), *(str(counts[verdict]) for verdict in SHOWN),
            f"{wrong} of {len(mine)}: {100 * at_most(wrong, len(mine)):.1f} %", f"{statistics.median(blocks):g}",
            f"{count(statistics.median(seconds))} s ({count(max(seconds))} s)", f"{min(loads):.1f} … {max(loads):.1f}", *changes,
        ]  # fmt: skip
        out.append(f"| {' | '.join(cells)} |")
    return out


def _median_change(lines: Sequence[Line], metric: str) -> str:
    found = [line["gates"][metric]["change"] for line in lines if line["gates"].get(metric, {}).get("change") is not None]
    return percent(statistics.median(found)) if found else "–"


def simulated_table(rows: Sequence[Line]) -> list[str]:
    """A row a level of noise and effect."""
    out = [
        "| noise | block spread of TPOT p50 / p99 / CPU | gate | what head does | jobs | FAIL | PASS | INCONCLUSIVE | blocks | seconds |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        spread = " / ".join(f"{100 * value:.1f} %" for value in row["spread"].values())
        shares = " | ".join(_share(row[verdict]) for verdict in SHOWN)
        out.append(
            f"| {row['noise']} | {spread} | {row['gate']} % | {row['effect']} | {count(row['jobs'])} | {shares} "
            f"| {row['blocks']:.1f} | {count(row['blocks'] * row['block_s'])} |"
        )
    return out


def _share(value: float) -> str:
    if value in (0.0, 1.0):
        return "0" if value == 0 else "100 %"
    # A share of one job less than all must not round to all.
    return f"{significant(100 * value, 2)} %" if value < 0.1 else f"{min(100 * value, 99.9):.1f} %"


def spread_table(lines: Sequence[Line]) -> list[str]:
    """How far the blocks of A/A jobs scattered, by the load of the machine: what the noise was really like."""
    out = [
        "| load average | A/A jobs | PASS at first look | time, median | block spread of TPOT p50 | token latency p99 | CPU per token |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for low, high in ((0, 2), (2, 5), (5, 10), (10, 15), (15, math.inf)):
        mine = [line for line in lines if line["case"] == "aa" and low <= line["load_average"][1] < high]
        if not mine:
            continue
        name = f"{low} … {high:g}" if math.isfinite(high) else f"over {low}"
        first = sum(line["verdict"] == PASS and line["blocks"] == 10 for line in mine)
        spreads = []
        for metric in ("tpot_p50", "token_latency_p99", "cpu_per_token"):
            found = [line["gates"][metric]["spread"] for line in mine if line["gates"].get(metric, {}).get("spread") is not None]
            spreads.append(f"{100 * statistics.median(found):.1f} %" if found else "–")
        seconds = statistics.median(line["seconds"] for line in mine)
        out.append(f"| {name} | {len(mine)} | {first} | {count(seconds)} s | {' | '.join(spreads)} |")
    return out


def replace_part(text: str, name: str, lines: Sequence[str]) -> str:
    """``text`` with what stands between the marks of ``name`` replaced; ValueError where the marks are missing."""
    begin, end = BEGIN.format(name=name), END.format(name=name)
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"expected the marks {begin} and {end} once each")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return "\n".join([before + begin, *lines, end]) + after


def fill_page(text: str, lines: Sequence[Line], simulated: Sequence[Line]) -> str:
    """The page with all its tables made anew."""
    for name, made in (("real jobs", real_table(lines)), ("spread", spread_table(lines)), ("simulated jobs", simulated_table(simulated))):
        text = replace_part(text, name, made)
    return text


def update_page(page: Path, lines: Sequence[Line], simulated: Sequence[Line]) -> None:
    """Write the tables into the page."""
    page.write_text(fill_page(page.read_text(encoding="utf-8"), lines, simulated), encoding="utf-8")
