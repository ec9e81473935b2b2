"""The two tables: every state x event, and the rules that the server's role adds to them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server import protocol
from server.protocol import (
    ACK,
    CLIENT,
    END,
    SERVER,
    STOP,
    VERDICTS,
    ClientEvent,
    ClientState,
    Effect,
    ProtocolError,
    ServerEvent,
    ServerRole,
    ServerState,
    client_step,
    escape_token,
)

IDLE, A, F, C = ServerState.IDLE, ServerState.ANSWERING, ServerState.FINISHING, ServerState.CLOSED
S = Effect

# What each state says to each event: next state, effects, outcome. None: there is no such step.
EXPECTED = {
    ServerEvent.ACK: {IDLE: None, A: (A, [S.RESUME], None), F: (F, [], None), C: None},
    ServerEvent.LAST_ACK: {IDLE: None, A: (A, [S.RESUME], None), F: (IDLE, [S.SEND_END], "completed"), C: None},
    ServerEvent.STALE_ACK: {
        IDLE: (IDLE, [S.COUNT_STALE_ACK], None), A: (A, [S.COUNT_STALE_ACK], None), F: (F, [S.COUNT_STALE_ACK], None), C: (C, [], None),
    },
    ServerEvent.STOP: {
        IDLE: (IDLE, [S.COUNT_STALE_STOP], None),
        A: (IDLE, [S.CANCEL, S.SEND_END], "stopped"),
        F: (IDLE, [S.CANCEL, S.SEND_END], "stopped"),
        C: (C, [], None),
    },
    ServerEvent.PROMPT: {
        IDLE: (A, [S.START], None),
        A: (A, [S.CANCEL, S.START], "superseded"),
        F: (A, [S.CANCEL, S.START], "superseded"),
        C: (C, [], None),
    },
    ServerEvent.BINARY: {
        IDLE: (C, [S.CLOSE_UNSUPPORTED_DATA], None),
        A: (C, [S.CANCEL, S.CLOSE_UNSUPPORTED_DATA], "lost"),
        F: (C, [S.CANCEL, S.CLOSE_UNSUPPORTED_DATA], "lost"),
        C: (C, [], None),
    },
    ServerEvent.TOO_BIG: {
        IDLE: (C, [S.CLOSE_TOO_BIG], None),
        A: (C, [S.CANCEL, S.CLOSE_TOO_BIG], "lost"),
        F: (C, [S.CANCEL, S.CLOSE_TOO_BIG], "lost"),
        C: (C, [], None),
    },
    ServerEvent.TOKEN: {IDLE: None, A: (A, [S.SEND_TOKEN], None), F: None, C: None},
    ServerEvent.TOKEN_HELD: {IDLE: None, A: (A, [S.HOLD], None), F: None, C: None},
    ServerEvent.SOURCE_FINISHED: {IDLE: None, A: (F, [], None), F: None, C: None},
    ServerEvent.SOURCE_FINISHED_ACKED: {IDLE: None, A: (IDLE, [S.SEND_END], "completed"), F: None, C: None},
    ServerEvent.SOURCE_FAILED: {IDLE: None, A: (IDLE, [S.CANCEL, S.SEND_ERROR, S.SEND_END], "failed"), F: None, C: None},
    ServerEvent.ACK_TIMEOUT: {
        IDLE: None, A: (IDLE, [S.CANCEL, S.SEND_END], "ack_timeout"), F: (IDLE, [S.SEND_END], "ack_timeout"), C: None,
    },
    ServerEvent.DRAIN: {
        IDLE: (C, [S.CLOSE_GOING_AWAY], None),
        A: (C, [S.CANCEL, S.SEND_END, S.CLOSE_GOING_AWAY], "drained"),
        F: (C, [S.CANCEL, S.SEND_END, S.CLOSE_GOING_AWAY], "drained"),
        C: (C, [], None),
    },
    ServerEvent.LOST: {IDLE: (C, [], None), A: (C, [S.CANCEL], "lost"), F: (C, [S.CANCEL], "lost"), C: (C, [], None)},
}  # fmt: skip


@pytest.mark.parametrize(("state", "event"), list(itertools.product(ServerState, ServerEvent)))
def test_server_table_holds_the_whole_cross_product(state: ServerState, event: ServerEvent) -> None:
    expected = EXPECTED[event][state]
    step = SERVER.get((state, event))
    assert (None if step is None else (step.state, list(step.effects), step.outcome)) == expected


def role_in(state: ServerState, window: int = 2) -> ServerRole:
    role = ServerRole(window)
    if state is C:
        role.connection_lost()
    elif state is not IDLE:
        role.text_received("go")
        role.token_ready()
        if state is F:
            role.source_finished()
    assert role.state is state
    return role


@pytest.mark.parametrize("state", ServerState)
@pytest.mark.parametrize("method", ["token_ready", "source_finished", "source_failed", "ack_timed_out"])
def test_an_event_the_state_does_not_know_raises_and_changes_nothing(state: ServerState, method: str) -> None:
    role = role_in(state)
    before = role.state, role.unacked
    if state is A or (state is F and method == "ack_timed_out"):
        getattr(role, method)()
        return
    with pytest.raises(ProtocolError, match=f"while {state.name}"):
        getattr(role, method)()
    assert (role.state, role.unacked) == before


def test_credit_is_clamped_at_zero_and_surplus_is_stale() -> None:
    role = ServerRole(2)
    role.text_received("go")
    role.token_ready()
    role.token_ready()
    assert role.unacked == 2
    assert role.text_received(ACK).effects == (Effect.RESUME,)
    assert role.text_received(ACK).effects == (Effect.RESUME,)
    assert role.text_received(ACK).effects == (Effect.COUNT_STALE_ACK,)
    assert role.unacked == 0


def test_a_full_window_holds_the_token() -> None:
    role = ServerRole(1)
    role.text_received("go")
    assert not role.waiting_for_ack
    assert role.token_ready().effects == (Effect.SEND_TOKEN,)
    assert role.waiting_for_ack
    assert role.token_ready().effects == (Effect.HOLD,)
    assert role.unacked == 1


def test_a_window_of_zero_needs_no_acknowledgements() -> None:
    role = ServerRole(0)
    role.text_received("go")
    for _ in range(100):
        assert role.token_ready().effects == (Effect.SEND_TOKEN,)
    assert role.unacked == 0
    assert not role.waiting_for_ack
    assert role.source_finished().outcome == "completed"


@pytest.mark.parametrize("word", [STOP, "next prompt"])
def test_credit_never_outlives_its_answer(word: str) -> None:
    role = role_in(A)
    role.text_received(word)
    assert role.unacked == 0
    assert role.text_received(ACK).effects == (Effect.COUNT_STALE_ACK,)


def test_end_may_be_a_prompt() -> None:
    role = ServerRole()
    assert role.text_received(END).effects == (Effect.START,)


def test_a_negative_window_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        ServerRole(-1)


@pytest.mark.parametrize(
    ("text", "html", "out"),
    [
        ("plain", False, "plain"),
        (END, False, "\\_end_"),
        (END, True, "\\_end_"),
        ("", False, ""),
        ("<b>&amp;</b>", False, "<b>&amp;</b>"),
        ("<b>&amp;</b>", True, "&lt;b&gt;&amp;amp;&lt;/b&gt;"),
    ],
)
def test_escape(text: str, html: bool, out: str) -> None:
    assert escape_token(text, html=html) == out


MOVES = ("ack", "stop", "prompt", "end-as-prompt", "token", "finished", "failed", "timeout", "drain", "lost", "binary")


@given(st.integers(0, 3), st.lists(st.sampled_from(MOVES), max_size=60))
def test_invariants_of_any_sequence(window: int, moves: list[str]) -> None:
    role = ServerRole(window)
    prompts = ends = superseded = gone = 0
    for move in moves:
        busy = role.answering
        try:
            if move in ("ack", "stop", "prompt", "end-as-prompt"):
                step = role.text_received({"ack": ACK, "stop": STOP, "prompt": "p", "end-as-prompt": END}[move])
            else:
                step = {
                    "token": role.token_ready,
                    "finished": role.source_finished,
                    "failed": role.source_failed,
                    "timeout": role.ack_timed_out,
                    "drain": role.drain,
                    "lost": role.connection_lost,
                    "binary": role.binary_received,
                }[move]()
        except ProtocolError:
            continue
        assert 0 <= role.unacked <= max(window, 0)
        assert (step.outcome is not None) <= busy, "only an answer under way can end"
        if Effect.START in step.effects:
            assert move in ("prompt", "end-as-prompt"), "nothing else starts an answer"
            prompts += 1
        ends += step.effects.count(Effect.SEND_END)
        superseded += step.outcome == "superseded"
        gone += step.outcome == "lost"
        if not role.answering:
            assert role.unacked == 0
        assert prompts == ends + superseded + gone + role.answering, "one end for each prompt that is neither superseded nor lost"


CLIENT_EXPECTED = {
    ("IDLE", "PROMPT_SENT"): ("WAITING", "started"),
    ("IDLE", "TOKEN"): ("IDLE", "ghost_token"),
    ("IDLE", "END"): ("IDLE", "double_end"),
    ("IDLE", "STOP_SENT"): ("IDLE", "stop_idle"),
    ("IDLE", "CLOSED"): ("CLOSED", "closed"),
    ("WAITING", "TOKEN"): ("STREAMING", "first_token"),
    ("WAITING", "END"): ("IDLE", "empty"),
    ("WAITING", "STOP_SENT"): ("STOPPING", "stop_sent"),
    ("WAITING", "STALLED"): ("CLOSED", "stalled"),
    ("WAITING", "CLOSED"): ("CLOSED", "connection_lost"),
    ("STREAMING", "TOKEN"): ("STREAMING", "token"),
    ("STREAMING", "END"): ("IDLE", "completed"),
    ("STREAMING", "STOP_SENT"): ("STOPPING", "stop_sent"),
    ("STREAMING", "STALLED"): ("CLOSED", "stalled"),
    ("STREAMING", "CLOSED"): ("CLOSED", "connection_lost"),
    ("STOPPING", "TOKEN"): ("STOPPING", "overrun_token"),
    ("STOPPING", "END"): ("IDLE", "stopped"),
    ("STOPPING", "STOP_SENT"): ("STOPPING", "stop_idle"),
    ("STOPPING", "STALLED"): ("CLOSED", "stalled"),
    ("STOPPING", "CLOSED"): ("CLOSED", "connection_lost"),
    ("CLOSED", "TOKEN"): ("CLOSED", "closed"),
    ("CLOSED", "END"): ("CLOSED", "closed"),
    ("CLOSED", "CLOSED"): ("CLOSED", "closed"),
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(ClientState, ClientEvent)))
def test_client_table_holds_the_whole_cross_product(state: ClientState, event: ClientEvent) -> None:
    expected = CLIENT_EXPECTED.get((state.name, event.name))
    if expected is None:
        assert (state, event) not in CLIENT
        with pytest.raises(ProtocolError, match=f"{event.name} while {state.name}"):
            client_step(state, event)
    else:
        step = client_step(state, event)
        assert (step.state.name, step.verdict) == expected


def test_every_verdict_is_named_and_used() -> None:
    assert {step.verdict for step in CLIENT.values()} == set(VERDICTS)
    assert len(set(VERDICTS)) == len(VERDICTS) == 14
    assert {step.outcome for step in SERVER.values()} - {None} == set(protocol.OUTCOMES)


def test_the_tables_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        CLIENT[ClientState.IDLE, ClientEvent.STALLED] = CLIENT[ClientState.IDLE, ClientEvent.END]  # type: ignore[index]
