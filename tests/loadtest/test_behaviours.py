"""Users that misbehave on purpose, by real Locust processes against the reference server; and who of them does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.population import role_of
from reports.summary import summarise
from tests.loadtest.locust_run import LocustRun, assert_plain, server_counts

Start = Callable[..., LocustRun]
QUICK = ("--spawn-rate", "100", "--warm-up", "0")


@pytest.fixture(scope="module")
def runs(serve: Callable[..., Any], start_locust: Start) -> dict[str, LocustRun]:
    quiet = serve("--ack-timeout", "0.4")
    options: dict[str, tuple[str, ...]] = {
        "withheld": ("-H", quiet.url, "-u", "8", "-t", "3s", "--tokens", "10", "--gap-ms", "10", "--withhold-share", "0.25",
                     "--withhold-after", "3"),
        "never": ("-H", serve("--ack-timeout", "0.4").url, "-u", "4", "-t", "3s", "--tokens", "10", "--gap-ms", "10", "--window", "4",
                  "--withhold-share", "1"),
        "slow": ("-H", serve().url, "-u", "4", "-t", "3s", "--tokens", "400", "--gap-ms", "2", "--window", "0", "--slow-share", "0.25",
                 "--slow-rate", "1000", "--server-query", "token_bytes=100", "--stop-timeout", "1"),
    }  # fmt: skip
    started = {name: start_locust(*QUICK, *those) for name, those in options.items()}
    codes = {name: run.wait() for name, run in started.items()}
    assert codes == dict.fromkeys(started, 0), {name: started[name].log for name, code in codes.items() if code}
    return started


@pytest.fixture(scope="module")
def churn(serve: Callable[..., Any], start_locust: Start, runs: dict[str, LocustRun]) -> tuple[LocustRun, int]:
    """The run, and how many connections of this machine ended in TIME_WAIT meanwhile: after all the others, for they would be counted."""
    waited = ended_with_a_wait()
    run = start_locust(
        *QUICK, "-H", serve().url, "-u", "6", "-t", "2s", "--tokens", "2", "--gap-ms", "1", "--conversations-per-connection", "1",
        "--connect-rate", "100000",
    )  # fmt: skip
    assert run.wait() == 0, run.log
    return run, ended_with_a_wait() - waited


@pytest.mark.parametrize("name", ["withheld", "never", "slow"])
def test_every_conversation_is_accounted_for(runs: dict[str, LocustRun], name: str) -> None:
    assert runs[name].check_accounts()
    assert_plain(runs[name].log)


def test_a_share_of_the_users_stops_to_acknowledge_and_the_server_ends_their_answers(runs: dict[str, LocustRun]) -> None:
    run = runs["withheld"]
    rows = run.check_accounts()
    withheld = [row for row in rows if row["taint"] == "withheld"]
    assert withheld
    # Two of the eight users.
    assert len({row["connection"] for row in withheld}) == 2
    # Three tokens are acknowledged, the fourth is not: the window of one is shut, and the server's patience ends the answer.
    assert {(row["tokens"], row["outcome"]) for row in withheld if row["outcome"] != "abandoned"} == {(4, "completed")}
    waits = [row["end_at_ns"] - row["last_token_at_ns"] for row in withheld if row["end_at_ns"] is not None]
    assert min(waits) > 350_000_000
    counted = server_counts(run)
    assert counted['streamgauge_answers_total{outcome="ack_timeout"}'] == len(waits)
    assert counted["streamgauge_acks_total"] + counted["streamgauge_stale_acks_total"] == run.total("acks_sent")


def test_a_window_is_filled_when_nothing_is_acknowledged_at_all(runs: dict[str, LocustRun]) -> None:
    rows = runs["never"].check_accounts()
    assert {row["tokens"] for row in rows if row["outcome"] == "completed"} == {4}
    assert runs["never"].total("acks_sent") == 0


def test_what_misbehaves_is_no_figure_of_the_target(runs: dict[str, LocustRun]) -> None:
    summary = summarise(runs["withheld"].path)
    told = summary["behaviours"]["withheld"]
    assert told["conversations"] == summary["counts"]["conversations"]["set_apart"] > 0
    assert 350e6 < told["silence_ns"] < 2e9
    rows = runs["withheld"].rows("conversations")
    ordinary = [row for row in rows if row["taint"] is None and row["outcome"] == "completed"]
    assert summary["metrics"]["e2e"]["n"] <= len(ordinary)
    # The patience of the server is in nobody's gap.
    assert summary["metrics"]["e2e"]["max"] == max(
        row["e2e_ns"] for row in ordinary if row["sent_at_ns"] < summary["window"]["steady_end_s"] * 1e9
    )
    assert "tainted" not in {reason["rule"] for reason in summary["validity"]["reasons"]}


def test_a_slow_reader_is_sent_no_more_than_it_reads(runs: dict[str, LocustRun]) -> None:
    run = runs["slow"]
    rows = run.check_accounts()
    slow = [row for row in rows if row["taint"] == "slow_reader"]
    assert len({row["connection"] for row in slow}) == 1
    # A thousand bytes a second for the time of the run and its drain.
    assert 500 < sum(row["received_bytes"] for row in slow) < 8_000
    others = [row for row in rows if row["taint"] is None]
    assert others
    assert min(row["received_bytes"] for row in others if row["outcome"] == "completed") >= 400 * 100
    # Its lateness is not the generator's.
    assert max(row["receive_lag_max_ns"] or 0 for row in run.rows("intervals")) < max(row["receive_lag_max_ns"] for row in slow)
    assert Counter(row["outcome"] for row in run.rows("connections")) == {"clean": 4}


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the kernel tells no table of connections here")
def test_churn_leaves_the_ports_with_the_server(churn: tuple[LocustRun, int]) -> None:
    run, waits = churn
    assert run.check_accounts()
    assert_plain(run.log)
    connections = run.rows("connections")
    assert len(connections) > 20
    assert {row["conversations"] for row in connections} <= {0, 1}
    assert {row["outcome"] for row in connections} == {"clean"}
    port = int(run.metadata["target"]["url"].rpartition(":")[2].partition("/")[0])
    # Whether conversations, the probe before them, or the readings of the server's own counters: all are ended by the server first.
    assert set(side_of_time_wait(port)) == {"server"}
    # One whose port another has taken since is in no table any more (some fifty of three thousand); the kernel has counted it.
    assert waits > len(connections)


def ended_with_a_wait() -> int:
    """How many connections of this machine have come to TIME_WAIT so far; 0 where the kernel does not say."""
    told = Path("/proc/net/netstat")
    if not told.exists():
        return 0
    names, values = (line.split() for line in told.read_text(encoding="ascii").splitlines()[:2])
    return int(values[names.index("TW")])


def side_of_time_wait(port: int) -> list[str]:
    """Which side each connection with ``port`` waits on after its end."""
    sides = []
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        local, remote, state = line.split()[1:4]
        if state == "06":
            sides += ["server"] if local.endswith(f":{port:04X}") else ["client"] if remote.endswith(f":{port:04X}") else []
    return sides


@given(st.integers(1, 400), st.lists(st.integers(0, 33), min_size=1, max_size=3))
def test_roles_are_spread_as_asked(users: int, percents: list[int]) -> None:
    shares = tuple((str(number), percent / 100) for number, percent in enumerate(percents))
    roles = Counter(role_of(user, shares) for user in range(users))
    for role, share in shares:
        assert abs(roles[role] - users * share) <= len(shares)
    hundreds = Counter(role_of(user, shares) for user in range(100 * (users % 3 + 1)))
    assert all(hundreds[role] == pytest.approx(100 * (users % 3 + 1) * share, abs=1.01) for role, share in shares)
