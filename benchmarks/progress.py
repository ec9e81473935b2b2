"""What is happening right now: follows the raw files of a run and shows two lines on a terminal, or a plain line now and then."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadtest.histogram import Histogram
from loadtest.raw_file import RawFile, read_frames
from loadtest.tables import GAUGES

PLAIN_EVERY_S, PLAIN_LINES, PLAIN_LONGEST_S = 5.0, 240, 60.0
"""Without a terminal (CI): at most one line in the first of these; in a run of hours about so many, but one a minute at least."""
KEPT_SECONDS = 64
"""So many of the latest seconds are kept, however long the run."""
FAILURES = ("conversations_failed", "connects_failed")


class Figures:
    """The live figures of one run directory; ``update`` reads what its workers have appended since."""

    def __init__(self, directory: Path, latency: str = "itl") -> None:
        self.directory = directory
        self.latency = latency
        self.errors = 0
        self.tokens = 0
        self._states: dict[Path, RawFile] = {}
        self._seconds: dict[int, dict[str, int]] = {}
        self._reported: dict[int, set[str]] = {}
        self._histogram = Histogram()

    def update(self) -> None:
        """Read on in every raw file; a file that compaction has just taken away counts as read."""
        for path in sorted((self.directory / "raw").glob("*.frames")):
            state = self._states.setdefault(path, RawFile(path.stem))
            try:
                for table, batch in read_frames(path, state):
                    if table == "intervals":
                        self._add_intervals(batch.to_pylist())
                    elif table == "histograms":
                        self._add_histograms(batch.to_pylist())
            except FileNotFoundError:
                continue

    def _add_intervals(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            second = self._seconds.setdefault(row["second"], dict.fromkeys((*GAUGES, "tokens"), 0))
            second["tokens"] += row["tokens"]
            self.tokens += row["tokens"]
            self.errors += sum(row[name] for name in FAILURES)
            if row["open"] is not None:
                self._reported.setdefault(row["second"], set()).add(row["worker"])
                for name in GAUGES:
                    second[name] += row[name] or 0
        for old in sorted(self._seconds)[:-KEPT_SECONDS]:
            del self._seconds[old]
            self._reported.pop(old, None)

    def _add_histograms(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["metric"] == self.latency or (self.latency, row["metric"]) == ("itl", "inter_chunk"):
                self._histogram.add_counts(row["index"], row["count"], row["total"], row["minimum"], row["maximum"])

    def last(self) -> dict[str, int]:
        """Gauges of the latest second that every worker has reported, and the tokens of the second before, which is whole."""
        complete = [second for second, workers in self._reported.items() if len(workers) == len(self._states)]
        if not complete:
            return dict.fromkeys((*GAUGES, "tokens"), 0)
        latest = max(complete)
        before = self._seconds.get(latest - 1, {})
        return {**self._seconds[latest], "tokens": max(before.get("tokens", 0), self._seconds[latest]["tokens"])}

    def p99_ns(self) -> int | None:
        """The 99th percentile of the latency so far."""
        return self._histogram.quantile(0.99)

    def line(self) -> str:
        """The figures in one line."""
        last, p99 = self.last(), self.p99_ns()
        latency = (
            f"{self.latency.replace('_', ' ')} p99 {p99 / 1e6:.2f} ms" if p99 is not None else f"{self.latency.replace('_', ' ')} p99 -"
        )
        opening = f" (+{last['opening']:,} opening)" if last["opening"] else ""
        parts = (
            f"{last['users']:,} users", f"{last['open']:,} open{opening}",
            f"{last['streaming']:,} streaming", f"{last['tokens']:,} tokens/s",
            latency, f"{self.errors:,} errors",
        )  # fmt: skip
        return "  ".join(parts).replace(",", " ")


def span(seconds: float) -> str:
    """A time as one says it: 95 s, 12 min, 3 h 20 min."""
    if seconds < 120:
        return f"{max(0.0, seconds):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def remaining(seconds: float, now: float) -> str:
    """How long it still takes; of more than two minutes also the clock time (local) at which it is over. ``now``: seconds since 1970."""
    if seconds < 120:
        return f"{span(seconds)} left"
    end = time.localtime(now + seconds)
    day = "" if end.tm_yday == time.localtime(now).tm_yday else time.strftime("%a ", end)
    return f"{span(seconds)} left, until {day}{time.strftime('%H:%M', end)}"


class Progress:
    """Shows where the suite is: entered once for each run, ``show`` called again and again."""

    def __init__(self, console: Console, title: str, seconds: float) -> None:
        self._console = console
        self._title = title
        self._seconds = max(seconds, 1e-9)
        self._started = time.monotonic()
        self._every = min(PLAIN_LONGEST_S, max(PLAIN_EVERY_S, self._seconds / PLAIN_LINES))
        self._spoke = -self._every
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        else:
            self._console.print(f"{self._title}: about {span(self._seconds)}", highlight=False)
            self._spoke = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def restart(self) -> None:
        """Load begins now."""
        self._started = time.monotonic()

    def show(self, doing: str, figures: str = "") -> None:
        """Say what is being done, with the figures so far; without a terminal only every few seconds."""
        now = time.monotonic()
        passed = now - self._started
        left = remaining(self._seconds - passed, time.time()) if doing == "load" else doing
        if self._live is None:
            if doing == "load" and now - self._spoke >= self._every:
                self._spoke = now
                self._console.print(f"  {left:>10}  {figures}", highlight=False, soft_wrap=True)
            return
        grid = Table.grid(padding=(0, 2))
        share = min(passed, self._seconds) if doing == "load" else self._seconds
        grid.add_row(Text(self._title, style="bold"), ProgressBar(total=self._seconds, completed=share, width=30), Text(left))
        whole = Table.grid()
        whole.add_row(grid)
        whole.add_row(Text(f"  {figures}", style="dim", no_wrap=True, overflow="ellipsis"))
        self._live.update(whole, refresh=True)
