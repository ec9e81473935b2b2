"""What objectives may say, and the sentence each mistake is answered with."""

from __future__ import annotations

import pytest

from loadtest.objectives import SCALARS, Objective, ObjectiveError, parse, parse_all, parse_limit, parse_limits


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ttft_p99=500ms", Objective("ttft", "p99", "<=", 500e6, "ns")),
        ("token_p99=100ms", Objective("token_latency", "p99", "<=", 100e6, "ns")),
        ("stop_p99 = 300 ms", Objective("stop_latency", "p99", "<=", 300e6, "ns")),
        ("itl_p50<20ms", Objective("itl", "p50", "<", 20e6, "ns")),
        ("itl_p99.9<=.2s", Objective("itl", "p99.9", "<=", 2e8, "ns")),
        ("itl_p999<=200us", Objective("itl", "p99.9", "<=", 2e5, "ns")),
        ("ttft_due_p95<1s", Objective("ttft_due", "p95", "<", 1e9, "ns")),
        ("connect_max<1500µs", Objective("connect_time", "max", "<", 1.5e6, "ns")),
        ("tpot_mean<50ms", Objective("tpot", "mean", "<", 50e6, "ns")),
        ("TOKEN_LATENCY_med < 7ns", Objective("token_latency", "p50", "<", 7, "ns")),
        ("overrun_p99<=1", Objective("overrun_tokens", "p99", "<=", 1, "1")),
        ("errors=0.1%", Objective("errors", "", "<=", 0.001, "share")),
        ("errors < 0.1%", Objective("errors", "", "<", 0.001, "share")),
        ("errors<0.001", Objective("errors", "", "<", 0.001, "share")),
        ("goodput>=95%", Objective("goodput", "", ">=", 0.95, "share")),
        ("goodput=95%", Objective("goodput", "", ">=", 0.95, "share")),
        ("goodput>20/s", Objective("goodput_rate", "", ">", 20, "1/s")),
        ("tokens_per_s>=10000", Objective("throughput_tokens", "", ">=", 10000, "1/s")),
    ],
)
def test_an_objective_is_read_and_its_text_reads_back(text: str, expected: Objective) -> None:
    found = parse(text)
    assert found == expected
    assert parse(str(found)) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected an objective such as"),
        ("ttft_p99", "expected an objective such as"),
        ("ttft_p99=-5ms", "expected an objective such as"),
        ("ttft_p99=5", "expected a time with one of the units ns, us, ms, s"),
        ("ttft_p99=5m", "expected a time with one of the units"),
        ("ttft_p98=5ms", "expected one of p50, p90, p95, p99, p99.9, mean, min, max behind ttft_"),
        ("ttft=5ms", "expected ttft with one of p50"),
        ("tttf_p99=5ms", "did you mean ttft?"),
        ("eror<1%", "did you mean error"),
        ("errors<5", "a share in per cent ends with %"),
        ("errors<500%", "a share of at most 100%"),
        ("errors<5ms", "expected a share"),
        ("errors_p99<5%", "expected errors without p99"),
        ("errors>5%", "expected an upper bound (<=), for errors is better when lower"),
        ("goodput<5%", "expected a lower bound (>=), for goodput is better when higher"),
        ("overrun_p99<5ms", "a plain number"),
        ("tokens_per_s>5ms", "a number a second"),
    ],
)
def test_a_wrong_objective_is_answered_in_one_sentence(text: str, says: str) -> None:
    with pytest.raises(ObjectiveError, match=r".") as caught:
        parse(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_stand_in_one_text_or_many_and_none_twice() -> None:
    assert [one.name for one in parse_all(["ttft_p99=1s,errors<1%", "token_p50<=1ms"])] == ["ttft_p99", "errors", "token_latency_p50"]
    with pytest.raises(ObjectiveError, match="found a second one"):
        parse_all(["token_p99<1ms", "token_latency_p99<2ms"])


def test_a_limit_bounds_one_conversation() -> None:
    assert parse_limit("ttft=500ms") == Objective("ttft", "", "<=", 500e6, "ns")
    assert [one.metric for one in parse_limits(["stop<300ms,tpot=50ms"])] == ["stop_latency", "tpot"]
    assert parse_limit(str(parse_limit("tpot<0.3us"))) == parse_limit("tpot<0.3us")
    for text, says in (("ttft_p99=1s", "has none"), ("itl=1s", "found itl"), ("errors=1%", "found errors"), ("ttft>1s", "upper bound")):
        with pytest.raises(ObjectiveError) as caught:
            parse_limit(text)
        assert says in str(caught.value)


def test_comparisons_at_the_bound() -> None:
    assert not parse("ttft_p99<5ms").met_by(5e6)
    assert parse("ttft_p99<=5ms").met_by(5e6)
    assert not parse("goodput>95%").met_by(0.95)
    assert parse("goodput>=95%").met_by(0.95)


def test_every_scalar_can_be_asked_for() -> None:
    for name, (unit, better, _) in SCALARS.items():
        assert parse(f"{name}={ {'share': '5%', '1': '0.5', '1/s': '5/s'}[unit] }").upper == (better == "lower")
