"""What the regression check is put to the proof with: the same server twice, known slow-downs, a longer tail, a malicious neighbour."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .check_plan import BASE
from .verdict import INCONCLUSIVE, PASS, REGRESSED

CPU_US: Final = 80
"""Work a token of the slowed servers' base: with the server's own some 20 us a token costs about 100 us, so that 1 us is about 1 %."""
FIRST_COST_NS: Final = 105_000.0
"""What a token costs as long as no job has measured it."""
STALLS_MS: Final = (10.0, 15.0)
"""Stalls of base and head: long enough to stand out of the stalls that a busy machine makes by itself."""
BURST_BLOCKS: Final = 3


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of job: how many of ``weight`` in all kinds, its gate, what should come of it and what must not."""

    name: str
    title: str
    weight: int
    gate: str
    expected: str
    forbidden: str


CASES: Final = (
    Case("aa", "A/A: the same server twice", 10, "10", PASS, REGRESSED),
    Case("slow-5", "every token +5 %", 1, "5", REGRESSED, PASS),
    Case("slow-10", "every token +10 %", 1, "10", REGRESSED, PASS),
    Case("slow-20", "every token +20 %", 1, "10", REGRESSED, PASS),
    Case("tail", "tail only: 2 % of the tokens stall for 15 ms instead of 10 ms", 1, "10", REGRESSED, PASS),
    Case("burst", f"A/A, a neighbour burns while head has its turn, in {BURST_BLOCKS} of the first 10 blocks", 1, "10", PASS, REGRESSED),
)
BY_NAME: Final[Mapping[str, Case]] = {case.name: case for case in CASES}
OUTCOMES: Final = (REGRESSED, PASS, INCONCLUSIVE)


def next_case(lines: Sequence[Mapping[str, Any]], only: Sequence[str] = ()) -> Case:
    """The kind of job that is furthest behind its weight."""
    done = [line["case"] for line in lines]
    chosen = [case for case in CASES if not only or case.name in only]
    return min(chosen, key=lambda case: (done.count(case.name) / case.weight, CASES.index(case)))


@dataclass(frozen=True, slots=True)
class Injection:
    """Options of the reference server for each arm, the blocks with a burst, and what was injected in numbers."""

    base: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    burst_blocks: tuple[int, ...] = ()
    facts: Mapping[str, float] | None = None


def inject(case: Case, lines: Sequence[Mapping[str, Any]], seed: int) -> Injection:
    """What to do to the servers of one job. Earlier jobs on this machine say what a token costs there."""
    if case.name.startswith("slow-"):
        share = int(case.name.removeprefix("slow-")) / 100
        cost = _latest(lines, "slow-", "cpu_per_token", FIRST_COST_NS)
        more_us = max(1, round(cost * share / 1000))
        facts = {"wanted_share": share, "more_us": float(more_us), "cost_before_ns": cost}
        return Injection((f"--cpu-us={CPU_US}",), (f"--cpu-us={CPU_US + more_us}",), facts=facts)
    if case.name == "tail":
        # In a fifth of the conversations a tenth of the tokens: the median conversation is as it was, the 99th percentile is not. Base has
        # such a tail already, a shorter one: a server that sometimes waits and one that never does also differ in how much work they
        # find at once, and so in processor time.
        common = ("--stall-mode=hold", "--stall-conversations=0.2", "--stall-share=0.1")
        base_ms, head_ms = STALLS_MS
        facts = {"base_stall_ms": base_ms, "head_stall_ms": head_ms, "stalled_share": 0.02}
        return Injection((*common, f"--stall-ms={base_ms:g}"), (*common, f"--stall-ms={head_ms:g}"), facts=facts)
    if case.name == "burst":
        return Injection(burst_blocks=tuple(sorted(random.Random(seed).sample(range(1, 11), BURST_BLOCKS))))
    return Injection()


def _latest(lines: Sequence[Mapping[str, Any]], kind: str, metric: str, otherwise: float) -> float:
    for line in reversed(lines):
        found = line["gates"].get(metric) if line["case"].startswith(kind) else None
        if found and found[BASE]:
            return float(found[BASE])
    return otherwise
