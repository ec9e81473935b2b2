"""Who may open a conversation: whoever shows one of the operator's bearer tokens, where there are any."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from websockets.datastructures import Headers

LEAST_CHARACTERS: Final = 16  # shorter ones can be guessed
MOST_CHARACTERS: Final = 4096


def read_tokens(path: Path) -> tuple[str, ...]:
    """Read a file of one token a line; blank lines and those that begin with # are none.

    Raises OSError if it cannot be read, ValueError with a sentence (which never holds a token) if it holds none or a bad one.
    """
    tokens = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        token = line.strip()
        if not token or token.startswith("#"):
            continue
        if not (LEAST_CHARACTERS <= len(token) <= MOST_CHARACTERS and token.isascii() and token.isprintable() and " " not in token):
            raise ValueError(f"line {number}: a token is {LEAST_CHARACTERS} to {MOST_CHARACTERS} ASCII characters without blanks")
        tokens.append(token)
    if not tokens:
        raise ValueError("there is no token in it")
    return tuple(tokens)


def may_enter(headers: Headers, tokens: Sequence[str]) -> bool:
    """Whether the request shows one of `tokens` as `Authorization: Bearer ...`; without tokens everybody may.

    All tokens are compared, each in time that does not depend on where it differs.
    """
    if not tokens:
        return True
    shown = headers.get_all("Authorization")
    scheme, _, token = shown[0].partition(" ") if len(shown) == 1 else ("", "", "")
    token_bytes = token.strip().encode()
    found = False
    for each in tokens:
        found |= hmac.compare_digest(token_bytes, each.encode())
    return found and scheme.lower() == "bearer"
