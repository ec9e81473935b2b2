"""What is fixed before a regression check measures anything: metrics, tolerances, looks, the order of every slice. ``plan.json``.

Nothing in it is decided from the data later, and the verdict follows from it and ``blocks.jsonl`` alone.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from .signed_rank import critical

SCHEMA_VERSION: Final = 1
LOOKS: Final = (10, 20, 30)
ALPHA_FAIL: Final = 0.01
"""Chance of a false alarm of the whole check, over its three gates and its three looks, when head is no slower than the tolerance."""
ALPHA_PASS: Final = 0.05
"""Chance of a pass, over the three looks, when head is slower by the change that matters."""
LEAST_TOKENS: Final = 459
"""Tokens an arm needs in a block for its 99th percentile: the smallest n with 1 - 0.99^n >= 0.99."""
ERROR_ALLOWANCE: Final = 0.001
"""Share of conversations that may fail more on head than on base in a check that passes."""
BASE, HEAD = "base", "head"


@dataclass(frozen=True, slots=True)
class Gate:
    """One metric that can fail the check: ``tolerance`` is what is forgiven, ``matters`` what must be excluded to pass (shares of one)."""

    metric: str
    tolerance: float
    matters: float


@dataclass(frozen=True, slots=True)
class Metric:
    """How a figure is called, its unit (``ns`` or ``1``), and its definition."""

    title: str
    unit: str
    definition: str


METRICS: Final[Mapping[str, Metric]] = {
    "tpot_p50": Metric("TPOT p50", "ns", "median over completed conversations of (last token - first token) / (tokens - 1)"),
    "token_latency_p99": Metric("token latency p99", "ns", "99th percentile of acknowledgement sent to arrival of the token it allowed"),
    "itl_p99": Metric("gap p99", "ns", "99th percentile of the gap from one token's arrival to the next"),
    "cpu_per_token": Metric("server CPU per token", "ns", "processor time of the server's processes divided by the tokens received"),
    "time_per_token": Metric("time per token", "ns", "time of the slices divided by the tokens received: the inverse of the throughput"),
    "token_latency_p50": Metric("token latency p50", "ns", "median of acknowledgement sent to arrival of the token it allowed"),
    "ttft_p50": Metric("TTFT p50", "ns", "median of prompt sent to arrival of the first token"),
    "connect_time_p50": Metric("connect p50", "ns", "median of start of connect to arrival of the handshake's answer"),
    "stop_latency_p50": Metric("stop latency p50", "ns", "median of stop sent to arrival of the end message"),
    "instructions_per_token": Metric("instructions per token", "1", "user-space instructions of the server's processes by token"),
}
COUNTED: Final[Mapping[str, str]] = {"token_latency_p99": "latencies", "itl_p99": "gaps"}
"""Percentiles that need ``LEAST_TOKENS`` in each arm of a block, and the count that says how many there were."""
GATES: Final[Mapping[str, tuple[tuple[float, float], ...]]] = {
    "10": ((0.02, 0.10), (0.05, 0.30), (0.02, 0.10)),
    "5": ((0.01, 0.05), (0.03, 0.30), (0.01, 0.05)),
}
"""Tolerance and what matters, for TPOT p50, the p99, and the cost of a token."""


@dataclass(frozen=True, slots=True)
class Health:
    """What the machine must be like for a verdict: limits on medians over blocks, in which both arms count alike.

    None: reported, and refuses nothing. So it is with the pressure: it is near 1 on every machine that is fully used, and slices as short
    as these share what there is so evenly that the verdict was right there too (docs/regressions.md).
    """

    steal_share: float = 0.10
    pressure_share: float | None = None
    generator_cpu_share: float = 0.90
    receive_lag_share: float = 0.50


HEALTH_TITLES: Final[Mapping[str, str]] = {
    "steal_share": "processor time that the hypervisor gave to others",
    "pressure_share": "share of the time in which something that could run waited for a processor",
    "generator_cpu_share": "share of a processor that the generator used",
    "receive_lag_share": "median receive lag of the generator, as a share of the time per output token",
}


@dataclass(frozen=True, slots=True)
class CheckPlan:
    """Everything that is decided before: see the fields; ``orders`` holds a string of A (base) and B (head) a block."""

    seed: int
    gate: str
    gates: tuple[Gate, ...]
    looks: tuple[int, ...]
    orders: tuple[str, ...]
    starts: tuple[str, ...]
    slice_s: float
    warm_up_s: float
    fresh: bool
    workload: dict[str, Any]
    targets: dict[str, Any]
    health: Health = field(default_factory=Health)
    alpha_fail: float = ALPHA_FAIL
    alpha_pass: float = ALPHA_PASS
    least_tokens: int = LEAST_TOKENS
    error_allowance: float = ERROR_ALLOWANCE
    schema_version: int = SCHEMA_VERSION

    def fail_alpha(self) -> float:
        """The level of one gate at one look for FAIL."""
        return self.alpha_fail / (len(self.gates) * len(self.looks))

    def pass_alpha(self) -> float:
        """The level of one look for PASS: all gates must pass, so that they share nothing."""
        return self.alpha_pass / len(self.looks)

    def as_dict(self) -> dict[str, Any]:
        """The plan for ``plan.json``."""
        return asdict(self)


class PlanError(Exception):
    """A plan cannot be made or read; the message says what was expected, what came and what to do."""


def thue_morse(length: int) -> str:
    """The first ``length`` letters of ABBABAABBAABABBA...: each half mirrors the other, so that drifts of low order cancel."""
    return "".join("AB"[place.bit_count() % 2] for place in range(length))


def mirrored(order: str) -> str:
    """``order`` with A and B exchanged."""
    return order.translate(str.maketrans("AB", "BA"))


def draw_orders(seed: int, blocks: int, slices: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """For each block the order of its slices and in which order its servers start, each by a fair coin."""
    draw = random.Random(f"regression check {seed}")
    order = thue_morse(slices)
    orders, starts = [], []
    for _ in range(blocks):
        orders.append(order if draw.random() < 0.5 else mirrored(order))
        starts.append("AB" if draw.random() < 0.5 else "BA")
    return tuple(orders), tuple(starts)


def make_gates(gate: str, acknowledged: bool, cpu: bool) -> tuple[Gate, ...]:
    """The three gates: the third is processor time where both servers are ours to start, else time."""
    names = ("tpot_p50", "token_latency_p99" if acknowledged else "itl_p99", "cpu_per_token" if cpu else "time_per_token")
    return tuple(Gate(name, tolerance, matters) for name, (tolerance, matters) in zip(names, GATES[gate], strict=True))


def read_plan(table: Mapping[str, Any]) -> CheckPlan:
    """A plan from what ``as_dict`` gave; PlanError when it is of another version or could decide nothing."""
    version = table.get("schema_version")
    if version != SCHEMA_VERSION:
        raise PlanError(f"expected a plan of schema version {SCHEMA_VERSION}, found {version!r}; replay it with the version that wrote it")
    values = dict(table)
    try:
        values["gates"] = tuple(Gate(**gate) for gate in table["gates"])
        values["health"] = Health(**table["health"])
        for name in ("looks", "orders", "starts"):
            values[name] = tuple(table[name])
        plan = CheckPlan(**values)
    except (KeyError, TypeError) as error:
        raise PlanError(f"the plan lacks something or has too much: {error}; it must be the plan.json that the check wrote") from None
    check_plan(plan)
    return plan


def check_plan(plan: CheckPlan) -> None:
    """PlanError when the first look has too few blocks to say anything, or there are fewer orders than blocks."""
    first = plan.looks[0]
    if critical(first, plan.fail_alpha()) is None:
        least = next(n for n in range(1, 1000) if critical(n, plan.fail_alpha()) is not None)
        raise PlanError(
            f"expected at least {least} blocks before the first look, found {first}: fewer could never fail, whatever they showed"
        )
    if len(plan.orders) < plan.looks[-1] or len(plan.starts) < plan.looks[-1]:
        raise PlanError(f"expected an order for each of {plan.looks[-1]} blocks, found {len(plan.orders)}")
