"""FastAPI on uvicorn as a process: the rules over its WebSocket, and the same answers by events and polls."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from server.protocol import ACK, END, STOP

PATIENCE_S = 20.0


@pytest.fixture
def serve(start_server: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *options: start_server(*options, module="server.fastapi_app")


class Asking:
    """One HTTP connection to the server."""

    def __init__(self, server: Any) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        self.connection.request(method, path, body)
        answer = self.connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if answer.headers["Content-Type"] == "application/json" else content.decode()


def hear(client: Any) -> str:
    heard = client.recv(PATIENCE_S)
    assert isinstance(heard, str)
    return heard


def hear_all(client: Any, *, ack: bool = True) -> list[str]:
    heard: list[str] = []
    while not heard or heard[-1] != END:
        heard.append(hear(client))
        if ack and heard[-1] != END:
            client.send(ACK)
    return heard


# -- the WebSocket: one test for each rule that the wire has a part in ------------------------------------------------


def test_conversations_over_the_socket(serve: Any) -> None:
    server = serve("--gap-ms", "5", "--tokens", "3")
    with connect(server.url, compression=None) as client:
        client.send(ACK)  # R2
        client.send(STOP)  # R4
        client.send("one")
        assert hear_all(client) == ["0", "1", "2", END]  # R1, R5, R7
    with connect(server.url + "?gap_ms=0&tokens=5000&window=0", compression=None) as client:
        client.send("many")
        assert hear_all(client, ack=False) == [*map(str, range(5000)), END]  # R9
    with connect(server.url + "?gap_ms=0&ttft_ms=60000", compression=None) as client:
        client.send("late")
        client.send(STOP)  # R3: at once, though the first token is a minute away
        assert hear(client) == END
    with connect(server.url + "?gap_ms=0", compression=None) as client:
        client.send("first")
        assert hear(client) == "0"
        client.send("second")  # R6: no end for the first
        assert hear_all(client) == ["0", "1", "2", END]
    with connect(server.url + "?fail_at=2&gap_ms=0", compression=None) as client:
        client.send("fails")
        assert hear_all(client) == ["0", "[error]", END]  # R13
    seen = server.wait_for("streamgauge_connections_open", 0)  # R14
    assert seen["streamgauge_stale_acks_total"] == 3  # the one of R2; those of the last answer, whose source failed before they came
    assert seen["streamgauge_stale_stops_total"] == 1
    assert {name: seen[f'streamgauge_answers_total{{outcome="{name}"}}'] for name in ("completed", "stopped", "superseded", "failed")} == {
        "completed": 3, "stopped": 1, "superseded": 1, "failed": 1,
    }  # fmt: skip


def test_who_does_not_acknowledge_pins_no_answer(serve: Any) -> None:
    with connect(serve("--ack-timeout", "0.2", "--gap-ms", "0").url, compression=None) as client:
        client.send("hold")
        assert [hear(client), hear(client)] == ["0", END]  # R8


@pytest.mark.parametrize(("message", "code"), [(b"binary", 1003), ("x" * 70_000, 1009)])
def test_what_is_no_text_of_this_protocol_is_closed(serve: Any, message: str | bytes, code: int) -> None:
    with connect(serve().url, compression=None) as client:
        client.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            hear(client)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == code  # R11, R12


def test_leaving_ends_the_answers_under_way(serve: Any) -> None:
    server = serve("--ttft-ms", "60000")
    with connect(server.url, compression=None) as client, Asking(server) as asking:
        client.send("late")
        server.wait_for("streamgauge_connections_streaming", 1)
        assert asking.ask("POST", "/answers", b"late too")[0] == 201
        server.signal(signal.SIGTERM)
        assert hear(client) == END  # R15
        with pytest.raises(ConnectionClosed) as closed:
            hear(client)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code in (1001, 1012)
    assert server.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    ("query", "headers", "status", "says"),
    [
        ("?gap_mss=1", {}, 400, b"did you mean gap_ms"),
        ("", {"Origin": "http://elsewhere.example"}, 403, b"--origin"),
    ],
)
def test_refusals_say_why(serve: Any, query: str, headers: dict[str, str], status: int, says: bytes) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(serve().url + query, additional_headers=headers):
        pass
    assert refused.value.response.status_code == status
    assert says in bytes(refused.value.response.body or b"")


def test_connections_over_the_limit_are_told_to_come_again(serve: Any) -> None:
    server = serve("--max-connections", "1")
    with connect(server.url), Asking(server) as asking:
        assert asking.ask("POST", "/answers", b"x")[0] == 503
        assert asking.ask("GET", "/sse?prompt=x")[0] == 503


def test_the_pages_are_those_of_the_reference_server(serve: Any) -> None:
    with Asking(serve()) as asking:
        assert asking.ask("GET", "/healthz") == (200, "ok\n")
        assert "<script" in asking.ask("GET", "/")[1]
        assert asking.ask("GET", "/nothing")[0] == 404
        assert asking.ask("POST", "/healthz", b"")[0] == 405


def test_who_may_open_a_conversation_is_the_same_everywhere(serve: Any, tmp_path: Any) -> None:
    path = tmp_path / "tokens"
    path.write_text("a-token-long-enough\n")
    server = serve("--token-file", str(path))
    with Asking(server) as asking:
        assert asking.ask("POST", "/answers", b"x")[0] == 401
        assert asking.ask("GET", "/sse?prompt=x")[0] == 401
    with pytest.raises(InvalidStatus) as refused, connect(server.url):
        pass
    assert refused.value.response.status_code == 401
    with connect(server.url, additional_headers={"Authorization": "Bearer a-token-long-enough"}):
        pass


# -- events ------------------------------------------------------------------------------------------------------------


def read_event(stream: http.client.HTTPResponse) -> tuple[str, str]:
    """Return the type and the data of the next event, as a browser puts it together."""
    kind, lines = "message", []
    while (line := stream.readline().decode().rstrip("\n")) or not lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name.startswith("data"):
            lines.append(value)
    return kind, "\n".join(lines)


def test_events_are_the_tokens_and_the_end(serve: Any) -> None:
    with Asking(serve("--gap-ms", "1")) as asking:
        asking.connection.request("GET", "/sse?prompt=stop&tokens=14&text=awkward")
        stream = asking.connection.getresponse()
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert stream.headers["X-Accel-Buffering"] == "no"
        events = [read_event(stream)]
        while events[-1][0] == "message":
            events.append(read_event(stream))
        assert stream.read() == b""
    assert events[-1] == ("end", "")
    said = [data for _, data in events[:-1]]
    assert "\\_end_" in said  # escaped, as over the socket
    assert "a\nb" in said  # two lines of data are one text


def test_closing_the_stream_of_events_stops_the_answer(serve: Any) -> None:
    server = serve("--gap-ms", "60000", "--ttft-ms", "0")
    with Asking(server) as asking:
        asking.connection.request("GET", "/sse?prompt=x")
        stream = asking.connection.getresponse()
        assert read_event(stream) == ("message", "0")
        stream.close()
    # The next token is a minute away: nothing but the closing can have ended it.
    assert server.wait_for('streamgauge_answers_total{outcome="lost"}', 1)


def test_a_stream_of_events_needs_a_prompt(serve: Any) -> None:
    with Asking(serve()) as asking:
        assert asking.ask("GET", "/sse")[0] == 400
        assert asking.ask("GET", "/sse?prompt=x&gap_mss=1")[0] == 400


# -- polls -------------------------------------------------------------------------------------------------------------


def test_polls_lose_nothing_and_say_nothing_twice(serve: Any) -> None:
    with Asking(serve("--gap-ms", "3", "--tokens", "20")) as asking:
        status, begun = asking.ask("POST", "/answers", b"tell me")
        assert status == 201
        heard: list[str] = []
        ended = False
        while not ended:
            status, answer = asking.ask("GET", f"/answers/{begun['id']}?after={len(heard)}&wait_s=20")
            assert status == 200
            assert answer["tokens"] or answer["ended"]  # a long poll has something to say
            assert asking.ask("GET", f"/answers/{begun['id']}?after={len(heard)}")[1]["tokens"][: len(answer["tokens"])] == answer["tokens"]
            heard += answer["tokens"]
            ended = answer["ended"] and not asking.ask("GET", f"/answers/{begun['id']}?after={len(heard)}")[1]["tokens"]
        assert heard == list(map(str, range(20)))


def test_a_poll_that_does_not_wait_says_what_there_is(serve: Any) -> None:
    with Asking(serve("--ttft-ms", "60000")) as asking:
        _, begun = asking.ask("POST", "/answers", b"tell me")
        assert asking.ask("GET", f"/answers/{begun['id']}") == (200, {"tokens": [], "ended": False})
        assert asking.ask("GET", f"/answers/{begun['id']}?wait_s=0.05") == (200, {"tokens": [], "ended": False})
        assert asking.ask("GET", f"/answers/{begun['id']}?after=x")[0] == 400


def test_a_polled_answer_can_be_stopped(serve: Any) -> None:
    server = serve("--ttft-ms", "60000")
    with Asking(server) as asking:
        _, begun = asking.ask("POST", "/answers", b"tell me")
        assert asking.ask("DELETE", f"/answers/{begun['id']}")[0] == 204
        assert asking.ask("DELETE", f"/answers/{begun['id']}")[0] == 404
    assert server.wait_for('streamgauge_answers_total{outcome="stopped"}', 1)["streamgauge_connections_open"] == 0


def test_an_answer_nobody_asks_about_is_forgotten(serve: Any) -> None:
    server = serve("--ack-timeout", "0.2", "--ttft-ms", "60000")
    with Asking(server) as asking:
        asking.ask("POST", "/answers", b"tell me")
        assert server.wait_for("streamgauge_connections_open", 0)['streamgauge_answers_total{outcome="lost"}'] == 1


def test_a_poller_that_does_not_read_holds_the_answer(serve: Any) -> None:
    server = serve("--gap-ms", "0", "--tokens", "5000")
    with Asking(server) as asking:
        _, begun = asking.ask("POST", "/answers", b"tell me")
        assert server.wait_for("streamgauge_tokens_total", 1024)
        _, answer = asking.ask("GET", f"/answers/{begun['id']}?wait_s=1")
        assert len(answer["tokens"]) == 1024
        assert not answer["ended"]
        asking.ask("GET", f"/answers/{begun['id']}?after=1024")
        assert server.wait_for("streamgauge_tokens_total", 2048)


def test_a_prompt_is_needed_and_has_a_limit(serve: Any) -> None:
    with Asking(serve("--max-text-bytes", "10")) as asking:
        assert asking.ask("POST", "/answers", b"")[0] == 400
    with Asking(serve("--max-text-bytes", "10")) as asking:
        assert asking.ask("POST", "/answers", b"12345678901")[0] == 400


# -- completions -------------------------------------------------------------------------------------------------------


def test_the_official_client_hears_an_answer(serve: Any) -> None:
    openai = pytest.importorskip("openai", reason="the openai client is not installed")
    server = serve()
    messages = [{"role": "user", "content": "hello"}]
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as client:
        ask = client.chat.completions.create
        answer = ask(
            model="m", messages=messages, stream=True, max_tokens=4, stream_options={"include_usage": True}, extra_query={"gap_ms": "1"}
        )
        chunks = list(answer)
        content = [one.choices[0].delta.content for one in chunks if one.choices and one.choices[0].delta.content]
        assert content == ["0", "1", "2", "3"]
        assert [one.choices[0].finish_reason for one in chunks if one.choices][-1] == "length"
        assert chunks[-1].usage.completion_tokens == 4
        with pytest.raises(openai.BadRequestError, match="only streams"):
            ask(model="m", messages=messages)
        # Closing the stream stops the answer.
        endless = ask(model="m", messages=messages, stream=True, extra_query={"gap_ms": "1", "tokens": "100000"})
        next(iter(endless))
        endless.close()
    assert server.wait_for('streamgauge_answers_total{outcome="lost"}', 1)
