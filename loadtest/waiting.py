"""A WebSocket for code that waits: the library's asyncio client, on a loop in a thread of its own.

The library's own client for such code reads a connection in one thread and writes it in another. OpenSSL does not allow that of one TLS
connection: seven of four thousand handshakes through nginx never came to an end (docs/faults.md).
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine, Iterable
from typing import Any, Final, Self, TypeVar

from websockets.asyncio.client import ClientConnection, connect

ABRUPT: Final = struct.pack("ii", 1, 0)
Result = TypeVar("Result")


class WaitingSocket:
    """One WebSocket, open from its creation to the end of its ``with`` block; it may be used by one thread at a time.

    ``options`` are those of ``websockets.asyncio.client.connect``, whose errors are raised as they come.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="waiting socket", daemon=True)
        self._thread.start()
        try:
            self._connection = self._wait(_open(url, options))
        except BaseException:
            self._end_loop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, message: str | bytes | Iterable[str]) -> None:
        """Send a message, in fragments where it is several texts; ConnectionClosed."""
        self._wait(self._connection.send(message))

    def recv(self, timeout: float | None = None) -> str | bytes:
        """The next message; TimeoutError after so many s, ConnectionClosed."""
        return self._wait(_within(self._connection.recv(), timeout))

    def close(self) -> None:
        """Say good-bye, wait for the answer as long as ``close_timeout`` says, and end the thread. A second time it does nothing."""
        if not self._loop.is_closed():
            try:
                self._wait(self._connection.close())
            finally:
                self._end_loop()

    def drop(self) -> None:
        """Vanish: a reset, no close frame."""
        self._connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABRUPT)
        self._loop.call_soon_threadsafe(self._connection.transport.abort)
        self._wait(self._connection.wait_closed())

    def _wait(self, step: Coroutine[Any, Any, Result]) -> Result:
        asked = asyncio.run_coroutine_threadsafe(step, self._loop)
        try:
            return asked.result()
        except BaseException:
            asked.cancel()
            raise

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _open(url: str, options: dict[str, Any]) -> ClientConnection:
    return await connect(url, **options)


async def _within(step: Coroutine[Any, Any, Result], timeout_s: float | None) -> Result:
    async with asyncio.timeout(timeout_s):
        return await step
