"""The search for a capacity against simulated servers: exact, noisy, non-monotone, and generators that give out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.capacity_search import (
    Answer,
    Ask,
    End,
    Kind,
    Limits,
    Probe,
    Standing,
    bracket,
    contradictions,
    decide,
    probes_left,
    standing,
)

Server = Callable[[int, int], Answer]
"""What a simulated server answers at a level to the n-th probe of it (0: the first)."""


def search(server: Server, limits: Limits) -> tuple[End, list[Probe]]:
    probes: list[Probe] = []
    while isinstance(step := decide(probes, limits), Ask):
        assert limits.lowest <= step.level <= limits.highest
        assert step.attempt == sum(one.level == step.level and one.answer is not Answer.INVALID for one in probes)
        assert probes_left(probes, limits) >= 1
        before = sum(one.level == step.level for one in probes)
        probes.append(Probe(step.level, server(step.level, before)))
    return step, probes


def exact(capacity: int) -> Server:
    return lambda level, _: Answer.MET if level <= capacity else Answer.MISSED


@pytest.mark.parametrize("capacity", [1, 2, 3, 7, 10, 11, 99, 100, 640, 12_345])
@pytest.mark.parametrize("start", [1, 10, 100])
def test_an_exact_server_is_found_within_the_resolution(capacity: int, start: int) -> None:
    end, probes = search(exact(capacity), Limits(start, within=0.05))
    assert end.kind is Kind.FOUND
    assert end.low is not None
    assert end.high is not None
    assert end.low <= capacity < end.high
    assert end.high - end.low <= max(1, 0.05 * end.low)
    # Each end rests on two probes, every other level on one.
    counted = Counter(probe.level for probe in probes)
    assert {level for level, count in counted.items() if count > 1} == {end.low, end.high}


def test_the_way_is_doubling_then_bisection_then_both_ends_again() -> None:
    _, probes = search(exact(100), Limits(10, within=0.1))
    assert [probe.level for probe in probes] == [10, 20, 40, 80, 160, 120, 100, 110, 100, 110]


@given(st.integers(1, 100_000), st.integers(1, 2_000), st.sampled_from([0.01, 0.05, 0.2]))
def test_any_exact_capacity_is_enclosed(capacity: int, start: int, within: float) -> None:
    end, probes = search(exact(capacity), Limits(start, within=within, probes=200))
    assert end.kind is Kind.FOUND
    assert end.low is not None
    assert end.high is not None
    assert end.low <= capacity < end.high
    assert len(probes) <= 2 * 17 + 12


@given(st.lists(st.sampled_from(list(Answer)), min_size=1, max_size=60), st.integers(1, 50))
def test_whatever_is_answered_the_search_ends_and_claims_only_what_was_shown(answers: list[Answer], start: int) -> None:
    draw = random.Random(str(answers))
    limits = Limits(start, lowest=1, highest=400, probes=60)
    end, probes = search(lambda *_: draw.choice(answers), limits)
    assert len(probes) <= limits.probes
    if end.low is not None:
        of_low = Counter(probe.answer for probe in probes if probe.level == end.low)
        assert of_low[Answer.MET] > of_low[Answer.MISSED]
        assert end.high is None or end.low < end.high
        if end.kind is Kind.FOUND:
            assert sum(of_low.values()) >= 2
    if end.high is not None and end.kind in (Kind.FOUND, Kind.BELOW):
        of_high = Counter(probe.answer for probe in probes if probe.level == end.high)
        assert of_high[Answer.MET] <= of_high[Answer.MISSED] or of_high[Answer.MET] <= of_high[Answer.UNCERTAIN]
    if end.kind is Kind.GENERATOR:
        assert {probe.answer for probe in probes if probe.level == end.high} == {Answer.INVALID}


@given(st.integers(0, 2**32))
def test_noise_around_the_capacity_moves_the_result_little(seed: int) -> None:
    draw = random.Random(seed)

    def server(level: int, _: int) -> Answer:
        # Near its capacity nine of a hundred probes say the opposite of the truth, and some say neither.
        if abs(level - 500) < 60 and draw.random() < 0.2:
            return Answer.UNCERTAIN
        flipped = abs(level - 500) < 60 and draw.random() < 0.09
        return Answer.MET if (level <= 500) != flipped else Answer.MISSED

    end, _ = search(server, Limits(10, within=0.05))
    assert end.low is not None
    assert 400 <= end.low <= 580


@pytest.mark.parametrize("unlucky", [10, 40, 160, 320])
def test_one_unlucky_probe_on_the_way_does_not_decide(unlucky: int) -> None:
    def server(level: int, before: int) -> Answer:
        return Answer.MISSED if level == unlucky and before == 0 else exact(400)(level, before)

    end, probes = search(server, Limits(10, within=0.05))
    assert end.kind is Kind.FOUND
    assert end.low is not None
    assert 380 <= end.low <= 400
    assert standing(unlucky, probes, 3) is Standing.HOLDS


def test_one_lucky_probe_does_not_either() -> None:
    def server(level: int, before: int) -> Answer:
        return Answer.MET if 400 < level <= 430 and before == 0 else exact(400)(level, before)

    end, _ = search(server, Limits(10, within=0.05, probes=100))
    assert end.low is not None
    assert end.low <= 400


def test_what_holds_above_a_level_that_fails_does_not_count_and_is_named() -> None:
    def server(level: int, _: int) -> Answer:
        return Answer.MISSED if 30 <= level <= 36 or level > 64 else Answer.MET

    limits = Limits(32, within=0.05)
    probes = [Probe(64, Answer.MET), Probe(32, Answer.MISSED), Probe(32, Answer.MISSED)]
    assert bracket(probes, limits) == (None, 32)
    assert contradictions(probes, limits) == [64]
    end, _ = search(server, limits)
    assert (end.kind, end.low, end.high) == (Kind.FOUND, 29, 30)


def test_an_invalid_run_is_never_the_servers_answer() -> None:
    """The server holds 1 000, the generator gives out above 300."""
    end, probes = search(lambda level, n: Answer.INVALID if level > 300 else exact(1000)(level, n), Limits(10, within=0.05))
    assert end.kind is Kind.GENERATOR
    assert end.low is not None
    assert 285 <= end.low <= 300
    # Each level that could not be judged was tried twice.
    counted = Counter(probe.level for probe in probes if probe.answer is Answer.INVALID)
    assert set(counted.values()) == {2}


def test_a_server_below_the_generators_limit_is_still_found() -> None:
    end, _ = search(lambda level, n: Answer.INVALID if level > 300 else exact(200)(level, n), Limits(10, within=0.05))
    assert end.kind is Kind.FOUND
    assert end.low is not None
    assert 190 <= end.low <= 200


def test_a_run_that_was_invalid_once_is_repeated() -> None:
    end, probes = search(lambda level, n: Answer.INVALID if n == 0 and level == 80 else exact(100)(level, n), Limits(10))
    assert end.kind is Kind.FOUND
    assert [probe.answer for probe in probes if probe.level == 80] == [Answer.INVALID, Answer.MET]


def test_what_cannot_be_shown_is_not_claimed() -> None:
    """From 70 on every interval spans the bound."""
    end, probes = search(lambda level, n: Answer.UNCERTAIN if level >= 70 else Answer.MET, Limits(10, within=0.05, attempts=3))
    assert end.kind is Kind.FOUND
    assert end.low is not None
    assert 66 <= end.low < 70
    assert max(Counter(probe.level for probe in probes).values()) == 3


def test_the_highest_level_may_hold() -> None:
    end, _ = search(exact(10**6), Limits(10, highest=500))
    assert (end.kind, end.low, end.high) == (Kind.CEILING, 500, None)


def test_not_even_the_lowest_may_hold() -> None:
    end, probes = search(exact(3), Limits(40, lowest=10))
    assert (end.kind, end.low, end.high) == (Kind.BELOW, None, 10)
    assert [probe.level for probe in probes] == [40, 20, 10, 10]


def test_out_of_probes_is_unfinished_with_what_is_known() -> None:
    end, _ = search(exact(500), Limits(10, probes=8))
    assert (end.kind, end.low, end.high) == (Kind.UNFINISHED, 480, 640)


@pytest.mark.parametrize("wrong", [{"start": 0}, {"start": 5, "lowest": 6}, {"start": 5, "highest": 4}, {"start": 1, "within": 0.0}])
def test_limits_that_contradict_each_other_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Limits(**wrong)  # type: ignore[arg-type]


def test_a_level_at_the_bound_itself_is_left_for_one_below() -> None:
    """Met once and never again: neither claimed nor asked for again and again; the answer is the next level that is shown twice."""

    def server(level: int, before: int) -> Answer:
        if level < 92:
            return Answer.MET
        if level > 94:
            return Answer.MISSED
        return Answer.UNCERTAIN if before else Answer.MET

    end, probes = search(server, Limits(10))
    assert end.kind is Kind.FOUND
    assert end.low is not None
    assert end.low < 92
    assert probes.count(Probe(end.low, Answer.MET)) >= 2
    assert max(Counter(probe.level for probe in probes).values()) <= 3
