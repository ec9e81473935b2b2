"""The adapter for text answers of the OpenAI Realtime protocol over a WebSocket.

A conversation is one ``response.create``; by default it is out of band (``conversation: "none"``), so that an answer does not depend on
those before it. The names of the events are those of the released interface; those of its beta are understood as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .adapter import END, ERROR, NOTHING, AdapterError, Message, bearer_headers, check_options, option

NAME: Final = "openai-realtime"
OPTIONS: Final = ("api_key_env", "instructions", "max_output_tokens", "history", "beta", "session")
_DELTAS: Final = ("response.output_text.delta", "response.text.delta")
# A stop that crosses the end of the answer is answered with one of these; it is no failure of the answer.
_HARMLESS: Final = ("response_cancel_not_active",)


class OpenAIRealtime:
    """Speaks Realtime events, text only; ``reported_tokens`` is what the usage of the answer says."""

    acknowledgement: Message | None = None
    window = 0

    def __init__(self, options: Mapping[str, Any]) -> None:
        check_options(NAME, options, OPTIONS)
        self._beta = option(NAME, options, "beta", bool, False)
        self._history = option(NAME, options, "history", bool, False)
        self._session = option(NAME, options, "session", dict, None)
        modalities = "modalities" if self._beta else "output_modalities"
        self._response: dict[str, Any] = {modalities: ["text"]}
        for name, kind in (("instructions", str), ("max_output_tokens", int)):
            if (value := option(NAME, options, name, kind, None)) is not None:
                self._response[name] = value
        self.headers = bearer_headers(NAME, options, "OPENAI_API_KEY")
        if self._beta:
            self.headers = (*self.headers, ("OpenAI-Beta", "realtime=v1"))
        self.reported_tokens: int | None = None
        self._started = False

    def start(self, prompt: str) -> Sequence[Message]:
        """A response to the prompt; before the first one on a connection the session's own settings, where there are any."""
        self.reported_tokens = None
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": prompt}]}
        events: list[dict[str, Any]] = []
        if self._session is not None and not self._started:
            events.append({"type": "session.update", "session": self._session})
        self._started = True
        if self._history:
            events.append({"type": "conversation.item.create", "item": item})
            events.append({"type": "response.create", "response": self._response})
        else:
            events.append({"type": "response.create", "response": {**self._response, "conversation": "none", "input": [item]}})
        return [json.dumps(event, ensure_ascii=False, separators=(",", ":")) for event in events]

    def receive(self, message: Message) -> int:
        """A delta of text is a token; ``response.done`` is the end, or an error when the response failed."""
        event = json.loads(message)
        kind = event.get("type") if isinstance(event, dict) else None
        if kind in _DELTAS:
            return 1 if event.get("delta") else NOTHING
        if kind == "response.done":
            response = event.get("response") or {}
            usage = response.get("usage") or {}
            details = usage.get("output_token_details") or {}
            reported = details.get("text_tokens", usage.get("output_tokens"))
            self.reported_tokens = reported if isinstance(reported, int) and not isinstance(reported, bool) else None
            return ERROR if response.get("status") == "failed" else END
        if kind == "error":
            error = event.get("error") or {}
            return NOTHING if error.get("code") in _HARMLESS else ERROR
        if kind is None:
            raise AdapterError("expected a Realtime event, a JSON object with a type")
        return NOTHING

    def stop(self) -> Sequence[Message]:
        """Cancel the response."""
        return ('{"type":"response.cancel"}',)
