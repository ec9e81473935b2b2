"""`python -m server.aiohttp_app`: the same conversation on aiohttp, to compare servers with. Options as `server`; needs aiohttp."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence

from aiohttp import WSMsgType, web
from websockets.datastructures import Headers
from websockets.http11 import Request as PlainRequest
from websockets.http11 import Response as PlainResponse

from .alone import Listening, run
from .front import Refusal, check_handshake
from .parameters import ParameterError, Plan
from .protocol import PATH
from .stack import QueuedWire, Stack, choose_plan


class AiohttpServer:
    """One process's aiohttp server."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._runner: web.AppRunner
        self._sites: list[web.SockSite] = []

    async def start(self, sockets: list[socket.socket]) -> Listening:
        """Listen on bound sockets."""
        app = web.Application()
        app.router.add_get(PATH, self._converse)
        app.router.add_route("*", "/{path:.*}", self._page)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=self._stack.settings.close_timeout_s)
        await self._runner.setup()
        for bound in sockets:
            site = web.SockSite(self._runner, bound, ssl_context=self._stack.settings.tls, backlog=self._stack.settings.backlog)
            await site.start()
            self._sites.append(site)
        return self

    async def stop_accepting(self) -> None:
        """Let nobody in any more."""
        for site in self._sites:
            await site.stop()

    async def close(self) -> None:
        """Close what is left."""
        await self._runner.cleanup()

    async def _page(self, request: web.Request) -> web.Response:
        asked = PlainRequest(request.path_qs, Headers(list(request.headers.items())), request.method)
        found = self._stack.front.serve(asked)
        return _respond(found if found is not None else self._stack.front.refuse(asked, Refusal("path", 404, "nothing is here")))

    async def _converse(self, request: web.Request) -> web.StreamResponse:
        stack, settings = self._stack, self._stack.settings
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        asked = PlainRequest(request.path_qs, Headers(list(request.headers.items())))
        refusal, plan = check_handshake(asked, settings.origins, settings.tokens), Plan()
        try:
            plan = choose_plan(request.query_string, settings)
        except ParameterError as error:
            refusal = refusal or Refusal("query", 400, str(error))
        address = str(peer[0]) if peer else "unknown"
        refusal = refusal or stack.refusal(address)
        if refusal is not None:
            stack.count_refusal(refusal, address)
            return _respond(stack.front.refuse(asked, refusal))
        websocket = web.WebSocketResponse(
            max_msg_size=settings.max_text_bytes, heartbeat=settings.ping_interval_s or None, compress=settings.compression
        )
        await websocket.prepare(request)

        async def close(code: int, reason: str) -> None:
            await websocket.close(code=code, message=reason.encode())

        receiving = asyncio.current_task()
        assert receiving is not None
        wire = QueuedWire(peer, websocket.send_str, close, receiving.cancel)
        answers = stack.converse(wire, plan)
        writing = asyncio.create_task(_write(wire))
        try:
            async for message in websocket:
                if message.type is WSMsgType.TEXT:
                    answers.text_received(message.data)
                elif message.type is WSMsgType.BINARY:
                    answers.binary_received()
        except asyncio.CancelledError:
            pass  # cut off, or the server leaves
        finally:
            stack.forget(wire, websocket.close_code or 1006)
            writing.cancel()
        return websocket


async def _write(wire: QueuedWire) -> None:
    try:
        await wire.write()
    except (ConnectionError, RuntimeError):
        pass  # gone, which the one who receives is told too


def _respond(plain: PlainResponse) -> web.Response:
    headers = {name: value for name, value in plain.headers.raw_items() if name not in ("Content-Length", "Connection", "Date")}
    return web.Response(status=plain.status_code, body=bytes(plain.body), headers=headers)


async def start(stack: Stack, sockets: list[socket.socket]) -> Listening:
    """Start aiohttp's server."""
    return await AiohttpServer(stack).start(sockets)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to leave; returns the exit code."""
    return run("server.aiohttp_app", start, arguments)


if __name__ == "__main__":
    sys.exit(main())
