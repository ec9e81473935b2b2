"""Is head slower than base by an amount that matters? From a plan and its blocks to pass, regressed, inconclusive or invalid. Pure.

At each look, in the plan's order: regressed if any gate's lower bound is above its tolerance, else passed if every gate's upper bound is
below the change that matters, else on to the next look. A machine that is not healthy decides nothing at that look.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from .check_plan import BASE, COUNTED, HEAD, HEALTH_TITLES, METRICS, CheckPlan, Gate
from .signed_rank import estimate, lower_bound, p_greater, upper_bound

PASS, REGRESSED, INCONCLUSIVE, INVALID = "pass", "regressed", "inconclusive", "invalid"
IMPROVED, UNDECIDED, INFORMATIONAL = "improved", "undecided", "informational"
EXIT_CODES: Final[Mapping[str, int]] = {PASS: 0, REGRESSED: 10, INCONCLUSIVE: 11, INVALID: 12}
TIES: Final = 0.25
"""Above this share of differences that are equal in size, a clock is too coarse for ranks to mean anything."""
SCHEMA_VERSION: Final = 1

Block = Mapping[str, Any]


def differences(blocks: Sequence[Block], metric: str) -> list[float | None]:
    """ln(head / base) of each block; None where one of them has no figure."""
    found: list[float | None] = []
    for block in blocks:
        base, head = block[BASE][metric], block[HEAD][metric]
        found.append(math.log(head / base) if base and head and base > 0 and head > 0 else None)
    return found


def judge(plan: CheckPlan, blocks: Sequence[Block]) -> dict[str, Any]:
    """The verdict: that of the first look which decides. Blocks after it are not looked at."""
    for look in plan.looks:
        if len(blocks) < look:
            break
        verdict = judge_at(plan, blocks[:look])
        if verdict["verdict"] != UNDECIDED:
            return verdict
    measured = min(len(blocks), plan.looks[-1])
    if measured < plan.looks[0]:
        reason = f"the check ended after {measured} of at least {plan.looks[0]} blocks; fewer can say nothing"
        gates = [judge_gate(plan, gate, blocks) | {"verdict": UNDECIDED} for gate in plan.gates] if blocks else []
        return _whole(plan, blocks, INVALID, [reason], gates, judge_errors(plan, blocks) | {"verdict": UNDECIDED} if blocks else None)
    verdict = judge_at(plan, blocks[:measured])
    verdict["verdict"], verdict["exit_code"] = INCONCLUSIVE, EXIT_CODES[INCONCLUSIVE]
    if measured not in plan.looks:
        verdict["reasons"].insert(0, f"the check ended after {measured} blocks, between two looks")
        if not any(row["verdict"] == UNDECIDED for row in verdict["gates"]):
            verdict["reasons"].append("only the planned looks may decide, whatever lies between them")
    return verdict


def judge_at(plan: CheckPlan, blocks: Sequence[Block]) -> dict[str, Any]:
    """What one look at these blocks says; ``undecided`` is no verdict but the wish for more blocks."""
    gates = [judge_gate(plan, gate, blocks) for gate in plan.gates]
    errors = judge_errors(plan, blocks)
    unhealthy = [rule for rule in judge_host(plan, blocks) if not rule["holds"]]
    reasons = [rule["sentence"] for rule in unhealthy]
    every = [*gates, errors]
    if unhealthy:
        outcome = UNDECIDED
    elif any(row["verdict"] == REGRESSED for row in every):
        outcome = REGRESSED
        reasons += [row["reason"] for row in every if row["verdict"] == REGRESSED]
    elif all(row["verdict"] in (PASS, IMPROVED) for row in every):
        outcome = PASS
    else:
        outcome = UNDECIDED
    if outcome == UNDECIDED:
        reasons += [row["reason"] for row in every if row["verdict"] == UNDECIDED]
    return _whole(plan, blocks, outcome, reasons, gates, errors)


def judge_gate(plan: CheckPlan, gate: Gate, blocks: Sequence[Block]) -> dict[str, Any]:
    """One gate: estimate, bounds and what follows from them. Changes are shares of one: 0.1 is 10 % slower."""
    row = describe(gate.metric, blocks, plan)
    row |= {"tolerance": gate.tolerance, "matters": gate.matters, "verdict": UNDECIDED, "p": None, "improved_high": None}
    title = METRICS[gate.metric].title
    found = differences(blocks, gate.metric)
    missing = [block["block"] for block, d in zip(blocks, found, strict=True) if d is None]
    if missing:
        row["reason"] = f"{title}: no figure of both arms in {_blocks(missing)}"
        return row
    d = np.array(found, dtype=np.float64)
    if (counted := COUNTED.get(gate.metric)) is not None:
        few = min(min(block[BASE][counted], block[HEAD][counted]) for block in blocks)
        if few < plan.least_tokens:
            row["reason"] = (
                f"{title}: {few} tokens in an arm of a block, and it needs {plan.least_tokens}; take longer slices or more users"
            )
            return row
    if note := _unfit(d):
        row["reason"] = f"{title}: {note}"
        return row
    alpha = plan.fail_alpha()
    tolerance, matters = math.log1p(gate.tolerance), math.log1p(gate.matters)
    row["p"] = p_greater(d, tolerance)
    low, high = lower_bound(d, alpha), upper_bound(d, plan.pass_alpha())
    better = upper_bound(d, alpha)
    if low is not None and low > tolerance:
        row["verdict"] = REGRESSED
        row["reason"] = f"{title} is {percent(row['change'])} (at least {percent(row['low'])}, tolerance {percent(gate.tolerance)})"
    elif high is not None and high < matters:
        row["verdict"] = IMPROVED if better is not None and better < -tolerance else PASS
    else:
        row["reason"] = _resolution(title, gate, row, len(blocks))
    return row


def describe(metric: str, blocks: Sequence[Block], plan: CheckPlan) -> dict[str, Any]:
    """A metric's medians over blocks, the estimated change and its bounds; None where a block lacks it."""
    found = [d for d in differences(blocks, metric) if d is not None]
    values = {arm: [block[arm][metric] for block in blocks if block[arm][metric] is not None] for arm in (BASE, HEAD)}
    row: dict[str, Any] = {"metric": metric, "title": METRICS[metric].title, "unit": METRICS[metric].unit}
    row |= {arm: statistics.median(values[arm]) if values[arm] else None for arm in (BASE, HEAD)}
    row |= {"change": None, "low": None, "high": None, "spread": None, "reason": None}
    if found and len(found) == len(blocks):
        low, high = lower_bound(found, plan.fail_alpha()), upper_bound(found, plan.pass_alpha())
        row |= {
            "change": math.expm1(estimate(found)), "low": None if low is None else math.expm1(low),
            "high": None if high is None else math.expm1(high), "spread": statistics.stdev(found) if len(found) > 1 else None,
        }  # fmt: skip
    return row


def judge_errors(plan: CheckPlan, blocks: Sequence[Block]) -> dict[str, Any]:
    """Conversations that failed: a gate of their own. The same exact test, on the blocks' differences of the shares that failed.

    Blocks in which both failed alike say nothing; where head fails now and then and base does not, the check cannot pass either.
    """
    rates = {arm: [block[arm]["failed"] / block[arm]["tried"] if block[arm]["tried"] else 1.0 for block in blocks] for arm in (BASE, HEAD)}
    failed = {arm: sum(block[arm]["failed"] for block in blocks) for arm in (BASE, HEAD)}
    tried = {arm: sum(block[arm]["tried"] for block in blocks) for arm in (BASE, HEAD)}
    more = [head - base for base, head in zip(rates[BASE], rates[HEAD], strict=True)]
    p = p_greater(more)
    share = {arm: statistics.fmean(rates[arm]) for arm in (BASE, HEAD)}
    row: dict[str, Any] = {"failed": failed, "tried": tried, "share": share, "p": p, "verdict": PASS, "reason": None}
    said = f"{failed[HEAD]} of {tried[HEAD]} conversations failed on head, {failed[BASE]} of {tried[BASE]} on base"
    kinds = sorted({kind for block in blocks for kind in block[HEAD]["errors"]})
    said += f" ({', '.join(kinds)})" if kinds else ""
    if p <= plan.fail_alpha():
        row |= {"verdict": REGRESSED, "reason": said}
    elif share[HEAD] - share[BASE] > plan.error_allowance:
        row |= {"verdict": UNDECIDED, "reason": f"{said}: too many to pass, in too few blocks to be sure"}
    return row


def judge_host(plan: CheckPlan, blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """The machine's rules with what was measured: medians over blocks, and no step of the wall clock. Blind to the arms."""
    rules: list[dict[str, Any]] = []
    for name, title in HEALTH_TITLES.items():
        limit = getattr(plan.health, name)
        values = [block["host"][name] for block in blocks if block["host"][name] is not None]
        measured = statistics.median(values) if values else None
        holds = measured is None or limit is None or measured <= limit
        sentence = None if holds else f"the machine was not fit to measure: {title} was {measured:.0%}, at most {limit:.0%} allowed"
        rules.append({"rule": name, "title": title, "measured": measured, "limit": limit, "holds": holds, "sentence": sentence})
    steps = [block["block"] for block in blocks if block["host"]["clock_step_ns"]]
    rules.append(
        {
            "rule": "clock_step", "title": "blocks in which the wall clock was set", "measured": len(steps), "limit": 0, "holds": not steps,
            "sentence": f"the wall clock was set in {_blocks(steps)}, on which arrivals are stamped" if steps else None,
        }
    )  # fmt: skip
    return rules


def percent(change: float | None) -> str:
    """A change as signed per cent: ``+4.8 %``."""
    if change is None:
        return "–"
    shown = 100 * change
    digits = 1 if abs(shown) < 99.95 else 0
    return f"{shown:+.{digits}f} %".replace("-", "\u2212")


def _unfit(d: Any) -> str | None:
    if np.ptp(d) == 0.0:
        return "the same difference in every block, which no measured time has; is something cached or stubbed?"
    _, counts = np.unique(np.abs(d), return_counts=True)
    tied = int(counts[counts > 1].sum())
    if tied > TIES * d.size:
        return f"{tied} of {d.size} differences are tied; the clock is too coarse for what is measured"
    return None


def _resolution(title: str, gate: Gate, row: Mapping[str, Any], blocks: int) -> str:
    """What cannot be excluded, and about how many more blocks would do: a bound comes nearer by the square root of their number."""
    if row["high"] is None:
        return f"{title}: too few blocks for a bound"
    said = f"{title}: cannot exclude {percent(row['high'])}"
    centre, high, matters = math.log1p(row["change"]), math.log1p(row["high"]), math.log1p(gate.matters)
    if centre >= matters:
        return f"{said}, and its estimate of {percent(row['change'])} is already beyond {percent(gate.matters)}; more blocks may show it"
    needed = math.ceil(blocks * ((high - centre) / (matters - centre)) ** 2)
    return f"{said}; about {max(1, needed - blocks)} more blocks"


def _blocks(numbers: Sequence[int]) -> str:
    return f"block {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} blocks (the first is {numbers[0]})"


def _whole(
    plan: CheckPlan,
    blocks: Sequence[Block],
    outcome: str,
    reasons: list[str],
    gates: list[dict[str, Any]],
    errors: dict[str, Any] | None = None,
) -> dict[str, Any]:
    gated = {gate.metric for gate in plan.gates}
    others = [describe(metric, blocks, plan) for metric in METRICS if metric not in gated] if blocks else []
    return {
        "schema_version": SCHEMA_VERSION, "verdict": outcome, "exit_code": EXIT_CODES.get(outcome), "candidate": outcome == REGRESSED,
        "gate": plan.gate, "blocks": len(blocks), "looks": list(plan.looks), "base": plan.targets[BASE], "head": plan.targets[HEAD],
        "fresh": plan.fresh, "reasons": reasons, "gates": gates, "errors": errors,
        "informational": [row | {"verdict": INFORMATIONAL} for row in others if row[BASE] is not None and row[HEAD] is not None],
        "host": judge_host(plan, blocks) if blocks else [],
    }  # fmt: skip
