"""How a comparison of servers is shown: tables for people and for the page, and the chart. Knows no process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from reports.units import ABSENT, count, significant

from . import server_ladder as ladder
from .comparison import Figures, Part, circumstances, markdown

MIB: Final = 2**20
OVERLOADED: Final = " *"


def text(value: float | None, scale: float = 1.0) -> str:
    """A value for people."""
    return ABSENT if value is None else significant(float(f"{value / scale:.3g}"), 3)


def line(reading: Mapping[str, Any]) -> str:
    """One run in a few words."""
    figures = f"{text(reading['tokens_per_s'])} tokens/s, {text(reading['cpu_us_per_token'])} us/token"
    if not reading["valid"]:
        return f"{figures}; not valid: {'; '.join(reading['reasons'])}"
    if reading["load"] == "ceiling":
        return figures
    return f"{figures}, gap p99 {text(reading['gap_p99_ms'])} ms; {'; '.join(reading['missed']) or 'met'}"


def held_text(found: ladder.Found) -> str:
    """The highest rung that was held; with a sign where that is not the server's own limit."""
    if found.held is None:
        return "none" if found.limit == "server" else ABSENT
    return count(found.held) if found.limit == "server" else f"≥ {count(found.held)}"


def why_text(found: ladder.Found) -> str:
    """What came above the highest rung that was held."""
    if found.above is None:
        return "the ladder ends here"
    if found.limit == "measurement":
        return f"at {count(found.above)} no run could judge it: {found.why}"
    return f"at {count(found.above)}: {found.why}"


def most_text(figures: Figures, server: str) -> str:
    """The most tokens a second, with a sign where the generator, or noise, was at its limit before the server."""
    most, valid = ladder.most_tokens(figures, server)
    return ABSENT if most is None else f"{'' if valid else '≥ '}{text(most)}"


def tables(figures: Figures) -> list[Part]:
    """Ceiling, all servers under one load, and the ladder."""
    servers, rungs, common = ladder.servers(figures), ladder.rungs(figures), ladder.common_rung(figures)
    made: list[Part] = []
    rows = []
    for server in servers:
        found = ladder.find(figures, server)
        per_cpu = text(ladder.tokens_per_cpu_s(figures, server))
        rows.append([server, held_text(found), most_text(figures, server), per_cpu, why_text(found)])
    head = ["server", "conversations held", "most tokens/s", "tokens per CPU-second", "what ended the climb"]
    made.append(("Ceiling", head, rows))
    if common is not None:
        names = (("cpu_us_per_token", 1), ("gap_p50_ms", 1), ("gap_p99_ms", 1), ("ttft_p99_ms", 1), ("resident_bytes", MIB))
        rows = [[server, *(text(ladder.at_rung(figures, server, common, name), scale) for name, scale in names)] for server in servers]
        head = ["server", "processor (us/token)", "gap p50 (ms)", "gap p99 (ms)", "first token p99 (ms)", "memory (MiB)"]
        made.append((f"All under the same load: {count(common)} conversations", head, rows))
    if rungs:
        rows = [[server, *(_gap_text(figures, server, rung) for rung in rungs)] for server in servers]
        made.append(("Gap between tokens, p99 (ms), by conversations at once; * not held", ["server", *map(count, rungs)], rows))
    return made


def _gap_text(figures: Figures, server: str, rung: int) -> str:
    mine = ladder.of(figures, server, "ladder", rung)
    if not mine:
        return ABSENT
    value = text(ladder.at_rung(figures, server, rung, "gap_p99_ms"))
    return value if ladder.judge(mine) == "held" else f"{value}{OVERLOADED}"


def parts(result: Mapping[str, Any]) -> Mapping[str, str]:
    """What stands on the page: when and where, the objectives, the tables."""
    figures = result["figures"]
    said = [circumstances(result)]
    objectives = result["options"].get("slo")
    if objectives:
        said.append(f"A rung is held while {', '.join(f'`{one}`' for one in objectives)}.")
    if (drift := ladder.drift(figures)) is not None:
        said.append(
            f"Between the first and the last pass at the ceiling the processor time of a token changed by {100 * drift:+.1f} % (median)."
        )
    for who, why in result["missing"].items():
        said.append(f"Left out: {who}: {why}.")
    made = [" ".join(said), *(markdown(head, rows, title) for title, head, rows in tables(figures))]
    return {"servers": "\n\n".join(made)}


def draw(figures: Figures, folder: Path) -> None:
    """Write ``servers.png`` and ``servers.svg``: the ladder, what was held, and tokens for a second of processor time."""
    import matplotlib as mpl
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    from reports.palette import BLUE, GREEN, INK, MUTED, ORANGE, PAPER, PURPLE
    from reports.style import RC, plain_ticks

    # A library has a colour; uvloop is broken, the proxy dotted.
    families = {"websockets": BLUE, "FastAPI + uvicorn": ORANGE, "aiohttp": GREEN, "picows": PURPLE, "node ws": INK}
    servers, rungs = ladder.servers(figures), ladder.rungs(figures)
    colours = {server: next((families[name] for name in families if server.startswith(name)), MUTED) for server in servers}
    strokes: dict[str, Any] = {s: (0, (4, 1.6)) if "uvloop" in s else (0, (1, 1.2)) if "nginx" in s else "solid" for s in servers}

    def pale(server: str) -> tuple[float, ...]:
        part = 1.0 if strokes[server] == "solid" else 0.62
        return tuple(1 - part * (1 - each) for each in to_rgb(colours[server]))

    with mpl.rc_context(RC):
        figure = Figure(figsize=(12, 4.9), layout="constrained")
        axes = figure.subplots(1, 3, width_ratios=(1.55, 1, 1))
        climb = axes[0]
        for server in servers:
            points = [(rung, ladder.at_rung(figures, server, rung, "gap_p99_ms")) for rung in rungs]
            drawn = [(rung, value) for rung, value in points if value is not None]
            climb.plot(
                [rung for rung, _ in drawn], [value for _, value in drawn], color=colours[server], linestyle=strokes[server], marker="o",
                markersize=3.5, label=server,
            )  # fmt: skip
            above = [(rung, value) for rung, value in drawn if ladder.judge(ladder.of(figures, server, "ladder", rung)) != "held"]
            climb.plot(
                [rung for rung, _ in above], [value for _, value in above], color=colours[server], linestyle="none", marker="o",
                markersize=4.5, markerfacecolor=PAPER, zorder=3,
            )  # fmt: skip
        climb.set_yscale("log")
        climb.set_title("Gap between tokens, p99, as conversations are added")
        climb.set_xlabel("conversations at once; hollow: the objectives do not hold")
        climb.set_ylabel("ms (log)")
        climb.set_xlim(0)
        plain_ticks(climb, x=True)
        bars = (
            (
                "Conversations held",
                [float(ladder.find(figures, s).held or 0) for s in servers],
                [held_text(ladder.find(figures, s)) for s in servers],
            ),
            (
                "Tokens for a CPU-second",
                [ladder.tokens_per_cpu_s(figures, s) or 0.0 for s in servers],
                [text(ladder.tokens_per_cpu_s(figures, s)) for s in servers],
            ),
        )
        for place, (title, values, labels) in zip(axes[1:], bars, strict=True):
            drawn_bars = place.barh(range(len(servers)), values, height=0.62, color=[pale(s) for s in servers], zorder=2)
            place.bar_label(drawn_bars, labels, padding=3, fontsize=8, color=MUTED)
            place.set_yticks(range(len(servers)), servers if place is axes[1] else [""] * len(servers))
            place.invert_yaxis()
            place.grid(axis="x")
            place.grid(visible=False, axis="y")
            place.margins(x=0.22)
            place.set_title(title)
            plain_ticks(place, x=True, y=False)
        figure.legend(*climb.get_legend_handles_labels(), loc="outside lower center", ncols=5, handlelength=3)
        for ending in ("png", "svg"):
            figure.savefig(folder / f"servers.{ending}", dpi=160)
