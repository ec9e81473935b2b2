"""``python -m reports build | show | compare | recover``: reports from run directories."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtest.objectives import ObjectiveError
from loadtest.run_directory import RunDirectoryError

OK, USAGE, MISSED, INVALID, INTERRUPTED = 0, 2, 10, 12, 130


_SLO = "limit of one conversation for goodput, such as ttft=500ms, in place of those the run states; may be repeated"
_THRESHOLD = "what the run must keep, such as 'token_p99 < 50ms' or 'errors < 0.1%%', beside what its scenario says; may be repeated"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m reports", description="Figures, charts and a page from run directories.")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="write summary.json, report.html and charts/ into a run directory")
    build.add_argument("--no-charts", action="store_true", help="figures only, without drawing")
    show = commands.add_parser("show", help="print the summary of a run; writes nothing")
    for command in (build, show):
        command.add_argument("run", nargs="?", metavar="RUN", help="run directory, its name under runs/, or latest (the default)")
        command.add_argument("--slo", action="append", default=[], metavar="LIMIT", help=_SLO)
        command.add_argument("--threshold", action="append", default=[], metavar="OBJECTIVE", help=_THRESHOLD)
        command.add_argument("--json", action="store_true", help="the summary as JSON on standard output, all else on standard error")
    compare = commands.add_parser("compare", help="put two or more runs side by side, the first as the base")
    compare.add_argument("runs", nargs="+", metavar="RUN", help="run directories, the base first")
    compare.add_argument("--out", metavar="FOLDER", help="where the page and charts go (default: beside the last run)")
    compare.add_argument("--json", action="store_true", help="the comparison as JSON on standard output")
    commands.add_parser("rules", help="print the rules of validity, as in docs/validity.md")
    recover = commands.add_parser("recover", help="build a report from the raw record of a run that was killed")
    recover.add_argument("run", nargs="?", metavar="RUN", help="run directory, or latest (the default)")
    recover.add_argument("parts", nargs="*", metavar="RECORD", help="workers' own records to join to it, brought from their machines")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 2 usage, 10 a threshold failed, 12 the run is not valid)."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (RunDirectoryError, ObjectiveError) as error:
        print(f"reports: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    from .load import find_run

    if options.command == "rules":
        from .validity import describe_rules

        print(describe_rules(), end="")
        return OK

    if options.command == "compare":
        from .compare import compare_runs, print_comparison

        comparison = compare_runs([find_run(name) for name in options.runs], Path(options.out) if options.out else None)
        print_comparison(comparison, sys.stderr if options.json else sys.stdout)
        if options.json:
            _print_json(comparison)
        return OK if all(run["valid"] for run in comparison["runs"]) else INVALID
    from .thresholds import Asked, read_asked

    asked = read_asked(options.slo, options.threshold) if options.command in ("build", "show") else Asked()
    path = find_run(options.run)
    if options.command == "recover":
        from .recover import recover

        print(recover(path, [Path(part) for part in options.parts]))
    if options.command == "show":
        from .summary import summarise

        summary = summarise(path, asked)
    else:
        from .build import build

        summary = build(path, charts=not getattr(options, "no_charts", False), asked=asked)
    from .text import print_summary

    as_json = getattr(options, "json", False)
    print_summary(summary, sys.stderr if as_json else sys.stdout, paths=options.command != "show")
    if as_json:
        _print_json(summary)
    return exit_code(summary)


def exit_code(summary: Mapping[str, Any]) -> int:
    """Validity comes first: a run that is not valid is neither fine nor slow."""
    if not summary["validity"]["valid"]:
        return INVALID
    return MISSED if (summary.get("thresholds") or {}).get("state") == "missed" else OK


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


if __name__ == "__main__":
    sys.exit(main())
