"""The servers to compare with: the same conversation on aiohttp and on picows, each as a process."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from server.protocol import ACK, END, STOP

PATIENCE_S = 20.0
MODULES = ("server.aiohttp_app", "server.picows_app")


@pytest.fixture(scope="module", params=MODULES)
def server(request: pytest.FixtureRequest, server_process: Any) -> Any:
    running = server_process("--gap-ms", "0", "--tokens", "3", "--max-connections", "3", "--ack-timeout", "0.5", module=request.param)
    yield running
    running.close()


def hear_all(client: Any, *, ack: bool = True) -> list[str]:
    heard: list[str] = []
    while not heard or heard[-1] != END:
        heard.append(client.recv(PATIENCE_S))
        if ack and heard[-1] != END:
            client.send(ACK)
    return heard


def test_a_conversation_is_the_same(server: Any) -> None:
    with connect(server.url, compression=None) as client:
        client.send(STOP)
        client.send("one")
        assert hear_all(client) == ["0", "1", "2", END]
        client.send("first")
        assert client.recv(PATIENCE_S) == "0"
        client.send("second")  # R6
        assert hear_all(client) == ["0", "1", "2", END]
        client.send("nobody acknowledges")
        assert hear_all(client, ack=False) == ["0", END]  # R8
    with connect(server.url + "?window=0&tokens=20000", compression=None) as client:
        client.send("many")
        assert hear_all(client, ack=False) == [*map(str, range(20_000)), END]
    server.wait_for("streamgauge_connections_open", 0)


def test_stop_is_immediate(server: Any) -> None:
    with connect(server.url + "?ttft_ms=60000", compression=None) as client:
        client.send("late")
        client.send(STOP)
        assert client.recv(PATIENCE_S) == END


@pytest.mark.parametrize(("message", "codes"), [(b"binary", (1003,)), ("x" * 70_000, (1002, 1006, 1009))])
def test_what_is_no_text_is_closed(server: Any, message: Any, codes: tuple[int, ...]) -> None:
    with connect(server.url, compression=None) as client:
        client.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(PATIENCE_S)
    assert (closed.value.rcvd.code if closed.value.rcvd is not None else 1006) in codes


def test_refusals_are_the_same(server: Any) -> None:
    server.wait_for("streamgauge_connections_open", 0)
    for query, headers, status in (("?gap_mss=1", {}, 400), ("", {"Origin": "http://elsewhere.example"}, 403)):
        with pytest.raises(InvalidStatus) as refused, connect(server.url + query, additional_headers=headers):
            pass
        assert refused.value.response.status_code == status
    with connect(server.url), connect(server.url), connect(server.url), pytest.raises(InvalidStatus) as refused, connect(server.url):
        pass
    assert refused.value.response.status_code == 503


def test_a_lost_connection_loses_its_answer(server: Any) -> None:
    before = server.metrics()['streamgauge_answers_total{outcome="lost"}']
    with connect(server.url + "?ttft_ms=60000", compression=None) as client:
        client.send("late")
        server.wait_for("streamgauge_connections_streaming", 1)
        client.socket.shutdown(2)
    server.wait_for('streamgauge_answers_total{outcome="lost"}', before + 1)


@pytest.mark.parametrize("module", MODULES)
def test_leaving_ends_the_answers_under_way(start_server: Any, module: str) -> None:
    server = start_server("--ttft-ms", "60000", module=module)
    with connect(server.url, compression=None) as client:
        client.send("late")
        server.wait_for("streamgauge_connections_streaming", 1)
        server.signal(signal.SIGTERM)
        assert client.recv(PATIENCE_S) == END
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(PATIENCE_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    assert server.process.wait(PATIENCE_S) == 0


def test_several_processes_are_refused(start_server: Any) -> None:
    import subprocess
    import sys

    for module in MODULES:
        ended = subprocess.run([sys.executable, "-m", module, "--processes", "2"], capture_output=True, text=True, check=False)
        assert ended.returncode == 2
        assert "one process" in ended.stderr
