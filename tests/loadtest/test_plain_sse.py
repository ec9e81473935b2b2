"""Server-sent events and lines described by a table."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest.adapter import END, ERROR, NOTHING, AdapterError, Event, make_adapter
from loadtest.plain_sse import PlainSse


def test_a_plain_get() -> None:
    adapter = PlainSse({"window": 1, "path": "/stream?q={prompt}", "end": "[DONE]"})
    call = adapter.start("a & b/c")
    assert (call.method, call.path, call.body) == ("GET", "/stream?q=a%20%26%20b%2Fc", b"")
    assert [adapter.receive(Event("", data)) for data in ("word", "", "[DONE]")] == [1, NOTHING, END]
    assert adapter.receive(Event("error", "x")) == ERROR


def test_a_body_as_json_or_text() -> None:
    call = PlainSse({"body": {"q": "{prompt}", "n": "{conversation}"}}).start('"x"')
    assert (call.method, call.body) == ("POST", b'{"q":"\\"x\\"","n":0}')
    assert ("Content-Type", "application/json") in call.headers
    assert PlainSse({"body": "ask: {prompt}", "method": "put"}).start("x").body == b"ask: x"


def test_events_by_name_and_by_path() -> None:
    adapter = PlainSse({"token_event": "token", "token": "t", "end_event": "end", "error": {"failed": True}, "error_event": "oops"})
    assert adapter.receive(Event("token", '{"t":["a","b"]}')) == 2
    assert adapter.receive(Event("status", '{"t":"a"}')) == NOTHING
    assert adapter.receive(Event("end", "")) == END
    assert adapter.receive(Event("status", '{"failed":true}')) == ERROR
    assert adapter.receive(Event("oops", "x")) == ERROR


def test_lines_of_json() -> None:
    adapter: Any = make_adapter(
        PlainSse, {"framing": "lines", "body": {"prompt": "{prompt}"}, "token": "message.content", "end": {"done": True}}
    )
    assert adapter.framing == "lines"
    assert [
        adapter.receive(Event("", data)) for data in ('{"message":{"content":"x"},"done":false}', '{"message":{"content":""},"done":true}')
    ] == [1, END]


@pytest.mark.parametrize(
    "options", [{"path": "stream"}, {"path": "/a b"}, {"body": 5}, {"framing": "xml"}, {"tokn": "x"}, {"end": 5}, {"method": 5}]
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(AdapterError):
        make_adapter(PlainSse, options)
