"""Simulated jobs of the regression check: how often does it cry wolf, and what does it miss? Reproducible by seed.

A job is a row of blocks; a block's tokens are lognormal about an environment that drifts (two Ornstein-Uhlenbeck processes and a trend),
bursts and differs from one start of a server to the next, with a Pareto tail and stalls that hit many conversations at once. The
levels of noise are fitted by eye to real runs on two shared processors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .check_plan import ALPHA_FAIL, ALPHA_PASS, GATES, LOOKS, thue_morse
from .signed_rank import critical
from .verdict import INCONCLUSIVE, PASS, REGRESSED

Floats = npt.NDArray[np.float64]
SLICES, CONVERSATIONS, TOKENS = 32, 8, 20
"""A block's slices, and what a slice holds: fewer tokens than a real one, so that thousands of jobs take seconds."""
SLICE_S, GAP_S = 0.0625, 1.3
"""How long a slice lasts, and the time between two blocks in which servers start and stop."""
METRICS: Final = ("tpot_p50", "token_latency_p99", "cpu_per_token")
CODES: Final = (PASS, REGRESSED, INCONCLUSIVE)


@dataclass(frozen=True, slots=True)
class Noise:
    """How restless a machine is: standard deviations of log latency unless said otherwise."""

    slow: float
    slow_tau_s: float
    trend: float
    fast: float
    start: float
    burst: float
    burst_every_s: float
    burst_lasts_s: float
    stalls: float
    cpu: float


LEVELS: Final[Mapping[str, Noise]] = {
    "quiet": Noise(0.008, 60.0, 0.02, 0.008, 0.006, 0.10, 180.0, 3.0, 0.004, 0.004),
    "typical": Noise(0.030, 40.0, 0.06, 0.020, 0.012, 0.20, 60.0, 5.0, 0.010, 0.008),
    "nasty": Noise(0.080, 30.0, 0.12, 0.050, 0.025, 0.35, 40.0, 6.0, 0.020, 0.015),
    "crowded": Noise(0.250, 8.0, 0.30, 0.300, 0.030, 0.60, 10.0, 3.0, 0.060, 0.025),
}


@dataclass(frozen=True, slots=True)
class Effect:
    """What head is slower by: shares of one on each metric; ``burst`` raises head alone in the blocks numbered (from 0)."""

    title: str
    gate: str
    changes: tuple[float, float, float] = (0.0, 0.0, 0.0)
    burst: tuple[int, ...] = ()


EFFECTS: Final = (
    Effect("A/A", "10"),
    Effect("slower by just the tolerance", "10", (0.02, 0.05, 0.02)),
    Effect("every token +5 %", "10", (0.05, 0.05, 0.05)),
    Effect("every token +10 %", "10", (0.10, 0.10, 0.10)),
    Effect("every token +20 %", "10", (0.20, 0.20, 0.20)),
    Effect("tail only, p99 +30 %", "10", (0.0, 0.30, 0.0)),
    Effect("tail only, p99 +50 %", "10", (0.0, 0.50, 0.0)),
    Effect("burst on head in 3 of the first 10 blocks", "10", burst=(1, 2, 3)),
    Effect("A/A", "5"),
    Effect("every token +5 %", "5", (0.05, 0.05, 0.05)),
)


def _wander(draw: np.random.Generator, spread: float, tau_s: float, times: Floats) -> Floats:
    """An Ornstein-Uhlenbeck process at the given times."""
    steps = np.exp(-np.diff(times, prepend=times[0]) / tau_s)
    steps[0] = 0.0
    shocks = draw.standard_normal(times.size) * spread * np.sqrt(1 - steps**2)
    path = np.empty(times.size)
    value = 0.0
    for place in range(times.size):
        value = value * steps[place] + shocks[place]
        path[place] = value
    return path


def simulate_job(draw: np.random.Generator, noise: Noise, blocks: int = LOOKS[-1]) -> Floats:
    """ln(head / base) of every block and metric of one A/A job: shape (blocks, 3)."""
    block_s = SLICES * SLICE_S + GAP_S
    times = (np.arange(blocks)[:, None] * block_s + np.arange(SLICES)[None, :] * SLICE_S).ravel()
    level = _wander(draw, noise.slow, noise.slow_tau_s, times) + _wander(draw, noise.fast, 0.5, times)
    level += draw.uniform(-1, 1) * noise.trend * np.linspace(-0.5, 0.5, times.size)
    burst = np.zeros(times.size, dtype=np.bool_)
    at = draw.exponential(noise.burst_every_s)
    while at < times[-1]:
        lasts = draw.exponential(noise.burst_lasts_s)
        burst |= (times >= at) & (times < at + lasts)
        at += lasts + draw.exponential(noise.burst_every_s)
    level += burst * noise.burst
    order = np.array([1 if letter == "B" else 0 for letter in thue_morse(SLICES)])
    arms = np.where(draw.random(blocks)[:, None] < 0.5, order[None, :], 1 - order[None, :])
    start = draw.standard_normal((blocks, 2)) * noise.start
    tail = 0.04 * np.exp(draw.standard_normal((blocks, 2)) * 8 * noise.start)
    level = level.reshape(blocks, SLICES)
    heavy = np.where(burst.reshape(blocks, SLICES), 2.0, 1.0)
    x = draw.standard_normal((blocks, SLICES, CONVERSATIONS, TOKENS), dtype=np.float32) * np.float32(0.10)
    x += (level + np.take_along_axis(start, arms, 1))[:, :, None, None].astype(np.float32)
    x += draw.standard_normal((blocks, SLICES, CONVERSATIONS, 1), dtype=np.float32) * np.float32(0.03)
    share = np.take_along_axis(tail, arms, 1) * heavy
    hit = draw.random(x.shape, dtype=np.float32) < share[:, :, None, None].astype(np.float32)
    x[hit] += np.log1p(draw.pareto(2.5, int(hit.sum())) + 0.3).astype(np.float32)
    # A stall of the event loop: the same place of most conversations that run just then.
    stalled = draw.random((blocks, SLICES, 1, TOKENS)) < noise.stalls * heavy[:, :, None, None]
    size = np.log1p(draw.exponential(2.0, stalled.shape)) * stalled
    x += (size * (draw.random((blocks, SLICES, CONVERSATIONS, TOKENS), dtype=np.float32) < 0.7)).astype(np.float32)
    found = np.empty((blocks, 3))
    for block in range(blocks):
        logs = [_figures(x[block][arms[block] == arm]) for arm in (0, 1)]
        found[block, :2] = logs[1] - logs[0]
        # Processor time hardly feels the others: a little of what latency feels, and what one start differs from the next.
        mean = [level[block][arms[block] == arm].mean() for arm in (0, 1)]
        found[block, 2] = draw.normal(0, noise.cpu) + 0.2 * (mean[1] - mean[0])
    return found


def _figures(x: npt.NDArray[np.float32]) -> Floats:
    """ln of the median over conversations of the mean, and of the 99th percentile over tokens."""
    latencies = np.exp(x)
    flat = latencies.ravel()
    place = math.ceil(0.99 * flat.size) - 1
    return np.log([float(np.median(latencies.mean(axis=2))), float(np.partition(flat, place)[place])])


def _reaches(d: Floats, bound: float, alpha: float) -> npt.NDArray[np.bool_]:
    """Whether W+ of d - ``bound`` reaches its critical value, for each job (axis 0) over its blocks (axis 1)."""
    shifted = d - bound
    ranks = np.abs(shifted).argsort(axis=1).argsort(axis=1) + 1
    w = critical(d.shape[1], alpha)
    if w is None:
        return np.zeros(len(d), dtype=np.bool_)
    reached: npt.NDArray[np.bool_] = (ranks * (shifted > 0)).sum(axis=1) >= w
    return reached


def judge_jobs(d: Floats, gate: str, looks: Sequence[int] = LOOKS) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The verdict's rules on many jobs at once: ``d`` of shape (jobs, blocks, 3). Returns codes (places in CODES) and blocks used."""
    gates = GATES[gate]
    codes = np.full(len(d), CODES.index(INCONCLUSIVE))
    used = np.full(len(d), looks[-1])
    undecided = np.ones(len(d), dtype=np.bool_)
    for look in looks:
        seen = d[:, :look]
        failed = np.zeros(len(d), dtype=np.bool_)
        passed = np.ones(len(d), dtype=np.bool_)
        for place, (tolerance, matters) in enumerate(gates):
            failed |= _reaches(seen[:, :, place], math.log1p(tolerance), ALPHA_FAIL / (len(gates) * len(looks)))
            passed &= _reaches(-seen[:, :, place], -math.log1p(matters), ALPHA_PASS / len(looks))
        for code, which in ((REGRESSED, undecided & failed), (PASS, undecided & ~failed & passed)):
            codes[which] = CODES.index(code)
            used[which] = look
        undecided &= ~(failed | passed)
    return codes, used


def simulate(
    jobs: int, seed: int, progress: Callable[[str], None] = lambda line: None, levels: Mapping[str, Noise] = LEVELS
) -> list[dict[str, Any]]:
    """The table: a row for each level of noise and effect, with shares of FAIL, PASS, INCONCLUSIVE and the mean number of blocks."""
    rows: list[dict[str, Any]] = []
    for number, (name, noise) in enumerate(levels.items()):
        progress(f"{name}: {jobs} jobs")
        draw = np.random.default_rng([seed, number])
        d = np.stack([simulate_job(draw, noise) for _ in range(jobs)])
        spread = d.std(axis=(0, 1))
        for effect in EFFECTS:
            changed = d + np.log1p(np.array(effect.changes))
            if effect.burst:
                changed[:, list(effect.burst), :2] += 0.5
            codes, used = judge_jobs(changed, effect.gate)
            share = {code: float((codes == place).mean()) for place, code in enumerate(CODES)}
            rows.append(
                {
                    "noise": name, "effect": effect.title, "gate": effect.gate, "jobs": jobs, **share, "blocks": float(used.mean()),
                    "block_s": block_seconds(), "spread": dict(zip(METRICS, map(float, spread), strict=True)),
                }
            )  # fmt: skip
    return rows


def block_seconds() -> float:
    """How long a simulated block takes."""
    return SLICES * SLICE_S + GAP_S
