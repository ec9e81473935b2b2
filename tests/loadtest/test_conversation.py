"""The timeline of a conversation: known answers worked out by hand for every metric and every edge, and the same from any portions.

Instants are milliseconds here: `T(100)` is 100 ms on the monotonic clock; the wall clock is OFFSET ahead of it.
"""

from __future__ import annotations

import copy
from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.conversation import NEVER, Conversation, Measured, finished_row, measure
from loadtest.metrics import OUTCOMES
from loadtest.tables import TABLES
from server.protocol import ClientState

MS = 1_000_000
OFFSET = 1_700_000_000_000_000_000 - 12_345
ORIGIN = 9_000 * MS


def T(ms: float) -> int:
    """An instant on the monotonic clock."""
    return ORIGIN + round(ms * MS)


def W(ms: float) -> int:
    """The same instant on the wall clock."""
    return T(ms) + OFFSET


def begun(sent: float = 0, window: int = 1, due: float | None = None) -> Conversation:
    c = Conversation(connection=3, number=7, users=20, window=window, due=NEVER if due is None else T(due))
    c.sent, c.offset = T(sent), OFFSET
    return c


def token(c: Conversation, arrival: float, read: float | None = None, extra: int = 0) -> None:
    """One message; it is read 1 ms after it has arrived unless said otherwise."""
    c.arrivals.append(W(arrival))
    c.reads.append(T(arrival + 1 if read is None else read))
    if extra:
        c.add_extra(extra)


def streamed(*arrivals: float, **options: Any) -> Conversation:
    c = begun(**options)
    for arrival in arrivals:
        token(c, arrival)
    return c


def ended(c: Conversation, arrival: float, read: float | None = None) -> Conversation:
    c.end(W(arrival), T(arrival + 1 if read is None else read))
    return c


def row_of(c: Conversation) -> dict[str, Any]:
    measure([c])
    return finished_row(c, ORIGIN)


def ms(values: np.ndarray[Any, Any]) -> list[float | None]:
    return [None if value == NEVER else value / MS for value in values.tolist()]


# -- known answers: conversations --------------------------------------------------------------------------------------


def test_a_completed_conversation_in_the_open_loop() -> None:
    c = streamed(150, 170, 200, 260, sent=30, due=10)
    c.received_bytes = 40
    assert row_of(ended(c, 270)) == {
        "connection": 3, "conversation": 7, "users": 20, "window": 1, "received_bytes": 40,
        "tokens": 4, "messages": 4, "coalesced": 0, "receive_lag_max_ns": 1 * MS,
        "outcome": "completed", "stop_crossed": False, "tainted": False, "taint": None, "error": None, "error_detail": None,
        "due_at_ns": 10 * MS, "sent_at_ns": 30 * MS, "first_token_at_ns": 150 * MS, "last_token_at_ns": 260 * MS,
        "end_at_ns": 270 * MS, "stop_sent_at_ns": None,
        "send_delay_ns": 20 * MS, "ttft_ns": 120 * MS, "ttft_due_ns": 140 * MS, "e2e_ns": 240 * MS, "e2e_due_ns": 260 * MS,
        "tpot_ns": 110 * MS // 3, "longest_stall_ns": 60 * MS, "stop_latency_ns": None, "overrun_tokens": None,
        "stalls": 0, "late_tokens": 0,
    }  # fmt: skip


def test_in_the_closed_loop_nothing_is_counted_from_due() -> None:
    row = row_of(ended(streamed(150, 170), 180))
    assert (row["ttft_ns"], row["e2e_ns"]) == (150 * MS, 180 * MS)
    # Never a copy of the service time.
    assert row["due_at_ns"] is row["send_delay_ns"] is row["ttft_due_ns"] is row["e2e_due_ns"] is None


def test_every_column_of_the_table_but_the_worker_is_in_the_row() -> None:
    assert {*row_of(ended(streamed(1), 2)), "worker"} == set(TABLES["conversations"].names)


def test_no_token_is_empty_and_has_no_first_token() -> None:
    row = row_of(ended(begun(due=0), 50))
    assert row["outcome"] == "empty"
    for name in ("ttft_ns", "ttft_due_ns", "tpot_ns", "longest_stall_ns", "first_token_at_ns", "last_token_at_ns", "e2e_ns"):
        assert row[name] is None
    assert (row["tokens"], row["messages"], row["end_at_ns"]) == (0, 0, 50 * MS)


def test_one_token_has_no_time_per_token() -> None:
    row = row_of(ended(streamed(50), 60))
    assert (row["outcome"], row["ttft_ns"], row["tpot_ns"], row["longest_stall_ns"], row["e2e_ns"]) == (
        "completed", 50 * MS, None, None, 60 * MS,
    )  # fmt: skip


def test_two_tokens_have_one_gap() -> None:
    row = row_of(ended(streamed(50, 57), 60))
    assert (row["tpot_ns"], row["longest_stall_ns"]) == (7 * MS, 7 * MS)


def test_the_published_example_of_the_name_that_means_three_things() -> None:
    # Chunks at 100/200/300/400 ms with 1, 1, 4, 1 tokens: 75 would be a mean over chunks and ttft, here it is 300 ms / 6 gaps of tokens.
    c = begun()
    for arrival, extra in ((100, 0), (200, 0), (300, 3), (400, 0)):
        token(c, arrival, extra=extra)
    tokens = measure([c])
    assert ms(tokens.gap) == [None, 100, 100, 100]
    assert tokens.extra.tolist() == [0, 0, 3, 0]
    row = finished_row(ended(c, 410), ORIGIN)
    assert (row["tokens"], row["messages"], row["tpot_ns"]) == (7, 4, 50 * MS)


# -- known answers: stop -----------------------------------------------------------------------------------------------


def test_a_stopped_conversation() -> None:
    c = streamed(100, 120)
    c.stop_sent = T(130)
    token(c, 140)
    token(c, 150)
    row = row_of(ended(c, 155))
    assert (row["outcome"], row["stop_latency_ns"], row["overrun_tokens"], row["stop_crossed"]) == ("stopped", 25 * MS, 2, False)
    assert (row["stop_sent_at_ns"], row["end_at_ns"], row["tokens"]) == (130 * MS, 155 * MS, 4)
    assert (row["ttft_ns"], row["tpot_ns"]) == (100 * MS, 50 * MS // 3)
    assert row["e2e_ns"] is row["e2e_due_ns"] is None  # the user's patience, not the server's speed


def test_tokens_are_overrun_by_their_arrival_not_by_when_they_are_read() -> None:
    c = streamed(100)
    token(c, 129, read=135)  # in the kernel before stop was sent, read after it
    c.stop_sent = T(130)
    token(c, 130)  # at that very instant is not after it
    token(c, 131)
    row = row_of(ended(c, 140))
    assert row["overrun_tokens"] == 1


def test_overrun_counts_tokens_not_messages() -> None:
    c = streamed(100)
    c.stop_sent = T(130)
    token(c, 140, extra=4)
    assert row_of(ended(c, 150))["overrun_tokens"] == 5


def test_a_stop_without_overrun_has_none_and_no_stop_has_null() -> None:
    c = streamed(100)
    c.stop_sent = T(130)
    assert row_of(ended(c, 150))["overrun_tokens"] == 0
    assert row_of(ended(streamed(100), 150))["overrun_tokens"] is None


@pytest.mark.parametrize("arrival", [129, 130])
def test_a_stop_that_crossed_the_end_is_no_stop(arrival: float) -> None:
    # The end was in the kernel when stop was sent, and was read after it.
    c = streamed(100, 120)
    c.stop_sent = T(130)
    row = row_of(ended(c, arrival, read=133))
    assert (row["outcome"], row["stop_crossed"], row["stop_latency_ns"]) == ("completed", True, None)
    assert (row["e2e_ns"], row["overrun_tokens"]) == (arrival * MS, 0)


def test_the_end_just_after_stop_is_a_stop() -> None:
    c = streamed(100)
    c.stop_sent = T(130)
    row = row_of(ended(c, 130.000001))
    assert (row["outcome"], row["stop_crossed"], row["stop_latency_ns"]) == ("stopped", False, 1)


def test_a_stop_that_crossed_an_end_without_a_token_is_empty() -> None:
    c = begun()
    c.stop_sent = T(130)
    row = row_of(ended(c, 120, read=133))
    assert (row["outcome"], row["stop_crossed"], row["e2e_ns"]) == ("empty", True, None)


def test_stopped_before_the_first_token_is_stopped_and_censored() -> None:
    c = begun(due=0)
    c.stop_sent = T(30)
    row = row_of(ended(c, 32))
    assert (row["outcome"], row["stop_latency_ns"], row["overrun_tokens"]) == ("stopped", 2 * MS, 0)
    assert row["ttft_ns"] is row["ttft_due_ns"] is row["e2e_ns"] is row["e2e_due_ns"] is None


def test_a_first_token_after_stop_is_overrun() -> None:
    c = begun()
    c.stop_sent = T(30)
    token(c, 31)
    row = row_of(ended(c, 32))
    assert (row["outcome"], row["overrun_tokens"], row["ttft_ns"]) == ("stopped", 1, 31 * MS)


# -- outcomes ----------------------------------------------------------------------------------------------------------


def test_a_failure_keeps_what_was_measured() -> None:
    c = streamed(100, 150, due=-20)
    c.fail("connection_lost", "x" * 1000, T(170))
    row = row_of(c)
    assert (row["outcome"], row["error"], len(row["error_detail"])) == ("failed", "connection_lost", 500)
    assert (row["ttft_ns"], row["ttft_due_ns"], row["tpot_ns"], row["tokens"]) == (100 * MS, 120 * MS, 50 * MS, 2)
    assert row["e2e_ns"] is row["e2e_due_ns"] is row["end_at_ns"] is row["stop_latency_ns"] is None
    assert c.ended_read == T(170)


def test_cut_by_the_end_of_the_run() -> None:
    c = streamed(100)
    c.stop_sent = T(105)
    c.abandon(T(110))
    row = row_of(c)
    assert (row["outcome"], row["end_at_ns"], row["stop_latency_ns"], row["stop_crossed"]) == ("abandoned", None, None, False)
    assert row["e2e_ns"] is None


def test_the_state_follows_the_clients_table() -> None:
    c = begun()
    assert c.state is ClientState.WAITING
    token(c, 10)
    assert c.state is ClientState.STREAMING
    measure([c])
    measure([c])
    assert c.state is ClientState.STREAMING  # what has been measured has come all the same
    c.stop_sent = T(20)
    assert c.state is ClientState.STOPPING
    assert set(OUTCOMES) == {"completed", "stopped", "empty", "failed", "abandoned"}


def test_two_clocks_that_disagree_by_a_little_never_give_less_than_nothing() -> None:
    c = begun(sent=100, due=100.001, window=1)
    token(c, 99.9999, read=100)
    token(c, 99.9998, read=101)
    row = row_of(ended(c, 99.9999))
    assert row["send_delay_ns"] == row["ttft_ns"] == row["ttft_due_ns"] == row["e2e_ns"] == row["longest_stall_ns"] == row["tpot_ns"] == 0


def test_the_wall_clock_is_carried_over_with_the_offset_of_its_conversation() -> None:
    a, b = streamed(10, 20), begun()
    b.offset = OFFSET + 3_600_000 * MS
    for at in (10, 20):
        b.arrivals.append(T(at) + b.offset)
        b.reads.append(T(at + 1))
    tokens = measure([a, b])
    assert tokens.arrival.tolist() == [T(10), T(20)] * 2
    assert tokens.owner.tolist() == [0, 0, 1, 1]


# -- known answers: tokens ---------------------------------------------------------------------------------------------


def test_gaps_are_between_arrivals_whenever_they_are_read() -> None:
    c = begun()
    for arrival, read in ((100, 101), (120, 161), (160, 161.5), (161, 163)):
        token(c, arrival, read)
    tokens = measure([c])
    assert ms(tokens.gap) == [None, 20, 40, 1]
    assert ms(tokens.lag) == [1, 41, 1.5, 2]
    assert tokens.sequence.tolist() == [0, 1, 2, 3]
    assert finished_row(ended(c, 170), ORIGIN)["receive_lag_max_ns"] == 41 * MS


def test_with_a_window_of_one_each_token_counts_from_the_acknowledgement_before() -> None:
    c = begun(window=1)
    for arrival, read in ((100, 103), (110, 111), (140, 141)):
        token(c, arrival, read)
    assert ms(measure([c]).latency) == [None, 7, 29]


def test_with_a_window_of_one_a_little_disagreement_of_the_clocks_does_not_matter() -> None:
    c = begun(window=1)
    token(c, 100, read=99.9999)
    token(c, 110)
    assert ms(measure([c]).latency) == [None, pytest.approx(10.0001)]


def test_a_token_that_did_not_wait_for_the_acknowledgement_has_no_latency() -> None:
    c = begun(window=1)
    token(c, 100, read=120)
    token(c, 119, read=121)  # came before token 0 was acknowledged: the server has a wider window than we believe
    token(c, 130)
    assert ms(measure([c]).latency) == [None, None, 9]


def test_without_acknowledgements_there_is_no_token_latency() -> None:
    assert ms(measure([streamed(100, 110, 120, window=0)]).latency) == [None, None, None]


def test_with_a_window_of_two_only_where_it_was_full() -> None:
    c = begun(window=2)
    token(c, 100, read=101)
    token(c, 102, read=103)
    token(c, 104, read=106)  # token 1 came (102) after token 0 was acknowledged (101): the window was not full
    token(c, 104.5, read=106.5)  # opened by the acknowledgement of token 1 (103), before token 2 came: not full
    token(c, 130, read=131)  # opened by the one of token 2 (106): token 3 (104.5) had come: full
    token(c, 135, read=136)  # opened by the one of token 3 (106.5): token 4 (130) had not come
    assert ms(measure([c]).latency) == [None, None, None, None, 24, None]


def test_with_a_window_of_eight_a_burst_that_is_read_at_once_fills_it() -> None:
    c = begun(window=8)
    for k in range(8):
        token(c, 100 + k, read=110)
    for k in range(8):
        token(c, 115 + k, read=130)
    # Tokens 0 to 7 are opened by none; token 8 waited for the acknowledgement of token 0 with tokens 0 to 7 unacknowledged.
    # Then the window was open: seven more acknowledgements had gone out at the same instant.
    assert ms(measure([c]).latency) == [None] * 8 + [5] + [None] * 7


def test_messages_of_one_read_are_coalesced_but_the_first() -> None:
    c = begun()
    for arrival, read in ((100, 101), (110, 120), (110, 120), (110, 120), (110, 121), (112, 121), (113, 121)):
        token(c, arrival, read)
    tokens = measure([c])
    # Same stamp read later, or same read with another stamp, is another read.
    assert tokens.coalesced.tolist() == [False, False, True, True, False, False, False]
    assert finished_row(ended(c, 130), ORIGIN)["coalesced"] == 2


def test_conversations_do_not_touch_one_another() -> None:
    a, b, c = streamed(100, 110), begun(), streamed(110, 150, window=0)
    tokens = measure([a, b, c])
    assert tokens.owner.tolist() == [0, 0, 2, 2]
    assert ms(tokens.gap) == [None, 10, None, 40]
    assert ms(tokens.latency) == [None, 9, None, None]
    assert tokens.coalesced.tolist() == [False] * 4


def test_nothing_new_is_nothing() -> None:
    for conversations in ([], [begun()]):
        assert all(len(getattr(measure(conversations), field.name)) == 0 for field in fields(Measured))
    c = streamed(100, 110)
    measure([c])
    assert measure([c]).arrival.size == 0
    assert (c.messages, finished_row(ended(c, 120), ORIGIN)["tokens"]) == (2, 2)


@pytest.mark.parametrize(("window", "kept"), [(0, 1), (1, 1), (8, 8)])
def test_what_later_tokens_do_not_need_is_let_go(window: int, kept: int) -> None:
    c = streamed(*range(100, 200), window=window)
    measure([c])
    assert (len(c.arrivals), len(c.reads), c.messages) == (kept, kept, 100)


@given(st.integers(1, 30), st.sets(st.integers(1, 29)), st.sampled_from([0, 1, 4, 8]))
def test_a_stop_is_due_at_the_same_token_however_often_the_lists_were_cut(stop_at: int, cuts: set[int], window: int) -> None:
    c = begun(window=window)
    c.stop_index = stop_at
    due = []
    for k in range(1, 31):
        token(c, 100 + k)
        if len(c.arrivals) == c.stop_index:
            due.append(k)
        if k in cuts:
            measure([c])
    assert due == [stop_at]


def test_texts_come_with_their_tokens() -> None:
    c, plain = begun(), streamed(1)
    c.texts = []
    for k in range(3):
        token(c, k)
        c.texts.append(f"t{k}")
    assert measure([plain, c]).texts == [None, "t0", "t1", "t2"]
    token(c, 3)
    c.texts.append("t3")
    assert measure([plain, c]).texts == ["t3"]


# -- portions ----------------------------------------------------------------------------------------------------------


@st.composite
def timelines(draw: st.DrawFn) -> list[Conversation]:
    """A few conversations as an engine may leave them: bursts that share a stamp and a read, lags, windows, stops, ends of all kinds."""
    made = []
    for number in range(draw(st.integers(1, 3))):
        c = Conversation(number, number, 3, draw(st.sampled_from([0, 1, 2, 8])), draw(st.sampled_from([NEVER, T(1)])))
        c.sent, c.offset = T(2), OFFSET + number * MS
        c.texts = [] if draw(st.booleans()) else None
        arrival = read = T(5)
        for k in range(draw(st.integers(0, 24))):
            if not draw(st.booleans()) or not k:
                arrival += draw(st.integers(0, 30)) * MS
                read = max(read, arrival) + draw(st.integers(0, 20)) * MS
            c.arrivals.append(arrival + c.offset)
            c.reads.append(read)
            if c.texts is not None:
                c.texts.append(f"{number}:{k}")
            if draw(st.integers(0, 5)) == 0:
                c.add_extra(draw(st.integers(1, 3)))
        if draw(st.booleans()):
            c.stop_sent = T(draw(st.integers(3, 600)))
        if draw(st.booleans()):
            c.end(read + 3 * MS + c.offset, read + 4 * MS)
        else:
            c.fail("connection_lost", "", read + 5 * MS)
        made.append(c)
    return made


Piece = tuple[int, int, list[int], list[int], list[str] | None, list[tuple[int, int]]]


def in_portions(whole: Conversation, bounds: list[int]) -> tuple[Conversation, list[Piece]]:
    """The conversation before its first token, and what comes of it between each two bounds."""
    bare = copy.deepcopy(whole)
    bare.arrivals, bare.reads, bare.extras, bare.texts = [], [], None, None if whole.texts is None else []
    pieces = []
    for low, high in zip([0, *bounds], [*bounds, len(whole.arrivals)], strict=True):
        texts = None if whole.texts is None else whole.texts[low:high]
        extras = [(at - low, n) for at, n in whole.extras or () if low <= at < high]
        pieces.append((low, high, whole.arrivals[low:high], whole.reads[low:high], texts, extras))
    return bare, pieces


def sorted_tokens(parts: list[Measured]) -> list[tuple[Any, ...]]:
    columns = [[value for part in parts for value in list(getattr(part, field.name))] for field in fields(Measured)]
    return sorted(zip(*columns, strict=True), key=lambda row: row[:2])


@given(timelines(), st.data())
def test_drained_in_portions_gives_the_same_tokens_and_rows(whole: list[Conversation], data: st.DataObject) -> None:
    rounds = data.draw(st.integers(0, 5))
    split = []
    for c in whole:
        bounds = data.draw(st.lists(st.integers(0, len(c.arrivals)), min_size=rounds, max_size=rounds).map(sorted))
        split.append(in_portions(c, bounds))
    portions = []
    for turn in range(rounds + 1):
        for bare, pieces in split:
            _, _, arrivals, reads, texts, extras = pieces[turn]
            start = len(bare.arrivals)
            bare.arrivals += arrivals
            bare.reads += reads
            if bare.texts is not None and texts is not None:
                bare.texts += texts
            if extras:
                bare.extras = [(start + at, n) for at, n in extras]
        portions.append(measure([bare for bare, _ in split]))
    at_once = measure(whole)
    assert sorted_tokens(portions) == sorted_tokens([at_once])
    assert [finished_row(bare, ORIGIN) for bare, _ in split] == [finished_row(c, ORIGIN) for c in whole]


@given(timelines())
def test_rows_are_what_the_definitions_say(whole: list[Conversation]) -> None:
    """The definitions written out token by token, beside the ones computed in bulk."""
    plain = copy.deepcopy(whole)
    tokens = measure(whole)
    at = 0
    for position, (c, before) in enumerate(zip(whole, plain, strict=True)):
        arrivals = [stamp - before.offset for stamp in before.arrivals]
        extras = dict(before.extras or ())
        overrun = 0
        for k, (arrival, read) in enumerate(zip(arrivals, before.reads, strict=True)):
            assert (tokens.owner[at], tokens.sequence[at], tokens.arrival[at], tokens.read[at]) == (position, k, arrival, read)
            assert tokens.gap[at] == (arrival - arrivals[k - 1] if k else NEVER)
            latency, w = NEVER, before.window
            if 0 < w <= k:
                opener = before.reads[k - w]
                full = arrivals[k - 1] <= opener
                if full and arrival >= opener:
                    latency = arrival - opener
            assert tokens.latency[at] == latency
            assert tokens.coalesced[at] == (k > 0 and (arrival, read) == (arrivals[k - 1], before.reads[k - 1]))
            assert tokens.extra[at] == extras.get(k, 0)
            overrun += (1 + extras.get(k, 0)) * (before.stop_sent != NEVER and arrival > before.stop_sent)
            at += 1
        row = finished_row(c, ORIGIN)
        n = len(arrivals) + sum(extras.values())
        assert (row["tokens"], row["messages"]) == (n, len(arrivals))
        assert row["ttft_ns"] == (arrivals[0] - before.sent if arrivals else None)
        assert row["tpot_ns"] == ((arrivals[-1] - arrivals[0]) // (n - 1) if n > 1 else None)
        assert row["overrun_tokens"] == (overrun if before.stop_sent != NEVER else None)
        assert row["longest_stall_ns"] == max((b - a for a, b in pairwise(arrivals)), default=None)
    assert at == tokens.arrival.size
