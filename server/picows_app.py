"""`python -m server.picows_app`: the same conversation on picows, to compare servers with. Options as `server`; needs picows.

picows hands over frames as they are, so a message in several of them is refused here; it knows no compression.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence
from http import HTTPStatus

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server
from picows.common import WSUpgradeResponse, WSUpgradeResponseWithListener
from websockets.datastructures import Headers
from websockets.http11 import Request as PlainRequest
from websockets.http11 import Response as PlainResponse

from .alone import Listening, run
from .answers import Answers
from .connections import address_of
from .front import Refusal, check_handshake
from .parameters import ParameterError, Plan
from .protocol import CLOSE_GOING_AWAY, CLOSE_INVALID_TEXT, CLOSE_TOO_BIG, CLOSE_UNSUPPORTED_DATA
from .stack import Stack, choose_plan

CODES = {
    CLOSE_GOING_AWAY: WSCloseCode.GOING_AWAY,
    CLOSE_UNSUPPORTED_DATA: WSCloseCode.UNSUPPORTED_DATA,
    CLOSE_INVALID_TEXT: WSCloseCode.INVALID_TEXT,
    CLOSE_TOO_BIG: WSCloseCode.MESSAGE_TOO_BIG,
}


class PicowsConnection(WSListener):
    """A connection: at once the library's listener, the wire of its answers and a member of the connections."""

    def __init__(self, stack: Stack, plan: Plan) -> None:
        self._stack = stack
        self._plan = plan
        self._answers: Answers | None = None
        self._transport: WSTransport
        self.paused = False
        self.address = "unknown"

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The handshake is done; called by picows."""
        self._transport = transport
        self.address = address_of(transport.underlying_transport.get_extra_info("peername"))
        self._answers = self._stack.begin(self, self, self._plan)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Act on one frame; called by picows for each."""
        answers = self._answers
        assert answers is not None
        kind = frame.msg_type
        if kind is WSMsgType.TEXT and frame.fin:
            try:
                text = frame.get_payload_as_utf8_text()
            except UnicodeDecodeError:
                self.close_with(CLOSE_INVALID_TEXT, "the text is not UTF-8")
                return
            answers.text_received(text)
        elif kind is WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), None)
            transport.disconnect()
        elif kind in (WSMsgType.BINARY, WSMsgType.TEXT, WSMsgType.CONTINUATION):
            answers.binary_received()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Forget the connection; called by picows."""
        if self._answers is not None:
            self._answers.connection_lost()
            self._answers = None
            shake = transport.close_handshake
            first = shake.recv or shake.sent if shake is not None else None
            self._stack.connections.forget(self, first.code.value if first is not None else 1006)

    def pause_writing(self) -> None:
        """The peer does not read; called by picows."""
        self.paused = True

    def resume_writing(self) -> None:
        """The peer reads again; called by picows."""
        self.paused = False
        if self._answers is not None:
            self._answers.writable()

    def send_text(self, text: str) -> None:
        """Write one text message."""
        self._transport.send(WSMsgType.TEXT, text.encode())

    def close_with(self, code: int, reason: str) -> None:
        """Begin to close."""
        self._transport.send_close(CODES[code], reason.encode())
        self._transport.disconnect()

    def leave(self) -> None:
        """End the answer under way, because the server leaves (R15)."""
        if self._answers is not None:
            self._answers.drain()

    def cut(self, reason: str) -> None:
        """Close without the closing handshake."""
        self._transport.disconnect(False)


class PicowsServer:
    """One process's picows server."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._servers: list[asyncio.Server] = []

    async def start(self, sockets: list[socket.socket]) -> Listening:
        """Listen on bound sockets."""
        settings = self._stack.settings
        for bound in sockets:
            self._servers.append(
                await ws_create_server(
                    self._admit,
                    sock=bound,
                    ssl=settings.tls,
                    backlog=settings.backlog,
                    websocket_handshake_timeout=settings.open_timeout_s,
                    enable_auto_ping=settings.ping_interval_s > 0,
                    auto_ping_idle_timeout=settings.ping_interval_s or 20,
                    auto_ping_reply_timeout=settings.ping_timeout_s or 20,
                    max_frame_size=settings.max_text_bytes,
                )
            )
        return self

    async def stop_accepting(self) -> None:
        """Let nobody in any more."""
        for server in self._servers:
            server.close()

    async def close(self) -> None:
        """Nothing is left."""

    def _admit(self, request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener:
        stack = self._stack
        asked = PlainRequest(request.path.decode("latin-1"), Headers(list(request.headers.items())), request.method.decode("latin-1"))
        page = stack.front.serve(asked)
        if page is not None:
            return _respond(page)
        refusal, plan = check_handshake(asked, stack.settings.origins, stack.settings.tokens), Plan()
        try:
            plan = choose_plan(asked.path.partition("?")[2], stack.settings)
        except ParameterError as error:
            refusal = refusal or Refusal("query", 400, str(error))
        refusal = refusal or stack.refusal("unknown")
        if refusal is not None:
            stack.count_refusal(refusal, "unknown")
            return _respond(stack.front.refuse(asked, refusal))
        return PicowsConnection(stack, plan)


def _respond(plain: PlainResponse) -> WSUpgradeResponseWithListener:
    headers = {name: value for name, value in plain.headers.raw_items() if name not in ("Content-Length", "Connection")}
    if plain.status_code == HTTPStatus.OK:
        made = WSUpgradeResponse.create_ok_response(bytes(plain.body), headers)
    else:
        made = WSUpgradeResponse.create_error_response(plain.status_code, bytes(plain.body), headers)
    return WSUpgradeResponseWithListener(made, None)


async def start(stack: Stack, sockets: list[socket.socket]) -> Listening:
    """Start picows' server."""
    return await PicowsServer(stack).start(sockets)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to leave; returns the exit code."""
    return run("server.picows_app", start, arguments)


if __name__ == "__main__":
    sys.exit(main())
