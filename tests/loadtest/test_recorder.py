"""Everything one process measures, with a sink in memory and instants that are numbers: counts add up and nothing is in two places."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.arrivals import SECOND_NS
from loadtest.conversation import NEVER, Conversation
from loadtest.histogram import Histogram
from loadtest.metrics import HISTOGRAMS, OUTCOMES
from loadtest.recorder import TAINT_LAG_NS, Recorder, Stall
from loadtest.run_directory import RunDirectory
from loadtest.tables import COUNTERS, GAUGES, TABLES

MS = 1_000_000
SECOND = 1000
OFFSET = 1_700_000_000_000_000_000
ORIGIN = 77_000 * MS
NO_GAUGES: dict[str, int] = {}


def T(ms: float) -> int:
    """An instant on the monotonic clock, ms after the origin."""
    return ORIGIN + round(ms * MS)


class Memory:
    """A sink that keeps rows, and holds each batch to its table's columns as the raw file would."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}

    def append(self, table: str, columns: Mapping[str, Any]) -> None:
        schema = TABLES[table]
        assert set(columns) <= set(schema.names)
        lengths = {len(values) for values in columns.values()}
        assert len(lengths) == 1
        assert {field.name for field in schema if not field.nullable} <= set(columns)
        lists = {name: values.tolist() if isinstance(values, np.ndarray) else list(values) for name, values in columns.items()}
        for field in schema:
            if not field.nullable:
                assert None not in lists[field.name], f"{table}.{field.name}"
        self.rows[table] += [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]

    def histogram(self, metric: str, tainted: bool = False, second: int | None = None) -> Histogram:
        whole = Histogram()
        for row in self.rows["histograms"]:
            if row["metric"] == metric and row["tainted"] == tainted and second in (None, row["second"]):
                whole.add_counts(row["index"], row["count"], row["total"], row["minimum"], row["maximum"])
        return whole

    def total(self, counter: str) -> int:
        return sum(row[counter] for row in self.rows["intervals"])


@pytest.fixture
def sink() -> Memory:
    return Memory()


@pytest.fixture
def recorder(sink: Memory) -> Recorder:
    return Recorder("w0", ORIGIN, sink)


def begin(recorder: Recorder, sent: float = 0, window: int = 1, due: float | None = None) -> Conversation:
    c = Conversation(0, recorder.number_conversation(), 5, window, NEVER if due is None else T(due))
    c.sent, c.offset = T(sent), OFFSET
    recorder.counts["conversations_started"] += 1
    return c


def token(c: Conversation, arrival: float, lag: float = 1, extra: int = 0) -> None:
    c.arrivals.append(T(arrival) + OFFSET)
    c.reads.append(T(arrival + lag))
    if extra:
        c.add_extra(extra)


def end(recorder: Recorder, c: Conversation, arrival: float) -> None:
    c.end(T(arrival) + OFFSET, T(arrival + 1))
    recorder.finish(c)


def held(recorder: Recorder, *arrivals: float, sent: float = 0, **options: Any) -> Conversation:
    """A whole conversation, ended 5 ms after its last token."""
    c = begin(recorder, sent, **options)
    for arrival in arrivals:
        token(c, arrival)
    end(recorder, c, arrivals[-1] + 5 if arrivals else sent + 5)
    return c


# -- numbers and rows --------------------------------------------------------------------------------------------------


def test_conversations_and_connections_are_numbered_from_nought(recorder: Recorder) -> None:
    assert [recorder.number_conversation() for _ in range(3)] == [0, 1, 2]
    assert [recorder.number_connection() for _ in range(3)] == [0, 1, 2]


def test_a_conversation_becomes_one_row(recorder: Recorder, sink: Memory) -> None:
    held(recorder, 100, 120, 150, sent=30)
    assert recorder.pending == 1
    recorder.absorb(T(200))
    assert recorder.pending == 0
    recorder.flush(T(SECOND), NO_GAUGES, {})
    recorder.flush(T(2 * SECOND), NO_GAUGES, {})
    (row,) = sink.rows["conversations"]
    assert (row["worker"], row["outcome"], row["sent_at_ns"], row["ttft_ns"], row["tokens"]) == ("w0", "completed", 30 * MS, 70 * MS, 3)
    assert sink.histogram("ttft").total == 70 * MS
    assert sink.histogram("e2e").total == 125 * MS
    assert sink.histogram("tpot").total == 25 * MS
    assert sink.histogram("itl").total == 50 * MS
    assert sink.histogram("token_latency").total == 19 * MS + 29 * MS
    assert sink.histogram("receive_lag").total == 3 * MS
    assert {row["metric"] for row in sink.rows["histograms"]} <= set(HISTOGRAMS)


def test_a_connection_becomes_one_row_relative_to_the_origin(recorder: Recorder, sink: Memory) -> None:
    base = {"connection": 0, "user": 1, "attempt": 0, "conversations": 2, "syn_retransmitted": False}
    recorder.connection_ended({**base, "opened_at_ns": T(5), "closed_at_ns": T(905), "outcome": "clean", "error": None})
    recorder.connection_ended({**base, "opened_at_ns": T(7), "closed_at_ns": None, "outcome": "failed", "error": "refused"})
    flush = recorder.flush(T(SECOND), NO_GAUGES, {})
    assert [(row["opened_at_ns"], row["closed_at_ns"]) for row in sink.rows["connections"]] == [(5 * MS, 905 * MS), (7 * MS, None)]
    assert flush.connect_errors == {"refused": 1}
    assert recorder.flush(T(2 * SECOND), NO_GAUGES, {}).connect_errors == {}


def test_connect_times_are_counted_in_the_second_they_came(recorder: Recorder, sink: Memory) -> None:
    recorder.connected(3 * MS)
    recorder.connected(5 * MS)
    flush = recorder.flush(T(2 * SECOND), NO_GAUGES, {})
    assert flush.values["connect_time"].tolist() == [3 * MS, 5 * MS]
    assert sink.histogram("connect_time", second=1).total == 8 * MS
    assert sink.total("connects_succeeded") == 2


# -- counts ------------------------------------------------------------------------------------------------------------


def test_what_was_sent_is_ok_or_failed_or_abandoned_or_in_flight(recorder: Recorder, sink: Memory) -> None:
    held(recorder, 100)
    held(recorder)
    stopped = begin(recorder)
    token(stopped, 90)
    stopped.stop_sent = T(95)
    end(recorder, stopped, 99)
    failed = begin(recorder)
    failed.fail("stalled", "nothing came", T(300))
    recorder.finish(failed)
    cut = begin(recorder)
    cut.abandon(T(400))
    recorder.finish(cut)
    running = [begin(recorder) for _ in range(3)]
    recorder.absorb(T(500), running)
    flush = recorder.flush(T(SECOND), NO_GAUGES, {})
    assert {outcome: sink.total(f"conversations_{outcome}") for outcome in OUTCOMES} == dict.fromkeys(OUTCOMES, 1)
    assert sink.total("conversations_started") == len(OUTCOMES) + len(running)
    assert sum(flush.counts[f"conversations_{outcome}"] for outcome in OUTCOMES) == len(sink.rows["conversations"])
    assert flush.conversation_errors == {"stalled": 1}


# What becomes of each of some conversations, in which absorbing or flushing is mixed at will.
STEPS = st.lists(
    st.sampled_from(["begin", "token", "burst", "several", "end", "stop", "fail", "abandon", "absorb", "absorb all", "flush", "stall"]),
    max_size=60,
)


@given(STEPS, st.randoms(use_true_random=False))
def test_counts_add_up_whatever_happens_in_whatever_order(steps: list[str], chance: Any) -> None:
    sink = Memory()
    recorder = Recorder("w0", ORIGIN, sink, record_tokens=True)
    running: list[Conversation] = []
    now, tokens, messages, started, gauges = 0.0, 0, 0, 0, 0
    for step in steps:
        now += chance.randrange(0, 400)
        c = chance.choice(running) if running else None
        if step == "begin":
            running.append(begin(recorder, now, chance.choice([0, 1, 8])))
            started += 1
        elif step == "flush":
            recorder.flush(T(now), {"users": 1, "opening": 0, "open": 1, "streaming": len(running)}, {})
            gauges += 1
        elif step == "absorb":
            recorder.absorb(T(now), running[::2])
        elif step == "absorb all":
            recorder.absorb(T(now), running)
        elif step == "stall":
            recorder.taint(Stall(T(now - 200), T(now), "loop_stall"), running)
        elif c is not None and step in ("token", "burst", "several"):
            count, extra = (4 if step == "burst" else 1), (2 if step == "several" else 0)
            for _ in range(count):
                token(c, now, chance.choice([0, 1, 150]), extra)
            messages += count
            tokens += count + extra
        elif c is not None and step == "stop":
            c.stop_sent = T(now) if c.stop_sent == NEVER else c.stop_sent
        elif c is not None:
            running.remove(c)
            if step == "end":
                end(recorder, c, now)
            elif step == "fail":
                c.fail("connection_lost", "", T(now))
                recorder.finish(c)
            else:
                c.abandon(T(now))
                recorder.finish(c)
    recorder.absorb(T(now), running)
    recorder.flush(T(now + 1), NO_GAUGES, {})
    ended = Counter(row["outcome"] for row in sink.rows["conversations"])
    assert sum(ended.values()) + len(running) == started == sink.total("conversations_started")
    for outcome in OUTCOMES:
        assert sink.total(f"conversations_{outcome}") == ended[outcome]
    assert sink.total("conversations_tainted") == sum(row["tainted"] for row in sink.rows["conversations"])
    assert sink.total("tokens") == tokens
    assert sink.total("messages") == messages == len(sink.rows["tokens"])
    # Every message has a lag, and all but the first of each conversation a gap, once, clean or tainted.
    assert sum(sink.histogram("receive_lag", t).count for t in (False, True)) == messages
    firsts = len({row["conversation"] for row in sink.rows["tokens"]})
    assert sum(sink.histogram(gap, t).count for gap in ("itl", "inter_chunk") for t in (False, True)) == messages - firsts
    by_second: Counter[int] = Counter()
    for row in sink.rows["tokens"]:
        by_second[row["arrival_at_ns"] // (SECOND * MS)] += 1
    counted: Counter[int] = Counter()
    for row in sink.rows["intervals"]:
        counted[row["second"]] += row["tokens"]
    if tokens == messages:
        assert +counted == +by_second
    assert sum(row["streaming"] is not None for row in sink.rows["intervals"]) == gauges
    assert sink.total("clamped") == 0


def test_a_flush_tells_what_is_new_once(recorder: Recorder, sink: Memory) -> None:
    c = begin(recorder)
    token(c, 100)
    token(c, 130)
    recorder.absorb(T(200), [c])
    first = recorder.flush(T(SECOND), NO_GAUGES, {})
    assert (first.second, first.counts["tokens"], first.values["itl"].tolist()) == (0, 2, [30 * MS])
    token(c, 1100)
    end(recorder, c, 1200)
    second = recorder.flush(T(2 * SECOND), NO_GAUGES, {})
    assert (second.second, second.counts["tokens"], second.values["itl"].tolist()) == (1, 1, [970 * MS])
    assert second.values["ttft"].tolist() == [100 * MS]
    third = recorder.flush(T(3 * SECOND), NO_GAUGES, {})
    assert (third.values, set(third.counts.values())) == ({}, {0})
    assert third.conversation_errors == third.connect_errors == {}


def test_acknowledgements_are_counted_where_there_are_any(recorder: Recorder, sink: Memory) -> None:
    held(recorder, 10, 20, 30, window=1)
    held(recorder, 10, 20, window=8)
    held(recorder, 10, 20, window=0)
    recorder.flush(T(SECOND), NO_GAUGES, {})
    assert (sink.total("acks_sent"), sink.total("messages")) == (5, 7)
    assert sink.total("coalesced") == 0


# -- seconds -----------------------------------------------------------------------------------------------------------


def test_tokens_belong_to_the_second_of_their_arrival(recorder: Recorder, sink: Memory) -> None:
    c = begin(recorder)
    token(c, 999.999, lag=20, extra=2)
    token(c, 1000, lag=20)
    token(c, 2500)
    recorder.absorb(T(2600), [c])
    recorder.flush(T(3 * SECOND), {"users": 1, "opening": 0, "open": 1, "streaming": 1}, {"cpu_ns": 5})
    assert {row["second"]: row["tokens"] for row in sink.rows["intervals"]} == {0: 3, 1: 1, 2: 1}
    assert [sink.histogram("receive_lag", second=s).count for s in range(3)] == [1, 1, 1]
    assert [sink.histogram("inter_chunk", second=s).count for s in range(3)] == [0, 1, 1]


def test_late_tokens_give_rows_of_earlier_seconds_without_gauges(recorder: Recorder, sink: Memory) -> None:
    gauges = {"users": 4, "opening": 1, "open": 3, "streaming": 2}
    process = {"covered_ns": 10**9, "cpu_ns": 5, "rss_bytes": 6}
    recorder.flush(T(SECOND), gauges, process)
    held(recorder, 900, 950, 1500)
    recorder.flush(T(2 * SECOND), gauges, process)
    rows = [(row["second"], row["tokens"], row["users"], row["covered_ns"]) for row in sink.rows["intervals"]]
    assert rows == [(0, 0, 4, 10**9), (0, 2, None, None), (1, 1, 4, 10**9)]
    assert all(row[name] is None for name in GAUGES for row in sink.rows["intervals"][1:2])
    # Other counts stand in the row of the second in which they were seen, once.
    assert [row["messages"] for row in sink.rows["intervals"]] == [0, 0, 3]


@pytest.mark.parametrize(("ms", "second"), [(0, 0), (1, 0), (999.9, 0), (1000, 0), (1000.1, 1), (1003, 1), (2000, 1), (-500, 0)])
def test_a_flush_belongs_to_the_second_that_has_passed(recorder: Recorder, sink: Memory, ms: float, second: int) -> None:
    assert recorder.flush(T(ms), NO_GAUGES, {}).second == second
    assert [row["second"] for row in sink.rows["intervals"]] == [second]


def test_conversations_belong_to_the_second_of_their_start(recorder: Recorder, sink: Memory) -> None:
    held(recorder, 2100, 2200, sent=1900)  # closed loop: sent
    held(recorder, 2100, 2200, sent=2050, due=950)  # open loop: due
    recorder.flush(T(3 * SECOND), NO_GAUGES, {})
    assert [sink.histogram("ttft", second=s).count for s in range(3)] == [1, 1, 0]
    assert [sink.histogram("ttft_due", second=s).total for s in range(3)] == [1150 * MS, 0, 0]
    assert sink.histogram("send_delay").total == 1100 * MS
    assert sink.histogram("e2e_due").total == 1255 * MS


def test_what_arrived_before_the_origin_is_in_its_first_second(recorder: Recorder, sink: Memory) -> None:
    held(recorder, -5, 5, sent=-10)
    recorder.flush(T(SECOND), NO_GAUGES, {})
    assert {row["second"] for table in ("intervals", "histograms") for row in sink.rows[table]} == {0}
    assert sink.total("tokens") == 2


# -- taint -------------------------------------------------------------------------------------------------------------


def test_gaps_are_gaps_of_messages_from_the_first_that_carries_several_tokens(recorder: Recorder, sink: Memory) -> None:
    held(recorder, 100, 120)
    assert set(recorder.flush(T(SECOND), NO_GAUGES, {}).values) >= {"itl"}
    c = begin(recorder, sent=1000)
    for arrival in (1100, 1130):
        token(c, arrival)
    c.add_extra(3)
    end(recorder, c, 1200)
    held(recorder, 1300, 1350, sent=1210)
    flush = recorder.flush(T(2 * SECOND), NO_GAUGES, {})
    assert flush.values["inter_chunk"].tolist() == [30 * MS, 50 * MS]
    assert "itl" not in flush.values
    assert (sink.histogram("itl").total, sink.histogram("inter_chunk").total) == (20 * MS, 80 * MS)
    assert (sink.total("tokens"), sink.total("messages")) == (2 + 5 + 2, 6)
    assert {row["metric"] for row in sink.rows["histograms"]} <= set(HISTOGRAMS)


@pytest.mark.parametrize(("lag_ms", "tainted"), [(100, False), (100.001, True), (2000, True)])
def test_a_token_read_too_late_taints_its_conversation(recorder: Recorder, sink: Memory, lag_ms: float, tainted: bool) -> None:
    assert TAINT_LAG_NS == 100 * MS
    bad, good = begin(recorder), begin(recorder)
    for c, lag in ((bad, lag_ms), (good, 1)):
        token(c, 100)
        token(c, 130, lag)
        end(recorder, c, 5000)
    flush = recorder.flush(T(6 * SECOND), NO_GAUGES, {})
    assert [(row["tainted"], row["taint"]) for row in sink.rows["conversations"]] == [
        (tainted, "receive_lag" if tainted else None), (False, None),
    ]  # fmt: skip
    # Counted, but kept out of the target's figures.
    assert sink.total("conversations_tainted") == tainted
    assert sink.total("conversations_completed") == 2
    for metric, each in (("ttft", 1), ("e2e", 1), ("tpot", 1), ("itl", 1), ("receive_lag", 2), ("token_latency", 1)):
        assert sink.histogram(metric, tainted=True).count == each * tainted
        assert sink.histogram(metric, tainted=False).count == each * (2 - tainted)
        assert flush.values[metric].size == each * (2 - tainted)


def test_the_largest_lag_of_a_second_is_kept_even_of_the_tainted(recorder: Recorder, sink: Memory) -> None:
    c = begin(recorder)
    token(c, 100, lag=700)
    token(c, 900, lag=3)
    recorder.absorb(T(SECOND), [c])
    recorder.flush(T(SECOND), NO_GAUGES, {})
    recorder.flush(T(2 * SECOND), NO_GAUGES, {})
    assert [row["receive_lag_max_ns"] for row in sink.rows["intervals"]] == [700 * MS, 0]


@pytest.mark.parametrize(
    ("sent", "over", "tainted"),
    [
        (0, 50, False),  # over before the stall
        (0, 100, False),
        (0, 101, True),  # ended in it
        (150, 180, True),  # within it
        (150, 400, True),
        (0, 400, True),
        (0, None, True),  # still running
        (299, None, True),
        (300, None, False),  # began when it was over
    ],
)
@pytest.mark.parametrize("absorbed", [False, True])
def test_a_stall_taints_what_it_overlaps(recorder: Recorder, sent: float, over: float | None, tainted: bool, absorbed: bool) -> None:
    c = begin(recorder, sent)
    if over is not None:
        c.end(T(over - 1) + OFFSET, T(over))
        recorder.finish(c)
    running = [] if over is not None else [c]
    if absorbed:
        recorder.absorb(T(400), running)
    recorder.taint(Stall(T(100), T(300), "loop_stall"), running)
    # A row that is written is written; the engine tells of a stall before anything that ended in it is absorbed.
    assert c.taint == ("loop_stall" if tainted and not (absorbed and over is not None) else None)


def test_the_first_reason_of_a_taint_stands(recorder: Recorder) -> None:
    c = begin(recorder)
    recorder.taint(Stall(T(0), T(300), "clock_step"), [c])
    recorder.taint(Stall(T(0), T(300), "loop_stall"), [c])
    token(c, 10, lag=500)
    recorder.absorb(T(600), [c])
    assert c.taint == "clock_step"


def test_a_late_loop_is_a_stall_only_beyond_the_limit(recorder: Recorder, sink: Memory) -> None:
    assert recorder.loop_ticked(T(20), T(19)) is None
    assert recorder.loop_ticked(T(20), T(21)) is None
    assert recorder.loop_ticked(T(20), T(120)) is None
    assert recorder.loop_ticked(T(20), T(120) + 1) == Stall(T(20), T(120) + 1, "loop_stall")
    assert recorder.loop_ticked(T(200), T(205)) is None
    recorder.flush(T(SECOND), NO_GAUGES, {})
    recorder.flush(T(2 * SECOND), NO_GAUGES, {})
    assert [row["loop_lag_max_ns"] for row in sink.rows["intervals"]] == [100 * MS + 1, 0]


def test_a_clock_step_is_in_its_seconds_row_and_taints(recorder: Recorder, sink: Memory) -> None:
    c = begin(recorder)
    recorder.taint(Stall(T(0), T(SECOND), "clock_step"), [c])
    # After a step back, a stamp is before the one before it: no gap is less than nothing.
    token(c, 500)
    token(c, 100, lag=401)
    end(recorder, c, 600)
    recorder.flush(T(SECOND), NO_GAUGES, {"clock_step_ns": -400 * MS})
    recorder.flush(T(2 * SECOND), NO_GAUGES, {"clock_step_ns": None})
    assert [row["clock_step_ns"] for row in sink.rows["intervals"]] == [-400 * MS, None]
    (row,) = sink.rows["conversations"]
    assert (row["taint"], row["tpot_ns"], row["longest_stall_ns"]) == ("clock_step", 0, 0)
    assert sink.histogram("itl", tainted=True).minimum == 0
    assert sink.total("clamped") == 0


# -- values ------------------------------------------------------------------------------------------------------------


def test_a_stamp_a_little_after_its_read_is_no_lag(recorder: Recorder, sink: Memory) -> None:
    c = begin(recorder)
    token(c, 100, lag=-0.0004)
    end(recorder, c, 101)
    recorder.flush(T(SECOND), NO_GAUGES, {})
    assert (sink.histogram("receive_lag").count, sink.histogram("receive_lag").maximum) == (1, 0)
    assert sink.total("clamped") == 0


def test_a_value_that_cannot_be_is_clamped_and_counted(recorder: Recorder, sink: Memory) -> None:
    for value in (-5, 3 * MS, 1 << 62):
        recorder.connected(value)
    recorder.flush(T(SECOND), NO_GAUGES, {})
    assert sink.total("clamped") == 2
    assert (sink.histogram("connect_time").count, sink.histogram("connect_time").minimum) == (3, 0)
    recorder.flush(T(2 * SECOND), NO_GAUGES, {})
    assert sink.total("clamped") == 2


def test_token_rows_with_texts_on_request(sink: Memory) -> None:
    recorder = Recorder("w3", ORIGIN, sink, record_tokens=True)
    first, second = begin(recorder), begin(recorder)
    first.texts = []
    for k in range(2):
        token(first, 100 + k)
        first.texts.append(f"text {k}")
    token(second, 105)
    recorder.absorb(T(200), [first, second])
    token(first, 300, lag=2)
    first.texts.append("text 2")
    end(recorder, first, 310)
    recorder.flush(T(SECOND), NO_GAUGES, {})
    keys = ("worker", "connection", "conversation", "sequence", "arrival_at_ns", "read_at_ns", "coalesced", "text")
    assert [tuple(row[key] for key in keys) for row in sink.rows["tokens"]] == [
        ("w3", 0, 0, 0, 100 * MS, 101 * MS, False, "text 0"),
        ("w3", 0, 0, 1, 101 * MS, 102 * MS, False, "text 1"),
        ("w3", 0, 1, 0, 105 * MS, 106 * MS, False, None),
        ("w3", 0, 0, 2, 300 * MS, 302 * MS, False, "text 2"),
    ]


def test_no_token_rows_without_request(recorder: Recorder, sink: Memory) -> None:
    held(recorder, 100, 110)
    recorder.flush(T(SECOND), NO_GAUGES, {})
    assert sink.rows["tokens"] == []


def test_a_full_disk_is_not_swallowed() -> None:
    class Full:
        def append(self, table: str, columns: Mapping[str, Any]) -> None:
            raise OSError(28, "No space left on device")

    recorder = Recorder("w0", ORIGIN, Full())
    held(recorder, 100)
    with pytest.raises(OSError, match="No space left"):
        recorder.absorb(T(200))
    with pytest.raises(OSError, match="No space left"):
        recorder.flush(T(SECOND), NO_GAUGES, {})


def test_what_it_writes_the_run_directory_reads(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {})
    writer = run.writer("w0")
    recorder = Recorder("w0", ORIGIN, writer, record_tokens=True)
    held(recorder, 100, 120, due=-5)
    recorder.connected(3 * MS)
    recorder.connection_ended(
        {
            "connection": 0, "user": 1, "opened_at_ns": T(0), "attempt": 0, "conversations": 1, "outcome": "clean",
            "syn_retransmitted": False, "tcp_ns": 5, "closed_at_ns": T(500), "close_code": 1000, "closed_by": "us", "error": None,
        }
    )  # fmt: skip
    gauges = dict.fromkeys(GAUGES, 1)
    recorder.flush(T(SECOND), gauges, {"covered_ns": 10**9, "cpu_ns": 1, "rss_bytes": 2, "clock_step_ns": None, "server_open": 1})
    writer.end()
    run.compact()
    assert {name: run.table(name).num_rows for name in TABLES if name != "histograms"} == {
        "conversations": 1, "connections": 1, "intervals": 1, "tokens": 2, "fairness": 0,
    }  # fmt: skip
    (interval,) = run.table("intervals").to_pylist()
    assert {name for name in COUNTERS if interval[name]} == {
        "tokens", "messages", "acks_sent", "conversations_started", "conversations_completed", "connects_succeeded", "conversations_good",
    }  # fmt: skip
    metrics = set(run.table("histograms")["metric"].to_pylist())
    assert metrics == set(HISTOGRAMS) - {"stop_latency", "inter_chunk"}


def test_what_a_recorder_holds_does_not_grow_with_the_tokens() -> None:
    """A minute at 2 000 tokens a second: nothing of a token outlives the second in which it was measured."""

    class Nowhere:
        def append(self, table: str, columns: Any) -> None:
            pass

    recorder = Recorder("w0", 0, Nowhere())
    streaming: list[Conversation] = []

    def live(second: int) -> None:
        begin = second * SECOND_NS
        for conversation in streaming:
            # Each in flight for three seconds, twenty tokens a second.
            if begin - conversation.sent >= 3 * SECOND_NS:
                conversation.end(begin, begin)
                recorder.finish(conversation)
        streaming[:] = [one for one in streaming if not one.outcome]
        while len(streaming) < 100:
            fresh = Conversation(1, recorder.number_conversation(), 1, 1)
            fresh.sent = begin
            recorder.counts["conversations_started"] += 1
            streaming.append(fresh)
        for conversation in streaming:
            instants = [begin + place * SECOND_NS // 20 for place in range(20)]
            conversation.arrivals += instants
            conversation.reads += instants
        recorder.absorb(begin + SECOND_NS, streaming)
        recorder.flush(begin + SECOND_NS, {"users": 1, "opening": 0, "open": 1, "streaming": 1}, {})

    held = []
    tracemalloc.start()
    try:
        for second in range(60):
            live(second)
            if second in (19, 39, 59):
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # A byte kept of each of the 40 000 tokens between would be more.
    assert max(held[1] - held[0], held[2] - held[1]) < 40_000, held
