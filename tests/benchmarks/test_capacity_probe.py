"""One probe of a capacity search: how long, with which load, and what its summary answers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from benchmarks.capacity_probe import (
    Experience,
    Question,
    find,
    first_guess,
    limits_of,
    load_of,
    lowest_level,
    measured_s,
    seconds_needed,
    with_objectives,
)
from benchmarks.capacity_search import Answer
from benchmarks.workload import Load, Stop
from loadtest.objectives import parse_all

LOAD = Load(users=100, run_time_s=20, warm_up_s=2.0, tokens=40, gap_ms=20.0, ttft_ms=20.0)
MS = 10**6


def question(*objectives: str, by_rate: bool = False, load: Load = LOAD, longest_s: float = 60.0) -> Question:
    return Question(parse_all(objectives), load, by_rate, shortest_s=10.0, longest_s=longest_s)


def percentile(value_ms: float | None, low_ms: float | None = None, high_ms: float | None = None, text: str = "") -> dict[str, Any]:
    scale = lambda one: None if one is None else one * MS  # noqa: E731
    return {"value": scale(value_ms), "low": scale(low_ms), "high": scale(high_ms), "text": text, "n_effective": 700}


def summary(ttft: dict[str, Any], errors: float = 0.0, **more: Any) -> dict[str, Any]:
    below = {name: percentile(1.0, 1.0, 1.0) for name in ("p50", "p90", "p95")}
    rarest = percentile(None, text="n/a (800 of 6636)")
    made: dict[str, Any] = {
        "metrics": {
            "ttft": {"n": 800, "n_effective": 750, "percentiles": {**below, "p99": ttft, "p99.9": rarest}},
            "e2e": {"n": 800, "n_effective": 750, "percentiles": {"p50": percentile(800.0)}},
        },
        "shares": {"errors": {"value": errors, "low": 0.0, "high": 0.01, "n": 800}},
        "validity": {"valid": True, "reasons": []}, "window": {"steady_s": 10.0},
        "load": {"loop": "closed", "offered_per_s": None, "achieved_per_s": None}, "stop": {"sent": 0},
    }  # fmt: skip
    return {**made, **more}


class TestLength:
    def test_a_conversation_metric_needs_its_conversations(self) -> None:
        asked = question("ttft_p99=500ms")
        known = first_guess(LOAD)
        assert known.conversation_s == pytest.approx(0.8)
        # Twice 662 conversations of 0.8 s by 20 users.
        assert seconds_needed(asked, 20, known) == pytest.approx(2 * 662 * 0.8 / 20)
        assert measured_s(asked, 20, 0, known) == 53
        assert measured_s(asked, 1000, 0, known) == 10
        assert measured_s(asked, 1, 0, known) == 60

    def test_a_rarer_percentile_takes_longer(self) -> None:
        known = first_guess(LOAD)
        times = [seconds_needed(question(f"ttft_{p}=500ms"), 2, known) for p in ("p90", "p95", "p99", "p99.9")]
        assert times == sorted(times)
        assert times[-1] / times[0] > 100

    def test_a_repeat_is_twice_as_long(self) -> None:
        asked, known = question("ttft_p99=500ms"), first_guess(LOAD)
        assert [measured_s(asked, 20, attempt, known) for attempt in range(4)] == [53, 106, 212, 212]

    def test_stops_come_by_their_share(self) -> None:
        load = with_objectives(LOAD, parse_all(["stop_p99=300ms"]))
        assert load.stop == Stop(0.2, after_tokens=(2, 10))
        stops, first = (seconds_needed(question(one, load=load), 100, first_guess(LOAD)) for one in ("stop_p99=300ms", "ttft_p99=500ms"))
        assert stops / first > 2
        assert with_objectives(load, parse_all(["stop_p99=300ms"])) is load
        assert with_objectives(LOAD, parse_all(["ttft_p99=300ms"])).stop is None

    def test_experience_replaces_the_guess(self) -> None:
        asked = question("token_p99=100ms")
        before = first_guess(LOAD)
        seen = summary(percentile(1.0))
        seen["metrics"]["token_latency"] = {"n": 90_000, "n_effective": 100, "percentiles": {}}
        after = before.after(seen, 20)
        assert after.samples["token_latency"] == pytest.approx(100 / 10 / 20)
        assert after.conversation_s == pytest.approx(0.8)
        assert seconds_needed(asked, 20, after) == pytest.approx(2 * 662 / 10)
        assert seconds_needed(asked, 20, before) < seconds_needed(asked, 20, after)

    def test_an_interval_needs_batches_of_whole_conversations(self) -> None:
        slow = Experience(20.0)
        assert seconds_needed(question("ttft_p50=500ms"), 10_000, slow) >= 5 * 20

    @pytest.mark.parametrize("by_rate", [False, True])
    def test_the_lowest_level_can_be_judged_in_the_longest_time(self, by_rate: bool) -> None:
        asked, known = question("ttft_p99=500ms", by_rate=by_rate), first_guess(LOAD)
        level = lowest_level(asked, known)
        assert seconds_needed(asked, asked.value(level), known) <= asked.longest_s
        assert seconds_needed(asked, asked.value(level - 1), known) > asked.longest_s

    def test_a_percentile_of_few_needs_no_lowest_level(self) -> None:
        assert lowest_level(question("ttft_p50=1s"), first_guess(LOAD)) == 1


class TestLoad:
    def test_users_are_the_level(self) -> None:
        load = load_of(question("ttft_p99=500ms"), 50, 0, first_guess(LOAD))
        assert (load.users, load.loop, load.rate_per_s) == (50, "closed", None)
        assert load.seconds - load.warm_up_s >= 2 * 662 * 0.8 / 50

    def test_a_rate_has_a_pool_for_answers_three_times_as_long(self) -> None:
        load = load_of(question("ttft_due_p99=500ms", by_rate=True), 500, 0, Experience(2.0))
        assert (load.loop, load.rate_per_s) == ("open", 50.0)
        assert load.users is not None
        assert load.users >= 3 * 50 * 2

    def test_levels_of_a_rate_are_tenths(self) -> None:
        asked = question("ttft_p99=500ms", by_rate=True)
        assert (asked.value(125), asked.level(12.5), asked.text(125)) == (12.5, 125, "12.5 conversations/s")
        assert question("ttft_p99=1s").text(1) == "1 conversation"


class TestAnswer:
    asked = question("ttft_p99=500ms", "errors=0.1%")

    def test_met_with_the_whole_interval(self) -> None:
        assert find(self.asked, summary(percentile(400, 380, 470)), None).answer is Answer.MET

    def test_missed_with_the_whole_interval(self) -> None:
        found = find(self.asked, summary(percentile(600, 520, 900)), None)
        assert found.answer is Answer.MISSED
        assert "ttft_p99 <= 500ms: missed" in found.reason

    @pytest.mark.parametrize(
        "entry", [percentile(490, 450, 510), percentile(510, 450, 600), percentile(400), percentile(400, 380, None), percentile(600)]
    )
    def test_uncertain_where_the_interval_spans_the_bound_or_there_is_none(self, entry: dict[str, Any]) -> None:
        found = find(self.asked, summary(entry), None)
        assert found.answer is Answer.UNCERTAIN
        assert "95 % interval" in found.reason

    def test_uncertain_with_too_few_samples(self) -> None:
        found = find(self.asked, summary(percentile(None, text="n/a (120 of 662)")), None)
        assert found.answer is Answer.UNCERTAIN
        assert "n/a (120 of 662)" in found.reason

    def test_one_miss_is_enough_whatever_is_uncertain(self) -> None:
        assert find(self.asked, summary(percentile(490, 450, 510), errors=0.02), None).answer is Answer.MISSED

    def test_no_error_in_few_conversations_is_taken_as_counted(self) -> None:
        # Its interval reaches to 1 %: showing 0.1 % would take thousands.
        assert find(self.asked, summary(percentile(400, 380, 470), errors=0.0), None).answer is Answer.MET

    def test_an_invalid_run_answers_nothing(self) -> None:
        broken = {"valid": False, "reasons": [{"rule": "generator_cpu", "sentence": "Worker w0 used 97 % of a core."}]}
        for aborted in (None, "hopeless"):
            found = find(self.asked, summary(percentile(900, 800, 950), validity=broken), aborted)
            assert (found.answer, found.reason) == (Answer.INVALID, "Worker w0 used 97 % of a core.")

    def test_a_probe_that_was_ended_on_purpose_is_missed_though_not_complete(self) -> None:
        cut = {"valid": False, "reasons": [{"rule": "status", "sentence": "The run is aborted."}]}
        found = find(self.asked, summary(percentile(None, text="n/a (3 of 662)"), validity=cut), "hopeless after 4 s")
        assert (found.answer, found.reason) == (Answer.MISSED, "hopeless after 4 s")
        assert find(self.asked, summary(percentile(400, 380, 470), validity=cut), None).answer is Answer.INVALID

    def test_a_rate_that_is_not_kept_up_does_not_hold_however_fast_the_answers(self) -> None:
        asked = question("ttft_p99=500ms", by_rate=True)
        behind = {"loop": "open", "offered_per_s": 100.0, "achieved_per_s": 90.0}
        found = find(asked, summary(percentile(400, 380, 470), load=behind), None)
        assert found.answer is Answer.MISSED
        assert "a backlog grew" in found.reason
        kept = {**behind, "achieved_per_s": 99.5}
        assert find(asked, summary(percentile(400, 380, 470), load=kept), None).answer is Answer.MET


def test_goodput_bounds_each_conversation() -> None:
    asked = parse_all(
        ["ttft_p99=500ms", "ttft_p50<100ms", "token_p99=100ms", "stop_p99=300ms", "errors=1%", "lag_p99=5ms", "connect_p99=1s"]
    )
    assert [str(one) for one in limits_of(asked)] == ["ttft < 100ms", "tpot <= 100ms", "stop_latency <= 300ms"]
    load = with_objectives(LOAD, asked)
    assert load.slo == ("ttft < 100ms", "tpot <= 100ms", "stop_latency <= 300ms")
    assert "--slo=ttft < 100ms,tpot <= 100ms,stop_latency <= 300ms" in load.options()
    # What the load states itself stands.
    own = dataclasses.replace(LOAD, slo=("e2e <= 1s",))
    assert with_objectives(own, asked).slo == own.slo
