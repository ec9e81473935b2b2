"""What the faults are made on: servers, a generator, healthy runs to make damaged copies of, and the loads of both."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .experiment import Experiment, Server
from .processes import Process, Processes


@dataclass(slots=True)
class Bench:
    """What the faults use: the experiment, its servers, the length of a run in seconds, and healthy runs to make damaged copies of."""

    experiment: Experiment
    processes: Processes
    seconds: int
    healthy: list[Path] = field(default_factory=list)
    _reference: Server | None = None
    _null: Server | None = None

    @property
    def reference(self) -> Server:
        """The reference server, started when it is first asked for."""
        if self._reference is None:
            self._reference = self.experiment.start_reference()
        return self._reference

    @property
    def null(self) -> Server:
        """The null server, started when it is first asked for."""
        if self._null is None:
            self._null = self.experiment.start_null()
            prefer(self._null.process.pid, -20)
        return self._null

    def run(
        self, name: str, options: Sequence[str], during: Callable[[Process, Path], None] | None = None,
        codes: Container[int | None] = (0,), *, seconds: int | None = None,
    ) -> Path:  # fmt: skip
        """One run against the reference server; ProcessError when the generator ends otherwise than with one of ``codes``."""
        return self.experiment.generate(name, self.reference.url, options, seconds or self.seconds, during, codes)

    def spare(self) -> Path:
        """A healthy run in one process, made when there is none yet."""
        if not self.healthy:
            self.healthy.append(self.run("sound", load(20, 20, 40)))
        return self.healthy[0]


def prefer(pid: int, nice: int) -> None:
    """Let a process go before others where that is allowed: what they take of its core would weaken the fault."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, nice)
    # Where the kernel groups processes by their terminal session, what counts between the groups is the group's own.
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(nice), encoding="ascii")


def load(users: int, gap_ms: float, tokens: int, *more: str, window: int = 1, ttft_ms: float = 20) -> tuple[str, ...]:
    """Options of a closed loop whose users are all there at once."""
    return (
        "--users", str(users), "--spawn-rate", str(users), "--tokens", str(tokens), "--gap-ms", f"{gap_ms:g}", "--ttft-ms", f"{ttft_ms:g}",
        "--window", str(window), "--warm-up", "1", *more,
    )  # fmt: skip


def healthy_load(number: int, seed: int) -> tuple[str, tuple[str, ...]]:
    """The ``number``-th healthy load, drawn: its description and its options."""
    draw = random.Random(f"{seed}:{number}")
    users, gap_ms = draw.choice((4, 8, 16, 32)), draw.choice((5.0, 10.0, 20.0, 40.0))
    # No conversation longer than a second: a short run has to hold many.
    tokens = draw.randint(5, round(1000 / gap_ms / 2))
    window, stop_share, processes = (0, 1, 8)[number % 3], draw.choice((0.0, 0.0, 0.3)), 2 if draw.random() < 0.3 else 1
    options = list(load(users, gap_ms, tokens, "--seed", str(number + 1), window=window, ttft_ms=gap_ms))
    if stop_share:
        options += ["--stop-share", str(stop_share), "--stop-after-tokens", f"2-{max(2, tokens - 2)}"]
    if processes > 1:
        options += ["--processes", str(processes)]
    loop = draw.choice(("closed", "open", "open, Poisson"))
    if loop != "closed":
        # Half of what the users could answer, so that the schedule can be kept.
        rate = users / (tokens * gap_ms / 1e3) / 2
        options += ["--loop", "open", "--rate", f"{rate:.2f}", "--arrivals", "poisson" if "Poisson" in loop else "constant"]
    what = f"{loop}, {users} users, {tokens} tokens every {gap_ms:g} ms, window {window}, stopped {stop_share:.0%}, {processes} process(es)"
    return what, tuple(options)
