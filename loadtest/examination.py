"""What an examination is: checks that hold, are violated, or cannot be made; and a sentence for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

HOLDS: Final = "holds"
VIOLATED: Final = "violated"
NOT_CHECKED: Final = "not checked"


class Violation(Exception):  # noqa: N818 - it is what the server did, not an error of ours
    """The rule does not hold; the message says what was expected and what came."""


class Skip(Exception):  # noqa: N818
    """The rule cannot be checked here; the message says what that would need."""


class UnreachableError(Exception):
    """No WebSocket of the protocol answers at the URL."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one check: ``outcome`` is holds, violated or not checked; ``sentence`` says why where it is not the first."""

    rule: str
    title: str
    outcome: str
    sentence: str = ""


def examine(checks: Sequence[tuple[str, str, Callable[[], None]]], told: Callable[[Finding], None] = lambda finding: None) -> list[Finding]:
    """Run checks in order; what each found is told as it is found."""
    findings = []
    for rule, title, check in checks:
        try:
            check()
            finding = Finding(rule, title, HOLDS)
        except Skip as skip:
            finding = Finding(rule, title, NOT_CHECKED, str(skip))
        except Violation as violation:
            finding = Finding(rule, title, VIOLATED, str(violation))
        except UnreachableError as error:
            finding = Finding(rule, title, VIOLATED, f"expected the server to go on after what came before, and {error}")
        findings.append(finding)
        told(finding)
    return findings
