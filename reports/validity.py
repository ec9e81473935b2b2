"""Whether a run may be believed: each rule a function, with its reason and its limit; and what was found about the target.

A rule compares harm with what is measured, so that a noisy machine alone breaks none: with kernel stamps a late read moves neither
`ttft` nor `token_latency`, and a busy generator spoils a run only once its own delay or its own ceiling is what the figures show.
A broken rule makes the run invalid: never reported as slow, never as fine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .findings import COALESCED_SHARE, find_findings
from .load import Run
from .measures import gap_metric
from .units import count, duration, plural, share

# Where each limit comes from stands in LIMITS below, and so in docs/validity.md.
CPU_LIMIT = 0.9
LAG_SHARE_LIMIT = 0.5
TAINTED_LIMIT = 0.25
LATE_LIMIT = 0.15
CLOCK_STEP_SHARE = 0.1
CLAMPED_LIMIT = 1e-4


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule saw; ``applies`` is False where the run has nothing to judge by it."""

    broken: bool
    measured: str
    limit: str
    sentence: str
    applies: bool = True


@dataclass(frozen=True, slots=True)
class Rule:
    """A named condition; ``reason`` says why breaking it spoils the figures."""

    name: str
    title: str
    reason: str
    check: Callable[[Run, Mapping[str, Any]], Outcome]


def _nothing(limit: str, why: str) -> Outcome:
    return Outcome(False, why, limit, "", applies=False)


def check_status(run: Run, summary: Mapping[str, Any]) -> Outcome:
    """The run has to have ended as planned."""
    status, reasons = summary["run"]["status"], summary["run"]["status_reasons"]
    told = ": " + "; ".join(map(str, reasons)) if reasons else ""
    return Outcome(status != "complete", str(status), "complete", f"The run is {status}{told}.")


def check_workers(run: Run, summary: Mapping[str, Any]) -> Outcome:
    """Every expected worker has to have been seen to the end."""
    workers = summary["run"]["workers"]
    expected, seen, lost = workers.get("expected", 0), len(workers.get("seen") or []), workers.get("lost") or []
    sentence = f"{plural(expected, 'worker')} expected, {seen} seen, {len(lost)} lost" + (f" ({', '.join(lost)})." if lost else ".")
    return Outcome(seen < expected or bool(lost), f"{seen} seen, {len(lost)} lost", f"{expected} seen, 0 lost", sentence)


def check_records(run: Run, summary: Mapping[str, Any]) -> Outcome:
    """No byte of a raw file may have been damaged or cut off."""
    bad = {str(k): int(v) for k, v in (summary["run"]["workers"].get("bad_bytes") or {}).items() if v}
    bad |= {file.worker: file.bad_bytes for file in run.raw_files if file.bad_bytes}
    unended = [file.worker for file in run.raw_files if not file.ended and file.worker not in bad]
    total = sum(bad.values())
    parts = [f"{count(total)} bytes of {', '.join(sorted(bad))} could not be read"] if bad else []
    parts += [f"the record of {', '.join(unended)} has no end mark"] if unended else []
    return Outcome(
        bool(parts), f"{count(total)} bytes bad, {len(unended)} files without an end", "none", "; ".join(parts).capitalize() + "."
    )


def check_seconds(run: Run, summary: Mapping[str, Any]) -> Outcome:
    """Every worker's records have to cover the run from its start to the end of the drain."""
    missing = {w["worker"]: w["missing_s"] for w in summary["instrument"]["workers"] if w["missing_s"] is not None}
    if not missing:
        return _nothing("no second missing", "nothing recorded")
    worst = max(missing, key=lambda worker: missing[worker])
    sentence = f"The records of worker {worst} leave out {plural(missing[worst], 'second')}, and so does every figure."
    return Outcome(missing[worst] > 0, f"{missing[worst]} s missing", "no second missing", sentence)


def check_window(run: Run, summary: Mapping[str, Any]) -> Outcome:
    """There has to be something measured in the steady window."""
    window, counts = summary["window"], summary["counts"]
    tokens = summary["metrics"][gap_metric(summary)]["n"] + counts["conversations"]["in_window"]
    empty = not window["whole_seconds"] or not (tokens or counts["connections"]["succeeded"])
    what = f"{window['whole_seconds']} s, {plural(counts['conversations']['in_window'], 'conversation')}"
    return Outcome(empty, what, "at least a second and a connection", "Nothing was measured in the steady window: no connection, no token.")


def check_receive_lag(run: Run, summary: Mapping[str, Any]) -> Outcome:
    """Our acknowledgement delay must not be most of a gap (median against median, so that a few hiccups do not decide)."""
    gap, lag = summary["metrics"][gap_metric(summary)], summary["instrument"]
    typical = gap["percentiles"]["p50"]["value"]
    limit = f"{share(LAG_SHARE_LIMIT)} of the median gap"
    if (summary["run"]["load"].get("window", 1) or 0) == 0 and lag["clock"] == "kernel":
        return _nothing(limit, "not acknowledged: the lag enters no figure")
    ours = lag["receive_lag_p50_ns"]
    source = "median receive lag"
    if lag["clock"] != "kernel":
        # Without stamps the lag cannot be seen token by token; the loop's worst lag of each second stands in for it.
        worst = run.intervals.loc[run.intervals["second"].isin(run.window.seconds), "loop_lag_max_ns"].median()
        ours, source = (None if np.isnan(worst) else float(worst)), "median of each second's longest loop lag"
    if not typical or ours is None:
        return _nothing(limit, "too few tokens")
    sentence = (
        f"The {source} ({duration(ours)}) is {share(ours / typical)} of the median gap between tokens ({duration(typical)}): "
        "gaps and conversation times show the generator, not the target."
    )
    return Outcome(ours > LAG_SHARE_LIMIT * typical, f"{duration(ours)} beside {duration(typical)}", limit, sentence)


def check_generator_cpu(run: Run, summary: Mapping[str, Any]) -> Outcome:
    """No generator process may have used up its core: the rates it reached would be its own limit."""
    used = {w["worker"]: w["cpu_share"] for w in summary["instrument"]["workers"] if w["cpu_share"] is not None}
    limit = f"below {share(CPU_LIMIT)} of a core"
    if not used:
        return _nothing(limit, "not recorded")
    worst = max(used, key=lambda worker: used[worker])
    sentence = f"Worker {worst} used {share(used[worst])} of a core: its throughput is the generator's ceiling; use more processes."
    return Outcome(used[worst] >= CPU_LIMIT, share(used[worst]), limit, sentence)


def check_tainted(run: Run, summary: Mapping[str, Any]) -> Outcome:
    """Of the conversations under way in the steady window not many may have been left out because the generator stalled over them."""
    table, window = run.conversations, run.window
    # Not only those that started in it: the tokens of one that started before are left out of it too.
    ended = table["end_at_ns"].fillna(table["last_token_at_ns"]).fillna(table["sent_at_ns"]).to_numpy(dtype=np.float64)
    under_way = (run.starts_ns() < window.steady_end_ns) & (ended >= window.warm_up_end_ns) & ~run.set_apart()
    inside, tainted = int(under_way.sum()), int((under_way & ~run.untainted()).sum())
    limit = f"at most {share(TAINTED_LIMIT)}"
    if not inside:
        return _nothing(limit, "no conversation in the window")
    part = tainted / inside
    sentence = (
        f"{plural(tainted, 'conversation')} of {count(inside)} ({share(part)}) overlapped a stall of the generator and were kept out."
    )
    return Outcome(part > TAINTED_LIMIT, share(part), limit, sentence)


def check_late_starts(run: Run, summary: Mapping[str, Any]) -> Outcome:
    """Open loop: our own loop's lag must not have made conversations start late enough to show in `ttft_due` (a full pool is load)."""
    limit = f"p90 of ttft_due within {share(LATE_LIMIT)} of what it is without our lateness"
    table = run.conversations
    delays, due = table["send_delay_ns"].to_numpy(dtype=np.float64), table["due_at_ns"].to_numpy(dtype=np.float64)
    waited = table["ttft_due_ns"].to_numpy(dtype=np.float64)
    inside = ~np.isnan(delays) & ~np.isnan(waited) & (due >= run.window.warm_up_end_ns) & (due < run.window.steady_end_ns)
    if not inside.any():
        return _nothing(limit, "closed loop" if summary["load"]["loop"] != "open" else "too few conversations")
    delays, due, waited = delays[inside], due[inside], waited[inside]
    lag = run.intervals.groupby("second")["loop_lag_max_ns"].max()
    # What our loop can have caused: at most the longest lag of the seconds from due to sent.
    begin, end = np.floor(due / 1e9).astype(np.int64), np.floor((due + delays) / 1e9).astype(np.int64)
    own = np.minimum(delays, np.maximum(*(lag.reindex(at).fillna(0).to_numpy(dtype=np.float64) for at in (begin, end))))
    # A start that waited much longer than any lag waited for a free user.
    own = np.where(delays > 2 * own, 0, own)
    read, true = (float(np.quantile(values, 0.9, method="inverted_cdf")) for values in (waited, waited - own))
    sentence = (
        f"Conversations started late because the generator's own loop lagged: nine of ten waited up to {duration(read)} for their first "
        f"token, without our lateness up to {duration(true)}; the schedule was not kept."
    )
    return Outcome(read > (1 + LATE_LIMIT) * true, f"{duration(read)}, {duration(true)} without our lateness", limit, sentence)


def check_coalesced(run: Run, summary: Mapping[str, Any]) -> Outcome:
    """Messages read together share a stamp; when we were late enough to cause it, the gaps are ours."""
    part, lag = summary["instrument"]["coalesced_share"], summary["instrument"]["receive_lag_p99_ns"]
    limit = f"at most {share(COALESCED_SHARE)} while we read late"
    per_token = (summary["metrics"].get("tpot") or {}).get("percentiles", {}).get("p50", {}).get("value")
    if part is None or lag is None or not per_token:
        return _nothing(limit, "too few messages")
    sentence = (
        f"{share(part)} of the messages were read together with the one before while the generator read up to {duration(lag)} late "
        f"(p99), longer than a token takes ({duration(per_token)}): the gaps say nothing about the target."
    )
    return Outcome(part > COALESCED_SHARE and lag > per_token, f"{share(part)}, lag p99 {duration(lag)}", limit, sentence)


def check_clock(run: Run, summary: Mapping[str, Any]) -> Outcome:
    """The wall clock, which stamps arrivals, must not have been set by an amount that shows."""
    limit = f"{share(CLOCK_STEP_SHARE)} of the smallest median"
    step = summary["instrument"]["clock_step_max_ns"]
    if not step:
        return Outcome(False, "no step", limit, "")
    medians = [
        summary["metrics"].get(name, {}).get("percentiles", {}).get("p50", {}).get("value")
        for name in ("ttft", gap_metric(summary), "token_latency")
    ]
    smallest = min((value for value in medians if value), default=0)
    return Outcome(step > CLOCK_STEP_SHARE * smallest, duration(step), limit, f"The wall clock was set by {duration(step)} during the run.")


def check_clamped(run: Run, summary: Mapping[str, Any]) -> Outcome:
    """Values outside the histogram's range were counted at its edge; they must be too few to reach a printed percentile."""
    counts = summary["counts"]["tokens"]
    part = counts["clamped"] / max(1, counts["tokens"])
    sentence = f"{plural(counts['clamped'], 'value')} lay outside what can be recorded and were clamped ({share(part)} of the tokens)."
    return Outcome(part > CLAMPED_LIMIT, count(counts["clamped"]), f"at most {share(CLAMPED_LIMIT)} of the tokens", sentence)


def check_accounting(run: Run, summary: Mapping[str, Any]) -> Outcome:
    """Sent = ok + error + unknown with nothing unknown: rows, counters and, where nobody else used it, the server's counts agree."""
    counts = summary["counts"]["conversations"]
    wrong = []
    if counts["started"] != counts["rows"]:
        wrong.append(f"{count(counts['started'])} conversations started, {count(counts['rows'])} have a row")
    for outcome in ("completed", "stopped", "empty", "failed", "abandoned"):
        counted = int(run.intervals[f"conversations_{outcome}"].sum())
        if counted != counts[outcome]:
            wrong.append(f"{count(counted)} {outcome} were counted, {count(counts[outcome])} have a row")
    tokens = summary["counts"]["tokens"]
    if tokens["tokens"] != tokens["in_rows"]:
        wrong.append(f"{count(tokens['tokens'])} tokens were counted, {count(tokens['in_rows'])} stand in rows")
    wrong += _disagreements(summary)
    told = "; ".join(wrong)
    return Outcome(bool(wrong), plural(len(wrong), "disagreement"), "none", told[:1].upper() + told[1:] + ".")


def _disagreements(summary: Mapping[str, Any]) -> list[str]:
    """Where the counters of a server that was ours alone differ from ours by more than what a cut run leaves in flight."""
    server, abandoned = summary["server"], summary["counts"]["conversations"]["abandoned"]
    window = summary["run"]["load"].get("window", 1)
    wrong = []
    for row in server["beside_ours"] if server["exclusive"] else []:
        in_flight = 0 if row["what"] != "tokens" else abandoned * (window or 10**9)
        failed = summary["counts"]["conversations"]["failed"]
        if row["what"] == "tokens" and failed:
            # A conversation that broke off took an unknown number of tokens with it.
            continue
        if not 0 <= row["difference"] <= in_flight:
            wrong.append(f"the server counted {count(row['server'])} {row['what']}, we {count(row['ours'])}")
    return wrong


def check_generator_limit(run: Run, summary: Mapping[str, Any]) -> Outcome:
    """Connects must not have failed for want of descriptors or ports on this machine."""
    failed = summary["counts"]["connections"]["failed_by_kind"].get("generator_limit", 0)
    sentence = (
        f"{plural(failed, 'connect')} failed because this machine ran out of descriptors or ports: the load was not what was asked for."
    )
    return Outcome(failed > 0, count(failed), "none", sentence)


def check_thresholds(run: Run, summary: Mapping[str, Any]) -> Outcome:
    """Every figure that a threshold bounds has to be there, with samples enough to be printed."""
    thresholds = summary.get("thresholds")
    if not thresholds:
        return _nothing("every figure known", "no thresholds")
    unknown = [one for one in thresholds["results"] if one["state"] == "unknown"]
    told = "; ".join(f"{one['objective']} cannot be judged, {one['reason']}" for one in unknown)
    return Outcome(bool(unknown), f"{plural(len(unknown), 'figure')} unknown", "every figure known", told[:1].upper() + told[1:] + ".")


RULES: tuple[Rule, ...] = (
    Rule("status", "Run ended as planned", "A run that was cut or lost data shows what survived, not what happened.", check_status),
    Rule("workers", "All workers to the end", "A missing worker's load is missing too, so every rate and count is wrong.", check_workers),
    Rule("records", "Records whole", "Damaged records are left out, and what was left out may be what mattered.", check_records),
    Rule("seconds", "No second missing", "Seconds that nobody recorded are likely the worst ones.", check_seconds),
    Rule("window", "Something measured", "No figure can be read from nothing.", check_window),
    Rule(
        "receive_lag", "Receive lag small beside the gaps",
        "In acknowledged streams the next token waits for our acknowledgement, so our own delay is part of every gap.", check_receive_lag,
    ),
    Rule("generator_cpu", "Generator not saturated", "A generator without spare time measures itself.", check_generator_cpu),
    Rule("tainted", "Few conversations tainted", "What remains after leaving out many need not be what was run.", check_tainted),
    Rule("late_starts", "Starts on schedule", "An open loop that starts late hides waiting from response times.", check_late_starts),
    Rule("coalesced", "Stamps not shared by our lateness", "Gaps that our late reading made are not the target's.", check_coalesced),
    Rule("clock", "Clock not set", "Arrivals are stamped by the wall clock; setting it looks like latency.", check_clock),
    Rule("clamped", "No value out of range", "A clamped value is a wrong value.", check_clamped),
    Rule("accounting", "Books balance", "A conversation that is counted in one place only was lost in another.", check_accounting),
    Rule("generator_limit", "Own limits not reached", "Connects that this machine refused are not the target's.", check_generator_limit),
    Rule("thresholds", "Thresholds can be judged", "A threshold without its figure was neither kept nor broken.", check_thresholds),
)  # fmt: skip


def describe_rules() -> str:
    """The text of ``docs/validity.md``, in Markdown."""
    parts = [_INTRODUCTION, "| rule | what is asked | why |\n|---|---|---|\n"]
    for rule in RULES:
        parts.append(f"| `{rule.name}`: {rule.title} | {rule.check.__doc__} | {rule.reason} |\n")
    parts.append("\n## Limits\n\n| limit | value | where it comes from |\n|---|---|---|\n")
    parts += [f"| `{name}` | {value:g} | {source} |\n" for name, value, source in LIMITS]
    return "".join(parts)


LIMITS: tuple[tuple[str, float, str], ...] = (
    ("receive_lag", LAG_SHARE_LIMIT, "of the median gap: beyond a half, most of what is shown as a gap is our own delay"),
    ("generator_cpu", CPU_LIMIT, "of one core: the queue of a single thread grows tenfold there (M/M/1), and its rate is its own ceiling"),
    (
        "tainted",
        TAINTED_LIMIT,
        "of the conversations: one stall taints all under way, so some are common; beyond, the median of all may lie at the kept ones' p67",
    ),
    ("late_starts", LATE_LIMIT, "of p90 of `ttft_due`: more would pass for a slow target; of 30 healthy runs the worst stood at 7.6 %"),
    ("coalesced", COALESCED_SHARE, "of the messages: beyond a tenth, p90 of the gaps is made of shared stamps"),
    ("clock", CLOCK_STEP_SHARE, "of the smallest median: a smaller step is lost in the spread of the figure"),
    ("clamped", CLAMPED_LIMIT, "of the tokens: a tenth of the tail that p99.9 stands on"),
)

_INTRODUCTION = """# When a run is valid

<!-- Written by `python -m reports rules`; change reports/validity.py. -->

A run that breaks one of these rules is *invalid*: every output says so first, with the reason, and the exit code is 12. It is never
reported as slow, and never as fine. The rules compare harm with what is measured instead of asking for a quiet machine: with kernel
stamps a late read moves neither `ttft` nor `token_latency`. What a run says about the target (refused connects, failed or empty
conversations, ghost tokens, leaked connections, dropped arrivals) is a *finding* and does not make it invalid.

"""


def judge(run: Run, summary: Mapping[str, Any]) -> dict[str, Any]:
    """``valid``, the broken rules as ``reasons``, every rule with what it saw as ``rules``, and ``findings`` about the target."""
    rules = []
    for rule in RULES:
        outcome = rule.check(run, summary)
        rules.append(
            {
                "rule": rule.name, "title": rule.title, "reason": rule.reason, "broken": outcome.broken, "applies": outcome.applies,
                "measured": outcome.measured, "limit": outcome.limit, "sentence": outcome.sentence if outcome.broken else "",
            }
        )  # fmt: skip
    keys = ("rule", "title", "measured", "limit", "sentence")
    reasons = [{key: rule[key] for key in keys} for rule in rules if rule["broken"]]
    return {"valid": not reasons, "reasons": reasons, "findings": find_findings(summary), "rules": rules}
