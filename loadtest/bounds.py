"""Numbers and choices out of options, within their bounds, or one sentence that says what was expected and what came."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence


class SettingsError(Exception):
    """An option is wrong; the message says what was expected, what came and what to do."""


class Bounds:
    """Reads numbers out of the options and says which one is out of its range."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options

    def number(self, name: str, above: float | None = None) -> float:
        """A number of at least 0, or above ``above``."""
        value = self._read(name, float)
        if not math.isfinite(value) or value < 0 or (above is not None and value <= above):
            raise SettingsError(f"expected --{name.replace('_', '-')} {'above 0' if above is not None else 'of at least 0'}, got {value:g}")
        return float(value)

    def share(self, name: str) -> float:
        """A number from 0 to 1."""
        value = self._read(name, float)
        if not 0 <= value <= 1:
            raise SettingsError(f"expected --{name.replace('_', '-')} to be a share from 0 to 1, got {value:g}")
        return float(value)

    def whole(self, name: str, least: int, most: int | None = None) -> int:
        """A whole number within bounds."""
        value = self._read(name, int)
        if value < least or (most is not None and value > most):
            bounds = f"from {least} to {most}" if most is not None else f"of at least {least}"
            raise SettingsError(f"expected --{name.replace('_', '-')} {bounds}, got {value}")
        return int(value)

    def _read(self, name: str, kind: type[int] | type[float]) -> int | float:
        value = getattr(self._options, name)
        try:
            return kind(value)
        except (TypeError, ValueError, OverflowError):
            raise SettingsError(f"expected a number for --{name.replace('_', '-')}, got {value!r}") from None


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """One of the choices."""
    if value not in choices:
        raise SettingsError(f"expected --{name} to be one of {', '.join(choices)}, got {value!r}")
    return value
