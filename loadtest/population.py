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

from .workload import draw_lengths

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


def _read_text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PopulationError(f"expected UTF-8 text in the {what} {path}, found a byte that is none at offset {error.start}") from None
    except OSError as error:
        raise PopulationError(f"cannot read the {what} {path}: {error.strerror}") from None


def read_prompts(path: Path) -> tuple[str, ...]:
    """One prompt a line, UTF-8, empty lines skipped; PopulationError when there is none or a line cannot be a prompt."""
    text = _read_text(path, "prompt file")
    prompts = tuple(line for line in text.splitlines() if line.strip())
    if not prompts:
        raise PopulationError(f"expected at least one prompt, one a line, in {path}, found none")
    for number, line in enumerate(text.splitlines(), start=1):
        if line == STOP:
            raise PopulationError(f"line {number} of {path} is {STOP!r}, which means stop and cannot be a prompt; change it")
    return prompts


class Prompt(str):
    """A prompt that knows how many tokens it stands for, and how many its answer is to have; None where nothing says so.

    An adapter whose protocol can ask for a length (such as ``max_tokens``) finds it at ``answer_tokens``.
    """

    __slots__ = ("answer_tokens", "prompt_tokens")

    prompt_tokens: int | None
    answer_tokens: int | None

    @classmethod
    def of(cls, text: str, prompt_tokens: int | None = None, answer_tokens: int | None = None) -> Prompt:
        """A prompt with its numbers."""
        prompt = cls(text)
        prompt.prompt_tokens, prompt.answer_tokens = prompt_tokens, answer_tokens
        return prompt


MOST_PROMPT_BYTES = 1 << 16
"""The longest message that the reference server takes."""
_LONG_BYTES = 512
_LONG_TEXT = (" ".join(random.Random(0).choices(_WORDS, k=997)) + " ") * (2 * MOST_PROMPT_BYTES // 3000)


def generate_prompt(draw: random.Random, size_bytes: int) -> str:
    """A sentence of ``size_bytes`` ASCII characters (1 to 65 536), never the stop word."""
    if size_bytes > _LONG_BYTES:
        # Word by word a long one would hold the engine up for milliseconds.
        begin = draw.randrange(len(_LONG_TEXT) - size_bytes)
        return _LONG_TEXT[begin : begin + size_bytes]
    words: list[str] = []
    length = -1
    while length < size_bytes:
        word = draw.choice(_WORDS)
        words.append(word)
        length += 1 + len(word)
    prompt = " ".join(words)[: max(1, size_bytes)]
    return prompt if prompt != STOP else STOP.upper()


def ask_for(text: str, answer_tokens: int) -> str:
    """The prompt as a reference server reads it with ``lengths=prompt``: it begins with the number of tokens to answer with.

    A text longer than the number keeps its length.
    """
    asked = f"{answer_tokens} "
    return asked + text[len(asked) :] if len(text) > len(asked) else str(answer_tokens)


@dataclass(frozen=True, slots=True)
class Speech:
    """What users say: ``prompts`` in turn at random, else generated ones of ``prompt_bytes``, or as long as their tokens say.

    Where the number of tokens that an answer is to have is known, ``tells`` leaves it to the adapter to ask for it, and with ``asks``
    the prompt begins with it.
    """

    prompts: tuple[str, ...] = ()
    prompt_bytes: int = 32
    workload: str | None = None
    bytes_per_token: float = 4.0
    asks: bool = True
    tells: bool = True

    def say(self, draw: random.Random, prompt_tokens: int | None = None, answer_tokens: int | None = None) -> Prompt:
        """The next prompt; the token counts are those of its arrival, or else drawn from the workload, or unknown."""
        if self.workload is not None and prompt_tokens is None and answer_tokens is None:
            prompt_tokens, answer_tokens = draw_lengths(self.workload, draw)
        if answer_tokens is not None:
            # Traces have answers without a token, of failures; a conversation asks for one at least.
            answer_tokens = max(1, answer_tokens)
        if self.prompts:
            text = draw.choice(self.prompts)
        else:
            size = self.prompt_bytes if prompt_tokens is None else round(prompt_tokens * self.bytes_per_token)
            text = generate_prompt(draw, min(max(1, size), MOST_PROMPT_BYTES))
        if self.asks and answer_tokens is not None:
            text = ask_for(text, answer_tokens) if not self.prompts else f"{answer_tokens} {text}"
        return Prompt.of(text, prompt_tokens, answer_tokens if self.tells else None)


@dataclass(frozen=True, slots=True)
class Person:
    """What one user brings of its own: a URL instead of the common one, and headers."""

    url: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


def read_people(path: Path) -> tuple[Person, ...]:
    """Rows of a CSV with a header line: columns ``url``, ``token`` (sent as a bearer token) and ``header:NAME``, all optional."""
    reader = csv.DictReader(io.StringIO(_read_text(path, "users file")), strict=True)
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


def role_of(user: int, shares: tuple[tuple[str, float], ...]) -> str:
    """Which of the roles a user has, or none (""): the shares are spread evenly over the numbers of users instead of being drawn."""
    place, left = user, 1.0
    for role, share in shares:
        part = share / left if left > 0 else 0.0
        before = int(place * part + 1e-9)
        if int((place + 1) * part + 1e-9) > before:
            return role
        place -= before
        left -= share
    return ""
