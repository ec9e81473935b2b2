"""Server-sent events, whole, in pieces and hostile, beside the decoder of the official openai client where it is installed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.adapter import Event
from loadtest.event_lines import EventLines, TooLongError

LINES = st.sampled_from(
    [
        b"data: a",
        b"data:b",
        b"data",
        b"data:  two",
        b": comment",
        b"event: done",
        b"id: 7",
        b"id: \0",
        b"retry: 5",
        b"",
        b"nonsense",
        b"data: \xc3\xa9",
    ]
)


def parsed(body: bytes, cuts: list[int] | None = None, lines: bool = False) -> list[Event]:
    parser = EventLines(1 << 20, lines)
    edges = [0, *sorted(cuts or []), len(body)]
    events = [event for start, end in itertools.pairwise(edges) for event in parser.feed(body[start:end])]
    return events + parser.end()


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b"data: one\n\n", [("", "one")]),
        (b"data:one\r\n\r\ndata: two\r\rdata: three\n\n", [("", "one"), ("", "two"), ("", "three")]),
        (b"data: a\ndata: b\n\n", [("", "a\nb")]),
        (b"event: end\ndata\n\n", [("end", "")]),
        (b"event: lost\n\ndata: a\n\n", [("", "a")]),
        (b": only a comment\n\n", []),
        (b"\xef\xbb\xbfdata: marked\n\n", [("", "marked")]),
        (b"data: no empty line behind it", []),
        (b"data:  one space stays\n\n", [("", " one space stays")]),
        (b"data: a:b: c\n\n", [("", "a:b: c")]),
        (b"datum: x\n\n", []),
    ],
)
def test_what_the_standard_says(body: bytes, events: list[tuple[str, str]]) -> None:
    assert [event[:2] for event in parsed(body)] == events


def test_an_id_lasts_until_the_next() -> None:
    assert [event.id for event in parsed(b"id: 1\ndata: a\n\ndata: b\n\nid: x\0y\ndata: c\n\nid\ndata: d\n\n")] == ["1", "1", "1", ""]


@given(st.lists(LINES, max_size=12), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.data())
def test_pieces_change_nothing(lines: list[bytes], end: bytes, data: st.DataObject) -> None:
    body = end.join(lines) + end + end
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=8))
    assert parsed(body, cuts) == parsed(body)


@given(st.lists(LINES, max_size=12), st.sampled_from([b"\n", b"\r\n"]))
def test_the_official_client_reads_the_same(lines: list[bytes], end: bytes) -> None:
    streaming = pytest.importorskip("openai._streaming", reason="the openai client is not installed")
    body = end.join(lines) + end + end
    theirs = [(event.event or "", event.data) for event in streaming.SSEDecoder().iter_bytes(iter([body])) if event.data or event.event]
    ours = [event[:2] for event in parsed(body)]
    # It also hands on events that have a name and no data, and drops those whose data are empty; the standard does neither.
    assert [event for event in ours if event[1]] == [event for event in theirs if event[1]]


def test_by_lines_each_is_an_event_and_the_last_needs_no_end() -> None:
    assert [event.data for event in parsed(b'{"a":1}\n\n{"a":2}\r\n{"a":3}', [3, 9], lines=True)] == ['{"a":1}', '{"a":2}', '{"a":3}']


@pytest.mark.parametrize("body", [b"data: " + b"x" * 100, b"data: " + b"x" * 100 + b"\n\n", b"data: xxxxx\n" * 30, b"x" * 100])
def test_an_event_beyond_the_limit(body: bytes) -> None:
    with pytest.raises(TooLongError, match="more than 64 bytes"):
        EventLines(64).feed(body)


def test_text_that_is_not_utf_8() -> None:
    with pytest.raises(UnicodeDecodeError):
        parsed(b"data: \xff\n\n")
