"""Runs the engine's connections in a process of its own, where gevent may patch; cases come as JSON on stdin, results go to stdout.

A line with a list runs its cases side by side against servers given by URL. A line with an object feeds bytes, split as told, to a
connection that needs no handshake. The process ends with its stdin.
"""

from gevent import monkey

monkey.patch_all()

# ruff: noqa: E402 - patching comes first
import base64
import dataclasses
import json
import os
import socket
import ssl
import sys
import time

import gevent
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.uri import parse_uri

from loadtest.arrivals import Stop
from loadtest.clock import Clock
from loadtest.conversation import Conversation
from loadtest.engine import Engine
from loadtest.opening import ConnectError, Target
from loadtest.recorder import Recorder
from loadtest.stream import Stream
from loadtest.typewriter import Typewriter

CLOCK = Clock()


class Memory:
    """A sink that keeps the rows."""

    def __init__(self):
        self.rows = {"conversations": [], "connections": [], "intervals": [], "histograms": [], "tokens": []}

    def append(self, table, columns):
        names = list(columns)
        for values in zip(*(columns[name] for name in names), strict=True):
            self.rows[table].append(dict(zip(names, values, strict=True)))

    def total(self, name):
        return sum(row.get(name) or 0 for row in self.rows["intervals"])


class Listener(Typewriter):
    """The reference protocol, and a record of every message handed to it."""

    def __init__(self, window=1, blocking=False, failing=""):
        super().__init__({"window": window})
        self.messages = []
        self.blocking = blocking
        self.failing = failing

    def receive(self, message):
        self.messages.append(message if isinstance(message, str) else "binary:" + base64.b64encode(message).decode())
        if self.failing and message == self.failing:
            raise KeyError("the adapter's own mistake")
        if self.blocking and message == "block":
            sys.stdout.write("blocked\n")
            sys.stdout.flush()
            # Blocks the whole process, hub and all, until the test says go.
            os.read(0, 1)
        return super().receive(message)


def context(case):
    if not case["url"].startswith("wss:"):
        return None
    made = ssl.create_default_context(cafile=case.get("ca_file"))
    if case.get("insecure"):
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


def plain(value):
    return value.item() if hasattr(value, "item") else value


def describe(stream, adapter, sink, more):
    return {
        **more,
        "messages": adapter.messages,
        "closed": None if stream.closed is None else dataclasses.asdict(stream.closed),
        "extensions": len(stream._frames.extensions),
        "still_listed": len(stream.engine.streams),
        "streaming": stream.engine.streaming,
        "opening": stream.engine.opening,
        "conversations": [{k: plain(v) for k, v in row.items()} for row in sink.rows["conversations"]],
        "connections": [{k: plain(v) for k, v in row.items()} for row in sink.rows["connections"]],
        "counts": {
            name: int(sink.total(name))
            for name in (
                "tokens", "messages", "coalesced", "unstamped", "acks_sent", "stops_sent", "ghost_tokens", "double_ends",
                "closed_clean", "closed_abnormal", "connects_attempted", "connects_succeeded", "connects_failed",
                "conversations_started", "conversations_completed", "conversations_stopped", "conversations_failed",
                "conversations_empty", "conversations_abandoned",
            )
        },
    }  # fmt: skip


def connect(case):
    sink = Memory()
    recorder = Recorder("w0", time.monotonic_ns(), sink, record_tokens=True)
    engine = Engine(recorder, CLOCK, case.get("stall_timeout_s", 60.0))
    target = Target(
        uri=parse_uri(case["url"]),
        headers=tuple(map(tuple, case.get("headers", ()))),
        subprotocols=tuple(case.get("subprotocols", ())),
        origin=case.get("origin"),
        compression=case.get("compression", False),
        tls=context(case),
        connect_timeout_s=case.get("connect_timeout_s", 10.0),
        max_message_bytes=case.get("max_message_bytes", 1 << 20),
        fresh_masks=case.get("fresh_masks", False),
        source_addresses=tuple(case.get("source_addresses", ())),
    )
    adapter = Listener(case.get("window", 1), case.get("blocking", False), case.get("failing", ""))
    if case.get("sweep"):
        engine.start()
    stream = Stream(engine, target, adapter)
    more = {}
    try:
        stream.open()
    except ConnectError as error:
        more = {"connect_error": error.kind, "detail": error.detail}
    else:
        more["tokens_of"] = converse(case, stream, recorder)
        more["local_address"] = case.get("local_address")
    engine.stop()
    if case.get("blocking"):
        more["token_rows"] = [{k: plain(v) for k, v in row.items()} for row in sink.rows["tokens"]]
        more["origin_wall_ns"] = recorder.origin + CLOCK.offset
    return describe(stream, adapter, sink, more)


def converse(case, stream, recorder):
    if case.get("hold"):
        stream.wait_closed()
        return []
    told = []
    for turn in range(case.get("turns", 1)):
        if stream.closed is not None:
            break
        conversation = Conversation(stream.number, recorder.number_conversation(), 1, stream.adapter.window)
        stop = case.get("stop")
        cut = gevent.Timeout(case["cut_s"]) if "cut_s" in case else None
        try:
            if cut is not None:
                cut.start()
            stream.converse(conversation, case.get("prompt", f"prompt {turn}"), None if stop is None else Stop(**stop), 0.01)
        except gevent.Timeout:
            pass
        finally:
            if cut is not None:
                cut.close()
        told.append(conversation.messages)
    if case.get("stands_still"):
        gevent.spawn(stand_still, stream, case["close_timeout_s"])
    if case.get("killed"):
        closing = gevent.spawn(stream.close)
        gevent.sleep(0)
        closing.kill(block=False)
        closing.join()
    if stream.closed is None:
        stream.close(timeout_s=case.get("close_timeout_s", 2.0))
    return told


def stand_still(stream, seconds):
    """Do nothing else until the server has answered, and for longer than it may take."""
    monkey.get_original("select", "select")([stream._sock.fileno()], [], [], 20)
    monkey.get_original("time", "sleep")(2 * seconds)


def feed(case):
    """Hand the bytes to a connection in exactly the pieces told, over a pair of sockets; then the end of the stream."""
    sink = Memory()
    engine = Engine(Recorder("w0", time.monotonic_ns(), sink), CLOCK, 60.0)
    target = Target(uri=parse_uri("ws://127.0.0.1/"), max_message_bytes=case.get("max_message_bytes", 1 << 20))
    adapter = Listener(window=0)
    stream = Stream(engine, target, adapter)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    raw = ours._sock if hasattr(ours, "_sock") else ours
    stream.adopt(raw)
    if case.get("deflate"):
        stream._frames.extensions = [PerMessageDeflate(False, False, 15, 15)]
    engine.streams.add(stream)
    stream.settle()
    data = base64.b64decode(case["data"])
    for start, end in zip([0, *case["cuts"]], [*case["cuts"], len(data)], strict=True):
        if start == end or stream.closed is not None:
            continue
        theirs.sendall(data[start:end])
        stream._readable()
    if stream.closed is None:
        theirs.shutdown(socket.SHUT_WR)
        # One read takes at most the engine's buffer: what is longer, and the end behind it, needs several.
        while stream.closed is None:
            stream._readable()
    theirs.close()
    closed = stream.closed
    return {"messages": adapter.messages, "code": closed.code, "error": closed.error, "clean": closed.clean, "left": len(engine.streams)}


def main():
    buffered = b""
    while True:
        while b"\n" not in buffered:
            data = os.read(0, 1 << 20)
            if not data:
                return
            buffered += data
        line, _, buffered = buffered.partition(b"\n")
        given = json.loads(line)
        result = feed(given) if isinstance(given, dict) else [job.get() for job in [gevent.spawn(connect, case) for case in given]]
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


main()
