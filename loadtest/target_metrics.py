"""What the target says of itself: its /metrics, where it has one, read once a second beside our own counts."""

from __future__ import annotations

import contextlib
import http.client
import math
import socket
import ssl
import time

import gevent
from prometheus_client.parser import text_string_to_metric_families
from websockets.uri import WebSocketURI

from .parting import PATIENCE_S

_TIMEOUT_S = 2.0
_SETTLE_S = 2.0
_SETTLE_POLL_S = 0.1
_LARGEST_BYTES = 1 << 20
COLUMNS = {
    "streamgauge_connections_open": ("server_open", 1.0),
    "streamgauge_connections_streaming": ("server_streaming", 1.0),
    "streamgauge_tokens_total": ("server_tokens", 1.0),
    "process_cpu_seconds_total": ("server_cpu_ns", 1e9),
    "process_resident_memory_bytes": ("server_rss_bytes", 1.0),
}
"""Sample name to column of ``intervals`` and the factor to its unit."""


def read_target_metrics(uri: WebSocketURI, tls: ssl.SSLContext | None) -> dict[str, float] | None:
    """All samples of the reference server's /metrics by name with labels, or None where there is no such page."""
    # Each read has its own deadline below; this one is for a page that comes a byte at a time.
    deadline = gevent.Timeout.start_new(2 * _TIMEOUT_S)
    try:
        return _read(uri, tls)
    except gevent.Timeout as timeout:
        if timeout is not deadline:
            raise
        return None
    finally:
        deadline.close()


def _read(uri: WebSocketURI, tls: ssl.SSLContext | None) -> dict[str, float] | None:
    connection = (
        http.client.HTTPSConnection(uri.host, uri.port, timeout=_TIMEOUT_S, context=tls)
        if uri.secure
        else http.client.HTTPConnection(uri.host, uri.port, timeout=_TIMEOUT_S)
    )
    kept: socket.socket | None = None
    try:
        connection.request("GET", "/metrics", headers={"Connection": "close"})
        kept = socket.fromfd(connection.sock.fileno(), connection.sock.family, socket.SOCK_STREAM)
        response = connection.getresponse()
        text = response.read(_LARGEST_BYTES).decode()
        if response.will_close and response.isclosed():
            _await_end(kept)
        if response.status != http.HTTPStatus.OK or "streamgauge_connections_open" not in text:
            return None
        samples = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
                if math.isfinite(sample.value):
                    samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = float(sample.value)
        return samples
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        # The last two are what the parser says to some texts that are not in Prometheus' format.
        return None
    finally:
        connection.close()
        if kept is not None:
            kept.close()


def _await_end(sock: socket.socket) -> None:
    """Wait a moment for the target to close first: the side that does keeps the port for a minute (see ``parting.py``)."""
    sock.settimeout(PATIENCE_S)
    with contextlib.suppress(OSError):
        while sock.recv(4096):
            pass


def read_settled_metrics(uri: WebSocketURI, tls: ssl.SSLContext | None) -> dict[str, float] | None:
    """The target's samples after the drain; it is given a moment to see our closes before a leak is believed."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        samples = read_target_metrics(uri, tls)
        if samples is None or samples.get("streamgauge_connections_open") == 0 or time.monotonic() > deadline:
            return samples
        time.sleep(_SETTLE_POLL_S)


def interval_columns(samples: dict[str, float]) -> dict[str, int]:
    """The samples that ``intervals`` has a column for, in its units."""
    return {column: round(samples[name] * factor) for name, (column, factor) in COLUMNS.items() if name in samples}
