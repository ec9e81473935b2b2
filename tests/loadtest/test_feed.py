"""Locust's own table and CSV, fed in bulk: finer than its millisecond, and nothing lost on the way."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def fed(play: Callable[..., Any]) -> Any:
    return play("fed")


def test_less_than_a_millisecond_is_kept(fed: Any) -> None:
    count, least, most, median = fed["token"]
    assert (count, least, most) == (8, pytest.approx(0.1204), pytest.approx(1.234))
    assert median == 0.25
    assert fed["gap"] == [0.001]  # the least there is
    assert [value for _, value in fed["buckets"]] == [0.001, 0.001, 0.012, 0.46, 1.0, 100.0, 120.0, 99_000.0]


def test_the_csv_keeps_it_too(fed: Any) -> None:
    rows = {row["Name"]: row for row in csv.DictReader(io.StringIO(fed["csv"]))}
    assert float(rows["token"]["Min Response Time"]) == pytest.approx(0.1204)
    assert float(rows["token"]["50%"]) == 0.25
    assert float(rows["token"]["99%"]) == 1.2
    assert rows["token"]["Request Count"] == "8"


def test_only_conversations_are_aggregated_and_failures_are_counted(fed: Any) -> None:
    assert fed["total"] == [8, 4]
    assert fed["connect"] == [6, 6]
    assert fed["errors"] == [["connect", "refused", 6], ["conversation", "stalled", 4]]


def test_no_value_is_lost_between_buckets(fed: Any) -> None:
    requests, counted, buckets = fed["many"]
    assert requests == counted == 200_000
    assert buckets < 1000


def test_locusts_table_does_not_grow_with_the_hours(play: Callable[..., Any]) -> None:
    told = play("hours")
    assert told["rates"] <= 61
    assert told["history"] <= 2001
    # The first and the last point of what was thinned are still there, and the order is that of time.
    assert told["ends"] == [0, 2499]
    assert told["rising"]


def test_the_table_names_the_transport(fed: Any) -> None:
    assert fed["kinds"] == [["WS", "WS"], ["HTTP", "HTTP"]]
