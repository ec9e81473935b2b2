"""One WebSocket connection -> its conversations; HTTP pages beside it on the same port."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from . import counters
from .connections import MAX_CONNECTIONS, MAX_PER_ADDRESS, Connections
from .counters import Block, LoopLag
from .floods import Floods
from .front import Front, Refusal, check_handshake
from .history import History
from .log import LibraryLog, Log
from .parameters import DEFAULT_CAPS, ParameterError, Plan
from .protocol import ACK_TIMEOUT_S, MAX_TEXT_BYTES
from .source import UpstreamSettings
from .stack import answer_settings, choose_plan, open_upstream
from .wire import StreamConnection

# asyncio accepts up to `backlog` connections in one turn, and when descriptors run out tries as often as that: so it gets
# a small number, and the queue in the kernel is made long separately.
ACCEPTS_PER_TURN: Final = 64
HOUSEKEEPING_S: Final = 0.25
FULL_SEARCH_EVERY: Final = 50_000  # connections, of whatever end, between two full searches of the garbage collector


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """How a server behaves; the defaults are safe ones. Times in seconds, sizes in bytes, 0 pings = none."""

    plan: Plan = dataclasses.field(default_factory=Plan)
    caps: Mapping[str, int | float] = dataclasses.field(default_factory=lambda: dict(DEFAULT_CAPS))
    seed: int = 1
    max_connections: int = MAX_CONNECTIONS
    max_per_address: int = MAX_PER_ADDRESS
    max_text_bytes: int = MAX_TEXT_BYTES
    write_buffer_bytes: int = 1024 * 1024
    ack_timeout_s: float = ACK_TIMEOUT_S
    open_timeout_s: float = 10.0
    close_timeout_s: float = 5.0
    message_timeout_s: float = 30.0
    ping_interval_s: float = 20.0
    ping_timeout_s: float = 20.0
    drain_s: float = 10.0
    backlog: int = 4096
    origins: tuple[str, ...] = ()
    tokens: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    compression: bool = False
    tls: ssl.SSLContext | None = None
    history: Path | None = None
    words: tuple[str, ...] = ()
    upstream: UpstreamSettings | None = None
    quiet: bool = False


class StreamServer:
    """The server of one process: its row in the shared block, its connections, its sockets."""

    def __init__(self, settings: Settings, block: Block, process: int = 0, *, handles_interrupt: bool = True) -> None:
        self.settings = settings
        self._signals = (signal.SIGTERM, signal.SIGINT) if handles_interrupt else (signal.SIGTERM,)
        self.log = Log(quiet=settings.quiet)
        self.row = block.row(process)
        self.floods = Floods()
        self.connections = Connections(block, process, most=settings.max_connections, most_per_address=settings.max_per_address)
        self.opening: set[StreamConnection] = set()  # handshakes and pages under way
        self.numbers_step = block.processes  # so that connection numbers are unique over the processes
        self.connection_number = process - block.processes
        self._front = Front(block)
        self._history = None if settings.history is None else History(settings.history, self.log)
        self._upstream = open_upstream(settings)
        self.answer_settings = answer_settings(settings, self.log, self._history, self._upstream)
        self._plans: dict[ServerConnection, Plan] = {}
        self._draining = asyncio.Event()
        self._hurry = False
        self.connections_made = 0  # those included that become no WebSocket
        self._searched_at = 0

    # -- the handshake ---------------------------------------------------------------------------------------------

    def process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a page, refuse, or let the handshake go on; called by the library."""
        page = self._front.serve(request)
        if page is not None:
            return page
        refusal = check_handshake(request, self.settings.origins, self.settings.tokens)
        if refusal is not None:
            return self._refuse(connection, request, refusal)
        try:
            plan = choose_plan(request.path.partition("?")[2], self.settings)
        except ParameterError as error:
            return self._refuse(connection, request, Refusal("query", 400, str(error)))
        self._plans[connection] = plan
        return None

    def process_response(self, connection: ServerConnection, request: Request, response: Response) -> Response | None:
        """Let a valid handshake in if there is room; called by the library just before it replies."""
        assert isinstance(connection, StreamConnection)
        plan = self._plans.pop(connection, None)
        if plan is None:
            return None  # a page or a refusal
        if response.status_code != 101:
            self._count_refusal(connection, Refusal("handshake", response.status_code, response.body.decode().partition("\n")[0]))
            return None
        reason = self.connections.refusal(connection.address)
        if reason is not None:
            sentence = {
                "draining": "the server is going away",
                "capacity": f"the server has all its {self.settings.max_connections} connections",
                "address": f"your address has all its {self.settings.max_per_address} connections",
            }[reason]
            return self._refuse(connection, request, Refusal(reason, 503, sentence))
        connection.converse(plan)
        return None

    def _refuse(self, connection: ServerConnection, request: Request, refusal: Refusal) -> Response:
        self._count_refusal(connection, refusal)
        return self._front.refuse(request, refusal)

    def _count_refusal(self, connection: ServerConnection, refusal: Refusal) -> None:
        assert isinstance(connection, StreamConnection)
        self.row[counters.REFUSED[refusal.reason]] += 1
        self.log.warn("refused", reason=refusal.reason, status=refusal.status, peer=connection.address, says=refusal.sentence)

    def malformed(self, connection: StreamConnection) -> None:
        """Count a connection that sent what is no HTTP request."""
        error = connection.protocol.handshake_exc
        says = f"{error}" if error is None or error.__cause__ is None else f"{error}: {error.__cause__}"
        self.row[counters.REFUSED["malformed"]] += 1
        self.log.warn("refused", reason="malformed", peer=connection.address, says=says)

    def never_opened(self, connection: StreamConnection) -> None:
        """Forget a connection that ended before it had sent a whole request, or was answered with a page or a refusal."""
        self.opening.discard(connection)
        self._plans.pop(connection, None)

    def timed_out(self, connection: StreamConnection) -> None:
        """Count a connection that did not send a whole request in time."""
        self.row[counters.REFUSED["timeout"]] += 1
        self.log.warn("refused", reason="timeout", peer=connection.address)

    # -- running ---------------------------------------------------------------------------------------------------

    async def run(self, sockets: Sequence[socket.socket], ready: Callable[[], object]) -> None:
        """Serve on bound sockets until asked to leave by a signal; calls `ready()` when listening."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._loop_failed)
        for name in ("websockets.server", "asyncio"):
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [LibraryLog(self.log)], False
            logger.setLevel(logging.WARNING)
        servers = [await self._listen(bound) for bound in sockets]
        for number in self._signals:
            loop.add_signal_handler(number, self.leave)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)  # a worker is started with them blocked
        self._measure_lag(loop, loop.time())
        self._keep_house(loop)
        ready()
        await self._draining.wait()
        self._front.draining = True
        open_now = len(self.connections)
        self.log.info("draining", connections=open_now, within_s=self.settings.drain_s)
        for server in servers:
            server.close(close_connections=False)  # refuses what comes now; what is open is ours to end
        await asyncio.sleep(0)  # the sockets are closed in the loop's next turn: before anybody is told to leave
        late = await self.connections.drain(0.0 if self._hurry else self.settings.drain_s)
        for connection in list(self.opening):
            connection.transport.abort()
        await asyncio.sleep(0)
        if self._upstream is not None:
            await self._upstream.close()
        self.log.info("left", connections=open_now, cut=late)
        self._clear_gauges()

    async def _listen(self, bound: socket.socket) -> Server:
        settings = self.settings

        def create(protocol: ServerProtocol, server: Server, **options: Any) -> StreamConnection:
            return StreamConnection(protocol, server, streams=self, **options)

        server = await serve(
            _hold,
            sock=bound,
            ssl=settings.tls,
            backlog=min(ACCEPTS_PER_TURN, settings.backlog),
            process_request=self.process_request,
            process_response=self.process_response,
            server_header=None,
            compression="deflate" if settings.compression else None,
            open_timeout=settings.open_timeout_s,
            ping_interval=settings.ping_interval_s or None,
            ping_timeout=settings.ping_timeout_s or None,
            close_timeout=settings.close_timeout_s,
            max_size=settings.max_text_bytes,
            max_queue=None,
            create_connection=cast("type[ServerConnection]", create),
        )
        bound.listen(settings.backlog)
        return server

    def leave(self) -> None:
        """Begin to drain; asked a second time, do not wait for anybody."""
        if self._draining.is_set():
            self._hurry = True
            for connection in list(self.connections.members()):
                connection.cut("drain_timeout")
        self._draining.set()

    def _measure_lag(self, loop: asyncio.AbstractEventLoop, due_s: float) -> None:
        lag = LoopLag(self.row)

        def tick(due_s: float) -> None:
            now_s = loop.time()
            lag.record(now_s, now_s - due_s)
            due_s = now_s + lag.PERIOD_S
            loop.call_at(due_s, tick, due_s)

        tick(due_s)

    def _keep_house(self, loop: asyncio.AbstractEventLoop) -> None:
        counters.measure_process(self.row)
        if self._history is not None:
            self._history.flush()
        if self.connections_made - self._searched_at >= FULL_SEARCH_EVERY:
            self._searched_at = self.connections_made
            gc.collect()
        loop.call_later(HOUSEKEEPING_S, self._keep_house, loop)

    def _clear_gauges(self) -> None:
        if self._history is not None:
            self._history.close()
        counters.measure_process(self.row)

    def _loop_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None or isinstance(error, (OSError, ssl.SSLError)):
            # Out of descriptors, a broken TLS handshake, a connection reset: the world's, not ours.
            self.log.warn("network", says=context.get("message", ""), error=error)
            return
        logging.getLogger("server").error("bug: %s", context.get("message", ""), exc_info=error)


async def _hold(connection: ServerConnection) -> None:
    await connection.wait_closed()
