"""deploy/nginx.conf in a real nginx: conversations, events and pings through it; and what the configuration that one often reads does."""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.exceptions import ConnectionClosed, InvalidStatus

from loadtest.ports import free_port
from loadtest.waiting import WaitingSocket
from server.app import Settings
from server.protocol import ACK, END, STOP
from tests.mortal import mortal

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = (ROOT / "deploy/nginx.conf").read_text(encoding="utf-8")
NGINX = shutil.which("nginx") or ("/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else None)
PATIENCE_S = 20.0
connect = partial(WaitingSocket, open_timeout=PATIENCE_S)

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx on this machine")

# As one often reads: the two headers, and nothing else.
USUAL = """
events {}
http {
    map $http_upgrade $connection_upgrade {
        default upgrade;
        ''      close;
    }
    server {
        listen 80;
        location / {
            proxy_pass http://127.0.0.1:8001;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }
    }
}
"""


class Nginx:
    """An nginx with a configuration whose ports and paths have been replaced; `port` is that of TLS, where it has one."""

    def __init__(self, folder: Path, configuration: str, upstream_port: int) -> None:
        self.folder = folder
        self.port, self.plain_port = free_port(), free_port()
        told = configuration.replace("127.0.0.1:8001", f"127.0.0.1:{upstream_port}")
        told = told.replace("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl").replace(
            "listen 80;", f"listen 127.0.0.1:{self.plain_port};"
        )
        told = told.replace("/etc/nginx/tls", str(folder)).replace("/var/log/nginx/error.log", str(folder / "error.log"))
        told = re.sub(r"^pid .*$", "", told, flags=re.MULTILINE)
        # As many descriptors and processes as a test needs.
        told = told.replace("worker_rlimit_nofile 65536;", "").replace("32768", "512").replace("worker_processes auto;", "")
        temporary = "".join(f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        told = told.replace("http {", "http { access_log off; " + temporary, 1)
        told = f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log; {told}"
        (folder / "nginx.conf").write_text(told, encoding="utf-8")
        assert NGINX is not None
        self.process = subprocess.Popen(
            mortal([NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        deadline, pause = time.monotonic() + PATIENCE_S, threading.Event()
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.plain_port), timeout=1).close()
                return
            except OSError:
                assert self.process.poll() is None, (folder / "error.log").read_text()
                assert time.monotonic() < deadline
                pause.wait(0.02)

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def start_nginx(tmp_path: Path, authority: trustme.CA) -> Iterator[Callable[..., Nginx]]:
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "fullchain.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "privkey.pem"))
    running: list[Nginx] = []

    def start(upstream_port: int, configuration: str = CONFIGURATION) -> Nginx:
        running.append(Nginx(tmp_path, configuration, upstream_port))
        return running[-1]

    yield start
    for each in running:
        each.close()


@pytest.fixture
def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def hear(client: Any) -> str:
    heard = client.recv(PATIENCE_S)
    assert isinstance(heard, str)
    return heard


def seconds(name: str) -> float:
    found = re.search(rf"{name} (\d+)s;", CONFIGURATION)
    assert found is not None
    return float(found[1])


def test_a_conversation_through_tls(start_server: Any, start_nginx: Any, trust: ssl.SSLContext) -> None:
    server = start_server("--gap-ms", "1", "--tokens", "3")
    nginx = start_nginx(server.port)
    # A page of the proxy's own origin, which the server can only tell because it is told the host as the browser knows it.
    origin = f"https://localhost:{nginx.port}"
    with connect(f"wss://localhost:{nginx.port}/ws", ssl=trust, origin=origin, compression=None) as client:
        client.send("one")
        for number in range(3):
            assert hear(client) == str(number)
            client.send(ACK)
        assert hear(client) == END
    with connect(f"wss://localhost:{nginx.port}/ws?ttft_ms=60000", ssl=trust, compression=None) as client:
        client.send("late")
        client.send(STOP)
        assert hear(client) == END
    # The proxy passes the end on: nothing is left open behind it.
    server.wait_for("streamgauge_connections_open", 0)


def test_refusals_reach_the_client(start_server: Any, start_nginx: Any, trust: ssl.SSLContext) -> None:
    nginx = start_nginx(start_server("--max-connections", "1").port)
    url = f"wss://localhost:{nginx.port}/ws"
    with pytest.raises(InvalidStatus) as refused, connect(url, ssl=trust, origin="https://elsewhere.example"):
        pass
    assert refused.value.response.status_code == 403
    with connect(url, ssl=trust), pytest.raises(InvalidStatus) as refused, connect(url, ssl=trust):
        pass
    assert refused.value.response.status_code == 503
    assert refused.value.response.headers["Retry-After"] == "5"


def test_plain_http_is_sent_to_tls(start_server: Any, start_nginx: Any) -> None:
    nginx = start_nginx(start_server().port)
    asking = http.client.HTTPConnection("127.0.0.1", nginx.plain_port, timeout=PATIENCE_S)
    asking.request("GET", "/ws?tokens=3", headers={"Host": "chat.example"})
    answer = asking.getresponse()
    assert (answer.status, answer.headers["Location"]) == (308, "https://chat.example/ws?tokens=3")
    asking.close()


@pytest.mark.parametrize("configuration", [CONFIGURATION, CONFIGURATION.replace("proxy_buffering off;", "")], ids=["ours", "buffered"])
def test_events_come_before_the_answer_has_ended(start_server: Any, start_nginx: Any, trust: ssl.SSLContext, configuration: str) -> None:
    server = start_server("--ttft-ms", "0", "--gap-ms", "60000", module="server.fastapi_app")
    nginx = start_nginx(server.port, configuration)
    asking = http.client.HTTPSConnection("localhost", nginx.port, timeout=PATIENCE_S, context=trust)
    asking.request("GET", "/sse?prompt=x")
    stream = asking.getresponse()
    # The second token is a minute away. It works with the proxy's buffering too, because the server sends X-Accel-Buffering: no.
    assert stream.readline() == b"data: 0\n"
    stream.close()
    asking.close()
    assert server.wait_for('streamgauge_answers_total{outcome="lost"}', 1)  # and so does the abort


def test_polls_keep_their_connection_to_the_server(start_server: Any, start_nginx: Any, trust: ssl.SSLContext) -> None:
    server = start_server("--gap-ms", "1", module="server.fastapi_app")
    nginx = start_nginx(server.port)
    asking = http.client.HTTPSConnection("localhost", nginx.port, timeout=PATIENCE_S, context=trust)
    asking.request("POST", "/answers?tokens=4", b"x")
    answer = asking.getresponse()
    assert answer.status == 201
    name = answer.headers["Location"]
    answer.read()
    for _ in range(3):
        asking.request("GET", f"{name}?wait_s=1")
        answer = asking.getresponse()
        answer.read()
        assert answer.status == 200
    assert "Connection" not in answer.headers or answer.headers["Connection"] == "keep-alive"
    asking.close()


def test_the_timeout_leaves_room_for_the_pings() -> None:
    settings = Settings()
    assert seconds("proxy_read_timeout") > settings.ping_interval_s + settings.ping_timeout_s
    assert seconds("proxy_send_timeout") > settings.ping_interval_s + settings.ping_timeout_s


@pytest.mark.parametrize("pings", [True, False])
def test_pings_keep_a_silent_conversation(start_server: Any, start_nginx: Any, trust: ssl.SSLContext, *, pings: bool) -> None:
    server = start_server("--ping-interval", "0.2" if pings else "0", "--ttft-ms", "2500")
    nginx = start_nginx(server.port, CONFIGURATION.replace("proxy_read_timeout 60s", "proxy_read_timeout 1s"))
    with connect(f"wss://localhost:{nginx.port}/ws", ssl=trust, compression=None, ping_interval=None) as client:
        client.send("wait for it")
        if pings:
            assert hear(client) == "0"
        else:
            with pytest.raises(ConnectionClosed):
                hear(client)


# -- the configuration that one often reads ----------------------------------------------------------------------------


SPOKEN = "0 _end_"
# Spoken to over HTTP/1.0, as nginx does unless told otherwise; over 1.1; and by the page that came through the proxy, whose origin no
# server can tell from the host that it is told then.
EXPECTED = {
    "server": {"as it is": "505", "with 1.1": SPOKEN, "page": "403"},
    "server.fastapi_app": {"as it is": SPOKEN, "with 1.1": SPOKEN, "page": "403"},
    "server.aiohttp_app": {"as it is": SPOKEN, "with 1.1": SPOKEN, "page": "403"},
    "server.picows_app": {"as it is": "400", "with 1.1": SPOKEN, "page": "403"},
}


@pytest.mark.parametrize("module", EXPECTED)
def test_the_usual_snippet_lacks_two_lines(start_server: Any, start_nginx: Any, module: str) -> None:
    """docs/nginx.md has the table; a browser's page is told apart by its origin."""
    server = start_server("--gap-ms", "1", "--tokens", "1", module=module)
    answers = {}
    nginx = start_nginx(server.port, USUAL)
    answers["as it is"] = attempt(f"ws://127.0.0.1:{nginx.plain_port}/ws", None)
    nginx.close()
    nginx = start_nginx(server.port, USUAL.replace("proxy_set_header Upgrade", "proxy_http_version 1.1; proxy_set_header Upgrade"))
    answers["with 1.1"] = attempt(f"ws://127.0.0.1:{nginx.plain_port}/ws", None)
    answers["page"] = attempt(f"ws://127.0.0.1:{nginx.plain_port}/ws", f"http://127.0.0.1:{nginx.plain_port}")
    assert answers == EXPECTED[module]


def attempt(url: str, origin: Any) -> str:
    try:
        with connect(url, compression=None, origin=origin) as client:
            client.send("one")
            heard = hear(client)
            client.send(ACK)
            return f"{heard} {hear(client)}"
    except InvalidStatus as refused:
        return str(refused.response.status_code)
    except Exception as error:
        return type(error).__name__
