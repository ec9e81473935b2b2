"""Runs a suite: for each run the reference server and the generator as processes, live figures, a report, and everything stopped.

Order of every end, also after Ctrl-C and failures: the generator is asked to stop and drains, then the server, then what is left.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from rich.console import Console

from loadtest.run_directory import write_text

from . import limits
from .processes import Interrupts, Process, ProcessError, Processes, ended, split_cpus
from .progress import Figures, Progress
from .reachability import Access, UnreachableError, check_target, with_query
from .scenario import Run
from .server_command import ServerCommand
from .suite import Outcome, Suite

SERVER_READY_S: Final = 15.0
GENERATOR_READY_S: Final = 60.0
SERVER_DRAIN_S: Final = 15.0
GRACE_S: Final = 45.0
"""What the generator may take beyond its load and its stop timeout: writing and compacting a long run on a slow disk."""
LISTENING: Final = re.compile(r"listening on (ws://\S+)")
REFRESH_S: Final = 0.5
KNOWN_EXITS: Final = (0, 2, 12, 130)


class BenchError(Exception):
    """The suite cannot go on; the message is for the user, ``exit_code`` is by the one table of outcomes."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Plan:
    """What one call of ``bench`` does. ``server`` starts somebody's own server for each run, in the reference server's place; ``extra``
    are more options for the generator, as they are."""

    name: str
    runs: tuple[Run, ...]
    out: Path
    host: str | None = None
    access: Access = field(default_factory=Access)
    seed: int | None = None
    metrics_port: int = 0
    extra: tuple[str, ...] = ()
    server: ServerCommand | None = None

    @property
    def own_server(self) -> bool:
        """Whether the reference server is driven."""
        return self.host is None and self.server is None


def bench(plan: Plan, console: Console) -> Suite:
    """Run everything that ``plan`` says; BenchError (nothing left running) when it cannot be begun, else the suite with its outcomes."""
    check_machine(plan)
    if plan.host is not None:
        reach(plan.host, plan.access, http=any(run.adapter for run in plan.runs))
    folder = new_folder(plan.out, plan.name)
    suite = Suite(plan.name, folder, [run.name for run in plan.runs])
    with Interrupts() as interrupts, Processes() as processes:
        for number, run in enumerate(plan.runs, start=1):
            title = f"[{number}/{len(plan.runs)}] {run.name}" if len(plan.runs) > 1 else run.name
            outcome = Conductor(plan, run, folder, processes, interrupts, console).conduct(title)
            if outcome.exit_code == 2 and number == 1 and not outcome.directory.exists():
                # Nothing was measured: the sentence is all there is to say, and an empty folder would only be in the way.
                shutil.rmtree(folder)
                raise BenchError("\n".join(f"{run.name}: {message}" for message in outcome.messages), 2)
            suite.outcomes.append(outcome)
            suite.write()
            if interrupts.count or outcome.exit_code in (1, 2):
                break
    return suite


def check_machine(plan: Plan) -> None:
    """BenchError when this machine lacks something that a run of the plan needs."""
    for run in plan.runs:
        load = run.load
        per_token = 64.0 if load.record_tokens else 0.0
        missing = limits.check_machine(
            load.users_max, load.seconds, plan.out, processes=load.processes, server_processes=run.target.processes,
            sources=load.source_addresses, target=urlsplit(plan.host or "").hostname or "", own_server=plan.own_server,
            bytes_per_token=per_token, tokens_per_s=100_000.0 if load.record_tokens else 0.0,
        )  # fmt: skip
        if missing:
            raise BenchError(f"{run.name}: {' '.join(missing)}", 2)


def reach(url: str, access: Access, *, http: bool = False) -> None:
    """BenchError when no WebSocket server answers at ``url``, nor, where that is meant, an HTTP server."""
    try:
        check_target(url, access, http=http)
    except UnreachableError as error:
        raise BenchError(str(error), 2) from None


def new_folder(out: Path, name: str) -> Path:
    """Make the suite's folder, named by the time; BenchError when that cannot be written."""
    if Path(name).name != name or not name.isprintable():
        raise BenchError(f"expected a name of one folder, without a path, and got {name!r}", 2)
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    for attempt in range(1, 1000):
        folder = out / (f"{stamp}_{name}" if attempt == 1 else f"{stamp}_{name}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not out.is_dir():
                raise BenchError(f"expected a folder for runs at {out}, and it is a file; choose another (--out)", 2) from None
            continue
        except OSError as error:
            raise BenchError(f"cannot write a run below {out}: {error.strerror}; choose a writable folder (--out)", 2) from None
        return folder.resolve()
    raise BenchError(f"a thousand runs of this second stand in {out}; choose another folder (--out)", 2)


class Conductor:
    """One run from the server's start to the report.

    ``watch`` is asked twice a second whether there is a reason to end the run before its time; ``aborted`` is the one it gave.
    """

    def __init__(
        self, plan: Plan, run: Run, folder: Path, processes: Processes, interrupts: Interrupts, console: Console,
        watch: Callable[[], str | None] | None = None,
    ) -> None:  # fmt: skip
        self.plan = plan
        self.run = run
        self.folder = folder
        self.processes = processes
        self.interrupts = interrupts
        self.console = console
        self.directory = folder / run.name
        self.cpus = split_cpus() if plan.host is None else None
        self.server: Process | None = None
        self.generator: Process | None = None
        self.watch = watch
        self.aborted: str | None = None

    def conduct(self, title: str, *, charts: bool = True) -> Outcome:
        """Do it all; what goes wrong on the way is in the outcome, and nothing is left running."""
        started = time.monotonic()
        outcome = Outcome(self.run, self.directory)
        latency = "token_latency" if self.run.load.gap_ms == 0 and self.run.load.window else "itl"
        with Progress(self.console, title, self.run.load.seconds) as progress:
            try:
                progress.show("starting")
                url = self.plan.host or self.start_server()
                if url is not None and not self.interrupts.count:
                    self.generator = self.start_generator(url)
                    self.follow(progress, Figures(self.directory, latency), outcome)
            except ProcessError as error:
                outcome.fail(str(error), 2 if error.usage else 1)
            except BenchError as error:
                outcome.fail(str(error), error.exit_code)
            finally:
                self.stop(progress, outcome)
        if self.interrupts.count:
            outcome.interrupt()
        outcome.settle()
        self.keep_logs()
        outcome.report(self.interrupts, charts=charts)
        outcome.seconds = time.monotonic() - started
        return outcome

    def start_server(self) -> str | None:
        """The URL of a freshly started server, the reference server or the plan's own; None when interrupted meanwhile."""
        if self.plan.server is not None:
            self.server, url = self.plan.server.start(self.processes, self._log("server"), self.cpus and self.cpus[0], self.asked)
            if url is not None:
                reach(with_query(url, self.run.load.query_pairs), self.plan.access, http=bool(self.run.adapter))
            return url
        target = self.run.target
        command = [sys.executable, "-m", target.module, "--port", "0", *target.arguments()]
        self.server = self.processes.start("the reference server", command, self._log("server"), self.cpus and self.cpus[0])
        match = self.server.wait_for_line(LISTENING, SERVER_READY_S, self.interrupts.asked)
        if match is None:
            return None
        url = target.url(match[1])
        reach(with_query(url, self.run.load.query_pairs), Access(), http=bool(self.run.adapter))
        return url

    def asked(self) -> bool:
        """Whether somebody asked us to stop."""
        return self.interrupts.asked()

    def start_generator(self, url: str) -> Process:
        """Locust, without its web page, writing the run directory."""
        scenario = self.folder / f".{self.run.name}.scenario.json"
        write_text(scenario, json.dumps(self.run.as_dict(), ensure_ascii=False, indent=2) + "\n")
        command = [
            sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary", "--host", url,
            "--run-dir", str(self.directory), "--scenario-file", str(scenario), *self.run.load.options(), *self.plan.access.options(),
        ]  # fmt: skip
        if self.run.adapter:
            table = self.folder / f".{self.run.name}.adapter.json"
            write_text(table, json.dumps({"adapter": dict(self.run.adapter)}, ensure_ascii=False) + "\n")
            command.append(f"--adapter-file={table}")
        if self.plan.seed is not None:
            command.append(f"--seed={self.plan.seed}")
        if self.plan.metrics_port:
            command.append(f"--metrics-port={self.plan.metrics_port}")
        return self.processes.start("the generator", [*command, *self.plan.extra], self._log("generator"), self.cpus and self.cpus[1])

    def follow(self, progress: Progress, figures: Figures, outcome: Outcome) -> None:
        """Show what happens until the generator ends, is interrupted, takes too long, or loses its server."""
        assert self.generator is not None
        load = self.run.load
        deadline = time.monotonic() + GENERATOR_READY_S
        begun = False
        refreshed = 0.0
        while (code := self.generator.wait(0.1, self.interrupts.asked)) is None:
            if self.interrupts.count:
                return
            if self.server is not None and (server_code := self.server.poll()) is not None:
                raise ProcessError(f"{self.server.name} {ended(server_code)} in the middle of the run{self.server.said()}")
            if not begun and (self.directory / "raw").is_dir():
                begun = True
                deadline = time.monotonic() + load.seconds + load.stop_timeout_s + GRACE_S
                progress.restart()
            if time.monotonic() > deadline:
                raise ProcessError(f"the generator did not {'end' if begun else 'begin'} in time{self.generator.said()}")
            if begun and time.monotonic() - refreshed >= REFRESH_S:
                figures.update()
                refreshed = time.monotonic()
                # The raw files go when the tables are written: from then on nothing is new.
                loading = (self.directory / "raw").is_dir()
                progress.show("load" if loading else "ending", figures.line())
                if loading and self.watch is not None and (reason := self.watch()) is not None:
                    self.aborted = reason
                    return
        outcome.exit_code = code if code in KNOWN_EXITS else 1
        if code == 2:
            outcome.fail(self.generator.refusal(), 2)
        elif code not in KNOWN_EXITS:
            outcome.fail(f"the generator {ended(code)}{self.generator.said()}", 1)

    def stop(self, progress: Progress, outcome: Outcome) -> None:
        """The generator first, so that it drains against a living server; then the server. Killed only after their deadlines."""

        def hurry() -> bool:
            return self.interrupts.count >= 2

        if self.generator is not None and self.generator.poll() is None:
            progress.show("draining")
            drain_s = self.run.load.stop_timeout_s + GRACE_S
            if self.generator.stop(signal.SIGINT, 0 if hurry() else drain_s, hurry) == -signal.SIGKILL:
                outcome.messages.append("the generator was killed before it had drained")
        if self.server is not None and self.server.poll() is None:
            progress.show("stopping")
            self.server.stop(signal.SIGTERM, 1 if hurry() else SERVER_DRAIN_S, hurry)

    def keep_logs(self) -> None:
        """Put what the processes printed beside what they measured, where there is such a place."""
        for kind in ("scenario", "adapter"):
            (self.folder / f".{self.run.name}.{kind}.json").unlink(missing_ok=True)
        if self.directory.is_dir():
            for who in ("server", "generator"):
                if self._log(who).exists():
                    self._log(who).replace(self.directory / f"{who}.log")

    def _log(self, who: str) -> Path:
        return self.folder / f"{self.run.name}.{who}.log"
