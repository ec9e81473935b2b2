"""What may be shown of a load test's options, target and adapter: everything but secrets."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

MASK = "***"
"""What stands in a secret's place."""
SECRETS = ("bearer_token", "header", "channel_key")
"""The options of a load test that are secrets themselves."""
_WORDS = "key|secret|passw|pwd|auth|jwt|credential"
# All but the reference server's own, which say how many tokens and how long.
_PARAMETER = re.compile(rf"(?!(?:tokens|token_bytes|tokens_cv)$).*(?:token|sig|{_WORDS})", re.IGNORECASE)
# At the top of an adapter's table "token" is where in a message the token is.
_OPTION = re.compile(rf"{_WORDS}|bearer|cookie", re.IGNORECASE)
_NESTED_OPTION = re.compile(rf"{_WORDS}|bearer|cookie|token", re.IGNORECASE)


def redact_url(url: str) -> str:
    """The URL without user information and with the values of secret-looking parameters blanked."""
    parts = urlsplit(url)
    netloc = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=netloc, query=_redact_query(parts.query)))


def _redact_query(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    return urlencode([(name, MASK if value and _PARAMETER.match(name) else value) for name, value in pairs], safe="*")


def redact_options(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """The named options for run.json, secrets blanked."""
    shown = {}
    for name in names:
        value = getattr(options, name)
        if name == "server_query":
            value = _redact_query(value)
        shown[name] = MASK if name in SECRETS and value else value
    return shown


def redact_table(table: Mapping[str, Any], inner: bool = False) -> dict[str, Any]:
    """The options as run.json may show them: without headers' values and without what looks secret by its name.

    What names a variable of the environment (``..._env``) and texts with words to be replaced are shown: they hold no secret.
    """
    shown: dict[str, Any] = {}
    for name, value in table.items():
        secret = (_NESTED_OPTION if inner else _OPTION).search(name) is not None and not name.endswith("_env")
        shown[name] = _redacted(value, secret or name == "headers")
    return shown


def _redacted(value: Any, secret: bool) -> Any:
    if isinstance(value, dict):
        return {name: _redacted(one, True) for name, one in value.items()} if secret else redact_table(value, inner=True)
    if isinstance(value, list):
        return [_redacted(one, secret) for one in value]
    return MASK if secret and isinstance(value, str) and value and not ("{" in value and "}" in value) else value
