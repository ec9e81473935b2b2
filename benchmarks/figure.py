"""One figure of a calibration: what was read, what was true, how far apart they may be, and why. Pure."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from reports.units import ABSENT, count, duration, share, significant


@dataclass(frozen=True, slots=True)
class Figure:
    """``read`` passes when it lies from ``low`` to ``high``; all in ``unit`` (ns, 1, share).

    ``truth`` says where the true value comes from, ``why`` why the bound is what it is.
    """

    part: str
    name: str
    title: str
    unit: str
    read: float | None
    true: float | None
    low: float | None
    high: float | None
    truth: str
    why: str

    @property
    def passed(self) -> bool:
        """Whether the harness read true; what was not read did not."""
        if self.read is None or self.low is None or self.high is None or not all(map(math.isfinite, (self.read, self.low, self.high))):
            return False
        return self.low <= self.read <= self.high

    @property
    def error(self) -> float | None:
        """Read minus true."""
        return None if self.read is None or self.true is None else self.read - self.true

    @property
    def strain(self) -> float:
        """The error as a share of what the bound allows on its side: 0 exact, 1 at the bound, more beyond it."""
        if self.read is None or self.true is None or self.low is None or self.high is None or not math.isfinite(self.read - self.true):
            return math.inf
        error = self.read - self.true
        if error == 0:
            return 0.0
        room = self.high - self.true if error > 0 else self.true - self.low
        return abs(error) / room if room > 0 else math.inf

    def as_dict(self) -> dict[str, Any]:
        """The figure for JSON."""
        strain = self.strain
        return {**asdict(self), "error": self.error, "passed": self.passed, "strain": round(strain, 4) if math.isfinite(strain) else None}

    def text(self, value: float | None) -> str:
        """A value in the figure's unit for people."""
        if value is None or not math.isfinite(value):
            return ABSENT
        if self.unit == "ns":
            return "0 ns" if value == 0 else duration(value)
        if self.unit == "share":
            return share(value)
        return count(value) if value == round(value) else significant(value, 4)

    @property
    def error_text(self) -> str:
        """The error with its sign."""
        error = self.error
        if error is None or not math.isfinite(error):
            return ABSENT
        return "0" if error == 0 else f"{'+' if error > 0 else '-'}{self.text(abs(error))}"

    @property
    def bound_text(self) -> str:
        """How far below and above the truth it may be read."""
        if self.low is None or self.high is None or self.true is None or not all(map(math.isfinite, (self.low, self.high, self.true))):
            return ABSENT
        below, above = self.true - self.low, self.high - self.true
        if math.isclose(below, above, rel_tol=1e-6):
            return "exact" if below == 0 else f"±{self.text(below)}"
        parts = ("0" if side == 0 else f"{sign}{self.text(abs(side))}" for sign, side in (("-", below), ("+", above)))
        return " … ".join(parts)


def exact(part: str, name: str, title: str, read: float | None, true: float | None, truth: str, why: str, slack: float = 0) -> Figure:
    """A count that has to be right, within ``slack``."""
    low, high = (None, None) if true is None else (true - slack, true + slack)
    return Figure(part, name, title, "1", read, true, low, high, truth, why)
