"""Relayed answers: an upstream that is a protocol in this process, so that what it sees and when can be told by events."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from websockets.sync.client import connect

from server.parameters import Plan
from server.protocol import ACK, END, ERROR_TOKEN, STOP
from server.source import SourceError, SourceState, UpstreamSettings
from server.upstream import QUEUE_TOKENS, Upstream

PATIENCE_S = 20.0
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def chunk(content: str | None, finish: str | None = None, **delta: Any) -> bytes:
    said = {**delta, **({} if content is None else {"content": content})}
    body = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": said, "finish_reason": finish}]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


class FakeUpstream:
    """Answers every request with `says`, and then closes, or holds the connection if it `holds`. Runs in a thread of its own."""

    def __init__(self, says: bytes, *, holds: bool = False, endless: bytes = b"") -> None:
        self.says, self.holds, self.endless = says, holds, endless
        self.requests: list[tuple[bytes, dict[str, Any]]] = []
        self.asked, self.lost, self.paused = threading.Event(), threading.Event(), threading.Event()
        self.transports: set[asyncio.Transport] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(PATIENCE_S)
        self._server = server
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"

    async def _listen(self) -> asyncio.Server:
        return await self._loop.create_server(lambda: _Conversation(self), "127.0.0.1", 0)

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            for transport in list(self.transports):
                transport.abort()
            await asyncio.sleep(0)  # closed in the loop's next turn
            await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(PATIENCE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()


class _Conversation(asyncio.Protocol):
    def __init__(self, upstream: FakeUpstream) -> None:
        self._upstream = upstream
        self._received = b""
        self._open = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._upstream.transports.add(transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        try:
            asked = json.loads(body) if blank else None
        except ValueError:
            asked = None
        if asked is None or self._open:
            return
        upstream = self._upstream
        upstream.requests.append((head, asked))
        self._transport.write(upstream.says)
        upstream.asked.set()
        self._open = True
        self._go_on()
        if not upstream.holds and not upstream.endless:
            self._transport.close()

    def _go_on(self) -> None:
        if self._upstream.endless and self._open and not self._transport.is_closing():
            self._transport.write(self._upstream.endless)
            asyncio.get_running_loop().call_soon(self._go_on)

    def pause_writing(self) -> None:
        self._open = False
        self._upstream.paused.set()

    def resume_writing(self) -> None:
        self._open = True
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open = False
        self._upstream.transports.discard(self._transport)
        self._upstream.lost.set()


@pytest.fixture
def upstream() -> Iterator[Callable[..., FakeUpstream]]:
    made: list[FakeUpstream] = []

    def make(*arguments: Any, **options: Any) -> FakeUpstream:
        made.append(FakeUpstream(*arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


# -- one answer, read in this process ----------------------------------------------------------------------------------


def relay(fake: FakeUpstream, plan: Plan | None = None, key: str | None = None) -> list[str]:
    """Return every token of one answer; raises what its source raises."""

    async def read() -> list[str]:
        ready = asyncio.Event()
        api = Upstream(UpstreamSettings(fake.url, "a-model", key, 10.0))
        source = api.open(plan or Plan(tokens=0), "what?", ready.set)
        tokens: list[str] = []
        try:
            while True:
                given = source.take()
                if given is SourceState.FINISHED:
                    return tokens
                if isinstance(given, str):
                    tokens.append(given)
                else:
                    await asyncio.wait_for(ready.wait(), PATIENCE_S)
                    ready.clear()
        finally:
            source.cancel()
            await api.close()

    return run(read())


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def test_tokens_are_the_content_of_the_chunks_and_nothing_else(upstream: Any) -> None:
    usage = b'data: {"object": "chat.completion.chunk", "choices": [], "usage": {"completion_tokens": 2}}\n\n'
    said = [HEAD, b": a comment\n\n", chunk("", role="assistant"), chunk(None, role="assistant"), chunk("a\n"), chunk(" b"),
            chunk(None, "stop"), usage, DONE]  # fmt: skip
    assert relay(upstream(b"".join(said))) == ["a\n", " b"]


def test_an_answer_may_end_with_its_reason_alone(upstream: Any) -> None:
    assert relay(upstream(HEAD + chunk("a") + chunk(None, "length"))) == ["a"]


def test_what_is_asked_of_the_upstream(upstream: Any) -> None:
    fake = upstream(HEAD + DONE)
    assert relay(fake, Plan(tokens=7), "secret") == []
    ((head, asked),) = fake.requests
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer secret\r\n" in head + b"\r\n"
    assert asked == {"model": "a-model", "messages": [{"role": "user", "content": "what?"}], "stream": True, "max_tokens": 7}
    assert "secret" not in repr(UpstreamSettings("http://x", "m", "secret"))


@pytest.mark.parametrize(
    ("says", "sentence"),
    [
        (HEAD + chunk("a"), "broke off"),
        (HEAD + b"data: {\n\n", "no JSON"),
        (HEAD + b'data: {"error": {"message": "overloaded"}}\n\n', "overloaded"),
        (HEAD + b"data: " + b"x" * 200_000 + b"\n\n", "too long"),
        (b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nslow", "429: slow"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", "application/json"),
        (b"no http\r\n\r\n", "the upstream failed"),
    ],
)
def test_an_upstream_that_fails_says_how(upstream: Any, says: bytes, sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        relay(upstream(says))


def test_who_does_not_take_slows_the_upstream_down(upstream: Any) -> None:
    fake = upstream(HEAD, endless=chunk("x" * 1000) * 50)

    async def read() -> int:
        api = Upstream(UpstreamSettings(fake.url, "m", None, 10.0))
        source = api.open(Plan(tokens=0), "what?", lambda: None)
        try:
            # Its own buffer, the sockets' and ours are full: it cannot go on.
            await asyncio.get_running_loop().run_in_executor(None, fake.paused.wait, PATIENCE_S)
            kept = len(source._tokens)
            for _ in range(10 * QUEUE_TOKENS):  # and goes on when tokens are taken
                while not isinstance(source.take(), str):
                    await asyncio.sleep(0)
            return kept
        finally:
            source.cancel()
            await api.close()

    assert run(read()) == QUEUE_TOKENS
    assert fake.lost.wait(PATIENCE_S)


# -- through the server, as a process ----------------------------------------------------------------------------------


def serve(start_server: Any, fake: FakeUpstream, *options: str, **more: Any) -> Any:
    environment = {"STREAMGAUGE_UPSTREAM_KEY": "secret"}
    return start_server("--upstream", fake.url, *options, environment=environment, **more)


def hear(client: Any) -> str:
    heard = client.recv(PATIENCE_S)
    assert isinstance(heard, str)
    return heard


@pytest.mark.parametrize("module", ["server", "server.fastapi_app"])
def test_a_relayed_answer_is_a_conversation_as_any_other(start_server: Any, upstream: Any, module: str) -> None:
    fake = upstream(HEAD + chunk("one") + chunk("_end_") + chunk(" three") + chunk(None, "stop") + DONE)
    server = serve(start_server, fake, "--upstream-model", "m", module=module)
    with connect(server.url, compression=None) as client:
        client.send("tell me")
        for token in ("one", "\\_end_", " three"):
            assert hear(client) == token
            client.send(ACK)
        assert hear(client) == END
    ((head, asked),) = fake.requests
    assert b"Bearer secret" in head
    assert asked["messages"] == [{"role": "user", "content": "tell me"}]
    assert "secret" not in server.log()
    assert server.wait_for('streamgauge_answers_total{outcome="completed"}', 1)


@pytest.mark.parametrize("module", ["server", "server.fastapi_app"])
@pytest.mark.parametrize("how", ["stop", "disconnect", "prompt"])
def test_the_upstream_sees_the_abort(start_server: Any, upstream: Any, how: str, module: str) -> None:
    # It holds the connection and says no more: it can learn of the abort in no other way than that the connection is closed.
    fake = upstream(HEAD + chunk("one"), holds=True)
    server = serve(start_server, fake, module=module)
    with connect(server.url + "?window=0", compression=None) as client:
        client.send("tell me")
        assert hear(client) == "one"
        assert not fake.lost.is_set()
        if how == "disconnect":
            client.close()
        else:
            client.send(STOP if how == "stop" else "something else")
        assert fake.lost.wait(PATIENCE_S)
        if how == "stop":
            assert hear(client) == END


def test_a_failing_upstream_ends_the_answer(start_server: Any, upstream: Any) -> None:
    server = serve(start_server, upstream(HEAD + chunk("one")))
    with connect(server.url + "?window=0", compression=None) as client:
        client.send("tell me")
        assert [hear(client), hear(client), hear(client)] == ["one", ERROR_TOKEN, END]
    assert "broke off" in server.log()


def test_nobody_there_is_a_failed_answer_and_no_crash(start_server: Any, upstream: Any) -> None:
    fake = upstream(b"")
    fake._server.close()
    server = serve(start_server, fake)
    with connect(server.url, compression=None) as client:
        client.send("tell me")
        assert [hear(client), hear(client)] == [ERROR_TOKEN, END]


def test_what_belongs_to_schedules_is_refused(start_server: Any, upstream: Any) -> None:
    from websockets.exceptions import InvalidStatus

    server = serve(start_server, upstream(HEAD + DONE))
    with pytest.raises(InvalidStatus) as refused, connect(server.url + "?gap_ms=5"):
        pass
    assert b"gap_ms belongs to schedules" in bytes(refused.value.response.body or b"")
