"""What conversations are measured against: options, stalls, and a reader's deadlines held against the plain rule."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pytest

from loadtest.conversation import Conversation, finished_row, measure
from loadtest.objectives import parse_limit
from loadtest.yardsticks import YardstickError, Yardsticks, add_options, keeps_limits, read_yardsticks

MS = 1_000_000


def options(*words: str, gap_ms: float = -1) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser)
    given = parser.parse_args(words)
    given.gap_ms = gap_ms
    return given


def read(*words: str, gap_ms: float = -1, open_loop: bool = False) -> Yardsticks:
    return read_yardsticks(options(*words, gap_ms=gap_ms), open_loop=open_loop)


def test_defaults() -> None:
    assert read() == Yardsticks() == Yardsticks((), 1000 * MS, 1000 * MS, 200 * MS)


def test_limits_add_up_and_set_the_pace_of_the_reader() -> None:
    found = read("--slo", "ttft=500ms", "--slo=tpot<50ms,stop=300ms")
    assert [str(one) for one in found.limits] == ["ttft <= 500ms", "tpot < 50ms", "stop_latency <= 300ms"]
    assert (found.first_ns, found.gap_ns) == (500 * MS, 50 * MS)
    assert read("--slo=ttft=500ms", "--reader-first-ms=700", "--reader-gap-ms=12.5").first_ns == 700 * MS
    assert found.as_dict()["slo"] == ["ttft <= 500ms", "tpot < 50ms", "stop_latency <= 300ms"]


def test_a_stall_is_longer_than_the_pace_that_was_asked_for() -> None:
    assert read(gap_ms=20).stall_ns == 1000 * MS
    assert read(gap_ms=2500).stall_ns == 7500 * MS
    assert read("--stall-ms=30", gap_ms=2500).stall_ns == 30 * MS


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--slo=ttft_p99=1s"], "--slo: expected a limit of one conversation"),
        (["--slo=ttft=1s", "--slo=ttft=2s"], "found a second one"),
        (["--slo=ttft_due=1s"], "only with --loop open; in a closed loop bound ttft"),
        (["--stall-ms=-3"], "--stall-ms of at least 0"),
        (["--reader-gap-ms=nan"], "--reader-gap-ms"),
    ],
)
def test_wrong_options_are_answered_in_one_sentence(words: list[str], says: str) -> None:
    with pytest.raises(YardstickError) as caught:
        read(*words)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_due_limits_stand_in_an_open_loop() -> None:
    assert read("--slo=ttft_due=1s", open_loop=True).limits[0].metric == "ttft_due"


def row(**values: Any) -> dict[str, Any]:
    return {"outcome": "completed", "ttft_ns": 5 * MS, "tpot_ns": None, "stop_latency_ns": None, "overrun_tokens": None, **values}


def test_good_conversations_end_well_and_keep_what_they_show() -> None:
    limits = tuple(map(parse_limit, ("ttft=5ms", "tpot<3ms", "stop=1ms", "overrun=2")))
    assert keeps_limits(row(), limits)
    assert keeps_limits(row(outcome="stopped", stop_latency_ns=MS, overrun_tokens=2, tpot_ns=MS), limits)
    for broken in ({"ttft_ns": 5 * MS + 1}, {"tpot_ns": 3 * MS}, {"overrun_tokens": 3}, {"outcome": "failed"}, {"outcome": "empty"}):
        assert not keeps_limits(row(**broken), limits)


def late_by_the_rule(arrivals: list[int], tokens: list[int], first: int, gap: int) -> int:
    """Deadline of the first token, then one every gap; after a miss the next is a gap after the late token."""
    late, deadline = 0, first
    for arrival, count in zip(arrivals, tokens, strict=True):
        for _ in range(count):
            if arrival > deadline:
                late += 1
                deadline = arrival
            deadline += gap
    return late


@pytest.mark.parametrize("seed", range(8))
def test_late_tokens_and_stalls_are_those_of_the_rule_however_they_are_measured(seed: int) -> None:
    rng = np.random.default_rng(seed)
    yardsticks = Yardsticks(stall_ns=25 * MS, first_ns=60 * MS, gap_ns=10 * MS)
    conversations, expected, feeds = [], [], []
    for number in range(12):
        c = Conversation(0, number, 1, int(rng.integers(0, 3)))
        c.sent, c.offset = 5 * MS, 777
        size = int(rng.integers(0, 40))
        gaps = np.where(rng.random(size) < 0.2, rng.integers(0, 60, size), rng.integers(0, 14, size))
        arrivals = (np.cumsum(gaps) + int(rng.integers(1, 90))) * MS if size else np.zeros(0, np.int64)
        tokens = np.where(rng.random(size) < (0.3 if number % 2 else 0), rng.integers(1, 6, size), 1).tolist()
        stalls = int((np.diff(arrivals) > 25 * MS).sum())
        expected.append((stalls, late_by_the_rule(arrivals.tolist(), tokens, 60 * MS, 10 * MS)))
        conversations.append(c)
        feeds.append(list(zip((arrivals + 5 * MS).tolist(), tokens, strict=True)))
    while any(feeds):
        for c, feed in zip(conversations, feeds, strict=True):
            for arrival, count in feed[: (portion := int(rng.integers(0, 9)))]:
                c.arrivals.append(arrival + 777)
                c.reads.append(arrival)
                if count > 1:
                    c.add_extra(count - 1)
            del feed[:portion]
        measure(conversations, yardsticks)
    rows = [finished_row(c, 0) for c in conversations]
    assert [(one["stalls"], one["late_tokens"]) for one in rows] == expected
    assert sum(late for _, late in expected) > 2
