"""What the comparison of engines found: medians, the targets beside them, as table, as chart and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from rich.console import Console
from rich.table import Table

from reports.units import ABSENT, significant

Engine = Literal["ours", "obvious"]
ENGINES: Final[tuple[Engine, ...]] = ("ours", "obvious")
NAMES: Final = {"ours": "our engine", "obvious": "obvious user"}
RATIO_AT: Final = {100: 5.0, 1000: 6.0}
"""Tokens per CPU-second of ours over the obvious user's, at least, by connections."""
LATENESS_AT: Final = 1000
LATENESS_P99_US: Final = 20.0
BYTES_AT: Final = 16 * 1024
"""Memory of the generator for an open connection, at most."""
HELD: Final = 10_000
CONNECTS_PER_S: Final = 2_500.0
SCHEMA_VERSION: Final = 1
# 1: first.


@dataclass(frozen=True, slots=True)
class Reading:
    """One figure of one run; ``figure`` ends in its unit. ``value`` is None where the run gave none."""

    figure: str
    engine: Engine
    connections: int
    value: float | None


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to reach, and whether it was; ``reached`` is None where it was not measured."""

    title: str
    value: float | None
    bound: float
    at_least: bool
    unit: str

    @property
    def reached(self) -> bool | None:
        """Whether the value keeps to the bound."""
        if self.value is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass(frozen=True, slots=True)
class Summary:
    """Medians over the rounds by (figure, engine, connections), and the targets."""

    medians: dict[tuple[str, Engine, int], float]
    targets: tuple[Target, ...]

    def median(self, figure: str, engine: Engine, connections: int) -> float | None:
        """The median of a figure, or None where nothing was measured."""
        return self.medians.get((figure, engine, connections))

    def counts(self, figure: str) -> list[int]:
        """Numbers of connections at which a figure was measured."""
        return sorted({connections for name, _, connections in self.medians if name == figure})


def summarise(readings: Sequence[Reading]) -> Summary:
    """Medians of the readings, memory per connection from them, and the targets beside."""
    grouped: dict[tuple[str, Engine, int], list[float]] = {}
    for reading in readings:
        if reading.value is not None:
            grouped.setdefault((reading.figure, reading.engine, reading.connections), []).append(reading.value)
    medians = {key: statistics.median(values) for key, values in grouped.items()}
    for engine in ENGINES:
        medians |= _bytes_per_connection(medians, engine)
    summary = Summary(medians, ())
    targets = [
        Target(f"tokens per CPU-second, ours over obvious, {count} connections", ratio(summary, count), bound, True, "x")
        for count, bound in RATIO_AT.items()
    ]
    late = summary.median("lateness_p99_us", "ours", LATENESS_AT)
    # Below a thousand the growth is a few pages more or less of what the allocator holds.
    growth = ((key, value) for key, value in medians.items() if key[:2] == ("bytes_per_connection", "ours"))
    memory = [value for (_, _, count), value in growth if count >= 1000]
    return Summary(
        medians,
        (
            *targets,
            Target(f"lateness of stamps p99, {LATENESS_AT} connections x 50 tokens/s", late, LATENESS_P99_US, False, "us"),
            Target("memory of an open connection, the worst of all", max(memory, default=None), BYTES_AT, False, "bytes"),
            Target("connections held by one process", summary.median("held", "ours", HELD), HELD, True, ""),
            Target("connections opened a second", summary.median("connects_per_s", "ours", HELD), CONNECTS_PER_S, True, "/s"),
        ),
    )


def _bytes_per_connection(medians: dict[tuple[str, Engine, int], float], engine: Engine) -> dict[tuple[str, Engine, int], float]:
    """Growth of the resident memory over the run with the fewest connections: what the interpreter itself takes drops out."""
    points = sorted((count, value) for (figure, who, count), value in medians.items() if figure == "resident_bytes" and who == engine)
    if not points:
        return {}
    base_count, base = points[0]
    return {
        ("bytes_per_connection", engine, count): (value - base) / (count - base_count)
        for count, value in points
        # Below a hundred the growth is no more than what the allocator happens to ask for.
        if count - base_count >= 99
    }


def ratio(summary: Summary, connections: int) -> float | None:
    """Tokens per CPU-second of ours over the obvious user's."""
    ours, other = (summary.median("tokens_per_cpu_s", engine, connections) for engine in ENGINES)
    return ours / other if ours and other else None


def as_dict(
    summary: Summary, readings: Sequence[Reading], machine: dict[str, Any], rounds: int, seconds: int, *, pinned: bool
) -> dict[str, Any]:
    """The contents of ``engine.json``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "rounds": rounds,
        "seconds": seconds,
        "pinned": pinned,
        **machine,
        "medians": [
            {"figure": figure, "engine": engine, "connections": count, "value": value}
            for (figure, engine, count), value in sorted(summary.medians.items())
        ],
        "targets": [{**asdict(target), "reached": target.reached} for target in summary.targets],
        "readings": [asdict(reading) for reading in readings],
    }


FIGURES: Final = (
    ("tokens per CPU-second", "tokens_per_cpu_s", 1.0),
    ("lateness p50, us", "lateness_p50_us", 1.0),
    ("lateness p99, us", "lateness_p99_us", 1.0),
    ("lateness max, us", "lateness_max_us", 1.0),
    ("resident memory, MiB", "resident_bytes", 1 / (1 << 20)),
    ("memory a connection, KiB", "bytes_per_connection", 1 / 1024),
    ("connects a second", "connects_per_s", 1.0),
)


def print_result(summary: Summary, console: Console, *, pinned: bool) -> None:
    """The figures beside each other, and the targets."""
    table = Table(box=None, pad_edge=False)
    for title in ("Figure", "Connections", "Our engine", "Obvious user", "Ratio"):
        table.add_column(title, justify="left" if title == "Figure" else "right", no_wrap=True)
    for title, figure, scale in FIGURES:
        for count in summary.counts(figure):
            ours, other = (summary.median(figure, engine, count) for engine in ENGINES)
            shown = [ABSENT if value is None else significant(value * scale) for value in (ours, other)]
            between = ABSENT if not ours or not other else f"{significant(max(ours, other) / min(ours, other), 2)} x"
            table.add_row(title, f"{count:,}".replace(",", " "), *shown, between)
    console.print()
    console.print(table)
    goals = Table(box=None, pad_edge=False)
    for title in ("Target", "Wanted", "Found", ""):
        goals.add_column(title, justify="left" if title in ("Target", "") else "right", no_wrap=True)
    for target in summary.targets:
        word = {True: "[green]reached[/]", False: "[red]missed[/]", None: "[dim]not measured[/]"}[target.reached]
        wanted = f"{'>=' if target.at_least else '<='} {significant(target.bound)} {target.unit}".rstrip()
        found = ABSENT if target.value is None else f"{significant(target.value)} {target.unit}".rstrip()
        goals.add_row(target.title, wanted, found, word)
    console.print()
    console.print(goals)
    if not pinned:
        console.print(
            "Server and generator shared their CPUs (there is one, or this system cannot pin): the figures say little.", style="yellow"
        )


def draw(summary: Summary, folder: Path) -> None:
    """Write ``engine.png`` and ``engine.svg``: speed, lateness and memory, both engines side by side."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from reports.palette import BLUE, MUTED, ORANGE
    from reports.style import RC, plain_ticks

    colours = {"ours": BLUE, "obvious": ORANGE}
    panels = (
        ("Tokens per CPU-second", "tokens_per_cpu_s", 1.0, "tokens per CPU-second", False),
        ("Lateness of stamps, p99", "lateness_p99_us", 1.0, "us (log)", True),
        ("Memory of a connection", "bytes_per_connection", 1 / 1024, "KiB", False),
    )
    with mpl.rc_context(RC):
        figure = Figure(figsize=(10.5, 3.6), layout="constrained")
        for axes, (title, name, scale, unit, log) in zip(figure.subplots(1, len(panels)), panels, strict=True):
            counts = [count for count in summary.counts(name) if count <= 5000]
            for offset, engine in ((-0.2, ENGINES[0]), (0.2, ENGINES[1])):
                values = [summary.median(name, engine, count) for count in counts]
                bars = axes.bar(
                    [place + offset for place in range(len(counts))], [(value or 0) * scale for value in values], width=0.36,
                    color=colours[engine], label=NAMES[engine], zorder=2,
                )  # fmt: skip
                texts = [ABSENT if value is None else significant(value * scale, 2) for value in values]
                axes.bar_label(bars, texts, padding=2, fontsize=7.5, color=MUTED)
            if log and counts:
                axes.set_yscale("log")
            axes.margins(y=0.18)
            axes.set_title(title)
            axes.set_ylabel(unit)
            axes.set_xlabel("connections")
            axes.set_xticks(range(len(counts)), [f"{count:,}".replace(",", " ") for count in counts])
            plain_ticks(axes)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        for ending in ("png", "svg"):
            figure.savefig(folder / f"engine.{ending}", dpi=160)
