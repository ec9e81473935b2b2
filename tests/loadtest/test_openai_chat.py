"""OpenAI-compatible completions: what is asked, what counts as a token, what the usage says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loadtest.adapter import END, ERROR, NOTHING, AdapterError, Event
from loadtest.openai_chat import OpenAIChat


def chunk(delta: dict[str, Any] | None = None, **more: Any) -> Event:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": None}]
    return Event("", json.dumps({"id": "c", "object": "chat.completion.chunk", "choices": choices, **more}))


def test_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    adapter = OpenAIChat({"window": 1, "model": "m", "system": "be short", "max_tokens": 5, "temperature": 0, "body": {"top_p": 0.5}})
    call = adapter.start("hello")
    assert json.loads(call.body) == {
        "model": "m", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 5, "temperature": 0, "top_p": 0.5,
        "messages": [{"role": "system", "content": "be short"}, {"role": "user", "content": "hello"}],
    }  # fmt: skip
    assert (call.method, call.path, dict(call.headers)["Authorization"]) == ("POST", None, "Bearer s3cret")
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "Authorization" not in dict(OpenAIChat({"usage": False}).start("x").headers)
    assert "stream_options" not in json.loads(OpenAIChat({"usage": False}).start("x").body)


@pytest.mark.parametrize(
    ("event", "meaning"),
    [
        (chunk({"role": "assistant", "content": ""}), NOTHING),
        (chunk({"role": "assistant", "content": None}), NOTHING),
        (chunk({"role": "assistant"}), NOTHING),
        (chunk({"content": "word"}), 1),
        (chunk({"reasoning_content": "hm"}), 1),
        (chunk({"refusal": "no"}), 1),
        (chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}), 1),
        (chunk({"tool_calls": [{"index": 0, "function": {"arguments": ""}}]}), NOTHING),
        (chunk({}), NOTHING),
        (chunk(None, usage={"completion_tokens": 5}), NOTHING),
        (chunk(None), NOTHING),
        (Event("", "[DONE]"), END),
        (Event("", '{"error":{"message":"overloaded"}}'), ERROR),
        (Event("error", '{"message":"overloaded"}'), ERROR),
        (Event("", '{"choices":[{"index":0,"text":"legacy"}]}'), 1),
        (Event("", '{"choices":[{"index":0,"delta":{"content":"a b"},"logprobs":{"content":[{"token":"a"},{"token":" b"}]}}]}'), 2),
    ],
)
def test_what_an_event_means(event: Event, meaning: int) -> None:
    assert OpenAIChat({}).receive(event) == meaning


def test_usage_is_honoured_and_forgotten_with_the_answer() -> None:
    adapter = OpenAIChat({})
    adapter.start("x")
    adapter.receive(chunk({"content": "a"}))
    assert adapter.reported_tokens is None
    adapter.receive(chunk(None, usage={"completion_tokens": 9}))
    assert adapter.reported_tokens == 9
    adapter.start("y")
    assert adapter.reported_tokens is None


def test_usage_with_every_chunk_counts_each() -> None:
    adapter = OpenAIChat({})
    adapter.start("x")
    assert [adapter.receive(chunk({"content": "x"}, usage={"completion_tokens": n})) for n in (1, 4, 5)] == [1, 3, 1]


def test_only_some_content_counts_where_that_is_asked() -> None:
    adapter = OpenAIChat({"content": ["content"]})
    assert (adapter.receive(chunk({"reasoning_content": "hm"})), adapter.receive(chunk({"content": "a"}))) == (NOTHING, 1)


@pytest.mark.parametrize("options", [{"modle": "x"}, {"model": 5}, {"max_tokens": "5"}, {"max_tokens": True}, {"body": "x"}, {"usage": 1}])
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(AdapterError, match=next(iter(options))):
        OpenAIChat(options)


@pytest.mark.parametrize("data", ["", "no json", "[1]"])
def test_what_is_no_chunk_is_refused(data: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        OpenAIChat({}).receive(Event("", data))
