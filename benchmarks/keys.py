"""What one key of a scenario file may hold, and how a table of keys is read: types, ranges, near misses, one sentence for each mistake."""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from loadtest.objectives import Objective, ObjectiveError, parse_all, parse_limits

Kind = Literal[
    "text",
    "name",
    "integer",
    "number",
    "flag",
    "integers",
    "numbers",
    "steps",
    "query",
    "limits",
    "thresholds",
    "file",
    "addresses",
    "table",
    "tables",
]


class ScenarioError(Exception):
    """The scenario file, or what was to override it, cannot be run; the message says what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class Key:
    """What one key may hold. ``option`` is the generator's (or the server's) option that carries it."""

    kind: Kind
    meaning: str
    option: str | None = None
    minimum: float = 0
    maximum: float = math.inf
    choices: tuple[str, ...] = ()

    def expected(self) -> str:
        """The sentence's end: what would have been right."""
        bounds = f"from {plain(self.minimum)}" + (f" to {plain(self.maximum)}" if self.maximum < math.inf else " on")
        if self.choices:
            return " or ".join(f'"{choice}"' for choice in self.choices)
        return {
            "text": "a text that is not empty",
            "name": "a name of lower-case letters, digits and '-'",
            "integer": f"a whole number {bounds}",
            "number": f"a number {bounds}",
            "flag": "true or false",
            "integers": f"two whole numbers [lowest, highest] {bounds}",
            "numbers": f"two numbers [lowest, highest] {bounds}",
            "steps": "a list of [users, seconds], users a whole number from 1 on and seconds above 0",
            "limits": 'limits of a conversation such as { ttft = "500ms", tpot = "50ms" }',
            "thresholds": 'figures and their bounds, such as token_p99 = "< 50ms" and errors = "< 0.1%", or a list of texts',
            "query": "a table of query parameters, each a text, a number or true/false",
            "file": "the path of an existing file, relative to the scenario file",
            "addresses": "a list of IP addresses of this machine",
            "table": "a table",
            "tables": "a list of tables ([[variant]])",
        }[self.kind]


def key(
    kind: Kind, meaning: str, option: str | None = None, minimum: float = 0, maximum: float = math.inf, choices: tuple[str, ...] = ()
) -> dict[str, Key]:
    """The metadata of a dataclass field that is a key."""
    return {"key": Key(kind, meaning, option, minimum, maximum, choices)}


def keys(section: type) -> dict[str, Key]:
    """The keys that a section may hold."""
    return {one.name: key_of(one) for one in dataclasses.fields(section) if "key" in one.metadata}


def plain(value: Any) -> str:
    """A number as short as it can be read back (2.0 as 2), or the text itself."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def read_table(table: Mapping[str, Any], section: type, where: str, folder: Path, skip: Iterable[str] = ()) -> dict[str, Any]:
    """The values of one table by field name, checked; keys in ``skip`` may be present but are read elsewhere."""
    known, skip = keys(section), set(skip)
    for name in table:
        if name not in known:
            raise ScenarioError(f"{where}{name} is not a key of a scenario{near(name, known)}; expected one of {', '.join(known)}")
    for one in dataclasses.fields(section):
        needed = one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
        if "key" in one.metadata and needed and one.name not in table and one.name not in skip:
            raise ScenarioError(f"expected {where}{one.name} ({known[one.name].meaning}), and the file has none")
    return {name: read_value(value, known[name], f"{where}{name}", folder) for name, value in table.items() if name not in skip}


def read_value(value: Any, key: Key, where: str, folder: Path) -> Any:
    try:
        found = _READERS[key.kind](value, key, folder)
    except ScenarioError as error:
        raise ScenarioError(f"{where}: {error}") from None
    if found is None:
        raise wrong(where, key, value)
    return found


def _number(value: Any, key: Key, _: Path) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not key.minimum <= value <= key.maximum:
        return None
    return float(value) if math.isfinite(value) else None


def _integer(value: Any, key: Key, _: Path) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and key.minimum <= value <= key.maximum else None


def _text(value: Any, key: Key, _: Path) -> str | None:
    return value if isinstance(value, str) and value.strip() and (not key.choices or value in key.choices) else None


def _name(value: Any, _key: Key, _: Path) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", value) else None


def _flag(value: Any, _key: Key, _: Path) -> bool | None:
    return value if isinstance(value, bool) else None


def _pair(one: Callable[[Any, Key, Path], Any]) -> Callable[[Any, Key, Path], Any]:
    def read_pair(value: Any, key: Key, folder: Path) -> Any:
        if not isinstance(value, list | tuple) or len(value) != 2:
            return None
        low, high = (one(part, key, folder) for part in value)
        return (low, high) if low is not None and high is not None and low <= high else None

    return read_pair


def _steps(value: Any, _key: Key, _: Path) -> tuple[tuple[int, float], ...] | None:
    if not isinstance(value, list) or not value:
        return None
    out = []
    for step in value:
        if not isinstance(step, list) or len(step) != 2:
            return None
        users, seconds = step
        if any(isinstance(part, bool) for part in step) or not isinstance(users, int) or not isinstance(seconds, int | float):
            return None
        if users < 1 or not 0 < seconds < math.inf:
            return None
        out.append((users, float(seconds)))
    return tuple(out)


def _query(value: Any, _key: Key, _: Path) -> tuple[tuple[str, str], ...] | None:
    if not isinstance(value, dict) or not all(isinstance(one, str | int | float | bool) for one in value.values()):
        return None
    return tuple((name, str(one).lower() if isinstance(one, bool) else plain(one)) for name, one in value.items())


def _objectives(parse: Callable[[Iterable[str]], tuple[Objective, ...]]) -> Callable[[Any, Key, Path], Any]:
    def read_objectives(value: Any, _key: Key, _: Path) -> tuple[str, ...] | None:
        """A table of names and bounds ("< 50ms", "50ms") or a list of texts ("token_p99 < 50ms"), as texts that can be read back."""
        if isinstance(value, dict) and all(isinstance(one, str) for one in value.values()):
            texts = [f"{name} {bound if bound.strip()[:1] in '<>=' else '= ' + bound}" for name, bound in value.items()]
        elif isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
            texts = list(value)
        else:
            return None
        try:
            return tuple(str(one) for one in parse(texts))
        except ObjectiveError as error:
            raise ScenarioError(str(error)) from None

    return read_objectives


def _file(value: Any, _key: Key, folder: Path) -> str | None:
    path = folder / value if isinstance(value, str) and value else None
    return str(path.resolve()) if path is not None and path.is_file() else None


def _addresses(value: Any, _key: Key, _: Path) -> tuple[str, ...] | None:
    # On the command line they stand in one text, as they do in the generator's own option; an empty one takes the file's away.
    parts = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    try:
        return tuple(str(ipaddress.ip_address(part)) for part in parts) if all(isinstance(part, str) for part in parts) else None
    except (TypeError, ValueError):
        return None


_READERS: Final[Mapping[Kind, Callable[[Any, Key, Path], Any]]] = {
    "text": _text, "name": _name, "integer": _integer, "number": _number, "flag": _flag, "integers": _pair(_integer),
    "numbers": _pair(_number), "steps": _steps, "query": _query, "limits": _objectives(parse_limits),
    "thresholds": _objectives(parse_all), "file": _file, "addresses": _addresses,
}  # fmt: skip


def wrong(where: str, key: Key, found: Any) -> ScenarioError:
    shown = {True: "true", False: "false"}[found] if isinstance(found, bool) else repr(found)
    return ScenarioError(f"{where}: expected {key.expected()}, found {shown if len(shown) <= 60 else shown[:57] + '...'}")


def near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def key_of(one: dataclasses.Field[Any]) -> Key:
    key: Key = one.metadata["key"]
    return key


def lay_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(below)
    for name, value in above.items():
        out[name] = lay_over(out[name], value) if isinstance(value, dict) and isinstance(out.get(name), dict) else value
    return out


def json_table(section: Any) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for one in dataclasses.fields(section):
        value, kind = getattr(section, one.name), key_of(one).kind
        if value is None or value == ():
            continue
        if kind == "query":
            value = dict(value)
        elif kind in ("limits", "thresholds"):
            value = list(value)
        elif kind == "table":
            value = json_table(value)
        out[one.name] = value
    return out
