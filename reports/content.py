"""What a run's page says, as text and rows of text; the template only places it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from loadtest.metrics import BY_NAME, CONNECT_ERRORS, OUTCOMES

from .measures import headline_metric
from .quality import goodput_text, smoothness_rows, threshold_rows, thresholds_title
from .units import ABSENT, count, duration, in_unit, interval_text, milliseconds, percentile_text, plural, share, shown_unit, significant

COLUMNS = ("p50", "p90", "p95", "p99", "p99.9")
MOST_TILES = 7
_BYTES_PER_GIB = 1 << 30

Summary = Mapping[str, Any]
Rows = list[tuple[str, str]]


def content(summary: Summary) -> dict[str, Any]:
    """Everything the template places but the charts."""
    run, validity = summary["run"], summary["validity"]
    scenario = run["scenario"]
    judged = sum(rule["applies"] for rule in validity["rules"])
    return {
        "title": scenario.get("title") or scenario.get("name") or run["name"],
        "question": scenario.get("question") or "",
        "facts": _facts(summary),
        "validity": validity,
        "verdict": verdict_title(summary),
        "passed": f"All {judged} rules that apply were kept.",
        "tiles": _tiles(summary),
        "columns": COLUMNS,
        "metrics": metric_rows(summary),
        "footnote": _footnote(summary),
        "steps": _steps(summary),
        "headline": BY_NAME[headline_metric(summary)].title,
        "settle_note": _settle_note(summary),
        "thresholds": threshold_rows(summary),
        "thresholds_title": thresholds_title(summary),
        "goodput": goodput_text(summary),
        "errors": [error for table in ("connections", "conversations") for error in summary["errors"][table]],
        "counts": _counts(summary),
        "beside": [
            {"what": row["what"], **{name: count(row[name]) for name in ("server", "ours", "difference")}}
            for row in summary["server"]["beside_ours"]
        ],
        "calibration": _calibration(summary["calibration"]),
        "machine": _machine(summary),
        "versions": [(str(name), str(version)) for name, version in summary["versions"].items()] + _revision(summary),
        "generator": _generator(summary),
        "repeat": _repeat(summary),
        "options": json.dumps(run["options"], indent=2, ensure_ascii=False) if run["options"] else "",
    }


def verdict_title(summary: Summary) -> str:
    """``Valid run``, or what kind of not."""
    if summary["validity"]["valid"]:
        return "Valid run"
    status = summary["run"]["status"]
    return f"Invalid run ({status})" if status != "complete" else "Invalid run"


def _facts(summary: Summary) -> Rows:
    run, window, load = summary["run"], summary["window"], summary["load"]
    facts = [("Target", str(run["target"].get("url", ABSENT)))]
    if load["loop"] == "open":
        facts.append(("Load", f"open loop, {significant(load['stated_rate_per_s'] or 0)} conversations/s"))
    elif len(summary["steps"]) > 1:
        facts.append(("Load", f"closed loop, {', '.join(count(step['users']) for step in summary['steps'])} users"))
    elif load["users_max"]:
        facts.append(("Load", f"closed loop, {plural(int(load['users_max']), 'user')}"))
    warm_up = f" after {significant(window['warm_up_end_s'])} s warm-up" if window["warm_up_end_s"] else ""
    facts.append(("Measured", f"{significant(window['steady_s'])} s{warm_up}"))
    if run["started_utc"]:
        facts.append(("Started", str(run["started_utc"]).partition(".")[0].replace("T", " ").replace("Z", "") + " UTC"))
    return [*facts, ("Run", str(run["name"]))]


def _tile(name: str, value: str, unit: str = "", sub: str = "", *, absent: bool = False) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "sub": sub, "absent": absent}


def _latency_tile(name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    median, tail = figures["percentiles"]["p50"], figures["percentiles"]["p99"]
    known = median["value"] is not None
    sub = f"p99 {percentile_text(tail, 'ns')}" + (" ms" if tail["value"] is not None else "")
    return _tile(f"{name}, median", percentile_text(median, "ns"), "ms" if known else "", sub, absent=not known)


def _tiles(summary: Summary) -> list[dict[str, Any]]:
    """The few figures a reader looks at first: seven at most."""
    metrics, rates, steps = summary["metrics"], summary["rates"], [step for step in summary["steps"] if step["seconds"]]
    first_token = "ttft_due" if metrics.get("ttft_due", {}).get("n") else "ttft"
    headline = headline_metric(summary)
    tiles = []
    if len(steps) > 1:
        # One figure over all steps would be a mixture of loads: show the ends of the ladder.
        for step in (steps[0], steps[-1]):
            tiles.append(_latency_tile(f"{BY_NAME[headline].title} at {plural(step['users'], 'user')}", step[headline]))
        best = max(steps, key=lambda step: step["rates"]["throughput_tokens"] or 0)
        tiles.append(
            _tile("Tokens per second, most", in_unit(best["rates"]["throughput_tokens"], "1/s"), sub=f"at {plural(best['users'], 'user')}")
        )
    else:
        names = (headline, first_token)
        tiles += [_latency_tile(metrics[name]["title"], metrics[name]) for name in names if metrics.get(name, {}).get("n")]
    stop = summary["stop"]
    if stop["stopped"]:
        if metrics.get("stop_latency", {}).get("n"):
            tiles.append(_latency_tile("Stop latency", metrics["stop_latency"]))
        elif stop["by_closing"]:
            tiles.append(_tile("Stop latency", "not measurable", sub="a stop closes the connection: nothing comes back", absent=True))
        if stop["overrun_tokens_mean"] is not None:
            tiles.append(
                _tile("Tokens after a stop, mean", significant(stop["overrun_tokens_mean"]), sub=f"most {stop['overrun_tokens_max']}")
            )
    if len(steps) < 2 and rates["throughput_tokens"]:
        conversations = in_unit(rates["throughput_conversations"], "1/s")
        tiles.append(_tile("Tokens per second", significant(rates["throughput_tokens"]), sub=f"{conversations} conversations/s"))
    if goodput := summary.get("goodput"):
        part = goodput["share"]["value"]
        sub = f"{significant(goodput['rate']['value'] or 0)} conversations/s met all objectives"
        tiles.append(
            _tile(
                "Goodput", "n/a" if part is None else share(part).removesuffix(" %"), "" if part is None else "%", sub, absent=part is None
            )
        )
    connections = summary["counts"]["connections"]
    failed = f"{count(connections['failed'])} failed" if connections["failed"] else "none failed"
    tiles.append(_tile("Connections open, most", count(connections["open_max"]), sub=failed))
    return tiles[:MOST_TILES] if len(tiles) <= MOST_TILES else [*tiles[: MOST_TILES - 1], tiles[-1]]


def metric_rows(summary: Summary) -> list[dict[str, Any]]:
    """The rows of the table of figures, as text."""
    rows = []
    for name, figures in summary["metrics"].items():
        unit = figures["unit"]
        cells = [
            {
                "name": column,
                "text": percentile_text(entry, unit),
                "absent": entry["value"] is None,
                "range": interval_text(entry, unit),
                "own_delay": entry.get("own_delay", False),
            }
            for column, entry in ((column, figures["percentiles"][column]) for column in COLUMNS)
        ]
        notes = []
        if figures["n_effective"] and figures["n_effective"] < figures["n"]:
            notes.append(f"effective {count(figures['n_effective'])}")
        if figures.get("censored"):
            notes.append(f"censored {share(figures['censored_share'])}")
        rows.append(
            {
                "title": figures["title"],
                "unit": shown_unit(unit),
                "definition": BY_NAME[name].definition,
                "cells": cells,
                "n": count(figures["n"]),
                "notes": notes,
            }
        )
    return rows


def _footnote(summary: Summary) -> str:
    window = summary["window"]
    text = (
        f"Under each percentile stands its 95 % interval, read from the spread between {window['batches']} batches of "
        f"{plural(window['batch_s'], 'second')} or more, which carries the clustering of tokens in conversations. n/a (120 of 662): fewer "
        "independent samples than the percentile needs. Effective: how many independent samples the correlated ones are worth. Censored: "
        "cut before the value could be seen. Conversations count by their start and tokens by their arrival, both in the steady window; "
        "connects over the whole run."
    )
    marked = any(entry.get("own_delay") for figures in summary["metrics"].values() for entry in figures["percentiles"].values())
    return text + (" †: more than a quarter of it may be the generator's own acknowledgement delay; see receive lag." if marked else "")


def _steps(summary: Summary) -> list[list[str]]:
    metric = headline_metric(summary)
    rows = []
    for step in summary["steps"]:
        rates = step["rates"]
        rows.append(
            [
                count(step["users"]),
                count(step["seconds"]),
                in_unit(rates["throughput_tokens"], "1/s"),
                in_unit(rates["throughput_conversations"], "1/s"),
                *(percentile_text(step[name]["percentiles"][p], "ns") for name in (metric, "ttft") for p in ("p50", "p99")),
                percentile_text(step["receive_lag"]["percentiles"]["p99"], "ns"),
                count(step["failed"]),
            ]
        )
    return rows


def _settle_note(summary: Summary) -> str:
    settle = {significant(step["settle_s"]) for step in summary["steps"]}
    return f"The first {', '.join(sorted(settle))} s of each step are left out: connections open then." if settle else ""


def _counts(summary: Summary) -> list[dict[str, Any]]:
    counts, stop, load = summary["counts"], summary["stop"], summary["load"]

    def rows(group: str, names: list[str], always: set[str]) -> Rows:
        table = counts[group]
        return [(name.replace("_", " "), count(table[name])) for name in names if table[name] or name in always]

    names = ["attempted", "succeeded", "failed", "reconnects", "syn_retransmitted", "closed_clean", "closed_abnormal", "open_max"]
    connections = rows("connections", names, {"attempted", "failed"})
    connections += [(f"failed: {CONNECT_ERRORS.get(kind, kind)}", count(n)) for kind, n in counts["connections"]["failed_by_kind"].items()]
    connections += [(f"closed with {code}", count(n)) for code, n in counts["connections"]["closed_by_code"].items()]
    connections += holding_rows(summary)
    if smoothness := smoothness_rows(summary):
        groups_after = [{"title": "Smoothness in the window", "rows": smoothness}]
    else:
        groups_after = []
    names = ["tokens", "messages", "coalesced", "unstamped", "clamped", "ghost_tokens", "double_ends"]
    groups: list[dict[str, Any]] = [
        {"title": "Conversations", "rows": rows("conversations", ["started", *OUTCOMES, "unknown", "tainted"], {"started"})},
        {"title": "Connections", "rows": connections},
        {"title": "Tokens", "rows": rows("tokens", names, {"tokens"})},
    ]
    if stop["sent"]:
        stops = [("sent", stop["sent"]), ("took effect", stop["stopped"]), ("crossed the end", stop["crossed"])]
        stops.append(("by closing the connection", stop["by_closing"]))
        told = [(name, count(n)) for name, n in stops]
        unseen = stop["overrun_tokens_mean"] is None and stop["by_closing"] > 0
        told.append(("overrun tokens", "not measurable" if unseen else count(stop["overrun_tokens_total"])))
        groups.append({"title": "Stops in the window", "rows": told})
    if load["offered_per_s"] is not None:
        offered = [("offered/s", significant(load["offered_per_s"])), ("achieved/s", in_unit(load["achieved_per_s"], "1/s"))]
        groups.append({"title": "Load in the window", "rows": [*offered, ("dropped", count(load["dropped"]))]})
    return groups + groups_after


def holding_rows(summary: Summary) -> Rows:
    """What it took to open and to hold the connections, and the server's own count beside ours."""
    holding, leaked = summary.get("holding") or {}, summary["server"]["leaked_connections"]
    rows = []
    if holding.get("opening_rate_per_s"):
        rows.append(("opened a second", significant(holding["opening_rate_per_s"])))
    if holding.get("connects_per_s"):
        rows.append(("connected a second, in the window", significant(holding["connects_per_s"])))
    if holding.get("held"):
        rows.append(("held through the window", count(holding["held"])))
    if holding.get("server_difference_max") is not None:
        rows.append(("the server's count, apart at most", count(holding["server_difference_max"])))
    if leaked is not None:
        rows.append(("left open on the server", count(leaked)))
    for side in ("generator", "server"):
        each = holding.get(f"{side}_bytes_per_connection")
        if each is not None:
            rows.append((f"memory each, {side}", f"{significant(each / 1024)} KiB"))
    return rows


def _calibration(calibration: Any) -> str:
    if not isinstance(calibration, Mapping):
        return "None: this machine's readings have not been held against known answers. python -m benchmarks calibrate does that."
    when = calibration.get("ended_utc") or calibration.get("started_utc") or calibration.get("at_utc") or "at an unknown time"
    passed = calibration.get("passed")
    if passed is None:
        return str(when)
    worst = calibration.get("worst")
    nearest = f" Nearest to its bound: {worst['sentence']}." if isinstance(worst, Mapping) and worst.get("sentence") else ""
    if passed:
        return f"{when}: every known answer was read within its bound.{nearest}"
    names = ", ".join(map(str, calibration.get("failed") or ())) or "not told which"
    return f"{when}: some known answers were read wrongly ({names}). Do not trust figures of this machine before that is explained."


def _machine(summary: Summary) -> Rows:
    environment = summary["environment"]
    names = ("os", "kernel", "cpu_model", "cpu_count", "python")
    rows = [(name.replace("_", " "), str(environment[name])) for name in names if environment.get(name)]
    if environment.get("memory_bytes"):
        rows.append(("memory", f"{significant(environment['memory_bytes'] / _BYTES_PER_GIB)} GiB"))
    return rows or [("not recorded", "")]


def _revision(summary: Summary) -> Rows:
    git = summary["git"]
    return [("revision", f"{str(git.get('revision'))[:12]}{' with changes' if git.get('dirty') else ''}")] if git else []


def _generator(summary: Summary) -> Rows:
    instrument = summary["instrument"]
    rows = [("arrival clock", str(instrument["clock"] or ABSENT))]
    for worker in instrument["workers"]:
        used = worker["cpu_share"]
        rows.append((f"{worker['worker']}: CPU", ABSENT if used is None else f"{share(used)} of a core"))
        rows.append((f"{worker['worker']}: longest loop lag", duration(worker["loop_lag_max_ns"])))
    median, tail = milliseconds(instrument["receive_lag_p50_ns"]), milliseconds(instrument["receive_lag_p99_ns"])
    return [*rows, ("receive lag p50 / p99", f"{median} / {tail} ms"), ("coalesced", share(instrument["coalesced_share"]))]


def _repeat(summary: Summary) -> str:
    run = summary["run"]
    name = run["scenario"].get("name")
    lines = [f"make bench SCENARIO={name}    # seed {run['seed']}"] if name and name != "custom" else []
    return "\n".join([*lines, f"python -m reports build {run['path']}"])
