"""The adapter for the reference protocol: any text is a prompt, ``''`` acknowledges a token, ``stop`` stops, ``_end_`` ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from server.protocol import ACK, STOP
from server.protocol import END as END_TEXT

from .adapter import END, NOTHING, Message


class Typewriter:
    """Speaks the reference protocol with a window of ``options["window"]`` tokens (default 1; 0 = no acknowledgements)."""

    def __init__(self, options: Mapping[str, str | int | float]) -> None:
        self.window = int(options.get("window", 1))
        self.acknowledgement: Message | None = ACK if self.window else None

    def start(self, prompt: str) -> Sequence[Message]:
        """The prompt itself; ValueError for the two texts that mean something else."""
        if prompt in (ACK, STOP):
            raise ValueError(f"{prompt!r} is no prompt in this protocol: it means acknowledgement or stop")
        return (prompt,)

    def receive(self, message: Message) -> int:
        """One token, or the end; an empty text is nothing (the protocol never sends one)."""
        return END if message == END_TEXT else 1 if message else NOTHING

    def stop(self) -> Sequence[Message]:
        """The stop word."""
        return (STOP,)
