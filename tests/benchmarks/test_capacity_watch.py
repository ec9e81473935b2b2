"""When a probe is ended early: by made-up seconds of a run, healthy, hopeless, and in between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.capacity_watch import COUNTS, Watch
from loadtest.histogram import Histogram
from loadtest.objectives import parse_all
from loadtest.raw_file import RawWriter
from loadtest.tables import COUNTERS

MS = 10**6


def watch(*objectives: str, users: int = 10, by_rate: bool = False, measured_s: float = 20.0) -> Watch:
    return Watch(Path("nowhere"), parse_all(objectives), users, warm_up_s=2.0, measured_s=measured_s, by_rate=by_rate)


def interval(second: int, users: int | None = 10, **counts: int) -> dict[str, list[Any]]:
    return {"worker": ["w0"], "second": [second], "users": [users], **{name: [counts.get(name, 0)] for name in COUNTS}}


def tokens(second: int, values_ms: Sequence[float], metric: str = "token_latency", tainted: bool = False) -> dict[str, list[Any]]:
    histogram = Histogram()
    histogram.record([round(value * MS) for value in values_ms])
    index, count = histogram.encode()
    return {
        "worker": ["w0"], "second": [second], "metric": [metric], "tainted": [tainted], "index": [index], "count": [count],
        "total": [histogram.total], "minimum": [histogram.minimum], "maximum": [histogram.maximum],
    }  # fmt: skip


def live(one: Watch, seconds: int, late_share: float, a_second: int = 1000, **counts: int) -> list[str | None]:
    """What it says at the end of each of some seconds of a run."""
    said = []
    for second in range(seconds):
        late = round(a_second * late_share)
        one.take("histograms", tokens(second, [200.0] * late + [20.0] * (a_second - late)))
        one.take("intervals", interval(second, **counts))
        said.append(one.judge())
    return said


def test_a_healthy_probe_goes_on() -> None:
    assert set(live(watch("token_p99=100ms"), 25, 0.005)) == {None}


def test_one_at_the_edge_goes_on_to_its_end() -> None:
    # Three in two hundred are late: missed in the end perhaps, hopeless not.
    assert set(live(watch("token_p99=100ms"), 22, 0.015)) == {None}


def test_a_hopeless_one_is_ended_as_soon_as_the_whole_probe_could_not_make_it_good() -> None:
    said = live(watch("token_p99=100ms"), 25, 0.5)
    # All users are there in second 0 and warm until the end of second 2; half of 1 000 tokens a second are late, 200 of 20 000 allowed.
    at = next(second for second, reason in enumerate(said) if reason)
    assert at == 6
    reason = said[at]
    assert reason is not None
    assert reason.startswith("token_latency_p99 <= 100ms: hopeless after 4 s: 2\u202f000 of 4\u202f000 values were beyond the bound")


def test_what_is_late_in_the_warm_up_does_not_count() -> None:
    one = watch("token_p99=100ms")
    for second in range(3):
        one.take("histograms", tokens(second, [500.0] * 1000))
        one.take("intervals", interval(second))
    for second in range(3, 25):
        one.take("histograms", tokens(second, [20.0] * 1000))
        one.take("intervals", interval(second))
        assert one.judge() is None


def test_nothing_is_judged_before_all_users_are_there() -> None:
    one = watch("token_p99=100ms", users=20)
    assert set(live(one, 25, 0.9)) == {None}


def test_tainted_values_are_not_the_targets() -> None:
    one = watch("token_p99=100ms")
    for second in range(25):
        one.take("histograms", tokens(second, [500.0] * 1000, tainted=True))
        one.take("intervals", interval(second))
        assert one.judge() is None


def test_a_looser_percentile_is_hopeless_later() -> None:
    p99, p50 = (live(watch(f"token_{p}=100ms"), 25, 0.9) for p in ("p99", "p50"))
    first = [next((second for second, reason in enumerate(said) if reason), None) for said in (p99, p50)]
    assert first[0] is not None
    assert first[1] is None or first[1] > first[0]


def test_conversations_are_judged_by_their_rows() -> None:
    one = watch("ttft_p90=100ms")
    said = []
    for second in range(12):
        rows = {"sent_at_ns": [second * 10**9 + 5] * 50, "ttft_ns": [900 * MS] * 40 + [None] * 10, "tainted": [False] * 50}
        one.take("conversations", rows)
        one.take("intervals", interval(second))
        said.append(one.judge())
    reason = next(reason for reason in said if reason)
    assert "ttft_p90 <= 100ms: hopeless" in reason


def test_too_many_errors_end_it() -> None:
    one = watch("errors=1%")
    said = [reason for reason in live(one, 25, 0.0, conversations_failed=30, conversations_completed=70) if reason]
    assert "errors <= 1%: hopeless" in said[0]
    assert "failed" in said[0]


@pytest.mark.parametrize(("started", "ended"), [(100, False), (97, False), (70, True)])
def test_a_growing_backlog_is_over_saturation_in_an_open_loop(started: int, ended: bool) -> None:
    one = watch("ttft_p99=10s", by_rate=True)
    said = live(one, 25, 0.0, arrivals_due=100, conversations_started=started)
    assert any(said) is ended
    if ended:
        reason = next(reason for reason in said if reason)
        assert reason.startswith("Over-saturated: 500 conversations fell due in 5 s, and the backlog grew all the while, by 150")
    assert not any(live(watch("ttft_p99=10s"), 25, 0.0, arrivals_due=100, conversations_started=started))


def test_it_reads_what_the_generator_appends(tmp_path: Path) -> None:
    one = Watch(tmp_path, parse_all(["token_p99=100ms"]), 10, 2.0, 20.0)
    assert one.look() is None
    writer = RawWriter(tmp_path, "w0")
    said = []
    for second in range(10):
        row = {name: [0] for name in COUNTERS} | {"worker": ["w0"], "second": [second]}
        writer.append("intervals", {**row, "users": [10], "opening": [0], "open": [10], "streaming": [9]})
        writer.append("histograms", tokens(second, [300.0] * 500))
        said.append(one.look())
    writer.end()
    assert any(said)
