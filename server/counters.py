"""What the server counts, over all its processes, and the Prometheus text it is shown as.

Each process writes plain 64-bit cells of its own row in one shared block of memory, so counting costs an addition and
needs no lock; a scrape of any process adds the rows up. A process that ended keeps its counts, not its gauges.
"""

from __future__ import annotations

import mmap
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .protocol import OUTCOMES

REFUSALS: Final = (
    "path",
    "host",
    "origin",
    "token",
    "query",
    "capacity",
    "address",
    "handshake",
    "timeout",
    "malformed",
    "draining",
)
# One cell a code that means something, and one for each range that a client may invent codes in.
CLOSE_CODES: Final = (
    "1000", "1001", "1002", "1003", "1005", "1006", "1007", "1008", "1009", "1010", "1011", "1012", "1013", "1014", "3xxx", "4xxx",
)  # fmt: skip
CUT_REASONS: Final = ("write_buffer", "message_timeout", "close_timeout", "drain_timeout")

# The cells of one row. The first group are gauges, which end with their process; the others only ever grow.
_GAUGES: Final = ("pid", "open", "streaming", "lag_ns", "lag_max_ns", "memory_bytes")
_COUNTERS: Final = (
    "accepted",
    "prompts",
    "tokens",
    "acks",
    "stale_acks",
    "stops",
    "stale_stops",
    "control_frames",
    "rests",
    "cpu_ns",
    *(f"refused/{reason}" for reason in REFUSALS),
    *(f"closed/{code}" for code in CLOSE_CODES),
    *(f"answers/{outcome}" for outcome in OUTCOMES),
    *(f"cut/{reason}" for reason in CUT_REASONS),
)
CELLS: Final = {name: index for index, name in enumerate((*_GAUGES, *_COUNTERS))}
_ROW: Final = len(CELLS)

PID: Final = CELLS["pid"]
OPEN: Final = CELLS["open"]
STREAMING: Final = CELLS["streaming"]
LAG_NS: Final = CELLS["lag_ns"]
LAG_MAX_NS: Final = CELLS["lag_max_ns"]
MEMORY_BYTES: Final = CELLS["memory_bytes"]
ACCEPTED: Final = CELLS["accepted"]
PROMPTS: Final = CELLS["prompts"]
TOKENS: Final = CELLS["tokens"]
ACKS: Final = CELLS["acks"]
STALE_ACKS: Final = CELLS["stale_acks"]
STOPS: Final = CELLS["stops"]
STALE_STOPS: Final = CELLS["stale_stops"]
CONTROL_FRAMES: Final = CELLS["control_frames"]
RESTS: Final = CELLS["rests"]
CPU_NS: Final = CELLS["cpu_ns"]
ANSWERS: Final = {outcome: CELLS[f"answers/{outcome}"] for outcome in OUTCOMES}
REFUSED: Final = {reason: CELLS[f"refused/{reason}"] for reason in REFUSALS}
CLOSED: Final = {code: CELLS[f"closed/{code}"] for code in CLOSE_CODES}
CUT: Final = {reason: CELLS[f"cut/{reason}"] for reason in CUT_REASONS}
# A ping may be twenty times as long as an acknowledgement, and counts for four.
_MOVED_NO_TOKEN: Final = (PROMPTS, STALE_ACKS, STOPS, STALE_STOPS, *[CONTROL_FRAMES] * 4)


def moved_no_token(row: memoryview[int]) -> int:
    """Return how many messages came to this process that were no acknowledgement of a token."""
    return sum(row[cell] for cell in _MOVED_NO_TOKEN)


def close_cell(code: int) -> int:
    """Return the cell that counts connections closed with this code."""
    label = str(code)
    if label in CLOSED:
        return CLOSED[label]
    if 3000 <= code < 4000:
        return CLOSED["3xxx"]
    if 4000 <= code < 5000:
        return CLOSED["4xxx"]
    return CLOSED["1006"]


class Block:
    """The shared memory: a row of cells for each of `processes` processes, inherited by those that are forked."""

    def __init__(self, processes: int = 1) -> None:
        self.processes = processes
        # Anonymous and shared: it has no name that could be left behind, and is gone with the last process.
        self._memory = mmap.mmap(-1, processes * _ROW * 8)
        self._cells = memoryview(self._memory).cast("q")

    def row(self, process: int) -> memoryview[int]:
        """Return the cells of one process (0 to processes - 1), for it alone to write."""
        return self._cells[process * _ROW : (process + 1) * _ROW]

    def forget_gauges(self, process: int) -> None:
        """Clear what a process that has ended can no longer take back; its counts stay. For the one who reaped it."""
        row = self.row(process)
        for index in range(len(_GAUGES)):
            row[index] = 0

    def total(self, cell: int) -> int:
        """Return a cell's sum over all processes."""
        return sum(self._cells[process * _ROW + cell] for process in range(self.processes))

    def largest(self, cell: int) -> int:
        """Return a cell's largest value over all processes."""
        return max(self._cells[process * _ROW + cell] for process in range(self.processes))

    def live_processes(self) -> int:
        """Return how many processes have a row in use."""
        return sum(1 for process in range(self.processes) if self._cells[process * _ROW + PID])


def measure_process(row: memoryview[int]) -> None:
    """Write this process's own id, memory and processor time into its row."""
    row[PID] = os.getpid()
    row[MEMORY_BYTES] = resident_bytes()
    row[CPU_NS] = max(row[CPU_NS], time.process_time_ns())


def resident_bytes() -> int:
    """Return the resident memory of this process; its peak where the system does not tell the present value."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


class _BlockCollector(Collector):
    """Turns the block into metric families at the moment of a scrape."""

    def __init__(self, block: Block) -> None:
        self._block = block

    def collect(self) -> Iterator[Metric]:
        """Yield every metric; called by prometheus_client."""
        block = self._block
        yield _gauge("streamgauge_connections_open", "Open WebSocket connections.", block.total(OPEN))
        yield _gauge("streamgauge_connections_streaming", "Connections with an answer under way.", block.total(STREAMING))
        yield _counter("streamgauge_connections_accepted", "Handshakes answered with 101.", block.total(ACCEPTED))
        yield self._labelled(
            "streamgauge_connections_refused", "Connections that were not given a WebSocket, by reason.", "reason", REFUSED
        )
        yield self._labelled(
            "streamgauge_connections_closed",
            "Accepted connections that ended, by close code (1006: without a close frame).",
            "code",
            CLOSED,
        )
        yield self._labelled("streamgauge_connections_cut", "Connections that the server cut off, by reason.", "reason", CUT)
        yield _counter("streamgauge_prompts", "Prompts received.", block.total(PROMPTS))
        yield self._labelled("streamgauge_answers", "Answers that ended, by how they did.", "outcome", ANSWERS)
        yield _counter("streamgauge_tokens", "Tokens sent.", block.total(TOKENS))
        yield _counter("streamgauge_acks", "Acknowledgements that were credited to a token.", block.total(ACKS))
        yield _counter("streamgauge_stale_acks", "Acknowledgements with nothing outstanding, ignored.", block.total(STALE_ACKS))
        yield _counter("streamgauge_stops", "Stops that ended an answer.", block.total(STOPS))
        yield _counter("streamgauge_stale_stops", "Stops without an answer, ignored.", block.total(STALE_STOPS))
        yield _counter("streamgauge_control_frames", "Pings and pongs received.", block.total(CONTROL_FRAMES))
        yield _counter("streamgauge_flood_rests", "Reads after which a connection that floods had to rest.", block.total(RESTS))
        yield _gauge(
            "streamgauge_event_loop_lag_seconds",
            "How late the event loop last was for its own timer; the largest over the processes.",
            block.largest(LAG_NS) / 1e9,
        )
        yield _gauge(
            "streamgauge_event_loop_lag_max_seconds",
            "The largest such lag of the last 15 to 30 seconds.",
            block.largest(LAG_MAX_NS) / 1e9,
        )
        yield _gauge("streamgauge_processes", "Server processes that are alive.", block.live_processes())
        yield _gauge("process_resident_memory_bytes", "Resident memory, summed over the processes.", block.total(MEMORY_BYTES))
        yield _counter("process_cpu_seconds", "Processor time, summed over the processes.", block.total(CPU_NS) / 1e9)

    def _labelled(self, name: str, doc: str, label: str, cells: dict[str, int]) -> CounterMetricFamily:
        family = CounterMetricFamily(name, doc, labels=[label])
        for value, cell in cells.items():
            family.add_metric([value], self._block.total(cell))
        return family


def _gauge(name: str, doc: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, doc, value=value)


def _counter(name: str, doc: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, doc, value=value)


class LoopLag:
    """The event loop's lateness, from a timer that should fire every `PERIOD_S`."""

    PERIOD_S: Final = 0.1
    WINDOW_S: Final = 15.0

    def __init__(self, row: memoryview[int]) -> None:
        self._row = row
        self._window_end_s = 0.0
        self._largest_ns = [0, 0]  # of the window before, of this one

    def record(self, now_s: float, lag_s: float) -> None:
        """Take one observation, in seconds of the loop's clock."""
        lag_ns = max(0, round(lag_s * 1e9))
        if now_s >= self._window_end_s:
            self._window_end_s = now_s + self.WINDOW_S
            self._largest_ns = [self._largest_ns[1], 0]
        self._largest_ns[1] = max(self._largest_ns[1], lag_ns)
        self._row[LAG_NS] = lag_ns
        self._row[LAG_MAX_NS] = max(self._largest_ns)


class Exposition:
    """The `/metrics` text of a block."""

    content_type: Final = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, block: Block) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_BlockCollector(block))

    def render(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)


def row_values(row: Iterable[int]) -> dict[str, int]:
    """Return a row's cells by name."""
    return dict(zip(CELLS, row, strict=True))
