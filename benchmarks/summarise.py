"""``python -m benchmarks.summarise``: how long, and how much memory, the report of a million conversations takes.

Writes a synthetic run of about that size, then summarises and draws it in a fresh process and reads that process's peak memory.
The promise is under 10 s and 2 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from loadtest.run_directory import RunDirectory

from .synthetic import Plan, build, nullable

LIMIT_S = 10.0
LIMIT_BYTES = 2_000_000_000
MINUTE_S = 60.0
SECONDS, TOKENS, WORKERS = 600.0, 12, 2
_CHILD = "import sys; from reports.build import build; from benchmarks.summarise import peak_bytes; build(sys.argv[1]); print(peak_bytes())"
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one report took: wall-clock seconds, processor seconds, and the peak resident memory in bytes."""

    conversations: int
    elapsed_s: float
    cpu_s: float
    peak_bytes: int

    @property
    def kept(self) -> bool:
        """Whether it stayed within the promise."""
        return self.elapsed_s < LIMIT_S and self.peak_bytes < LIMIT_BYTES


def write_run(path: Path, conversations: int) -> int:
    """Write a synthetic run with about so many conversations; returns how many they are."""
    users = max(WORKERS, round(conversations / SECONDS * 0.46))
    # The service time keeps a conversation at a few hundred milliseconds, whatever the number of users.
    plan = Plan(users=users, seconds=SECONDS, warm_up_s=10, tokens=TOKENS, service_ms=30.0 / users, think_s=0.05, workers=WORKERS)
    build(plan).write(path)
    return int(pq.read_metadata(path / "conversations.parquet").num_rows)


def write_long_run(path: Path, tokens: int) -> int:
    """Write a run of about so many tokens: one model minute again and again, an hour and more; returns how many conversations it has.

    The memory that this takes does not depend on the number of tokens, so that what a report of it takes can be told.
    """
    model = build(Plan(users=200, seconds=MINUTE_S, warm_up_s=0, drain_s=0, tokens=100, service_ms=0.12, think_s=0.05))
    tables = model.tables["w0"]
    minutes = max(1, round(tokens / int(np.sum(tables["conversations"]["tokens"]))))
    end_ns = int(minutes * MINUTE_S * 1e9)
    window = {"warm_up_end_at_ns": 0, "steady_end_at_ns": end_ns, "drain_end_at_ns": end_ns}
    run = RunDirectory.create(path, {**model.metadata, "name": path.name, "window": window})
    writer = run.writer("w0")
    for table in ("connections", "conversations", "intervals", "histograms", "fairness"):
        for minute in range(minutes if table != "connections" else 1):
            later = minute * MINUTE_S
            columns = {name: _later(name, column, later) for name, column in tables[table].items()}
            for start in range(0, len(columns["worker"]), 1 << 16):
                writer.append(table, {name: nullable(column[start : start + (1 << 16)]) for name, column in columns.items()})
    writer.end()
    run.compact()
    return int(pq.read_metadata(path / "conversations.parquet").num_rows)


def _later(name: str, column: Any, seconds: float) -> Any:
    """A column of the model minute, so many seconds later: instants end in ``_at_ns``."""
    if name == "second":
        return [int(one + seconds) for one in column]
    return np.asarray(column) + seconds * 1e9 if name.endswith("_at_ns") else column


def peak_bytes() -> int:
    """The most memory this process has had resident since its program began.

    Not ``ru_maxrss`` on Linux: that goes on counting what the parent had when it started this process (`getrusage(2)`, `execve(2)`).
    """
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure_report(path: Path, conversations: int) -> Cost:
    """Build the report of ``path`` in a fresh process; CalledProcessError when it fails."""
    before = time.monotonic()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = int(subprocess.run([sys.executable, "-c", _CHILD, str(path)], check=True, stdout=subprocess.PIPE).stdout.split()[-1])
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return Cost(conversations, time.monotonic() - before, cpu_s, peak)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 0 within the promise, 10 beyond it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.summarise", description=__doc__)
    parser.add_argument("--conversations", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--tokens", type=int, metavar="N", help="a long run of so many tokens instead, such as 100000000")
    parser.add_argument("--keep", metavar="FOLDER", help="write the run here and leave it")
    parser.add_argument("--json", action="store_true", help="the result as JSON on standard output")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(options.keep) if options.keep else Path(temporary) / "million"
        made = write_long_run(path, options.tokens) if options.tokens else write_run(path, options.conversations)
        cost = measure_report(path, made)
    if options.json:
        result = {name: getattr(cost, name) for name in Cost.__slots__}
        sys.stdout.write(json.dumps({**result, "limit_s": LIMIT_S, "limit_bytes": LIMIT_BYTES, "kept": cost.kept}) + "\n")
    else:
        sys.stdout.write(
            f"{cost.conversations:,} conversations summarised and drawn in {cost.elapsed_s:.1f} s ({cost.cpu_s:.1f} s of processor time), "
            f"{cost.peak_bytes / 1e9:.2f} GB at most; the limits are {LIMIT_S:.0f} s and {LIMIT_BYTES / 1e9:.0f} GB\n"
        )
    return 0 if cost.kept else 10


if __name__ == "__main__":
    sys.exit(main())
