"""Relays the answers of an OpenAI-compatible API (`--upstream URL`): what vLLM, llama.cpp, Ollama and others serve. Needs aiohttp.

Back-pressure goes all the way: tokens that nobody takes fill a short queue, then the socket's buffer, then the upstream's. A stop or a
lost client closes the connection to the upstream in the call that delivers it, which is how one cancels there.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import aiohttp
from aiohttp.http_exceptions import LineTooLong

from .parameters import Plan
from .source import SourceError, SourceState, UpstreamSettings

QUEUE_TOKENS: Final = 32
"""Tokens read ahead of the client; more stay in the sockets' buffers and, when those are full, upstream."""
READ_BYTES: Final = 16 * 1024
CONNECT_TIMEOUT_S: Final = 10.0
ERROR_CHARACTERS: Final = 200


class Upstream:
    """The API that answers are relayed from: one pool of connections for the process, made when the first answer is asked for."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    def open(self, plan: Plan, prompt: str, ready: Callable[[], None]) -> Relay:
        """Ask for an answer to `prompt`; see `source.OpenSource`."""
        settings = self._settings
        if self._session is None:
            key = {} if settings.key is None else {"Authorization": f"Bearer {settings.key}"}
            self._session = aiohttp.ClientSession(
                headers={"Accept": "text/event-stream", **key},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=settings.timeout_s),
                # No limit of its own: the server's on connections is the one that counts.
                connector=aiohttp.TCPConnector(limit=0),
                read_bufsize=READ_BYTES,
            )
        body: dict[str, Any] = {"model": settings.model, "messages": [{"role": "user", "content": prompt}], "stream": True}
        if plan.tokens:
            body["max_tokens"] = plan.tokens
        return Relay(self._session, f"{settings.url}/chat/completions", body, ready)

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()


class Relay:
    """One relayed answer; a `source.Source`."""

    def __init__(self, session: aiohttp.ClientSession, url: str, body: dict[str, Any], ready: Callable[[], None]) -> None:
        self._ready = ready
        self._tokens: deque[str] = deque()
        self._room = asyncio.Event()
        self._error: SourceError | None = None
        self._ended = self._cancelled = False
        self._response: aiohttp.ClientResponse | None = None
        self._task = asyncio.get_running_loop().create_task(self._relay(session, url, body))

    def take(self) -> str | SourceState:
        """Return the next token, or why there is none."""
        if self._tokens:
            token = self._tokens.popleft()
            if len(self._tokens) < QUEUE_TOKENS // 2:
                self._room.set()
            return token
        if self._error is not None:
            raise self._error
        return SourceState.FINISHED if self._ended else SourceState.WAITING

    def cancel(self) -> None:
        """Close the connection to the upstream, unless the answer has been read to its end."""
        if self._cancelled:
            return
        self._cancelled = True
        if self._response is not None and not self._ended:
            self._response.close()
        self._task.cancel()
        self._tokens.clear()

    async def _relay(self, session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> None:
        try:
            async with session.post(url, json=body, allow_redirects=False) as response:
                self._response = response
                await self._read(response)
        except SourceError as error:
            self._error = error
        except Exception as error:  # a library's whole range of them, and whatever it is the answer must end
            self._error = SourceError(f"the upstream failed: {type(error).__name__}: {error}")
        finally:
            self._ended = True
        if not self._cancelled:
            self._ready()

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        if response.status != 200:
            said = (await response.content.read(4096)).decode("utf-8", "replace")
            raise SourceError(f"the upstream answered {response.status}: {said[:ERROR_CHARACTERS]}")
        if response.content_type != "text/event-stream":
            raise SourceError(f"expected a stream of events from the upstream, not {response.content_type}")
        finished = False
        async for data in read_events(response.content):
            if data == "[DONE]":
                finished = True
                break
            text, last = read_chunk(data)
            finished |= last
            if text:
                self._tokens.append(text)
                self._ready()
                while len(self._tokens) >= QUEUE_TOKENS:
                    self._room.clear()
                    await self._room.wait()
        if not finished:
            raise SourceError("the upstream's stream broke off before the answer's end")


async def read_events(content: aiohttp.StreamReader) -> AsyncIterator[str]:
    """Yield the data of every server-sent event (WHATWG HTML, 9.2); comments and other fields are skipped.

    Raises `SourceError` for a line that is longer than any chunk of an answer.
    """
    lines: list[str] = []
    while True:
        try:
            raw = await content.readline()
        except (ValueError, LineTooLong):
            raise SourceError("the upstream sent a line that is too long for an event") from None
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line.startswith("data:"):
            lines.append(line[5:].removeprefix(" "))
        elif not line and lines:
            yield "\n".join(lines)
            lines = []
        if not raw:
            return


def read_chunk(data: str) -> tuple[str, bool]:
    """Return the text of one `chat.completion.chunk`, which may be empty, and whether the answer ends with it.

    Raises `SourceError` for what is none, and for an error that the upstream reports in the stream.
    """
    try:
        chunk = json.loads(data)
    except ValueError:
        raise SourceError(f"the upstream sent an event that is no JSON: {data[:ERROR_CHARACTERS]!r}") from None
    if not isinstance(chunk, dict) or "error" in chunk:
        raise SourceError(f"the upstream reports: {data[:ERROR_CHARACTERS]}")
    text, last = "", False
    # One answer was asked for; chunks without a choice carry the usage.
    choices = chunk.get("choices")
    for choice in choices[:1] if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            delta = choice.get("delta")
            content = delta.get("content") if isinstance(delta, dict) else None
            text = content if isinstance(content, str) else ""
            last = choice.get("finish_reason") is not None
    return text, last
