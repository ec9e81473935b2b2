"""When the next token is due and what it says: pure, seeded schedules. No clock: times are offsets from the prompt.

Offsets are whole nanoseconds on an absolute schedule: token k of a fixed gap is due at `ttft + k * gap`, however late the
tokens before it went out, so an answer does not drift.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from .parameters import Plan
from .workloads import ANSWER_TOKENS, quantile

WORDS: Final = (
    "the", "stream", "carries", "one", "small", "word", "after", "another", "and", "each", "of", "them", "waits", "until", "its",
    "reader", "has", "seen", "it",
)  # fmt: skip
GERMAN: Final = (
    "Ein", " schöner", " Strom", " trägt", " Wörter", ",", " eins", " nach", " dem", " anderen", ";", " große", " Füße", " über",
    " Kopfstein", "pflaster", ":", " Grüße", ".", " ",
)  # fmt: skip
CHINESE: Final = tuple("字一个接一个地流出来，像河水一样；读者看见每一个，才等下一个。")
# In-band words, markup, and scripts that a page or a report must show as they are.
AWKWARD: Final = (
    "_end_",
    "",
    "stop",
    "<script>alert(1)</script>",
    "&amp;",
    "=1+1",
    "你好",
    "שלום",
    "\U0001f469\u200d\U0001f52c",
    "e\u0301",
    "\u202eabc",
    "a\nb",
    " ",
    "\u0000",
)

_ASKED: Final = re.compile(r"([0-9]{1,9})(?: |$)", re.ASCII)

NS_PER_MS: Final = 1_000_000
_NOTHING_DRAWN: Final = random.Random(0)


class Token(NamedTuple):
    """One token of a schedule: when it is due, in ns after the prompt, and whether it was stalled."""

    due_ns: int
    stalled: bool


def draw_length(plan: Plan, rng: random.Random, cap: int) -> int:
    """Return the number of tokens of one answer, 0 to `cap`; what is drawn is at least 1."""
    if plan.lengths in ("fixed", "prompt"):
        return min(plan.tokens, cap)
    if plan.lengths in ANSWER_TOKENS:
        return min(quantile_length(plan.lengths, rng.random()), cap)
    if plan.tokens == 0:
        return 0
    return min(max(1, round(_draw(plan.lengths, plan.tokens, plan.tokens_cv, rng))), cap)


def quantile_length(table: str, share: float) -> int:
    """Return the length below which `share` (0 to 1) of the answers of a workload lie."""
    # The tiny addition keeps an exact point of the table from falling below itself through rounding.
    return math.floor(quantile(ANSWER_TOKENS[table], share) + 1e-9)


def asked_length(prompt: str) -> int | None:
    """Return the number of tokens that a prompt asks for by beginning with it (`211 Why is the sky blue?`), or None."""
    found = _ASKED.match(prompt)
    return None if found is None else int(found[1])


def _draw(family: str, mean: float, cv: float, rng: random.Random) -> float:
    """Draw from a lognormal or gamma distribution with this mean and coefficient of variation."""
    if cv == 0.0 or mean == 0.0:
        return mean
    if family == "lognormal":
        variance = math.log1p(cv * cv)
        return rng.lognormvariate(math.log(mean) - variance / 2, math.sqrt(variance))
    shape = 1.0 / (cv * cv)
    return rng.gammavariate(shape, mean / shape)


def seed_of(plan: Plan, server_seed: int, connection: int, conversation: int) -> str:
    """Return what the answer's random numbers depend on: with `plan.seed` given, not on which connection it is."""
    if plan.seed is not None:
        return f"{plan.seed}/{conversation}"
    return f"{server_seed}/{connection}/{conversation}"


def schedule(plan: Plan, seed: str, length_cap: int) -> Iterator[Token]:
    """Yield the tokens of one answer with the instants they are due.

    Gaps and stalls come from `seed` alone. An injected stall of `stall_ms` delays its token; in mode `shift` everything
    after it moves too, in mode `catchup` the tokens that became due meanwhile follow it in a burst. In mode `hold` the schedule stays
    as it is: the token is kept back for that time by whoever sends it, so that an answer behind its schedule stalls too.
    """
    fixed = plan.gaps == "fixed" or plan.gap_cv == 0.0
    stall_ns = round(plan.stall_ms * NS_PER_MS)
    # Seeding costs more than the rest of a short answer, so it is done only where something is drawn.
    rng = _NOTHING_DRAWN if fixed and not stall_ns and plan.lengths in ("fixed", "prompt") else random.Random(seed)
    length = draw_length(plan, rng, length_cap)
    stalls = stall_ns > 0 and (plan.stall_conversations >= 1.0 or rng.random() < plan.stall_conversations)
    every = plan.stall_every if stalls else 0
    share = plan.stall_share if stalls else 0.0
    shift = plan.stall_mode == "shift"
    hold = plan.stall_mode == "hold"
    gap_ns = round(plan.gap_ms * NS_PER_MS)
    at_ns = gap_ns if plan.ttft_ms is None else round(plan.ttft_ms * NS_PER_MS)
    released_ns = 0  # catch-up: nothing overtakes a stalled token
    for number in range(1, length + 1):
        stalled = bool(every and number % every == 0) or bool(share and rng.random() < share)
        if stalled and shift:
            at_ns += stall_ns
        elif stalled and not hold:
            released_ns = max(released_ns, at_ns + stall_ns)
        yield Token(max(at_ns, released_ns), stalled)
        at_ns += gap_ns if fixed else round(_draw(plan.gaps, gap_ns, plan.gap_cv, rng))


def token_text(plan: Plan, words: Sequence[str] = ()) -> Callable[[int], str]:
    """Return a function from a token's number (from 0) to what it says, filled up to `token_bytes`; `words` are those of `text=file`.

    It may return an in-band word or nothing (`text=awkward`); `protocol.escape_token` is the guard against those.
    """
    if plan.text == "numbers":
        say: Callable[[int], str] = str
    elif plan.text == "words":
        say = _word
    elif plan.text == "awkward":
        say = _awkward
    else:
        phrase = words if plan.text == "file" else GERMAN if plan.text == "german" else CHINESE

        def say(number: int) -> str:
            return phrase[number % len(phrase)]  # after its last word a text begins anew

    if plan.token_bytes == 0:
        return say
    return lambda number: fill(say(number), plan.token_bytes, ".")


def _word(number: int) -> str:
    # As language models do it: the blank belongs to the word that follows.
    return WORDS[number % len(WORDS)] if number == 0 else " " + WORDS[number % len(WORDS)]


def _awkward(number: int) -> str:
    return AWKWARD[number % len(AWKWARD)]


def fill(text: str, size_bytes: int, filler: str) -> str:
    """Return `text` with ASCII `filler` after it, so that it has at least `size_bytes` bytes of UTF-8."""
    missing = size_bytes - (len(text) if text.isascii() else len(text.encode()))
    return text + filler * missing if missing > 0 else text
