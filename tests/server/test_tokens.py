"""Schedules: the article's, exactness, seeds, distributions with known answers, stalls."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.parameters import Plan
from server.tokens import (
    draw_length,
    fill,
    quantile_length,
    schedule,
    seed_of,
    token_text,
)
from server.workloads import ANSWER_TOKENS, PERCENTS

MS = 1_000_000


def due_ms(plan: Plan, seed: str = "s") -> list[float]:
    return [token.due_ns / MS for token in schedule(plan, seed, 10**6)]


def test_the_default_is_twelve_tokens_one_a_second() -> None:
    assert due_ms(Plan()) == [1000.0 * k for k in range(1, 13)]
    assert [token_text(Plan())(k) for k in range(12)] == [str(k) for k in range(12)]


def test_a_fixed_gap_does_not_drift() -> None:
    # A third of a millisecond: whole nanoseconds from the start, so that the millionth token is where it should be.
    plan = Plan(tokens=1_000_000, gap_ms=0.333333, ttft_ms=0.0)
    last = list(schedule(plan, "s", 10**6))[-1]
    assert last.due_ns == 999_999 * 333_333


def test_time_to_first_token_stands_apart_from_the_gap() -> None:
    assert due_ms(Plan(tokens=3, gap_ms=10, ttft_ms=250)) == [250, 260, 270]
    assert due_ms(Plan(tokens=3, gap_ms=0, ttft_ms=5)) == [5, 5, 5]


def test_no_tokens() -> None:
    assert due_ms(Plan(tokens=0)) == []
    assert due_ms(Plan(tokens=0, lengths="gamma")) == []


@pytest.mark.parametrize(
    "plan",
    [
        Plan(tokens=50, gaps="lognormal"),
        Plan(tokens=50, gaps="gamma", gap_cv=2.0),
        Plan(tokens=50, lengths="lognormal"),
        Plan(lengths="chat"),
        Plan(tokens=50, stall_share=0.3, stall_ms=7),
    ],
)
def test_a_seed_gives_the_same_answer_again_and_another_seed_another(plan: Plan) -> None:
    assert due_ms(plan, "a") == due_ms(plan, "a")
    assert due_ms(plan, "a") != due_ms(plan, "b")


def test_what_an_answer_depends_on() -> None:
    assert seed_of(Plan(seed=5), 1, 7, 2) == seed_of(Plan(seed=5), 9, 8, 2)
    assert seed_of(Plan(), 1, 7, 2) != seed_of(Plan(), 1, 8, 2)
    assert seed_of(Plan(), 1, 7, 2) != seed_of(Plan(), 2, 7, 2)
    assert seed_of(Plan(seed=5), 1, 7, 2) != seed_of(Plan(seed=5), 1, 7, 3)


@pytest.mark.parametrize("family", ["lognormal", "gamma"])
@pytest.mark.parametrize("cv", [0.3, 1.0])
def test_drawn_gaps_have_the_mean_and_spread_asked_for(family: str, cv: float) -> None:
    instants = due_ms(Plan(tokens=40_000, gap_ms=20, ttft_ms=0, gaps=family, gap_cv=cv))
    gaps = [after - before for before, after in itertools.pairwise(instants)]
    assert statistics.fmean(gaps) == pytest.approx(20, rel=0.03)
    assert statistics.pstdev(gaps) / 20 == pytest.approx(cv, rel=0.06)


def test_a_spread_of_zero_is_the_fixed_gap() -> None:
    assert due_ms(Plan(tokens=5, gap_ms=20, gaps="gamma", gap_cv=0)) == due_ms(Plan(tokens=5, gap_ms=20))


@pytest.mark.parametrize("family", ["lognormal", "gamma"])
def test_drawn_lengths_have_the_mean_asked_for(family: str) -> None:
    rng = random.Random(3)
    drawn = [draw_length(Plan(tokens=200, lengths=family, tokens_cv=0.8), rng, 10**6) for _ in range(20_000)]
    assert statistics.fmean(drawn) == pytest.approx(200, rel=0.03)
    assert statistics.pstdev(drawn) / 200 == pytest.approx(0.8, rel=0.06)
    assert min(drawn) >= 1


# The traces' own figures: mean, p50, p90, p99, largest.
@pytest.mark.parametrize(
    ("table", "mean", "median", "p90", "p99", "largest"), [("chat", 211.1, 129, 424, 601, 1000), ("code", 27.9, 13, 55, 252, 1899)]
)
def test_quantile_tables_give_the_traces_figures(table: str, mean: float, median: int, p90: int, p99: int, largest: int) -> None:
    drawn = [quantile_length(table, (k + 0.5) / 50_000) for k in range(50_000)]
    assert statistics.fmean(drawn) == pytest.approx(mean, rel=0.011)
    assert [quantile_length(table, share) for share in (0.5, 0.9, 0.99, 1.0)] == [median, p90, p99, largest]
    assert drawn == sorted(drawn)
    assert len(ANSWER_TOKENS[table]) == len(PERCENTS)


@pytest.mark.parametrize("lengths", ["fixed", "lognormal", "gamma", "chat", "code"])
def test_no_length_is_over_the_cap(lengths: str) -> None:
    rng = random.Random(1)
    assert all(0 <= draw_length(Plan(tokens=1000, lengths=lengths), rng, 20) <= 20 for _ in range(500))


def test_every_kth_token_stalls_and_shifts_what_follows() -> None:
    assert due_ms(Plan(tokens=6, gap_ms=10, stall_every=3, stall_ms=100)) == [10, 20, 130, 140, 150, 260]


def test_a_stall_that_is_caught_up_is_followed_by_a_burst() -> None:
    plan = Plan(tokens=8, gap_ms=10, stall_every=3, stall_ms=25, stall_mode="catchup")
    tokens = list(schedule(plan, "s", 100))
    assert [token.due_ns / MS for token in tokens] == [10, 20, 55, 55, 55, 85, 85, 85]
    assert [k for k, token in enumerate(tokens, 1) if token.stalled] == [3, 6]


def test_a_share_of_the_tokens_stalls() -> None:
    tokens = list(schedule(Plan(tokens=50_000, gap_ms=1, stall_share=0.02, stall_ms=100), "s", 10**6))
    stalled = sum(token.stalled for token in tokens)
    assert stalled == pytest.approx(1000, rel=0.1)
    assert tokens[-1].due_ns == (50_000 + 100 * stalled) * MS


def test_a_share_of_the_conversations_stalls() -> None:
    plan = Plan(tokens=10, gap_ms=1, stall_every=10, stall_ms=50, stall_conversations=0.25)
    stalled = sum(any(token.stalled for token in schedule(plan, f"s/{k}", 10)) for k in range(4000))
    assert stalled == pytest.approx(1000, rel=0.1)


@given(
    st.builds(
        Plan,
        tokens=st.integers(0, 60),
        gap_ms=st.floats(0, 100),
        gaps=st.sampled_from(["fixed", "lognormal", "gamma"]),
        stall_every=st.integers(0, 5),
        stall_share=st.floats(0, 1),
        stall_ms=st.floats(0, 1000),
        stall_mode=st.sampled_from(["shift", "catchup", "hold"]),
    )
)
def test_time_never_goes_back(plan: Plan) -> None:
    instants = [token.due_ns for token in schedule(plan, "s", 10**6)]
    assert instants == sorted(instants)
    assert len(instants) == plan.tokens


def test_a_held_token_leaves_the_schedule_as_it_is() -> None:
    plan = Plan(tokens=6, gap_ms=10, stall_every=3, stall_ms=25, stall_mode="hold")
    tokens = list(schedule(plan, "s", 100))
    assert [token.due_ns for token in tokens] == [10_000_000 * k for k in range(1, 7)]
    assert [token.stalled for token in tokens] == [False, False, True, False, False, True]


@pytest.mark.parametrize("text", ["numbers", "words", "awkward"])
def test_tokens_are_filled_up(text: str) -> None:
    say = token_text(Plan(text=text, token_bytes=40))
    assert all(len(say(k).encode()) == 40 for k in range(50))


def test_words_carry_their_blanks() -> None:
    say = token_text(Plan(text="words"))
    assert "".join(say(k) for k in range(4)) == "the stream carries one"
    # One way around, and the blank is there too.
    assert say(19).startswith(" ")


def test_awkward_tokens_hold_what_must_not_go_out_as_it_is() -> None:
    said = {token_text(Plan(text="awkward"))(k) for k in range(20)}
    assert {"_end_", "", "stop"} <= said


def test_fill_counts_bytes_not_characters() -> None:
    assert len(fill("你", 10, ".").encode()) == 10
    assert fill("longer", 3, ".") == "longer"
