"""Realtime events: what is asked, what they mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loadtest.adapter import END, ERROR, NOTHING, AdapterError
from loadtest.openai_realtime import OpenAIRealtime


def event(kind: str, **more: Any) -> str:
    return json.dumps({"type": kind, "event_id": "e", **more})


def test_a_response_out_of_band(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    adapter = OpenAIRealtime({"window": 1, "instructions": "be short", "max_output_tokens": 9})
    (asked,) = map(json.loads, adapter.start("hello"))
    response = asked["response"]
    assert (asked["type"], response["conversation"], response["output_modalities"]) == ("response.create", "none", ["text"])
    assert response["input"][0]["content"] == [{"type": "input_text", "text": "hello"}]
    assert (response["instructions"], response["max_output_tokens"]) == ("be short", 9)
    assert adapter.headers == (("Authorization", "Bearer s3cret"),)
    assert json.loads(adapter.stop()[0]) == {"type": "response.cancel"}


def test_a_conversation_with_its_history_and_a_session() -> None:
    adapter = OpenAIRealtime({"history": True, "session": {"type": "realtime"}, "beta": True})
    kinds = [[json.loads(message)["type"] for message in adapter.start("x")] for _ in range(2)]
    assert kinds == [["session.update", "conversation.item.create", "response.create"], ["conversation.item.create", "response.create"]]
    assert json.loads(adapter.start("x")[1])["response"] == {"modalities": ["text"]}
    assert ("OpenAI-Beta", "realtime=v1") in adapter.headers


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        (event("session.created"), NOTHING),
        (event("response.created"), NOTHING),
        (event("response.output_text.delta", delta="word"), 1),
        (event("response.text.delta", delta="word"), 1),
        (event("response.output_text.delta", delta=""), NOTHING),
        (event("response.output_text.done", text="whole"), NOTHING),
        (event("response.done", response={"status": "completed"}), END),
        (event("response.done", response={"status": "cancelled"}), END),
        (event("response.done", response={"status": "failed"}), ERROR),
        (event("error", error={"code": "invalid"}), ERROR),
        (event("error", error={"code": "response_cancel_not_active"}), NOTHING),
    ],
)
def test_what_an_event_means(message: str, meaning: int) -> None:
    assert OpenAIRealtime({}).receive(message) == meaning


@pytest.mark.parametrize(
    ("usage", "reported"),
    [
        ({"output_tokens": 7}, 7),
        ({"output_tokens": 9, "output_token_details": {"text_tokens": 7}}, 7),
        (None, None),
        ({"output_tokens": "7"}, None),
    ],
)
def test_the_usage_is_honoured(usage: Any, reported: int | None) -> None:
    adapter = OpenAIRealtime({})
    adapter.start("x")
    adapter.receive(event("response.done", response={"status": "completed", "usage": usage}))
    assert adapter.reported_tokens == reported
    adapter.start("y")
    assert adapter.reported_tokens is None


def test_what_is_no_event_is_refused() -> None:
    for message in ("[]", "{}", "x"):
        with pytest.raises((AdapterError, ValueError)):
            OpenAIRealtime({}).receive(message)
