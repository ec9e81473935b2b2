"""What is often claimed of WebSockets, claim by claim, beside what was measured of them. Pure; each verdict follows from the figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from reports.units import significant

from .comparison import Figures

NOT_MEASURED: Final = "not measured"
ALIKE: Final = 1.25
"""Two times within a factor of this are the same here: they differ by that much from one measurement to the next."""
HEADERS: Final = {1: 2, 125: 2, 126: 4, 16_384: 4, 65_536: 10}
"""Bytes of a frame's header by bytes of its text (RFC 6455, 5.2)."""
FAR_MS: Final = 100.0


@dataclass(frozen=True, slots=True)
class Claim:
    """What is said, what was measured, and whether it is so."""

    said: str
    measured: str
    verdict: str


class Missing(Exception):  # noqa: N818 - it is no error
    """A figure that a claim needs was not measured."""


class Read:
    """Figures by transport and name; Missing where there is none."""

    def __init__(self, figures: Figures) -> None:
        self._figures = {(f["transport"], f["name"], f["rtt_ms"]): f["value"] for f in figures if f["value"] is not None}
        distances = sorted({f["rtt_ms"] for f in figures if f["rtt_ms"] is not None})
        self._near: float | None = distances[0] if distances else None
        # A distance that people have, where it was measured; else the nearest to it.
        self.far_ms: float | None = min(distances, key=lambda rtt: abs(rtt - FAR_MS)) if distances else None

    def _get(self, transport: str, name: str, rtt_ms: float | None) -> float:
        try:
            return float(self._figures[transport, name, rtt_ms])
        except KeyError:
            raise Missing from None

    def alone(self, transport: str, name: str) -> float:
        """A figure without a distance."""
        return self._get(transport, name, None)

    def near(self, transport: str, name: str) -> float:
        """A figure at the shortest distance."""
        return self._get(transport, name, self._near)

    def far(self, transport: str, name: str) -> float:
        """A figure at the long distance."""
        return self._get(transport, name, self.far_ms)

    def payload(self, transport: str) -> float:
        """Bytes of TCP's payload of a token, both ways."""
        return self.near(transport, "sent_bytes_per_token") + self.near(transport, "received_bytes_per_token")


def text(*values: float) -> str:
    """Values for people: ``1.5, 2 and 3``."""
    shown = [significant(value, 3) for value in values]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _headers(read: Read) -> tuple[str, str]:
    found = {size: read.alone(f"text of {size}", "header_bytes") for size in HEADERS}
    measured = "; ".join(f"{text(value)} bytes around a text of {size}" for size, value in found.items())
    right = all(abs(found[size] - expected) < 0.5 for size, expected in HEADERS.items())
    return measured, "true; a token has 2" if right else "not so: see the bytes"


def _mask(read: Read) -> tuple[str, str]:
    size = read.alone("acknowledgement", "header_bytes")
    return f"an acknowledgement, a text of nothing, is {text(size)} bytes", "true" if abs(size - 6) < 0.5 else "not so: 6 were expected"


def _overhead(read: Read) -> tuple[str, str]:
    names = ("ws-ack", "ws-no-ack", "sse", "long-poll", "poll")
    payload = {name: read.payload(name) for name in names}
    wire = {name: read.near(name, "wire_bytes_per_token") for name in names}
    measured = (
        f"payload both ways, a token of {text(read.near('ws-no-ack', 'text_bytes_per_token'))} bytes: WebSocket "
        f"{text(payload['ws-ack'])} bytes with its acknowledgement, {text(payload['ws-no-ack'])} without; events {text(payload['sse'])}; "
        f"long poll {text(payload['long-poll'])}; poll {text(payload['poll'])}. With TCP/IP around each segment "
        f"{text(*(wire[name] for name in names))}"
    )
    less = payload["ws-ack"] < min(payload["long-poll"], payload["poll"])
    events = wire["sse"] / wire["ws-no-ack"]
    verdict = "true of the payload" if less else "not so"
    verdict += f"; with TCP/IP events cost {text(events)} times what a socket does without acknowledgements"
    if wire["poll"] < ALIKE * wire["ws-ack"]:
        verdict += ", and a poll that brings several tokens at once no more than tokens that are acknowledged one by one"
    return measured, verdict


def _latency(read: Read) -> tuple[str, str]:
    names = ("ws-no-ack", "sse", "long-poll", "poll", "ws-ack", "ws-window")
    p50 = {name: read.far(name, "latency_p50_ms") for name in names}
    measured = (
        f"p50 at {text(read.far_ms or 0)} ms round trip: WebSocket without acknowledgements {text(p50['ws-no-ack'])} ms, events "
        f"{text(p50['sse'])}, long poll {text(p50['long-poll'])}, poll {text(p50['poll'])}; WebSocket with each token acknowledged before "
        f"the next {text(p50['ws-ack'])}, with a window of 8 {text(p50['ws-window'])}"
    )
    verdict = "true" if p50["ws-no-ack"] < min(p50["long-poll"], p50["poll"]) else "not so"
    if p50["sse"] < ALIKE * p50["ws-no-ack"]:
        verdict += ", and of events as well" if verdict == "true" else ""
    if p50["ws-ack"] > max(p50["long-poll"], p50["poll"]):
        rate = read.far("ws-ack", "tokens_per_s")
        verdict += f". Not of one acknowledgement a token, the article's own way: one token a round trip, {text(rate)} tokens/s at most"
    return measured, verdict


def _compression(read: Read) -> tuple[str, str]:
    words = read.near("ws-deflate", "received_bytes_per_token"), read.near("ws-no-ack", "received_bytes_per_token")
    name = "similar_received_bytes_per_token"
    alike = read.alone("ws-deflate", name), read.alone("ws-no-ack", name)
    memory = [read.alone(each, "server_bytes_per_connection") / 1024 for each in ("ws-deflate", "ws-no-ack")]
    measured = (
        f"words: {text(words[0])} bytes received a token with deflate, {text(words[1])} without. Tokens of "
        f"{text(read.alone('ws-no-ack', 'similar_text_bytes_per_token'))} bytes that are alike, as JSON chunks are: {text(alike[0])} "
        f"against {text(alike[1])}. Memory of a connection at the server: {text(memory[0])} against {text(memory[1])} KiB"
    )
    saved, lost = alike[0] < alike[1] / 2, words[0] > 0.9 * words[1]
    verdict = "true of what is alike" if saved else "not so"
    if lost:
        verdict += "; for bare tokens it brings nothing"
    return measured, verdict + (", and it costs memory for each connection" if memory[0] > ALIKE * memory[1] else "")


def _state(read: Read) -> tuple[str, str]:
    asked, socket = read.near("long-poll", "sent_bytes_per_token"), read.near("ws-no-ack", "sent_bytes_per_token")
    measured = f"a long poll sends {text(asked)} bytes of request for each token, a WebSocket without acknowledgements {text(socket)}"
    return measured, "true" if asked > 10 * socket else "not so"


def _stop(read: Read) -> tuple[str, str]:
    names = ("ws-no-ack", "long-poll", "poll", "sse")
    p50 = {name: read.far(name, "stop_p50_ms") for name in names}
    measured = (
        f"p50 at {text(read.far_ms or 0)} ms round trip: {text(p50['ws-no-ack'])} ms by WebSocket, {text(p50['long-poll'], p50['poll'])} "
        f"by a request, {text(p50['sse'])} by closing a stream of events (as the proxy sees the server let go)"
    )
    alike = max(p50.values()) < 2 * ALIKE * p50["ws-no-ack"]
    if alike and min(p50["long-poll"], p50["poll"]) < ALIKE * p50["ws-no-ack"]:
        return measured, "no advantage of WebSocket in time: one round trip for all; what is one is to be told that it has worked"
    return measured, "true: sooner by WebSocket than by the others"


CLAIMS: Final[Sequence[tuple[str, Callable[[Read], tuple[str, str]]]]] = (
    ("a header of 2 to 10 bytes from the server", _headers),
    ("4 bytes more from the client, the mask", _mask),
    ("markedly less overhead than HTTP requests", _overhead),
    ("more real-time than polls, also than long ones", _latency),
    ("better compression, over the context of what was sent before", _compression),
    ("keeps its state, so that requests need not carry it", _state),
    ("stop while it is generated", _stop),
)


def check_claims(figures: Figures) -> list[Claim]:
    """Every claim with what was measured; "not measured" where a figure is missing."""
    read = Read(figures)
    made = []
    for said, check in CLAIMS:
        try:
            measured, verdict = check(read)
        except Missing:
            measured = verdict = NOT_MEASURED
        made.append(Claim(said, measured, verdict))
    return made
