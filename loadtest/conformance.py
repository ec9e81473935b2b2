"""``python -m loadtest.conformance``: do the rules hold for a server of the reference protocol, or for somebody's own adapter and server?

Exit code: 0 everything that could be checked holds, 10 something does not, 2 nothing could be checked.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final

from .dialogues import CHECKS
from .examination import HOLDS, NOT_CHECKED, VIOLATED, Finding, UnreachableError, examine
from .examinee import Subject, acquaint

EXIT_HOLDS, EXIT_USAGE, EXIT_VIOLATED = 0, 2, 10
_DESCRIPTION: Final = (
    "Without --adapter: the rules of docs/protocol.md, R1 to R15, by a dialogue each with the server at URL. With --adapter: the adapter "
    "itself, and where a URL is given conversations held through it with that server. Exit code: 0 all that could be checked holds, 10 "
    "something does not, 2 nothing could be checked."
)


def examine_server(subject: Subject, told: Callable[[Finding], None] = lambda finding: None) -> list[Finding]:
    """Every rule of the reference protocol; UnreachableError when there is no server at all."""
    acquaint(subject)
    return examine([(rule, title, _bound(check, subject)) for rule, title, check in CHECKS], told)


def _bound(check: Callable[[Subject], None], subject: Subject) -> Callable[[], None]:
    return lambda: check(subject)


def exit_code(findings: Sequence[Finding]) -> int:
    """10 when anything is violated, 2 when nothing could be checked, else 0."""
    outcomes = {finding.outcome for finding in findings}
    return EXIT_VIOLATED if VIOLATED in outcomes else EXIT_HOLDS if HOLDS in outcomes else EXIT_USAGE


def as_dict(target: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """The result for programs."""
    return {"target": target, "conforms": exit_code(findings) == EXIT_HOLDS, "findings": [asdict(finding) for finding in findings]}


def _print(finding: Finding) -> None:
    mark = {HOLDS: "holds      ", VIOLATED: "VIOLATED   ", NOT_CHECKED: "not checked"}[finding.outcome]
    sys.stdout.write(f"{finding.rule:<12} {mark}  {finding.title}" + (f"\n{'':26}{finding.sentence}" if finding.sentence else "") + "\n")
    sys.stdout.flush()


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.conformance", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument(
        "url", nargs="?", metavar="URL", help="the server: ws[s]:// of the reference protocol, or what the adapter speaks to"
    )
    parser.add_argument("--adapter", metavar="NAME", help="a shipped adapter, module:Class or path/to/file.py:Class")
    parser.add_argument("--adapter-file", default="", metavar="FILE", help="the adapter's options, TOML or JSON")
    parser.add_argument("--window", type=int, default=1, metavar="N", help="tokens that the server sends ahead (default: 1)")
    parser.add_argument("--patience", type=float, default=20.0, metavar="S", help="how long a word may take (default: 20)")
    parser.add_argument("--ack-timeout", type=float, metavar="S", help="how long the server waits for an acknowledgement: checks R8")
    parser.add_argument("--pid", type=int, metavar="PID", help="the server's process, which is told to leave at the end: checks R15")
    parser.add_argument("--prompt", default="tell me a story", metavar="TEXT", help="what is asked through an adapter")
    parser.add_argument("--json", action="store_true", help="the result as JSON on standard output")
    given = parser.parse_args(words)
    if given.url is None and given.adapter is None and not given.adapter_file:
        parser.error("expected the URL of a server, or --adapter")
    if not 0 <= given.window <= 1024 or given.patience <= 0:
        parser.error("expected --window from 0 to 1024 and --patience above 0")
    return given


def main(words: Sequence[str] | None = None) -> int:
    """Check what the command line names; the exit code."""
    given = _options(sys.argv[1:] if words is None else words)
    told = (lambda finding: None) if given.json else _print
    try:
        if given.adapter or given.adapter_file:
            # With gevent, which the rules of the protocol do not need.
            from .adapter_checks import examine_adapter

            findings = examine_adapter(given, told)
        else:
            findings = examine_server(Subject(given.url, given.window, given.patience, given.ack_timeout, given.pid), told)
    except (UnreachableError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USAGE
    except KeyboardInterrupt:
        return 130
    if given.json:
        sys.stdout.write(
            json.dumps(as_dict(given.url or given.adapter or given.adapter_file, findings), ensure_ascii=False, indent=2) + "\n"
        )
    else:
        violated = sum(finding.outcome == VIOLATED for finding in findings)
        sys.stdout.write(f"{violated} of {len(findings)} violated\n" if violated else "all that could be checked holds\n")
    return exit_code(findings)


if __name__ == "__main__":
    sys.exit(main())
