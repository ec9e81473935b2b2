"""A dialogue for every rule of the reference protocol (docs/protocol.md), held with any server of it: does the rule hold there?

Each check opens connections of its own through the ``websockets`` library, not through the engine. Waiting times follow from the
pace at which the server answered first, so that a slow server is not taken for a broken one.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final

from websockets.exceptions import ConnectionClosed

from server.protocol import ACK, END, ERROR_TOKEN, MAX_FRAGMENTS, MAX_TEXT_BYTES, STOP

from .examination import Skip, Violation
from .examinee import PROMPT, Dialogue, Subject, shown


def acknowledgements_are_credit(subject: Subject) -> None:
    """R1"""
    if not subject.window:
        raise Skip("needs a window of at least 1")
    with Dialogue(subject) as dialogue:
        dialogue.say(PROMPT)
        subject.pace.lengths.append(dialogue.hear_out("once every token was acknowledged"))
        dialogue.say(PROMPT)
        for _ in range(subject.window):
            dialogue.expect_token("of the second answer")
        dialogue.expect_quiet("while the window was full")
        dialogue.acknowledge()
        dialogue.expect_token("for the acknowledgement of one")
        dialogue.expect_quiet("for one acknowledgement beyond one token")


def stale_acknowledgements_are_ignored(subject: Subject) -> None:
    """R2"""
    with Dialogue(subject) as dialogue:
        for _ in range(3):
            dialogue.say(ACK)
        dialogue.expect_quiet("for an acknowledgement while idle")
        dialogue.say(PROMPT)
        dialogue.expect_token("after a prompt that followed stale acknowledgements")
        if subject.window == 1:
            dialogue.expect_quiet("before the first token was acknowledged: stale acknowledgements are no credit")


def stop_is_immediate(subject: Subject) -> None:
    """R3"""
    gap = subject.pace.gap_s
    with Dialogue(subject) as dialogue:
        dialogue.say(PROMPT)
        dialogue.take(2, "of the answer that is to be stopped")
        started = time.monotonic()
        dialogue.say(STOP)
        word = dialogue.hear(subject.patience_s)
        while word not in (None, END) and gap < 0.05:
            # Tokens of a fast server may have been on their way.
            word = dialogue.hear(subject.patience_s)
        took = time.monotonic() - started
        if word != END:
            raise Violation(f"expected {END} at once after stop, got {shown(word)}")
        if gap >= 0.05 and took > max(0.5 * gap, 0.05):
            raise Violation(f"expected {END} at once after stop, got it {took * 1e3:.0f} ms later, where a token takes {gap * 1e3:.0f} ms")
        dialogue.expect_quiet(f"after the {END} of a stopped answer (a ghost answer)")
        dialogue.say(PROMPT)
        dialogue.hear_out("of the answer after a stopped one")


def stop_while_idle_is_ignored(subject: Subject) -> None:
    """R4"""
    with Dialogue(subject) as dialogue:
        dialogue.say(STOP)
        dialogue.expect_quiet("for stop while idle")
        dialogue.say(PROMPT)
        dialogue.take(1, "after a stop while idle")
        dialogue.say(STOP)
        dialogue.expect_end("after stop", max(subject.pace.quiet_s, 2 * subject.pace.gap_s))
        dialogue.say(STOP)
        dialogue.expect_quiet("for a second stop")


def a_prompt_starts_an_answer(subject: Subject) -> None:
    """R5"""
    with Dialogue(subject) as dialogue:
        dialogue.expect_quiet("before the first prompt", 0.3)
        for prompt in (PROMPT, END, "Stop", " "):
            dialogue.say(prompt)
            dialogue.expect_token(f"after the prompt {prompt!r}")
            dialogue.say(STOP)
            word = dialogue.hear(subject.patience_s)
            while word not in (None, END):
                word = dialogue.hear(subject.patience_s)
            dialogue.expect_quiet(f"after the {END} of a stopped answer")


def a_prompt_supersedes(subject: Subject) -> None:
    """R6"""
    with Dialogue(subject) as dialogue:
        dialogue.say(PROMPT)
        dialogue.take(1, "of the answer that is to be superseded")
        dialogue.say("another")
        dialogue.expect_token("of the answer that supersedes, and no end of the old one")
        dialogue.acknowledge()
        tokens = 1 + dialogue.hear_out("of the answer that superseded")
        length = subject.pace.length
        # One token of the old answer may have been on its way.
        if length is not None and not length <= tokens <= length + max(1, subject.window):
            raise Violation(f"expected the whole new answer of {length} tokens, got {tokens}")


def the_end_waits_for_the_last_acknowledgement(subject: Subject) -> None:
    """R7"""
    if not subject.window:
        raise Skip("needs a window of at least 1")
    with Dialogue(subject) as dialogue:
        if len(subject.pace.lengths) < 2:
            dialogue.say(PROMPT)
            subject.pace.lengths.append(dialogue.hear_out("once every token was acknowledged"))
        length = subject.pace.length
        if length is None:
            raise Skip("needs answers of one length")
        dialogue.say(PROMPT)
        dialogue.take(length - 1, "of the answer")
        dialogue.expect_token("as the last")
        dialogue.expect_quiet("before the last token was acknowledged")
        dialogue.acknowledge()
        dialogue.expect_end("once the last token was acknowledged")
        dialogue.expect_quiet(f"after {END}")


def nobody_pins_an_answer(subject: Subject) -> None:
    """R8"""
    if not subject.window:
        raise Skip("needs a window of at least 1")
    if subject.ack_timeout_s is None:
        raise Skip("needs to know how long the server waits for an acknowledgement (--ack-timeout)")
    with Dialogue(subject) as dialogue:
        dialogue.say(PROMPT)
        for _ in range(subject.window):
            dialogue.expect_token("of the answer")
        dialogue.expect_end("when the ack timeout had passed", subject.ack_timeout_s + max(2.0, subject.pace.quiet_s))
        dialogue.expect_quiet(f"after {END}")


def no_more_than_the_window(subject: Subject) -> None:
    """R9"""
    _hold_back(subject)
    if subject.takes_parameters:
        _hold_back(subject.with_query(window=4, tokens=12, gap_ms=5))
        with Dialogue(subject.with_query(window=0, tokens=6, gap_ms=5)) as dialogue:
            dialogue.say(PROMPT)
            dialogue.hear_out("without acknowledgements")


def _hold_back(subject: Subject) -> None:
    with Dialogue(subject) as dialogue:
        dialogue.say(PROMPT)
        if not subject.window:
            dialogue.hear_out("without acknowledgements")
            return
        for _ in range(subject.window):
            dialogue.expect_token(f"within a window of {subject.window}")
        dialogue.expect_quiet(f"beyond a window of {subject.window}")


def tokens_are_never_the_words(subject: Subject) -> None:
    """R10"""
    asked = subject.with_query(text="awkward", tokens=200, gap_ms=0, window=0)
    with Dialogue(asked) as dialogue:
        dialogue.say(PROMPT)
        dialogue.hear_out("of awkward tokens")
        if len(dialogue.heard) < 100:
            raise Violation(f"expected the end after the tokens, got it after {len(dialogue.heard) - 1} of them")


def binary_is_refused(subject: Subject) -> None:
    """R11"""
    with Dialogue(subject) as dialogue:
        dialogue.socket.send(b"binary")
        dialogue.expect_close(1003, "after a binary message")


def too_long_is_refused(subject: Subject) -> None:
    """R12"""
    for what, message in (
        (f"a text of {MAX_TEXT_BYTES + 1} bytes", "x" * (MAX_TEXT_BYTES + 1)),
        (f"{MAX_FRAGMENTS + 1} fragments", ["x"] * (MAX_FRAGMENTS + 1)),
    ):
        with Dialogue(subject) as dialogue:
            try:
                dialogue.socket.send(message)
            except ConnectionClosed:
                pass
            dialogue.expect_close(1009, f"after {what}")


def a_failing_source_is_told(subject: Subject) -> None:
    """R13"""
    with Dialogue(subject.with_query(fail_at=3, tokens=6, gap_ms=5)) as dialogue:
        dialogue.say(PROMPT)
        tokens = dialogue.hear_out("after the source had failed")
        if dialogue.heard[-2:] != [ERROR_TOKEN, END]:
            raise Violation(
                f"expected {ERROR_TOKEN} and then {END} where the source fails, got {dialogue.heard[-2:]} after {tokens} tokens"
            )


def a_lost_connection_is_forgotten(subject: Subject) -> None:
    """R14"""
    for _ in range(3):
        with Dialogue(subject) as dialogue:
            dialogue.say(PROMPT)
            dialogue.expect_token("before the connection is lost")
            dialogue.drop()
    with Dialogue(subject) as dialogue:
        started = time.monotonic()
        dialogue.say(PROMPT)
        dialogue.expect_token("on a new connection after others were lost")
        if (took := time.monotonic() - started) > 4 * subject.pace.gap_s + 1:
            raise Violation(f"expected a token in its time after other connections were lost, got it after {took:.1f} s")


def conversations_do_not_wait_for_each_other(subject: Subject) -> None:
    """R3: timers, no sleep: eight answers at once take as long as one."""
    dialogues: list[Dialogue] = []
    try:
        for _ in range(8):
            dialogues.append(Dialogue(subject))
        for dialogue in dialogues:
            dialogue.say(PROMPT)
        started = time.monotonic()
        for dialogue in dialogues:
            dialogue.expect_token("of one of eight answers at once")
        took = time.monotonic() - started
    finally:
        for dialogue in dialogues:
            dialogue.drop()
    if took > 2 * subject.pace.gap_s + 0.3:
        raise Violation(
            f"expected the first tokens of eight answers at once within {subject.pace.gap_s * 1e3:.0f} ms as that of one, "
            f"got the last after {took * 1e3:.0f} ms: a conversation blocks the others"
        )


def leaving_ends_the_answers(subject: Subject) -> None:
    """R15"""
    if subject.pid is None:
        raise Skip("needs the server's process to be told to leave (--pid)")
    with Dialogue(subject) as dialogue:
        dialogue.say(PROMPT)
        dialogue.expect_token("before the server is told to leave")
        os.kill(subject.pid, signal.SIGTERM)
        word = dialogue.hear(subject.patience_s)
        while word not in (None, END):
            word = dialogue.hear(subject.patience_s)
        if word is None:
            raise Violation(f"expected {END} of the answer under way when the server leaves, got nothing")
        dialogue.expect_close(1001, "when the server leaves")


Check = Callable[[Subject], None]
CHECKS: Final[Sequence[tuple[str, str, Check]]] = (
    ("R1", "acknowledgements are credit, one token each", acknowledgements_are_credit),
    ("R2", "an acknowledgement while idle is ignored", stale_acknowledgements_are_ignored),
    ("R3", "stop ends the answer at once, once", stop_is_immediate),
    ("R4", "stop while idle is ignored", stop_while_idle_is_ignored),
    ("R5", "any other text while idle starts an answer", a_prompt_starts_an_answer),
    ("R6", "a prompt supersedes the answer under way", a_prompt_supersedes),
    ("R7", "the end waits for the last acknowledgement", the_end_waits_for_the_last_acknowledgement),
    ("R8", "nobody pins an answer for ever", nobody_pins_an_answer),
    ("R9", "no more tokens than the window", no_more_than_the_window),
    ("R10", "a token is never empty and never the end word", tokens_are_never_the_words),
    ("R11", "a binary message is refused with 1003", binary_is_refused),
    ("R12", "a message too long is refused with 1009", too_long_is_refused),
    ("R13", "a failing source is told", a_failing_source_is_told),
    ("R14", "a lost connection is forgotten", a_lost_connection_is_forgotten),
    ("R3 (others)", "a conversation does not hold up the others", conversations_do_not_wait_for_each_other),
    ("R15", "a server that leaves ends its answers", leaving_ends_the_answers),
)
"""Rule, what it says, and its check; the last one ends the server."""
