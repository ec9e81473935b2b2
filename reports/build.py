"""Builds a run's report: summarises, draws, and writes ``summary.json``, ``charts/`` and ``report.html`` beside the data.

Everything is made before anything is written, and each file is replaced in one step: a report that fails leaves the old one whole.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.run_directory import RunDirectoryError, write_text

from .load import load_run
from .page import render_page
from .summary import summarise_run
from .thresholds import Asked

if TYPE_CHECKING:
    from .charts import Chart


def build(run_path: Path | str, *, charts: bool = True, asked: Asked | None = None) -> dict[str, Any]:
    """Summarise the run, write its report, and return the summary; RunDirectoryError when it cannot be read or written."""
    path = Path(run_path)
    run = load_run(path)
    summary = summarise_run(run, asked)
    drawn: list[Chart] = []
    if charts:
        # Drawing takes most of the start-up time, so that only those who draw import it.
        from .charts import CHARTS, draw

        drawn = draw(CHARTS, run, summary)
    page = render_page(summary, drawn)
    try:
        if charts:
            replace_charts(path, drawn)
        write_text(path / "report.html", page)
        write_text(path / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise RunDirectoryError(f"cannot write the report into {path}: {error.strerror}; the old report stands") from None
    return summary


def replace_charts(path: Path, charts: Sequence[Chart]) -> None:
    """Write each chart as SVG and PNG into ``charts/``, by swapping whole directories."""
    aside = Path(tempfile.mkdtemp(prefix=".charts.", dir=path))
    try:
        aside.chmod(0o755)
        for chart in charts:
            (aside / f"{chart.name}.svg").write_text(chart.svg, encoding="utf-8")
            (aside / f"{chart.name}.png").write_bytes(chart.png)
        old = path / ".charts.old"
        shutil.rmtree(old, ignore_errors=True)
        if (path / "charts").exists():
            os.replace(path / "charts", old)
        os.replace(aside, path / "charts")
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
