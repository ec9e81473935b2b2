"""What it costs the generator that somebody looks on: tokens per CPU-second with the Streaming page open, and without.

One run; its time is cut into pairs of stretches, one with viewers and one without, in an order that turns from pair to pair, so that what
drifts falls on both alike. The stretches are long against the page's one poll a second. Tokens and processor time are those of the run's
own record, second by second: nobody asks for them meanwhile, and both belong to the same seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import signal
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from loadtest.arrivals import SECOND_NS
from loadtest.run_directory import RunDirectory, RunDirectoryError
from reports.units import count

from . import limits
from .options import Parser
from .processes import Interrupts, Process, ProcessError, Processes, split_cpus
from .runner import LISTENING, SERVER_READY_S
from .signed_rank import estimate, lower_bound, upper_bound
from .terminal import consoles, refuse
from .ui import WEB_DRAIN_S, WEB_READY, WEB_READY_S, choose_port

POLL_S, STATS_POLL_S = 1.0, 2.0
"""How often the Streaming tab asks for its data, and Locust's page around it for its own."""
_TOKENS = re.compile(r"^streamgauge_run_tokens_total (\S+)", re.MULTILINE)
_SETTLE_S = 3.0
ALPHA = 0.025
"""On each side of the interval."""


class Viewer(threading.Thread):
    """Asks what a browser with the tab open asks, until told to stop."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        """Poll both addresses at their own pace."""
        part, second, asked = "", -1, 0
        while not self._over.wait(POLL_S):
            query = urllib.parse.urlencode({"part": part, "since": second})
            data: dict[str, Any] = json.loads(_get(f"{self._url}/streaming/data?{query}"))
            part = data["part"]
            second = data["rows"][-1][0] if data["rows"] else second
            asked += 1
            if asked % round(STATS_POLL_S / POLL_S) == 0:
                _get(f"{self._url}/stats/requests")

    def stop(self) -> None:
        """Look away."""
        self._over.set()
        self.join()


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  # our own page on loopback
        return str(answer.read().decode())


class Stretch(NamedTuple):
    """From when to when, by the wall clock in ns, and whether somebody looked on."""

    looking: bool
    begin_ns: int
    end_ns: int


def look_in_turns(url: str, pairs: int, seconds: float, viewers: int, stopped: Callable[[], bool]) -> list[Stretch]:
    """Stretches without and with viewers, a pair after another; those of whole pairs so far when stopped."""
    stretches: list[Stretch] = []
    for pair in range(pairs):
        for looking in (False, True) if pair % 2 == 0 else (True, False):
            watching = [Viewer(url) for _ in range(viewers)] if looking else []
            time.sleep(_SETTLE_S / 3)
            begin = time.time_ns()
            time.sleep(seconds)
            stretches.append(Stretch(looking, begin, time.time_ns()))
            for viewer in watching:
                viewer.stop()
            if stopped():
                return stretches[: len(stretches) // 2 * 2]
    return stretches


def rates_of(run: Path, stretches: Sequence[Stretch]) -> list[tuple[float, float]]:
    """Tokens per CPU-second without and with viewers, pair by pair, of the seconds that lie in a stretch whole."""
    directory = RunDirectory.open(run)
    origin_ns = directory.metadata()["origin_wall_ns"]
    rows = directory.table("intervals").to_pandas()
    begins_ns = origin_ns + rows["second"] * SECOND_NS
    found = []
    for stretch in stretches:
        inside = rows[(begins_ns >= stretch.begin_ns) & (begins_ns + SECOND_NS <= stretch.end_ns)]
        cpu_s = float(inside["cpu_ns"].sum()) / SECOND_NS
        if not cpu_s:
            raise ProcessError("no whole second was recorded in a stretch: make them longer (--seconds)")
        found.append(float(inside["tokens"].sum()) / cpu_s)
    pairs = zip(stretches[::2], found[::2], found[1::2], strict=True)
    return [(second, first) if stretch.looking else (first, second) for stretch, first, second in pairs]


def compare(rates: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Of pairs without and with viewers: both medians, and the ratio with its exact 95 % interval, None where the pairs are too few."""
    without, looking = np.array(rates).T
    ratio = np.log(looking / without)
    low, high = lower_bound(ratio, ALPHA), upper_bound(ratio, ALPHA)
    return {
        "without_tokens_per_cpu_s": float(np.median(without)), "with_tokens_per_cpu_s": float(np.median(looking)),
        "ratio": math.exp(estimate(ratio)), "ratio_low": None if low is None else math.exp(low),
        "ratio_high": None if high is None else math.exp(high),
    }  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Run the comparison; exit code 0, 1 when a process failed, 130 when interrupted."""
    parser = Parser(prog="python -m benchmarks viewer", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--gap-ms", type=float, default=5.0)
    parser.add_argument("--pairs", type=int, default=16, help="stretches with and without, in pairs")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a stretch")
    parser.add_argument("--viewers", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    (console, errors), rates = consoles(given.json), []
    limits.raise_file_limit()
    cpus = split_cpus()
    with tempfile.TemporaryDirectory(prefix="streamgauge-") as folder, Interrupts() as interrupts, Processes() as processes:
        try:
            server = processes.start(
                "the reference server", [sys.executable, "-m", "server", "--port", "0"], Path(folder) / "server.log", cpus and cpus[0]
            )
            match = server.wait_for_line(LISTENING, SERVER_READY_S, interrupts.asked)
            generator = _start_locust(processes, Path(folder), match[1] if match else "", given, cpus and cpus[1])
            generator.wait_for_line(WEB_READY, WEB_READY_S, interrupts.asked)
            url = f"http://127.0.0.1:{given.port}"
            _wait_for_tokens(url, interrupts.asked)
            stretches = look_in_turns(url, given.pairs, given.seconds, given.viewers, interrupts.asked)
            generator.stop(signal.SIGINT, WEB_DRAIN_S)
            rates = rates_of(next((Path(folder) / "runs").iterdir()), stretches)
        except (ProcessError, RunDirectoryError, OSError) as error:
            return refuse(errors, error)
    if not rates:
        return 130
    result = {"pairs": len(rates), "viewers": given.viewers, "users": given.users, **compare(rates)}
    if given.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        console.print(
            f"tokens per CPU-second, {len(rates)} pairs: {count(result['without_tokens_per_cpu_s'])} with nobody looking, "
            f"{count(result['with_tokens_per_cpu_s'])} with {given.viewers} (medians); ratio {result['ratio']:.3f}, "
            + ("too few pairs for an interval" if result["ratio_low"] is None else
               f"95 % interval {result['ratio_low']:.3f} to {result['ratio_high']:.3f}"),
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    return 130 if interrupts.count else 0


def _start_locust(processes: Processes, folder: Path, target: str, given: argparse.Namespace, cpus: Any) -> Process:
    given.port = choose_port(None)
    command = [
        sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--host", target, "--web-host", "127.0.0.1", "--web-port",
        str(given.port), "--autostart", "--users", str(given.users), "--spawn-rate", str(given.users), "--tokens", "100",
        "--gap-ms", str(given.gap_ms), "--stop-share", "0.2", "--runs-folder", str(folder / "runs"),
    ]  # fmt: skip
    return processes.start("Locust", command, folder / "generator.log", cpus)


def _wait_for_tokens(url: str, stopped: Any) -> None:
    deadline = time.monotonic() + WEB_READY_S
    while not stopped() and time.monotonic() < deadline:
        try:
            if (found := _TOKENS.search(_get(f"{url}/metrics"))) and float(found[1]) > 0:
                time.sleep(_SETTLE_S)
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise ProcessError("no token came: is another program on this port?")
