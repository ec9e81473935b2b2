"""Traces: every known format, errors by line, ticks found and spread, speed and repetition."""

from __future__ import annotations

import json
import re
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from loadtest.arrivals import SECOND_NS, Arrival
from loadtest.trace import Replay, Trace, TraceError, find_tick, read_trace, spread

MS = 1_000_000
REAL = Path(__file__).resolve().parents[3] / "shared" / "data"

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2220000,879,55
"""
AZURE_LATER = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00.017335+00:00,2399,6
"""
MOONCAKE = """{"timestamp": 0, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}
{"timestamp": 3000, "input_length": 6472, "output_length": 26, "hash_ids": [46]}

{"timestamp": 3000, "input_length": 1, "output_length": 2, "hash_ids": []}
"""
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
118,GPT-4,417,0,417,API log
"""


def written(tmp_path: Path, text: str, name: str = "trace.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "offsets_ns", "prompts", "answers"),
    [
        (AZURE, [0, 4_314_579_000, 4_541_410_000], [374, 396, 879], [44, 109, 55]),
        (AZURE_LATER, [0, 7_405_000], [2162, 2399], [5, 6]),
        (MOONCAKE, [0, 3 * SECOND_NS, 3 * SECOND_NS], [6955, 6472, 1], [52, 26, 2]),
        (BURST, [0, 40 * SECOND_NS, 113 * SECOND_NS], [472, 1087, 417], [18, 230, 0]),
        ("arrival_time,prompt_tokens,output_tokens\n1.5,10,20\n1.25,11,21\n", [0, 250 * MS], [11, 10], [21, 20]),
        ("arrival_ms,prompt_len\n100,10\n350,\n", [0, 250 * MS], [10, -1], [-1, -1]),
        ("Time (us)\n7\n1007\n", [0, MS], [-1, -1], [-1, -1]),
        ('{"arrived_at": 0.001, "num_prefill_tokens": 3.0, "num_decode_tokens": 4}\n', [0], [3], [4]),
    ],
)
def test_known_formats(tmp_path: Path, text: str, offsets_ns: list[int], prompts: list[int], answers: list[int]) -> None:
    trace = read_trace(written(tmp_path, text))
    assert trace.offsets_ns.tolist() == offsets_ns
    assert (trace.prompt_tokens.tolist(), trace.answer_tokens.tolist()) == (prompts, answers)


def test_the_unit_may_be_said(tmp_path: Path) -> None:
    path = written(tmp_path, "timestamp,prompt_tokens\n0,1\n3,1\n")
    assert read_trace(path, "ms").offsets_ns.tolist() == [0, 3 * MS]
    assert read_trace(path, "auto").offsets_ns.tolist() == [0, 3 * SECOND_NS]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "expected at least one arrival in the trace PATH, found none"),
        ("TIMESTAMP,ContextTokens\n", "expected at least one arrival in the trace PATH, found none"),
        (
            "a,b\n1,2\n",
            "expected a column with the instant of arrival (such as TIMESTAMP, timestamp or arrival_time) in line 1 of PATH, found a, b",
        ),
        (
            "TIMESTAMP,ContextTokens\n2023-11-16 18:15:46,3\nnever,3\n",
            "line 3 of PATH: expected in TIMESTAMP a number or an instant such as 2023-11-16 18:15:46.68, found 'never'",
        ),
        (
            "TIMESTAMP,ContextTokens\n2023-13-45 99:15:46,3\n",
            "line 2 of PATH: expected in TIMESTAMP a number or an instant such as 2023-11-16 18:15:46.68, found '2023-13-45 99:15:46'",
        ),
        (
            "TIMESTAMP\nnan\n",
            "line 2 of PATH: expected in TIMESTAMP a number or an instant such as 2023-11-16 18:15:46.68, found 'nan'",
        ),
        ("TIMESTAMP,ContextTokens\n1,2\n2,-3\n", "line 3 of PATH: expected in ContextTokens a whole number of tokens, found '-3'"),
        ("TIMESTAMP,ContextTokens\n1,2.5\n", "line 2 of PATH: expected in ContextTokens a whole number of tokens, found '2.5'"),
        ("TIMESTAMP,ContextTokens\n1,2\n3\n", "line 3 of PATH: expected 2 fields, found another number"),
        ('TIMESTAMP,ContextTokens\n1,"2\n', "line 2 of PATH is not CSV: unexpected end of data"),
        ('{"timestamp": 1}\n[1]\n', "line 2 of PATH: expected a JSON object, found list"),
        ('{"timestamp": 1}\n{"timestamp"\n', "line 2 of PATH is not JSON: Expecting ':' delimiter at column 13"),
        (
            '{"timestamp": 1}\n{"other": 1}\n',
            "line 2 of PATH: expected in timestamp a number or an instant such as 2023-11-16 18:15:46.68, found None",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(TraceError, match=f"^{re.escape(sentence.replace('PATH', str(path)))}$"):
        read_trace(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"cannot read the trace .*No such file"):
        read_trace(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b"TIMESTAMP\n1\n\xff\n")
    with pytest.raises(TraceError, match=r"expected UTF-8 text in the trace .*found a byte that is none at offset"):
        read_trace(tmp_path / "latin")


@pytest.mark.parametrize(
    ("offsets", "tick"),
    [
        ([0, 3000 * MS, 3000 * MS, 9000 * MS], 3000 * MS),
        ([0, 0, 1000 * MS, 3000 * MS], 1000 * MS),
        # An even schedule is no grid, a clock's resolution is none that matters, and one instant says nothing.
        ([0, 500 * MS, 1000 * MS], 0),
        ([0, 100, 100, 700], 0),
        ([0, 0, 0], 0),
    ],
)
def test_a_grid_is_found(offsets: list[int], tick: int) -> None:
    assert find_tick(np.array(offsets, dtype=np.int64)) == tick


@pytest.mark.parametrize("how", ["random", "even"])
def test_spreading_keeps_each_arrival_in_its_tick_and_all_in_order(how: str) -> None:
    ticks = np.repeat(np.arange(50), np.arange(50) % 7) * 3000 * MS
    moved = spread(ticks, 3000 * MS, how, 1)
    assert (moved // (3000 * MS) == ticks // (3000 * MS)).all()
    assert (np.diff(moved) >= 0).all()
    assert (moved == spread(ticks, 3000 * MS, how, 1)).all()
    assert len(np.unique(moved)) == len(ticks)
    if how == "even":
        assert spread(np.array([0, 0, 0, 0]), 1000, "even", 1).tolist() == [125, 375, 625, 875]
    else:
        assert (moved != spread(ticks, 3000 * MS, how, 2)).any()


def made(offsets_s: list[float], tick_s: float = 0) -> Trace:
    at = np.array([round(one * SECOND_NS) for one in offsets_s], dtype=np.int64)
    return Trace("t", at, np.arange(len(at)) + 10, np.arange(len(at)) + 20, round(tick_s * SECOND_NS))


def test_a_replay_has_its_speed_its_start_and_its_lengths() -> None:
    trace = made([0, 1, 2, 4])
    assert list(Replay(trace).arrivals(1)) == [
        Arrival(0, 0, 10, 20), Arrival(1, SECOND_NS, 11, 21), Arrival(2, 2 * SECOND_NS, 12, 22), Arrival(3, 4 * SECOND_NS, 13, 23),
    ]  # fmt: skip
    assert [arrival.offset_ns for arrival in Replay(trace, speed=2).arrivals(1)] == [0, 500 * MS, SECOND_NS, 2 * SECOND_NS]
    assert [arrival.offset_ns for arrival in Replay(trace, speed=0.5, start_s=1.5).arrivals(1)] == [SECOND_NS, 5 * SECOND_NS]
    assert [arrival[:3] for arrival in Replay(trace, start_s=1.5).arrivals(1)] == [(0, 500 * MS, 12), (1, 2500 * MS, 13)]


def test_a_replay_may_begin_again_and_again() -> None:
    replay = Replay(made([0, 1, 2]), repeat=True)
    arrivals = list(islice(replay.arrivals(1), 8))
    assert [arrival.offset_ns // SECOND_NS for arrival in arrivals] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [arrival.number for arrival in arrivals] == list(range(8))
    assert [arrival.prompt_tokens for arrival in arrivals] == [10, 11, 12, 10, 11, 12, 10, 11]
    assert [replay.expected(at, 1) for at in (0, 2.5, 3.5, 7)] == [0, 3, 4, 7]
    assert Replay(made([0, 1, 2])).expected(100, 1) == 3


def test_a_grid_is_spread_unless_told_not_to() -> None:
    trace = made([0, 0, 3, 3, 3], tick_s=3)
    assert [arrival.offset_ns // SECOND_NS for arrival in Replay(trace, spread="none").arrivals(1)] == [0, 0, 3, 3, 3]
    assert [arrival.offset_ns // SECOND_NS for arrival in Replay(trace, tick_ns=0).arrivals(1)] == [0, 0, 3, 3, 3]
    moved = [arrival.offset_ns for arrival in Replay(trace).arrivals(1)]
    assert len(set(moved)) == 5
    assert [offset // (3 * SECOND_NS) for offset in moved] == [0, 0, 1, 1, 1]


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real traces are not in {REAL}")
@pytest.mark.parametrize(("name", "rows", "rate"), [("azure2023_conv.csv", 19_366, 5.53), ("azure2023_code.csv", 8_819, 2.57)])
def test_real_traces(name: str, rows: int, rate: float) -> None:
    trace = read_trace(REAL / name)
    assert len(trace) == rows
    assert trace.tick_ns == 0
    assert (rows - 1) / trace.offsets_ns[-1] * 1e9 == pytest.approx(rate, abs=0.01)
    arrivals = list(Replay(trace, speed=100).arrivals(1))
    assert len(arrivals) == rows
    assert all(a.offset_ns <= b.offset_ns for a, b in pairwise(arrivals))


def test_a_trace_is_read_once_while_it_is_the_same(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps({"timestamp": 1}))
    assert read_trace(path) is read_trace(path)
    path.write_text(json.dumps({"timestamp": 1}) + "\n" + json.dumps({"timestamp": 2}))
    assert len(read_trace(path)) == 2
