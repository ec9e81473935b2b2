"""The capacity command: options, the search with made-up probes, what it writes; and one real probe."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.capacity import EXIT_CODES, main, objectives_of, parser, prepare
from benchmarks.capacity_page import write_page
from benchmarks.capacity_probe import Question
from benchmarks.capacity_result import Made, Result, write_result
from benchmarks.capacity_search import Answer, Ask, End, Kind, Limits, Probe, decide
from benchmarks.runner import BenchError
from benchmarks.scenario import find, read
from loadtest.objectives import parse_all
from reports.slo import Judgement

ROOT = Path(__file__).parents[2]
MS = 10**6
OBJECTIVES = parse_all(["ttft_p99=500ms", "token_p99=100ms", "errors=0.1%"])
(SCENARIO,) = read(find("capacity")).runs


def made_probe(number: int, level: int, answer: Answer, why: str = "doubling") -> Made:
    """A probe whose token latency grows with its level, past the bound at 50."""
    token_ms = 40 + level if level <= 50 else 300 + level
    judgements = (
        Judgement(OBJECTIVES[0], "met", 30 * MS, 25 * MS, 40 * MS, 900),
        Judgement(OBJECTIVES[1], "met" if token_ms < 100 else "missed", token_ms * MS, token_ms * 0.9 * MS, token_ms * 1.1 * MS, 9000),
        Judgement(OBJECTIVES[2], "met", 0.0, 0.0, 0.004, 900),
    )
    summary: dict[str, Any] = {
        "rates": {"throughput_conversations": 10.0, "throughput_tokens": 400.0}, "window": {"steady_s": 35.0},
        "load": {"offered_per_s": None, "achieved_per_s": 10.0},
        "goodput": {"rate": {"value": float(min(level, 50) if answer is Answer.MET else 3)}},
        "instrument": {"workers": [{"cpu_share": 0.2}], "server_cpu_share": 0.5},
    }  # fmt: skip
    reason = "Every objective was met." if answer is Answer.MET else "token_latency_p99 <= 100ms: missed <b>badly</b>."
    return Made(number, Ask(level, 0, why), answer, reason, f"probe-{number:02d}-{level}", 40.0, None, judgements, summary, 0.4)


def searched(folder: Path, capacity: int, *, ceiling: int = 1 << 30, limit: int = 1 << 30, probes: int = 40) -> Result:
    """A whole search against a made-up server, and a generator that gives out above ``limit``."""
    limits = Limits(10, highest=ceiling, probes=probes)
    made: list[Made] = []
    while isinstance(step := decide([Probe(one.step.level, one.answer) for one in made], limits), Ask):
        answer = Answer.INVALID if step.level > limit else Answer.MET if step.level <= capacity else Answer.MISSED
        made.append(made_probe(len(made) + 1, step.level, answer, step.why))
    started = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
    question = Question(OBJECTIVES, SCENARIO.load)
    return Result(folder, question, limits, SCENARIO, None, step, tuple(made), started, 300.0, EXIT_CODES[step.kind])


class TestOptions:
    def test_errors_are_always_asked_for(self) -> None:
        assert [str(one) for one in objectives_of(parser().parse_args(["--slo", "ttft_p99=500ms,token_p99=100ms"]))] == [
            "ttft_p99 <= 500ms", "token_latency_p99 <= 100ms", "errors <= 0.1%",
        ]  # fmt: skip
        (only,) = objectives_of(parser().parse_args(["--slo", "errors<5%"]))
        assert str(only) == "errors < 5%"
        assert str(objectives_of(parser().parse_args(["--slo", "ttft_p99=1s", "--errors", "2%"]))[-1]) == "errors <= 2%"

    def test_the_search_begins_where_it_can_judge_and_ends_where_the_machine_does(self, tmp_path: Path) -> None:
        search = prepare(parser().parse_args(["--slo", "ttft_p99=500ms", "--out", str(tmp_path)]))
        assert search.limits.lowest > 1
        assert search.limits.start == max(10, search.limits.lowest)
        assert search.limits.highest > 1000
        assert prepare(parser().parse_args(["--slo", "ttft_p99=500ms", "--start", "40", "--most", "500"])).limits.highest == 500

    def test_the_load_of_any_scenario_is_varied_with_its_own_changes(self) -> None:
        words = ["--slo", "stop_p99=1s", "--scenario", "pingpong", "--gap-ms", "5", "--server-option", "cpu-us=500", "--rate"]
        search = prepare(parser().parse_args(words))
        assert search.question.load.gap_ms == 5
        assert search.question.load.stop is not None
        assert search.scenario.target.arguments() == ["--cpu-us=500"]
        assert search.question.by_rate

    def test_an_adapter_of_the_command_line_or_the_scenario_is_used(self) -> None:
        words = ["--slo", "ttft_p99=500ms"]
        assert not prepare(parser().parse_args(words)).scenario.adapter
        assert prepare(parser().parse_args([*words, "--scenario", "completions"])).scenario.adapter == {"name": "openai-chat"}
        assert prepare(parser().parse_args([*words, "--adapter", "openai-chat"])).scenario.adapter == {"name": "openai-chat"}

    def test_a_host_that_is_asked_over_http_is_no_mistake(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["--slo", "ttft_p99=500ms", "--adapter", "openai-chat", "--host", "http://127.0.0.1:1/v1", "--out", str(tmp_path)]
        assert main(words) == 2
        assert "nothing listens" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["--slo", "ttft=500ms"], "ttft_p99"),
            (["--slo", "ttft_p99=500"], "expected a time with one of the units"),
            (["--slo", "ttft_p99=500ms", "--scenario", "none"], "there is no scenario 'none'"),
            (["--slo", "ttft_p99=500ms", "--most", "2"], "need at least"),
            (["--slo", "ttft_p99=500ms", "--host", "http://x"], "ws://"),
        ],
    )
    def test_a_mistake_is_one_sentence_and_code_2(
        self, words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([*words, "--out", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert "Traceback" not in said
        assert list(tmp_path.iterdir()) == []

    def test_an_option_of_the_server_has_a_name(self) -> None:
        with pytest.raises(BenchError, match="NAME=VALUE"):
            prepare(parser().parse_args(["--slo", "ttft_p99=500ms", "--server-option", "=3"]))


class TestResult:
    @pytest.mark.parametrize(
        ("changes", "kind", "code", "sentence"),
        [
            ({}, Kind.FOUND, 0, "All objectives hold at 50 conversations, and not at 52 conversations."),
            ({"ceiling": 40}, Kind.CEILING, 0, "All objectives hold at 40 conversations, the highest level that was to be probed"),
            ({"limit": 30}, Kind.GENERATOR, 11, "31 conversations could not be judged, which is the generator's limit, not the server's"),
            ({"probes": 4}, Kind.UNFINISHED, 11, "Unfinished: all objectives hold at 40 conversations, and not at 80 conversations."),
        ],
    )
    def test_each_end_says_what_it_means(self, tmp_path: Path, changes: dict[str, int], kind: Kind, code: int, sentence: str) -> None:
        result = searched(tmp_path, 50, **changes)
        assert result.end is not None
        assert (result.end.kind, result.exit_code) == (kind, code)
        assert sentence in result.sentences()[0]

    def test_a_server_that_holds_nothing_fails(self, tmp_path: Path) -> None:
        result = searched(tmp_path, 0)
        assert result.exit_code == 10
        assert result.sentences()[0] == "The objectives do not hold even at 1 conversation, the lowest level that was to be probed."

    def test_everything_is_written_and_can_be_read(self, tmp_path: Path) -> None:
        result = searched(tmp_path, 50)
        write_result(result)
        told = json.loads((tmp_path / "capacity.json").read_text())
        assert (told["capacity"], told["fails_at"], told["kind"], told["unit"]) == (50, 52, "found", "concurrent conversations")
        assert len(told["probes"]) == len(result.made)
        assert {"level", "answer", "goodput_per_s", "objectives", "load_average_before", "measured_s"} <= told["probes"][0].keys()
        assert told["objectives"][0] == "ttft_p99 <= 500ms"
        assert (tmp_path / "charts" / "capacity.png").stat().st_size > 10_000
        page = (tmp_path / "index.html").read_text()
        assert "All objectives hold at 50 conversations" in page
        # What a target or a run said is text, never markup.
        assert "&lt;b&gt;badly" in page
        assert "<script" not in page
        assert len(re.findall(r'<span class="(?:ok|broken|na)">', page)) == len(result.made)

    def test_a_search_under_way_is_written_too_without_a_picture(self, tmp_path: Path) -> None:
        whole = searched(tmp_path, 50)
        part = Result(*(getattr(whole, name) for name in ("folder", "question", "limits", "scenario", "host")), None, whole.made[:3],
                      whole.started, 60.0, None)  # fmt: skip
        write_result(part)
        told = json.loads((tmp_path / "capacity.json").read_text())
        assert (told["kind"], told["capacity"], len(told["probes"])) == (None, None, 3)
        assert not (tmp_path / "index.html").exists()

    def test_without_a_probe_there_is_a_page_that_says_so(self, tmp_path: Path) -> None:
        whole = searched(tmp_path, 50)
        none = Result(*(getattr(whole, name) for name in ("folder", "question", "limits", "scenario", "host")),
                      End(Kind.UNFINISHED, None, None), (), whole.started, 1.0, 130)  # fmt: skip
        assert "Unfinished: no level was shown to hold." in write_page(none).read_text()


def test_one_real_probe_from_the_command_line(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "benchmarks", "capacity", "--slo", "ttft_p50=5s", "--start", "4", "--shortest", "3", "--probes", "1",
        "--tokens", "5", "--out", str(tmp_path), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 11, done.stderr
    told = json.loads(done.stdout)
    (probe,) = told["probes"]
    assert (told["kind"], probe["level"]) == ("unfinished", 4)
    assert probe["answer"] in ("met", "invalid"), probe["reason"]
    assert probe["goodput_per_s"] > 1
    folder = Path(told["path"])
    assert (folder / probe["path"] / "conversations.parquet").is_file()
    assert (folder / "index.html").is_file()
    assert "probe 1: 4 conversations" in done.stderr
