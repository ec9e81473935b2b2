"""What the page and the terminal say about goodput, smoothness and thresholds, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .slo import shown
from .units import count, duration, plural, share, significant

Summary = Mapping[str, Any]
STATES = {"met": "ok", "missed": "broken", "unknown": "na"}
"""How each state of a threshold is marked on the page."""


def between(figure: Mapping[str, Any], unit: str) -> str:
    """An interval as ``low … high``; empty where there is none."""
    low, high = figure.get("low"), figure.get("high")
    return "" if low is None and high is None else f"{shown(low, unit)} … {shown(high, unit)}"


def threshold_rows(summary: Summary) -> list[dict[str, str]]:
    """The thresholds as rows of text."""
    thresholds = summary.get("thresholds")
    rows = []
    for one in thresholds["results"] if thresholds else []:
        value = shown(one["value"], one["unit"]) if one["value"] is not None else one["reason"]
        certain = "" if one["state"] == "unknown" or one["certain"] else "within the interval"
        note = one["reason"] if one["value"] is not None and one["reason"] else certain
        row = {"objective": one["objective"], "value": value, "range": between(one, one["unit"]), "note": note, "state": one["state"]}
        rows.append({**row, "style": STATES[one["state"]]})
    return rows


def thresholds_title(summary: Summary) -> str:
    """The state of all thresholds in a sentence."""
    thresholds = summary.get("thresholds")
    if not thresholds:
        return ""
    states = [one["state"] for one in thresholds["results"]]
    if thresholds["state"] == "met":
        return f"{plural(len(states), 'threshold')} met"
    parts = [f"{count(states.count(state))} {state}" for state in ("missed", "unknown") if state in states]
    return f"{', '.join(parts)} of {plural(len(states), 'threshold')}"


def goodput_text(summary: Summary) -> str:
    """Goodput in a sentence; empty where no objectives are stated."""
    goodput = summary.get("goodput")
    if not goodput:
        return ""
    part = goodput["share"]
    if part["value"] is None:
        return f"no conversation of which it is known whether it met {' and '.join(goodput['objectives'])}"
    missed = ", ".join(f"{count(n)} by {cause.replace('_', ' ')}" for cause, n in goodput["missed_by"].items())
    if goodput["dropped"]:
        missed += (", " if missed else "") + f"{count(goodput['dropped'])} dropped"
    told = f"{significant(goodput['rate']['value'] or 0)} conversations/s, {share(part['value'])} ({between(part, 'share')})"
    text = f"{told} met {' and '.join(goodput['objectives'])}" + (f"; missed: {missed}" if missed else "")
    return text + (f"; {count(goodput['unseen'])} cut before it could be seen" if goodput["unseen"] else "")


def smoothness_rows(summary: Summary) -> list[tuple[str, str]]:
    """Stalls, fluidity and fairness, a name and a text each."""
    rows = []
    if stalls := summary.get("stalls"):
        rows.append((f"gaps above {duration(stalls['threshold_ns'])}", count(stalls["stalls"])))
        rows.append(("conversations with one", f"{count(stalls['share']['count'])} ({share(stalls['share']['value'])})"))
    if fluidity := summary.get("fluidity"):
        pace = f"{duration(fluidity['reader_first_ns'])}, then {duration(fluidity['reader_gap_ns'])}"
        rows.append((f"tokens in time for a reader ({pace})", share(fluidity["tokens"])))
        low = fluidity["percentiles"]["p1"]
        rows.append(("fluidity, p1 of conversations", low["text"] if low["value"] is None else share(low["value"])))
    if served := summary.get("served"):
        rows.append((f"conversations served within {served['interval_s']} s", share(served["mean"])))
    if fairness := summary.get("fairness"):
        rows.append((f"Jain's index, mean of {plural(fairness['intervals'], 'interval')}", significant(fairness["mean"])))
        rows.append(("Jain's index, lowest", f"{significant(fairness['lowest'])} at {fairness['lowest_at_s']} s"))
    return rows


def quality_lines(summary: Summary) -> list[str]:
    """Goodput, stalls, fluidity and fairness for the terminal."""
    lines = []
    if text := goodput_text(summary):
        lines.append(f"goodput        {text}")
    stalls, fluidity, fairness = summary.get("stalls"), summary.get("fluidity"), summary.get("fairness")
    parts = []
    if stalls:
        where = f" in {share(stalls['share']['value'])} of the conversations" if stalls["stalls"] else ""
        parts.append(f"{plural(stalls['stalls'], 'gap')} above {duration(stalls['threshold_ns'])}{where}")
    if fluidity:
        parts.append(f"{share(fluidity['tokens'])} of the tokens in time for a reader")
    if (served := summary.get("served")) and served["mean"] < 1:
        parts.append(f"{share(served['mean'])} of the conversations served within {served['interval_s']} s")
    if fairness:
        parts.append(f"fairness {significant(fairness['mean'])} (lowest {significant(fairness['lowest'])})")
    return [*lines, f"smoothness     {', '.join(parts)}"] if parts else lines
