"""What a suite came to: one outcome a run, the worst of them as exit code, ``suite.json`` and the table."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from loadtest.run_directory import RunDirectory, RunDirectoryError, write_text

from .processes import Interrupts
from .scenario import Run

SEVERITY: Final = (1, 2, 130, 12, 11, 10, 0)
"""Exit codes, worst first: a suite's is the worst of its runs. Our own failure and a wrong environment mean that there is no result at
all; an interrupt says that runs are missing; only then comes what the results say."""
SUITE_SCHEMA_VERSION: Final = 1
# 1: first.


def worst(codes: Iterable[int]) -> int:
    """The most severe of some exit codes; one that the table does not know counts as our own failure."""
    return min((code if code in SEVERITY else 1 for code in codes), key=SEVERITY.index, default=0)


@dataclass(slots=True)
class Outcome:
    """What came of one run."""

    run: Run
    directory: Path
    exit_code: int = 0
    messages: list[str] = field(default_factory=list)
    """What went wrong, for the user: the first line is the sentence, more lines are what a program said."""
    seconds: float = 0.0
    summary: dict[str, Any] | None = None

    def fail(self, message: str, exit_code: int) -> None:
        """Note what went wrong."""
        self.messages.append(message)
        self.exit_code = worst((self.exit_code, exit_code))

    def interrupt(self) -> None:
        """Note that somebody stopped the run."""
        self.exit_code = worst((self.exit_code, 130))

    def sentences(self) -> list[str]:
        """What went wrong, a sentence each."""
        return [message.splitlines()[0].rstrip(":") for message in self.messages]

    def settle(self) -> None:
        """Close the run directory when its generator could not: compact the good prefix, and say so."""
        if not self.directory.is_dir():
            return
        try:
            run = RunDirectory.open(self.directory)
            metadata = run.metadata()
            if metadata.get("status") != "running":
                return
            lost = {state.worker: state.bad_bytes for state in run.compact() if state.bad_bytes}
        except (RunDirectoryError, OSError) as error:
            self.fail(f"the record in {self.directory} cannot be closed: {error}", 1)
            return
        interrupted = self.exit_code == 130
        reasons = self.sentences() or ["the run was interrupted" if interrupted else "the generator ended without closing its record"]
        run.update_metadata(
            status="aborted" if interrupted else "failed",
            status_reasons=[*metadata.get("status_reasons", ()), *reasons],
            workers={**(metadata.get("workers") or {}), "bad_bytes": lost},
            ended_utc=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        )
        if not interrupted:
            self.exit_code = worst((self.exit_code, 12))

    def report(self, interrupts: Interrupts, *, charts: bool = True) -> None:
        """Build summary, charts and page from what was measured; another Ctrl-C leaves them out."""
        if not (self.directory / "run.json").is_file():
            return
        interrupts.raising = True
        try:
            # Imported late: pandas and matplotlib take a second that the first run need not wait for.
            from reports.build import build

            self.summary = build(self.directory, charts=charts)
        except KeyboardInterrupt:
            self.fail(f"interrupted while the report was drawn; `python -m reports build {self.directory}` draws it", 130)
        except Exception as error:
            # The record is kept whatever becomes of its picture.
            (self.directory / "report.log").write_text(traceback.format_exc(), encoding="utf-8")
            self.fail(f"the report of {self.directory} could not be drawn ({error!r}); see {self.directory / 'report.log'}", 1)
        finally:
            interrupts.raising = False
        if self.summary is None:
            return
        # Validity first: what a run that is not valid says to a threshold is no result.
        if not self.summary["validity"]["valid"]:
            self.exit_code = worst((self.exit_code, 12))
        elif thresholds := self.summary["thresholds"]:
            for one in thresholds["results"]:
                if one["state"] == "missed":
                    self.fail(one["sentence"], 10)

    def as_dict(self) -> dict[str, Any]:
        """The outcome for suite.json; ``path`` is relative to the suite's folder."""
        return {
            "name": self.run.name,
            "scenario": self.run.as_dict(),
            "path": self.directory.name,
            "exit_code": self.exit_code,
            "reasons": self.sentences(),
            "took_s": round(self.seconds, 3),
            "summary": self.summary,
        }


@dataclass(slots=True)
class Suite:
    """All runs of one call, in one folder."""

    name: str
    folder: Path
    planned: Sequence[str]
    outcomes: list[Outcome] = field(default_factory=list)
    started_utc: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"))
    _started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """The worst of all runs; 130 when some were never begun."""
        return worst([outcome.exit_code for outcome in self.outcomes] + ([] if not self.missing() else [130]))

    def missing(self) -> list[str]:
        """Runs that were never begun."""
        begun = {outcome.run.name for outcome in self.outcomes}
        return [name for name in self.planned if name not in begun]

    def as_dict(self) -> dict[str, Any]:
        """What ``suite.json`` and ``--json`` say."""
        return {
            "schema_version": SUITE_SCHEMA_VERSION,
            "name": self.name,
            "path": str(self.folder),
            "started_utc": self.started_utc,
            "took_s": round(self.seconds, 3),
            "exit_code": self.exit_code,
            "missing": self.missing(),
            "runs": [outcome.as_dict() for outcome in self.outcomes],
        }

    def write(self) -> None:
        """Write ``suite.json`` as far as the suite has come."""
        self.seconds = time.monotonic() - self._started
        write_text(self.folder / "suite.json", json.dumps(self.as_dict(), ensure_ascii=False, indent=2, allow_nan=False) + "\n")
