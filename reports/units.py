"""Turns stored numbers into text for people: milliseconds, shares, counts. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

ABSENT = "–"
"""Shown where there is no number and no reason to state."""


def significant(value: float, digits: int = 3) -> str:
    """A number with about ``digits`` significant digits, without exponent, thousands set apart by a thin space."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else ABSENT
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 9)}f}".replace(",", "\u202f")


def milliseconds(ns: float | None, digits: int = 3) -> str:
    """Nanoseconds as milliseconds without the unit's name."""
    return ABSENT if ns is None else significant(ns / 1e6, digits)


def duration(ns: float | None) -> str:
    """Nanoseconds with the unit that suits their size."""
    if ns is None:
        return ABSENT
    for limit, scale, unit in ((1e3, 1.0, "ns"), (1e6, 1e3, "µs"), (1e9, 1e6, "ms"), (math.inf, 1e9, "s")):
        if abs(ns) < limit:
            return f"{significant(ns / scale)} {unit}"
    return ABSENT


def count(value: float | None) -> str:
    """A whole number, thousands set apart by a thin space."""
    return ABSENT if value is None else f"{round(value):,}".replace(",", "\u202f")


def share(value: float | None) -> str:
    """A share of one as per cent."""
    if value is None:
        return ABSENT
    return f"{significant(value * 100, 2 if value < 0.1 else 3).removesuffix('.0')} %"


def in_unit(value: float | None, unit: str) -> str:
    """A metric's value as the tables show it: ns as ms, counts and rates as they are."""
    if value is None:
        return ABSENT
    if unit == "share":
        return share(value)
    return milliseconds(value) if unit == "ns" else significant(value)


def shown_unit(unit: str) -> str:
    """The name of the unit that ``in_unit`` shows."""
    return {"ns": "ms", "1": "", "1/s": "/s", "share": ""}.get(unit, unit)


def percentile_text(entry: Mapping[str, Any], unit: str) -> str:
    """A percentile's value, or why there is none."""
    return str(entry["text"]) if entry["value"] is None else in_unit(entry["value"], unit)


def interval_text(entry: Mapping[str, Any], unit: str) -> str:
    """A percentile's interval as ``low … high``; empty where there is none."""
    if entry["value"] is None or (entry["low"] is None and entry["high"] is None):
        return ""
    return f"{in_unit(entry['low'], unit)} … {in_unit(entry['high'], unit)}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """``1 conversation``, ``2 conversations``."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"
