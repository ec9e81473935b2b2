"""What a conversation is measured against: the limits of its goodput, the length of a stall, and the pace of a reader."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .objectives import Objective, ObjectiveError, parse_limits

STALL_MS: Final = 1000.0
"""Default length of a gap that counts as a stall: beyond it a user's flow of thought breaks (J. Nielsen, "Usability Engineering", 1993)."""
STALL_GAPS: Final = 3.0
"""Where the server is asked for a longer pace than that, a stall is so many of its gaps."""
READER_FIRST_MS: Final = 1000.0
"""Default time within which a reader expects the first token."""
READER_GAP_MS: Final = 200.0
"""Default time a token takes to be read: five tokens a second, silent reading at 238 words a minute (M. Brysbaert, 2019)."""
_MS: Final = 1_000_000


class YardstickError(ValueError):
    """An option is wrong; the message says what was expected and what came."""


@dataclass(frozen=True, slots=True)
class Yardsticks:
    """``limits`` a conversation must keep to be good; a gap above ``stall_ns`` is a stall; a reader wants the first token within
    ``first_ns`` and one every ``gap_ns`` from then on."""

    limits: tuple[Objective, ...] = ()
    stall_ns: int = round(STALL_MS * _MS)
    first_ns: int = round(READER_FIRST_MS * _MS)
    gap_ns: int = round(READER_GAP_MS * _MS)

    def as_dict(self) -> dict[str, Any]:
        """For the ``load`` of run.json."""
        return {
            "slo": [str(limit) for limit in self.limits], "stall_ns": self.stall_ns,
            "reader_first_ns": self.first_ns, "reader_gap_ns": self.gap_ns,
        }  # fmt: skip


class _Joined(argparse.Action):
    """Several of the same option are one text with commas between, for a list would be lost in Locust's web form."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        before = getattr(namespace, self.dest, "")
        setattr(namespace, self.dest, f"{before},{values}" if before and before != self.default else values)


def add_options(parser: Any) -> None:
    """Add the options of this file to Locust's parser."""
    add = parser.add_argument
    add("--slo", default="", action=_Joined, help="limit of one conversation, such as ttft=500ms; several count together for goodput")
    add(
        "--stall-ms", type=float, default=0.0, help="a longer gap between tokens is a stall; 0 = a second, or three gaps where that is more"
    )
    add("--reader-first-ms", type=float, default=0.0, help="a reader wants the first token within this; 0 = the limit of ttft, or 1000")
    add("--reader-gap-ms", type=float, default=0.0, help="a reader wants a token every so often; 0 = the limit of tpot, or 200")


def read_yardsticks(options: argparse.Namespace, *, open_loop: bool) -> Yardsticks:
    """The yardsticks that the options ask for; YardstickError says which one is wrong."""
    try:
        limits = parse_limits([options.slo]) if options.slo.strip() else ()
    except ObjectiveError as error:
        raise YardstickError(f"--slo: {error}") from None
    if not open_loop and (due := [one.metric for one in limits if one.metric in ("ttft_due", "e2e_due", "send_delay")]):
        raise YardstickError(f"--slo: {due[0]} exists only with --loop open; in a closed loop bound {due[0].removesuffix('_due')}")
    numbers = {}
    for name in ("stall_ms", "reader_first_ms", "reader_gap_ms"):
        value = float(getattr(options, name))
        if not math.isfinite(value) or value < 0:
            raise YardstickError(f"expected --{name.replace('_', '-')} of at least 0, got {value:g}")
        numbers[name] = value
    bounds = {one.metric: one.bound / _MS for one in limits}
    pace_ms = max(0.0, float(options.gap_ms))
    return Yardsticks(
        limits,
        round((numbers["stall_ms"] or max(STALL_MS, STALL_GAPS * pace_ms)) * _MS),
        round((numbers["reader_first_ms"] or bounds.get("ttft") or READER_FIRST_MS) * _MS),
        round((numbers["reader_gap_ms"] or bounds.get("tpot") or READER_GAP_MS) * _MS),
    )


def keeps_limits(row: Mapping[str, Any], limits: Sequence[Objective]) -> bool:
    """Whether a conversation's row ended well and keeps every limit that it shows a value for; unseen values are for reports to weigh."""
    if row["outcome"] not in ("completed", "stopped"):
        return False
    for one in limits:
        value = row[one.metric if one.unit == "1" else f"{one.metric}_ns"]
        if value is not None and not one.met_by(value):
            return False
    return True
