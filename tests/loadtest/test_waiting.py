"""A WebSocket for code that waits."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.server import ServerProtocol

from loadtest.ports import free_port
from loadtest.waiting import WaitingSocket
from server.protocol import ACK, END

PATIENCE_S = 20.0


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


def converse(waiting: WaitingSocket, tokens: int) -> None:
    waiting.send("hello")
    for number in range(tokens):
        assert waiting.recv(PATIENCE_S) == str(number)
        waiting.send(ACK)
    assert waiting.recv(PATIENCE_S) == END


def test_one_thread_reads_and_writes(start_server: Any, tmp_path: Path) -> None:
    """OpenSSL allows no two threads on one connection."""
    callers: set[int] = set()

    class Watched(ssl.SSLObject):
        def read(self, *arguments: Any) -> Any:
            callers.add(threading.get_ident())
            return super().read(*arguments)

        def write(self, *arguments: Any) -> Any:
            callers.add(threading.get_ident())
            return super().write(*arguments)

    authority, chain = trustme.CA(), tmp_path / "both.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(chain)
    server = start_server("--certfile", str(chain), "--tokens", "20", "--gap-ms", "0")
    context = ssl.create_default_context()
    context.sslobject_class = Watched
    authority.configure_trust(context)
    with WaitingSocket(server.url, ssl=context, compression=None) as waiting:
        converse(waiting, 20)
    assert len(callers) == 1


def test_what_does_not_come_in_time(start_server: Any) -> None:
    server = start_server("--ttft-ms", "300", "--tokens", "1")
    with WaitingSocket(server.url) as waiting:
        waiting.send("hello")
        with pytest.raises(TimeoutError):
            waiting.recv(0.001)
        # Nothing is lost by having waited in vain.
        assert waiting.recv(PATIENCE_S) == "0"


def test_a_message_in_fragments(start_server: Any) -> None:
    server = start_server("--tokens", "1", "--gap-ms", "0")
    with WaitingSocket(server.url) as waiting:
        waiting.send(["hel", "lo"])
        assert waiting.recv(PATIENCE_S) == "0"


def test_a_server_that_refuses(start_server: Any) -> None:
    with pytest.raises(InvalidStatus) as refused:
        WaitingSocket(start_server().url + "?nonsense=1")
    assert refused.value.response.status_code == 400
    with pytest.raises(ConnectionRefusedError):
        WaitingSocket(f"ws://127.0.0.1:{free_port()}/ws")


def test_a_server_that_closes(start_server: Any) -> None:
    with WaitingSocket(start_server().url) as waiting:
        waiting.send(b"binary")
        with pytest.raises(ConnectionClosed) as closed:
            waiting.recv(PATIENCE_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1003
        with pytest.raises(ConnectionClosed):
            waiting.send("more")


def test_closing_twice_is_closing(start_server: Any) -> None:
    server = start_server()
    with WaitingSocket(server.url) as waiting:
        waiting.close()
    server.wait_for("streamgauge_connections_open", 0)


def test_one_that_vanishes_sends_a_reset() -> None:
    """No close frame, no end of the stream: the peer's read fails."""
    said: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(PATIENCE_S)
                protocol = ServerProtocol()
                protocol.receive_data(peer.recv(65536))
                protocol.send_response(protocol.accept(protocol.events_received()[0]))  # type: ignore[arg-type]
                peer.sendall(b"".join(protocol.data_to_send()))
                try:
                    said.append(peer.recv(65536))
                except ConnectionResetError:
                    said.append(b"reset")

        thread = threading.Thread(target=answer)
        thread.start()
        with WaitingSocket(f"ws://127.0.0.1:{listener.getsockname()[1]}/ws", open_timeout=PATIENCE_S) as waiting:
            waiting.drop()
        thread.join(PATIENCE_S)
    assert said == [b"reset"]
