"""The adapter for JSON messages over a WebSocket, described by one table of options and no code.

Paths such as ``delta.text`` or ``choices.0.text`` walk through objects by key and lists by number. Templates are texts (sent as they
are) or tables (sent as JSON); in their texts ``{prompt}``, ``{conversation}`` (its number on the connection), ``{id}`` (an identifier
drawn for the conversation), ``{received.PATH}`` (from the message received last) and ``{env.NAME}`` (a variable of the environment, where
secrets belong) are replaced. A text that is nothing but one such word takes the value with its type.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from .adapter import END, ERROR, NOTHING, AdapterError, Message, bearer_headers, check_options, option

NAME: Final = "json"
OPTIONS: Final = (
    "start", "token", "tokens", "token_where", "end", "error", "acknowledge", "window", "stop", "api_key_env", "headers",
)  # fmt: skip
_WORD = re.compile(r"\{(prompt|conversation|id|received(?:\.[^{}]+)?|env\.[A-Za-z_][A-Za-z0-9_]*)\}")
_PRESENT: Final = "*"
_ABSENT: Final = object()


def walk(value: Any, path: Sequence[str]) -> Any:
    """What stands at the path; a marker that equals nothing where there is nothing."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(step, _ABSENT)
        elif isinstance(value, list) and step.lstrip("-").isdigit() and -len(value) <= int(step) < len(value):
            value = value[int(step)]
        else:
            return _ABSENT
    return value


class Condition:
    """Whether a message is of a kind: a text it equals, or a table of paths and the values there (``*``: anything, a list: one of)."""

    def __init__(self, where: str, found: Any) -> None:
        kinds = found if isinstance(found, list) else [found]
        self._texts = {one for one in kinds if isinstance(one, str)}
        self._tables: list[list[tuple[list[str], Any]]] = []
        for one in kinds:
            if isinstance(one, dict) and one:
                self._tables.append([(path.split("."), value) for path, value in _flat(one)])
            elif not isinstance(one, str):
                raise AdapterError(
                    f"expected the option {where} of the adapter {NAME} as a text, a table or a list of these, found {one!r}"
                )

    def holds(self, text: Message, message: Any) -> bool:
        """For a message as it came and as it was read (None when it is no JSON)."""
        if self._texts and text in self._texts:
            return True
        return any(all(_matches(walk(message, path), value) for path, value in table) for table in self._tables)


def _flat(table: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Paths and values of a table whose inner tables stand for paths, too."""
    found: list[tuple[str, Any]] = []
    for name, value in table.items():
        found += _flat(value, f"{before}{name}.") if isinstance(value, dict) else [(before + name, value)]
    return found


def _matches(found: Any, expected: Any) -> bool:
    if expected == _PRESENT:
        return found is not _ABSENT and found is not None
    return found in expected if isinstance(expected, list) else type(found) is type(expected) and found == expected


class Template:
    """A message with words to be replaced; made once, rendered for each sending."""

    def __init__(self, found: Any) -> None:
        self._found = found
        words = [match[1] for match in _WORD.finditer(json.dumps(found, ensure_ascii=False))]
        for variable in (word.removeprefix("env.") for word in words if word.startswith("env.")):
            if not os.environ.get(variable):
                raise AdapterError(f"expected the environment variable {variable}, and it is not set")
        self.fixed = not words

    def render(self, words: Mapping[str, Any]) -> str:
        """The message with its words replaced: a text as it is, anything else as JSON."""
        made = _render(self._found, words)
        return made if isinstance(self._found, str) else json.dumps(made, ensure_ascii=False, separators=(",", ":"))


def _word(name: str, words: Mapping[str, Any]) -> Any:
    if name.startswith("received"):
        found = walk(words["received"], name.split(".")[1:])
        return None if found is _ABSENT else found
    return os.environ.get(name.removeprefix("env.")) if name.startswith("env.") else words[name]


def _render(found: Any, words: Mapping[str, Any]) -> Any:
    if isinstance(found, dict):
        return {name: _render(value, words) for name, value in found.items()}
    if isinstance(found, list):
        return [_render(value, words) for value in found]
    if not isinstance(found, str):
        return found
    if whole := _WORD.fullmatch(found):
        value = _word(whole[1], words)
        return value if value is not None else ""
    return _WORD.sub(lambda match: str(value) if (value := _word(match[1], words)) is not None else "", found)


def _templates(options: Mapping[str, Any], name: str) -> list[Template]:
    found = options.get(name)
    each = [] if found is None else found if isinstance(found, list) else [found]
    if not all(isinstance(one, str | dict) for one in each):
        raise AdapterError(f"expected the option {name} of the adapter {NAME} as a text, a table or a list of these, found {found!r}")
    return [Template(one) for one in each]


class JsonStream:
    """A JSON token stream; every option and what it may be stands in docs/adapters.md."""

    acknowledge: Callable[[Message], Message | None] | None

    def __init__(self, options: Mapping[str, Any]) -> None:
        check_options(NAME, options, OPTIONS)
        self._start = _templates(options, "start") or [Template("{prompt}")]
        self._stop = _templates(options, "stop")
        token = option(NAME, options, "token", str, None)
        self._token = None if token is None else token.split(".")
        tokens = option(NAME, options, "tokens", str, None)
        self._tokens = None if tokens is None else tokens.split(".")
        self._where = Condition("token_where", options["token_where"]) if "token_where" in options else None
        if "end" not in options:
            raise AdapterError(
                f'the adapter {NAME} needs the option end: what marks the end of an answer, such as end = {{ type = "done" }}'
            )
        self._end = Condition("end", options["end"])
        self._error = Condition("error", options["error"]) if "error" in options else None
        self.headers = (*bearer_headers(NAME, options), *table_headers(NAME, options))
        acknowledgements = _templates(options, "acknowledge")
        if len(acknowledgements) > 1:
            raise AdapterError(f"expected the option acknowledge of the adapter {NAME} as one text or table, found a list")
        self._acknowledgement = acknowledgements[0] if acknowledgements else None
        self.window = option(NAME, options, "window", int, 1) if acknowledgements else 0
        self._words: dict[str, Any] = {"prompt": "", "conversation": -1, "id": "", "received": None}
        self.acknowledgement: Message | None = None
        self.acknowledge = None
        if self._acknowledgement is not None and self.window:
            if self._acknowledgement.fixed:
                self.acknowledgement = self._acknowledgement.render(self._words)
            else:
                self.acknowledge = self._answer

    def start(self, prompt: str) -> Sequence[Message]:
        """The messages of ``start``."""
        self._words = {"prompt": prompt, "conversation": self._words["conversation"] + 1, "id": uuid.uuid4().hex, "received": None}
        return [template.render(self._words) for template in self._start]

    def receive(self, message: Message) -> int:
        """What the table says: an error, then the end, then tokens; a message that is no JSON may only equal a text."""
        try:
            found = json.loads(message)
        except ValueError:
            found = None
        self._words["received"] = found
        if self._error is not None and self._error.holds(message, found):
            return ERROR
        if self._end.holds(message, found):
            return END
        if self._where is not None and not self._where.holds(message, found):
            return NOTHING
        if self._token is None and self._tokens is None:
            return 1 if message else NOTHING
        counted = count(walk(found, self._tokens)) if self._tokens is not None else None
        if self._token is None:
            return counted or NOTHING
        text = walk(found, self._token)
        carried = count(text)
        return (counted or carried) if carried else NOTHING

    def stop(self) -> Sequence[Message]:
        """The messages of ``stop``; none where there is no such option, so that the connection is closed."""
        return [template.render(self._words) for template in self._stop]

    def _answer(self, message: Message) -> Message | None:
        assert self._acknowledgement is not None
        return self._acknowledgement.render(self._words)


def count(value: Any) -> int:
    """How many tokens a value stands for: a text that is not empty is one, a list has as many as it has entries, a number is itself."""
    if isinstance(value, list):
        return sum(1 for one in value if one not in ("", None))
    if isinstance(value, int) and not isinstance(value, bool):
        return max(0, value)
    return 1 if isinstance(value, str) and value else 0


def table_headers(adapter: str, options: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The table ``headers`` of an adapter's options, ``{env.NAME}`` in its values replaced."""
    found = option(adapter, options, "headers", dict, {})
    if not all(isinstance(value, str) and not set(value) & set("\r\n\0") for value in found.values()):
        raise AdapterError(f"expected the option headers of the adapter {adapter} as a table of texts without line breaks")
    return tuple((name, Template(value).render({})) for name, value in found.items())
