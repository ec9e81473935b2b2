"""``python -m benchmarks prove``: is the regression check's verdict worth anything? By simulation, and by real jobs on this machine.

``simulate`` counts false alarms and misses in thousands of simulated jobs; ``real`` runs jobs with a known truth and appends a line for
each to a file (run it again to add to them); ``table`` writes the tables of docs/regressions.md from both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from loadtest.run_directory import write_text

from .check_options import SCENARIO, SLICE_S, SLICES, WARM_UP_S
from .options import Parser
from .prove_cases import BY_NAME
from .prove_table import read_lines, simulated_table, update_page
from .runner import BenchError
from .terminal import consoles, refuse

LINES: Final = Path("docs/regressions.jsonl")
SIMULATED: Final = Path("docs/regressions-simulated.jsonl")
PAGE: Final = Path("docs/regressions.md")


def main(words: Sequence[str]) -> int:
    """The command; returns 0, 1 our own failure, 2 usage, 130 interrupted."""
    parser = Parser(prog="python -m benchmarks prove", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    real = commands.add_parser("real", help="real jobs with a known truth, appended to a file")
    real.add_argument("--jobs", type=int, default=10_000, metavar="N", help="stop after so many more (default: when the time is over)")
    real.add_argument("--minutes", type=float, default=60, metavar="M", help="begin no job after this time (default: 60)")
    real.add_argument("--case", action="append", default=[], choices=tuple(BY_NAME), help="this kind of job alone; may be repeated")
    real.add_argument("--lines", type=Path, default=LINES, metavar="FILE", help=f"where a line a job is appended (default: {LINES})")
    real.add_argument("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="folder of all runs (default: runs)")
    real.add_argument("--seed", type=int, default=1, metavar="N", help="orders, prompts and stops depend on it and the job's number")
    real.add_argument("--slices", type=int, default=SLICES, metavar="N", help=f"slices of a block (default: {SLICES})")
    real.add_argument(
        "--slice", type=float, default=SLICE_S, dest="slice_s", metavar="S", help=f"length of a slice (default: {SLICE_S:g} s)"
    )
    simulated = commands.add_parser("simulate", help="thousands of simulated jobs: false alarms and misses by noise")
    simulated.add_argument("--jobs", type=int, default=2000, metavar="N", help="jobs a level of noise (default: 2000)")
    simulated.add_argument("--seed", type=int, default=1, metavar="N", help="the same seed gives the same table (default: 1)")
    simulated.add_argument("--out", type=Path, default=SIMULATED, metavar="FILE", help=f"where the rows are written (default: {SIMULATED})")
    table = commands.add_parser("table", help="write the tables of docs/regressions.md from both files")
    table.add_argument("--lines", type=Path, default=LINES, metavar="FILE", help=f"the real jobs (default: {LINES})")
    table.add_argument("--simulated", type=Path, default=SIMULATED, metavar="FILE", help=f"the simulated ones (default: {SIMULATED})")
    table.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help=f"the page (default: {PAGE})")
    given = parser.parse_args(words)
    console, errors = consoles(machine_reads=False)
    try:
        if given.command == "simulate":
            from .prove_simulation import simulate

            rows = simulate(given.jobs, given.seed, lambda line: console.print(line, highlight=False))
            write_text(given.out, "".join(json.dumps(row | {"seed": given.seed}, ensure_ascii=False) + "\n" for row in rows))
            console.print("\n".join(simulated_table(rows)), markup=False, highlight=False, soft_wrap=True)
            return 0
        if given.command == "table":
            update_page(given.page, read_lines(given.lines), read_lines(given.simulated))
            return 0
        from .prove_jobs import run_jobs

        given.out.mkdir(parents=True, exist_ok=True)
        settings = {
            "seed": given.seed, "slices": given.slices, "slice_s": given.slice_s, "warm_up_s": WARM_UP_S, "out": given.out,
            "scenario": SCENARIO,
        }  # fmt: skip
        return run_jobs(given.lines, given.jobs, given.minutes, given.case, settings, console)
    except (BenchError, OSError, ValueError) as error:
        return refuse(errors, error)
