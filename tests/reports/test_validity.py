"""Every rule by sabotage: a run with that fault is refused for that reason, a healthy run never is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.synthetic import NULL, Plan, SyntheticRun, build
from benchmarks.synthetic_tables import Columns, encode_seconds
from reports.summary import summarise
from reports.validity import RULES

Models = Callable[[str], SyntheticRun]
SummaryOf = Callable[[SyntheticRun], dict[str, Any]]

HEALTHY = [
    Plan(seed=seed, seconds=12, warm_up_s=2, **variant)
    for seed, variant in enumerate(
        [
            {},
            {"rate_per_s": 80.0},
            {"gap_ms": 20.0},
            {"gap_ms": 20.0, "window": 0},
            {"workers": 2},
            {"users": 60},
            # A noisy machine: reads are 150 us late at the median, and often much later.
            {"lag_us": 150.0},
            {"steps": ((5, 6.0), (30, 6.0))},
        ]
        * 4
    )
]


@pytest.mark.parametrize("plan", HEALTHY, ids=lambda plan: str(plan.seed))
def test_a_healthy_run_is_never_refused(plan: Plan, tmp_path: Path) -> None:
    validity = summarise(build(plan).write(tmp_path / "run"))["validity"]
    assert validity["valid"], validity["reasons"]
    assert not [finding for finding in validity["findings"] if finding["finding"] != "not_settled"]


def rows(model: SyntheticRun, table: str, worker: str = "w0") -> Columns:
    return model.tables[worker][table]


def drop_rows(columns: Columns, keep: np.ndarray) -> Columns:
    return {name: [v for v, k in zip(c, keep, strict=True) if k] if isinstance(c, list) else c[keep] for name, c in columns.items()}


def drop_second(model: SyntheticRun) -> None:
    table = rows(model, "intervals")
    model.tables["w0"]["intervals"] = drop_rows(table, table["second"] != 7)


def drop_conversation(model: SyntheticRun) -> None:
    table = rows(model, "conversations")
    model.tables["w0"]["conversations"] = drop_rows(table, np.arange(len(table["tokens"])) != 40)


def add_lag(model: SyntheticRun) -> None:
    table = rows(model, "histograms")
    lagging = [i for i, metric in enumerate(table["metric"]) if metric == "receive_lag"]
    keep = np.ones(len(table["metric"]), bool)
    keep[lagging] = False
    model.tables["w0"]["histograms"] = table = drop_rows(table, keep)
    late = encode_seconds("w0", "receive_lag", np.repeat(np.arange(24.0), 400), np.full(24 * 400, 6e6))
    for name, column in late.items():
        table[name] = [*table[name], *column]


def coalesce(model: SyntheticRun) -> None:
    table = rows(model, "intervals")
    table["coalesced"] = table["messages"] // 3
    model.metadata["load"]["window"] = 0
    late = encode_seconds("w0", "receive_lag", np.repeat(np.arange(24.0), 400), np.full(24 * 400, 3e7))
    for name, column in late.items():
        rows(model, "histograms")[name] = [*rows(model, "histograms")[name], *column]


def start_late(model: SyntheticRun) -> None:
    table = rows(model, "conversations")
    table["send_delay_ns"] = table["send_delay_ns"] + np.where(np.arange(len(table["tokens"])) % 5, 0, 3e6)
    table["ttft_due_ns"] = table["ttft_ns"] + table["send_delay_ns"]
    rows(model, "intervals")["loop_lag_max_ns"][:] = 4e6


def set_status(status: str) -> Callable[[SyntheticRun], None]:
    def change(model: SyntheticRun) -> None:
        model.metadata |= {"status": status, "status_reasons": ["the disk was full"]}

    return change


def lose_worker(model: SyntheticRun) -> None:
    model.metadata["workers"] |= {"expected": 2, "lost": ["w1"]}


def never_see_worker(model: SyntheticRun) -> None:
    model.metadata["workers"]["expected"] = 2


def spoil_bytes(model: SyntheticRun) -> None:
    model.metadata["workers"]["bad_bytes"] = {"w0": 17}


def saturate(model: SyntheticRun) -> None:
    rows(model, "intervals")["cpu_ns"][:] = 950_000_000


def taint(model: SyntheticRun) -> None:
    rows(model, "conversations")["tainted"][::3] = True


def step_clock(model: SyntheticRun) -> None:
    steps = np.full(26, NULL)
    steps[9] = -20e6
    rows(model, "intervals")["clock_step_ns"] = steps


def clamp(model: SyntheticRun) -> None:
    rows(model, "intervals")["clamped"][8] = 50


def count_tokens_wrongly(model: SyntheticRun) -> None:
    rows(model, "intervals")["tokens"][8] += 1


def count_outcomes_wrongly(model: SyntheticRun) -> None:
    rows(model, "intervals")["conversations_completed"][8] -= 1


def forget_prompt(model: SyntheticRun) -> None:
    started = float(np.sum(rows(model, "intervals")["conversations_started"]))
    first = {"streamgauge_connections_accepted_total": 0.0, "streamgauge_prompts_total": 0.0}
    last = {"streamgauge_connections_accepted_total": 20.0, "streamgauge_prompts_total": started - 1}
    model.metadata["server"] = {"scraped": True, "first": first, "last": last}


def run_out_of_ports(model: SyntheticRun) -> None:
    table = rows(model, "connections")
    table["outcome"] = ["failed", *table["outcome"][1:]]
    table["error"] = ["generator_limit", *[None] * 19]


def bound_what_is_not_known(model: SyntheticRun) -> None:
    model.metadata["scenario"]["thresholds"] = ["token_p99 < 1s", "ttft_p99.9 < 1s"]


def bound_goodput_without_objectives(model: SyntheticRun) -> None:
    model.metadata["scenario"]["thresholds"] = ["goodput >= 1%"]


def empty(model: SyntheticRun) -> None:
    model.metadata["window"]["warm_up_end_at_ns"] = model.metadata["window"]["steady_end_at_ns"] - 1000


SABOTAGE: list[tuple[str, str, Callable[[SyntheticRun], None]]] = [
    ("status", "plain", set_status("degraded")),
    ("status", "open", set_status("aborted")),
    ("status", "paced", set_status("running")),
    ("workers", "plain", lose_worker),
    ("workers", "paced", never_see_worker),
    ("records", "plain", spoil_bytes),
    ("seconds", "plain", drop_second),
    ("seconds", "two_workers", drop_second),
    ("window", "plain", empty),
    ("receive_lag", "plain", add_lag),
    ("generator_cpu", "plain", saturate),
    ("generator_cpu", "two_workers", saturate),
    ("tainted", "plain", taint),
    ("late_starts", "open", start_late),
    ("coalesced", "unacknowledged", coalesce),
    ("clock", "plain", step_clock),
    ("clamped", "plain", clamp),
    ("accounting", "plain", drop_conversation),
    ("accounting", "open", count_tokens_wrongly),
    ("accounting", "paced", count_outcomes_wrongly),
    ("accounting", "plain", forget_prompt),
    ("generator_limit", "plain", run_out_of_ports),
    ("thresholds", "plain", bound_what_is_not_known),
    ("thresholds", "open", bound_goodput_without_objectives),
]


@pytest.mark.parametrize(("rule", "plan", "change"), SABOTAGE, ids=[f"{rule}-{change.__name__}" for rule, _, change in SABOTAGE])
def test_a_faulty_run_is_refused_for_its_fault(
    models: Models, summary_of: SummaryOf, rule: str, plan: str, change: Callable[[SyntheticRun], None]
) -> None:
    model = models(plan)
    change(model)
    validity = summary_of(model)["validity"]
    assert not validity["valid"]
    reason = next((reason for reason in validity["reasons"] if reason["rule"] == rule), None)
    assert reason is not None, validity["reasons"]
    assert reason["sentence"].endswith(".")
    assert reason["measured"]
    assert reason["limit"]


def test_every_rule_is_sabotaged_and_explained() -> None:
    assert {rule.name for rule in RULES} == {rule for rule, _, _ in SABOTAGE}
    assert all(rule.title and rule.reason.endswith(".") and rule.check.__doc__ for rule in RULES)


def test_damaged_raw_record_is_refused(models: Models, tmp_path: Path) -> None:
    path = models("plain").write(tmp_path / "run", compact=False)
    raw = path / "raw" / "w0.frames"
    raw.write_bytes(raw.read_bytes()[:-100])
    assert "records" in [reason["rule"] for reason in summarise(path)["validity"]["reasons"]]


def test_a_single_hiccup_is_no_reason(models: Models, summary_of: SummaryOf) -> None:
    model = models("plain")
    table = rows(model, "intervals")
    table["loop_lag_max_ns"][9] = table["receive_lag_max_ns"][9] = 4e8
    rows(model, "conversations")["tainted"][600:612] = True
    validity = summary_of(model)["validity"]
    assert validity["valid"]
    # It is no reason to refuse the run, and no secret either.
    assert "12 conversations of" in next(found["sentence"] for found in validity["findings"] if found["finding"] == "tainted")


def test_waiting_for_a_free_user_is_not_our_fault(models: Models, summary_of: SummaryOf) -> None:
    model = models("open")
    table = rows(model, "conversations")
    table["send_delay_ns"] = table["send_delay_ns"] + 500e6
    table["ttft_due_ns"] = table["ttft_ns"] + table["send_delay_ns"]
    assert summary_of(model)["validity"]["valid"]


def test_a_late_flush_is_not_a_missing_second(models: Models, summary_of: SummaryOf) -> None:
    model = models("plain")
    table = rows(model, "intervals")
    # The generator was stopped for two seconds: the next record covers them.
    table["covered_ns"][9] = 3_000_000_000
    model.tables["w0"]["intervals"] = drop_rows(table, ~np.isin(table["second"], [7, 8]))
    reasons = [reason["rule"] for reason in summary_of(model)["validity"]["reasons"]]
    assert "seconds" not in reasons


def test_a_server_that_others_use_is_not_held_against_ours(models: Models, summary_of: SummaryOf) -> None:
    model = models("plain")
    forget_prompt(model)
    model.metadata["server"]["last"] |= {"streamgauge_connections_accepted_total": 25.0}
    validity = summary_of(model)["validity"]
    assert validity["valid"]
    assert "not_exclusive" in [finding["finding"] for finding in validity["findings"]]


FINDINGS: list[tuple[str, Callable[[SyntheticRun], None]]] = [
    ("connect_refused", lambda m: rows(m, "connections").update(outcome=["failed"] * 20, error=["refused"] * 20)),
    ("ghost_tokens", lambda m: rows(m, "intervals")["ghost_tokens"].__setitem__(3, 2)),
    ("double_ends", lambda m: rows(m, "intervals")["double_ends"].__setitem__(3, 2)),
    ("closed_abnormal", lambda m: rows(m, "intervals")["closed_abnormal"].__setitem__(3, 1)),
    ("dropped", lambda m: rows(m, "intervals")["arrivals_dropped"].__setitem__(3, 4)),
    ("syn_retransmitted", lambda m: rows(m, "intervals")["syn_retransmitted"].__setitem__(0, 3)),
    ("unstamped", lambda m: rows(m, "intervals")["unstamped"].__setitem__(slice(None), 40)),
    ("user_clock", lambda m: m.metadata["workers"]["seen"][0].update(clock="user")),
    ("server_cpu", lambda m: rows(m, "intervals").update(server_cpu_ns=np.arange(26) * 970_000_000)),
    ("coalesced", lambda m: rows(m, "intervals").update(coalesced=rows(m, "intervals")["messages"] // 4)),
]


@pytest.mark.parametrize(("finding", "change"), FINDINGS, ids=[finding for finding, _ in FINDINGS])
def test_what_the_target_did_is_a_finding_not_a_fault(
    models: Models, summary_of: SummaryOf, finding: str, change: Callable[[SyntheticRun], None]
) -> None:
    model = models("plain")
    change(model)
    validity = summary_of(model)["validity"]
    assert validity["valid"], validity["reasons"]
    assert finding in [found["finding"] for found in validity["findings"]]


def test_empty_answers_and_failures_are_findings(models: Models, tmp_path: Path) -> None:
    validity = summarise(build(Plan(fail_share=0.05)).write(tmp_path / "run"))["validity"]
    assert validity["valid"]
    assert "failed_connection_lost" in [found["finding"] for found in validity["findings"]]
