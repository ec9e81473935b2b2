"""The table of metrics: one name, one meaning, and nothing is stored that it does not know."""

from __future__ import annotations

import re

import pytest

from loadtest.metrics import (
    BY_NAME,
    CONNECT_ERRORS,
    ERRORS,
    HISTOGRAMS,
    METRICS,
    MINIMUM_CONVERSATIONS,
    MINIMUM_SAMPLES,
    OUTCOMES,
    Metric,
)
from loadtest.tables import TABLES
from server.protocol import CONNECTION_LOST, STALLED


def test_a_name_stands_for_one_thing() -> None:
    assert len(BY_NAME) == len(METRICS)
    assert len({metric.title for metric in METRICS}) == len(METRICS)
    assert len({metric.definition for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_defined(metric: Metric) -> None:
    assert re.fullmatch(r"[a-z0-9]+(_[a-z]+)*", metric.name)
    assert metric.unit in ("ns", "1", "1/s")
    assert metric.better in ("lower", "higher", "neither")
    assert metric.population in ("connection", "conversation", "token", "run")
    assert metric.title[0].isupper()
    assert metric.definition
    assert not metric.definition.endswith(".")
    assert metric.source.removesuffix(".parquet") in TABLES
    assert metric.histogram == (metric.unit == "ns")


@pytest.mark.parametrize("name", ["send_delay", "ttft_due", "e2e_due"])
def test_what_is_counted_from_due_says_that_it_is_of_the_open_loop(name: str) -> None:
    assert BY_NAME[name].definition.endswith("open loop only")


def test_the_histograms_are_of_durations() -> None:
    assert set(HISTOGRAMS) == {
        "connect_time", "send_delay", "ttft", "ttft_due", "e2e", "e2e_due", "tpot", "longest_stall", "stop_latency", "itl", "inter_chunk",
        "token_latency", "receive_lag",
    }  # fmt: skip


def test_kinds_of_errors_are_distinct_and_named_as_the_protocol_names_them() -> None:
    assert not set(ERRORS) & set(CONNECT_ERRORS)
    assert {STALLED, CONNECTION_LOST} <= set(ERRORS)
    assert not set(OUTCOMES) & set(ERRORS)


@pytest.mark.parametrize(("percentile", "needed"), sorted(MINIMUM_SAMPLES.items()))
def test_the_samples_a_percentile_needs_follow_from_the_rule(percentile: float, needed: int) -> None:
    def chance_of_one_or_fewer(n: int) -> float:
        return percentile**n + n * (1 - percentile) * percentile ** (n - 1)

    # Early stopping: with 99 % confidence more than one of n lies above the true percentile.
    assert chance_of_one_or_fewer(needed) <= 0.01 < chance_of_one_or_fewer(needed - 1)


def test_percentiles_of_tokens_need_thirty_conversations() -> None:
    assert MINIMUM_CONVERSATIONS == 30
    assert list(MINIMUM_SAMPLES) == [0.5, 0.9, 0.95, 0.99, 0.999]
