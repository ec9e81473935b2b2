"""Runs a regression check: block after block until a look decides. Everything it measures is on disk before the next block begins."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .check_blocks import block_lines
from .check_plan import BASE, HEAD, CheckPlan
from .check_targets import LETTERS, Running, Side, Sides
from .processes import Interrupted, Interrupts, Process, ProcessError, Processes, ended, split_cpus
from .reachability import Access
from .verdict import UNDECIDED, judge_at

GRACE_S: Final = 60.0
"""What a block may take beyond its slices: starting, draining and writing on a slow machine."""
SLICE: Final = re.compile(r"^slice (\d+) (\w+)$", re.MULTILINE)
ZSTD: Final = "zstd"
LOGS: Final = "logs"
GENERATOR_LOG: Final = "generator.log"


@dataclass(slots=True)
class Follower:
    """What is told while a check runs; each function does nothing unless set."""

    begins: Callable[[Path], None] = lambda folder: None
    slice_begins: Callable[[int, int, str], None] = lambda block, number, arm: None
    measured: Callable[[Sequence[Mapping[str, Any]], float], None] = lambda blocks, seconds: None


@dataclass(slots=True)
class CheckRun:
    """One check: ``run`` it, then take ``blocks``. ``keep_tokens`` writes every token to ``tokens.parquet``."""

    plan: CheckPlan
    sides: Mapping[str, Side]
    query: tuple[tuple[str, str], ...]
    access: Access
    workload: Mapping[str, Any]
    folder: Path
    keep_tokens: bool = True
    follower: Follower = field(default_factory=Follower)
    blocks: list[dict[str, Any]] = field(default_factory=list)

    def run(self, interrupts: Interrupts) -> bool:
        """Measure until a look decides or the plan ends; False when interrupted. ProcessError or TargetError when a block fails."""
        cpus = split_cpus() if all(side.url is None for side in self.sides.values()) else None
        writer: Any = None
        with Processes() as processes, (self.folder / "blocks.jsonl").open("a", encoding="utf-8") as file:
            work = self.folder / LOGS
            work.mkdir(exist_ok=True)
            servers = Sides(
                self.sides, self.query, self.access, processes, work, cpus and cpus[0], interrupts.asked
            )  # fmt: skip
            try:
                for number in range(1, self.plan.looks[-1] + 1):
                    interrupts.go_on()
                    began = time.monotonic()
                    slices, arrays = self._block(number, servers, processes, cpus and cpus[1], interrupts)
                    lines = block_lines(number, self.plan.orders[number - 1], slices, arrays)
                    for line in lines:
                        file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
                    file.flush()
                    self.blocks.append(lines[-1])
                    if self.keep_tokens:
                        writer = self._append_tokens(writer, number, slices, arrays)
                    self.follower.measured(self.blocks, time.monotonic() - began)
                    if number in self.plan.looks and judge_at(self.plan, self.blocks)["verdict"] != UNDECIDED:
                        break
            except Interrupted:
                return False
            finally:
                if writer is not None:
                    writer.close()
        return True

    def _block(
        self, number: int, servers: Sides, processes: Processes, cpus: frozenset[int] | None, interrupts: Interrupts
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        work = self.folder / LOGS
        job, out = work / f"block-{number:03d}.job", work / f"block-{number:03d}"
        # Its imports pass while the servers start: it waits for the job's file.
        command = [sys.executable, "-m", "loadtest.alternation", str(job), str(out)]
        generator = processes.start("the generator", command, work / GENERATOR_LOG, cpus)
        running: dict[str, Running] = {}
        try:
            running = servers.start(self.plan.starts[number - 1])
            interrupts.go_on()
            self._write_job(job, number, running)
            self._follow(generator, number, interrupts)
        finally:
            # It may bear a token that lets us in: it goes whatever becomes of the block.
            job.unlink(missing_ok=True)
            generator.stop(signal.SIGTERM, 2)
            servers.stop(running)
        slices: list[dict[str, Any]] = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
        with np.load(out.with_suffix(".npz")) as file:
            arrays = {name: file[name] for name in file.files}
        for path in (out.with_suffix(".json"), out.with_suffix(".npz")):
            path.unlink()
        return slices, arrays

    def _write_job(self, path: Path, number: int, running: Mapping[str, Running]) -> None:
        targets = {name: {"url": one.url, "pid": one.process and one.process.pid} for name, one in running.items()}
        job = {
            **self.workload, "block": number, "seed": self.plan.seed + number, "order": _names(self.plan.orders[number - 1]),
            "starts": _names(self.plan.starts[number - 1]), "slice_s": self.plan.slice_s, "warm_up_s": self.plan.warm_up_s,
            "targets": targets, "headers": list(self.access.header_table().items()), "subprotocols": self.access.subprotocols,
            "origin": self.access.origin, "insecure": self.access.insecure, "ca_file": self.access.ca_file and str(self.access.ca_file),
        }  # fmt: skip
        temporary = path.with_suffix(".part")
        # It may bear a token that lets us in.
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(job), encoding="utf-8")
        temporary.replace(path)

    def _follow(self, generator: Process, number: int, interrupts: Interrupts) -> None:
        slices = len(self.plan.orders[number - 1])
        deadline = time.monotonic() + slices * self.plan.slice_s + 2 * self.plan.warm_up_s + GRACE_S
        told = 0
        while (code := generator.wait(0.02, interrupts.asked)) is None:
            interrupts.go_on()
            for match in list(SLICE.finditer(generator.text()))[told:]:
                told += 1
                self.follower.slice_begins(number, int(match[1]), match[2])
            if time.monotonic() > deadline:
                raise ProcessError(f"the generator did not end block {number} in time{generator.said()}")
        if code:
            raise ProcessError(
                generator.refusal() if code == 2 else f"the generator {ended(code)} in block {number}{generator.said()}", code
            )

    def _append_tokens(self, writer: Any, number: int, slices: Sequence[Mapping[str, Any]], arrays: Mapping[str, Any]) -> Any:
        head = np.zeros(len(slices) + 1, dtype=np.bool_)
        for row in slices:
            head[row["slice"]] = row["arm"] == HEAD
        of_slice = arrays["token_slice"]
        names = ("slice", "conversation", "sequence", "latency_ns", "itl_ns", "receive_lag_ns")
        columns = {name: pa.array(arrays[f"token_{name}"]) for name in names}
        for name in ("latency_ns", "itl_ns"):
            values = arrays[f"token_{name}"]
            columns[name] = pa.array(values, mask=values < 0)
        block = pa.array(np.full(of_slice.size, number, dtype=np.int16))
        arm = pa.DictionaryArray.from_arrays(pa.array(head[of_slice].astype(np.int8)), pa.array([BASE, HEAD]))
        table = pa.table({"block": block, "arm": arm, **columns})
        if writer is None:
            writer = pq.ParquetWriter(self.folder / "tokens.parquet", table.schema, compression=ZSTD)
        writer.write_table(table)
        return writer


def _names(order: str) -> list[str]:
    return [LETTERS[letter] for letter in order]
