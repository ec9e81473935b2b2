"""JSON messages described by a table: what is sent, what a message means, and what a wrong table is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loadtest.adapter import END, ERROR, NOTHING, AdapterError
from loadtest.json_stream import JsonStream, count, walk

TABLE: dict[str, Any] = {
    "start": [{"type": "hello"}, {"type": "generate", "prompt": "{prompt}", "id": "{id}", "number": "{conversation}"}],
    "token": "delta.text",
    "token_where": {"type": "delta"},
    "end": {"type": ["done", "cancelled"]},
    "error": {"error": "*"},
    "acknowledge": {"type": "ack", "of": "{received.sequence}"},
    "stop": {"type": "cancel", "id": "{received.id}"},
}


def made(**changes: Any) -> JsonStream:
    return JsonStream({"window": 1, **{name: value for name, value in {**TABLE, **changes}.items() if value is not None}})


def test_what_is_sent() -> None:
    adapter = made()
    hello, generate = map(json.loads, adapter.start('say "hi" {prompt}'))
    assert hello == {"type": "hello"}
    assert (generate["prompt"], generate["number"], len(generate["id"])) == ('say "hi" {prompt}', 0, 32)
    assert json.loads(adapter.start("again")[1])["number"] == 1
    assert adapter.receive('{"type":"delta","sequence":7,"id":"r1","delta":{"text":"x"}}') == 1
    assert adapter.acknowledgement is None
    assert adapter.acknowledge is not None
    assert json.loads(adapter.acknowledge("")) == {"type": "ack", "of": 7}  # type: ignore[arg-type]
    assert json.loads(adapter.stop()[0]) == {"type": "cancel", "id": "r1"}


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        ({"type": "delta", "delta": {"text": "word"}}, 1),
        ({"type": "delta", "delta": {"text": ""}}, NOTHING),
        ({"type": "delta", "delta": {"text": ["a", "b", "", "c"]}}, 3),
        ({"type": "delta"}, NOTHING),
        ({"type": "status", "delta": {"text": "word"}}, NOTHING),
        ({"type": "done"}, END),
        ({"type": "cancelled"}, END),
        ({"type": "done", "error": {"code": 5}}, ERROR),
        ({"type": "done", "error": None}, END),
        ([1, 2], NOTHING),
    ],
)
def test_what_a_message_means(message: Any, meaning: int) -> None:
    text = json.dumps(message)
    assert made().receive(text) == made().receive(text.encode()) == meaning


def test_a_message_that_is_no_json() -> None:
    assert made().receive("plain") == NOTHING
    plain = JsonStream({"end": ["[DONE]", {"type": "done"}], "window": 0})
    assert [plain.receive(message) for message in ("word", "", "[DONE]", '{"type":"done"}')] == [1, NOTHING, END, END]


def test_tokens_by_number() -> None:
    adapter = JsonStream({"end": {"done": True}, "token": "text", "tokens": "usage.new"})
    assert adapter.receive('{"text":"three words here","usage":{"new":3}}') == 3
    assert adapter.receive('{"text":"","usage":{"new":3}}') == NOTHING
    assert adapter.receive('{"text":"word"}') == 1
    assert adapter.receive('{"done":true}') == END
    assert adapter.receive('{"done":1,"text":"x"}') == 1
    assert JsonStream({"end": "x", "tokens": "n"}).receive('{"n":4}') == 4


def test_a_fixed_acknowledgement_is_prepared() -> None:
    adapter = made(acknowledge={"type": "ack"})
    assert (adapter.acknowledgement, adapter.acknowledge, adapter.window) == ('{"type":"ack"}', None, 1)
    assert (made(acknowledge="").acknowledgement, made(acknowledge=None).acknowledgement, made(acknowledge=None).window) == ("", None, 0)
    assert JsonStream({**TABLE, "window": 0}).acknowledge is None
    assert made(stop=None).stop() == []


def test_the_environment_is_asked_for_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "s3cret")
    adapter = made(api_key_env="MY_KEY", headers={"X-Plan": "free", "X-Key": "{env.MY_KEY}"}, start=[{"auth": "{env.MY_KEY}"}])
    assert adapter.headers == (("Authorization", "Bearer s3cret"), ("X-Plan", "free"), ("X-Key", "s3cret"))
    assert adapter.start("p") == ['{"auth":"s3cret"}']
    with pytest.raises(AdapterError, match="environment variable NO_SUCH_KEY, and it is not set"):
        made(start=[{"auth": "{env.NO_SUCH_KEY}"}])
    with pytest.raises(AdapterError, match="environment variable NO_SUCH_KEY, and it is not set"):
        made(api_key_env="NO_SUCH_KEY")
    monkeypatch.setenv("MY_KEY", "two words")
    with pytest.raises(AdapterError, match="printable characters"):
        made(api_key_env="MY_KEY")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"end": None}, "needs the option end"),
        ({"end": 5}, "expected the option end .* found 5"),
        ({"end": {}}, "expected the option end"),
        ({"tokn": "x"}, r"tokn is not an option of the adapter json \(did you mean token\?\)"),
        ({"token": 5}, "expected the option token of the adapter json as a text, found 5"),
        ({"start": 5}, "expected the option start .* found 5"),
        ({"acknowledge": ["a", "b"]}, "as one text or table, found a list"),
        ({"headers": {"X": "a\nb"}}, "headers"),
        ({"headers": ["X"]}, "as a table, found"),
    ],
)
def test_a_wrong_table(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AdapterError, match=sentence):
        made(**changes)


def test_paths_walk_objects_and_lists() -> None:
    found = {"a": [{"b": 1}, {"b": 2}]}
    assert (walk(found, ["a", "1", "b"]), walk(found, ["a", "-1", "b"])) == (2, 2)
    assert count(walk(found, ["a", "7", "b"])) == count(walk(found, ["a", "x"])) == count(walk(None, ["a"])) == 0
    assert (count(True), count(3), count(-1), count(["x", None, ""])) == (0, 3, 0, 1)
