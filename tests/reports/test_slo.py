"""Objectives held against summaries of synthetic runs, and against figures made for the case."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.synthetic import SyntheticRun
from reports.slo import judge_all, judge_objective, overall, parse, parse_all
from reports.summary import summarise

Models = Callable[[str], SyntheticRun]
RunPath = Callable[[str], Path]
SummaryOf = Callable[[SyntheticRun], dict[str, Any]]


def test_a_percentile_is_judged_with_its_interval(run_path: RunPath) -> None:
    summary = summarise(run_path("plain"))
    entry = summary["metrics"]["token_latency"]["percentiles"]["p99"]
    far = judge_objective(parse(f"token_p99<{2 * entry['value']:.0f}ns"), summary)
    assert (far.state, far.value, far.low, far.high, far.certain) == ("met", entry["value"], entry["low"], entry["high"], True)
    near = judge_objective(parse(f"token_p99<={entry['value']:.0f}ns"), summary)
    assert (near.state, near.certain) == ("met", False)
    over = judge_objective(parse(f"token_p99<{entry['value']:.0f}ns"), summary)
    assert (over.state, over.certain) == ("missed", False)
    assert judge_objective(parse("token_p99<1us"), summary).certain
    json.dumps([one.as_dict() for one in (far, near, over)], allow_nan=False)


def test_mean_and_extremes_have_no_interval(run_path: RunPath) -> None:
    summary = summarise(run_path("plain"))
    for statistic in ("mean", "min", "max"):
        found = judge_objective(parse(f"ttft_{statistic}<1000s"), summary)
        assert (found.state, found.value, found.certain) == ("met", summary["metrics"]["ttft"][statistic], False)


def test_too_few_samples_are_unknown_unless_a_lower_percentile_settles_it(run_path: RunPath) -> None:
    summary = summarise(run_path("plain"))
    assert summary["metrics"]["ttft"]["percentiles"]["p99.9"]["value"] is None
    unknown = judge_objective(parse("ttft_p99.9<10s"), summary)
    assert (unknown.state, unknown.value, unknown.certain) == ("unknown", None, False)
    assert "n/a (" in unknown.sentence
    missed = judge_objective(parse("ttft_p99.9<1us"), summary)
    assert missed.state == "missed"
    assert "p50 already" in missed.sentence


def test_errors_are_failed_and_empty_conversations_and_failed_connects(models: Models, summary_of: SummaryOf) -> None:
    model = models("plain")
    clean = summary_of(model)["shares"]["errors"]
    assert (clean["count"], clean["value"]) == (0, 0)
    assert 0 < clean["high"] < 0.02
    rows = model.tables["w0"]["conversations"]
    inside = np.flatnonzero((np.asarray(rows["sent_at_ns"]) >= 5e9) & (np.asarray(rows["sent_at_ns"]) < 20e9))
    outcome = np.asarray(rows["outcome"], dtype=object)
    outcome[inside[:3]], outcome[inside[3]] = "failed", "empty"
    rows["outcome"] = outcome
    summary = summary_of(model)
    errors = summary["shares"]["errors"]
    assert (errors["count"], errors["n"]) == (4, clean["n"])
    judged = judge_objective(parse("errors<0.1%"), summary)
    assert (judged.state, judged.value) == ("missed", pytest.approx(4 / clean["n"]))
    assert judge_objective(parse("errors<50%"), summary).certain


def test_what_the_run_cannot_have_is_unknown_with_its_reason(run_path: RunPath) -> None:
    summary = summarise(run_path("plain"))
    for text, says in (
        ("ttft_due_p50<1s", "only in an open loop"),
        ("dropped<1%", "only in an open loop"),
        ("goodput>=95%", "states no objectives for a conversation"),
    ):
        found = judge_objective(parse(text), summary)
        assert found.state == "unknown"
        assert says in found.sentence
    dropped = judge_objective(parse("dropped<1%"), summarise(run_path("open")))
    assert dropped.state == "met"


def test_the_worst_state_is_that_of_all(run_path: RunPath) -> None:
    summary = summarise(run_path("plain"))
    good, bad, unknown = "tokens_per_s>1", "token_p99<1us", "ttft_p99.9<10s"
    assert overall(judge_all(parse_all([good]), summary)) == "met"
    assert overall(judge_all(parse_all([good, unknown]), summary)) == "unknown"
    assert overall(judge_all(parse_all([good, unknown, bad]), summary)) == "missed"
