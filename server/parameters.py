"""What a connection may choose by its query, `/ws?tokens=100&gap_ms=20`: names, units, defaults, caps. Standard library only.

The fields of `Plan` are the one place these names are written. The server's options (`--gap-ms`), the query, the caps and
the table in docs/protocol.md are all made from, or checked against, `PARAMETERS`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, cast
from urllib.parse import parse_qsl

LENGTHS: Final = ("fixed", "lognormal", "gamma", "chat", "code", "prompt")
GAPS: Final = ("fixed", "lognormal", "gamma")
STALL_MODES: Final = ("shift", "catchup", "hold")
TEXTS: Final = ("numbers", "words", "german", "chinese", "awkward", "file")
SWITCH: Final = ("off", "on")

_INTEGER = re.compile(r"[0-9]{1,18}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)  # no ":": it separates the fields of a traced token
MAX_QUERY_BYTES: Final = 2048


class ParameterError(ValueError):
    """A parameter is unknown, malformed or over its cap; the message is one sentence for the one who chose it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """One name of the query: its kind (`integer`, `number`, `choice`, `name`), unit, default, cap and one line of doc.

    `default` None means that something else stands in, as `doc` says. `cap` is the largest value a connection may ask
    for unless the operator sets another; None for choices and names.
    """

    name: str
    kind: str
    unit: str
    default: int | float | str | None
    cap: int | float | None
    choices: tuple[str, ...]
    doc: str

    @property
    def option(self) -> str:
        """The server's option that sets the default for every connection."""
        return "--" + self.name.replace("_", "-")

    def parse(self, text: str) -> int | float | str:
        """Read a value; raises `ParameterError` with a sentence that says what was expected and what came."""
        if self.kind == "integer":
            if _INTEGER.fullmatch(text):
                return int(text)
            raise ParameterError(f"{self.name} is a whole number of {self.unit}, 0 or more, not {_quote(text)}")
        if self.kind == "number":
            if _NUMBER.fullmatch(text):
                return float(text)
            raise ParameterError(f"{self.name} is a number of {self.unit}, 0 or more, such as 20 or 0.5, not {_quote(text)}")
        if self.kind == "choice":
            if text in self.choices:
                return text
            raise ParameterError(f"{self.name} is one of {', '.join(self.choices)}, not {_quote(text)}")
        if _NAME.fullmatch(text):
            return text
        raise ParameterError(f"{self.name} is 1 to 64 letters, digits, '_', '.' or '-', not {_quote(text)}")


def _quote(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:40] + "...")


def _integer(default: int | None, unit: str, cap: int, doc: str) -> Any:
    return dataclasses.field(default=default, metadata={"kind": "integer", "unit": unit, "cap": cap, "doc": doc})


def _number(default: float | None, unit: str, cap: float, doc: str) -> Any:
    return dataclasses.field(default=default, metadata={"kind": "number", "unit": unit, "cap": cap, "doc": doc})


def _choice(choices: tuple[str, ...], doc: str) -> Any:
    return dataclasses.field(default=choices[0], metadata={"kind": "choice", "choices": choices, "doc": doc})


def _name(doc: str) -> Any:
    return dataclasses.field(default=None, metadata={"kind": "name", "doc": doc})


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What the answers of a connection are like. The defaults are the article's: 0 to 11, one a second, each acknowledged."""

    tokens: int = _integer(12, "tokens", 100_000, "length of an answer; the mean where `lengths` is lognormal or gamma")
    lengths: str = _choice(
        LENGTHS, "how lengths are drawn; `chat` and `code`: as real answers; `prompt`: the number that a prompt begins with"
    )
    tokens_cv: float = _number(1.0, "standard deviations a mean", 10.0, "spread of drawn lengths (coefficient of variation)")
    gap_ms: float = _number(1000.0, "ms", 60_000.0, "from one token to the next; the mean where gaps are drawn; 0 is unpaced")
    gaps: str = _choice(GAPS, "how gaps are drawn")
    gap_cv: float = _number(0.5, "standard deviations a mean", 10.0, "spread of drawn gaps (coefficient of variation)")
    ttft_ms: float | None = _number(None, "ms", 60_000.0, "from the prompt to the first token; one `gap_ms` when not given")
    window: int = _integer(1, "tokens", 1024, "tokens that may be unacknowledged at once; 0 means no acknowledgements")
    stall_every: int = _integer(0, "tokens", 100_000, "every k-th token stalls; 0 means none")
    stall_share: float = _number(0.0, "share", 1.0, "share of the tokens, drawn at random, that stall")
    stall_conversations: float = _number(1.0, "share", 1.0, "share of the conversations that have their stalls at all")
    stall_ms: float = _number(0.0, "ms", 60_000.0, "how long a stall is")
    stall_mode: str = _choice(
        STALL_MODES,
        "after a stall everything is later (`shift`), a burst follows (`catchup`), or the token is kept once it could go (`hold`)",
    )
    delay_ms: float = _number(0.0, "ms", 60_000.0, "idle work on each token, begun when it is due and the window is open")
    cpu_us: int = _integer(0, "us", 10_000, "busy work on each token: processor time that every connection has to wait for")
    block_ms: float = _number(
        0.0, "ms", 0.0, "sleep on each token that holds the whole process up, as a handler does that never gives way to the others"
    )
    fail_at: int = _integer(0, "tokens", 100_000, "the source fails instead of giving the k-th token; 0 means never")
    text: str = _choice(TEXTS, "what tokens say; `awkward` has in-band words, markup and many scripts, `file` the words of `--text-file`")
    token_bytes: int = _integer(0, "bytes", 16_384, "tokens are filled up to at least this size; 0 leaves them as they are")
    escape: str = _choice(SWITCH, "`on` escapes `& < >` for pages that use innerHTML")
    seed: int | None = _integer(None, "seed", 2**53, "what is drawn depends on this; the server's seed and the connection when not given")
    trace: str | None = _name("a run's name: tokens say `run:connection:conversation:sequence:sent_ns`")
    connection: str | None = _name("this connection's name in traced tokens; its number when not given")


PARAMETERS: Final[Mapping[str, Parameter]] = MappingProxyType(
    {
        field.name: Parameter(
            name=field.name,
            kind=field.metadata["kind"],
            unit=field.metadata.get("unit", ""),
            default=cast("int | float | str | None", field.default),
            cap=field.metadata.get("cap"),
            choices=field.metadata.get("choices", ()),
            doc=field.metadata["doc"],
        )
        for field in dataclasses.fields(Plan)
    }
)

DEFAULT_CAPS: Final[Mapping[str, int | float]] = MappingProxyType(
    {name: parameter.cap for name, parameter in PARAMETERS.items() if parameter.cap is not None}
)


def parse_cap(text: str) -> tuple[str, int | float]:
    """Read an operator's `NAME=VALUE`; raises `ParameterError` if the name has no cap or the value is malformed."""
    name, equals, value = text.partition("=")
    if not equals or name not in DEFAULT_CAPS:
        raise ParameterError(f"a cap is NAME=VALUE with one of {', '.join(DEFAULT_CAPS)}, not {_quote(text)}")
    parsed = PARAMETERS[name].parse(value)
    assert not isinstance(parsed, str)
    return name, parsed


def parse_query(query: str, defaults: Plan, caps: Mapping[str, int | float]) -> Plan:
    """Return the plan a connection asked for: `defaults`, changed by the query, within `caps`.

    `query` is what follows the "?" of the request target, percent-encoded. An unknown name is refused too: a mistyped one
    that was silently ignored would falsify whatever is measured. Raises `ParameterError`.
    """
    if not query:
        return defaults
    if len(query) > MAX_QUERY_BYTES:
        raise ParameterError(f"a query has at most {MAX_QUERY_BYTES} bytes, not {len(query)}")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, encoding="utf-8", errors="strict", max_num_fields=64)
    except ValueError:
        raise ParameterError("the query is not made of name=value pairs joined by '&'") from None
    chosen: dict[str, Any] = {}
    for name, text in pairs:
        parameter = PARAMETERS.get(name)
        if parameter is None:
            near = difflib.get_close_matches(name[:64], PARAMETERS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(PARAMETERS)}"
            raise ParameterError(f"this server knows no parameter {_quote(name)}; {hint}")
        if name in chosen:
            raise ParameterError(f"{name} is given more than once")
        value = parameter.parse(text)
        cap = caps.get(name)
        if cap is not None and not isinstance(value, str) and value > cap:
            raise ParameterError(f"{name}={text[:40]} is over this server's cap of {cap:g} {parameter.unit}")
        chosen[name] = value
    return dataclasses.replace(defaults, **chosen)
