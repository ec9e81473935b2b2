"""Makes ``compare.html``: the comparison of runs in the same dress as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from .compare import cell
from .inline import StyleSheet
from .page import render_template
from .units import shown_unit

if TYPE_CHECKING:
    from .charts import Chart


def render_comparison(comparison: Mapping[str, Any], charts: Sequence[Chart]) -> str:
    """The comparison as HTML text."""
    sheet = StyleSheet()
    inlined = [{"svg": Markup(sheet.inline(c.svg, c.name, c.title)), "caption": c.caption} for c in charts]  # noqa: S704 - our own SVG
    rows = [
        {
            "title": row["title"], "unit": shown_unit(row["unit"]), "percentile": row["percentile"],
            "cells": [cell(row, value) for value in row["values"]],
        }
        for row in comparison["rows"]
    ]  # fmt: skip
    names = [run["name"] for run in comparison["runs"]]
    context = {
        "title": " vs ".join(names), "runs": comparison["runs"], "names": names, "warnings": comparison["warnings"], "rows": rows,
        "charts": inlined,
    }  # fmt: skip
    return render_template("compare.html.j2", sheet, context)
