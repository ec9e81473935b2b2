"""A server of the reference protocol with one fault for each path: `/none`, `/R1`, ... It says where it listens.

`/R15` and `/others` concern the whole process: run it with that word as its argument.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

KNOWN = {"tokens", "gap_ms", "window", "text", "fail_at"}
WHOLE = sys.argv[1] if len(sys.argv) > 1 else ""
ACK_TIMEOUT_S = 1.0
lock = asyncio.Lock()


def parameters(path: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(path).query))


class Conversation:
    def __init__(self, socket: ServerConnection) -> None:
        asked = parameters(socket.request.path)
        self.socket = socket
        self.fault = urlsplit(socket.request.path).path.strip("/")
        self.tokens = int(asked.get("tokens", 5))
        self.gap_s = float(asked.get("gap_ms", 40)) / 1e3
        self.window = int(asked.get("window", 1))
        self.awkward = asked.get("text") == "awkward"
        self.fail_at = int(asked.get("fail_at", 0))
        self.unacknowledged = 0
        self.opened = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    @property
    def answering(self) -> bool:
        return self.task is not None and not self.task.done()

    async def answer(self) -> None:
        for number in range(self.tokens):
            if WHOLE == "others":
                time.sleep(self.gap_s)
            else:
                await asyncio.sleep(self.gap_s)
            if self.fault == "R14" and number == 0:
                await lock.acquire()
            if self.fail_at and number + 1 == self.fail_at:
                if self.fault != "R13":
                    await self.socket.send("[error]")
                break
            if not await self.may_go(self.window if self.fault != "R9" else 100):
                break
            self.unacknowledged += 1
            text = "_end_" if self.awkward and number % 7 == 0 else str(number)
            await self.socket.send(text if self.fault == "R10" or text != "_end_" else "\\_end_")
        if self.window and self.fault != "R7":
            await self.may_go(1)
        await self.socket.send("_end_")
        if self.fault == "R14":
            lock.release()

    async def may_go(self, window: int) -> bool:
        while window and self.unacknowledged >= window:
            self.opened.clear()
            try:
                await asyncio.wait_for(self.opened.wait(), None if self.fault == "R8" else ACK_TIMEOUT_S)
            except TimeoutError:
                return False
        return True

    async def begin(self) -> None:
        self.unacknowledged = 0
        self.task = asyncio.create_task(self.answer())

    async def end(self, tell: bool = True) -> None:
        if self.task is not None:
            self.task.cancel()
            self.task = None
        if tell:
            await self.socket.send("_end_")

    async def take(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            if self.fault != "R11":
                await self.socket.close(1003, "text only")
        elif message == "":
            if self.answering and self.unacknowledged:
                self.unacknowledged -= 2 if self.fault == "R1" else 1
                self.opened.set()
            elif self.fault == "R2":
                await self.begin()
        elif message == "stop":
            if self.answering:
                if self.fault == "R3":
                    await asyncio.sleep(5 * self.gap_s)
                await self.end()
                if self.fault == "R3-ghost":
                    await self.begin()
                if self.fault == "R3-twice":
                    await self.socket.send("_end_")
            elif self.fault == "R4":
                await self.socket.send("_end_")
        elif not (self.fault == "R5" and message == "_end_"):
            if self.answering:
                await self.end(self.fault == "R6")
            await self.begin()


async def handle(socket: ServerConnection) -> None:
    conversation = Conversation(socket)
    try:
        while True:
            parts: list[str | bytes] = []
            async for part in socket.recv_streaming():
                parts.append(part)
                if len(parts) > 256 and conversation.fault != "R12":
                    await socket.close(1009, "too many fragments")
                    return
            await conversation.take(parts[0][:0].join(parts))  # type: ignore[arg-type]
    except ConnectionClosed:
        pass
    finally:
        await conversation.end(tell=False)


def refuse(connection: ServerConnection, request: object) -> object:
    if urlsplit(request.path).path == "/R12":  # type: ignore[attr-defined]
        connection.protocol.max_message_size = connection.protocol.max_fragment_size = None
    if set(parameters(request.path)) - KNOWN:  # type: ignore[attr-defined]
        return connection.respond(HTTPStatus.BAD_REQUEST, "unknown parameter\n")
    return None


async def main() -> None:
    leave = asyncio.Event()
    if WHOLE != "R15":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave.set)
    async with serve(handle, "127.0.0.1", 0, process_request=refuse, max_size=(1 << 16)) as server:
        print("listening on", server.sockets[0].getsockname()[1], flush=True)
        await leave.wait()


asyncio.run(main())
