"""Rules R1 to R15 in memory: the server's answers joined to a client, under a clock that the test moves."""

from __future__ import annotations

import heapq
import io
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import counters
from server.answers import Answers, AnswerSettings
from server.counters import Block, row_values
from server.history import History
from server.log import Log
from server.parameters import Plan
from server.protocol import ACK, END, STOP, ClientEvent, ClientState, client_step


class FakeTimer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    """Time that passes only when told to; calls happen in the order of their instants."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._calls: list[tuple[float, int, Callable[[], None], FakeTimer]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self.now_s

    def call_at(self, when: float, callback: Callable[[], None], /) -> FakeTimer:
        timer = FakeTimer()
        heapq.heappush(self._calls, (when, next(self._order), callback, timer))
        return timer

    def call_soon(self, callback: Callable[[], None], /) -> FakeTimer:
        return self.call_at(self.now_s, callback)

    def advance(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self._calls and self._calls[0][0] <= end_s + 1e-9:
            when, _, callback, timer = heapq.heappop(self._calls)
            self.now_s = max(self.now_s, when)
            if not timer.cancelled:
                callback()
        self.now_s = end_s

    @property
    def pending(self) -> int:
        return sum(not timer.cancelled for _, _, _, timer in self._calls)


class FakeWire:
    """Keeps what the server sends, with its instant; can be closed, and can stop reading."""

    def __init__(self, clock: FakeClock) -> None:
        self.paused = False
        self.sent: list[tuple[float, str]] = []
        self.closed: tuple[int, str] | None = None
        self.on_text: Callable[[str], None] = lambda _text: None
        self._clock = clock

    def send_text(self, text: str) -> None:
        if self.closed is None:
            self.sent.append((self._clock.now_s, text))
            self.on_text(text)

    def close_with(self, code: int, reason: str) -> None:
        if self.closed is None:
            self.closed = (code, reason)

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.sent]


class Joined:
    """A server's connection and somebody at its other end."""

    def __init__(self, *, ack: bool = False, history: Path | None = None, ack_timeout_s: float = 30.0, **plan: object) -> None:
        self.clock = FakeClock()
        self.wire = FakeWire(self.clock)
        self.block = Block()
        self.log = io.StringIO()
        log = Log(self.log)
        self.history = None if history is None else History(history, log)
        self.plan = Plan(**{"tokens": 3, "gap_ms": 100.0, **plan})  # type: ignore[arg-type]
        self.settings = AnswerSettings(ack_timeout_s=ack_timeout_s, seed=1, length_cap=10**6, log=log, history=self.history)
        self.server = Answers(self.wire, self.clock, self.plan, self.settings, self.block.row(0), 7, "7")
        if ack:
            self.wire.on_text = lambda text: None if text == END else self.server.text_received(ACK)

    def say(self, *texts: str) -> None:
        for text in texts:
            self.server.text_received(text)

    def run(self, milliseconds: float) -> list[str]:
        """Let time pass; returns what was sent meanwhile."""
        before = len(self.wire.sent)
        self.clock.advance(milliseconds / 1000)
        return self.wire.texts[before:]

    def count(self, name: str) -> int:
        return row_values(self.block.row(0))[name]


def test_a_whole_conversation() -> None:
    j = Joined(ack=True)
    j.say("hello")
    assert j.run(10_000) == ["0", "1", "2", END]
    assert [round(1000 * (at - 1000), 6) for at, _ in j.wire.sent] == [100, 200, 300, 300]
    assert (j.count("prompts"), j.count("tokens"), j.count("acks"), j.count("answers/completed"), j.count("streaming")) == (1, 3, 3, 1, 0)
    assert j.clock.pending == 0, "nothing is left behind"


def test_r1_an_acknowledgement_opens_the_window_for_one_token() -> None:
    j = Joined(gap_ms=0, tokens=5, window=2)
    j.say("p")
    assert j.wire.texts == ["0", "1"]
    j.say(ACK)
    assert j.wire.texts == ["0", "1", "2"]
    j.say(ACK, ACK)
    assert j.wire.texts == ["0", "1", "2", "3", "4"]


def test_r2_surplus_acknowledgements_are_counted_and_start_nothing() -> None:
    j = Joined()
    j.say(*[ACK] * 100)
    assert j.run(100_000) == []
    j.say("p", ACK, ACK)
    assert j.run(150) == ["0"], "acknowledging ahead opens nothing"
    assert j.count("stale_acks") == 102
    assert j.run(150) == []


@pytest.mark.parametrize("after_ms", [0, 50, 100, 150, 250])
def test_r3_stop_ends_the_answer_at_once_in_mid_gap(after_ms: float) -> None:
    j = Joined(ack=True, tokens=10)
    j.say("p")
    j.run(after_ms)
    j.say(STOP)
    assert j.wire.texts[-1] == END
    assert j.wire.sent[-1][0] == j.clock.now_s, "at once"
    assert j.run(10_000) == []
    assert j.clock.pending == 0, "no work goes on behind it"
    assert (j.count("answers/stopped"), j.count("stops"), j.count("streaming")) == (1, 1, 0)


def test_r3_stop_behind_queued_acknowledgements_and_while_the_window_is_full() -> None:
    j = Joined(gap_ms=0)
    j.say("p")
    assert j.wire.texts == ["0"]
    j.say(STOP, ACK)
    assert j.wire.texts == ["0", END]
    assert j.count("stale_acks") == 1, "exactly one with a window of one"


def test_r4_stop_when_idle_twice_and_after_the_end() -> None:
    j = Joined(ack=True)
    j.say(STOP)
    j.say("p", STOP, STOP)
    j.say("p")
    j.run(1000)
    j.say(STOP)
    assert j.wire.texts == [END, "0", "1", "2", END]
    assert (j.count("stale_stops"), j.count("stops")) == (3, 1)


def test_three_stops_and_generates_start_at_zero_each_time() -> None:
    # What goes wrong in the article's version: a ghost answer, and the next prompt eaten as an acknowledgement.
    j = Joined(ack=True, tokens=12)
    for _ in range(3):
        j.say("p")
        assert j.run(250) == ["0", "1"]
        j.say(STOP)
        j.say(ACK)
        assert j.run(5000) == []
    j.say("p")
    assert j.run(5000) == [*map(str, range(12)), END]


def test_r5_end_may_be_a_prompt() -> None:
    j = Joined(ack=True, tokens=1)
    j.say(END)
    assert j.run(1000) == ["0", END]


@pytest.mark.parametrize("state", ["mid-gap", "window full", "finishing"])
def test_r6_a_prompt_supersedes_without_an_end(state: str) -> None:
    j = Joined(tokens=3 if state != "finishing" else 1)
    j.say("p")
    j.run(50 if state == "mid-gap" else 500)
    before = len(j.wire.sent)
    j.say("q")
    assert j.wire.texts[before:] == []
    assert j.run(150) == ["0"]
    assert (j.count("answers/superseded"), j.count("prompts"), j.count("streaming")) == (1, 2, 1)


def test_a_prompt_may_say_how_long_its_answer_is() -> None:
    j = Joined(ack=True, lengths="prompt", tokens=2, gap_ms=1)
    lengths = []
    for prompt in ("5 why does it rain?", "7", "why 5?", "12x", "0 nothing", "5", "999999999 all"):
        before = len(j.wire.texts)
        j.say(prompt)
        j.run(20)
        lengths.append(sum(text != END for text in j.wire.texts[before:]))
        j.say(STOP)
    # The last one goes on until it is stopped; one that says nothing has the server's own length.
    assert lengths[:6] == [5, 7, 2, 2, 0, 5]
    assert lengths[6] > 7


def test_without_being_told_to_a_server_reads_no_length_in_a_prompt() -> None:
    j = Joined(ack=True, tokens=2, gap_ms=1)
    j.say("5 why does it rain?")
    assert j.run(20) == ["0", "1", END]


def test_r7_the_end_waits_for_the_last_acknowledgement() -> None:
    j = Joined(tokens=2, window=2, gap_ms=0)
    j.say("p")
    assert j.run(5000) == []
    assert j.wire.texts == ["0", "1"]
    j.say(ACK)
    assert j.wire.texts == ["0", "1"]
    j.say(ACK)
    assert j.wire.texts == ["0", "1", END]


def test_r7_or_for_the_ack_timeout() -> None:
    j = Joined(tokens=1, ack_timeout_s=2)
    j.say("p")
    assert j.run(2099) == ["0"]
    assert j.run(2) == [END]
    assert j.count("answers/ack_timeout") == 1
    assert j.clock.pending == 0


def test_r8_no_acknowledgement_ends_the_answer() -> None:
    j = Joined(tokens=10, window=2, ack_timeout_s=2)
    j.say("p")
    assert j.run(2199) == ["0", "1"]
    assert j.run(2) == [END], "two seconds after the window was full"
    assert j.count("answers/ack_timeout") == 1
    j.say(ACK, ACK)
    assert j.run(60_000) == []
    assert j.count("stale_acks") == 2


def test_r8_each_acknowledgement_gives_the_timeout_anew() -> None:
    j = Joined(tokens=10, gap_ms=0, ack_timeout_s=2)
    j.say("p")
    for _ in range(5):
        j.run(1900)
        j.say(ACK)
    assert END not in j.wire.texts
    assert j.run(2001) == [END]


def test_r7_each_acknowledgement_gives_the_timeout_anew_after_the_last_token() -> None:
    j = Joined(tokens=3, gap_ms=0, window=3, ack_timeout_s=2)
    j.say("p")
    for _ in range(2):
        j.run(1900)
        j.say(ACK)
    assert END not in j.wire.texts
    assert j.run(1999) == []
    assert j.run(2) == [END]


def test_r8_a_slow_source_is_no_missing_acknowledgement() -> None:
    j = Joined(ack=True, tokens=3, gap_ms=5000, ack_timeout_s=2)
    j.say("p")
    assert j.run(20_000) == ["0", "1", "2", END]


def test_r9_a_window_of_one_is_stop_and_wait() -> None:
    j = Joined(tokens=5)
    j.say("p")
    assert j.run(5000) == ["0"]
    j.say(ACK)
    assert j.wire.texts == ["0", "1"]


def test_r9_without_acknowledgements_the_end_comes_at_once() -> None:
    j = Joined(tokens=3, window=0, ack_timeout_s=0.01)
    j.say("p")
    assert j.run(300) == ["0", "1", "2", END]
    assert j.wire.sent[-1][0] == j.wire.sent[-2][0]


def test_r9_a_held_token_is_late_and_those_after_it_are_not() -> None:
    j = Joined(tokens=4, gap_ms=100)
    j.say("p")
    j.run(250)
    j.say(ACK)  # token 1 was due at 200
    j.say(ACK)
    j.run(50)
    j.say(ACK)
    j.run(100)
    assert [round(1000 * (at - 1000)) for at, _ in j.wire.sent] == [100, 250, 300, 400]


def test_r10_in_band_words_do_not_go_out() -> None:
    j = Joined(ack=True, tokens=14, gap_ms=0, text="awkward")
    j.say("p")
    j.run(1)
    assert j.wire.texts.count(END) == 1
    assert j.wire.texts[-1] == END
    assert "" not in j.wire.texts
    assert "\\_end_" in j.wire.texts
    assert len(j.wire.texts) == 14, "13 tokens, the empty one is skipped, and the end"
    assert "<script>alert(1)</script>" in j.wire.texts


def test_r10_markup_is_escaped_on_request() -> None:
    j = Joined(ack=True, tokens=14, gap_ms=0, text="awkward", escape="on")
    j.say("p")
    j.run(1)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in j.wire.texts
    assert "&amp;amp;" in j.wire.texts
    assert not any("<" in text for text in j.wire.texts)


@pytest.mark.parametrize(("method", "code"), [("binary_received", 1003), ("too_big_received", 1009)])
@pytest.mark.parametrize("busy", [False, True])
def test_r11_r12_what_is_no_text_or_too_long_closes(method: str, code: int, busy: bool) -> None:
    j = Joined()
    if busy:
        j.say("p")
    getattr(j.server, method)()
    assert j.wire.closed is not None
    assert j.wire.closed[0] == code
    assert j.wire.closed[1]
    assert j.run(60_000) == []
    assert j.count("streaming") == 0
    assert j.clock.pending == 0


def test_r13_a_source_that_fails_says_so_and_ends() -> None:
    j = Joined(ack=True, tokens=5, fail_at=3)
    j.say("p")
    assert j.run(10_000) == ["0", "1", "[error]", END]
    assert j.count("answers/failed") == 1
    assert "source_failed" in j.log.getvalue()
    assert "Traceback" not in j.log.getvalue()
    j.say("p")
    assert j.run(150) == ["0"]


def test_r13_whatever_a_source_raises() -> None:
    j = Joined()

    def broken(_plan: Plan) -> Callable[[int], str]:
        def say(_number: int) -> str:
            raise KeyError("gone")

        return say

    settings_ = AnswerSettings(ack_timeout_s=1, seed=1, length_cap=10, log=Log(j.log), text_source=broken)
    server = Answers(j.wire, j.clock, j.plan, settings_, j.block.row(0), 1, "1")
    server.text_received("p")
    assert j.run(1000) == ["[error]", END]


@pytest.mark.parametrize("moment", ["idle", "mid-gap", "window full", "finishing"])
def test_r14_a_lost_connection_leaves_nothing_and_twice_is_once(moment: str) -> None:
    j = Joined(tokens=1 if moment == "finishing" else 3)
    if moment != "idle":
        j.say("p")
        j.run(50 if moment == "mid-gap" else 1000)
    before = len(j.wire.sent)
    j.server.connection_lost()
    j.server.connection_lost()
    j.say("p", ACK, STOP)
    assert j.run(60_000) == []
    assert len(j.wire.sent) == before
    assert j.clock.pending == 0
    assert j.count("streaming") == 0
    assert j.count("answers/lost") == (moment != "idle")


@pytest.mark.parametrize("busy", [False, True])
def test_r15_draining_ends_what_runs_and_closes(busy: bool) -> None:
    j = Joined()
    if busy:
        j.say("p")
        j.run(150)
    j.server.drain()
    assert (j.wire.texts[-1:] == [END]) is busy
    assert j.wire.closed is not None
    assert j.wire.closed[0] == 1001
    assert j.count("answers/drained") == busy
    assert j.clock.pending == 0


def test_an_empty_answer_ends_at_once() -> None:
    j = Joined(tokens=0)
    j.say("p")
    assert j.wire.texts == [END]
    assert j.clock.pending == 0


def test_a_peer_that_does_not_read_gets_no_more_until_it_does() -> None:
    j = Joined(tokens=1000, gap_ms=1, window=0)
    j.say("p")
    j.run(10)
    j.wire.paused = True
    assert j.run(5000) == []
    j.wire.paused = False
    j.server.writable()
    j.run(0)
    assert j.wire.texts == [*map(str, range(1000)), END]


def test_unpaced_tokens_leave_the_others_their_turn() -> None:
    j = Joined(tokens=1000, gap_ms=0, window=0)
    j.say("p")
    assert len(j.wire.sent) == 32
    j.run(0)
    assert len(j.wire.sent) == 1001


def test_extra_delay_is_work_on_each_token_once_it_may_go() -> None:
    j = Joined(ack=True, tokens=3, gap_ms=0, delay_ms=5)
    j.say("p")
    j.run(100)
    assert [round(1000 * (at - 1000), 3) for at, _ in j.wire.sent] == [5, 10, 15, 15]
    held = Joined(tokens=2, gap_ms=0, delay_ms=5)
    held.say("p")
    held.run(100)
    held.say(ACK)
    held.run(100)
    assert [round(1000 * (at - 1000), 3) for at, _ in held.wire.sent] == [5, 105]


def test_a_held_token_waits_though_the_answer_is_behind_its_schedule() -> None:
    j = Joined(ack=True, tokens=4, gap_ms=0, delay_ms=5, stall_every=2, stall_ms=30, stall_mode="hold")
    j.say("p")
    j.run(200)
    assert [round(1000 * (at - 1000), 3) for at, _ in j.wire.sent] == [5, 40, 45, 80, 80]


def test_extra_delay_with_a_gap_does_not_drift() -> None:
    j = Joined(ack=True, tokens=100, gap_ms=10, delay_ms=4)
    j.say("p")
    j.run(5000)
    assert [round(1000 * (at - 1000), 3) for at, _ in j.wire.sent[:100]] == [10 * k + 4 for k in range(1, 101)]


def test_stop_during_the_extra_delay() -> None:
    j = Joined(ack=True, tokens=3, gap_ms=0, delay_ms=50)
    j.say("p")
    j.run(20)
    j.say(STOP)
    assert j.run(1000) == []
    assert j.wire.texts == [END]


def test_busy_work_takes_processor_time() -> None:
    import time

    j = Joined(ack=True, tokens=5, gap_ms=0, cpu_us=3000)
    before_ns = time.thread_time_ns()
    j.say("p")
    j.run(1)
    assert j.wire.texts[-1] == END
    assert time.thread_time_ns() - before_ns >= 5 * 3_000_000


def test_a_handler_that_blocks_holds_the_process_up_on_each_token(monkeypatch: pytest.MonkeyPatch) -> None:
    j = Joined(ack=True, tokens=5, gap_ms=0, block_ms=50)
    slept: list[float] = []
    monkeypatch.setattr("server.answers.time.sleep", slept.append)
    j.say("p")
    j.run(1)
    assert j.wire.texts[-1] == END
    assert slept == [0.05] * 5


def test_traced_tokens_say_who_they_are_and_stand_in_the_history(tmp_path: Path) -> None:
    j = Joined(ack=True, tokens=2, trace="run", token_bytes=60, history=tmp_path / "h")
    for _ in range(2):
        j.say("p")
        j.run(1000)
    tokens = [text for text in j.wire.texts if text != END]
    fields = [text.split(":") for text in tokens]
    assert [field[:4] for field in fields] == [
        ["run", "7", "0", "0"],
        ["run", "7", "0", "1"],
        ["run", "7", "1", "0"],
        ["run", "7", "1", "1"],
    ]
    sent = [int(field[4]) for field in fields]
    assert sent == sorted(sent)
    assert all(len(text) == 60 for text in tokens)
    assert j.history is not None
    j.history.close()
    assert (tmp_path / "h").read_text().splitlines() == [text.rstrip() for text in tokens]


ACTIONS = st.lists(st.sampled_from(["prompt", "stop", "ack", "wait", "long", "pause", "unpause", "drain"]), max_size=40)


@settings(max_examples=300)
@given(st.integers(0, 3), st.sampled_from([0.0, 10.0]), st.integers(0, 6), ACTIONS)
def test_any_dialogue_keeps_the_invariants(window: int, gap_ms: float, tokens: int, actions: list[str]) -> None:
    """A client that guards against prompting while it waits for an end sees no ghost and no double end, whatever it does."""
    j = Joined(window=window, gap_ms=gap_ms, tokens=tokens, ack_timeout_s=5)
    state = ClientState.IDLE
    verdicts: list[str] = []

    def see(text: str) -> None:
        nonlocal state
        state, verdict = client_step(state, ClientEvent.END if text == END else ClientEvent.TOKEN)
        verdicts.append(verdict)

    j.wire.on_text = see
    for action in actions:
        if action == "prompt" and state is ClientState.IDLE and j.wire.closed is None:
            state, _ = client_step(state, ClientEvent.PROMPT_SENT)
            j.say("p")
        elif action == "stop" and j.wire.closed is None:
            state, _ = client_step(state, ClientEvent.STOP_SENT)
            j.say(STOP)
        elif action == "ack":
            j.say(ACK)
        elif action in ("wait", "long"):
            j.run(15 if action == "wait" else 6000)
        elif action == "pause":
            j.wire.paused = True
        elif action == "unpause":
            j.wire.paused = False
            j.server.writable()
        elif action == "drain":
            j.server.drain()
    j.wire.paused = False
    j.server.writable()
    j.run(3_600_000)
    assert state is ClientState.IDLE, "every prompt has its end"
    assert not {"ghost_token", "double_end", "overrun_token"} & set(verdicts)
    row = row_values(j.block.row(0))
    assert row["streaming"] == 0
    assert row["prompts"] == sum(row[f"answers/{name}"] for name in counters.ANSWERS)
    assert j.clock.pending == 0
