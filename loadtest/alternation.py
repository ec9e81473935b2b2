"""``python -m loadtest.alternation JOB OUT``: one process drives two targets in turn, slice by slice; the regression check's generator.

Only the target whose turn it is gets load, and its conversations end before the next turn begins. Users keep their connections from turn
to turn. Nothing is worked out while load is made: the raw instants are kept and written to ``OUT`` at the end, one row a token.
"""

from __future__ import annotations

import gc
import json
import random
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import gevent
import numpy as np

from .adapter import WEBSOCKET, AdapterError, load_adapter, make_adapter
from .arrivals import SECOND_NS, StopPlan
from .clock import Clock
from .connection import Connection
from .conversation import Conversation, finished_row, measure
from .engine import Engine
from .expense import Instructions, cpu_by_process, descendants, spent_between
from .opening import ConnectError, Target
from .population import PopulationError, generate_prompt, read_prompts
from .recorder import Recorder
from .run import connection_for
from .settings import SettingsError, parse_target

OUTCOMES: Final = ("completed", "stopped", "empty", "failed", "abandoned")
"""Outcomes by the number that stands for each in the arrays."""
BACKOFF_S: Final = 0.05
JOB_WAIT_S: Final = 60.0
ABSENT: Final = -1


class Arm:
    """One of the two targets: its connections, one a user, and the conversations of the slice that runs."""

    def __init__(self, name: str, job: Mapping[str, Any], engine: Engine) -> None:
        told = job["targets"][name]
        uri = parse_target(told["url"], job.get("transport", WEBSOCKET))
        context = None
        if uri.secure:
            context = ssl.create_default_context(cafile=job.get("ca_file"))
            if job.get("insecure"):
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.name = name
        self.pid: int | None = told.get("pid")
        self.target = Target(
            uri, headers=tuple((key, value) for key, value in job.get("headers", ())), subprotocols=tuple(job.get("subprotocols", ())),
            origin=job.get("origin"), tls=context, connect_timeout_s=5.0,
        )  # fmt: skip
        self.engine = engine
        self.users: list[Connection | None] = [None] * job["users"]
        self.turns = [0] * job["users"]
        self.ended: list[Conversation] = []
        self.failed_connects = 0
        self.connect_times: list[int] = []
        self.instructions: Instructions | None = None

    def count_instructions(self) -> None:
        """Begin to count, now that its processes are there."""
        self.instructions = Instructions(descendants(self.pid)) if self.pid is not None else None


class Notes(Recorder):
    """Keeps conversations as they end instead of measuring them meanwhile."""

    def __init__(self, origin: int) -> None:
        super().__init__("check", origin, _Nowhere())
        self.ended: list[Conversation] = []

    def finish(self, conversation: Conversation) -> None:
        """Keep it."""
        self.ended.append(conversation)


class _Nowhere:
    """A sink for what nobody reads: the rows of connections."""

    def append(self, table: str, columns: Any) -> None:
        """Forget it."""


class Alternation:
    """One block: warm both up, then the slices in their order."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.job = job
        self.notes = Notes(time.monotonic_ns())
        self.engine = Engine(self.notes, Clock(), job["stall_timeout_s"])
        self.arms = {name: Arm(name, job, self.engine) for name in job["targets"]}
        self.adapter = load_adapter(job["adapter"])
        self.options = {"window": job["window"], **job.get("adapter_options", {})}
        self.prompts = read_prompts(Path(job["prompts"])) if job.get("prompts") else ()
        self.draw = random.Random()
        self.stops = StopPlan(job["stop_share"], tuple(job["stop_after_tokens"]) if job["stop_after_tokens"] else None)
        self.slices: list[dict[str, Any]] = []
        self.tokens: list[dict[str, Any]] = []

    def run(self) -> None:
        """All of it; what was measured is in ``slices`` and ``tokens``."""
        say(f"block {self.job['block']}")
        sweeper = gevent.spawn(self._sweep)
        kept: list[tuple[dict[str, Any], list[Conversation]]] = []
        try:
            for name in self.job["starts"]:
                self._load(self.arms[name], self.job["warm_up_s"])
                # What is asked for begins anew with the first slice: the k-th conversation of a user is the same on both arms.
                self.arms[name].turns = [0] * self.job["users"]
                self.arms[name].count_instructions()
            # Lists of integers make no cycles, and a search for some in the middle of a slice would be a stall of ours.
            gc.collect()
            gc.freeze()
            gc.disable()
            for number, name in enumerate(self.job["order"], start=1):
                say(f"slice {number} {name}")
                arm = self.arms[name]
                before = self._read(arm)
                self._load(arm, self.job["slice_s"])
                after = self._read(arm)
                kept.append((_row(number, arm, before, after), arm.ended))
            say("slices done")
            step = self.engine.clock.check()
        finally:
            sweeper.kill()
            self._close()
        for row, conversations in kept:
            row["clock_step_ns"] = step
            self._measure(row, conversations)

    def _load(self, arm: Arm, seconds: float) -> None:
        """Let all users of an arm converse for a time, and wait until the last has ended."""
        arm.ended = self.notes.ended = []
        arm.failed_connects = 0
        until = time.monotonic_ns() + round(seconds * SECOND_NS)
        gevent.joinall([gevent.spawn(self._converse, arm, user, until) for user in range(len(arm.users))], raise_error=True)

    def _converse(self, arm: Arm, user: int, until: int) -> None:
        job = self.job
        while time.monotonic_ns() < until:
            stream = self._connected(arm, user)
            if stream is None:
                gevent.sleep(BACKOFF_S)
                continue
            # The same for both targets, whatever the other users do meanwhile.
            self.draw.seed(f"{job['seed']}:{user}:{arm.turns[user]}")
            arm.turns[user] += 1
            prompt = self.draw.choice(self.prompts) if self.prompts else generate_prompt(self.draw, job["prompt_bytes"])
            conversation = Conversation(stream.number, self.notes.number_conversation(), len(arm.users), stream.window)
            stream.converse(conversation, prompt, self.stops.draw(self.draw))

    def _connected(self, arm: Arm, user: int) -> Connection | None:
        stream = arm.users[user]
        if stream is not None and stream.closed is None:
            return stream
        arm.users[user] = None
        stream = connection_for(make_adapter(self.adapter, self.options), self.engine, arm.target, user)
        try:
            stream.open()
        except ConnectError as error:
            arm.failed_connects += 1
            say(f"connect {arm.name} {error}")
            return None
        if stream.opening.connect_time_ns is not None:
            arm.connect_times.append(stream.opening.connect_time_ns)
        arm.users[user] = stream
        return stream

    def _sweep(self) -> None:
        while True:
            gevent.sleep(0.5)
            self.engine.sweep()

    def _close(self) -> None:
        streams = [stream for arm in self.arms.values() for stream in arm.users if stream is not None]
        gevent.joinall([gevent.spawn(stream.close, 1000, 0.5) for stream in streams], timeout=2)

    def _read(self, arm: Arm) -> dict[str, Any]:
        return {
            "at": time.monotonic_ns(), "cpu": cpu_by_process(arm.pid) if arm.pid is not None else {}, "own_cpu": time.process_time_ns(),
            "instructions": arm.instructions.read() if arm.instructions is not None else None, "steal": _steal(), "pressure": _pressure(),
        }  # fmt: skip

    def _measure(self, row: dict[str, Any], conversations: Sequence[Conversation]) -> None:
        """Add the counts of a slice to its row, and its tokens and conversations to the arrays."""
        measured = measure(conversations)
        rows = [finished_row(c, self.notes.origin) for c in conversations]
        errors: dict[str, int] = {}
        for one in rows:
            if one["error"] is not None:
                errors[one["error"]] = errors.get(one["error"], 0) + 1
        outcomes = [OUTCOMES.index(one["outcome"]) for one in rows]
        tokens = sum(one["tokens"] for one in rows)
        row |= {
            "conversations": len(rows), "tokens": tokens, "errors": errors,
            **{outcome: outcomes.count(number) for number, outcome in enumerate(OUTCOMES)},
        }  # fmt: skip
        self.slices.append(row)
        numbers = np.array([c.number for c in conversations], dtype=np.int32)
        self.tokens.append(
            {
                "token_slice": np.full(measured.arrival.size, row["slice"], dtype=np.int8),
                "token_conversation": numbers[measured.owner] if measured.arrival.size else numbers[:0],
                "token_sequence": measured.sequence.astype(np.int32), "token_latency_ns": measured.latency, "token_itl_ns": measured.gap,
                "token_receive_lag_ns": measured.lag, "conversation_slice": np.full(len(rows), row["slice"], dtype=np.int8),
                "conversation_number": numbers, "conversation_outcome": np.array(outcomes, dtype=np.int8),
                **{
                    f"conversation_{name}": np.array([ABSENT if one[name] is None else one[name] for one in rows], dtype=np.int64)
                    for name in ("tpot_ns", "ttft_ns", "stop_latency_ns")
                },
            }
        )  # fmt: skip


def _row(number: int, arm: Arm, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    wall = after["at"] - before["at"]
    counted = None if before["instructions"] is None or after["instructions"] is None else after["instructions"] - before["instructions"]
    return {
        "slice": number, "arm": arm.name, "duration_ns": wall, "failed_connects": arm.failed_connects,
        "cpu_ns": spent_between(before["cpu"], after["cpu"]), "instructions": counted,
        "generator_cpu_ns": after["own_cpu"] - before["own_cpu"], "steal_share": _share(before["steal"], after["steal"]),
        "pressure_ns": None if before["pressure"] is None or after["pressure"] is None else after["pressure"] - before["pressure"],
    }  # fmt: skip


def _share(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    if before is None or after is None or after[1] <= before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])


def _steal() -> tuple[int, int] | None:
    """Ticks that the hypervisor gave to others, and all ticks, over all processors; None where the kernel does not say."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    return (ticks[7], sum(ticks)) if len(ticks) == 8 else None


def _pressure() -> int | None:
    """For how long, in ns since the start of the machine, something that could run had to wait for a processor; None where unknown."""
    try:
        with open("/proc/pressure/cpu", encoding="ascii") as file:
            return int(file.readline().rpartition("=")[2]) * 1000
    except (OSError, ValueError):
        return None


def say(line: str) -> None:
    """One line for whoever follows."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def wait_for_job(path: Path) -> dict[str, Any]:
    """The job, as soon as its file is there: the imports of this process pass while the servers start."""
    deadline = time.monotonic() + JOB_WAIT_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise SettingsError(f"expected the job {path} within {JOB_WAIT_S:g} s, and it did not come")
        time.sleep(0.01)
    job: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return job


def write(alternation: Alternation, out: Path) -> None:
    """Write arrays and slices; the slices' file comes last, in one step: where it is, all is there."""
    arrays = {name: np.concatenate([part[name] for part in alternation.tokens]) for name in alternation.tokens[0]}
    arrays |= {f"connect_time_ns_{name}": np.array(arm.connect_times, dtype=np.int64) for name, arm in alternation.arms.items()}
    with out.with_suffix(".npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    written = out.with_suffix(".json")
    temporary = written.with_suffix(".part")
    temporary.write_text(json.dumps(alternation.slices), encoding="utf-8")
    temporary.replace(written)


def main(arguments: Sequence[str]) -> int:
    """Do the job of file ``arguments[0]`` and write ``arguments[1]``.json and .npz; returns 0, or 2 when the job cannot be done."""
    try:
        alternation = Alternation(wait_for_job(Path(arguments[0])))
        alternation.run()
    except (AdapterError, PopulationError, SettingsError) as error:
        sys.stderr.write(f"streamgauge: {error}\n")
        return 2
    write(alternation, Path(arguments[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
