"""Goodput by the rules at its edges, and stalls, fluidity and fairness held against the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.synthetic import NULL, Plan, SyntheticRun, build
from loadtest.objectives import parse_limits
from reports.goodput import GOOD, MISSED, UNSEEN, judge_conversations
from reports.load import load_run
from reports.smoothness import read_evenness
from reports.summary import summarise, summarise_run
from reports.thresholds import Asked

Models = Callable[[str], SyntheticRun]
SummaryOf = Callable[[SyntheticRun], dict[str, Any]]
RunPath = Callable[[str], Path]
MS = 1e6

# What a conversation showed, and the verdict by ttft <= 50 ms, tpot <= 10 ms, stop <= 20 ms, e2e <= 1 s.
EDGES: dict[str, tuple[dict[str, Any], int]] = {
    "all kept": ({}, GOOD),
    "at the bound": ({"ttft_ns": 50 * MS, "tpot_ns": 10 * MS, "e2e_ns": 1000 * MS}, GOOD),
    "late first token": ({"ttft_ns": 50 * MS + 1}, MISSED),
    "slow": ({"tpot_ns": 11 * MS}, MISSED),
    "one token has no tpot": ({"tpot_ns": NULL, "tokens": 1}, GOOD),
    "empty": ({"outcome": "empty", "ttft_ns": NULL, "tokens": 0}, MISSED),
    "failed after good tokens": ({"outcome": "failed", "e2e_ns": NULL}, MISSED),
    "stopped in time": ({"outcome": "stopped", "e2e_ns": NULL, "stop_latency_ns": 20 * MS, "stop_sent_at_ns": 5100 * MS}, UNSEEN),
    "stopped late": ({"outcome": "stopped", "e2e_ns": NULL, "stop_latency_ns": 21 * MS, "stop_sent_at_ns": 5100 * MS}, MISSED),
    "stopped after more than e2e": ({"outcome": "stopped", "e2e_ns": NULL, "stop_latency_ns": MS, "stop_sent_at_ns": 6001 * MS}, MISSED),
    "stopped before the first token": (
        {"outcome": "stopped", "e2e_ns": NULL, "ttft_ns": NULL, "stop_latency_ns": MS, "stop_sent_at_ns": 5040 * MS}, UNSEEN,
    ),
    "stopped, having waited too long": (
        {"outcome": "stopped", "e2e_ns": NULL, "ttft_ns": NULL, "stop_latency_ns": MS, "stop_sent_at_ns": 5060 * MS}, MISSED,
    ),
    "cut by the end": ({"outcome": "abandoned", "e2e_ns": NULL, "sent_at_ns": 25_500 * MS}, UNSEEN),
    "cut, and slow until then": ({"outcome": "abandoned", "e2e_ns": NULL, "tpot_ns": 99 * MS, "sent_at_ns": 25_500 * MS}, UNSEEN),
    "cut after more than e2e": ({"outcome": "abandoned", "e2e_ns": NULL}, MISSED),
    "cut while a stop was under way": (
        {"outcome": "abandoned", "e2e_ns": NULL, "sent_at_ns": 25_500 * MS, "stop_sent_at_ns": 25_970 * MS}, MISSED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("edge", EDGES)
def test_every_edge_has_its_verdict(models: Models, tmp_path: Path, edge: str) -> None:
    changes, expected = EDGES[edge]
    model = models("plain")
    rows = model.tables["w0"]["conversations"]
    plain = {
        "outcome": "completed", "sent_at_ns": 5000 * MS, "ttft_ns": 20 * MS, "tpot_ns": 5 * MS, "e2e_ns": 500 * MS, "stop_latency_ns": NULL,
        "stop_sent_at_ns": NULL, "tokens": 20, "due_at_ns": NULL,
    }  # fmt: skip
    for name, value in {**plain, **changes}.items():
        column = np.asarray(rows[name], dtype=object if name == "outcome" else None).copy()
        column[0] = value
        rows[name] = column
    run = load_run(model.write(tmp_path / "run"))
    limits = parse_limits(["ttft=50ms,tpot=10ms,stop=20ms,e2e=1s"])
    assert judge_conversations(run, limits).state[0] == expected


def test_goodput_is_good_conversations_of_those_that_are_known(models: Models, summary_of: SummaryOf) -> None:
    model = models("plain")
    model.metadata["load"]["slo"] = ["ttft <= 20ms", "tpot < 10.5ms"]
    rows = model.tables["w0"]["conversations"]
    start = np.asarray(rows["sent_at_ns"])
    inside = (start >= 4e9) & (start < 24e9)
    good = inside & (rows["ttft_ns"] <= 20e6) & ~(rows["tpot_ns"] >= 10.5e6)
    good &= np.isin(np.asarray(rows["outcome"]).astype(str), ["completed", "stopped"])
    goodput = summary_of(model)["goodput"]
    assert 100 < goodput["good"] == good.sum() < inside.sum()
    assert goodput["good"] + goodput["missed"] + goodput["unseen"] == inside.sum()
    assert goodput["rate"]["value"] == good.sum() / 20
    assert goodput["share"]["value"] == pytest.approx(good.sum() / (inside.sum() - goodput["unseen"]))
    assert goodput["share"]["low"] < goodput["share"]["value"] < goodput["share"]["high"]
    assert set(goodput["missed_by"]) == {"ttft", "tpot"}
    rows["tainted"] = np.asarray(rows["tainted"]) | (np.arange(len(start)) % 3 == 0)
    assert summary_of(model)["goodput"]["tainted"] == (inside & (np.arange(len(start)) % 3 == 0)).sum()


def test_dropped_arrivals_are_never_good(models: Models, summary_of: SummaryOf) -> None:
    model = models("open")
    model.metadata["load"]["slo"] = ["ttft_due <= 10s"]
    before = summary_of(model)["goodput"]
    dropped = np.zeros(len(model.tables["w0"]["intervals"]["second"]), np.int64)
    dropped[10:14] = 25
    model.tables["w0"]["intervals"]["arrivals_dropped"] = dropped
    after = summary_of(model)["goodput"]
    assert (before["share"]["value"], after["dropped"]) == (1, 100)
    assert after["share"]["n"] == before["share"]["n"] + 100
    assert after["share"]["value"] == pytest.approx(before["share"]["n"] / (before["share"]["n"] + 100))
    assert after["rate"]["value"] == before["rate"]["value"]


def test_a_report_may_be_asked_with_other_limits(run_path: RunPath) -> None:
    assert summarise(run_path("plain"))["goodput"] is None
    assert summarise(run_path("plain"), Asked(limits=parse_limits(["ttft=1us"])))["goodput"]["share"]["value"] == 0


def test_a_ladder_has_goodput_by_step(models: Models, summary_of: SummaryOf) -> None:
    model = models("ladder")
    model.metadata["load"]["slo"] = ["ttft <= 20ms"]
    first, *_, last = [step["goodput"]["share"]["value"] for step in summary_of(model)["steps"]]
    assert first > 0.9 > 0.1 > last


def test_stalls_and_fluidity_are_those_of_the_rows(models: Models, summary_of: SummaryOf) -> None:
    model = models("plain")
    rows = model.tables["w0"]["conversations"]
    rows["stalls"], rows["late_tokens"] = np.zeros(len(rows["tokens"]), np.int64), np.zeros(len(rows["tokens"]), np.int64)
    inside = np.flatnonzero((np.asarray(rows["sent_at_ns"]) >= 4e9) & (np.asarray(rows["sent_at_ns"]) < 24e9) & (rows["tokens"] > 9))
    rows["stalls"][inside[:3]] = (2, 1, 1)
    rows["late_tokens"][inside[:60]] = 5
    summary = summary_of(model)
    assert (summary["stalls"]["stalls"], summary["stalls"]["most"], summary["stalls"]["share"]["count"]) == (4, 2, 3)
    assert "stalls" in {finding["finding"] for finding in summary["validity"]["findings"]}
    fluidity, figures = summary["fluidity"], summary["metrics"]["itl"]
    assert fluidity["tokens"] == pytest.approx(1 - 300 / np.asarray(rows["tokens"])[(np.asarray(rows["sent_at_ns"]) >= 4e9)
                                                   & (np.asarray(rows["sent_at_ns"]) < 24e9)].sum())  # fmt: skip
    assert figures["n"] > 0
    assert fluidity["percentiles"]["p50"]["value"] == 1
    assert fluidity["percentiles"]["p1"]["value"] < 0.9
    assert fluidity["percentiles"]["p1"]["value"] <= fluidity["percentiles"]["p1"]["high"]


@pytest.fixture(scope="module")
def streams() -> SyntheticRun:
    """Conversations long enough to stream through whole intervals."""
    return build(Plan(tokens=5500, stop_share=0, seconds=56))


def test_fairness_is_read_from_the_shortest_intervals_that_hold_ten_gaps(streams: SyntheticRun, tmp_path: Path) -> None:
    run = load_run(streams.write(tmp_path / "run"))
    lengths = [read_evenness(run, gap_ms * MS) for gap_ms in (1, 100, 101, 500, 501, 2500, 2501)]
    assert [found.length_s if found else None for found in lengths] == [1, 1, 5, 5, 25, 25, None]
    assert read_evenness(run, None) is None
    fair = summarise_run(run)["fairness"]
    assert fair["interval_s"] == 1
    assert 0.98 < fair["lowest"] <= fair["mean"] <= 1


def test_one_conversation_that_gets_everything_is_found(streams: SyntheticRun, summary_of: SummaryOf) -> None:
    tables = dict(streams.tables["w0"])
    fairness = {name: np.asarray(column) if name != "worker" else column for name, column in tables["fairness"].items()}
    fairness["tokens_squared"] = fairness["tokens"] ** 2
    tables["fairness"] = fairness
    summary = summary_of(SyntheticRun(streams.metadata, {"w0": tables}))
    assert summary["fairness"]["mean"] == pytest.approx(1 / summary["fairness"]["conversations"], rel=0.2)
    assert "unfair" in {finding["finding"] for finding in summary["validity"]["findings"]}


def test_conversations_that_wait_for_one_another_are_found(streams: SyntheticRun, summary_of: SummaryOf) -> None:
    whole = summary_of(streams)
    assert whole["served"]["mean"] == 1
    assert not {"unserved", "unfair"} & {finding["finding"] for finding in whole["validity"]["findings"]}
    tables = dict(streams.tables["w0"])
    fairness = {name: np.asarray(column) if name != "worker" else column for name, column in tables["fairness"].items()}
    fairness["served"] = np.minimum(fairness["conversations"], 1)
    tables["fairness"] = fairness
    summary = summary_of(SyntheticRun(streams.metadata, {"w0": tables}))
    assert summary["served"]["mean"] == pytest.approx(1 / summary["served"]["conversations"], rel=0.2)
    assert "unserved" in {finding["finding"] for finding in summary["validity"]["findings"]}
