"""Locust with its web page as a real process, asked over HTTP."""

from __future__ import annotations

import http.cookiejar
import json
import socket
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from loadtest.ports import free_port
from tests.loadtest.locust_run import LocustRun, wait_until


class WebPage:
    """`locust` without --headless on a free port of 127.0.0.1; runs go into a folder of their own."""

    def __init__(self, start: Any, folder: Path, *options: str, base: str = "") -> None:
        self.runs = folder / "runs"
        self.port = free_port()
        more = ["--web-host", "127.0.0.1", "--web-port", str(self.port), "--runs-folder", str(self.runs), "--warm-up", "1"]
        more += ["--web-base-path", base] if base else []
        self.run: LocustRun = start(*more, *options, headless=False, run_dir=False)
        self.url = f"http://127.0.0.1:{self.port}{base}"
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        wait_until(self._listens, "the page", self.run)

    def _listens(self) -> bool:
        assert self.run.process.poll() is None, self.run.log
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def get(self, path: str) -> tuple[int, str, Any]:
        """Status, text and headers; redirections are followed."""
        return self._ask(urllib.request.Request(self.url + path))

    def post(self, path: str, form: dict[str, Any] | None = None, headers: dict[str, str] | None = None) -> tuple[int, str, Any]:
        data = urllib.parse.urlencode(form or {}, doseq=True).encode()
        return self._ask(urllib.request.Request(self.url + path, data=data, method="POST", headers=headers or {}))

    def _ask(self, request: urllib.request.Request) -> tuple[int, str, Any]:
        try:
            with self.opener.open(request, timeout=30) as answer:
                return answer.status, answer.read().decode(errors="replace"), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace"), error.headers

    def start(self, **form: Any) -> dict[str, Any]:
        """Post the form; returns the answer, which always is JSON."""
        status, text, _ = self.post("/swarm", {"user_count": 2, "spawn_rate": 2, **form})
        assert status == 200, text
        answer: dict[str, Any] = json.loads(text)
        return answer

    def data(self, part: str = "", since: int = -1) -> dict[str, Any]:
        status, text, _ = self.get("/streaming/data?" + urllib.parse.urlencode({"part": part, "since": since}))
        assert status == 200, text
        found: dict[str, Any] = json.loads(text)
        return found

    def wait_for(self, what: str, true: Any) -> dict[str, Any]:
        """Ask for the data until something is true of them."""
        found: dict[str, Any] = wait_until(lambda: (data := self.data()) and true(data) and data, what, self.run, timeout_s=60)
        return found
