"""The adapter for the reference protocol says and understands exactly its words."""

from __future__ import annotations

import pytest

from loadtest.adapter import END, ERROR, NOTHING, make_adapter
from loadtest.typewriter import Typewriter


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        ("_end_", END),
        ("", NOTHING),  # never sent by a server of this protocol
        ("0", 1),
        ("stop", 1),  # a token may say so
        ("\\_end_", 1),  # what a token that says the end word goes out as
        ("_end_ ", 1),
        ("日本", 1),
    ],
)
def test_what_messages_mean(message: str, meaning: int) -> None:
    assert Typewriter({}).receive(message) == meaning
    assert meaning != ERROR


def test_a_window_of_none_means_no_acknowledgements() -> None:
    assert [(Typewriter({"window": w}).window, Typewriter({"window": w}).acknowledgement) for w in (0, 1, 8)] == [
        (0, None),
        (1, ""),
        (8, ""),
    ]
    assert Typewriter({}).window == 1


def test_what_it_says() -> None:
    adapter = make_adapter(Typewriter, {"window": "4"})
    assert adapter.window == 4
    assert list(adapter.start("tell me")) == ["tell me"]
    assert list(adapter.start("_end_")) == ["_end_"]
    assert list(adapter.stop()) == ["stop"]


@pytest.mark.parametrize("prompt", ["", "stop"])
def test_words_that_are_no_prompt(prompt: str) -> None:
    with pytest.raises(ValueError, match="is no prompt in this protocol"):
        Typewriter({}).start(prompt)
