"""``python -m benchmarks capacity``: how many conversations at once, or how many a second, keep every objective.

The search is pure (``capacity_search``), so is what a probe is and answers (``capacity_probe``); here processes are started, watched and
stopped, one probe after another, and everything is written down after each.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from rich.console import Console

from loadtest.objectives import Objective, ObjectiveError, parse_all

from . import limits, options
from .capacity_probe import RATE_STEP, Experience, Question, find, first_guess, load_of, lowest_level, pool_of, with_objectives
from .capacity_result import Made, Result, print_result, print_step, write_result
from .capacity_search import Answer, Ask, End, Kind, Limits, Probe, bracket, decide, probes_left
from .capacity_watch import Watch
from .keys import ScenarioError
from .processes import Interrupts, Processes
from .reachability import shown
from .runner import BenchError, Conductor, Plan, check_machine, new_folder, reach
from .scenario import Run, read, with_adapter
from .scenario import find as find_scenario
from .suite import Outcome
from .terminal import complain, consoles, refuse

DESCRIPTION: Final = (
    "Finds the most concurrent conversations (or, with --rate, the most conversations a second) at which all objectives hold: doubling, "
    "then bisection, both ends confirmed by a second probe. docs/capacity.md says how it decides. Exit code: 0 found, 2 wrong option or "
    "limits, 10 the objectives do not hold even at the lowest level, 11 at least the level that held (the generator's limit, or out of "
    "probes), 130 interrupted; what was measured is kept and drawn."
)
EXIT_CODES: Final = {Kind.FOUND: 0, Kind.CEILING: 0, Kind.BELOW: 10, Kind.GENERATOR: 11, Kind.UNFINISHED: 11}
VARIED: Final = ("users", "run_time_s", "spawn_rate", "warm_up_s", "idle_share", "connect_rate_per_s", "record_tokens", "rate_per_s")
"""Keys of a load that a probe sets itself, or that would spoil it."""
OVERHEAD_S: Final = 6.0
"""What a probe takes beside its load, before one has shown it: start, drain, summary."""
DEFAULT_START: Final = 10
MOST_USERS: Final = 1_000_000


def main(words: Sequence[str]) -> int:
    """The command; returns the exit code by the one table of outcomes."""
    words, extra = options.split(words)
    given = parser().parse_args(words)
    console, errors = consoles(given.json)
    try:
        search = prepare(given, tuple(extra))
        result = search.run(errors)
        print_result(result, console)
        if given.json:
            sys.stdout.write(result.text() + "\n")
        return result.exit_code
    except (ScenarioError, ObjectiveError) as error:
        complain(errors, error)
        return 2
    except BenchError as error:
        return refuse(errors, error)


def parser() -> argparse.ArgumentParser:
    """The command's own options."""
    top = options.Parser(prog="python -m benchmarks capacity", description=DESCRIPTION)
    what = top.add_argument_group("what must hold")
    what.add_argument("--slo", action="append", default=[], metavar="OBJECTIVE", required=True,
                      help="such as ttft_p99=500ms, token_p99=100ms, stop_p99=300ms; may be repeated, or several with commas")  # fmt: skip
    what.add_argument("--errors", default="0.1%", metavar="SHARE", help="most that may fail, conversations and connects (default: 0.1%%)")
    what.add_argument("--rate", action="store_true", help="search for the highest arrival rate (open loop) instead of the most users")
    target = top.add_argument_group("against what, with which load")
    options.add_target(target)
    target.add_argument("--scenario", default="capacity", metavar="NAME|FILE", help="whose load is varied (default: capacity)")
    options.add_overrides(target, without=VARIED)
    target.add_argument("--server-option", action="append", default=[], metavar="NAME=VALUE",
                        help="an option of the reference server, such as cpu-us=500; may be repeated")  # fmt: skip
    target.add_argument("--seed", type=int, metavar="N", help="what is drawn depends on this")
    options.add_access(top.add_argument_group(options.FOREIGN))
    how = top.add_argument_group("how to search")
    how.add_argument(
        "--start", type=_positive, metavar="N", help=f"level of the first probe (default: {DEFAULT_START}, or what can be judged)"
    )
    how.add_argument(
        "--most", type=_positive, metavar="N", help="highest level to probe (default: what this machine's files and ports allow)"
    )
    how.add_argument("--within", type=_share, default=0.05, metavar="SHARE", help="how near the ends must come (default: 0.05)")
    how.add_argument("--shortest", type=_positive, default=10.0, metavar="S", help="seconds that a probe measures at least (default: 10)")
    how.add_argument("--longest", type=_positive, default=60.0, metavar="S",
                     help="and at most, where it is not a repeat: what needs longer is not probed (default: 60)")  # fmt: skip
    how.add_argument("--probes", type=int, default=40, metavar="N", help="end after so many (default: 40)")
    out = top.add_argument_group("where the results go")
    out.add_argument("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="folder of all runs (default: runs)")
    out.add_argument("--name", default="capacity", metavar="NAME", help="ends the name of the folder")
    out.add_argument("--json", action="store_true", help="the result on standard output, everything else on standard error")
    return top


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return value


def _share(text: str) -> float:
    value = _positive(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"expected a share below 1 such as 0.05 or 5%, found {text!r}")
    return value


def objectives_of(given: argparse.Namespace) -> tuple[Objective, ...]:
    """The objectives asked for, with the share of errors where they do not say it themselves."""
    found = parse_all(given.slo)
    return found if any(one.metric == "errors" for one in found) else (*found, *parse_all([f"errors={given.errors}"]))


def prepare(given: argparse.Namespace, extra: tuple[str, ...] = ()) -> Search:
    """What the options ask for; ScenarioError, ObjectiveError or BenchError when it cannot be done."""
    objectives = objectives_of(given)
    scenario = read(find_scenario(given.scenario), {k: v for k, v in options.overrides(given).items() if k not in VARIED})
    run = with_adapter(scenario.runs[0], *options.adapter(given))
    pairs = tuple(_pair(text) for text in given.server_option)
    run = dataclasses.replace(run, target=dataclasses.replace(run.target, options=(*run.target.options, *pairs)))
    question = Question(objectives, with_objectives(run.load, objectives), given.rate, given.shortest, max(given.shortest, given.longest))
    plan = Plan(given.name, (run,), given.out, given.host, options.access(given), given.seed, extra=extra, server=options.server(given))
    known = first_guess(question.load)
    lowest = lowest_level(question, known)
    highest = question.level(given.most) if given.most else highest_level(question, run, plan, known)
    start = max(lowest, min(highest, question.level(given.start if given.start else DEFAULT_START)))
    if lowest > highest:
        raise BenchError(
            f"the objectives need at least {question.text(lowest)} to be judged in {question.longest_s:g} s, and at most "
            f"{question.text(highest)} may be probed: give a longer --longest, or a higher --most",
            2,
        )
    probes = max(1, given.probes)
    return Search(plan, run, question, Limits(start, lowest, highest, given.within, probes=probes), known, bool(given.most))


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name.strip("-"):
        raise BenchError(f"expected an option of the reference server as NAME=VALUE, found {text!r}", 2)
    return name.lstrip("-").replace("-", "_"), value if equals else "true"


def highest_level(question: Question, run: Run, plan: Plan, known: Experience) -> int:
    """The highest level for which this machine has files, ports and memory."""

    def allowed(level: int) -> bool:
        value = question.value(level)
        users = pool_of(value, known) if question.by_rate else level
        return users <= MOST_USERS and not limits.check_connections(
            users, processes=question.load.processes, server_processes=run.target.processes, sources=question.load.source_addresses,
            target=urlsplit(plan.host or "").hostname or "", own_server=plan.own_server,
        )  # fmt: skip

    low, high = 1, 2
    while allowed(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low


@dataclasses.dataclass(slots=True)
class Search:
    """One search: ``run`` makes probe after probe until ``decide`` ends it, or somebody else does."""

    plan: Plan
    scenario: Run
    question: Question
    limits: Limits
    known: Experience
    most_given: bool = False
    made: list[Made] = dataclasses.field(default_factory=list)
    _overhead_s: float = OVERHEAD_S

    def run(self, console: Console) -> Result:
        """All probes; BenchError when the first cannot be made, else the result, also after Ctrl-C."""
        check_machine(dataclasses.replace(self.plan, runs=(self._run_of(self.limits.start, 0, 1),)))
        if self.plan.host is not None:
            reach(self.plan.host, self.plan.access, http=bool(self.scenario.adapter))
        folder = new_folder(self.plan.out, self.plan.name)
        started, began = datetime.now(UTC), time.monotonic()
        failure: BenchError | None = None
        with Interrupts() as interrupts, Processes() as processes:
            while isinstance(step := decide(self._probes(), self.limits), Ask) and not interrupts.asked():
                try:
                    outcome, made = self.probe(step, folder, processes, interrupts, console)
                except BenchError as error:
                    failure = error
                    break
                if interrupts.asked():
                    # Its figures are those of a run that was cut: kept, but no answer.
                    break
                self.made.append(made)
                print_step(made, self.question, console)
                self._overhead_s = (self._overhead_s + max(0.0, outcome.seconds - made.load_s)) / 2
                self._write(folder, step, started, began)
        end = step if isinstance(step, End) else End(Kind.UNFINISHED, *bracket(self._probes(), self.limits))
        if failure is not None and not self.made:
            raise failure
        code = 130 if interrupts.asked() else failure.exit_code if failure else EXIT_CODES[end.kind]
        if end.kind is Kind.CEILING and not self.most_given:
            code = 11
        return self._write(folder, end, started, began, code, str(failure) if failure else None)

    def probe(self, step: Ask, folder: Path, processes: Processes, interrupts: Interrupts, console: Console) -> tuple[Outcome, Made]:
        """One probe from the server's start to its answer; BenchError when there is none."""
        number = len(self.made) + 1
        run = self._run_of(step.level, step.attempt, number)
        measured_s = run.load.seconds - run.load.warm_up_s
        watch = Watch(
            folder / run.name, self.question.objectives, run.load.users_max, run.load.warm_up_s, measured_s, self.question.by_rate
        )
        conductor = Conductor(self.plan, run, folder, processes, interrupts, console, watch.look)
        load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        outcome = conductor.conduct(self._title(step, number), charts=False)
        if interrupts.count:
            return outcome, Made(number, step, Answer.INVALID, "interrupted", run.name, run.load.seconds)
        if outcome.summary is None or outcome.exit_code in (1, 2):
            message = "\n".join(outcome.messages) or f"probe {number} has no summary; see {outcome.directory}"
            raise BenchError(f"probe {number} ({self.question.text(step.level)}): {message}", outcome.exit_code or 1)
        found = find(self.question, outcome.summary, conductor.aborted)
        self.known = self.known.after(outcome.summary, self.question.value(step.level))
        made = Made(
            number, step, found.answer, found.reason, run.name, run.load.seconds, conductor.aborted, found.judgements, outcome.summary,
            load_before,
        )  # fmt: skip
        return outcome, made

    def _probes(self) -> list[Probe]:
        return [Probe(made.step.level, made.answer) for made in self.made]

    def _run_of(self, level: int, attempt: int, number: int) -> Run:
        value = self.question.value(level)
        name = f"probe-{number:02d}-{value:.1f}".replace(".", "-") if self.question.by_rate else f"probe-{number:02d}-{level}"
        return dataclasses.replace(
            self.scenario, name=name, load=load_of(self.question, level, attempt, self.known), title=f"Probe: {self.question.text(level)}"
        )

    def _title(self, step: Ask, number: int) -> str:
        low, high = bracket(self._probes(), self.limits)
        known = " · ".join([*([f"holds {self._short(low)}"] if low else []), *([f"not {self._short(high)}"] if high else [])])
        left = probes_left(self._probes(), self.limits)
        each = self._overhead_s + load_of(self.question, step.level, step.attempt, self.known).seconds
        eta = f"about {max(1, round(left * each / 60))} min left" if low or high else ""
        return " · ".join(part for part in (f"probe {number}: {self.question.text(step.level)}, {step.why}", known, eta) if part)

    def _target(self) -> str | None:
        if self.plan.host is not None:
            return shown(self.plan.host)
        return shlex.join(self.plan.server.words) if self.plan.server is not None else None

    def _short(self, level: int) -> str:
        return f"{level * RATE_STEP:.1f}/s" if self.question.by_rate else str(level)

    def _write(
        self, folder: Path, end: End | Ask, started: datetime, began: float, code: int | None = None, failure: str | None = None
    ) -> Result:
        result = Result(
            folder, self.question, self.limits, self.scenario, self._target(), end if isinstance(end, End) else None, tuple(self.made),
            started, time.monotonic() - began, code, failure,
        )  # fmt: skip
        write_result(result)
        return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
