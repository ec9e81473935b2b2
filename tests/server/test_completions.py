"""OpenAI-compatible completions: what a request may ask for, and the chunks of an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.completions import DONE, Asked, Chunks, CompletionError, read_request


def request(**changes: Any) -> bytes:
    asked: dict[str, Any] = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}], **changes}
    return json.dumps({name: value for name, value in asked.items() if value is not None}).encode()


def test_what_a_request_asks_for() -> None:
    assert read_request(request()) == Asked("hello", "m", None, usage=False)
    assert read_request(request(max_tokens=3, stream_options={"include_usage": True})) == Asked("hello", "m", 3, usage=True)
    assert read_request(request(max_completion_tokens=5, max_tokens=3)).tokens == 5
    parts = [{"role": "system", "content": "be kind"}, {"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]}]
    assert read_request(request(messages=parts, model=None)) == Asked("ab", "default", None, usage=False)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "messages"),
        (b"\xff", "messages"),
        (b"[]", "messages"),
        (request(messages=[]), "messages"),
        (request(stream=False), "only streams"),
        (request(max_tokens=0), "whole number from 1, found 0"),
        (request(max_tokens=True), "found True"),
        (request(messages=["hello"]), "last message"),
        (request(messages=[{"role": "user", "content": ""}]), "last message"),
    ],
)
def test_what_is_no_request_is_refused_with_a_sentence(body: bytes, told: str) -> None:
    with pytest.raises(CompletionError, match=told):
        read_request(body)


def events(raw: bytes) -> list[Any]:
    made = raw.decode().split("\n\n")
    assert made.pop() == ""
    return [json.loads(event.removeprefix("data: ")) for event in made if event != "data: [DONE]"]


def test_an_answer_in_chunks() -> None:
    chunks = Chunks(Asked("two words", "m", None, usage=True), "x", 7)
    (role,) = events(chunks.begin())
    assert role == {
        "id": "chatcmpl-x", "object": "chat.completion.chunk", "created": 7, "model": "m",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
    }  # fmt: skip
    said = "".join(events(chunks.token(text))[0]["choices"][0]["delta"]["content"] for text in ("a\nb", "é"))
    assert said == "a\nbé"
    end = chunks.end()
    assert end.endswith(DONE)
    last, usage = events(end)
    assert last["choices"][0]["finish_reason"] == "stop"
    assert (usage["choices"], usage["usage"]) == ([], {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4})


def test_an_answer_as_long_as_it_may_be_says_so_and_no_usage_unasked() -> None:
    chunks = Chunks(Asked("x", "m", 1, usage=False), "x", 7)
    chunks.token("only")
    (last,) = events(chunks.end())
    assert last["choices"][0]["finish_reason"] == "length"
