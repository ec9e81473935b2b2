"""Locust users by real Locust processes against the reference server: loops, stops, reconnects, populations."""

from __future__ import annotations

import signal
import socket
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.loadtest.hostile import HostileServer, Peer, text
from tests.loadtest.locust_run import LocustRun, assert_plain, check_stops, server_counts, wait_until

MS = 1_000_000
QUICK = ("--spawn-rate", "100", "--warm-up", "0")
Start = Callable[..., LocustRun]


@pytest.fixture(scope="module")
def runs(serve: Callable[..., Any], start_locust: Start) -> dict[str, LocustRun]:
    """Several runs side by side; each that compares counters has a server of its own."""
    shared = serve()
    options: dict[str, tuple[str, ...]] = {
        "closed": (
            "-H", serve().url, "-u", "6", "-t", "2s", "--tokens", "5", "--gap-ms", "10", "--think-time", "0.05",
            "--conversations-per-connection", "3", "--stop-share", "0.5", "--stop-after-tokens", "1-3",
        ),
        "idle": (
            "-H", shared.url, "-u", "8", "-t", "3s", "--tokens", "100", "--gap-ms", "10", "--idle-share", "0.5", "--stop-share", "1",
            "--stop-after-ms", "20-40",
        ),
        "unacknowledged": ("-H", serve().url, "-u", "3", "-t", "2s", "--tokens", "20", "--gap-ms", "2", "--window", "0"),
        "eight": ("-H", serve().url, "-u", "3", "-t", "2s", "--tokens", "20", "--gap-ms", "2", "--window", "8", "--fresh-masks"),
        # One in 64 ms: none is due at a whole second, at which the run ends.
        "even": ("-H", serve().url, "-u", "8", "-t", "2s", "--tokens", "3", "--gap-ms", "5", "--loop", "open", "--rate", "15.625"),
        "late": ("-H", shared.url, "-u", "1", "-t", "2s", "--tokens", "5", "--gap-ms", "50", "--loop", "open", "--rate", "20"),
        "drop": (
            "-H", shared.url, "-u", "1", "-t", "2s", "--tokens", "5", "--gap-ms", "50", "--loop", "open", "--rate", "20",
            "--when-full", "drop",
        ),
        "poisson": ("-H", shared.url, "-u", "8", "-t", "2s", "--tokens", "2", "--gap-ms", "5", "--loop", "open", "--rate", "40",
            "--arrivals", "poisson"),
    }  # fmt: skip
    started: dict[str, LocustRun] = {}
    codes: dict[str, int] = {}
    # Side by side, but not so many that they stand in each other's way.
    for names in (("closed", "idle", "even", "late"), ("unacknowledged", "eight", "drop", "poisson")):
        started |= {name: start_locust(*QUICK, *options[name]) for name in names}
        codes |= {name: started[name].wait() for name in names}
    assert codes == dict.fromkeys(started, 0), {name: started[name].log for name, code in codes.items() if code}
    return started


@pytest.mark.parametrize("name", ["closed", "idle", "unacknowledged", "eight", "even", "late", "drop", "poisson"])
def test_every_conversation_is_accounted_for(runs: dict[str, LocustRun], name: str) -> None:
    run = runs[name]
    assert run.metadata["status"] == "complete"
    assert run.metadata["status_reasons"] == []
    rows = run.check_accounts()
    assert rows
    assert {row["outcome"] for row in rows} <= {"completed", "stopped"}, Counter((row["outcome"], row["error"]) for row in rows)
    assert not (run.path / "raw").exists()
    assert_plain(run.log)


@pytest.mark.parametrize("name", ["closed", "unacknowledged", "eight", "even"])
def test_the_server_counted_the_same(runs: dict[str, LocustRun], name: str) -> None:
    run = runs[name]
    rows = run.check_accounts()
    counted = server_counts(run)
    assert counted["streamgauge_prompts_total"] == len(rows)
    assert counted["streamgauge_connections_accepted_total"] == len(run.rows("connections"))
    assert counted["streamgauge_tokens_total"] == sum(row["tokens"] for row in rows)
    check_stops(run, rows)
    assert counted["streamgauge_acks_total"] + counted["streamgauge_stale_acks_total"] == run.total("acks_sent")


def test_a_closed_loop_thinks_and_reconnects_as_told(runs: dict[str, LocustRun]) -> None:
    run = runs["closed"]
    rows = run.rows("conversations")
    by_connection: dict[int, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["sent_at_ns"]):
        by_connection.setdefault(row["connection"], []).append(row)
    pauses = [after["sent_at_ns"] - before["end_at_ns"] for held in by_connection.values() for before, after in pairwise(held)]
    # Timers count from the start of the loop's turn, which may be a few milliseconds ago.
    assert min(pauses) >= 30 * MS
    held = sorted(row["conversations"] for row in run.rows("connections"))
    assert held[-1] == 3
    # The last connection of each of the six users may have been cut short.
    assert sum(count < 3 for count in held) <= 6
    # Planned reconnects are none.
    assert run.total("reconnects") == 0
    assert all(row["due_at_ns"] is None and row["ttft_due_ns"] is None and row["send_delay_ns"] is None for row in rows)


def test_stops_come_after_the_tokens_asked_for(runs: dict[str, LocustRun]) -> None:
    rows = runs["closed"].rows("conversations")
    stopped = [row for row in rows if row["outcome"] == "stopped"]
    assert 0.2 < len(stopped) / len(rows) < 0.8
    for row in stopped:
        before = row["tokens"] - row["overrun_tokens"]
        # A stop waits for a part of the gap after its token: on a busy machine the next one may come first.
        assert 1 <= before <= 5
        assert row["stop_latency_ns"] > 0
    assert all(row["stop_sent_at_ns"] is None or row["stop_crossed"] for row in rows if row["outcome"] == "completed")


def test_stops_by_time_and_idle_holders(runs: dict[str, LocustRun]) -> None:
    run = runs["idle"]
    rows = run.rows("conversations")
    assert {row["outcome"] for row in rows} == {"stopped"}
    assert min(row["stop_sent_at_ns"] - row["sent_at_ns"] for row in rows) >= 10 * MS
    held = [row["conversations"] for row in run.rows("connections")]
    assert len(held) == 8
    assert held.count(0) == 4
    assert max(row["open"] or 0 for row in run.rows("intervals")) == 8


def test_windows(runs: dict[str, LocustRun]) -> None:
    for name, window in (("unacknowledged", 0), ("eight", 8)):
        run = runs[name]
        rows = run.rows("conversations")
        assert {row["window"] for row in rows} == {window}
        assert {row["tokens"] for row in rows} == {20}
        assert run.total("acks_sent") == (20 * len(rows) if window else 0)
        assert run.metadata["load"]["window"] == window


def test_an_open_loop_is_due_at_even_instants(runs: dict[str, LocustRun]) -> None:
    run = runs["even"]
    rows = sorted(run.rows("conversations"), key=lambda row: row["due_at_ns"])
    gaps = {after["due_at_ns"] - before["due_at_ns"] for before, after in pairwise(rows)}
    assert gaps == {64 * MS}
    assert run.total("arrivals_due") == len(rows)
    assert run.total("arrivals_dropped") == 0
    for row in rows:
        assert row["send_delay_ns"] == row["sent_at_ns"] - row["due_at_ns"] >= 0
        assert row["ttft_due_ns"] == row["first_token_at_ns"] - row["due_at_ns"] >= row["ttft_ns"]
    assert 10 <= len(rows) <= 42


@pytest.mark.parametrize("name", ["even", "late", "drop", "poisson"])
def test_no_arrival_is_forgotten(runs: dict[str, LocustRun], name: str) -> None:
    run = runs[name]
    rows = run.rows("conversations")
    assert run.total("arrivals_due") == len(rows) + run.total("arrivals_dropped")
    assert len({row["due_at_ns"] for row in rows}) == len(rows)


def test_an_arrival_that_finds_no_user_is_late_or_dropped(runs: dict[str, LocustRun]) -> None:
    late, dropped = runs["late"], runs["drop"]
    waits = [row["send_delay_ns"] for row in sorted(late.rows("conversations"), key=lambda row: row["due_at_ns"])]
    # Four times more come than one user can serve: each waits longer than the one before.
    assert waits == sorted(waits)
    assert waits[-1] > 200 * MS
    assert late.total("arrivals_dropped") > 0  # those still waiting at the end
    assert dropped.total("arrivals_dropped") > len(dropped.rows("conversations"))
    # What is not dropped found a user waiting: none of them stood in a line.
    assert max(row["send_delay_ns"] for row in dropped.rows("conversations")) < 500 * MS


def test_prompts_and_people(start_locust: Start, tmp_path: Path) -> None:
    heard: list[tuple[str, str | None, str | None, str]] = []

    def answer(peer: Peer) -> None:
        peer.send(peer.upgrade())
        while True:
            opcode, payload = peer.read_frame()
            if opcode == 8:
                return peer.send(b"\x88\x00")
            heard.append((peer.path, peer.headers.get("authorization"), peer.headers.get("x-who"), payload.decode()))
            peer.send(text("a") + text("b") + text("_end_"))

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("first prompt\n\nzweite Frage: ä?\n", encoding="utf-8")
    people = tmp_path / "people.csv"
    with HostileServer(
        {"own": answer, "ws": answer, "metrics": lambda peer: peer.send(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")}
    ) as server:
        people.write_text(f"url,token,header:X-Who\n{server.url('own')},secret-one,one\n,secret-two,two\n,,\n", encoding="utf-8")
        run = start_locust(
            *QUICK, "-H", server.url("ws"), "-u", "3", "-t", "2s", "--think-time", "0.02", "--window", "0", "--prompts", str(prompts),
            "--users-file", str(people), "--header", "X-All: yes",
        )  # fmt: skip
        assert run.wait() == 0
    assert {(path.partition("?")[0], token, who) for path, token, who, _ in heard} == {
        ("/own", "Bearer secret-one", "one"), ("/ws", "Bearer secret-two", "two"), ("/ws", None, None),
    }  # fmt: skip
    assert {prompt for *_, prompt in heard} == {"first prompt", "zweite Frage: ä?"}
    rows = run.check_accounts()
    assert len(rows) == len(heard)
    assert {(row["outcome"], row["tokens"]) for row in rows} == {("completed", 2)}
    # Two tokens and the end in one segment are told apart, and said to have come together.
    assert run.total("coalesced") > 0
    assert not run.metadata["server"]["scraped"]
    assert "secret" not in (run.path / "run.json").read_text() + run.log


def test_users_come_back_after_the_server_did_and_ctrl_c_is_the_end_of_a_run_without_one(
    serve: Callable[..., Any], start_locust: Start
) -> None:
    first = serve()
    run = start_locust(
        *QUICK, "-H", first.url, "-u", "4", "--tokens", "20", "--gap-ms", "20", "--reconnect-backoff", "0.05", "--idle-share", "0.25"
    )
    wait_until(lambda: first.metrics()["streamgauge_tokens_total"] > 20, "tokens of the first server", run)
    first.signal(signal.SIGKILL)
    first.process.wait()
    wait_until(
        lambda: run.has_rows("connections") and any(row["error"] == "refused" for row in run.rows("connections")),
        "a refused connect",
        run,
    )
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", first.port))
    second = serve(port=first.port)
    second.wait_for("streamgauge_connections_open", 4)
    wait_until(lambda: second.metrics()['streamgauge_answers_total{outcome="completed"}'] > 0, "an answer of the second server", run)
    run.interrupt()
    assert run.wait() == 0, run.log
    assert run.metadata["status"] == "complete"
    rows = run.check_accounts()
    assert {row["error"] for row in rows if row["outcome"] == "failed"} == {"connection_lost"}
    assert sum(row["outcome"] == "failed" for row in rows) <= 3
    connections = run.rows("connections")
    refused = [row for row in connections if row["outcome"] == "failed"]
    assert {row["error"] for row in refused} <= {"refused", "reset", "handshake_status"}
    # Four connects, then every further one is a reconnect.
    assert run.total("reconnects") == len(connections) - 4
    assert {row["user"] for row in connections} == {0, 1, 2, 3}
    assert max(row["attempt"] for row in connections) >= 1
    assert_plain(run.log)
