"""Makes ``report.html``: one file, no script, nothing loaded from outside, under a strict content security policy."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .content import content
from .inline import StyleSheet

if TYPE_CHECKING:
    from .charts import Chart

_HERE = Path(__file__).parent

Summary = Mapping[str, Any]


def render_page(summary: Summary, charts: Sequence[Chart] = ()) -> str:
    """The report of one run as HTML text."""
    sheet = StyleSheet()
    inlined = [{"svg": Markup(sheet.inline(c.svg, c.name, c.title)), "caption": c.caption} for c in charts]  # noqa: S704 - our own SVG
    return render_template("page.html.j2", sheet, {**content(summary), "charts": inlined})


def render_template(name: str, sheet: StyleSheet, context: Mapping[str, Any]) -> str:
    """A page of this package with its style sheet and the policy that allows nothing but that sheet."""
    css = (_HERE / "page.css").read_text(encoding="utf-8") + sheet.rules()
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # Markup: our own style sheet, in which no foreign text stands.
    return environment.get_template(name).render({**context, "css": Markup(css), "policy": policy})  # noqa: S704
