"""Puts matplotlib's SVG into a page under a strict content security policy, and in the page's own colours.

A policy without ``unsafe-inline`` forbids style attributes. Each distinct attribute becomes a class of the page's one (hashed) style
sheet, and the palette becomes CSS variables there, so that a chart follows the page into dark mode.
"""

from __future__ import annotations

import re
from xml.sax.saxutils import quoteattr

from . import palette

_VARIABLES = {
    palette.BLUE: "--blue", palette.ORANGE: "--orange", palette.VERMILION: "--vermilion", palette.GREEN: "--green",
    palette.PURPLE: "--purple", palette.SKY: "--sky",
    palette.INK: "--ink", palette.MUTED: "--muted", palette.GRID: "--grid", palette.SHADE: "--shade",
}  # fmt: skip


class StyleSheet:
    """Collects the distinct style attributes of several drawings as classes."""

    def __init__(self) -> None:
        self._classes: dict[str, str] = {}

    def rules(self) -> str:
        """The style sheet's rules for everything inlined so far."""
        return "\n".join(f".{name}{{{declarations}}}" for declarations, name in self._classes.items())

    def inline(self, svg: str, name: str, label: str) -> str:
        """The ``<svg>`` element of a drawing for a page: no style attribute, no fixed size, only the ids it refers to."""
        body = svg[svg.index("<svg") :]
        body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<title>.*?</title>|<!--.*?-->", "", body, flags=re.DOTALL)
        referred = {one or other for one, other in re.findall(r'xlink:href="#([^"]*)"|url\(#([^)]*)\)', body)}
        body = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m.group(1)}"' if m.group(1) in referred else "", body)
        body = re.sub(r'xlink:href="#([^"]*)"', rf'href="#{name}-\1"', body)
        body = re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", body)
        body = re.sub(r' style="([^"]*)"', self._as_class, body)
        view_box = re.search(r'viewBox="([^"]*)"', body)
        root = f'<svg viewBox="{view_box.group(1) if view_box else "0 0 432 252"}" role="img" aria-label={quoteattr(label)}>'
        body = re.sub(r"<svg[^>]*>", lambda _: root, body, count=1)
        return re.sub(r"\s*\n\s*", "\n", body).strip()

    def _as_class(self, match: re.Match[str]) -> str:
        declarations = match.group(1).strip().rstrip(";")
        if not declarations:
            return ""
        lower = declarations.replace("&quot;", '"').replace("&apos;", "'")
        if f"fill: {palette.PAPER}" in lower:
            # The figure's own background; the page shows through.
            lower = lower.replace(f"fill: {palette.PAPER}", "fill: none")
        for colour, variable in _VARIABLES.items():
            lower = re.sub(colour, f"var({variable})", lower, flags=re.IGNORECASE)
        lower = re.sub(r"\s*([:;,])\s*", r"\1", lower).replace("'DejaVu Sans'", "'DejaVu Sans',Verdana,sans-serif")
        return f' class="{self._classes.setdefault(lower, f"s{len(self._classes)}")}"'
