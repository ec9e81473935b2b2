"""An answer as server-sent events on the FastAPI stack: in which form, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, Protocol

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from .fastapi_requests import peer
from .parameters import Plan
from .protocol import END
from .stack import QueuedWire, Stack, as_prompt

HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventForm(Protocol):
    """How an answer is written as events."""

    def begin(self) -> bytes:
        """What comes before the first token."""

    def token(self, text: str) -> bytes:
        """One token."""

    def end(self) -> bytes:
        """What comes after the last token."""


class PlainEvents:
    """A token an event, then an event named end."""

    def begin(self) -> bytes:
        """Nothing."""
        return b""

    def token(self, text: str) -> bytes:
        """The token's lines, each a data field of its own (a line feed would end the field); the browser puts them together again."""
        return "".join(f"data: {line}\n" for line in _lines(text)).encode() + b"\n"

    def end(self) -> bytes:
        """The event that says so."""
        return b"event: end\ndata: \n\n"


def stream(stack: Stack, request: Request, plan: Plan, prompt: str, form: EventForm) -> Response:
    """Answer a request with the events of one answer."""
    return StreamingResponse(_events(stack, request, plan, prompt, form), media_type="text/event-stream", headers=HEADERS)


async def _events(stack: Stack, request: Request, plan: Plan, prompt: str, form: EventForm) -> AsyncIterator[bytes]:
    """Yield one answer as events. The framework ends this when the client has gone, which cancels the answer."""
    texts: asyncio.Queue[str] = asyncio.Queue(1)
    streaming = asyncio.current_task()
    assert streaming is not None

    async def put(text: str) -> None:
        try:
            async with asyncio.timeout(stack.settings.ack_timeout_s):
                await texts.put(text)
        except TimeoutError:
            streaming.cancel()  # R8: nobody pins an answer for ever by not reading

    async def close(_code: int, _reason: str) -> None:
        pass  # the end has been said, and the response ends with it

    wire = QueuedWire(peer(request.client), put, close, streaming.cancel)
    answers = stack.converse(wire, plan)
    writing = asyncio.create_task(wire.write())
    code = 1001
    try:
        answers.text_received(as_prompt(prompt))
        if begin := form.begin():
            yield begin
        while True:
            text = await texts.get()
            if text == END:  # R10: no token says that
                code = 1000
                yield form.end()
                return
            yield form.token(text)
    finally:
        stack.forget(wire, code)
        writing.cancel()


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
