"""Every adapter against servers on libraries that nobody here wrote."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loadtest.test_event_stream import drive
from tests.mortal import mortal

PEERS = Path(__file__).parent / "peers"
WORDS = 10
JSON_TABLE = {
    "start": {"type": "generate", "prompt": "{prompt}"}, "token": "delta.text", "end": {"type": "done"},
    "acknowledge": {"type": "ack", "of": "{received.sequence}"}, "stop": {"type": "cancel"},
}  # fmt: skip


class Peer:
    """A server as a process; `port` is where it listens."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(mortal(command), stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "listening on" in line, line
        self.port = int(line.split()[-1])

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def started(*command: str) -> Iterator[Peer]:
    peer = Peer(*command)
    try:
        yield peer
    finally:
        peer.close()


@pytest.fixture(scope="module")
def fastapi_peer() -> Iterator[Peer]:
    for package in ("fastapi", "uvicorn", "sse_starlette"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    yield from started(sys.executable, str(PEERS / "fastapi_peer.py"))


@pytest.fixture(scope="module")
def aiohttp_peer() -> Iterator[Peer]:
    if importlib.util.find_spec("aiohttp") is None:
        pytest.skip("aiohttp is not installed")
    yield from started(sys.executable, str(PEERS / "aiohttp_peer.py"))


@pytest.fixture(scope="module")
def node_peer() -> Iterator[Peer]:
    node = shutil.which("node")
    if node is None or subprocess.run([node, "-e", "require('ws')"], capture_output=True, cwd=PEERS, check=False).returncode:
        pytest.skip("node or its package ws is not installed (npm install ws, NODE_PATH)")
    yield from started(node, str(PEERS / "ws_peer.js"))


def check(result: dict[str, Any], tokens: int, messages: int) -> None:
    """A whole answer, a stopped one and another whole one."""
    assert result["error"] is None
    first, stopped, last = result["rows"]
    for row in (first, last):
        assert (row["outcome"], row["tokens"], row["messages"], row["error"]) == ("completed", tokens, messages, None), row
    assert (stopped["outcome"], stopped["error"]) == ("stopped", None), stopped
    assert stopped["messages"] < messages
    counts = result["counts"]
    assert (counts["ghost_tokens"], counts["double_ends"], counts["closed_abnormal"], counts["unstamped"]) == (0, 0, 0, 0)


def case(adapter: str, url: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"adapter": adapter, "url": url, "options": options or {}, "turns": 3, "stop": {"tokens": 2}, "stop_turns": [1], "wait_s": 0.1}


def test_openai_completions_by_sse_starlette_and_by_fastapi(fastapi_peer: Peer) -> None:
    url = f"http://127.0.0.1:{fastapi_peer.port}"
    paths = ("/v1/chat/completions", "/plain/v1/chat/completions")
    for result in drive([case("openai-chat", url + path, {"model": "m"}) for path in paths]):
        # The usage says two tokens for each of the ten chunks with content.
        check(result, 2 * WORDS, WORDS)
        first = result["rows"][0]
        # The first chunk, at once, has a role only; the first content comes 200 ms later.
        assert first["ttft_ns"] >= 190_000_000
        assert first["e2e_ns"] > first["ttft_ns"]
    # To close the connection cancels the answer on the server.
    with urllib.request.urlopen(f"{url}/cancelled", timeout=5) as answer:
        assert json.loads(answer.read()) == 2


def test_the_official_client_hears_what_we_count(fastapi_peer: Peer) -> None:
    openai = pytest.importorskip("openai", reason="the openai client is not installed")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{fastapi_peer.port}/v1", api_key="none") as client:
        answer = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x"}], stream=True, stream_options={"include_usage": True}
        )
        chunks = list(answer)
    content = [one for one in chunks if one.choices and one.choices[0].delta.content]
    (usage,) = [one.usage for one in chunks if one.usage is not None]
    (result,) = drive([{"adapter": "openai-chat", "url": f"http://127.0.0.1:{fastapi_peer.port}/v1/chat/completions"}])
    (row,) = result["rows"]
    assert (row["messages"], row["tokens"]) == (len(content), usage.completion_tokens) == (WORDS, 2 * WORDS)


def test_json_with_numbered_acknowledgements_on_fastapi(fastapi_peer: Peer) -> None:
    (result,) = drive([case("json", f"ws://127.0.0.1:{fastapi_peer.port}/json", JSON_TABLE)])
    check(result, WORDS, WORDS)
    assert result["counts"]["connects_succeeded"] == 1


def test_realtime_on_aiohttp(aiohttp_peer: Peer) -> None:
    (result,) = drive([case("openai-realtime", f"ws://127.0.0.1:{aiohttp_peer.port}/realtime")])
    check(result, 12, WORDS)
    assert result["rows"][1]["stop_latency_ns"] is not None


def test_several_tokens_in_a_message_on_aiohttp(aiohttp_peer: Peer) -> None:
    table = {"token": "tokens", "end": {"finished": "*"}}
    (result,) = drive([{**case("json", f"ws://127.0.0.1:{aiohttp_peer.port}/batches", table), "stop_turns": []}])
    assert [(row["outcome"], row["tokens"], row["messages"]) for row in result["rows"]] == [("completed", WORDS, 3)] * 3
    assert (result["counts"]["tokens"], result["counts"]["messages"]) == (30, 9)


def test_events_and_lines_on_aiohttp(aiohttp_peer: Peer) -> None:
    url = f"http://127.0.0.1:{aiohttp_peer.port}"
    lines = {"framing": "lines", "body": {"model": "m", "q": "{prompt}"}, "token": "message.content", "end": {"done": True}}
    events = {"token_event": "token", "end_event": "end"}
    for result in drive([case("sse", f"{url}/events", events), case("sse", f"{url}/lines", lines)]):
        check(result, WORDS, WORDS)


def test_the_reference_protocol_and_long_json_on_node(node_peer: Peer) -> None:
    url = f"ws://127.0.0.1:{node_peer.port}"
    table = {"start": "{prompt}", "token": "text", "end": {"event": "end"}, "stop": "stop"}
    for result in drive([case("typewriter", f"{url}/ws"), case("json", f"{url}/json", table)]):
        check(result, WORDS, WORDS)
