"""Answers that are asked for again and again: tokens kept until they have been read, and dropped with the answer when nobody asks.

A poll's `after` acknowledges everything before it, so that a poll that was lost can be repeated and nothing is lost or told twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from .parameters import Plan
from .protocol import END, STOP
from .stack import QUEUE_TEXTS, QueuedWire, Stack, as_prompt

KEPT_TOKENS: Final = 16 * QUEUE_TEXTS
"""Tokens of one answer kept for who does not ask; then the answer pauses."""
LAST_READ_S: Final = 1.0


class PolledAnswer(QueuedWire):
    """One answer and its tokens since the last acknowledged one; a wire of `Answers` that sends nothing by itself."""

    def __init__(self, name: str, peer: object, expire: asyncio.TimerHandle | None = None) -> None:
        super().__init__(peer, self._never, self._never, self._end)
        self.name = name
        self.expire = expire
        self.ended = False
        self.gone: Callable[[], object] = self._end
        self._first = 0  # number of the first token kept
        self._kept: list[str] = []
        self._changed = asyncio.Event()

    async def _never(self, *_: object) -> None:
        raise AssertionError("a polled answer is read, not written")

    def send_text(self, text: str) -> None:
        """Keep a token; the end ends."""
        if text == END:
            self._end()
            return
        self._kept.append(text)
        self.paused = len(self._kept) >= KEPT_TOKENS
        self._changed.set()

    def close_with(self, code: int, reason: str) -> None:
        """End: there is no connection to close."""
        self._end()

    def _end(self) -> None:
        self.ended = True
        self._changed.set()

    def leave(self) -> None:
        """End, and let the reader have what is left for a moment."""
        super().leave()
        asyncio.get_running_loop().call_later(LAST_READ_S, self.gone)

    def read(self, after: int) -> tuple[list[str], bool]:
        """Return the tokens from number `after` on, forget those before it, and whether these are the last."""
        self._changed.clear()
        done = min(max(0, after - self._first), len(self._kept))
        if done:
            del self._kept[:done]
            self._first += done
            if self.paused:
                self.paused = False
                if self.answers is not None:
                    self.answers.writable()
        return list(self._kept), self.ended

    async def changed(self) -> None:
        """Wait until there is something new since the last `read`."""
        await self._changed.wait()


class Polls:
    """The polled answers of a process. One that nobody asked about for the ack timeout is stopped and forgotten (R8)."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._answers: dict[str, PolledAnswer] = {}

    def begin(self, name: str, peer: Any, plan: Plan, prompt: str) -> PolledAnswer:
        """Start an answer under `name`, which nobody can guess."""
        answer = PolledAnswer(name, peer)
        answer.gone = partial(self._forget, answer, 1001)
        self._answers[name] = answer
        self._stack.converse(answer, plan).text_received(as_prompt(prompt))
        self._wait_for_reader(answer)
        return answer

    def find(self, name: str) -> PolledAnswer | None:
        """Return the answer of this name, and give its reader time again."""
        answer = self._answers.get(name)
        if answer is not None:
            self._wait_for_reader(answer)
        return answer

    def stop(self, answer: PolledAnswer) -> None:
        """Cancel an answer and forget it (R3)."""
        if answer.answers is not None:
            answer.answers.text_received(STOP)
        self._forget(answer, 1000)

    def _wait_for_reader(self, answer: PolledAnswer) -> None:
        if answer.expire is not None:
            answer.expire.cancel()
        answer.expire = asyncio.get_running_loop().call_later(self._stack.settings.ack_timeout_s, self._forget, answer, 1006)

    def _forget(self, answer: PolledAnswer, code: int) -> None:
        if self._answers.pop(answer.name, None) is not None:
            if answer.expire is not None:
                answer.expire.cancel()
            self._stack.forget(answer, code)
            answer.cut("close_timeout")
