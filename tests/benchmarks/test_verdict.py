"""The verdict's rules on made-up blocks: what fails, what passes, what stays open, and that nothing depends on which arm is which."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.check_blocks import read_blocks
from benchmarks.check_plan import METRICS, CheckPlan, PlanError, check_plan, draw_orders, make_gates, read_plan
from benchmarks.verdict import judge, judge_at, percent
from benchmarks.verdict_files import verdict_json

GATED = ("tpot_p50", "token_latency_p99", "cpu_per_token")


def a_plan(gate: str = "10", looks: tuple[int, ...] = (10, 20, 30)) -> CheckPlan:
    orders, starts = draw_orders(1, looks[-1], 8)
    target = {"kind": "command", "label": "python -m server", "command": "python -m server", "url": None}
    return CheckPlan(
        seed=1, gate=gate, gates=make_gates(gate, True, True), looks=looks, orders=orders, starts=starts, slice_s=0.1, warm_up_s=0.1,
        fresh=True, workload={}, targets={"base": target, "head": target},
    )  # fmt: skip


def an_arm(**figures: Any) -> dict[str, Any]:
    made: dict[str, Any] = dict.fromkeys(METRICS, 100_000.0)
    made |= {"conversations": 100, "tokens": 3000, "tried": 100, "failed": 0, "latencies": 2900, "gaps": 2900, "errors": {}}
    return made | figures


def some_blocks(changes: dict[str, list[float]], blocks: int = 30) -> list[dict[str, Any]]:
    """Blocks whose ln(head / base) is as given for each metric; a little noise elsewhere."""
    draw = np.random.default_rng(5)
    made = []
    for number in range(1, blocks + 1):
        base = an_arm()
        head = an_arm(**{name: 100_000.0 * math.exp(draw.normal(0, 0.005)) for name in METRICS})
        for name, values in changes.items():
            head[name] = base[name] * math.exp(values[number - 1])
        host = {"steal_share": 0.0, "pressure_share": 0.5, "generator_cpu_share": 0.4, "receive_lag_share": 0.1, "clock_step_ns": 0}
        made.append({"kind": "block", "block": number, "order": "ABBABAAB", "base": base, "head": head, "host": host})
    return made


def around(change: float, spread: float, seed: int = 3, blocks: int = 30) -> list[float]:
    return [float(d) for d in np.random.default_rng(seed).normal(math.log1p(change), spread, blocks)]


def mirrored(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [block | {"base": block["head"], "head": block["base"]} for block in blocks]


def test_the_same_server_passes_at_the_first_look() -> None:
    verdict = judge(a_plan(), some_blocks({}))
    assert (verdict["verdict"], verdict["exit_code"], verdict["blocks"]) == ("pass", 0, 10)


@pytest.mark.parametrize("metric", GATED)
def test_each_gate_alone_can_fail_it(metric: str) -> None:
    verdict = judge(a_plan(), some_blocks({metric: around(0.20, 0.02)}))
    assert (verdict["verdict"], verdict["exit_code"], verdict["blocks"]) == ("regressed", 10, 10)
    assert [row["metric"] for row in verdict["gates"] if row["verdict"] == "regressed"] == [metric]
    assert verdict["candidate"]


def test_what_is_informational_fails_nothing() -> None:
    verdict = judge(a_plan(), some_blocks({"ttft_p50": around(1.0, 0.02), "stop_latency_p50": around(1.0, 0.02)}))
    assert verdict["verdict"] == "pass"


def test_a_tail_alone_is_found() -> None:
    verdict = judge(a_plan(), some_blocks({"token_latency_p99": around(0.5, 0.12)}))
    assert verdict["verdict"] == "regressed"


def test_a_change_within_the_tolerance_is_forgiven() -> None:
    verdict = judge(a_plan(), some_blocks({"tpot_p50": around(0.015, 0.005)}))
    assert verdict["verdict"] == "pass"


def test_the_finer_gate_finds_what_the_coarse_one_lets_pass() -> None:
    blocks = some_blocks({"tpot_p50": around(0.02, 0.003)})
    assert judge(a_plan("10"), blocks)["verdict"] == "pass"
    assert judge(a_plan("5"), blocks)["verdict"] == "regressed"


def test_a_noisy_gate_goes_on_to_the_last_look_and_says_what_it_could_not_exclude() -> None:
    verdict = judge(a_plan(), some_blocks({"token_latency_p99": around(0.1, 0.8, seed=11)}))
    assert (verdict["verdict"], verdict["exit_code"], verdict["blocks"]) == ("inconclusive", 11, 30)
    assert any("token latency p99: cannot exclude +" in reason and "more blocks" in reason for reason in verdict["reasons"])


def test_a_burst_in_some_blocks_while_head_is_active_does_not_fail_it() -> None:
    hit = [0.7 if block in (2, 3, 4) else d for block, d in enumerate(around(0.0, 0.01), start=1)]
    blocks = some_blocks({"tpot_p50": hit, "token_latency_p99": hit, "cpu_per_token": around(0.0, 0.01)})
    assert judge_at(a_plan(), blocks[:10])["verdict"] == "undecided"
    assert judge(a_plan(), blocks)["verdict"] == "pass"


def test_swapped_labels_mirror_the_verdict() -> None:
    plan = a_plan()
    blocks = some_blocks({"tpot_p50": around(0.25, 0.05), "cpu_per_token": around(0.0, 0.05)})
    there, back = judge_at(plan, blocks[:10]), judge_at(plan, mirrored(blocks)[:10])
    assert there["verdict"] == "regressed"
    assert back["verdict"] == "pass"
    assert next(row["verdict"] for row in back["gates"]) == "improved"
    for one, other in zip(there["gates"], back["gates"], strict=True):
        assert math.log1p(one["change"]) == pytest.approx(-math.log1p(other["change"]))
        assert (one["base"], one["head"]) == (other["head"], other["base"])


def test_fewer_blocks_than_the_first_look_are_refused() -> None:
    verdict = judge(a_plan(), some_blocks({"tpot_p50": [1.0] * 30})[:9])
    assert (verdict["verdict"], verdict["exit_code"]) == ("invalid", 12)
    assert {row["verdict"] for row in verdict["gates"]} == {"undecided"}
    assert judge(a_plan(), [])["verdict"] == "invalid"


def test_only_planned_looks_decide() -> None:
    noisy = around(0.0, 0.8, seed=2)
    blocks = some_blocks({"token_latency_p99": [*noisy[:10], *[0.0001 * place for place in range(20)]]})
    assert judge(a_plan(), blocks[:10])["verdict"] == "inconclusive"
    verdict = judge(a_plan(), blocks[:15])
    assert verdict["verdict"] == "inconclusive"
    assert "between two looks" in verdict["reasons"][0]
    assert judge(a_plan(), blocks)["verdict"] == "pass"


def test_a_plan_that_could_never_fail_is_refused() -> None:
    with pytest.raises(PlanError, match="at least 9 blocks"):
        check_plan(a_plan(looks=(5,)))
    check_plan(a_plan(looks=(10,)))


def test_the_same_difference_in_every_block_decides_nothing() -> None:
    verdict = judge(a_plan(), some_blocks({"tpot_p50": [0.5] * 30}))
    assert verdict["verdict"] == "inconclusive"
    assert any("the same difference in every block" in reason for reason in verdict["reasons"])


def test_many_ties_decide_nothing() -> None:
    verdict = judge(a_plan(), some_blocks({"tpot_p50": [0.5, 0.5, 0.4, 0.4, 0.3] * 6}))
    assert verdict["verdict"] == "inconclusive"
    assert any("tied" in reason for reason in verdict["reasons"])


def test_too_few_tokens_for_the_p99_decide_nothing() -> None:
    blocks = some_blocks({"token_latency_p99": around(0.5, 0.01)})
    for block in blocks:
        block["base"]["latencies"] = 458
    verdict = judge(a_plan(), blocks)
    assert verdict["verdict"] == "inconclusive"
    assert any("458 tokens" in reason for reason in verdict["reasons"])


def test_without_acknowledgements_the_gaps_are_counted() -> None:
    plan = dataclasses.replace(a_plan(), gates=make_gates("10", False, True))
    blocks = some_blocks({"itl_p99": around(0.5, 0.05)})
    for block in blocks:
        block["base"]["latencies"] = block["head"]["latencies"] = 0
    verdict = judge(plan, blocks)
    assert [(row["metric"], row["verdict"]) for row in verdict["gates"]][1] == ("itl_p99", "regressed")


def test_a_missing_figure_decides_nothing() -> None:
    blocks = some_blocks({"cpu_per_token": around(0.5, 0.01)})
    blocks[3]["head"]["cpu_per_token"] = None
    verdict = judge(a_plan(), blocks)
    assert verdict["verdict"] == "inconclusive"
    assert "server CPU per token: no figure of both arms in block 4" in verdict["reasons"]


@pytest.mark.parametrize("rule", ["steal_share", "generator_cpu_share", "receive_lag_share"])
def test_an_unfit_machine_decides_nothing_either_way(rule: str) -> None:
    for changes in ({}, {"tpot_p50": around(0.5, 0.01)}):
        blocks = some_blocks(changes)
        for block in blocks:
            block["host"][rule] = 0.95
        verdict = judge(a_plan(), blocks)
        assert verdict["verdict"] == "inconclusive"
        assert "not fit to measure" in verdict["reasons"][0]


def test_a_step_of_the_clock_decides_nothing() -> None:
    blocks = some_blocks({})
    blocks[1]["host"]["clock_step_ns"] = 5_000_000
    assert judge(a_plan(), blocks)["verdict"] == "inconclusive"


def test_the_machines_rules_are_blind_to_the_arms() -> None:
    blocks = some_blocks({"tpot_p50": around(0.5, 0.01)})
    assert judge_at(a_plan(), blocks)["host"] == judge_at(a_plan(), mirrored(blocks))["host"]


def test_errors_are_a_gate_of_their_own() -> None:
    blocks = some_blocks({})
    for block in blocks:
        block["head"] |= {"failed": 3, "errors": {"connection_lost": 3}}
    verdict = judge(a_plan(), blocks)
    assert verdict["verdict"] == "regressed"
    assert all(row["verdict"] == "pass" for row in verdict["gates"])
    assert "30 of 1000 conversations failed on head, 0 of 1000 on base (connection_lost)" in verdict["reasons"]
    assert judge(a_plan(), mirrored(blocks))["verdict"] == "pass"


def test_errors_now_and_then_keep_it_from_passing() -> None:
    blocks = some_blocks({})
    for block in blocks[:4]:
        block["head"]["failed"] = 50
    assert judge(a_plan(), blocks)["verdict"] == "inconclusive"


def test_a_head_that_dies_has_regressed_though_it_has_no_figures() -> None:
    blocks = some_blocks({})
    for block in blocks:
        block["head"] = an_arm(**dict.fromkeys(METRICS), conversations=0, tokens=0, tried=40, failed=40, latencies=0, gaps=0, errors={})
    verdict = judge(a_plan(), blocks)
    assert verdict["verdict"] == "regressed"
    json.loads(verdict_json(verdict))


def test_the_verdict_does_not_look_beyond_the_look_that_decides() -> None:
    blocks = some_blocks({})
    changed = copy.deepcopy(blocks)
    for block in changed[10:]:
        block["head"]["tpot_p50"] *= 3
    assert verdict_json(judge(a_plan(), blocks)) == verdict_json(judge(a_plan(), changed))


def test_false_alarms_are_rare_and_real_changes_found() -> None:
    plan = a_plan(looks=(10,))
    draw = np.random.default_rng(17)
    alarms = found = 0
    for _ in range(300):
        noise = {metric: draw.normal(0, 0.05, 10).tolist() for metric in GATED}
        blocks = some_blocks(noise, 10)
        alarms += judge(plan, blocks)["verdict"] == "regressed"
        slower = {metric: [d + math.log1p(0.2) for d in values] for metric, values in noise.items()}
        found += judge(plan, some_blocks(slower, 10))["verdict"] == "regressed"
    assert alarms <= 3
    assert found >= 290


def test_a_plan_survives_its_file() -> None:
    plan = a_plan("5")
    assert read_plan(json.loads(json.dumps(plan.as_dict()))) == plan
    with pytest.raises(PlanError, match="schema version"):
        read_plan(plan.as_dict() | {"schema_version": 99})
    with pytest.raises(PlanError, match="lacks something"):
        read_plan({key: value for key, value in plan.as_dict().items() if key != "gates"})


def test_orders_are_balanced_and_drawn_by_fair_coins() -> None:
    orders, starts = draw_orders(5, 400, 8)
    assert set(orders) == {"ABBABAAB", "BAABABBA"}
    assert set(starts) == {"AB", "BA"}
    assert 150 < orders.count("ABBABAAB") < 250
    assert 150 < starts.count("AB") < 250
    assert draw_orders(5, 400, 8) == (orders, starts)
    long, _ = draw_orders(5, 1, 32)
    places = np.arange(32)
    signs = np.array([1 if letter == "B" else -1 for letter in long[0]])
    # A drift of the first, second, third and fourth order cancels.
    assert [int((signs * places**order).sum()) for order in range(5)] == [0] * 5


def test_blocks_survive_their_file_and_a_line_cut_by_a_kill(tmp_path: Path) -> None:
    blocks = some_blocks({})
    path = tmp_path / "blocks.jsonl"
    text = "".join(json.dumps(block) + "\n" for block in blocks)
    path.write_text(text)
    assert read_blocks(path) == blocks
    path.write_text(text[:-20])
    assert read_blocks(path) == blocks[:-1]
    path.write_text(text.replace('"kind": "block"', '"kynd": "block"', 1))
    with pytest.raises(PlanError, match="line 1"):
        read_blocks(path)
    path.write_text("".join(text.splitlines(keepends=True)[1:]))
    with pytest.raises(PlanError, match="expected block 1, found 2"):
        read_blocks(path)


def test_changes_read_well() -> None:
    assert [percent(change) for change in (0.048, -0.153, 1.5, None)] == ["+4.8 %", "−15.3 %", "+150 %", "–"]
