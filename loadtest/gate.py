"""Who may speak to the master: only workers that have shown the same version and the same key, in messages that can be read.

Locust itself takes any message from anybody: one that cannot be unpacked ends its listener, one with invented statistics is added up,
and a worker that looks for another master on the same port is taken in. Here each peer is let through to Locust only after its hello;
everything else is refused, counted by reason, and said once a reason.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import ipaddress
import logging
import secrets
import time
from collections import Counter
from pathlib import Path
from typing import Any

import gevent
import zmq
from locust.exception import RPCError
from locust.rpc import Message
from locust.rpc import rpc as zmqrpc

from .environment import describe_versions
from .tables import SCHEMA_VERSION

logger = logging.getLogger("streamgauge")

HELLO, WELCOME, READY, REFUSED = "streamgauge_hello", "streamgauge_welcome", "streamgauge_ready", "streamgauge_refused"
PING, PONG = "streamgauge_ping", "streamgauge_pong"
PROTOCOL = 1
"""Version of what workers and master say to each other."""
LONGEST_MESSAGE_BYTES = 64 << 20
"""What the master reads of one message at most; beyond it the connection is cut."""
HELLO_S = 20.0
MOST_HELD = 4096
"""So many may have registered without having said hello; who comes beyond is refused."""
FAMILY = secrets.token_hex(16)
"""Drawn when the locustfile is loaded, before ``--processes`` forks: a master's own children have it, nobody else does."""


def machine() -> str:
    """What tells this machine, and so its clocks, from others; the same in all its containers and network namespaces."""
    try:
        identity = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        identity = f"{time.time() - time.monotonic():.0f}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def proof(key: str, identity: str) -> str:
    """Shows that whoever is called ``identity`` on the channel has the key, without saying it."""
    return hmac.new(key.encode(), identity.encode(), hashlib.sha256).hexdigest()


@functools.cache
def versions() -> dict[str, Any]:
    """What master and workers must have alike."""
    found = describe_versions()
    return {"protocol": PROTOCOL, "schema": SCHEMA_VERSION, "streamgauge": found["streamgauge"], "locust": found["locust"]}


def introduce(identity: str, key: str) -> dict[str, Any]:
    """A worker's hello."""
    return {"versions": versions(), "machine": machine(), "family": proof(FAMILY, identity), "key": proof(key, identity) if key else None}


def is_exposed(host: str) -> bool:
    """Whether an address to listen on can be reached from other machines."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


class Gate:
    """Stands before a master's handling of messages. ``refused`` counts what was not let through, by reason.

    ``heard_s``: when each worker was heard last (monotonic s); Locust's own count stands still while it waits for a run to end.

    ``key`` is the word that workers must have; with ``family_only`` and no key the master takes its own children alone.
    """

    def __init__(self, runner: Any, key: str, family_only: bool) -> None:
        self.refused: Counter[str] = Counter()
        self.machines: dict[str, str] = {}
        self.heard_s: dict[str, float] = {}
        self._runner = runner
        self._key = key
        self._family_only = family_only
        self._held: set[str] = set()
        self._admitted: set[str] = set()
        self._pass_on = runner.handle_message
        runner.handle_message = self._handle
        runner.register_message(PING, self._on_ping)
        runner.server.socket.setsockopt(zmq.MAXMSGSIZE, LONGEST_MESSAGE_BYTES)
        # On the class: after an error Locust makes a new socket.
        zmqrpc.BaseSocket.recv_from_client = self._receive  # type: ignore[method-assign, assignment]

    def refuse(self, reason: str, sender: str, detail: str = "") -> None:
        """Count a message that is not taken, and say so the first time it happens for this reason, of which there are few."""
        self.refused[reason] += 1
        if self.refused[reason] == 1:
            told = detail or reason
            logger.warning("refused a message of %s: %s; such messages are counted in run.json from now on", _printable(sender), told)

    def _receive(self) -> tuple[str, Message]:
        """In place of Locust's own, which does not survive everything that can come."""
        while True:
            try:
                parts = self._runner.server.socket.recv_multipart()
            except zmq.ZMQError as error:
                raise RPCError("ZMQ network broken") from error
            try:
                identity = parts[0].decode()
                message: Message = _unpack(parts[1])
                if not isinstance(message.type, str):
                    raise TypeError("a message's type is a text")
            except Exception:  # whatever an unpacker may raise for bytes from anywhere
                self.refuse("cannot be read", repr(parts[0][:40]))
                gevent.sleep(0)
                continue
            return identity, message

    def _handle(self, identity: str, message: Message) -> None:
        if message.node_id != identity:
            self.refuse("in another's name", identity)
        elif identity in self.machines:
            self.heard_s[identity] = time.monotonic()
            if message.type == HELLO:
                self._runner.send_message(WELCOME, {"machine": machine()}, client_id=identity)
                return
            if message.type == READY:
                self._admit(identity)
                return
            try:
                self._pass_on(identity, message)
            except Exception as error:  # it comes from outside, and must not end the listener
                logger.warning("message %s of %s could not be handled: %r", message.type, _printable(identity), error)
                self.refused["could not be handled"] += 1
        elif message.type == HELLO:
            self._take_hello(identity, message.data)
        elif message.type == "client_ready" and len(self._held) < MOST_HELD:
            # Its own side speaks only once it has been answered; Locust hears of it after its hello.
            self._held.add(identity)
            self._runner.send_message("ack", client_id=identity, data={})
            gevent.spawn_later(HELLO_S, self._forget, identity)
        elif identity not in self._held:
            self.refuse("no hello before it", identity)

    def _forget(self, identity: str) -> None:
        if identity in self._held:
            self._held.discard(identity)
            self.refuse("no hello", identity)
            self._runner.send_message("quit", client_id=identity)

    def _on_ping(self, environment: Any, msg: Message, **_: Any) -> None:
        received = time.time_ns()
        if isinstance(msg.data, dict):
            answer = {"sent_ns": msg.data.get("sent_ns"), "received_ns": received, "answered_ns": time.time_ns()}
            self._runner.send_message(PONG, answer, client_id=msg.node_id)

    def _take_hello(self, identity: str, hello: Any) -> None:
        if (reason := self._objection(identity, hello)) is not None:
            kind, sentence = reason
            self.refuse(kind, identity, sentence)
            self._held.discard(identity)
            self._runner.send_message(REFUSED, {"reason": sentence}, client_id=identity)
            return
        self._held.discard(identity)
        self.machines[identity] = str(hello.get("machine"))
        self._runner.send_message(WELCOME, {"machine": machine()}, client_id=identity)

    def _admit(self, identity: str) -> None:
        """The worker knows how its clock stands to ours: Locust hears of it."""
        if identity not in self._admitted:
            self._admitted.add(identity)
            self._pass_on(identity, _message("client_ready", versions()["locust"], identity))

    def _objection(self, identity: str, hello: object) -> tuple[str, str] | None:
        """Why a worker may not join: the kind of reason, and a sentence for both sides; None when it may."""
        theirs = hello.get("versions") if isinstance(hello, dict) else None
        if not isinstance(hello, dict) or not isinstance(theirs, dict):
            return "unreadable hello", "expected a hello with versions, got something else"
        for name, version in versions().items():
            if theirs.get(name) != version:
                return "another version", f"expected {name} {version}, the worker has {_printable(str(theirs.get(name)))}"
        ours = introduce(identity, self._key)
        if _same(hello.get("family"), ours["family"]):
            return None
        if self._key and not _same(hello.get("key"), ours["key"]):
            return "wrong key", "expected this master's --channel-key"
        if self._family_only and not self._key:
            return "another master's worker", "this master takes its own processes alone; it is not the one that was looked for"
        return None


def warn_if_exposed(host: str, port: int, key: str) -> None:
    """Say what it means that the channel can be reached from other machines, if it can."""
    if is_exposed(host):
        more = "" if key else ", and without --channel-key any worker may join"
        logger.warning(
            "the master listens on %s port %d, which other machines can reach: what is said there is neither encrypted nor signed%s; keep "
            "it in a private network or a tunnel (docs/distributed.md)", host, port, more,
        )  # fmt: skip


def _unpack(data: bytes) -> Message:
    unserialize: Any = Message.unserialize
    message: Message = unserialize(data)
    return message


def _message(kind: str, data: Any, identity: str) -> Message:
    make: Any = Message
    message: Message = make(kind, data, identity)
    return message


def _same(given: object, expected: str) -> bool:
    return isinstance(given, str) and hmac.compare_digest(given.encode(), expected.encode())


def _printable(text: str) -> str:
    return "".join(c for c in text[:80] if c.isprintable())
