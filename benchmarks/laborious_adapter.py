"""An adapter for proofs only, which works so long on every token that the generator, and nobody else, is the limit."""

from __future__ import annotations

from typing import Final

from loadtest.adapter import Message
from loadtest.typewriter import Typewriter

ROUNDS: Final = 3000
"""About a tenth of a millisecond, twice what the null server needs for a token."""


class Laborious(Typewriter):
    """As ``Typewriter``, after some counting."""

    def receive(self, message: Message) -> int:
        """What the reference protocol makes of the message."""
        for _ in range(ROUNDS):
            pass
        return super().receive(message)
