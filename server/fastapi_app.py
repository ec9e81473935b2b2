"""`python -m server.fastapi_app`: the article's stack, FastAPI on uvicorn, done right. Needs the extra `fastapi`; takes `server`'s options.

The WebSocket at /ws follows the same table of rules (`protocol`, `answers`) as `python -m server`; beside it the same answers come by

    GET    /sse?prompt=...                 server-sent events: the tokens, then `event: end`; closing stops
    POST   /v1/chat/completions            the same as chunks of an OpenAI-compatible API (`completions`); closing stops
    POST   /answers                        the prompt is the body; says the answer's `id`
    GET    /answers/ID?after=N&wait_s=30   tokens from number N on: at once, or when there is one (long poll); `after` acknowledges
    DELETE /answers/ID                     stops

with the parameters of docs/protocol.md in the query of the one that starts. Tokens are not acknowledged one by one there: `window` is 0.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse
from websockets.datastructures import Headers
from websockets.http11 import Request as PlainRequest

from .alone import announce, listen
from .completions import Chunks, CompletionError, read_request
from .fastapi_events import PlainEvents, stream
from .fastapi_requests import admit, as_plain, peer, queried, refuse, respond, target
from .front import Refusal, check_handshake
from .log import LibraryLog
from .options import Launch, OptionError, parse_options
from .parameters import ParameterError, Plan
from .polling import PolledAnswer, Polls
from .processes import StartError, calm_collector, new_loop
from .protocol import PATH
from .stack import QueuedWire, Stack, choose_plan

LONGEST_WAIT_S: Final = 60.0


def create_app(stack: Stack) -> FastAPI:
    """Return the application; it belongs to one process and one event loop."""
    app = FastAPI(title="Streamgauge's reference server", docs_url=None, redoc_url=None, openapi_url=None)
    polls = Polls(stack)
    # A poll that waits must not let its answer expire.
    longest_wait_s = min(LONGEST_WAIT_S, stack.settings.ack_timeout_s / 2)

    @app.websocket(PATH)
    async def converse(websocket: WebSocket) -> None:
        await _converse(stack, websocket)

    @app.get("/sse")
    async def events(request: Request) -> Response:
        prompt = queried(request, "prompt")
        plan = admit(stack, request)
        if isinstance(plan, Response):
            return plan
        if not prompt:
            return refuse(stack, request, Refusal("query", 400, "expected a prompt: /sse?prompt=..."))
        return stream(stack, request, plan, prompt, PlainEvents())

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        body = await request.body()
        try:
            if len(body) > stack.settings.max_text_bytes:
                raise CompletionError(f"expected a body of at most {stack.settings.max_text_bytes} bytes")
            asked = read_request(body)
        except CompletionError as error:
            return JSONResponse({"error": {"message": str(error), "type": "invalid_request_error"}}, 400)
        plan = admit(stack, request, asked.tokens)
        if isinstance(plan, Response):
            return plan
        return stream(stack, request, plan, asked.prompt, Chunks(asked, secrets.token_urlsafe(12), int(time.time())))

    @app.post("/answers", status_code=201)
    async def begin(request: Request) -> Response:
        plan = admit(stack, request)
        if isinstance(plan, Response):
            return plan
        body = await request.body()
        if not 0 < len(body) <= stack.settings.max_text_bytes:
            return refuse(stack, request, Refusal("query", 400, f"the body is the prompt, 1 to {stack.settings.max_text_bytes} bytes"))
        answer = polls.begin(secrets.token_urlsafe(12), request.client, plan, body.decode("utf-8", "replace"))
        return JSONResponse({"id": answer.name}, 201, {"Location": f"/answers/{answer.name}"})

    @app.get("/answers/{name}")
    async def poll(request: Request, name: str) -> Response:
        answer = polls.find(name)
        if answer is None:
            return _unknown(name)
        after, wait_s = queried(request, "after") or "0", queried(request, "wait_s") or "0"
        if not after.isdecimal() or not wait_s.replace(".", "", 1).isdecimal():
            return JSONResponse({"error": "after is a number of tokens, wait_s a number of seconds"}, 400)
        tokens, ended = await _wait(request, answer, int(after), min(float(wait_s), longest_wait_s))
        return JSONResponse({"tokens": tokens, "ended": ended})

    @app.delete("/answers/{name}")
    async def stop(name: str) -> Response:
        answer = polls.find(name)
        if answer is None:
            return _unknown(name)
        polls.stop(answer)
        return Response(status_code=204)

    @app.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
    async def page(request: Request) -> Response:
        asked = as_plain(request)
        found = stack.front.serve(asked)
        return respond(found if found is not None else stack.front.refuse(asked, Refusal("path", 404, "nothing is here")))

    return app


# -- the WebSocket -----------------------------------------------------------------------------------------------------


async def _converse(stack: Stack, websocket: WebSocket) -> None:
    address = peer(websocket.client)
    plain = PlainRequest(target(websocket), Headers(websocket.headers.items()))
    refusal = check_handshake(plain, stack.settings.origins, stack.settings.tokens)
    plan = Plan()
    try:
        plan = choose_plan(websocket.url.query, stack.settings)
    except ParameterError as error:
        refusal = refusal or Refusal("query", 400, str(error))
    refusal = refusal or stack.refusal(address[0])
    if refusal is not None:
        stack.count_refusal(refusal, address[0])
        await websocket.send_denial_response(respond(stack.front.refuse(plain, refusal)))
        return
    await websocket.accept()

    async def close(code: int, reason: str) -> None:
        await websocket.close(code, reason)

    receiving = asyncio.current_task()
    assert receiving is not None
    wire = QueuedWire(address, websocket.send_text, close, receiving.cancel)
    answers = stack.converse(wire, plan)
    writing = asyncio.create_task(_write(wire))
    code = 1006
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                code = int(message.get("code") or 1005)
                return
            text = message.get("text")
            if text is None:
                answers.binary_received()
            else:
                answers.text_received(text)
    except asyncio.CancelledError:
        pass  # cut off: by us, or because the server is leaving
    finally:
        stack.forget(wire, code)
        writing.cancel()


async def _write(wire: QueuedWire) -> None:
    try:
        await wire.write()
    except (WebSocketDisconnect, RuntimeError):
        pass  # gone, which the one who receives is told too


# -- polling -----------------------------------------------------------------------------------------------------------


async def _wait(request: Request, answer: PolledAnswer, after: int, wait_s: float) -> tuple[list[str], bool]:
    """Return the tokens from number `after` on and whether the answer has ended, waiting up to `wait_s` for either."""
    tokens, ended = answer.read(after)
    if not tokens and not ended and wait_s > 0:
        try:
            async with asyncio.timeout(wait_s):
                await answer.changed()
        except TimeoutError:
            pass
        tokens, ended = answer.read(after)
    return tokens, ended


def _unknown(name: str) -> Response:
    return JSONResponse({"error": f"there is no answer {name[:40]!r}: it was never begun, stopped, or nobody asked for it in time"}, 404)


# -- running -----------------------------------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    """uvicorn, with an end as in R15 and a word when it listens."""

    def __init__(self, config: uvicorn.Config, stack: Stack, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._stack = stack
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(self.config.backlog)
        self._stack.keep_house()
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await self._stack.leave()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own raises the signal again at the end; here being told to leave is no failure.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def configure(stack: Stack) -> uvicorn.Config:
    """Return uvicorn's configuration for a stack: the same limits as `python -m server`, as far as uvicorn has them."""
    settings = stack.settings
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [LibraryLog(stack.log)], False
        logger.setLevel(logging.WARNING)
    config = uvicorn.Config(
        create_app(stack),
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=settings.backlog,
        ws_max_size=settings.max_text_bytes,
        ws_ping_interval=settings.ping_interval_s or None,
        ws_ping_timeout=settings.ping_timeout_s or None,
        ws_per_message_deflate=settings.compression,
        timeout_graceful_shutdown=max(1, round(settings.close_timeout_s)),
    )
    config.load()
    config.ssl = settings.tls
    return config


def serve(launch: Launch) -> None:
    """Serve until told to leave; raises `StartError`."""
    sockets, line = listen(launch)
    stack = Stack(launch.settings)
    loop = new_loop(uvloop=launch.uvloop)
    calm_collector()
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(_Server(configure(stack), stack, lambda: announce(launch, line)).serve(sockets))
    finally:
        loop.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to leave; returns the exit code: 0 left, 2 the start was prevented."""
    try:
        serve(parse_options(arguments))
    except (OptionError, StartError) as error:
        sys.stderr.write(f"python -m server.fastapi_app: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
