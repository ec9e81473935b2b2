"""What run.json says: of a run that begins, and of one that has ended."""

from __future__ import annotations

import argparse
import datetime
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .arrivals import SECOND_NS
from .calibration_record import last_calibration
from .redaction import redact_options, redact_table, redact_url
from .run_directory import RunDirectory
from .salvage import describe_unknown, take_descriptions, unknown
from .schedule import SchedulePlan
from .settings import Settings, SettingsError


def read_scenario(path: Path) -> dict[str, Any]:
    """The description of a scenario; SettingsError when it is none."""
    try:
        scenario = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read the scenario file {path}: {error}") from None
    if not isinstance(scenario, dict) or not isinstance(scenario.get("name"), str):
        raise SettingsError(f"expected a JSON object with a name in {path}")
    return scenario


def new_path(folder: Path, started: datetime.datetime, name: str) -> Path:
    """A directory that does not exist, named by time and scenario."""
    stem = f"{started.strftime('%Y-%m-%dT%H-%M-%SZ')}_{name}"
    path, number = folder / stem, 2
    while path.exists():
        path, number = folder / f"{stem}-{number}", number + 1
    return path


def _utc(instant: datetime.datetime) -> str:
    return instant.isoformat(timespec="seconds").replace("+00:00", "Z")


def first_metadata(
    settings: Settings,
    options: argparse.Namespace,
    names: Sequence[str],
    *,
    name: str,
    scenario: Mapping[str, Any],
    identity: str,
    started: datetime.datetime,
    origin_wall_ns: int,
    expected_workers: int,
    about: Mapping[str, Any],
    server: Mapping[str, Any],
) -> dict[str, Any]:
    """What is known as a run begins; ``names`` are the options to keep, ``about`` the machine, ``server`` the target's first samples."""
    return {
        "status_reasons": [],
        "name": name,
        "id": identity,
        "scenario": scenario,
        "target": {
            "url": redact_url(settings.url),
            "adapter": settings.adapter,
            "transport": settings.transport,
            "adapter_options": redact_table({name: value for name, value in settings.adapter_options.items() if name != "window"}),
        },
        "origin_wall_ns": origin_wall_ns,
        "started_utc": _utc(started),
        "ended_utc": None,
        "seed": settings.seed,
        "options": redact_options(options, names),
        "load": {
            "loop": "open" if settings.open_loop else "closed",
            "rate_per_s": settings.schedule.rate_per_s if settings.open_loop else None,
            "arrivals": settings.schedule.spacing if settings.open_loop else None,
            "workload": settings.speech.workload,
            "profile": settings.schedule.profile if settings.open_loop else None,
            "window": settings.window,
            "tokens": options.tokens,
            "gap_ms": options.gap_ms,
            "stop_share": settings.stop.share,
            "idle_share": settings.idle_share,
            "stall_timeout_s": settings.stall_timeout_s,
            **settings.yardsticks.as_dict(),
        },
        "window": None,
        "steps": [],
        "workers": {"expected": expected_workers, "seen": [], "lost": [], "bad_bytes": {}, "unknown": {}},
        **about,
        "server": {"scraped": bool(server), "first": {}, "last": {}} | dict(server),
        "calibration": last_calibration(settings.runs_folder, about["environment"]),
    }


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended, as the process that keeps its directory knows it; instants in ns since the origin."""

    lost: Sequence[str]
    broken: str | None
    interrupted: bool
    spawned_at_ns: int | None
    steady_end_at_ns: int | None
    drain_end_at_ns: int
    warm_up_s: float
    steps: Sequence[Mapping[str, int]]
    server: Mapping[str, Any]
    workers: Mapping[str, Any]
    reasons: Sequence[str]
    schedule: SchedulePlan | None = None
    schedule_at_ns: int = 0
    users_max: int = 0


def end_record(directory: RunDirectory, ending: Ending) -> str:
    """Compact the record, write the last run.json and return its status; OSError when run.json cannot be written."""
    metadata = directory.metadata()
    seen, reasons = [], []
    ends: list[int] = []
    for information in take_descriptions(directory):
        # The record ends there; what follows (a target that leaks is waited for) is no time that anybody failed to record.
        # One that was lost has said who it is, and no more.
        if (ended := information.pop("ended_at_ns", None)) is not None:
            ends.append(ended)
        if information.get("broken"):
            reasons.append(f"worker {information['worker']} could not write its record: {information['broken']}")
        if information["worker"] not in ending.lost:
            information.pop("record", None)  # it has been removed
        seen.append(information)
    if ending.broken is not None and not reasons:
        reasons.append(f"the record could not be written: {ending.broken}")
    reasons += [f"worker {name} ended without its last record" for name in ending.lost]
    reasons += ending.reasons
    try:
        states = directory.compact()
        bad = {state.worker: state.bad_bytes for state in states if state.bad_bytes}
        reasons += [f"{count} bytes at the end of the record of {name} are not readable" for name, count in bad.items()]
        lacking = unknown(directory, ending.lost)
        reasons += describe_unknown(lacking)
        metadata["workers"] |= {"seen": seen, "lost": list(ending.lost), "bad_bytes": bad, "unknown": lacking}
    except OSError as error:
        reasons.append(f"the record could not be compacted: {error.strerror or error}; run: python -m reports recover {directory.path}")
    status = "degraded" if reasons else "complete"
    if not reasons and ending.interrupted:
        status = "aborted"
        reasons.append("interrupted before its planned end")
    drain_end = max(ends, default=ending.drain_end_at_ns)
    steady_end = ending.steady_end_at_ns or drain_end
    spawned = ending.spawned_at_ns
    warm_up_end = steady_end if spawned is None else min(steady_end, spawned + round(ending.warm_up_s * SECOND_NS))
    if ending.server:
        metadata["server"] = {"scraped": True, **ending.server}
    metadata |= {
        "status": status,
        "status_reasons": reasons,
        "ended_utc": _utc(datetime.datetime.now(datetime.UTC)),
        "window": {"warm_up_end_at_ns": warm_up_end, "steady_end_at_ns": steady_end, "drain_end_at_ns": drain_end},
        "steps": list(ending.steps),
    }
    if ending.schedule is not None:
        # In the whole seconds of the window, as everything else that is counted by seconds.
        begin_s, end_s = math.ceil(warm_up_end / SECOND_NS), steady_end // SECOND_NS
        start_s = ending.schedule_at_ns / SECOND_NS
        metadata["load"]["asked_per_s"] = ending.schedule.asked_per_s(begin_s - start_s, end_s - start_s, metadata["seed"])
    metadata["workers"] |= ending.workers
    metadata["load"]["users_max"] = ending.users_max
    directory.write_metadata(metadata)
    return status
