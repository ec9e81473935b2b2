"""Where a command speaks: what it found on standard output, everything else on standard error; and how it says that it cannot go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rich.console import Console

from .runner import BenchError

PLAIN_WIDTH: Final = 180
"""Without a terminal there is no width to keep to, and a table cut at 80 characters says less."""


def consoles(machine_reads: bool) -> tuple[Console, Console]:
    """Two consoles: for what was found, and for everything else. With ``machine_reads`` standard output is left to JSON alone."""
    errors = _console(stderr=True)
    return errors if machine_reads else _console(stderr=False), errors


def _console(stderr: bool) -> Console:
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=PLAIN_WIDTH)


def teller(errors: Console) -> Callable[[str], None]:
    """What tells how far long work has come: a pale line each."""
    return lambda line: errors.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)


def complain(errors: Console, what: object) -> None:
    """Say what went wrong: as it is, for it may hold brackets and paths, and in one piece."""
    errors.print(str(what), style="red", markup=False, highlight=False, soft_wrap=True)


def refuse(errors: Console, error: Exception) -> int:
    """Say why a command cannot go on; its exit code by the table of outcomes: 2 where it was told something wrong, else 1."""
    complain(errors, error)
    if isinstance(error, BenchError):
        return error.exit_code
    return 2 if getattr(error, "usage", False) else 1
