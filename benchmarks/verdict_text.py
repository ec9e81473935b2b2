"""How is a verdict told? One sentence, a pull-request comment in Markdown with a table and a small chart, JUnit, annotations. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

from reports.units import ABSENT, duration, significant

from .check_plan import BASE, HEAD
from .verdict import IMPROVED, INCONCLUSIVE, INFORMATIONAL, INVALID, PASS, REGRESSED, UNDECIDED, percent

Verdict = Mapping[str, Any]
WORDS: Final[Mapping[str, str]] = {
    PASS: "pass", REGRESSED: "**regressed**", IMPROVED: "improved", UNDECIDED: "undecided", INFORMATIONAL: ABSENT,
}  # fmt: skip
MARKS: Final[Mapping[str, str]] = {PASS: "✅", REGRESSED: "❌", INCONCLUSIVE: "⚪", INVALID: "⚠️"}
CHART_COLUMNS: Final = 56


def sentence(verdict: Verdict) -> str:
    """The verdict in one sentence."""
    blocks, outcome = verdict["blocks"], verdict["verdict"]
    if outcome == INVALID:
        return f"No verdict: {'; '.join(verdict['reasons'])}."
    rows = verdict["gates"]
    better = [row for row in rows if row["verdict"] == IMPROVED]
    if outcome == PASS:
        excluded = ", ".join(f"{row['title']} {percent(row['matters'])}" for row in rows)
        gain = "; " + ", ".join(f"{row['title']} improved by {percent(row['change'])}" for row in better) if better else ""
        return f"Head is not slower by an amount that matters: {blocks} blocks exclude {excluded}{gain}."
    reasons = "; ".join(verdict["reasons"])
    if outcome == REGRESSED:
        return f"Head is slower than base: {reasons}, found in {blocks} blocks. A candidate until it repeats in a fresh job."
    return f"Inconclusive after {blocks} blocks: {reasons}."


def title(verdict: Verdict) -> str:
    """The verdict in a word, with its mark."""
    return f"{MARKS[verdict['verdict']]} Streaming performance: {verdict['verdict']}"


def value_text(value: float | None, unit: str) -> str:
    """A figure with its unit."""
    if value is None:
        return ABSENT
    return duration(value) if unit == "ns" else significant(value)


def interval_text(row: Mapping[str, Any]) -> str:
    """The estimated change with the two bounds that decide."""
    if row["change"] is None:
        return ABSENT
    if row["low"] is None or row["high"] is None:
        return percent(row["change"])
    return f"{percent(row['change'])} ({percent(row['low'])} … {percent(row['high'])})"


def markdown(verdict: Verdict) -> str:
    """The comment for a pull request: one sentence, one table, one small chart, and how to read them folded away."""
    lines = [f"### {title(verdict)}", "", sentence(verdict), ""]
    rows = [*verdict["gates"], *verdict["informational"]]
    if rows:
        lines += ["| metric | base | head | change (interval) | tolerance | verdict |", "|---|--:|--:|:--|--:|---|"]
        for row in rows:
            tolerance = percent(row["tolerance"]) if "tolerance" in row else ABSENT
            lines.append(
                f"| {row['title']} | {value_text(row[BASE], row['unit'])} | {value_text(row[HEAD], row['unit'])} | {interval_text(row)} "
                f"| {tolerance} | {WORDS[row['verdict']]} |"
            )
        lines.append(_errors_row(verdict["errors"]))
        if chart := text_chart(verdict["gates"]):
            lines += ["", "```text", *chart, "```"]
    lines += ["", *_fine_print(verdict), ""]
    return "\n".join(lines)


def _errors_row(errors: Mapping[str, Any] | None) -> str:
    if errors is None:
        return f"| failed conversations | {ABSENT} | {ABSENT} | {ABSENT} | {ABSENT} | {ABSENT} |"
    cells = [f"{errors['failed'][arm]} of {errors['tried'][arm]}" for arm in (BASE, HEAD)]
    return f"| failed conversations | {cells[0]} | {cells[1]} | {ABSENT} | {ABSENT} | {WORDS[errors['verdict']]} |"


def text_chart(gates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Intervals of the gates beside zero, their tolerance and the change that matters, as lines of text."""
    drawn = [row for row in gates if row["change"] is not None and row["low"] is not None and row["high"] is not None]
    if not drawn:
        return []
    width = max(len(row["title"]) for row in drawn)
    low: float = min(-0.02, *(row["low"] for row in drawn))
    high: float = max(0.02, *(max(row["high"], row["matters"]) for row in drawn))
    # One outlying bound must not squeeze everything else into a column: beyond twice what matters an arrow says that it goes on.
    limit: float = 2 * max(row["matters"] for row in drawn)
    low, high = max(low, -limit), min(high, limit)

    def column(change: float) -> int:
        return round((min(max(change, low), high) - low) / (high - low) * (CHART_COLUMNS - 1))

    def overlay(marks: Sequence[tuple[float, str]], line: list[str]) -> str:
        for change, mark in marks:
            line[column(change)] = mark
        return "".join(line).rstrip()

    lines = []
    for row in drawn:
        line = [" "] * CHART_COLUMNS
        line[column(0.0)] = "│"
        for mark, change in (("┊", row["tolerance"]), ("┃", row["matters"])):
            line[column(change)] = mark
        first, last = column(row["low"]), column(row["high"])
        line[first : last + 1] = ["─"] * (last - first + 1)
        beyond = "▶" if row["change"] > high else "◀" if row["change"] < low else "●"
        ends = [(row["low"], "◀" if row["low"] < low else "├"), (row["high"], "▶" if row["high"] > high else "┤"), (row["change"], beyond)]
        lines.append(f"{row['title']:>{width}}  {overlay(ends, line)}")
    axis = [" "] * (CHART_COLUMNS + 8)
    for change in dict.fromkeys((low, 0.0, high)):
        label = "0" if change == 0 else percent(change)
        start = max(0, min(column(change) - len(label) // 2, CHART_COLUMNS + 8 - len(label)))
        if all(one == " " for one in axis[max(0, start - 1) : start + len(label) + 1]):
            axis[start : start + len(label)] = label
    return [
        *lines,
        f"{'':>{width}}  {''.join(axis).rstrip()}",
        f"{'':>{width}}  │ no change   ┊ tolerance   ┃ change that matters   ● estimate",
    ]


def _fine_print(verdict: Verdict) -> list[str]:
    base, head = verdict["base"], verdict["head"]
    fresh = "" if verdict["fresh"] else (
        " The servers were not started fresh for each block: what one start happens to be like is not averaged out."
    )  # fmt: skip
    return [
        "<details><summary>How to read this</summary>",
        "",
        f"Base: `{_code(base['label'])}`. Head: `{_code(head['label'])}`. Both were measured in turns on one machine, slice by slice; a "
        "change is head against base in service time, estimated over blocks (Hodges-Lehmann). The interval's lower end decides whether "
        "it regressed (above the tolerance), its upper end whether it passed (below the change that matters); both are exact and hold "
        f"for all planned looks together ({', '.join(map(str, verdict['looks']))} blocks).{fresh}",
        "",
        "</details>",
    ]


def _code(text: str) -> str:
    return text.replace("`", "'").replace("\n", " ")


def junit(verdict: Verdict) -> str:
    """One test case a gate, for CI systems that read JUnit XML: regressed fails, undecided is skipped, invalid is an error."""
    outcome = verdict["verdict"]
    cases: list[str] = []
    rows: list[tuple[str, str, str | None]] = [(row["title"], row["verdict"], row["reason"]) for row in verdict["gates"]]
    if verdict["errors"] is not None:
        rows.append(("failed conversations", verdict["errors"]["verdict"], verdict["errors"]["reason"]))
    broken = [rule for rule in verdict["host"] if not rule["holds"]]
    rows.append(("machine", PASS if not broken else UNDECIDED, "; ".join(rule["sentence"] for rule in broken) or None))
    counts = {"failure": 0, "skipped": 0, "error": 0}
    for name, found, reason in rows:
        kind = "failure" if found == REGRESSED else "skipped" if found == UNDECIDED else None
        inside = ""
        if kind is not None:
            counts[kind] += 1
            inside = f"<{kind} message={quoteattr(reason or found)}/>"
        cases.append(f'  <testcase classname="streamgauge.check" name={quoteattr(name)}>{inside}</testcase>')
    if outcome == INVALID:
        counts["error"] += 1
        cases.append(f'  <testcase classname="streamgauge.check" name="verdict"><error message={quoteattr(sentence(verdict))}/></testcase>')
    head = f'<testsuite name="streamgauge regression check" tests="{len(cases)}" failures="{counts["failure"]}"'
    head += f' errors="{counts["error"]}" skipped="{counts["skipped"]}">'
    said = f"  <system-out>{escape(sentence(verdict))}</system-out>"
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', head, *cases, said, "</testsuite>", ""])


def annotation(verdict: Verdict, shadow: bool = False) -> str:
    """One workflow command of GitHub Actions: an error, a warning or a notice; in shadow mode never an error."""
    kind = {PASS: "notice", REGRESSED: "warning" if shadow else "error"}.get(verdict["verdict"], "warning")

    def data(text: str) -> str:
        return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    name = data(f"Streaming performance: {verdict['verdict']}").replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={name}::{data(sentence(verdict))}"


def so_far(gates: Sequence[Mapping[str, Any]]) -> str:
    """The estimates so far in one line."""
    known = [row for row in gates if row["change"] is not None and math.isfinite(row["change"])]
    return "   ".join(f"{row['title']} {percent(row['change'])}" for row in known)
