"""``python -m benchmarks servers``: the same conversation on several servers: a ladder of users, and the ceiling, in one interleaved run.

Every server in Python holds its conversations by the same code (``server/answers.py``), so that what differs is the library under it;
node's is written anew (``benchmarks/peers/ws_server.cjs``). The generator is Locust with our engine, on cores apart where there are some.
A server that cannot be started here (no node, no package) is left out, and that is said.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console
from rich.markup import escape

from loadtest.environment import describe_machine, describe_versions
from loadtest.run_directory import RunDirectory, RunDirectoryError, write_text
from reports.summary import summarise

from .processes import ROOT, Interrupts, Process, ProcessError, Processes, ended, split_cpus
from .runner import new_folder
from .server_result import draw, print_result, write_markdown

LISTENING: Final = re.compile(r"listening on (ws://127\.0\.0\.1:(\d+)/ws)")
READY_S: Final = 30.0
GRACE_S: Final = 60.0
WARM_UP_S: Final = 1
PYTHON: Final = (sys.executable, "-m")
COMMON: Final = ("--port", "0", "--quiet")
SERVERS: Final[Mapping[str, tuple[str, ...]]] = {
    "websockets": (*PYTHON, "server", *COMMON),
    "websockets, uvloop": (*PYTHON, "server", *COMMON, "--uvloop"),
    "FastAPI + uvicorn": (*PYTHON, "server.fastapi_app", *COMMON),
    "FastAPI + uvicorn, uvloop": (*PYTHON, "server.fastapi_app", *COMMON, "--uvloop"),
    "aiohttp": (*PYTHON, "server.aiohttp_app", *COMMON),
    "picows": (*PYTHON, "server.picows_app", *COMMON),
    "picows, uvloop": (*PYTHON, "server.picows_app", *COMMON, "--uvloop"),
    "node ws": ("node", "benchmarks/peers/ws_server.cjs"),
    "websockets behind nginx": (*PYTHON, "server", *COMMON),
}
NGINX: Final = "websockets behind nginx"


class Interrupted(Exception):  # noqa: N818 - it is no error
    """Somebody asked us to stop."""


@dataclass(slots=True)
class Arm:
    """A running server: what is driven, and the processes whose time counts as its own."""

    url: str
    started: list[Process]

    def cpu_s(self) -> float:
        """Processor time of all of it."""
        total = 0.0
        for process in self.started:
            root = psutil.Process(process.pid)
            for each in (root, *root.children(recursive=True)):
                times = each.cpu_times()
                total += times.user + times.system
        return total


@dataclass(slots=True)
class Bench:
    """What the measurements share."""

    folder: Path
    processes: Processes
    interrupts: Interrupts
    console: Console
    given: argparse.Namespace
    cpus: tuple[frozenset[int], frozenset[int]] | None
    figures: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    _number: int = 0

    def start(self, name: str) -> Arm:
        """Start a server; ProcessError when it does not."""
        self._number += 1
        stem = self.folder / f"{self._number:03}"
        cpus = self.cpus and self.cpus[0]
        environment = {"WS_MODULE": str(self.given.ws_module)} if self.given.ws_module else None
        process = self.processes.start(name, SERVERS[name], stem.with_suffix(".server.log"), cpus, environment)
        match = process.wait_for_line(LISTENING, READY_S, self.asked)
        if match is None:
            raise Interrupted
        if name != NGINX:
            return Arm(match[1], [process])
        port = _free_port()
        configuration = proxy_configuration((ROOT / "deploy/nginx.conf").read_text(encoding="utf-8"), port, int(match[2]), stem)
        stem.mkdir()
        (stem / "nginx.conf").write_text(configuration, encoding="utf-8")
        command = [nginx_program(), "-p", str(stem), "-e", "stderr", "-c", str(stem / "nginx.conf")]
        proxy = self.processes.start("nginx", command, stem.with_suffix(".nginx.log"), cpus)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if proxy.poll() is not None:
                    raise ProcessError(f"nginx {ended(proxy.poll() or 0)}{proxy.said()}") from None
                proxy.wait(0.05)
        return Arm(f"ws://127.0.0.1:{port}/ws", [process, proxy])

    def stop(self, arm: Arm) -> None:
        """Stop a server and what is before it."""
        for process in reversed(arm.started):
            process.stop(signal.SIGTERM, 15, self.asked)

    def drive(self, arm: Arm, options: Sequence[str], seconds: int) -> tuple[dict[str, Any], float, int]:
        """Run the generator; the run's summary, the server's processor time meanwhile, and all tokens that came."""
        self._number += 1
        directory = self.folder / f"{self._number:03}-run"
        command = [
            sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary", "--host", arm.url,
            "--run-dir", str(directory), "--run-time", f"{seconds}s", f"--warm-up={WARM_UP_S}", "--no-scrape", *options,
        ]  # fmt: skip
        before_s = arm.cpu_s()
        generator = self.processes.start("the generator", command, directory.with_suffix(".log"), self.cpus and self.cpus[1])
        code = generator.wait(seconds + GRACE_S, self.asked)
        cpu_s = arm.cpu_s() - before_s
        if self.asked():
            generator.stop(signal.SIGINT, 10, lambda: self.interrupts.count > 1)
            raise Interrupted
        if code is None:
            generator.stop(signal.SIGKILL, 1)
            raise ProcessError(f"the generator did not end in time{generator.said()}")
        try:
            tokens = RunDirectory.open(directory).table("intervals", ["tokens"])["tokens"].to_numpy().sum()
            return summarise(directory), cpu_s, int(tokens)
        except (RunDirectoryError, OSError):
            raise ProcessError(f"the generator {ended(code)} without a run{generator.said()}", code) from None

    def asked(self) -> bool:
        """Whether somebody asked us to stop."""
        return self.interrupts.count > 0

    def note(self, server: str, name: str, value: float | None, users: int, *, valid: bool) -> None:
        """Keep a figure."""
        self.figures.append({"server": server, "name": name, "value": value, "users": users, "valid": valid})


def measure(bench: Bench, name: str) -> None:
    """One round of one server: the ladder, then the ceiling."""
    given = bench.given
    arm = bench.start(name)
    try:
        steps = ",".join(f"{users}:{given.step_s}" for users in given.users)
        options = [f"--steps={steps}", f"--tokens={given.tokens}", f"--gap-ms={given.gap_ms:g}", f"--ttft-ms={given.gap_ms:g}"]
        summary, _, _ = bench.drive(arm, options, given.step_s * len(given.users) + WARM_UP_S)
        valid = bool(summary["validity"]["valid"])
        stages = summary["steps"] or [{"users": given.users[0], **summary["metrics"], "rates": summary["rates"]}]
        for step in stages:
            for metric in ("itl", "ttft"):
                for quantile in ("p50", "p99"):
                    value = step[metric]["percentiles"][quantile]["value"]
                    bench.note(name, f"{metric}_{quantile}_ms", None if value is None else value / 1e6, step["users"], valid=valid)
        options = [f"--users={given.ceiling_users}", f"--spawn-rate={given.ceiling_users}", "--tokens=500", "--gap-ms=0", "--ttft-ms=0"]
        summary, cpu_s, tokens = bench.drive(arm, options, given.ceiling_s + WARM_UP_S)
        valid = bool(summary["validity"]["valid"])
        bench.note(name, "tokens_per_s", summary["rates"]["throughput_tokens"], given.ceiling_users, valid=valid)
        bench.note(name, "cpu_us_per_token", cpu_s / tokens * 1e6 if tokens else None, given.ceiling_users, valid=valid)
        resident = sum(psutil.Process(process.pid).memory_info().rss for process in arm.started)
        bench.note(name, "resident_mib", resident / 2**20, given.ceiling_users, valid=valid)
    finally:
        bench.stop(arm)


def nginx_program() -> str:
    """Where nginx is; Debian's is outside of most paths. Empty when there is none."""
    return shutil.which("nginx") or ("/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else "")


def proxy_configuration(text: str, port: int, upstream_port: int, folder: Path) -> str:
    """``deploy/nginx.conf`` without TLS, on a port of ours: what is measured is what the proxy costs, not what encryption does."""
    text = text.replace("127.0.0.1:8001", f"127.0.0.1:{upstream_port}")
    text = re.sub(r"    server \{\s*listen 80;.*?\n    \}\n", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"^\s*ssl_\w+ .*\n", "", text, flags=re.MULTILINE).replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    text = re.sub(r"^(pid|worker_rlimit_nofile|worker_processes) .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"error_log [^;]*;", "error_log stderr warn;", text).replace("worker_connections 32768", "worker_connections 4096")
    temporary = "".join(f"{name}_temp_path {folder}/{name}; " for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return f"daemon off;\nworker_processes 1;\npid {folder}/pid;\n" + text.replace("http {", "http {\n    " + temporary, 1)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port: int = held.getsockname()[1]
        return port


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks servers", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--only", type=lambda text: text.split(";"), default=list(SERVERS), metavar="NAME;NAME", help=f"of: {'; '.join(SERVERS)}")
    add("--users", type=_counts, default=(20, 100, 200, 400), metavar="N,N", help="of the ladder (default: 20,100,200,400)")
    add("--step-s", type=int, default=4, metavar="S", help="of each of its steps (default: 4)")
    add("--tokens", type=int, default=25, metavar="N", help="of an answer on the ladder (default: 25)")
    add("--gap-ms", type=float, default=20.0, metavar="MS", help="between them (default: 20)")
    add("--ceiling-users", type=int, default=64, metavar="N", help="at the ceiling, unpaced, every token acknowledged (default: 64)")
    add("--ceiling-s", type=int, default=4, metavar="S", help="of it (default: 4)")
    add("--rounds", type=int, default=2, metavar="N", help="medians are taken over these (default: 2)")
    add("--ws-module", type=Path, metavar="FOLDER", help="where the npm package ws is (node_modules/ws), if node does not find it itself")
    add("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="folder of all runs (default: runs)")
    add("--json", action="store_true", help="the figures on standard output")
    return parser


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(int(part) for part in text.split(","))
    if not counts or any(count < 1 for count in counts):
        raise argparse.ArgumentTypeError(f"expected numbers of users separated by commas, not {text!r}")
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write ``servers.json``, ``servers.md`` and the chart; the exit code (130 when interrupted)."""
    parser = build_parser()
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.only if name not in SERVERS]:
        parser.error(f"there is no server {unknown[0]!r}; expected some of: {'; '.join(SERVERS)}")
    errors, console = Console(stderr=True), Console(stderr=given.json, width=None if sys.stdout.isatty() else 160)
    folder = new_folder(given.out, "servers")
    before, code = os.getloadavg(), 0
    with Interrupts() as interrupts, Processes() as processes:
        bench = Bench(folder, processes, interrupts, errors, given, split_cpus())
        if not nginx_program():
            bench.missing[NGINX] = "no nginx on this machine"
        try:
            for number in range(given.rounds):
                # In turns, and every other round the other way round: a change of the machine's mood meets all.
                for name in given.only if number % 2 == 0 else reversed(given.only):
                    if name in bench.missing:
                        continue
                    errors.print(f"[dim]round {number + 1} of {given.rounds}:[/] {name}", highlight=False)
                    try:
                        measure(bench, name)
                    except ProcessError as error:
                        bench.missing[name] = str(error).splitlines()[0]
                        errors.print(f"left out: {name}: {error}", style="yellow", markup=False, highlight=False, soft_wrap=True)
        except Interrupted:
            code = 130
    result = {
        "figures": bench.figures, "missing": bench.missing, "options": {name: str(value) for name, value in vars(given).items()},
        "load_average": {"before": before, "after": os.getloadavg()}, "pinned": bench.cpus is not None,
        "environment": describe_machine(), "versions": describe_versions(),
    }  # fmt: skip
    write_text(folder / "servers.json", json.dumps(result, indent=1, default=str) + "\n")
    if bench.figures:
        draw(bench.figures, folder)
        write_text(folder / "servers.md", write_markdown(bench.figures))
        print_result(bench.figures, console)
    for name, why in bench.missing.items():
        console.print(f"left out: {name}: {why}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nfigures  {escape(str(folder))}", highlight=False, soft_wrap=True)
    if given.json:
        sys.stdout.write(json.dumps(result, default=str) + "\n")
    return code or (0 if bench.figures else 1)
