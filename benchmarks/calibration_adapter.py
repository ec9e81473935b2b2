"""The reference protocol for a target that puts several tokens into one frame: each word of a message counts as a token."""

from __future__ import annotations

from loadtest.adapter import Message
from loadtest.typewriter import Typewriter


class Words(Typewriter):
    """As ``Typewriter``, with as many tokens in a message as it has words."""

    def receive(self, message: Message) -> int:
        """The number of words, or what the reference protocol makes of the message."""
        meaning = super().receive(message)
        return len(message.split()) if meaning > 0 else meaning
