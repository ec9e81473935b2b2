"""The engine's connections with one thing changed: what arrives is sent back. `echo_client.py URL [--compression]` works through the
cases of a fuzzing server: as many as it says there are, then it asks for the report. An echo may wait for the peer as long as it is: how
much of it the kernel takes at once must not decide a case."""

from gevent import monkey

monkey.patch_all()

# ruff: noqa: E402 - patching comes first
import sys
import time

from gevent.pool import Pool
from websockets.uri import parse_uri

from loadtest import outbox
from loadtest.clock import Clock
from loadtest.engine import Engine
from loadtest.frames import frame_of
from loadtest.opening import ConnectError, Target
from loadtest.recorder import Recorder
from loadtest.stream import Stream
from loadtest.typewriter import Typewriter

AT_ONCE = 4
LONGEST_BYTES = 17 << 20
outbox.LIMIT_BYTES = LONGEST_BYTES


class Sink:
    def append(self, table, columns):
        pass


class Echo(Stream):
    __slots__ = ("heard", "silent")

    def _take(self, message, meaning, arrival, read):
        self.heard.append(message)
        if not self.silent and self.closed is None:
            # The library keeps count of what it sends compressed: nothing is sent so here, and both sides may do that.
            self._write(frame_of(message))


def visit(engine, url, compression, silent):
    target = Target(uri=parse_uri(url), compression=compression, max_message_bytes=LONGEST_BYTES)
    stream = Echo(engine, target, Typewriter({"window": 0}))
    stream.heard, stream.silent = [], silent
    stream.open()
    stream.wait_closed()
    return stream.heard


def main():
    engine = Engine(Recorder("w0", time.monotonic_ns(), Sink()), Clock(), 60.0)
    url, compression = sys.argv[1], "--compression" in sys.argv
    count = int(visit(engine, f"{url}/getCaseCount", False, True)[0])

    def visit_case(case):
        try:
            visit(engine, f"{url}/runCase?case={case}&agent=streamgauge", compression, False)
        except ConnectError as error:
            sys.stderr.write(f"case {case}: {error.kind}: {error.detail}\n")

    # Some cases are waits for seconds: the others go on beside them.
    Pool(AT_ONCE).map(visit_case, range(1, count + 1))
    visit(engine, f"{url}/updateReports?agent=streamgauge", False, True)


main()
