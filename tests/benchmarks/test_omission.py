"""Coordinated omission with real processes: a server that is stopped, and a generator that is stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accounting import account
from benchmarks.experiment import Experiment
from benchmarks.omission import (
    RATE,
    SMALL_POOL,
    STREAMS,
    Claim,
    Stopped,
    count_waiting,
    expected_waiting,
    judge_generator,
    judge_waiting,
    long_streams,
    open_load,
    stop_generator,
    stop_server,
)
from benchmarks.processes import Interrupted, Interrupts, Processes
from benchmarks.reading import Reading
from loadtest.calibration_record import keep_calibration
from loadtest.conversation import Conversation
from loadtest.environment import describe_machine
from loadtest.recorder import Recorder, Stall
from loadtest.run_directory import RunDirectory

MS = 1_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("omission")


@pytest.fixture(scope="module")
def experiment(folder: Path) -> Iterator[Experiment]:
    with Interrupts() as interrupts, Processes() as processes:
        yield Experiment(folder, processes, interrupts)


@pytest.fixture(scope="module")
def server_stopped(experiment: Experiment, folder: Path) -> tuple[Reading, float]:
    runs = folder / "runs"
    keep_calibration(runs, describe_machine(), {"passed": True, "ended_utc": "2026-01-01T00:00:00Z", "figures": []})
    server = experiment.start_reference("--history", str(folder / "history.txt"))
    options = (*open_load(SMALL_POOL), "--runs-folder", str(runs))
    found = stop_server(experiment, server, "server_stopped", options, 5.0)
    experiment.stop_server(server)
    return found


@pytest.fixture(scope="module")
def generator_stopped(experiment: Experiment, folder: Path) -> tuple[Reading, Stopped]:
    server = experiment.start_reference("--history", str(folder / "history2.txt"))
    return stop_generator(experiment, server, "generator_stopped", long_streams(), 5.0)


def test_a_stopped_server_shows_since_due_at_the_right_share_and_not_since_sent(server_stopped: tuple[Reading, float]) -> None:
    reading, stop_s = server_stopped
    waiting = count_waiting("open", reading, stop_s / 2 * 1e9)
    low, high = expected_waiting(SMALL_POOL, stop_s)
    assert stop_s >= 1
    assert waiting.ttft_due is not None
    assert low <= waiting.ttft_due <= high
    assert waiting.ttft <= SMALL_POOL < low
    assert [claim for claim in judge_waiting(waiting, SMALL_POOL, stop_s) if not claim.holds] == []


def test_what_waited_is_in_the_delay_before_sending(server_stopped: tuple[Reading, float]) -> None:
    reading, _ = server_stopped
    rows = reading.conversations
    delays = rows["send_delay_ns"].to_numpy(dtype=np.float64)
    assert np.nanmax(delays) > 500 * MS
    # Since due = the delay before it was sent + since sent, for every single one.
    assert np.allclose((rows["ttft_due_ns"] - rows["ttft_ns"]).dropna(), rows.loc[rows["ttft_ns"].notna(), "send_delay_ns"], atol=10)


def test_a_stopped_server_is_no_fault_of_ours(server_stopped: tuple[Reading, float], folder: Path) -> None:
    reading, _ = server_stopped
    broken = {reason["rule"] for reason in reading.summary["validity"]["reasons"]}
    assert broken & {"seconds", "accounting", "records"} == set()
    assert account(folder / "server_stopped", folder / "history.txt").balanced


def test_what_is_written_for_a_second_is_what_happened_by_its_end(server_stopped: tuple[Reading, float]) -> None:
    reading, _ = server_stopped
    rows = reading.run.intervals
    sent = reading.conversations["sent_at_ns"].to_numpy()
    for second in rows.loc[rows["open"].notna(), "second"].to_list()[:-1]:
        counted = int(rows.loc[rows["second"] <= second, "conversations_started"].sum())
        assert counted >= int((sent < (second + 1) * 10**9).sum())


def test_a_run_says_when_its_machine_was_calibrated(server_stopped: tuple[Reading, float]) -> None:
    carried = server_stopped[0].run.metadata["calibration"]
    assert (carried["passed"], carried["ended_utc"], carried["figures"]) == (True, "2026-01-01T00:00:00Z", 0)


def test_a_stopped_generator_is_seen_and_marked_and_in_no_figure_of_the_target(generator_stopped: tuple[Reading, Stopped]) -> None:
    reading, stopped = generator_stopped
    claims = judge_generator("generator stopped", reading, stopped)
    assert [claim for claim in claims if not claim.holds] == []
    assert {"longest receive lag, ms", "rules that the run breaks", "gap p99, ms"} <= {claim.what for claim in claims}
    assert reading.summary["validity"]["valid"] is False
    assert "tainted" in {reason["rule"] for reason in reading.summary["validity"]["reasons"]}


def test_its_conversations_are_counted_all_the_same(generator_stopped: tuple[Reading, Stopped], folder: Path) -> None:
    reading, _ = generator_stopped
    counts = reading.summary["counts"]["conversations"]
    assert STREAMS / 2 <= counts["tainted"] < counts["rows"] == counts["started"]
    # With them, the longest gap would be the length of our own stall.
    assert reading.read_all_tokens("itl").maximum > 1_500 * MS
    assert reading.read_tokens("itl").maximum < 1_000 * MS
    assert account(folder / "generator_stopped", folder / "history2.txt").balanced


def test_expected_waiting_grows_with_the_stall_and_with_the_load_of_the_pool() -> None:
    assert expected_waiting(10**6, 1.0)[0] == RATE / 2 - 1
    assert expected_waiting(SMALL_POOL, 2.0)[0] > expected_waiting(SMALL_POOL, 1.0)[0]
    most = [expected_waiting(users, 1.0)[1] - users for users in (2, 4, 8)]
    assert most == sorted(most, reverse=True)


def test_a_claim_without_a_limit_can_be_written_as_json() -> None:
    claim = Claim("load", "what", 3, 1, float("inf"), "why")
    assert (claim.holds, claim.range_text) == (True, "at least 1")
    assert json.dumps(claim.as_dict(), allow_nan=False)
    assert Claim("load", "what", 0, 0, 0, "why").range_text == "0"
    assert not Claim("load", "what", float("nan"), 0, 1, "why").holds


@pytest.mark.parametrize(
    ("due", "sent", "tainted"),
    [
        (900, 2_001, True),  # due before the stall, and held up by it
        (1_500, 2_010, True),  # due in the stall, sent when it was over
        (2_000, 2_010, False),  # due when it was over
        (900, 950, False),  # long gone
    ],
)
def test_what_fell_due_in_a_stall_of_ours_is_tainted_although_it_started_after_it(
    tmp_path: Path, due: int, sent: int, tainted: bool
) -> None:
    writer = RunDirectory.create(tmp_path / "r", {"name": "r"}).writer("w0")
    recorder = Recorder("w0", 0, writer)
    recorder.taint(Stall(1_000 * MS, 2_000 * MS, "loop_stall"), [])
    conversation = Conversation(0, 0, 1, 1, due * MS)
    conversation.sent = sent * MS
    conversation.arrivals.append((sent + 10) * MS)
    conversation.reads.append((sent + 10) * MS)
    conversation.end((sent + 20) * MS, (sent + 20) * MS)
    recorder.finish(conversation)
    recorder.flush((sent + 30) * MS, {}, {})
    writer.end()
    assert RunDirectory(tmp_path / "r").table("conversations")["tainted"].to_pylist() == [tainted]


def test_an_interrupt_ends_an_experiment(tmp_path: Path) -> None:
    with Interrupts() as interrupts, Processes() as processes:
        experiment = Experiment(tmp_path, processes, interrupts)
        interrupts.count = 1
        with pytest.raises(Interrupted):
            experiment.pause(60)
        with pytest.raises(Interrupted):
            experiment.start_null()
