"""The options that say when conversations start, checked."""

from __future__ import annotations

import argparse
from pathlib import Path

from server.workloads import WORKLOADS

from .bounds import Bounds, SettingsError, check_choice
from .schedule import PROFILES, SPACINGS, SchedulePlan
from .trace import SPREADS, UNITS, Replay, TraceError, read_trace


def workload_of(options: argparse.Namespace) -> str | None:
    """The workload by name, or None; SettingsError for one that there is not."""
    name = check_choice("workload", options.workload, ("none", *WORKLOADS))
    return None if name == "none" else name


def check_schedule(options: argparse.Namespace) -> SchedulePlan:
    """The open loop's schedule; SettingsError with one sentence for the first thing wrong."""
    low = Bounds(options)
    spacing = check_choice("arrivals", options.arrivals, SPACINGS)
    profile = check_choice("rate-profile", options.rate_profile, PROFILES)
    # A ramp or a spike may begin at nothing; a schedule that never asks for anything is a mistake.
    rate = low.number("rate", above=0 if profile == "flat" else None)
    peak = low.number("peak_rate", above=0 if profile != "flat" and rate == 0 else None)
    if profile == "sine" and peak < rate:
        raise SettingsError(f"expected --peak-rate of at least the {rate:g} of --rate with --rate-profile sine, got {peak:g}")
    workload = workload_of(options)
    if spacing == "workload" and workload is None:
        raise SettingsError(f"expected --workload {' or '.join(WORKLOADS)} with --arrivals workload, got none")
    return SchedulePlan(
        spacing=spacing, rate_per_s=rate, burstiness=low.number("burstiness", above=0), profile=profile, peak_per_s=peak,
        start_s=low.number("profile_start"), length_s=low.number("profile_length", above=0), free_count=bool(options.free_count),
        workload=workload, replay=_replay(options, low, spacing),
    )  # fmt: skip


def _replay(options: argparse.Namespace, low: Bounds, spacing: str) -> Replay | None:
    if not options.trace_file:
        if spacing == "trace":
            raise SettingsError("expected --trace-file with --arrivals trace, got none")
        return None
    if spacing != "trace" or options.loop != "open":
        raise SettingsError("expected --loop open --arrivals trace with --trace-file, or it would not be replayed")
    try:
        trace = read_trace(Path(options.trace_file), check_choice("trace-unit", options.trace_unit, ("auto", *UNITS)))
    except TraceError as error:
        raise SettingsError(str(error)) from None
    start = low.number("trace_start")
    if start * 1e9 >= trace.length_ns:
        raise SettingsError(f"expected --trace-start within the {trace.length_ns / 1e9:g} s of the trace, got {start:g}")
    tick = None if options.trace_tick_ms == -1 else round(low.number("trace_tick_ms") * 1e6)
    return Replay(
        trace, low.number("trace_speed", above=0), start, bool(options.trace_repeat),
        check_choice("trace-spread", options.trace_spread, SPREADS), tick,
    )  # fmt: skip
