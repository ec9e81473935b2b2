"""OpenAI-compatible chat completions, streamed: what a request asks for, and what an answer looks like as chunks. Pure.

The part that clients need to stream text: ``messages``, ``stream``, ``max_tokens``, ``stream_options.include_usage``. Everything else of a
request is accepted and means nothing here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

DONE: Final = b"data: [DONE]\n\n"


class CompletionError(ValueError):
    """A request that cannot be answered; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for; ``tokens`` is None where it leaves the length to the server."""

    prompt: str
    model: str
    tokens: int | None
    usage: bool


def read_request(body: bytes) -> Asked:
    """Read the body of ``POST /v1/chat/completions``; CompletionError where it is no request for a stream."""
    try:
        read: Any = json.loads(body)
    except ValueError:
        read = None
    if not isinstance(read, dict) or not isinstance(read.get("messages"), list) or not read["messages"]:
        raise CompletionError('expected a JSON object with "messages", a list that is not empty')
    if read.get("stream") is not True:
        raise CompletionError('expected "stream": true: this server only streams')
    tokens = read.get("max_completion_tokens", read.get("max_tokens"))
    if tokens is not None and (not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1):
        raise CompletionError(f'expected "max_tokens" as a whole number from 1, found {tokens!r}')
    prompt = _text(read["messages"][-1])
    if not prompt:
        raise CompletionError("expected the last message to have text for its content")
    options = read.get("stream_options")
    return Asked(prompt, str(read.get("model", "default")), tokens, isinstance(options, dict) and options.get("include_usage") is True)


def _text(message: Any) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


class Chunks:
    """The chunks of one answer, as events: the role, then a chunk a token, why it ended, the usage where that was asked for, [DONE]."""

    def __init__(self, asked: Asked, name: str, created_s: int) -> None:
        self._asked = asked
        self._head = {"id": f"chatcmpl-{name}", "object": "chat.completion.chunk", "created": created_s, "model": asked.model}
        self._tokens = 0
        # Everything of a token's chunk but its text, which is most of it, is written once.
        whole = self._chunk({"content": ""}).decode()
        self._before, self._after = whole.split('"content":""')

    def begin(self) -> bytes:
        """What comes before the first token."""
        return self._chunk({"role": "assistant", "content": ""})

    def token(self, text: str) -> bytes:
        """One token."""
        self._tokens += 1
        return f'{self._before}"content":{json.dumps(text, ensure_ascii=False)}{self._after}'.encode()

    def end(self) -> bytes:
        """What comes after the last token."""
        made = self._chunk({}, "length" if self._tokens == self._asked.tokens else "stop")
        if self._asked.usage:
            prompt = len(self._asked.prompt.split())
            usage = {"prompt_tokens": prompt, "completion_tokens": self._tokens, "total_tokens": prompt + self._tokens}
            made += self._event({**self._head, "choices": [], "usage": usage})
        return made + DONE

    def _chunk(self, delta: dict[str, str], reason: str | None = None) -> bytes:
        return self._event({**self._head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    def _event(self, content: dict[str, Any]) -> bytes:
        return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
