"""Who the users are and what they say: prompts from a file or generated, and one row of a CSV a user. Pure but for reading files."""

from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from server.protocol import STOP

_WORDS = tuple(
    word
    for line in (
        "why does the river rise after rain and how long until it falls again when snow melts upstream of a dam",
        "please explain in three short steps what a gauge reads at night as the water turns cold and slow",
    )
    for word in line.split()
)


HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header's name, as HTTP allows it (RFC 9110, 5.6.2)."""


class PopulationError(Exception):
    """A file of prompts or users cannot be used; the message says where and what was expected."""


def read_prompts(path: Path) -> tuple[str, ...]:
    """One prompt a line, UTF-8, empty lines skipped; PopulationError when there is none or a line cannot be a prompt."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PopulationError(f"expected UTF-8 text in the prompt file {path}, found a byte that is none at offset {error.start}") from None
    except OSError as error:
        raise PopulationError(f"cannot read the prompt file {path}: {error.strerror}") from None
    prompts = tuple(line for line in text.splitlines() if line.strip())
    if not prompts:
        raise PopulationError(f"expected at least one prompt, one a line, in {path}, found none")
    for number, line in enumerate(text.splitlines(), start=1):
        if line == STOP:
            raise PopulationError(f"line {number} of {path} is {STOP!r}, which means stop and cannot be a prompt; change it")
    return prompts


def generate_prompt(draw: random.Random, size_bytes: int) -> str:
    """A sentence of ``size_bytes`` ASCII characters (at least 1), never the stop word."""
    words: list[str] = []
    length = -1
    while length < size_bytes:
        word = draw.choice(_WORDS)
        words.append(word)
        length += 1 + len(word)
    prompt = " ".join(words)[: max(1, size_bytes)]
    return prompt if prompt != STOP else STOP.upper()


@dataclass(frozen=True, slots=True)
class Person:
    """What one user brings of its own: a URL instead of the common one, and headers."""

    url: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


def read_people(path: Path) -> tuple[Person, ...]:
    """Rows of a CSV with a header line: columns ``url``, ``token`` (sent as a bearer token) and ``header:NAME``, all optional."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PopulationError(f"expected UTF-8 text in the users file {path}, found a byte that is none at offset {error.start}") from None
    except OSError as error:
        raise PopulationError(f"cannot read the users file {path}: {error.strerror}") from None
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        names = reader.fieldnames or []
        unknown = [name for name in names if name not in ("url", "token") and not _is_header_column(name)]
        if unknown or not names:
            found = f"found {', '.join(unknown)!r}" if unknown else "found an empty file"
            raise PopulationError(f"expected the columns url, token, header:NAME in {path}, {found}")
        people = tuple(_person(row, names, f"line {reader.line_num} of {path}") for row in reader)
    except csv.Error as error:
        raise PopulationError(f"line {reader.line_num} of {path} is not CSV: {error}") from None
    if not people:
        raise PopulationError(f"expected at least one user below the header line of {path}, found none")
    return people


def _is_header_column(name: str) -> bool:
    return name.startswith("header:") and HEADER_NAME.fullmatch(name.removeprefix("header:")) is not None


def _person(row: dict[str, str], names: Sequence[str], place: str) -> Person:
    if None in row or any(value is None for value in row.values()):
        raise PopulationError(f"expected {len(names)} fields in {place}, found another number")
    url = row.get("url", "").strip() or None
    if url is not None and not url.startswith(("ws://", "wss://")):
        raise PopulationError(f"expected a ws:// or wss:// URL in {place}, found {url!r}")
    headers = [(name.removeprefix("header:"), row[name]) for name in names if name.startswith("header:") and row[name]]
    if token := row.get("token", "").strip():
        headers.append(("Authorization", f"Bearer {token}"))
    if any(c in value for _, value in headers for c in "\r\n\0"):
        raise PopulationError(f"a header in {place} contains a line break or a zero byte, which HTTP cannot carry")
    return Person(url, tuple(headers))
