"""One line for each thing worth knowing: `time level event key=value ...` on stderr, never a flood."""

from __future__ import annotations

import logging
import sys
import time
from typing import Final, TextIO

LINES_PER_SECOND: Final = 20  # of one event; the rest is counted and reported as one number
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:/[]+-")


class Log:
    """Writes structured lines; the same event at most `LINES_PER_SECOND` times a second."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self._second = 0
        self._written: dict[str, int] = {}

    def info(self, event: str, **fields: object) -> None:
        """Say what happened, unless the operator asked for quiet."""
        if not self._quiet:
            self._line("info", event, fields)

    def warn(self, event: str, **fields: object) -> None:
        """Say what went wrong through somebody else: foreign input, a lost peer, a full disk."""
        self._line("warn", event, fields)

    def _line(self, level: str, event: str, fields: dict[str, object]) -> None:
        now_s = time.time()
        if int(now_s) != self._second:
            suppressed = {name: count - LINES_PER_SECOND for name, count in self._written.items() if count > LINES_PER_SECOND}
            self._second = int(now_s)
            self._written.clear()
            for name, count in suppressed.items():
                self._write(now_s, "warn", "suppressed", {"of": name, "lines": count})
        written = self._written.get(event, 0) + 1
        self._written[event] = written
        if written <= LINES_PER_SECOND:
            self._write(now_s, level, event, fields)

    def _write(self, now_s: float, level: str, event: str, fields: dict[str, object]) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s)) + f".{int(now_s * 1000) % 1000:03d}Z"
        pairs = "".join(f" {name}={_value(value)}" for name, value in fields.items())
        stream = self._stream if self._stream is not None else sys.stderr
        try:
            stream.write(f"{stamp} {level} {event}{pairs}\n")
            stream.flush()
        except (OSError, ValueError):
            pass  # a log that cannot be written must not take the streams with it


def _value(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    if len(text) > 300:
        text = text[:300] + "..."
    return text if text and _PLAIN.issuperset(text) else ascii(text)


class LibraryLog(logging.Handler):
    """Turns what `websockets` and asyncio log into lines of ours, without the traceback of foreign input."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; called by the logging module."""
        error = record.exc_info[1] if record.exc_info else None
        fields: dict[str, object] = {"says": record.getMessage()}
        if error is not None:
            fields["error"] = f"{type(error).__name__}: {error}"
        self._log.warn(record.name.partition(".")[0], **fields)
