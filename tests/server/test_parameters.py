"""What a query may choose: every kind of value, every kind of mistake, the caps, and the table in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.counters import Block, Exposition
from server.options import build_parser
from server.parameters import DEFAULT_CAPS, PARAMETERS, ParameterError, Plan, parse_cap, parse_query

ROOT = Path(__file__).resolve().parents[2]


def parse(query: str) -> Plan:
    return parse_query(query, Plan(), DEFAULT_CAPS)


def test_nothing_said_is_the_articles_answer() -> None:
    plan = parse("")
    assert (plan.tokens, plan.gap_ms, plan.ttft_ms, plan.window, plan.lengths, plan.gaps) == (12, 1000.0, None, 1, "fixed", "fixed")


def test_each_kind_is_read() -> None:
    plan = parse("tokens=100&gap_ms=0.5&lengths=chat&trace=run-1.a&window=0&seed=9007199254740992&stall_mode=catchup")
    assert plan == Plan(tokens=100, gap_ms=0.5, lengths="chat", trace="run-1.a", window=0, seed=2**53, stall_mode="catchup")


def test_what_is_not_said_comes_from_the_operators_defaults() -> None:
    defaults = Plan(tokens=7, gap_ms=3.0)
    assert parse_query("gap_ms=4", defaults, DEFAULT_CAPS) == Plan(tokens=7, gap_ms=4.0)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("tokens=", "tokens is a whole number of tokens, 0 or more, not ''"),
        ("tokens=-1", "not '-1'"),
        ("tokens=1e3", "not '1e3'"),
        ("tokens=1_000", "not '1_000'"),
        ("tokens=١٢", "whole number"),
        ("tokens=1.5", "not '1.5'"),
        ("tokens=1000000000", "over this server's cap of 100000 tokens"),
        ("tokens=" + "9" * 400, "not '9999"),
        ("gap_ms=nan", "gap_ms is a number of ms, 0 or more, such as 20 or 0.5, not 'nan'"),
        ("gap_ms=inf", "not 'inf'"),
        ("gap_ms=60001", "over this server's cap of 60000 ms"),
        ("stall_share=1.01", "cap of 1 share"),
        ("window=1025", "cap of 1024 tokens"),
        ("lengths=short", "lengths is one of fixed, lognormal, gamma, chat, code, prompt, not 'short'"),
        ("trace=a:b", "trace is 1 to 64 letters"),
        ("trace=" + "a" * 65, "trace is 1 to 64 letters"),
        ("gapms=20", "no parameter 'gapms'; did you mean gap_ms?"),
        ("zzzzqqq=1", "no parameter 'zzzzqqq'; known are tokens, "),
        ("tokens=1&tokens=2", "tokens is given more than once"),
        ("tokens", "not made of name=value pairs"),
        ("&&", "not made of name=value pairs"),
        ("tokens=%ff", "not made of name=value pairs"),
        ("a=1&" * 70, "not made of name=value pairs"),
        ("tokens=1&" + "x" * 2048, "at most 2048 bytes"),
        ("%3Cscript%3E=1", "no parameter '<script>'"),
    ],
)
def test_a_mistake_is_one_sentence(query: str, sentence: str) -> None:
    with pytest.raises(ParameterError) as caught:
        parse(query)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isascii()


@pytest.mark.parametrize("name", DEFAULT_CAPS)
def test_every_cap_holds_at_its_edge(name: str) -> None:
    cap = 3
    parse_query(f"{name}=3", Plan(), {name: cap})
    with pytest.raises(ParameterError, match="cap of 3"):
        parse_query(f"{name}=4", Plan(), {name: cap})


@given(st.text(max_size=60))
def test_any_text_is_accepted_or_refused_with_a_sentence(query: str) -> None:
    try:
        said = str(parse(query))
    except ParameterError as error:
        said = str(error)
    assert "\n" not in said


@pytest.mark.parametrize(("text", "out"), [("tokens=5", ("tokens", 5)), ("gap_ms=0.5", ("gap_ms", 0.5))])
def test_an_operators_cap_is_read(text: str, out: tuple[str, float]) -> None:
    assert parse_cap(text) == out


@pytest.mark.parametrize("text", ["tokens", "trace=3", "=3", "tokens=x", "nothing=3"])
def test_an_operators_mistake_is_refused(text: str) -> None:
    with pytest.raises(ParameterError):
        parse_cap(text)


def test_the_table_in_the_documentation_is_this_one() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", (ROOT / "docs/protocol.md").read_text(), re.MULTILINE
    )
    expected = []
    for parameter in PARAMETERS.values():
        kind = ", ".join(parameter.choices) if parameter.choices else parameter.kind
        default = (
            "-" if parameter.default is None else f"{parameter.default:g}" if not isinstance(parameter.default, str) else parameter.default
        )
        cap = "-" if parameter.cap is None else f"{parameter.cap:,.0f}".replace(",", " ")
        expected.append((parameter.name, kind, parameter.unit or "-", default, cap, parameter.doc))
    assert rows == expected


def test_the_documentation_names_every_option_and_metric_and_no_other() -> None:
    text = (ROOT / "docs/protocol.md").read_text()
    section = text[text.index("## The server's options") : text.index("## Beside the socket")]
    options = {option for action in build_parser()._actions for option in action.option_strings} - {"-h", "--help"}
    of_answers = {parameter.option for parameter in PARAMETERS.values()}
    assert set(re.findall(r"`(--[a-z-]+)`", section)) == (options - of_answers) | {"--origin"}
    metrics = {line.split()[2] for line in Exposition(Block()).render().decode().splitlines() if line.startswith("# TYPE")}
    beside = text[text.index("## Beside the socket") :]
    named = set(re.findall(r"`((?:streamgauge|process)_[a-z_]+)", beside)) | {"streamgauge_connections_streaming"}
    assert named == metrics
