"""The figures of the servers as a table for people and for a page, and as a chart. Knows no process."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from reports.units import ABSENT, significant

Figures = Sequence[dict[str, Any]]


def names(figures: Figures) -> list[str]:
    """The servers, in the order in which they were first measured."""
    return list(dict.fromkeys(figure["server"] for figure in figures))


def median(figures: Figures, server: str, name: str, users: int | None = None) -> float | None:
    """The median over the rounds, or None."""
    values = [
        figure["value"] for figure in figures
        if figure["server"] == server and figure["name"] == name and users in (None, figure["users"]) and figure["value"] is not None
    ]  # fmt: skip
    return statistics.median(values) if values else None


def ladder(figures: Figures) -> list[int]:
    """The numbers of users of the ladder."""
    return sorted({figure["users"] for figure in figures if figure["name"] == "itl_p99_ms"})


def text(value: float | None) -> str:
    """A value for people."""
    return ABSENT if value is None else significant(value, 3)


def rows(figures: Figures) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the table."""
    steps = ladder(figures)
    head = ["server", "ceiling (tokens/s)", "processor (us/token)", "memory (MiB)"]
    head += [f"gap p99, {users} users (ms)" for users in steps] + ["valid"]
    made = []
    for server in names(figures):
        runs = [figure["valid"] for figure in figures if figure["server"] == server and figure["name"] in ("tokens_per_s", "ttft_p50_ms")]
        row = [server, *(text(median(figures, server, name)) for name in ("tokens_per_s", "cpu_us_per_token", "resident_mib"))]
        row += [text(median(figures, server, "itl_p99_ms", users)) for users in steps]
        made.append([*row, f"{sum(runs)} of {len(runs)}"])
    return head, made


def print_result(figures: Figures, console: Console) -> None:
    """Print the table."""
    head, made = rows(figures)
    table = Table(box=None, pad_edge=False)
    for index, name in enumerate(head):
        table.add_column(name, justify="right" if index else "left")
    for row in made:
        table.add_row(*row)
    console.print(table)


def write_markdown(figures: Figures) -> str:
    """The table as Markdown."""
    head, made = rows(figures)
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in made]) + "\n"


def draw(figures: Figures, folder: Path) -> None:
    """Write ``servers.png`` and ``servers.svg``: the ceiling, processor time of a token, and the ladder."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from reports.palette import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILION
    from reports.style import RC, plain_ticks

    servers, steps = names(figures), ladder(figures)
    colours = [BLUE, SKY, VERMILION, ORANGE, GREEN, PURPLE, "#8a5fbf", INK, MUTED]
    with mpl.rc_context(RC):
        figure = Figure(figsize=(12, 4.4), layout="constrained")
        axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
        bars = (("Ceiling, 1 core", "tokens_per_s", "tokens/s"), ("Processor time of a token", "cpu_us_per_token", "us"))
        for place, (title, name, unit) in zip(axes[:2], bars, strict=True):
            values = [median(figures, server, name) or 0.0 for server in servers]
            drawn = place.barh(range(len(servers)), values, height=0.62, color=colours[: len(servers)], zorder=2)
            place.bar_label(drawn, [significant(value, 3) for value in values], padding=3, fontsize=7.5, color=MUTED)
            place.set_yticks(range(len(servers)), servers if place is axes[0] else [""] * len(servers))
            place.invert_yaxis()
            place.grid(axis="x")
            place.grid(visible=False, axis="y")
            place.margins(x=0.2)
            place.set_title(title)
            place.set_xlabel(unit)
            plain_ticks(place, x=True, y=False)
        ladder_axes = axes[2]
        for server, colour in zip(servers, colours, strict=False):
            values = [median(figures, server, "itl_p99_ms", users) or float("nan") for users in steps]
            ladder_axes.plot(steps, values, color=colour, marker="o", markersize=3.5, label=server)
        ladder_axes.set_yscale("log")
        ladder_axes.set_title("Gap between tokens, p99")
        ladder_axes.set_xlabel("users, 50 tokens/s each")
        ladder_axes.set_ylabel("ms (log)")
        ladder_axes.set_xticks(steps)
        plain_ticks(ladder_axes)
        for ending in ("png", "svg"):
            figure.savefig(folder / f"servers.{ending}", dpi=160)
