"""The figures of the transports as tables for people and for a page, and as a chart. Knows no process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from reports.units import ABSENT, significant

from .comparison import Figures, Part, circumstances, markdown
from .transport_claims import check_claims

NAMES: Final = {
    "ws-ack": "WebSocket, ack each", "ws-window": "WebSocket, window 8", "ws-no-ack": "WebSocket, no ack",
    "ws-deflate": "WebSocket, deflate", "sse": "server-sent events", "long-poll": "long poll", "poll": "poll, 100 ms",
}  # fmt: skip
FAR: Final = (
    ("latency_p50_ms", "latency of a token, p50", "ms"),
    ("latency_p99_ms", "latency of a token, p99", "ms"),
    ("kept_tokens_per_s", "of 50 tokens/s, paced", "tokens/s"),
    ("tokens_per_s", "unpaced", "tokens/s"),
    ("stop_p50_ms", "stop, p50", "ms"),
)
NEAR: Final = (
    ("received_bytes_per_token", "received", "B/token"),
    ("sent_bytes_per_token", "sent", "B/token"),
    ("wire_bytes_per_token", "both, with TCP/IP", "B/token"),
)
COSTS: Final = (
    ("server_cpu_us_per_token", "server's processor", "us/token"),
    ("client_cpu_us_per_token", "client's processor", "us/token"),
    ("server_bytes_per_connection", "server's memory", "KiB/connection"),
    ("client_bytes_per_connection", "client's memory", "KiB/connection"),
)


def find(figures: Figures, transport: str, name: str, rtt_ms: float | None = None) -> float | None:
    """One figure, or None."""
    found = (f["value"] for f in figures if f["transport"] == transport and f["name"] == name and f["rtt_ms"] == rtt_ms)
    return next(found, None)


def distances(figures: Figures) -> list[float]:
    """The round trips that were measured."""
    return sorted({f["rtt_ms"] for f in figures if f["rtt_ms"] is not None})


def text(value: float | None, name: str = "") -> str:
    """A value for people."""
    if value is None:
        return ABSENT
    return significant(value / 1024 if name.endswith("bytes_per_connection") else value, 3)


def tables(figures: Figures) -> list[Part]:
    """Every table: a title, its head, its rows."""
    far = distances(figures)
    made: list[Part] = []
    for name, title, unit in FAR:
        rows = [[label, *(text(find(figures, each, name, rtt)) for rtt in far)] for each, label in NAMES.items()]
        made.append((f"{title} ({unit}), by round trip", ["", *(f"{rtt:g} ms" for rtt in far)], rows))
    near = far[0] if far else None
    columns = [(name, f"{title} ({unit})", near) for name, title, unit in NEAR] + [
        (name, f"{title} ({unit})", None) for name, title, unit in COSTS
    ]
    rows = [[label, *(text(find(figures, each, name, rtt), name) for name, _, rtt in columns)] for each, label in NAMES.items()]
    made.append(("cost", ["", *(title for _, title, _ in columns)], rows))
    frames = [[f["transport"], text(f["value"])] for f in figures if f["name"] == "header_bytes"]
    made.append(("bytes of a frame around its text", ["frame", "bytes"], frames))
    similar = [
        [
            NAMES[each],
            text(find(figures, each, "similar_text_bytes_per_token")),
            text(find(figures, each, "similar_received_bytes_per_token")),
        ]
        for each in ("ws-no-ack", "ws-deflate")
    ]
    made.append(("tokens that are alike", ["", "text (B/token)", "received (B/token)"], similar))
    return made


def parts(result: Mapping[str, Any]) -> Mapping[str, str]:
    """What stands on the page: the tables with when and where they were measured, and the claims."""
    figures = result["figures"]
    made = [circumstances(result), "![Latency, rate and stop by distance; bytes, processor time and memory by transport](transports.png)"]
    made += [markdown(head, rows, title) for title, head, rows in tables(figures)]
    claims = [[claim.said, claim.measured, claim.verdict] for claim in check_claims(figures)]
    return {"transports": "\n\n".join(made), "claims": markdown(["claim", "measured", "so"], claims, right=False)}


def draw(figures: Figures, folder: Path) -> None:
    """Write ``transports.png`` and ``transports.svg``."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from reports.palette import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILION
    from reports.style import RC, plain_ticks

    colours = dict(zip(NAMES, (BLUE, SKY, GREEN, PURPLE, ORANGE, VERMILION, INK), strict=True))
    far = distances(figures)
    with mpl.rc_context(RC):
        figure = Figure(figsize=(12, 7.4), layout="constrained")
        axes = figure.subplots(2, 3).ravel()
        for place, (name, title, unit, log) in zip(
            axes[:3],
            (
                ("latency_p50_ms", "Latency of a token, p50", "ms after it was due (log)", True),
                ("tokens_per_s", "Rate, unpaced", "tokens/s (log)", True),
                ("stop_p50_ms", "Stop, until it is known", "ms", False),
            ),
            strict=True,
        ):
            for each, label in NAMES.items():
                values = [find(figures, each, name, rtt) for rtt in far]
                place.plot(
                    range(len(far)), [max(value, 0.1) if value is not None else float("nan") for value in values],
                    color=colours[each], marker="o", markersize=3.5, label=label,
                )  # fmt: skip
            if log:
                place.set_yscale("log")
            else:
                place.set_ylim(0)
            place.set_title(title)
            place.set_ylabel(unit)
            place.set_xticks(range(len(far)), [f"{rtt:g}" for rtt in far])
            place.set_xlabel("round trip, ms")
            plain_ticks(place)
        sides = ("server", BLUE), ("client", ORANGE)
        bars = (
            (
                "Bytes of a token",
                "B/token, both ways",
                [("wire_bytes_per_token", "with TCP/IP", MUTED), ("payload", "without", BLUE)],
            ),
            ("Processor time", "us/token", [(f"{side}_cpu_us_per_token", side, colour) for side, colour in sides]),
            ("Memory of an open answer", "KiB", [(f"{side}_bytes_per_connection", side, colour) for side, colour in sides]),
        )
        for place, (title, unit, series) in zip(axes[3:], bars, strict=True):
            for offset, (name, label, colour) in zip((-0.2, 0.2), series, strict=True):
                sizes = [_bar(figures, each, name, far) for each in NAMES]
                spots = [index + offset for index in range(len(NAMES))]
                drawn = place.barh(spots, sizes, height=0.36, color=colour, label=label, zorder=2)
                place.bar_label(drawn, [significant(size, 2) for size in sizes], padding=2, fontsize=7, color=MUTED)
            place.set_yticks(range(len(NAMES)), list(NAMES.values()))
            place.invert_yaxis()
            place.grid(axis="x")
            place.grid(visible=False, axis="y")
            place.margins(x=0.16)
            place.set_title(title)
            place.set_xlabel(unit)
            place.legend(loc="upper right", fontsize=7.5)
            plain_ticks(place, x=True, y=False)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        for ending in ("png", "svg"):
            figure.savefig(folder / f"transports.{ending}", dpi=160)


def _bar(figures: Figures, transport: str, name: str, far: Sequence[float]) -> float:
    near = far[0] if far else None
    if name == "payload":
        return sum(find(figures, transport, f"{way}_bytes_per_token", near) or 0.0 for way in ("sent", "received"))
    value = find(figures, transport, name, near if name.endswith("per_token") and "cpu" not in name else None) or 0.0
    return max(0.0, value / 1024 if name.endswith("bytes_per_connection") else value)
