"""The proof: simulated jobs are judged as real ones are, its tables add up, its cases do what they say, real jobs are resumed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from benchmarks.burst import turn_of
from benchmarks.check_plan import CheckPlan, draw_orders, make_gates, mirrored, thue_morse
from benchmarks.processes import ROOT
from benchmarks.prove import main
from benchmarks.prove_cases import BY_NAME, CASES, inject, next_case
from benchmarks.prove_jobs import run_jobs
from benchmarks.prove_simulation import CODES, LEVELS, METRICS, judge_jobs, simulate, simulate_job
from benchmarks.prove_table import at_most, fill_page, read_lines, real_table, replace_part, simulated_table
from benchmarks.verdict import judge


def a_line(case: str, verdict: str, **changes: Any) -> dict[str, Any]:
    gate = {"base": 100_000.0, "head": 105_000.0, "change": 0.05, "low": 0.03, "high": 0.07, "spread": 0.02, "p": 0.001, "verdict": "pass"}
    line = {
        "case": case, "verdict": verdict, "blocks": 10, "seconds": 41.0, "load_average": [5.0, 6.0], "gate": "10",
        "gates": {metric: dict(gate) for metric in METRICS},
    }  # fmt: skip
    return line | changes


@pytest.mark.parametrize("gate", ["10", "5"])
def test_many_jobs_at_once_are_judged_as_one_is(gate: str) -> None:
    draw = np.random.default_rng(4)
    d = np.stack([simulate_job(draw, LEVELS["crowded"]) + draw.choice([0.0, 0.03, 0.06, 0.15]) for _ in range(24)])
    codes, used = judge_jobs(d, gate)
    assert len(set(codes.tolist())) > 1
    orders, starts = draw_orders(1, 30, 8)
    plan = CheckPlan(
        seed=1, gate=gate, gates=make_gates(gate, True, True), looks=(10, 20, 30), orders=orders, starts=starts, slice_s=0.1, warm_up_s=0.1,
        fresh=True, workload={}, targets={"base": {"label": "a"}, "head": {"label": "b"}},
    )  # fmt: skip
    from benchmarks.check_plan import METRICS as ALL

    host = {"steal_share": None, "pressure_share": None, "generator_cpu_share": None, "receive_lag_share": None, "clock_step_ns": 0}
    for job in range(len(d)):
        blocks = []
        for number in range(30):
            arm = {**dict.fromkeys(ALL, 1.0), "tried": 10, "failed": 0, "latencies": 9999, "gaps": 9999, "errors": {}}
            head = arm | {metric: math.exp(d[job, number, place]) for place, metric in enumerate(METRICS)}
            blocks.append({"block": number + 1, "base": arm, "head": head, "host": host})
        verdict = judge(plan, blocks)
        assert (verdict["verdict"], verdict["blocks"]) == (CODES[codes[job]], used[job])


def test_the_simulation_is_reproducible_and_finds_what_is_there() -> None:
    quiet = {"quiet": LEVELS["quiet"]}
    rows = simulate(25, 7, levels=quiet)
    assert rows == simulate(25, 7, levels=quiet)
    assert rows != simulate(25, 8, levels=quiet)
    for row in rows:
        assert sum(row[code] for code in CODES) == pytest.approx(1.0)
        if row["effect"] == "A/A":
            assert row["regressed"] <= 0.05
        if row["effect"] == "every token +20 %":
            assert row["regressed"] == 1.0


def test_bounds_of_a_share_agree_with_the_beta_distribution() -> None:
    for seen, jobs in ((0, 60), (0, 299), (1, 60), (5, 10), (10, 10)):
        expected = 1.0 if seen == jobs else stats.beta.ppf(0.95, seen + 1, jobs - seen)
        assert at_most(seen, jobs) == pytest.approx(expected, abs=1e-9)


def test_the_tables_count() -> None:
    lines = [a_line("aa", "pass")] * 3 + [a_line("aa", "inconclusive", seconds=120.0, blocks=30), a_line("slow-10", "regressed")]
    table = real_table(lines)
    assert table[2].startswith(
        "| A/A: the same server twice | 10 % | 4 | 0 | 3 | 1 | 0 of 4: 52.7 % | 10 | 41 s (120 s) | 6.0 … 6.0 | +5.0 %"
    )
    assert "| every token +10 % | 10 % | 1 | 1 | 0 | 0 |" in table[3]
    assert len({line.count("|") for line in table}) == 1
    shown = simulated_table(simulate(4, 1))
    assert len({line.count("|") for line in shown}) == 1


def test_a_page_keeps_what_stands_between_its_tables() -> None:
    marks = [
        f"<!-- {name}: made by `python -m benchmarks prove table` -->\nold\n<!-- end of {name} -->"
        for name in ("real jobs", "spread", "simulated jobs")
    ]
    page = "before\n" + "\nbetween\n".join(marks) + "\nafter\n"
    filled = fill_page(page, [a_line("aa", "pass")], simulate(4, 1))
    assert "old" not in filled
    assert filled.startswith("before\n")
    assert filled.count("\nbetween\n") == 2
    assert filled.endswith("\nafter\n")
    assert fill_page(filled, [a_line("aa", "pass")], simulate(4, 1)) == filled
    with pytest.raises(ValueError, match="expected the marks"):
        replace_part("nothing", "real jobs", [])


def test_the_published_tables_are_those_of_the_published_lines() -> None:
    page = ROOT / "docs" / "regressions.md"
    lines, simulated = (read_lines(ROOT / "docs" / name) for name in ("regressions.jsonl", "regressions-simulated.jsonl"))
    text = page.read_text(encoding="utf-8")
    assert fill_page(text, lines, simulated) == text


def test_kinds_of_jobs_are_done_by_their_weights() -> None:
    lines: list[dict[str, Any]] = []
    for _ in range(30):
        lines.append(a_line(next_case(lines).name, "pass"))
    counts = {case.name: sum(line["case"] == case.name for line in lines) for case in CASES}
    assert counts == {case.name: 2 * case.weight for case in CASES}
    assert next_case(lines, ["tail"]).name == "tail"


def test_injections_are_as_large_as_they_say() -> None:
    measured = [a_line("slow-5", "regressed")]
    injection = inject(BY_NAME["slow-10"], measured, 1)
    assert (injection.base, injection.head) == (("--cpu-us=80",), ("--cpu-us=90",))
    assert inject(BY_NAME["aa"], measured, 1).head == ()
    tail = inject(BY_NAME["tail"], measured, 1)
    assert [one != other for one, other in zip(tail.base, tail.head, strict=True)] == [False, False, False, True]
    blocks = inject(BY_NAME["burst"], measured, 1).burst_blocks
    assert len(set(blocks)) == 3
    assert all(1 <= block <= 10 for block in blocks)


def test_the_neighbour_knows_whose_turn_it_is() -> None:
    text = "block 4\nslice 1 head\n"
    assert turn_of(text) == (4, "head")
    assert turn_of(text + "slice 2 base\n") == (4, "base")
    assert turn_of(text + "slices done\n") == (4, "")
    assert turn_of("") == (0, "")


def test_orders_mirror() -> None:
    assert thue_morse(8) == "ABBABAAB"
    assert mirrored("ABBABAAB") == "BAABABBA"
    assert thue_morse(16) == "ABBABAAB" + mirrored("ABBABAAB")


def test_a_job_adds_a_line_and_only_what_must_not_be_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps(a_line("aa", "pass")) + "\n")
    outcomes = iter(["regressed", "pass"])
    commands: list[str] = []
    folders: list[Path] = []

    def perform(setup: Any, console: Any, interrupts: Any, follower: Any) -> Any:
        folders.append(tmp_path / f"job-{len(folders)}")
        folders[-1].mkdir()
        follower.begins(folders[-1])
        commands.append(setup.sides["head"].as_dict()["command"])
        gates = [{"metric": metric, **a_line("aa", "pass")["gates"]["tpot_p50"]} for metric in METRICS]
        verdict = {"verdict": next(outcomes), "blocks": 10, "gates": gates, "errors": None, "reasons": [], "host": []}
        return folders[-1], verdict, True

    monkeypatch.setattr("benchmarks.prove_jobs.perform", perform)
    settings = {"seed": 1, "slices": 4, "slice_s": 0.02, "warm_up_s": 0.02, "out": tmp_path, "scenario": "regression"}
    assert run_jobs(lines, 2, 5, ["slow-20"], settings, Console(quiet=True)) == 0
    assert [line["case"] for line in read_lines(lines)] == ["aa", "slow-20", "slow-20"]
    # The first has not been measured yet: 20 % of what is assumed; the second is 20 % of what the first measured.
    assert [command.split()[-1] for command in commands] == ["--cpu-us=101", "--cpu-us=100"]
    assert [folder.exists() for folder in folders] == [False, True]


def test_the_neighbour_burns_only_in_its_turns(tmp_path: Path) -> None:
    log = tmp_path / "generator.log"
    log.write_text("block 2\nslice 1 base\n")
    burst = subprocess.Popen([sys.executable, "-m", "benchmarks.burst", str(log), "head", "2,3"], cwd=ROOT)
    try:
        clock = (~burst.pid << 3) | 2
        pause = threading.Event()

        def spent(seconds: float) -> float:
            before = time.clock_gettime_ns(clock)
            pause.wait(seconds)
            return (time.clock_gettime_ns(clock) - before) / 1e9

        while spent(0.3) > 0.1:  # it starts
            pass
        log.write_text("block 2\nslice 1 base\nslice 2 head\n")
        while spent(0.1) < 0.005:
            pass
        log.write_text("block 4\nslice 1 head\n")
        while spent(0.3) > 0.1:
            pass
    finally:
        burst.terminate()
        burst.wait()


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "simulated.jsonl"
    assert main(["simulate", "--jobs", "5", "--out", str(out)]) == 0
    assert len(read_lines(out)) == len(simulate(5, 1))
    assert "| quiet |" in capsys.readouterr().out
    page = tmp_path / "page.md"
    page.write_text("nothing")
    assert main(["table", "--simulated", str(out), "--lines", str(tmp_path / "none"), "--page", str(page)]) == 1
    assert "expected the marks" in capsys.readouterr().err
