"""The server's own record of traced tokens, a line each, for a checker to hold against what the clients received."""

from __future__ import annotations

import os
from pathlib import Path

from .log import Log


class History:
    """Appends lines to a file that several processes may share; buffered, so that a token costs a list append.

    Each flush is one `write` of whole lines to a file opened for appending, so lines of several processes never mix.
    Raises OSError if the file cannot be opened.
    """

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log
        self._lines: list[str] = []
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.append = self._lines.append

    def flush(self) -> None:
        """Write what has been appended; a failure is logged and those lines are lost to the checker."""
        if not self._lines or self._descriptor < 0:
            return
        data = memoryview(("\n".join(self._lines) + "\n").encode())
        lines = len(self._lines)
        self._lines.clear()
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            self._log.warn("history_lost", path=self._path, lines=lines, error=error.strerror or error)

    def close(self) -> None:
        """Flush and close; idempotent."""
        if self._descriptor >= 0:
            self.flush()
            os.close(self._descriptor)
            self._descriptor = -1
