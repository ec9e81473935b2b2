"""The shared block, the loop's lag, close codes; and the one-line log, and the history file."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path

import pytest

from server import counters
from server.counters import Block, Exposition, LoopLag, close_cell, measure_process, row_values
from server.history import History
from server.log import LINES_PER_SECOND, LibraryLog, Log


def test_rows_add_up_and_a_process_that_ended_keeps_its_counts() -> None:
    block = Block(3)
    for process in range(3):
        row = block.row(process)
        row[counters.OPEN] = 10
        row[counters.TOKENS] = 100 + process
        row[counters.PID] = 1
        row[counters.LAG_NS] = 1000 * process
    assert (block.total(counters.OPEN), block.total(counters.TOKENS), block.live_processes()) == (30, 303, 3)
    assert block.largest(counters.LAG_NS) == 2000
    block.forget_gauges(2)
    assert (block.total(counters.OPEN), block.total(counters.TOKENS), block.live_processes()) == (20, 303, 2)
    assert block.largest(counters.LAG_NS) == 1000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_forked_process_counts_is_seen() -> None:
    block = Block(2)
    child = os.fork()
    if not child:
        block.row(1)[counters.TOKENS] += 7
        os._exit(0)
    os.waitpid(child, 0)
    assert block.total(counters.TOKENS) == 7


def test_the_text_has_every_cell() -> None:
    block = Block()
    row = block.row(0)
    for cell in range(len(row)):
        row[cell] = 1_000_000_000 + cell
    values = dict(line.rsplit(" ", 1) for line in Exposition(block).render().decode().splitlines() if not line.startswith("#"))
    shown = {float(value) for value in values.values()}
    for name, value in row_values(row).items():
        if name != "pid":
            assert float(value) in shown or value / 1e9 in shown, name
    assert len(values) == len(row)


@pytest.mark.parametrize(
    ("code", "label"), [(1000, "1000"), (1011, "1011"), (3000, "3xxx"), (3999, "3xxx"), (4242, "4xxx"), (1004, "1006"), (99, "1006")]
)
def test_close_codes_cannot_be_invented_without_end(code: int, label: str) -> None:
    assert close_cell(code) == counters.CLOSED[label]


def test_the_largest_lag_is_kept_for_a_while_and_then_forgotten() -> None:
    row = Block().row(0)
    lag = LoopLag(row)
    lag.record(100.0, 0.5)
    lag.record(100.1, 0.001)
    assert (row[counters.LAG_NS], row[counters.LAG_MAX_NS]) == (1_000_000, 500_000_000)
    lag.record(115.2, 0.002)
    assert row[counters.LAG_MAX_NS] == 500_000_000, "15 seconds later it still shows"
    lag.record(130.3, 0.003)
    assert row[counters.LAG_MAX_NS] == 3_000_000


def test_a_process_measures_itself() -> None:
    row = Block().row(0)
    measure_process(row)
    assert row[counters.PID] == os.getpid()
    assert row[counters.MEMORY_BYTES] > 1_000_000
    assert row[counters.CPU_NS] > 0


def test_one_line_each_and_values_that_cannot_break_it() -> None:
    stream = io.StringIO()
    log = Log(stream)
    log.info("event", plain="a-b:1", odd='two words\n"and" a\x1b[31m', empty="", number=3, long="x" * 1000)
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert "\x1b" not in line
    assert " info event plain=a-b:1 odd='two words\\n\"and\" a\\x1b[31m' empty='' number=3 long=xxx" in line
    assert len(line) < 500


def test_a_flood_of_one_event_is_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [1000.0]
    monkeypatch.setattr("server.log.time.time", lambda: now_s[0])
    stream = io.StringIO()
    log = Log(stream)
    for _ in range(5000):
        log.warn("flood")
    log.warn("other")
    now_s[0] += 1
    log.warn("flood")
    lines = stream.getvalue().splitlines()
    assert len(lines) == LINES_PER_SECOND + 3
    assert lines[-2].endswith(f"suppressed of=flood lines={5000 - LINES_PER_SECOND}")


def test_quiet_keeps_the_warnings() -> None:
    stream = io.StringIO()
    log = Log(stream, quiet=True)
    log.info("fine")
    log.warn("bad")
    assert "fine" not in stream.getvalue()
    assert "bad" in stream.getvalue()


def test_a_log_that_cannot_be_written_harms_nobody() -> None:
    stream = io.StringIO()
    stream.close()
    Log(stream).warn("event")


def test_what_the_library_logs_loses_its_traceback() -> None:
    stream = io.StringIO()
    handler = LibraryLog(Log(stream))
    try:
        raise ValueError("foreign\ninput")
    except ValueError as error:
        record = logging.LogRecord("websockets.server", logging.ERROR, "x", 1, "parser failed", (), (ValueError, error, None))
    handler.emit(record)
    assert "warn websockets says='parser failed' error='ValueError: foreign\\ninput'" in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


def test_history_lines_of_two_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "history"
    one, two = (History(path, Log(io.StringIO())) for _ in range(2))
    for number in range(100):
        one.append(f"one:{number}")
        two.append(f"two:{number}")
        if number % 7 == 0:
            one.flush()
            two.flush()
    one.close()
    two.close()
    one.close()
    lines = path.read_text().splitlines()
    assert sorted(lines) == sorted([f"{name}:{number}" for name in ("one", "two") for number in range(100)])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_logged_and_the_server_goes_on() -> None:
    stream = io.StringIO()
    history = History(Path("/dev/full"), Log(stream))
    history.append("a")
    history.append("b")
    history.close()
    assert "history_lost path=/dev/full lines=2" in stream.getvalue()
