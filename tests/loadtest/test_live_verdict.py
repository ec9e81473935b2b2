"""The verdict as it stands: its limits are the report's, and each rule breaks where it should."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest import live_verdict
from loadtest.live_history import History
from loadtest.live_verdict import RULES, Standing, judge
from reports import validity
from tests.loadtest.test_live_history import encoded, report


def standing(history: History, **changes: Any) -> Standing:
    given: dict[str, Any] = {"errors": {}, "lost": [], "name_of": str, "acknowledged": True, "stamped": True, **changes}
    return Standing(history, **given)


def run(counts: dict[str, int] | None = None, process: dict[str, int] | None = None, **values: int) -> History:
    history = History()
    history.begin("run")
    one = report(0, **{name: encoded(*[value] * 700) for name, value in values.items()})
    one["counts"] |= {"tokens": 1000, "messages": 1000, "coalesced": 0, "conversations_completed": 10} | (counts or {})
    one["process"] |= process or {}
    history.take("w7", one)
    return history


HEALTHY = {"itl": 20_000_000, "receive_lag": 50_000, "tpot": 20_000_000, "ttft": 20_000_000}


def broken(standing_: Standing) -> list[str]:
    return [rule["rule"] for rule in judge(standing_)["rules"] if rule["state"] == "broken"]


def test_limits_and_names_are_the_reports() -> None:
    for name in ("LAG_SHARE_LIMIT", "CPU_LIMIT", "TAINTED_LIMIT", "COALESCED_SHARE", "CLOCK_STEP_SHARE", "CLAMPED_LIMIT"):
        assert getattr(live_verdict, name) == getattr(validity, name), name
    titles = {rule.name: rule.title for rule in validity.RULES}
    assert set(RULES) <= set(titles)
    assert {name: title for name, (title, _, _) in RULES.items() if name != "workers"} == {n: titles[n] for n in RULES if n != "workers"}


def test_a_healthy_run_is_valid_so_far() -> None:
    verdict = judge(standing(run(**HEALTHY)))
    assert verdict["valid"]
    assert {rule["state"] for rule in verdict["rules"]} == {"holds"}


def test_nothing_is_judged_of_nothing() -> None:
    history = History()
    history.begin("run")
    verdict = judge(standing(history))
    assert verdict["valid"]
    assert verdict["warming_up"]
    assert {rule["rule"] for rule in verdict["rules"] if rule["state"] == "not judged yet"} >= {"receive_lag", "generator_cpu", "tainted"}


@pytest.mark.parametrize(
    ("rule", "history", "changes"),
    [
        ("receive_lag", run(**HEALTHY | {"receive_lag": 11_000_000}), {}),
        ("generator_cpu", run(process={"cpu_ns": 950_000_000}, **HEALTHY), {}),
        ("tainted", run({"conversations_tainted": 3}, **HEALTHY), {}),
        ("coalesced", run({"coalesced": 200}, **HEALTHY | {"tpot": 10_000, "itl": 200_000}), {}),
        ("clock", run(process={"clock_step_ns": -3_000_000}, **HEALTHY), {}),
        ("clamped", run({"clamped": 1}, **HEALTHY), {}),
        ("generator_limit", run(**HEALTHY), {"errors": {"generator_limit": 2}}),
        ("workers", run(**HEALTHY), {"lost": ["Worker w1"]}),
    ],
)
def test_each_rule_can_break_alone(rule: str, history: History, changes: dict[str, Any]) -> None:
    found = standing(history, **changes)
    assert broken(found) == [rule]
    assert not judge(found)["valid"]
    (sentence,) = [one["sentence"] for one in judge(found)["rules"] if one["rule"] == rule]
    assert sentence.endswith(".")


def test_lag_enters_no_figure_where_nothing_is_acknowledged_and_arrivals_are_stamped() -> None:
    late = run(**HEALTHY | {"receive_lag": 11_000_000})
    assert broken(standing(late, acknowledged=False)) == []
    assert broken(standing(late, acknowledged=False, stamped=False)) == ["receive_lag"]
