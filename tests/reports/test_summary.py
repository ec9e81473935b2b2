"""What the summary says, held against what the synthetic model did."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.synthetic import NULL, Plan, SyntheticRun, build
from loadtest.histogram import RELATIVE_ERROR
from reports.summary import summarise

Models = Callable[[str], SyntheticRun]
SummaryOf = Callable[[SyntheticRun], dict[str, Any]]
RunPath = Callable[[str], Path]


def window_rows(model: SyntheticRun) -> dict[str, np.ndarray]:
    rows = model.tables["w0"]["conversations"]
    start = np.where(np.isnan(rows["due_at_ns"]), rows["sent_at_ns"], rows["due_at_ns"])
    stated = model.metadata["window"]
    inside = (start >= stated["warm_up_end_at_ns"]) & (start < stated["steady_end_at_ns"])
    return {name: np.asarray(column)[inside] for name, column in rows.items()}


@pytest.mark.parametrize("name", ["plain", "open", "ladder", "two_workers", "paced", "unacknowledged"])
def test_summary_is_plain_json_without_nan(run_path: RunPath, name: str) -> None:
    json.dumps(summarise(run_path(name)), allow_nan=False)


@pytest.mark.parametrize("name", ["plain", "open"])
def test_conversation_metrics_are_those_of_the_window(models: Models, run_path: RunPath, name: str) -> None:
    summary, rows = summarise(run_path(name)), window_rows(models(name))
    for metric in ("ttft", "tpot", "stop_latency", *(("ttft_due", "send_delay") if name == "open" else ())):
        values = rows[f"{metric}_ns"].astype(float)
        values = np.sort(values[~np.isnan(values)])
        figures = summary["metrics"][metric]
        assert (figures["n"], figures["max"]) == (len(values), values[-1])
        assert figures["mean"] == pytest.approx(values.mean())
        assert figures["percentiles"]["p50"]["value"] == values[int(np.ceil(0.5 * len(values))) - 1]


def test_closed_loop_has_no_response_times(run_path: RunPath) -> None:
    metrics = summarise(run_path("plain"))["metrics"]
    assert not {"ttft_due", "e2e_due", "send_delay"} & set(metrics)


def test_tokens_count_by_the_second_of_their_arrival(models: Models, run_path: RunPath) -> None:
    table = models("plain").tables["w0"]["histograms"]
    chosen = [i for i, m in enumerate(table["metric"]) if m == "token_latency" and 4 <= table["second"][i] < 24]
    figures = summarise(run_path("plain"))["metrics"]["token_latency"]
    assert figures["n"] == sum(int(np.sum(table["count"][i])) for i in chosen)
    assert figures["min"] == min(table["minimum"][i] for i in chosen)
    # The model: 20 users share a server that takes half a millisecond a token, lognormal.
    assert figures["percentiles"]["p50"]["value"] == pytest.approx(10e6, rel=0.03 + RELATIVE_ERROR)


def test_no_acknowledgements_no_token_latency(run_path: RunPath) -> None:
    assert "token_latency" not in summarise(run_path("unacknowledged"))["metrics"]


def test_intervals_lie_around_their_percentile(run_path: RunPath) -> None:
    for figures in summarise(run_path("plain"))["metrics"].values():
        for entry in figures["percentiles"].values():
            if entry["value"] is not None:
                assert entry["low"] is None or entry["low"] <= entry["value"]
                assert entry["high"] is None or entry["value"] <= entry["high"]


def test_rates_of_the_steady_window(models: Models, run_path: RunPath) -> None:
    model, summary = models("plain"), summarise(run_path("plain"))
    assert summary["rates"]["throughput_tokens"] == np.sum(model.tables["w0"]["intervals"]["tokens"][4:24]) / 20
    ended = np.isin(window_rows(model)["outcome"], ["completed", "stopped"]).sum()
    assert summary["rates"]["throughput_conversations"] == pytest.approx(ended / 20)
    assert summary["rates"]["connections_open"] == 20


def test_tainted_conversations_are_counted_and_kept_out(models: Models, summary_of: SummaryOf) -> None:
    model = models("plain")
    rows = model.tables["w0"]["conversations"]
    rows["tainted"][600:610] = True
    rows["ttft_ns"][600:610] = 5e12
    summary = summary_of(model)
    assert summary["counts"]["conversations"]["tainted"] == 10
    assert summary["counts"]["conversations"]["in_window_tainted"] == 10
    assert summary["metrics"]["ttft"]["max"] < 1e9
    assert summary["validity"]["valid"]


def test_tainted_tokens_are_kept_out_but_show_in_the_receive_lag(models: Models, summary_of: SummaryOf) -> None:
    model = models("plain")
    table = model.tables["w0"]["histograms"]
    for metric in ("itl", "receive_lag"):
        row = next(i for i, m in enumerate(table["metric"]) if m == metric and table["second"][i] == 10)
        for name, value in {"tainted": True, "index": np.array([20_000], np.int32), "count": np.array([7]), "maximum": 10**14}.items():
            table[name].append(value)
        for name in ("worker", "second", "metric", "total", "minimum"):
            table[name].append(table[name][row])
    summary = summary_of(model)
    assert summary["metrics"]["itl"]["max"] < 10**14
    assert summary["metrics"]["receive_lag"]["max"] == 10**14


def test_stop_counts(models: Models, run_path: RunPath) -> None:
    rows, stop = window_rows(models("plain")), summarise(run_path("plain"))["stop"]
    overrun = rows["overrun_tokens"][rows["outcome"] == "stopped"]
    assert stop["sent"] == (~np.isnan(rows["stop_sent_at_ns"])).sum()
    assert (stop["stopped"], stop["crossed"]) == ((rows["outcome"] == "stopped").sum(), rows["stop_crossed"].sum())
    assert (stop["overrun_tokens_total"], stop["overrun_tokens_max"]) == (np.nansum(overrun), np.nanmax(overrun))
    assert stop["overrun_tokens_mean"] == pytest.approx(np.nanmean(overrun))


def test_a_stop_that_crossed_the_end_has_no_latency_and_no_overrun(models: Models, summary_of: SummaryOf) -> None:
    before = summary_of(models("plain"))
    model = models("plain")
    rows = model.tables["w0"]["conversations"]
    crossed = int(np.flatnonzero((rows["outcome"] == "completed") & (rows["sent_at_ns"] > 8e9))[0])
    rows["stop_crossed"][crossed] = True
    rows["stop_sent_at_ns"][crossed] = rows["end_at_ns"][crossed] + 1000
    rows["overrun_tokens"][crossed] = 0
    after = summary_of(model)
    assert after["stop"]["crossed"] == before["stop"]["crossed"] + 1
    assert after["metrics"]["overrun_tokens"]["n"] == before["metrics"]["overrun_tokens"]["n"]


def test_stopped_before_the_first_token_is_censored(models: Models, summary_of: SummaryOf) -> None:
    model = models("plain")
    rows = model.tables["w0"]["conversations"]
    some = np.flatnonzero((rows["outcome"] == "stopped") & (rows["sent_at_ns"] > 5e9) & (rows["sent_at_ns"] < 20e9))[:40]
    for name in ("ttft_ns", "first_token_at_ns", "last_token_at_ns", "tpot_ns"):
        rows[name][some] = NULL
    rows["stop_sent_at_ns"][some] = rows["sent_at_ns"][some] + 1e6
    figures = summary_of(model)["metrics"]["ttft"]
    assert figures["censored"] == 40
    assert figures["censored_share"] == pytest.approx(40 / (figures["n"] + 40))
    assert figures["percentiles"]["p99"]["withheld"] == "censored"


def test_end_to_end_time_counts_stopped_conversations_as_censored(run_path: RunPath) -> None:
    summary = summarise(run_path("plain"))
    assert summary["metrics"]["e2e"]["censored"] == summary["stop"]["stopped"]
    assert summary["metrics"]["e2e"]["percentiles"]["p50"]["withheld"] == "censored"


def test_without_stops_nothing_is_censored(summary_of: SummaryOf) -> None:
    figures = summary_of(build(Plan(stop_share=0.0)))["metrics"]["e2e"]
    assert (figures["censored"], figures["percentiles"]["p90"]["withheld"]) == (0, None)


def test_ladder_steps_show_the_queue_grow(run_path: RunPath) -> None:
    steps = summarise(run_path("ladder"))["steps"]
    assert [step["users"] for step in steps] == [5, 20, 60]
    # The model: users times half a millisecond a token.
    medians = [step["token_latency"]["percentiles"]["p50"]["value"] / 1e6 for step in steps]
    assert medians == pytest.approx([2.5, 10, 30], rel=0.05)
    assert all(step["seconds"] == 6 for step in steps)
    assert all(entry["low"] is not None for step in steps for entry in [step["token_latency"]["percentiles"]["p50"]])


def test_a_run_without_steps_has_no_step_table(run_path: RunPath) -> None:
    assert summarise(run_path("plain"))["steps"] == []


def test_errors_by_kind_with_examples(tmp_path: Path) -> None:
    summary = summarise(build(Plan(fail_share=0.1)).write(tmp_path / "run"))
    (error,) = summary["errors"]["conversations"]
    assert error["kind"] == "connection_lost"
    assert error["count"] == summary["counts"]["conversations"]["failed"] > 0
    assert error["examples"] == ["closed by the peer: 1006"]
    assert "ended in mid-answer" in error["meaning"]


def test_own_delay_is_marked_on_the_gaps(models: Models, summary_of: SummaryOf) -> None:
    model = build(Plan(lag_us=4000.0, users=4, service_ms=2.5))
    entries = summary_of(model)["metrics"]["itl"]["percentiles"]
    assert entries["p50"]["own_delay"]
    assert not summary_of(models("plain"))["metrics"]["itl"]["percentiles"]["p50"]["own_delay"]


def server(**grown: float) -> dict[str, Any]:
    first = {"streamgauge_connections_open": 1.0} | dict.fromkeys(grown, 100.0)
    last = {"streamgauge_connections_open": 1.0} | {name: 100.0 + n for name, n in grown.items()}
    return {"scraped": True, "first": first, "last": last}


def test_server_counters_stand_beside_ours(models: Models, summary_of: SummaryOf) -> None:
    model = models("plain")
    started = int(np.sum(model.tables["w0"]["intervals"]["conversations_started"]))
    model.metadata["server"] = server(streamgauge_connections_accepted_total=20, streamgauge_prompts_total=started)
    model.metadata["server"]["last"]["streamgauge_connections_open"] = 4.0
    summary = summary_of(model)
    assert summary["server"]["beside_ours"][1] == {"what": "conversations", "server": started, "ours": started, "difference": 0}
    assert summary["server"]["leaked_connections"] == 3
    assert [f["finding"] for f in summary["validity"]["findings"]] == ["leaked"]


def test_a_late_settling_run_is_found(models: Models, summary_of: SummaryOf) -> None:
    model = models("plain")
    model.tables["w0"]["intervals"]["tokens"][:9] //= 4
    summary = summary_of(model)
    assert 9 <= summary["window"]["settled_at_s"] <= 12
    assert "not_settled" in [finding["finding"] for finding in summary["validity"]["findings"]]


def empty_tables(model: SyntheticRun, *names: str) -> SyntheticRun:
    for worker in model.tables.values():
        for name in names:
            worker[name] = {key: column[:0] for key, column in worker[name].items()}
    return model


def test_a_run_of_nothing_is_summarised_and_invalid(models: Models, summary_of: SummaryOf) -> None:
    summary = summary_of(empty_tables(models("plain"), "conversations", "connections", "intervals", "histograms"))
    assert summary["counts"]["conversations"]["started"] == 0
    assert not summary["validity"]["valid"]
    assert "window" in [reason["rule"] for reason in summary["validity"]["reasons"]]


def test_one_conversation_is_enough_for_a_summary(models: Models, summary_of: SummaryOf) -> None:
    model = models("plain")
    rows = model.tables["w0"]["conversations"]
    one = int(np.flatnonzero(rows["sent_at_ns"] > 8e9)[0])
    model.tables["w0"]["conversations"] = {key: column[one : one + 1] for key, column in rows.items()}
    figures = summary_of(model)["metrics"]["ttft"]
    assert (figures["n"], figures["percentiles"]["p50"]["text"]) == (1, "n/a (1 of 11)")


def test_gaps_are_named_after_messages_as_soon_as_one_carried_several_tokens(models: Models, summary_of: SummaryOf) -> None:
    model = models("two_workers")
    before = summary_of(model)["metrics"]
    # The second worker saw messages of two tokens each from the fifth second on, the first one none.
    table, rows = model.tables["w1"]["histograms"], model.tables["w1"]["conversations"]
    late = [name == "itl" and second > 5 for name, second in zip(table["metric"], table["second"], strict=True)]
    table["metric"] = ["inter_chunk" if changed else name for name, changed in zip(table["metric"], late, strict=True)]
    rows["tokens"] = np.asarray(rows["tokens"]) * 2
    model.tables["w1"]["intervals"]["tokens"] = np.asarray(model.tables["w1"]["intervals"]["tokens"]) * 2
    summary = summary_of(model)
    after = summary["metrics"]
    assert "itl" not in after
    assert (after["inter_chunk"]["n"], after["inter_chunk"]["mean"]) == (before["itl"]["n"], before["itl"]["mean"])
    assert after["inter_chunk"]["percentiles"]["p99"]["value"] == before["itl"]["percentiles"]["p99"]["value"]
    assert summary["validity"]["valid"], summary["validity"]["reasons"]
