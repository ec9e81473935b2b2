"""Makes ``calibration.html``: one file in the report's style, no script, nothing loaded from outside, a strict content security policy."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import reports
from reports.units import plural, significant

from .figure import Figure


def render_calibration(told: Mapping[str, Any], figures: Sequence[Figure]) -> str:
    """The page of what ``calibration.json`` says."""
    css = (Path(reports.__file__).parent / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    wrong = [figure for figure in figures if not figure.passed]
    machine = told["environment"]
    return environment.get_template("calibration.html.j2").render(
        told=told,
        wrong=wrong,
        verdict=f"All {len(figures)} figures were read within their bounds." if not wrong else f"{plural(len(wrong), 'figure')} not true",
        parts=[(part, [figure for figure in figures if figure.part == part["name"]]) for part in told["parts"]],
        facts=[
            ("When", told["ended_utc"]), ("Took", f"{significant(told['took_s'])} s"),
            ("CPU", f"{machine['cpu_count']} × {machine['cpu_model']}"), ("Kernel", f"{machine['os']} {machine['kernel']}"),
            ("Python", machine["python"]), ("Streamgauge", told["versions"]["streamgauge"]),
        ],
        css=css,
        policy=policy,
    )  # fmt: skip
