"""A peer on the master's port that is no worker: bytes that mean nothing, and messages in the words of a worker that it is not."""

from __future__ import annotations

import random
import time
import zlib
from typing import Any

import msgpack  # type: ignore[import-untyped]
import zmq


class HostilePeer:
    """One connection to a master's port, under an identity of its own choice."""

    def __init__(self, host: str, port: int, identity: str) -> None:
        self.identity = identity
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 500)
        self._socket.setsockopt(zmq.IDENTITY, identity.encode("latin-1"))
        self._socket.connect(f"tcp://{host}:{port}")

    def close(self) -> None:
        """Hang up, once what was sent is out."""
        self._socket.close()
        self._context.term()

    def throw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.send(data)

    def say(self, kind: str, data: Any, name: str | None = None) -> None:
        """Send a message in Locust's form, in one's own name or another's."""
        self.throw(msgpack.dumps((kind, data, self.identity if name is None else name)))

    def answers(self, within_s: float) -> list[Any]:
        """What came back within a time."""
        found, until = [], time.monotonic() + within_s
        while (left := until - time.monotonic()) > 0 and self._socket.poll(max(1, round(left * 1000))):
            found.append(msgpack.loads(self._socket.recv(), strict_map_key=False))
        return found


def throw_garbage(host: str, port: int, draw: random.Random) -> int:
    """Bytes that mean nothing, or nearly something; how many messages."""
    peer = HostilePeer(host, port, f"garbage{draw.random()}")
    samples = [
        b"", b"\xc1", b"\x93", b"\x00" * 1000, msgpack.dumps(5), msgpack.dumps([1, 2]), msgpack.dumps({"a": 1}), msgpack.dumps(["x"] * 5),
        msgpack.dumps([["stats"], {}, "w"]), msgpack.dumps([None, None, None]), b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xffabc",
        b"\x91" * 2000, msgpack.dumps(("client_ready", "2.47.0", peer.identity))[:-3], msgpack.dumps(["stats", {"__datetime__": 1}, "w"]),
    ]  # fmt: skip
    samples += [draw.randbytes(draw.randint(1, 400)) for _ in range(15)]
    draw.shuffle(samples)
    for sample in samples:
        peer.throw(sample)
    peer.close()
    return len(samples)


def forge(host: str, port: int, draw: random.Random, run: str) -> int:
    """What somebody would say who wants to be counted as a worker, or to end the run; how many messages."""
    peer = HostilePeer(host, port, f"forger{draw.random()}")
    stats = {
        "stats": [], "stats_total": {"num_requests": 10**6}, "errors": {}, "user_classes_count": {"ConversationUser": 10**6},
        "user_count": 10**6,
        "streamgauge": [{"counts": {"tokens": 10**9}, "errors": {}, "gauges": {}, "histograms": {}}],
    }  # fmt: skip
    data = draw.randbytes(200)
    chunk = {
        "run": run, "token": f"{draw.getrandbits(128):032x}", "worker": "w0", "number": 0, "offset": 0, "data": data,
        "checksum": zlib.crc32(data), "written": 200, "last": True, "information": {"worker": "w0"},
    }  # fmt: skip
    messages: list[tuple[str, Any, str | None]] = [
        ("stats", stats, None), ("streamgauge_chunk", chunk, None), ("streamgauge_chunk", None, None), ("quit", None, None),
        ("client_stopped", None, None), ("spawning_complete", {"user_classes_count": {}, "user_count": 0}, None), ("heartbeat", {}, None),
        ("exception", {"msg": "x", "traceback": "y"}, None), ("streamgauge_ready", None, None), ("streamgauge_hello", None, None),
        ("streamgauge_hello", {"versions": {"streamgauge": "0"}}, None), ("client_ready", None, None), ("client_ready", "0.1", None),
        ("stats", stats, "w0"), ("quit", None, "w0"), ("client_ready", "2.47.0", "somebody-else"), ("no such message", {}, None),
    ]  # fmt: skip
    draw.shuffle(messages)
    for kind, content, name in messages:
        peer.say(kind, content, name)
    peer.close()
    return len(messages)
