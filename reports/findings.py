"""What a run says about the target, or must be known when reading it. A finding does not make a run invalid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from loadtest.metrics import BEHAVIOURS

from .units import count, duration, plural, share, significant

COALESCED_SHARE = 0.1
"""Of the messages: beyond a tenth, p90 of the gaps is made of stamps that several messages shared."""
UNSTAMPED_SHARE = 0.01
"""Of the messages, where the kernel stamps: more could reach the p99 with read times."""
UNFAIR = 0.8
"""Of Jain's index: tokens that come at random stand at 0.91 in intervals of ten gaps; at 0.8 a fifth of the conversations gets nothing."""
UNSERVED = 0.5
"""Of the streaming conversations, in an interval in which each should get two tokens: below a half most of them stand still."""
LATE_STOP_TOKENS = 0.5
"""After a stop, in the mean. Stops fall between two tokens: where the gap is much longer than the way there and back, none should come."""
LATE_STOP_GAP_NS = 5e6
LATE_STOP_WAYS = 3
"""Gaps shorter than this many of the quickest TCP connect (a way there and back), or than 5 ms, say nothing about stops."""
SERIAL_GROWTH = 1.2
"""From one user on, twice the users must bring more than this much more tokens, or they wait for each other."""
SERVER_CPU_SHARE = 0.9
"""Of one core, as for the generator: the target's latencies are then those of a full queue."""


def find_findings(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the run says about the target (or must be known when reading it), each as kind, count and a sentence."""
    counts, instrument, server = summary["counts"], summary["instrument"], summary["server"]
    conversations, connections, tokens = counts["conversations"], counts["connections"], counts["tokens"]
    found: list[tuple[str, float, str]] = []

    def note(kind: str, number: float | None, sentence: str) -> None:
        if number:
            found.append((kind, number, sentence))

    for kind, n in connections["failed_by_kind"].items():
        if kind != "generator_limit":
            note(f"connect_{kind}", n, f"{plural(n, 'connect')} of {count(connections['attempted'])} failed: {kind}.")
    for error in summary["errors"]["conversations"]:
        what = f"{plural(error['count'], 'conversation')} of {count(conversations['started'])} failed: {error['kind']}"
        note(f"failed_{error['kind']}", error["count"], f"{what}; their times are in no percentile.")
    note("empty", conversations["empty"], f"{plural(conversations['empty'], 'conversation')} ended without a token.")
    note("ghost_tokens", tokens["ghost_tokens"], f"{plural(tokens['ghost_tokens'], 'token')} came when no conversation was running.")
    note("double_ends", tokens["double_ends"], f"{plural(tokens['double_ends'], 'end message')} came when no conversation was running.")
    note("closed_abnormal", connections["closed_abnormal"], f"{plural(connections['closed_abnormal'], 'connection')} closed abnormally.")
    note("abandoned", conversations["abandoned"], f"{plural(conversations['abandoned'], 'conversation')} cut by the end of the run.")
    inside, tainted = conversations["in_window"], conversations["in_window_tainted"]
    left_out = (
        f"{plural(tainted, 'conversation')} of {count(inside)} ({share(tainted / max(1, inside))}) overlapped a stall of the generator"
    )
    note("tainted", tainted, f"{left_out}: counted, but kept out of the figures.")
    for behaviour, seen in summary["behaviours"].items():
        ended = ", ".join(f"{count(n)} {outcome}" for outcome, n in seen["outcomes"].items())
        silence = "" if seen["silence_ns"] is None else f", ended {duration(seen['silence_ns'])} after their last token (p50)"
        apart = f"{plural(seen['conversations'], 'conversation')} set apart, {BEHAVIOURS[behaviour]}: {ended}{silence}."
        note(behaviour, seen["conversations"], apart)
    # Of the window where there is one: at the very end arrivals are cut whose users were just told to leave.
    arrivals = summary["load"].get("in_window") or summary["load"]
    due, dropped, late = (int(arrivals[name]) for name in ("due", "dropped", "late"))
    note("dropped", dropped, f"{plural(dropped, 'arrival')} of {count(due)} dropped: all users were in conversations.")
    note("late", late, f"{plural(late, 'arrival')} of {count(due)} found no free user and had to wait for one.")
    again = connections["syn_retransmitted"]
    note("syn_retransmitted", again, f"{plural(again, 'connect')} had to repeat the SYN: the target's listen queue was full.")
    stalls = summary.get("stalls")
    if stalls:
        part = stalls["share"]
        what = f"{plural(part['count'], 'conversation')} of {count(part['n'])} ({share(part['value'])}) had a gap above"
        note("stalls", stalls["stalls"], f"{what} {duration(stalls['threshold_ns'])}: {plural(stalls['stalls'], 'stall')} in all.")
    fairness = summary.get("fairness")
    if fairness and fairness["mean"] < UNFAIR:
        told = f"Jain's index {significant(fairness['mean'])} in the mean of {plural(fairness['intervals'], 'interval')}"
        note("unfair", fairness["mean"], f"Tokens were shared unevenly between conversations: {told}; one may be holding the others up.")
    served = summary.get("served")
    if served and served["mean"] < UNSERVED:
        told = f"In the mean {served['interval_s']} s only {share(served['mean'])} of {significant(served['conversations'])} streaming"
        note("unserved", served["mean"], f"{told} conversations got a token: they wait for one another, as behind a handler that blocks.")
    leaked = server["leaked_connections"]
    note("leaked", max(0, leaked or 0), f"The server still held {plural(leaked or 0, 'connection')} after all of ours had been closed.")
    if server["exclusive"] is False:
        note("not_exclusive", 1, "The server's counters include others' use: they are shown, but not held against ours.")
    busy = instrument.get("server_cpu_share")
    if busy is not None and busy >= SERVER_CPU_SHARE:
        note("server_cpu", busy, f"The server used {share(busy)} of a core: these are the latencies of a full queue.")
    if instrument["clock"] not in {"kernel", None}:
        note("user_clock", 1, "Arrivals are read times, not kernel stamps: the generator's own lateness is inside every figure.")
    elif (instrument["unstamped_share"] or 0) > UNSTAMPED_SHARE:
        note("unstamped", instrument["unstamped_share"], f"{share(instrument['unstamped_share'])} of the messages bore no kernel stamp.")
    part = instrument["coalesced_share"] or 0
    if part > COALESCED_SHARE:
        note("coalesced", part, f"{share(part)} of the messages came together with the one before: read their gaps as bounds.")
    settled, warm_up = summary["window"]["settled_at_s"], summary["window"]["warm_up_end_s"]
    if settled is not None and settled > warm_up + 1:
        note("not_settled", settled, f"The rate of tokens settled only at {settled:g} s, after the warm-up ({warm_up:g} s).")
    _note_late_stops(summary, note)
    _note_serial(summary, note)
    return [{"finding": kind, "measured": number, "sentence": sentence} for kind, number, sentence in found]


def _note_late_stops(summary: Mapping[str, Any], note: Callable[[str, float | None, str], None]) -> None:
    stop, metrics = summary["stop"], summary["metrics"]
    mean = stop.get("overrun_tokens_mean")
    gaps = metrics.get("itl") or metrics.get("inter_chunk") or {}
    gap_ns = (gaps.get("percentiles") or {}).get("p50", {}).get("value")
    way_ns = stop.get("way_ns")
    if mean is not None and gap_ns and way_ns and mean >= LATE_STOP_TOKENS and gap_ns >= max(LATE_STOP_GAP_NS, LATE_STOP_WAYS * way_ns):
        note("late_stop", mean, f"{significant(mean)} tokens came after each stop, in the mean: the server does not stop at once.")
    closed = stop.get("by_closing")
    note("stopped_by_closing", closed, f"{plural(closed or 0, 'stop')} closed the connection: nobody sees when the server heard of it.")


def _note_serial(summary: Mapping[str, Any], note: Callable[[str, float | None, str], None]) -> None:
    """Users of a ladder that wait for each other: the first step has few, and those after it bring no more tokens."""
    steps = [step for step in summary["steps"] if step["seconds"] and step["rates"]["throughput_tokens"]]
    if len(steps) < 2:
        return
    first, last = steps[0], steps[-1]
    before, after = (step["rates"]["throughput_tokens"] for step in (first, last))
    if last["users"] >= 2 * first["users"] and after < SERIAL_GROWTH * before:
        grew = f"From {plural(first['users'], 'user')} to {count(last['users'])} tokens a second went from {significant(before)} to"
        note("serial", after / before, f"{grew} {significant(after)}: conversations wait for each other, or the server was full already.")
