"""Whole runs over HTTP: Locust, the record and its report."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from reports.build import build
from reports.content import _tiles
from reports.slo import judge_objective, parse
from reports.text import count_lines
from tests.loadtest.hostile import HostileServer, Peer
from tests.loadtest.test_event_stream import ANSWER
from tests.loadtest.test_peers import Peer as Program
from tests.loadtest.test_peers import fastapi_peer as started_peer

fastapi_peer = started_peer
REFUSAL = b"HTTP/1.1 503 Overloaded\r\nContent-Length: 4\r\n\r\nbusy"


@pytest.fixture
def overloaded() -> Iterator[HostileServer]:
    """Answers the first request, and refuses all others on connections that it keeps."""
    number = itertools.count()

    def act(peer: Peer) -> None:
        while True:
            peer.send(ANSWER if next(number) == 0 else REFUSAL)
            peer.request = b""
            peer.read_request()

    with HostileServer({"chat": act}) as running:
        yield running


def test_a_run_against_openai_completions(fastapi_peer: Program, start_locust: Callable[..., Any]) -> None:
    url = f"http://127.0.0.1:{fastapi_peer.port}/v1/chat/completions"
    run = start_locust(
        "--host", url, "--adapter", "openai-chat", "-u", "3", "-r", "3", "-t", "4s", "--stop-share", "0.3", "--warm-up", "0.5"
    )
    assert run.wait() == 0, run.log
    rows = run.check_accounts()
    completed = [row for row in rows if row["outcome"] == "completed"]
    assert completed
    # The usage says twice as many tokens as there were messages, and the intervals add up to the same.
    assert all((row["tokens"], row["messages"]) == (20, 10) for row in completed)
    metadata = run.metadata
    assert (metadata["target"]["adapter"], metadata["target"]["transport"]) == ("openai-chat", "http")
    assert metadata["load"]["window"] == 0
    summary = build(run.path, charts=False)
    assert "inter_chunk" in summary["metrics"]
    stops = sum(row["outcome"] == "stopped" for row in rows)
    found = {finding["finding"] for finding in summary["validity"]["findings"]}
    assert ("stopped_by_closing" in found) == bool(summary["stop"]["by_closing"])
    assert summary["stop"]["overrun_tokens_mean"] is None or not stops
    if summary["stop"]["by_closing"]:
        assert "not measurable" in "\n".join(count_lines(summary))
        assert judge_objective(parse("stop_p99=1s"), summary).reason.startswith("not measurable")
        assert any(tile["value"] == "not measurable" for tile in _tiles(summary))
    assert not {"not_accounted", "closed_abnormal", "ghost_tokens"} & found


def test_a_wrong_path_costs_one_sentence(fastapi_peer: Program, start_locust: Callable[..., Any]) -> None:
    url = f"http://127.0.0.1:{fastapi_peer.port}/v2/chat"
    run = start_locust("--host", url, "--adapter", "openai-chat", "-u", "1", "-t", "2s")
    assert run.wait() == 2
    assert "got server_error (HTTP 404 Not Found" in run.log
    assert not run.path.exists()


def test_a_url_that_the_adapter_does_not_speak(start_locust: Callable[..., Any]) -> None:
    run = start_locust("--host", "ws://127.0.0.1:1/", "--adapter", "openai-chat", "-u", "1", "-t", "2s")
    assert run.wait() == 2
    assert "which the adapter openai-chat speaks, got 'ws://127.0.0.1:1/'; try http://127.0.0.1:1/" in run.log


def test_who_is_refused_waits_before_asking_again(overloaded: HostileServer, start_locust: Callable[..., Any]) -> None:
    run = start_locust(
        "--host",
        overloaded.url("chat", "http"),
        "--adapter",
        "sse",
        "-u",
        "1",
        "-r",
        "1",
        "-t",
        "3s",
        "--reconnect-backoff",
        "0.5",
        "--no-scrape",
    )
    run.wait()
    rows = run.rows("conversations")
    assert {(row["outcome"], row["error"]) for row in rows} == {("failed", "server_error")}
    assert 1 <= len(rows) <= 8
    assert len(run.rows("connections")) <= 2
