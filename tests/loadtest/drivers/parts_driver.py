"""Runs one named scene of the Locust half in a process of its own, and prints what came of it as JSON."""

from gevent import monkey

monkey.patch_all()

# ruff: noqa: E402 - patching comes first
import csv
import io
import json
import sys
import time
from collections import Counter

import gevent
import numpy as np
from gevent.monkey import get_original
from locust.env import Environment
from locust.stats import PERCENTILES_TO_REPORT, StatsCSV
from websockets.uri import parse_uri

from loadtest.adapter import HTTP
from loadtest.arrivals import Arrival, Share, arrive, evenly
from loadtest.clock import Clock
from loadtest.conversation import Conversation
from loadtest.engine import Engine
from loadtest.feed import bound, bucket, feed, refine_locust
from loadtest.open_loop import OpenLoop
from loadtest.rates import flat
from loadtest.recorder import Flush, Recorder
from loadtest.shapes import SHAPES, Profile
from loadtest.target_metrics import interval_columns, read_target_metrics

block = get_original("time", "sleep")


class Sink:
    def __init__(self):
        self.rows = []
        self.full = False

    def append(self, table, columns):
        if self.full:
            raise OSError(28, "No space left on device")
        names = list(columns)
        self.rows += [{"table": table, **dict(zip(names, map(str, values), strict=True))} for values in zip(*columns.values(), strict=True)]


def make_engine(stall_timeout_s=60.0):
    sink = Sink()
    engine = Engine(Recorder("w0", time.monotonic_ns(), sink), Clock(), stall_timeout_s)
    return engine, sink


class Standing:
    """A stream as far as the engine's clockwork is concerned."""

    def __init__(self, conversation):
        self.conversation = conversation
        self.failed = []

    def fail(self, kind, detail):
        self.failed.append(kind)


def fed():
    """Locust's table and CSV after a second of known values."""
    refine_locust()
    environment = Environment()
    values = {
        "token_latency": np.array([120_400, 120_400, 250_000, 1_234_000], dtype=np.int64),
        "e2e": np.array([5_000_000, 7_500_000], dtype=np.int64),
        "itl": np.array([0, 400], dtype=np.int64),
    }
    flush = Flush(0, values, {}, {}, Counter({"stalled": 2}), Counter({"refused": 3}))
    for _ in range(2):
        feed(environment.stats, flush)
    stats = environment.stats
    over_http = Environment().stats
    feed(over_http, flush, HTTP)
    entries = {name: entry for (name, _), entry in stats.entries.items()}
    token = entries["token"]
    text = io.StringIO()
    StatsCSV(environment, PERCENTILES_TO_REPORT).requests_csv(csv.writer(text))
    draw = np.random.default_rng(1)
    many = (10 ** draw.uniform(2, 13, 200_000)).astype(np.int64)
    feed(stats, Flush(0, {"ttft": many}, {}, {}, Counter(), Counter()))
    first = stats.entries["first token", "WS"]
    buckets = {ms: bucket(ms) for ms in (0.0, 0.0004, 0.0123, 0.456, 1.0, 99.6, 123.0, 98_765.0)}
    return {
        "token": [token.num_requests, token.min_response_time, token.max_response_time, token.get_response_time_percentile(0.5)],
        "total": [stats.total.num_requests, stats.total.num_failures],
        "connect": [entries["connect"].num_requests, entries["connect"].num_failures],
        "errors": sorted((error.name, error.error, error.occurrences) for error in stats.errors.values()),
        "csv": text.getvalue(),
        "many": [first.num_requests, sum(first.response_times.values()), len(first.response_times)],
        "buckets": list(buckets.items()),
        "gap": sorted(entries["token gap"].response_times),
        "kinds": [
            sorted({kind for _, kind in table.entries}) + sorted({e.method for e in table.errors.values()}) for table in (stats, over_http)
        ],
    }


def clockwork():
    """The engine's ticks, sweeps and flushes, with a loop that is held up and a disk that fills."""
    engine, sink = make_engine(0.05)
    flushes, broken = [], []
    engine.flushed = flushes.append
    engine.broken = lambda error: broken.append(error.strerror)
    engine.users = lambda: 7
    engine.start()
    running = Conversation(0, 0, 1, 1)
    running.sent = time.monotonic_ns()
    stream = Standing(running)
    engine.streams.add(stream)
    gevent.sleep(0.05)
    block(0.2)
    gevent.sleep(0.05)
    engine.sweep()
    tainted = running.taint
    engine.streams.discard(stream)
    while len(flushes) < 2:
        gevent.sleep(0.01)
    sink.full = True
    while not broken:
        gevent.sleep(0.01)
    engine.stop()
    gauges = [row for row in sink.rows if row["table"] == "intervals" and "users" in row and row["users"] != "None"]
    return {
        "tainted": tainted, "failed": stream.failed, "lag_ns": max(int(row["loop_lag_max_ns"]) for row in gauges), "broken": broken,
        "seconds": [int(row["second"]) for row in gauges], "users": sorted({row["users"] for row in gauges}),
    }  # fmt: skip


def resolved():
    engine, _ = make_engine()
    told = {}
    for host in ("127.0.0.1", "localhost", "::1", "no-such-host.invalid", "a..b", "x" * 64 + ".invalid"):
        try:
            family, address = engine.resolve(host, 80)
            told[host] = [family, address[1]]
        except OSError as error:
            told[host] = type(error).__name__
    return told


def arrivals():
    """What becomes of arrivals that a user cannot serve after all."""
    told = {}
    for drop in (False, True):
        recorder = Recorder("w0", 0, Sink())
        counts = Counter()
        recorder.count_at = lambda counter, instant, counts=counts: counts.update([counter])
        loop = OpenLoop(drop, recorder)
        loop.give_back((5, Arrival(0, 0)))
        told[f"{drop}/kept"] = [[due for due, _ in loop._backlog], counts["arrivals_dropped"]]
        if not drop:
            told["taken"] = loop.take()[0]
        waiting = gevent.spawn(loop.take)
        gevent.sleep(0)
        loop.give_back((6, Arrival(0, 0)))
        told[f"{drop}/handed"] = waiting.get(timeout=5)[0]
        killed = gevent.spawn(loop.take)
        gevent.sleep(0)
        # Ended in the same moment as it was handed an arrival.
        killed.kill(block=False)
        loop.give_back((7, Arrival(0, 0)))
        killed.join()
        told[f"{drop}/killed"] = [[due for due, _ in loop._backlog], counts["arrivals_dropped"], len(loop._waiting)]
        loop.stop()
        loop.give_back((8, Arrival(0, 0)))
        loop.start(Share(arrive(evenly(), flat(100))), time.monotonic_ns())
        told[f"{drop}/over"] = [counts["arrivals_dropped"], counts["arrivals_due"], loop._greenlet is None]
    return told


def redeal():
    """Two processes' open loops over one schedule, dealt anew in the middle; the arrivals that each handed out."""
    start, taken, loops = time.monotonic_ns() + 20_000_000, [[], []], []

    def user(loop, found):
        while True:
            due, arrival = loop.take()
            found.append([arrival.number, due - start])

    for worker in range(2):
        loops.append(OpenLoop(False, Recorder("w0", 0, Sink())))
        gevent.spawn(user, loops[worker], taken[worker])
        loops[worker].start(Share(arrive(evenly(), flat(1000)), worker, 2), start)
    gevent.sleep(0.05)
    now = time.monotonic_ns() - start
    from_ns = now + 500_000_000
    loops[0].redeal(from_ns, None, 1)
    loops[1].redeal(from_ns, 0, 1)
    gevent.sleep(0.6)
    for loop in loops:
        loop.stop()
    return {"from_ns": from_ns, "taken": taken}


def patience():
    """An arrival that has been late for longer than it has patience."""
    recorder = Recorder("w0", 0, Sink())
    counts = Counter()
    recorder.count_at = lambda counter, instant: counts.update([counter])
    loop = OpenLoop(False, recorder, patience_ns=20_000_000)
    loop.start(Share(arrive(evenly(), flat(1000))), time.monotonic_ns())
    gevent.sleep(0.2)
    waiting = len(loop._backlog)
    oldest = time.monotonic_ns() - loop.take()[0]
    loop.stop()
    return {"counts": counts, "waiting": waiting, "oldest_ns": oldest}


def hours():
    """Locust's table after thousands of seconds with a conversation each."""
    environment = Environment()
    stats = environment.stats
    for second in range(2500):
        feed_second(stats, second)
        stats.history.append({"time": second})
        bound(stats, float(second))
    kept = [point["time"] for point in stats.history]
    return {
        "rates": max(len(entry.num_reqs_per_sec) for entry in (stats.total, *stats.entries.values())),
        "history": len(kept),
        "ends": [kept[0], kept[-1]],
        "rising": kept == sorted(kept),
    }


def feed_second(stats, second):
    """As ``feed`` does, but at a second of our own."""
    for entry in (stats.total, stats.entries["conversation", "WS"]):
        entry.num_reqs_per_sec[second] = 1
        entry.num_fail_per_sec[second] = 1


def shapes():
    """What each shape wants in each second, until its end."""
    profile = Profile(users=20, base=4, run_time_s=12, start_s=2, length_s=4)
    told = {name: [shape.wanted(float(at), profile) for at in range(12)] for name, shape in SHAPES.items()}
    ladder = Profile(users=1, base=0, run_time_s=0, start_s=0, length_s=1, steps=((3, 2.0), (9, 2.5)))
    told["ladder"] = [one for one in (SHAPES["steps"].wanted(float(at), ladder) for at in range(9)) if one]
    return told


def metrics(*urls):
    told = []
    for url in urls:
        started = time.monotonic()
        samples = read_target_metrics(parse_uri(url), None)
        columns = None if samples is None else interval_columns(samples)
        told.append({"samples": samples, "columns": columns, "took_s": time.monotonic() - started})
    return told


scene, *arguments = sys.argv[1:]
scenes = (fed, clockwork, resolved, arrivals, redeal, patience, hours, shapes, metrics)
result = {one.__name__: one for one in scenes}[scene](*arguments)
sys.stdout.write(json.dumps(result, default=float))
