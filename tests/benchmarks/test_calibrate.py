"""Calibration: readings that are true pass, every kind of false reading does not, and the real thing runs."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks.calibrate import Calibration, calibrate, keep, main, print_calibration
from benchmarks.calibration_adapter import Words
from benchmarks.figure import Figure, exact
from benchmarks.known_answers import PARTS, Evidence, Part
from benchmarks.processes import Interrupts
from benchmarks.reading import quantile, read_run, spread, stamp_tokens
from loadtest.calibration_record import keep_calibration, last_calibration, machine_key
from loadtest.conversation import Conversation
from loadtest.recorder import Recorder
from loadtest.run_directory import RunDirectory

MS = 1_000_000
SECOND = 1_000 * MS
ORIGIN = 1_700_000_000 * SECOND
BY_NAME = {part.name: part for part in PARTS}


# -- figures -----------------------------------------------------------------------------------------------------------


def figure(read: float | None, true: float | None = 10.0, low: float | None = 9.0, high: float | None = 12.0, unit: str = "1") -> Figure:
    return Figure("part", "name", "Title", unit, read, true, low, high, "the truth", "a reason")


@pytest.mark.parametrize(
    ("read", "passed", "strain"),
    [(10, True, 0), (9, True, 1), (12, True, 1), (11, True, 0.5), (8.5, False, 1.5), (13, False, 1.5), (None, False, math.inf)],
)
def test_a_figure_passes_within_its_bound(read: float | None, passed: bool, strain: float) -> None:
    assert figure(read).passed is passed
    assert figure(read).strain == pytest.approx(strain)


@pytest.mark.parametrize(("true", "low", "high"), [(None, None, None), (math.nan, math.nan, math.nan), (10.0, None, 12.0)])
def test_what_has_no_truth_does_not_pass(true: float | None, low: float | None, high: float | None) -> None:
    assert not figure(10, true, low, high).passed
    assert json.dumps(figure(10, None, None, None).as_dict(), allow_nan=False)


def test_figures_as_text() -> None:
    assert figure(10.5 * MS, 10.0 * MS, 9.0 * MS, 12.0 * MS, "ns").text(10.5 * MS) == "10.5 ms"
    assert figure(10.5 * MS, 10.0 * MS, 9.0 * MS, 12.0 * MS, "ns").error_text == "+500 µs"
    assert figure(10.5 * MS, 10.0 * MS, 9.0 * MS, 12.0 * MS, "ns").bound_text == "-1.00 ms … +2.00 ms"
    assert figure(0.021, 0.02, 0.01, 0.03, "share").bound_text == "±1 %"
    assert exact("part", "name", "Title", 3, 3, "", "").bound_text == "exact"
    assert exact("part", "name", "Title", 3, 4, "", "", 2).bound_text == "±2"
    assert exact("part", "name", "Title", 3, 4, "", "").error_text == "-1"
    assert figure(None).text(None) == figure(None).error_text == "–"


def test_quantiles_are_nearest_rank_and_their_spread_covers_all_populations() -> None:
    values = np.arange(1.0, 101.0)
    assert quantile(values, 0.5) == 50
    assert quantile(values, 0.99) == 99
    assert math.isnan(quantile(np.zeros(0), 0.5))
    assert spread((values, values + 10), 0.5, 0.02) == (50, 48, 62)


# -- readings ----------------------------------------------------------------------------------------------------------


class Scripted:
    """A run as the generator would have recorded it, of a server that sends what a script says: real recorder, invented time.

    ``send_late`` is how long a token is under way, ``sabotage`` what a false instrument makes of an arrival (both ns).
    """

    def __init__(self, folder: Path, part: Part, seed: int = 1) -> None:
        self.folder = folder
        self.part = part
        self.draw = random.Random(seed)
        self.sabotage: Callable[[int], int] = lambda arrival: arrival
        self.after_start: Callable[[int], int] = lambda sent: sent
        self.lines: list[str] = []

    def record(self, stall_mode: str = "") -> Path:
        """Write it; returns the run directory."""
        directory = RunDirectory.create(self.folder, {"name": "r", "origin_wall_ns": ORIGIN, "status_reasons": [], "load": {"window": 1}})
        writer = directory.writer("w0")
        recorder = Recorder("w0", ORIGIN, writer, record_tokens=True)
        number, tokens = 0, 25
        due: list[tuple[int, Conversation]] = []
        for user in range(24):
            at = ORIGIN + user * 20 * MS
            for turn in range(8):
                conversation = self._converse(user, turn, number, at, tokens, stall_mode)
                due.append((conversation.ended_read, conversation))
                at, number = conversation.ended_read + MS, number + 1
        due.sort(key=lambda pair: pair[0])
        last = due[-1][0] - ORIGIN
        for second in range(last // SECOND + 1):
            for ended, conversation in due:
                if second * SECOND <= ended - ORIGIN < (second + 1) * SECOND:
                    recorder.counts["conversations_started"] += 1
                    recorder.finish(conversation)
            gauges = dict.fromkeys(("users", "opening", "open", "streaming"), 24)
            recorder.flush(ORIGIN + (second + 1) * SECOND, gauges, {"covered_ns": SECOND, "cpu_ns": SECOND // 10})
        writer.end()
        directory.compact()
        window = {"warm_up_end_at_ns": SECOND, "steady_end_at_ns": last - last % SECOND, "drain_end_at_ns": last}
        directory.update_metadata(status="complete", window=window)
        return self.folder

    def _converse(self, user: int, turn: int, number: int, at: int, tokens: int, stall_mode: str) -> Conversation:
        conversation = Conversation(user, number, 24, 1)
        conversation.sent, conversation.texts = self.after_start(at), []
        due, released = at + 50 * MS, 0
        for position in range(tokens):
            if stall_mode and self.draw.random() < 0.02:
                if stall_mode == "shift":
                    due += 100 * MS
                else:
                    released = max(released, due + 100 * MS)
            sent = max(due, released) + self.draw.randrange(500_000)
            arrival = self.sabotage(sent + 20_000 + self.draw.randrange(20_000))
            conversation.arrivals.append(arrival)
            conversation.reads.append(arrival + 30_000)
            conversation.texts.append(f"r:w0-{user}:{turn}:{position}:{sent}")
            self.lines.append(conversation.texts[-1])
            due += 20 * MS
        conversation.end(conversation.arrivals[-1] + 200_000, conversation.arrivals[-1] + 250_000)
        return conversation

    def judged(self, stall_mode: str = "") -> dict[str, Figure]:
        """The part's figures of it by name."""
        reading = read_run(self.record(stall_mode))
        return {figure.name: figure for figure in self.part.judge(self.part, reading, Evidence({}, {}))}


def failed(figures: dict[str, Figure]) -> set[str]:
    return {name for name, figure in figures.items() if not figure.passed}


def test_a_true_instrument_passes(tmp_path: Path) -> None:
    figures = Scripted(tmp_path / "r", BY_NAME["paced"]).judged()
    assert failed(figures) == set()
    assert {"ttft_p50", "ttft_least", "gap_p50", "gap_p99", "stamp_p50"} <= set(figures)


@pytest.mark.parametrize("mode", ["shift", "catchup"])
def test_a_true_instrument_sees_the_stalls(tmp_path: Path, mode: str) -> None:
    figures = Scripted(tmp_path / "r", BY_NAME[mode]).judged(mode)
    assert failed(figures) == set()
    assert figures["stalls"].read == figures["stalls"].true
    assert figures["stalls"].true
    assert figures["gap_p99"].read == pytest.approx(120 * MS, rel=0.1)
    # A burst follows where the schedule is caught up with, and only there.
    assert (figures["burst_gaps"].read or 0) > 200 if mode == "catchup" else figures["burst_gaps"].read == 0


FALSE: dict[str, tuple[Callable[[int], int], set[str]]] = {
    "a millisecond late": (lambda arrival: arrival + MS, {"ttft_p50", "stamp_p50", "stamp_least"}),
    "a millisecond early": (lambda arrival: arrival - MS, {"ttft_p50", "stamp_p50", "stamp_least"}),
    "whole milliseconds, as a table would": (lambda arrival: arrival // (2 * MS) * 2 * MS, {"stamp_least"}),
    "read by a loop that comes round every 10 ms": (lambda arrival: -(-arrival // (10 * MS)) * 10 * MS, {"stamp_p50", "stamp_p99"}),
    "a clock that runs fast by 2 %": (lambda arrival: ORIGIN + round((arrival - ORIGIN) * 1.02), {"gap_p50", "ttft_p50"}),
}


@pytest.mark.parametrize("how", FALSE)
def test_a_false_instrument_does_not(tmp_path: Path, how: str) -> None:
    scripted = Scripted(tmp_path / "r", BY_NAME["paced"])
    scripted.sabotage, expected = FALSE[how]
    assert expected <= failed(scripted.judged())


@pytest.mark.parametrize("shift_ns", [3 * MS, -3 * MS])
def test_a_prompt_stamped_at_the_wrong_instant_is_found(tmp_path: Path, shift_ns: int) -> None:
    scripted = Scripted(tmp_path / "r", BY_NAME["paced"])
    scripted.after_start = lambda sent: sent + shift_ns
    assert "ttft_least" in failed(scripted.judged())


def test_stalls_that_are_smoothed_over_are_missed(tmp_path: Path) -> None:
    scripted = Scripted(tmp_path / "r", BY_NAME["shift"])
    previous = [0]

    def clip(arrival: int) -> int:
        # As an instrument would that drops what is above 60 ms.
        seen = min(arrival, previous[0] + 60 * MS) if arrival - previous[0] < 300 * MS else arrival
        previous[0] = seen
        return seen

    scripted.sabotage = clip
    assert {"stalls", "gap_p99"} <= failed(scripted.judged("shift"))


@pytest.mark.parametrize(("part", "tokens", "ok"), [("pack", 4800, True), ("pack", 4802, False), ("join", 4800, False)])
def test_counts_have_to_be_exact(tmp_path: Path, part: str, tokens: int, ok: bool) -> None:
    reading = read_run(Scripted(tmp_path / "r", BY_NAME[part]).record())
    judged = {f.name: f for f in BY_NAME[part].judge(BY_NAME[part], reading, Evidence({"streamgauge_tokens_total": tokens}, {}))}
    assert judged["tokens"].passed is ok
    assert not judged["coalesced"].passed if part == "pack" else judged["coalesced"].passed


@pytest.mark.parametrize(
    ("gauges", "wrong"),
    [
        ([("open", 12, 12), ("streaming", 9, 9), ("opening", 6, 6), ("opening", 0, 0)], set()),
        ([("open", 12, 12), ("open", 11, 12), ("streaming", 9, 9), ("opening", 6, 6)], {"open"}),
        ([("open", 12, 12), ("streaming", 9, 8), ("opening", 0, 6)], {"streaming", "opening"}),
        # Nothing was opening when anybody looked: then nothing is known of it.
        ([("open", 12, 12), ("streaming", 9, 9), ("opening", 0, 0)], {"opening"}),
    ],
)
def test_connections_are_compared_second_by_second(gauges: list[tuple[str, float, float]], wrong: set[str]) -> None:
    part = BY_NAME["connections"]
    nothing: Any = None
    assert failed({f.name: f for f in part.judge(part, nothing, Evidence({}, {}, gauges))}) == wrong


def test_stamps_are_read_of_both_servers() -> None:
    frame = stamp_tokens(tokens_of(["r:w0-1:0:0:1000   ", "r:w0-1:0:1:1200"]), 1000)
    assert frame["sent_ns"].tolist() == [0, 200]
    assert stamp_tokens(tokens_of(["1000", "1300 1300"]), 1000)["sent_gap_ns"].tolist()[1:] == [300]
    with pytest.raises(ValueError, match="stamp"):
        stamp_tokens(tokens_of(["1000", "hello"]), 1000)


def tokens_of(texts: list[str]) -> Any:
    import pandas as pd

    size = len(texts)
    columns = {"worker": ["w0"] * size, "conversation": [0] * size, "sequence": list(range(size)), "arrival_at_ns": [0] * size}
    return pd.DataFrame({**columns, "text": texts})


def test_the_adapter_counts_words() -> None:
    adapter = Words({"window": 1})
    assert [adapter.receive(text) for text in ("one", "one two", "", "_end_")] == [1, 2, 0, -1]


# -- the record of a machine -------------------------------------------------------------------------------------------


def test_the_last_calibration_of_a_machine_is_found_again(tmp_path: Path) -> None:
    machine = {"hostname_hash": "abc", "cpu_model": "one"}
    assert last_calibration(tmp_path, machine) is None
    whole = {"passed": True, "ended_utc": "2026-01-01T00:00:00Z", "figures": [{}, {}], "failed": [], "worst": {"name": "x"}, "page": "p"}
    path = keep_calibration(tmp_path, machine, whole)
    found = last_calibration(tmp_path, machine)
    assert found is not None
    assert (found["passed"], found["figures"], found["ended_utc"]) == (True, 2, "2026-01-01T00:00:00Z")
    assert last_calibration(tmp_path, {**machine, "cpu_model": "another"}) is None
    assert machine_key(machine) != machine_key({**machine, "hostname_hash": "abd"})
    for text in ("{", "[]", '{"passed": "yes"}', ""):
        path.write_text(text)
        assert last_calibration(tmp_path, machine) is None


# -- the real thing ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    folder = tmp_path_factory.mktemp("calibration")
    # Shorter than on the command line; what is read is the same.
    parts = [dataclasses.replace(BY_NAME[name], seconds=3) for name in ("pack", "leak")]
    with Interrupts() as interrupts:
        return calibrate(parts, folder, interrupts, lambda line: None)


def test_a_real_calibration_reads_true(real: Calibration) -> None:
    assert [figure for figure in real.figures if not figure.passed] == []
    assert {figure.name for figure in real.figures} == {"tokens", "coalesced", "coalesced_named", "leaked", "leaked_named"}
    assert all(figure.true for figure in real.figures)


def test_it_is_written_and_printed(real: Calibration) -> None:
    # Not all parts were run: it must not stand as the calibration of this machine.
    assert keep(real, real.folder) is None
    told = json.loads((real.folder / "calibration.json").read_text())
    assert told["passed"] is True
    assert told["failed"] == []
    page = (real.folder / "calibration.html").read_text()
    assert "Reads true" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    console = Console(record=True, width=160)
    print_calibration(real, console)
    assert "This machine reads true" in console.export_text()


def test_a_figure_that_is_not_true_cannot_be_overlooked(real: Calibration, tmp_path: Path) -> None:
    wrong = exact("pack", "tokens", "Tokens <received>", 3, 4, "the server's counter", "nothing may be lost")
    false = Calibration(tmp_path, PARTS, [*real.figures, wrong])
    assert not false.passed
    assert false.worst is wrong
    kept = keep(false, tmp_path)
    assert kept is not None
    carried = last_calibration(tmp_path, json.loads(kept.read_text())["environment"])
    assert carried is not None
    assert (carried["passed"], carried["failed"]) == (False, ["pack/tokens"])
    page = (tmp_path / "calibration.html").read_text()
    assert "do not trust" in page
    assert "Tokens &lt;received&gt;" in page
    console = Console(record=True, width=160)
    print_calibration(false, console)
    assert "NOT TRUE" in console.export_text()


def test_wrong_options_are_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--part", "nothing"])
    assert ended.value.code == 2
    (tmp_path / "file").write_text("")
    assert main(["--part", "pack", "--out", str(tmp_path / "file")]) == 2
    assert "Traceback" not in capsys.readouterr().err
