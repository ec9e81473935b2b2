"""Which servers are compared, how each is started, and what its processes use.

Every server in Python holds its conversations by the same code (``server/answers.py``), so that what differs is the library under it;
node's is written anew (``benchmarks/peers/ws_server.cjs``).
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from loadtest.ports import free_port

from .comparison import Comparison
from .processes import ROOT, Process, ProcessError, ended

LISTENING: Final = re.compile(r"listening on (ws://127\.0\.0\.1:(\d+)/ws)")
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
CONNECT_TRIES: Final = 200
LEAVE_S: Final = 15


@dataclass(slots=True)
class Peer:
    """A running server: what is driven, and the processes whose time and memory count as its own."""

    name: str
    url: str
    started: list[Process]

    def cpu_s(self) -> float:
        """Processor time of all of it."""
        return sum(times.user + times.system for times in (each.cpu_times() for each in self._all()))

    def resident_bytes(self) -> int:
        """Memory of all of it."""
        return sum(each.memory_info().rss for each in self._all())

    def _all(self) -> list[psutil.Process]:
        roots = [psutil.Process(process.pid) for process in self.started]
        return [each for root in roots for each in (root, *root.children(recursive=True))]

    def stop(self, comparison: Comparison) -> None:
        """Stop the server and what is before it."""
        for process in reversed(self.started):
            process.stop(signal.SIGTERM, LEAVE_S, comparison.interrupts.asked)


def start_peer(comparison: Comparison, name: str, ws_module: Path | None) -> Peer:
    """Start a server of the table, with nginx before it where it has one; ProcessError when it does not come."""
    if name == NGINX and not nginx_program():
        raise ProcessError("no nginx on this machine")
    environment = {"WS_MODULE": str(ws_module.resolve())} if ws_module else None
    process, match = comparison.start(name, SERVERS[name], LISTENING, near_server=True, environment=environment)
    if name != NGINX:
        return Peer(name, match[1], [process])
    proxy, port = _start_proxy(comparison, int(match[2]))
    return Peer(name, f"ws://127.0.0.1:{port}/ws", [process, proxy])


def _start_proxy(comparison: Comparison, upstream_port: int) -> tuple[Process, int]:
    port, folder = free_port(), comparison.folder / "nginx"
    folder.mkdir()
    text = proxy_configuration((ROOT / "deploy/nginx.conf").read_text(encoding="utf-8"), port, upstream_port, folder)
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    command = [nginx_program(), "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    proxy = comparison.processes.start("nginx", command, comparison.folder / "nginx.log", comparison.side(near_server=True))
    for _ in range(CONNECT_TRIES):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return proxy, port
        except OSError:
            if (code := proxy.poll()) is not None:
                raise ProcessError(f"nginx {ended(code)}{proxy.said()}") from None
            proxy.wait(0.05)
    raise ProcessError(f"nginx did not listen on port {port}{proxy.said()}")


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
