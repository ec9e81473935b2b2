"""What a capacity search came to: each probe, the sentence, JSON, terminal; the picture and the page are in ``capacity_page``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtest.environment import describe_machine, describe_revision, describe_versions
from loadtest.run_directory import write_text
from reports.slo import Judgement, shown
from reports.units import ABSENT, significant

from .capacity_probe import Question
from .capacity_search import Answer, Ask, End, Kind, Limits, Probe, contradictions
from .scenario import Run

SCHEMA_VERSION: Final = 1
# 1: first.
COLOURS: Final = {Answer.MET: "green", Answer.MISSED: "red", Answer.UNCERTAIN: "yellow", Answer.INVALID: "magenta"}
CONFIDENCE: Final = (
    "At a level that holds, the upper end of every objective's 95 % interval was inside its bound (97.5 % one-sided, each objective by "
    "itself; shares of errors as counted), in more probes than the opposite. Both ends of the bracket rest on two probes or more."
)


@dataclass(frozen=True, slots=True)
class Made:
    """One probe that was made."""

    number: int
    step: Ask
    answer: Answer
    reason: str
    path: str
    load_s: float
    aborted: str | None = None
    judgements: tuple[Judgement, ...] = ()
    summary: dict[str, Any] | None = None
    load_average: float | None = None

    @property
    def goodput_per_s(self) -> float | None:
        """Conversations a second that ended well and kept every limit; None where it was not measured."""
        rate = ((self.summary or {}).get("goodput") or {}).get("rate") or {}
        value = rate.get("value")
        return None if value is None else float(value)

    def as_dict(self, question: Question) -> dict[str, Any]:
        """For ``capacity.json``; times in seconds, rates a second."""
        summary = self.summary or {}
        rates, window, load = summary.get("rates") or {}, summary.get("window") or {}, summary.get("load") or {}
        return {
            "number": self.number, "level": question.value(self.step.level), "attempt": self.step.attempt, "why": self.step.why,
            "answer": str(self.answer), "reason": self.reason, "aborted": self.aborted, "path": self.path, "load_s": self.load_s,
            "measured_s": window.get("steady_s"), "goodput_per_s": self.goodput_per_s,
            "conversations_per_s": rates.get("throughput_conversations"), "tokens_per_s": rates.get("throughput_tokens"),
            "offered_per_s": load.get("offered_per_s"), "achieved_per_s": load.get("achieved_per_s"),
            "generator_cpu_share": max((w["cpu_share"] or 0 for w in summary.get("instrument", {}).get("workers", ())), default=None),
            "server_cpu_share": summary.get("instrument", {}).get("server_cpu_share"), "load_average_before": self.load_average,
            "objectives": [one.as_dict() for one in self.judgements],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Result:
    """A search as far as it has come; ``end`` and ``code`` are None while it goes on."""

    folder: Path
    question: Question
    limits: Limits
    scenario: Run
    host: str | None
    end: End | None
    made: tuple[Made, ...]
    started: datetime
    seconds: float
    code: int | None
    failure: str | None = None

    @property
    def exit_code(self) -> int:
        """By the one table of outcomes."""
        return 11 if self.code is None else self.code

    @property
    def unit(self) -> str:
        """What a level counts."""
        return "conversations/s" if self.question.by_rate else "concurrent conversations"

    def sentences(self) -> list[str]:
        """The answer in words, the most important first."""
        end, text = self.end, self.question.text
        if end is None:
            return ["The search is under way."]
        low, high = text(end.low), text(end.high)
        objectives = ", ".join(str(one) for one in self.question.objectives)
        beyond = f", and not at {high}." if end.high else ", what is above is unknown."
        first = {
            Kind.FOUND: f"All objectives hold at {low}, and not at {high}.",
            Kind.CEILING: f"All objectives hold at {low}, the highest level that was to be probed: the capacity is at least that.",
            Kind.GENERATOR: f"All objectives hold at {low}: the capacity is at least that. {high} could not be judged, which is the "
            "generator's limit, not the server's; more generator processes (--processes), or another machine, go further.",
            Kind.BELOW: f"The objectives do not hold even at {high}, the lowest level that was to be probed.",
            Kind.UNFINISHED: f"Unfinished: all objectives hold at {low}{beyond}",
        }[end.kind]
        if end.low is None and end.kind is Kind.GENERATOR:
            first = f"{high} could not be judged: that is the generator's limit, not the server's. No level was shown to hold."
        if end.low is None and end.kind is Kind.UNFINISHED:
            first = "Unfinished: no level was shown to hold" + (f"; {high} does not." if end.high else ".")
        out = [first, f"Objectives: {objectives}."]
        if self.failure:
            out.append(f"It ended because a probe failed: {self.failure.splitlines()[0]}")
        reasons = {made.answer: made.reason for made in self.made if end.high is not None and made.step.level == end.high}
        if above := reasons.get(Answer.MISSED) or next(iter(reasons.values()), None):
            out.append(f"At {high}: {above}")
        if odd := contradictions([Probe(made.step.level, made.answer) for made in self.made], self.limits):
            levels = ", ".join(text(level) for level in odd)
            out.append(f"Not monotone: {levels} held although a lower level did not. What holds above it is not counted.")
        return out

    def as_dict(self) -> dict[str, Any]:
        """``capacity.json``."""
        end, value = self.end, self.question.value
        return {
            "schema_version": SCHEMA_VERSION, "unit": self.unit, "kind": None if end is None else str(end.kind),
            "capacity": None if end is None or end.low is None else value(end.low),
            "fails_at": None if end is None or end.high is None else value(end.high),
            "within": self.limits.within, "sentences": self.sentences(), "confidence": CONFIDENCE, "exit_code": self.code,
            "objectives": [str(one) for one in self.question.objectives],
            "goodput_limits": list(self.question.load.slo),
            "target": self.host or "the reference server", "scenario": self.scenario.as_dict(),
            "started_utc": self.started.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "took_s": round(self.seconds, 1),
            "path": str(self.folder), "probes": [made.as_dict(self.question) for made in self.made],
            "environment": describe_machine(), "versions": describe_versions(), "git": describe_revision(),
        }  # fmt: skip

    def text(self) -> str:
        """``capacity.json`` as text."""
        return json.dumps(self.as_dict(), ensure_ascii=False, indent=2, allow_nan=False)


def print_step(made: Made, question: Question, console: Console) -> None:
    """One line for one probe, as soon as it is known."""
    answer = f"[{COLOURS[made.answer]}]{made.answer:<9}[/]"
    figures = "  ".join(f"{one.objective.name} {shown(one.value, one.objective.unit)}" for one in made.judgements)
    text = f"{made.number:>3}  {question.text(made.step.level):<24} {answer}  {escape(figures)}"
    console.print(text, highlight=False, soft_wrap=True)
    if made.answer is not Answer.MET:
        console.print(f"     {escape(made.reason)}", style="dim", highlight=False, soft_wrap=True)


def print_result(result: Result, console: Console) -> None:
    """The table of the probes and the answer."""
    table = Table(title=f"capacity: {result.seconds:.0f} s", title_justify="left", box=None, pad_edge=False)
    for name in ("Level", "Probes", "Answer", *(one.name for one in result.question.objectives), "Goodput/s", "Measured"):
        table.add_column(name, justify="left" if name == "Answer" else "right", no_wrap=True)
    for level in sorted({made.step.level for made in result.made}):
        of_level = [made for made in result.made if made.step.level == level]
        last = of_level[-1]
        figures = [shown(one.value, one.objective.unit) for one in last.judgements] or [ABSENT] * len(result.question.objectives)
        steady = ((last.summary or {}).get("window") or {}).get("steady_s")
        table.add_row(
            f"{result.question.value(level):.1f}" if result.question.by_rate else str(level), str(len(of_level)),
            " ".join(f"[{COLOURS[made.answer]}]{made.answer}[/]" for made in of_level), *figures,
            ABSENT if last.goodput_per_s is None else significant(last.goodput_per_s), ABSENT if steady is None else f"{steady:.0f} s",
        )  # fmt: skip
    console.print()
    console.print(table)
    sentences = result.sentences()
    console.print(f"\n[bold]{escape(sentences[0])}[/]", highlight=False, soft_wrap=True)
    for sentence in sentences[1:]:
        console.print(escape(sentence), highlight=False, soft_wrap=True)
    console.print(f"\npage     {escape(str(result.folder / 'index.html'))}", highlight=False, soft_wrap=True)
    console.print(f"figures  {escape(str(result.folder / 'capacity.json'))}", highlight=False, soft_wrap=True)


def write_result(result: Result) -> None:
    """Write ``capacity.json`` as far as the search has come; with its end also the picture and the page."""
    write_text(result.folder / "capacity.json", result.text() + "\n")
    if result.end is not None:
        # Imported late: drawing brings matplotlib, which the first probe need not wait for.
        from .capacity_page import write_page

        write_page(result)
