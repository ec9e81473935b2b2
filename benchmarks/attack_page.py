"""What an attack found, as Markdown: a table for each experiment, and its marked place in ``docs/reliability.md``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reports.units import count, duration

from .omission import Claim
from .runner import BenchError


def write_experiment(name: str, figures: Mapping[str, Any], claims: list[Claim], where: str) -> str:
    """One experiment: where it was measured, what was found and what had to be so, and the figures behind that."""
    so = sum(claim.holds for claim in claims)
    lines = [
        f"{where}. {so} of {len(claims)} as it must be.", "",
        "| what | found | must be | so |", "|---|---:|---:|---|",
        *(f"| {claim.what} | {claim.found_text} | {claim.range_text} | {'yes' if claim.holds else '**no**'} |" for claim in claims),
    ]  # fmt: skip
    if told := _told(name, figures):
        lines += ["", told]
    return "\n".join(lines) + "\n"


def split_page(page: Path, name: str) -> tuple[str, str]:
    """What stands before and after the marked place of experiment ``name``, marks included; BenchError when a page has no such place."""
    begin, end = f"<!-- attack-{name}:begin -->\n", f"<!-- attack-{name}:end -->"
    try:
        whole = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"--page: expected a page with marked places, and {page} cannot be read ({error})", 2) from None
    before, found, rest = whole.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise BenchError(f"--page: expected the lines {begin.strip()} and {end} in {page}; put them where the table is to be", 2)
    return before + begin, end + after


def fill(page: Path, name: str, text: str) -> None:
    """Put ``text`` into the marked place of experiment ``name``; BenchError when the page has none."""
    before, after = split_page(page, name)
    page.write_text(before + text + after, encoding="utf-8")


def _told(name: str, figures: Mapping[str, Any]) -> str:
    if name == "mixed":
        attacks = ", ".join(f"{kind} {count(times)}" for kind, times in figures["attacks"].items())
        calm, attacked = (", ".join(map(duration, figures[f"{which}_late_p99_ns"])) for which in ("calm", "attacked"))
        return f"Run by run, beyond the pace: calm {calm}; attacked {attacked}. Attacks: {attacks}."
    if name == "storm":
        return f"Offered in {figures['offered_s']:.3f} s; the longest connect took {duration(figures['longest_s'] * 1e9)}."
    if name == "stops":
        rate = figures["ends"] / max(figures["seconds"], 1e-9)
        return f"{count(rate)} conversations a second; {count(figures['tokens'])} tokens."
    memory = figures["memory_bytes"]
    mebibytes = f"{memory[0] / 2**20:.1f} MiB after the first part, {memory[-1] / 2**20:.1f} MiB after the last"
    return f"{count(figures['per_s'])} a second. Memory of the server: {mebibytes}; descriptors {figures['descriptors'][-1]}."
