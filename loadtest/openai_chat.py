"""The adapter for OpenAI-compatible chat completions, streamed as server-sent events over HTTP.

What vLLM, SGLang, llama.cpp, Ollama, TGI and the gateways before them serve. A chunk with content is a token, or as many as it says of
itself; a chunk that only names the role is none, so that the time to the first token is that of the first content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from .adapter import END, ERROR, HTTP, NOTHING, Call, Event, bearer_headers, check_options, option
from .json_stream import table_headers

NAME: Final = "openai-chat"
OPTIONS: Final = ("model", "system", "max_tokens", "temperature", "body", "content", "usage", "api_key_env", "headers")
DONE: Final = "[DONE]"
CONTENT: Final = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls")


class OpenAIChat:
    """Asks for one streamed completion a conversation; ``reported_tokens`` is what the usage of the answer says."""

    transport = HTTP

    def __init__(self, options: Mapping[str, Any]) -> None:
        check_options(NAME, options, OPTIONS)
        system = option(NAME, options, "system", str, None)
        self._before = [] if system is None else [{"role": "system", "content": system}]
        self._body: dict[str, Any] = {"model": option(NAME, options, "model", str, "default"), "stream": True}
        if option(NAME, options, "usage", bool, True):
            self._body["stream_options"] = {"include_usage": True}
        for name, kinds in (("max_tokens", int), ("temperature", (int, float))):
            if (value := option(NAME, options, name, kinds, None)) is not None:
                self._body[name] = value
        self._body |= option(NAME, options, "body", dict, {})
        content = option(NAME, options, "content", list, None)
        self._content = CONTENT if content is None else tuple(map(str, content))
        self._headers = (
            ("Content-Type", "application/json"), ("Accept", "text/event-stream"), *bearer_headers(NAME, options, "OPENAI_API_KEY"),
            *table_headers(NAME, options),
        )  # fmt: skip
        self.reported_tokens: int | None = None
        self._counted = 0

    def start(self, prompt: str) -> Call:
        """The completion of one user message."""
        self.reported_tokens, self._counted = None, 0
        body = {**self._body, "messages": [*self._before, {"role": "user", "content": prompt}]}
        if (length := getattr(prompt, "answer_tokens", None)) is not None:
            # A workload or a trace says how long this answer is to be.
            body["max_tokens"] = length
        return Call(json.dumps(body, ensure_ascii=False).encode(), headers=self._headers)

    def receive(self, event: Event) -> int:
        """Content is a token or several; ``[DONE]`` is the end; an ``error`` in place of choices is one."""
        if event.data == DONE:
            return END
        chunk = json.loads(event.data)
        if not isinstance(chunk, dict):
            raise TypeError(f"expected a chunk of a completion, a JSON object, got {event.data[:80]!r}")
        if chunk.get("error") or event.name == "error":
            return ERROR
        reported = _whole((chunk.get("usage") or {}).get("completion_tokens"))
        if reported is not None:
            self.reported_tokens = reported
        choices = chunk.get("choices") or ()
        carried = max((self._carried(choice) for choice in choices), default=0)
        if carried and reported is not None and reported > self._counted:
            # Servers that say with every chunk how many tokens there have been.
            carried = reported - self._counted
        self._counted += carried
        return carried or NOTHING

    def _carried(self, choice: Any) -> int:
        """How many tokens one choice brings: as many as it has log probabilities for, else one where it has any content."""
        delta = choice.get("delta") or {}
        if not any(_text(delta.get(field)) for field in self._content) and not choice.get("text"):
            return 0
        logprobs = (choice.get("logprobs") or {}).get("content")
        return len(logprobs) if isinstance(logprobs, list) and logprobs else 1


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _text(value: Any) -> bool:
    """Whether a field of a delta says anything; calls of tools do with a name or an argument."""
    if isinstance(value, list):
        return any((one.get("function") or {}).get("name") or (one.get("function") or {}).get("arguments") for one in value)
    return bool(value)
