"""The runner: processes that never stay behind, targets that cannot be driven, live figures, and whole suites from the command line."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from benchmarks import overview, watcher
from benchmarks.options import duration, overrides, parse, split
from benchmarks.processes import Interrupts, ProcessError, Processes, ended, split_cpus
from benchmarks.progress import KEPT_SECONDS, Figures, Progress, remaining, span
from benchmarks.reachability import Access, UnreachableError, check_target, shown, with_query
from benchmarks.runner import BenchError, new_folder
from benchmarks.scenario import find, read
from benchmarks.suite import Outcome, Suite, worst
from loadtest.histogram import Histogram
from loadtest.run_directory import RunDirectory
from loadtest.tables import COUNTERS

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60
"""How long a test waits for something that happens at once, however busy the machine."""


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as started:
        yield started


def gone(pid: int) -> bool:
    """Whether a process ends within a test's patience."""
    try:
        psutil.Process(pid).wait(PATIENCE_S)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


class TestProcesses:
    def test_one_says_that_it_is_ready_and_is_stopped(self, processes: Processes, tmp_path: Path) -> None:
        process = processes.start("it", python("import time; print('listening on 7'); time.sleep(99)"), tmp_path / "log")
        match = process.wait_for_line(re.compile(r"listening on (\d)"), PATIENCE_S)
        assert match is not None
        assert match[1] == "7"
        assert process.stop(signal.SIGTERM, PATIENCE_S) == -signal.SIGTERM
        assert gone(process.pid)

    def test_one_that_ends_too_early_is_quoted(self, processes: Processes, tmp_path: Path) -> None:
        process = processes.start("it", python("print('no luck'); raise SystemExit(3)"), tmp_path / "log")
        with pytest.raises(ProcessError, match="it ended with exit code 3 before it was ready") as caught:
            process.wait_for_line(re.compile("ready"), PATIENCE_S)
        assert "no luck" in str(caught.value)
        assert not caught.value.usage

    def test_one_that_refuses_its_options_is_one_sentence(self, processes: Processes, tmp_path: Path) -> None:
        code = "import sys; print('python -m server: no such thing', file=sys.stderr); sys.exit(2)"
        process = processes.start("the server", python(code), tmp_path / "log")
        with pytest.raises(ProcessError) as caught:
            process.wait_for_line(re.compile("ready"), PATIENCE_S)
        assert str(caught.value) == "the server says: no such thing"
        assert caught.value.usage

    def test_one_that_never_becomes_ready(self, processes: Processes, tmp_path: Path) -> None:
        process = processes.start("it", python("import time; time.sleep(99)"), tmp_path / "log")
        with pytest.raises(ProcessError, match=r"it was not ready after 0\.1 s, and it printed nothing"):
            process.wait_for_line(re.compile("ready"), 0.1)

    def test_waiting_ends_when_it_is_not_wanted_any_more(self, processes: Processes, tmp_path: Path) -> None:
        process = processes.start("it", python("import time; time.sleep(99)"), tmp_path / "log")
        assert process.wait_for_line(re.compile("ready"), PATIENCE_S, lambda: True) is None

    def test_a_program_that_is_not_there(self, processes: Processes, tmp_path: Path) -> None:
        with pytest.raises(ProcessError, match="it could not be started"):
            processes.start("it", [str(tmp_path / "none")], tmp_path / "log")

    def test_one_that_does_not_listen_is_killed_with_its_children(self, processes: Processes, tmp_path: Path) -> None:
        code = (
            "import os, signal, time\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "child = os.fork()\n"
            "if child: print('child', child, flush=True)\n"
            "time.sleep(99)"
        )
        process = processes.start("it", python(code), tmp_path / "log")
        match = process.wait_for_line(re.compile(r"child (\d+)"), PATIENCE_S)
        assert match is not None
        assert process.stop(signal.SIGTERM, 0.2) == -signal.SIGKILL
        assert gone(int(match[1]))

    def test_leaving_stops_what_still_runs(self, tmp_path: Path) -> None:
        pids: list[int] = []

        def fail() -> None:
            with Processes() as started:
                pids.append(started.start("it", python("import time; time.sleep(99)"), tmp_path / "log").pid)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert gone(pids[0])

    def test_each_is_in_a_session_of_its_own(self, processes: Processes, tmp_path: Path) -> None:
        process = processes.start("it", python("import os, time; print('sid', os.getsid(0)); time.sleep(99)"), tmp_path / "log")
        match = process.wait_for_line(re.compile(r"sid (\d+)"), PATIENCE_S)
        assert match is not None
        assert int(match[1]) == process.pid != os.getsid(0)

    @pytest.mark.skipif(split_cpus() is None, reason="needs two CPUs and a system that pins")
    def test_server_and_generator_get_different_cpus(self, processes: Processes, tmp_path: Path) -> None:
        parts = split_cpus()
        assert parts is not None
        assert not parts[0] & parts[1]
        code = "import os, time; print('cpus', sorted(os.sched_getaffinity(0)), flush=True); time.sleep(99)"
        for number, cpus in enumerate(parts):
            process = processes.start("it", python("import time; time.sleep(0.2)\n" + code), tmp_path / f"log{number}", cpus)
            match = process.wait_for_line(re.compile(r"cpus (\[.*\])"), PATIENCE_S)
            assert match is not None
            assert set(json.loads(match[1])) == cpus

    def test_variables_of_locust_do_not_reach_them(self, processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCUST_USERS", "7")
        process = processes.start("it", python("import os; print('users', os.environ.get('LOCUST_USERS'))"), tmp_path / "log")
        assert process.wait_for_line(re.compile("users None"), PATIENCE_S) is not None

    @pytest.mark.parametrize(
        ("code", "words"), [(0, "ended with exit code 0"), (-9, "was ended by SIGKILL"), (-99, "was ended by signal 99")]
    )
    def test_exit_codes_in_words(self, code: int, words: str) -> None:
        assert ended(code) == words

    def test_what_a_killed_runner_started_ends(self, tmp_path: Path) -> None:
        code = (
            "import os, signal, sys, time\n"
            "from pathlib import Path\n"
            "from benchmarks.processes import Processes\n"
            "with Processes() as processes:\n"
            f"    one = processes.start('it', [sys.executable, '-c', 'import time; time.sleep(99)'], Path({str(tmp_path / 'log')!r}))\n"
            "    print(one.pid, flush=True)\n"
            "    time.sleep(99)\n"
        )
        runner = subprocess.Popen(python(code), cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert runner.stdout is not None
        pid = int(runner.stdout.readline())
        assert psutil.pid_exists(pid)
        runner.kill()
        runner.wait()
        runner.stdout.close()
        assert gone(pid)

    def test_the_watcher_forgets_what_has_ended(self) -> None:
        assert watcher.follow(["+12\n", "+13\n", "-12\n", "\n"]) == {13}

    def test_the_watcher_asks_first(self) -> None:
        meek = subprocess.Popen(python("import time; time.sleep(99)"), start_new_session=True)
        reaper = threading.Thread(target=meek.wait)
        reaper.start()
        watcher.end({meek.pid}, grace_s=PATIENCE_S)
        reaper.join()
        assert meek.returncode == -signal.SIGTERM

    def test_the_watcher_kills_what_does_not_listen(self) -> None:
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x'); time.sleep(99)"
        stubborn = subprocess.Popen(python(code), stdout=subprocess.PIPE, start_new_session=True)
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        watcher.end({stubborn.pid}, grace_s=0.1)
        assert stubborn.wait() == -signal.SIGKILL
        stubborn.stdout.close()


class TestInterrupts:
    def test_are_counted_and_then_the_old_ways_return(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            assert interrupts.count == 2
        assert signal.getsignal(signal.SIGINT) is before

    def test_raise_where_nobody_can_ask(self) -> None:
        with Interrupts() as interrupts:
            interrupts.raising = True
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], str]]:
    """A TCP server that gives every connection the same bytes and closes; returns its URL."""
    listeners = []

    def serve(answer: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def run() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(65536)
                    peer.sendall(answer)

        threading.Thread(target=run, daemon=True).start()
        return f"ws://127.0.0.1:{listener.getsockname()[1]}/ws"

    yield serve
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def http(status: str, body: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nLocation: /x\r\nConnection: close\r\n\r\n{body}".encode()


UNFIT = {
    "not found": (http("404 Not Found"), "answered 404: is the path right?"),
    "a page": (http("200 OK", "<html>hello</html>"), "answered 200: an ordinary web page is there"),
    "a refusal with its reason": (http("400 Bad Request", "no such parameter"), "answered 400 (no such parameter)"),
    "a refusal with an escape sequence": (http("400 Bad Request", "\x1b]0;owned\x07no"), "answered 400 (\ufffd]0;owned\ufffdno)"),
    "credentials wanted": (http("401 Unauthorized"), "answered 401: it wants credentials"),
    "a redirection": (http("301 Moved"), "answered 301: it redirects"),
    "garbage": (b"\x00\x01SSH-2.0\r\n\r\n", "answered with something that is no HTTP"),
    "nothing": (b"", "answered with something that is no HTTP"),
    "a wrong handshake": (http("101 Switching Protocols"), "answered 101, but not with a valid WebSocket handshake"),
}


class TestReachability:
    @pytest.mark.parametrize(("answer", "expected"), UNFIT.values(), ids=UNFIT.keys())
    def test_a_server_of_another_kind(self, answering: Callable[[bytes], str], answer: bytes, expected: str) -> None:
        with pytest.raises(UnreachableError, match=re.escape(expected)) as caught:
            check_target(answering(answer))
        assert "\n" not in str(caught.value)

    def test_nobody_listens(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            with pytest.raises(UnreachableError, match=r"nothing listens at .*connection refused"):
                check_target(f"ws://127.0.0.1:{unused.getsockname()[1]}/ws")

    def test_nobody_answers(self) -> None:
        expected = r"did not answer the WebSocket handshake within 0\.2 s"
        with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UnreachableError, match=expected):
            check_target(f"ws://127.0.0.1:{silent.getsockname()[1]}/ws", timeout_s=0.2)

    def test_no_such_host(self) -> None:
        with pytest.raises(UnreachableError, match=r"the host 'no-such-host\.invalid' .* has no address"):
            check_target("ws://no-such-host.invalid/ws")

    def test_tls_with_a_server_that_has_none(self, answering: Callable[[bytes], str]) -> None:
        with pytest.raises(UnreachableError, match="does it speak ws:// and not wss://"):
            check_target(answering(http("400 Bad Request")).replace("ws:", "wss:"))

    def test_certificates_that_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(UnreachableError, match="cannot read certificates from"):
            check_target("wss://127.0.0.1:1/ws", Access(ca_file=tmp_path / "none.pem"))

    @pytest.mark.parametrize(
        ("url", "meant"),
        [("http://h:1/ws", "ws://h:1/ws"), ("https://h/ws", "wss://h/ws"), ("h:8001/ws", "ws://"), ("ws://", "ws://"), ("", "ws://")],
    )
    def test_what_is_no_target(self, url: str, meant: str) -> None:
        with pytest.raises(UnreachableError, match=f"expected a target such as .*did you mean {meant}"):
            check_target(url)

    def test_a_port_out_of_range(self) -> None:
        with pytest.raises(UnreachableError, match="expected a port from 1 to 65535"):
            check_target("ws://h:99999/ws")

    def test_secrets_are_not_shown(self) -> None:
        assert shown("wss://me:word@host:1/ws?key=1") == "wss://host:1/ws"

    def test_a_query_is_added_to_what_there_is(self) -> None:
        assert with_query("ws://h/ws?a=1", [("b", "2 3")]) == "ws://h/ws?a=1&b=2+3"

    def test_access_becomes_options_and_headers(self) -> None:
        access = Access(("A: b", "C: d:e"), ("one", "two"), "http://o", "secret", True)
        assert access.options() == [
            "--header=A: b|C: d:e",
            "--subprotocol=one,two",
            "--origin=http://o",
            "--bearer-token=secret",
            "--insecure",
        ]
        assert access.header_table() == {"A": "b", "C": "d:e", "Authorization": "Bearer secret"}


def counters(**values: int) -> dict[str, list[int]]:
    return {name: [values.get(name, 0)] for name in COUNTERS}


class TestFigures:
    def test_follow_a_run_as_it_grows(self, tmp_path: Path) -> None:
        run = RunDirectory.create(tmp_path / "run", {})
        figures = Figures(run.path)
        figures.update()
        assert figures.line() == "0 users  0 open  0 streaming  0 tokens/s  itl p99 -  0 errors"
        writers = [run.writer("w0"), run.writer("w1")]
        for writer, worker in zip(writers, ("w0", "w1"), strict=True):
            gauges = {"users": [5], "opening": [1], "open": [4], "streaming": [3]}
            writer.append("intervals", {"worker": [worker], "second": [0], **counters(tokens=600, connects_failed=1), **gauges})
            writer.append("intervals", {"worker": [worker], "second": [1], **counters(), **gauges})
            histogram = Histogram()
            histogram.record([20_000_000] * 10)
            index, counts = histogram.encode()
            columns = {"worker": [worker], "second": [0], "metric": ["itl"], "tainted": [False], "index": [index], "count": [counts]}
            writer.append("histograms", {**columns, "total": [200_000_000], "minimum": [20_000_000], "maximum": [20_000_000]})
        figures.update()
        figures.update()
        assert figures.line() == "10 users  8 open (+2 opening)  6 streaming  1 200 tokens/s  itl p99 20.00 ms  2 errors"
        for writer in writers:
            writer.end()
        run.compact()
        figures.update()
        assert figures.tokens == 1200

    def test_a_second_counts_when_all_have_reported_it(self, tmp_path: Path) -> None:
        run = RunDirectory.create(tmp_path / "run", {})
        gauges = {"users": [5], "opening": [0], "open": [4], "streaming": [3]}
        for worker, seconds in (("w0", 2), ("w1", 1)):
            writer = run.writer(worker)
            for second in range(seconds):
                writer.append("intervals", {"worker": [worker], "second": [second], **counters(), **gauges})
            writer.end()
        figures = Figures(run.path)
        figures.update()
        assert figures.last()["open"] == 8

    def test_without_a_terminal_lines_are_few_and_plain(self) -> None:
        console = Console(file=io.StringIO(), width=200)
        with Progress(console, "[1/2] smoke", 10) as progress:
            for _ in range(100):
                progress.show("load", "5 users")
        assert isinstance(console.file, io.StringIO)
        assert console.file.getvalue() == "[1/2] smoke: about 10 s\n"

    def test_hours_are_told_in_hours_with_the_clock_time_of_the_end(self) -> None:
        assert [span(s) for s in (0, 95.4, 119, 120, 3600, 7199, 7200, 12_000, 86_400)] == [
            "0 s", "95 s", "119 s", "2 min", "60 min", "2 h 0 min", "2 h 0 min", "3 h 20 min", "24 h 0 min",
        ]  # fmt: skip
        now = time.mktime((2026, 11, 22, 14, 0, 0, 0, 0, -1))
        assert remaining(90, now) == "90 s left"
        assert remaining(1800, now) == "30 min left, until 14:30"
        assert remaining(12 * 3600, now) == "12 h 0 min left, until Mon 02:00"

    def test_a_run_of_hours_keeps_the_latest_seconds_alone(self, tmp_path: Path) -> None:
        run = RunDirectory.create(tmp_path / "run", {})
        writer = run.writer("w0")
        gauges = {"users": [5], "opening": [0], "open": [4], "streaming": [3]}
        figures = Figures(run.path)
        for second in range(500):
            writer.append("intervals", {"worker": ["w0"], "second": [second], **counters(), **gauges})
            if second % 50 == 0:
                figures.update()
        figures.update()
        assert len(figures._seconds) == len(figures._reported) == KEPT_SECONDS
        assert figures.last()["open"] == 4
        writer.end()

    def test_on_a_terminal_it_shows_time_and_figures(self) -> None:
        console = Console(file=io.StringIO(), force_terminal=True, width=120)
        with Progress(console, "[1/2] smoke", 10) as progress:
            progress.show("load", "5 users")
            progress.show("draining", "4 users")
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        for part in ("[1/2] smoke", "10 s left", "5 users", "draining"):
            assert part in text


class TestSuite:
    @pytest.mark.parametrize(
        ("codes", "expected"),
        [((), 0), ((0, 0), 0), ((0, 10), 10), ((10, 11), 11), ((11, 12), 12), ((12, 130), 130), ((130, 2), 2), ((2, 1), 1), ((0, 99), 1)],
    )
    def test_the_worst_run_decides(self, codes: tuple[int, ...], expected: int) -> None:
        assert worst(codes) == expected
        assert worst(reversed(codes)) == expected

    def test_runs_that_were_never_begun_mean_interrupted(self, tmp_path: Path) -> None:
        (run,) = read(find("smoke")).runs
        made = Suite("two", tmp_path, ["smoke", "other"], [Outcome(run, tmp_path / "smoke")])
        assert (made.exit_code, made.missing()) == (130, ["other"])
        made.write()
        assert json.loads((tmp_path / "suite.json").read_text())["missing"] == ["other"]
        page = overview.write_page(made).read_text(encoding="utf-8")
        assert "Not run: other." in page
        assert "http" not in page.replace("http-equiv", "")

    def test_a_record_that_nobody_closed_is_closed(self, tmp_path: Path) -> None:
        (run,) = read(find("smoke")).runs
        directory = RunDirectory.create(tmp_path / "smoke", {})
        writer = directory.writer("w0")
        writer.append("intervals", {"worker": ["w0"], "second": [0], **counters(tokens=3)})
        writer.end()
        with writer.path.open("ab") as file:
            file.write(b"half a frame")
        outcome = Outcome(run, directory.path)
        outcome.fail("the generator was ended by SIGKILL; it printed last:\n    Killed", 1)
        outcome.settle()
        metadata = directory.metadata()
        assert metadata["status"] == "failed"
        assert metadata["status_reasons"] == ["the generator was ended by SIGKILL; it printed last"]
        assert metadata["workers"]["bad_bytes"] == {"w0": 12}
        assert directory.table("intervals").num_rows == 1
        assert outcome.exit_code == 1

    def test_a_report_that_cannot_be_drawn_keeps_the_record(self, tmp_path: Path) -> None:
        (run,) = read(find("smoke")).runs
        (tmp_path / "smoke").mkdir()
        (tmp_path / "smoke" / "run.json").write_text("{", encoding="utf-8")
        outcome = Outcome(run, tmp_path / "smoke")
        with Interrupts() as interrupts:
            outcome.report(interrupts)
        assert outcome.exit_code == 1
        assert "could not be drawn" in outcome.messages[0]
        assert (tmp_path / "smoke" / "report.log").is_file()

    @pytest.mark.parametrize("name", ["../elsewhere", "a/b", "/tmp", "a\nb", "\x00"])
    def test_a_name_is_no_path(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(BenchError, match="without a path") as refused:
            new_folder(tmp_path / "runs", name)
        assert refused.value.exit_code == 2
        assert list(tmp_path.iterdir()) == []

    def test_folders_of_one_second_do_not_meet(self, tmp_path: Path) -> None:
        assert len({new_folder(tmp_path, "x") for _ in range(5)}) == 5

    def test_a_file_where_the_folder_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "runs").write_text("", encoding="utf-8")
        with pytest.raises(BenchError, match=r"cannot write a run below|expected a folder"):
            new_folder(tmp_path / "runs", "x")


class TestCommandLine:
    @pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1m30s", 90), ("2m", 120), ("1h", 3600)])
    def test_times(self, text: str, seconds: float) -> None:
        assert duration(text) == seconds

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["bench", "--users", "0"], "argument --users: expected a whole number from 1 to 1000000, found 0"),
            (["bench", "--run-time", "soon"], "argument --run-time: expected a time such as 90, 90s or 1m30s, found 'soon'"),
            (["bench", "--run-time", "0"], "argument --run-time: expected a whole number from 1"),
            (["bench", "--gap-ms", "x"], "argument --gap-ms: expected a number from 0 on, found 'x'"),
            (["bench", "--user", "5"], "unrecognized arguments: --user 5 (did you mean --users?)"),
            (["bench", "--metrics-port", "70000"], "argument --metrics-port: expected a whole number from 1 to 65535"),
            (["bench", "--prompts", "/none"], "argument --prompts: expected the path of an existing file"),
            (["engine", "--connections", "1,x"], "argument --connections: expected a whole number from 1 to 20000, found 'x'"),
            (["bunch"], "invalid choice: 'bunch'"),
        ],
    )  # fmt: skip
    def test_mistakes_are_one_sentence(self, capsys: pytest.CaptureFixture[str], words: list[str], expected: str) -> None:
        with pytest.raises(SystemExit) as caught:
            parse(words)
        assert caught.value.code == 2
        said = capsys.readouterr().err
        assert expected in said
        assert said.count("\n") == 1

    def test_only_what_is_given_overrides(self) -> None:
        assert overrides(parse(["bench"])) == {}
        given = parse(["bench", "--users", "3", "--run-time", "1m", "--gap-ms", "2.5", "--record-tokens"])
        assert overrides(given) == {"users": 3, "run_time_s": 60, "gap_ms": 2.5, "record_tokens": True}

    def test_what_follows_two_dashes_is_locusts(self) -> None:
        assert split(["bench", "--", "--loglevel", "DEBUG"]) == (["bench"], ["--loglevel", "DEBUG"])


def bench(*words: str, timeout: float = 110) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with Processes() as started:
        process = started.start("the server", [sys.executable, "-m", "server", "--port", "0"], tmp_path / "server.log")
        match = process.wait_for_line(re.compile(r"listening on (ws://\S+)"), PATIENCE_S)
        assert match is not None
        yield match[1]


def children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


class TestWholeSuites:
    def test_smoke(self, tmp_path: Path) -> None:
        done = bench("bench", "--suite", "smoke", "--users", "8", "--run-time", "3", "--out", str(tmp_path), "--json", "--seed", "7")
        # 12 where the machine was too busy to believe the figures; the run itself must have worked all the same.
        assert done.returncode in (0, 12), done.stderr
        told = json.loads(done.stdout)
        (run,) = told["runs"]
        folder = Path(told["path"])
        assert folder.parent == tmp_path
        assert json.loads((folder / "suite.json").read_text()) == told
        assert run["summary"]["run"]["status"] == "complete"
        assert run["summary"]["run"]["seed"] == 7
        conversations = run["summary"]["counts"]["conversations"]
        assert conversations["started"] > 8
        assert conversations["failed"] == conversations["unknown"] == 0
        assert run["summary"]["counts"]["connections"]["open_max"] == 8
        for name in ("run.json", "report.html", "summary.json", "server.log", "generator.log", "conversations.parquet"):
            assert (folder / "smoke" / name).is_file(), name
        assert sorted(path.name for path in folder.iterdir()) == ["index.html", "smoke", "suite.json"]
        page = (folder / "index.html").read_text(encoding="utf-8")
        assert 'href="smoke/report.html"' in page
        assert "data:image/png;base64," in page
        assert "smoke" in done.stderr

    def test_somebody_elses_server(self, tmp_path: Path, server: str) -> None:
        done = bench("bench", "--scenario", "smoke", "--users", "2", "--run-time", "1", "--host", server, "--out", str(tmp_path))
        assert done.returncode in (0, 12), done.stderr
        (folder,) = tmp_path.glob("*_smoke")
        assert json.loads((folder / "smoke" / "run.json").read_text())["target"]["url"].startswith(server)
        assert not (folder / "smoke" / "server.log").exists()
        assert str(folder / "index.html") in done.stdout

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["--host", "ws://127.0.0.1:1/ws"], "nothing listens at ws://127.0.0.1:1/ws"),
            (["--scenario", "smok"], "did you mean smoke?"),
            (["--suite", "smok"], "did you mean smoke?"),
            (["--suite", "smoke", "--users", "900000"], "open files"),
            (["--suite", "smoke", "--out", "/dev/null/x"], "/dev/null/x"),
        ],
    )
    def test_mistakes_end_before_anything_is_made(self, tmp_path: Path, words: list[str], expected: str) -> None:
        done = bench("bench", *(["--out", str(tmp_path)] if "--out" not in words else []), *words)
        assert done.returncode == 2
        assert expected in done.stderr
        assert "Traceback" not in done.stderr
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("more", "expected"),
        [
            ("[target.options]\nnonsense = 1\n", "the reference server says: unrecognized arguments: --nonsense=1"),
            ("[load.query]\nnonsense = 1\n", "answered 400 (this server knows no parameter 'nonsense'"),
        ],
    )
    def test_a_server_that_refuses(self, tmp_path: Path, more: str, expected: str) -> None:
        scenario = tmp_path / "mine.toml"
        text = 'name = "mine"\ntitle = "Mine"\nquestion = "?"\nbudget_s = 9\n[load]\nusers = 1\nrun_time_s = 2\n'
        scenario.write_text(text + more, encoding="utf-8")
        done = bench("bench", "--scenario", str(scenario), "--out", str(tmp_path / "runs"))
        assert done.returncode == 2
        assert expected in done.stderr
        assert not list((tmp_path / "runs").iterdir())

    def test_broken_prompts(self, tmp_path: Path) -> None:
        (tmp_path / "prompts").write_bytes(b"ok\n\xff\n")
        done = bench("bench", "--suite", "smoke", "--prompts", str(tmp_path / "prompts"), "--out", str(tmp_path / "runs"))
        assert done.returncode == 2
        assert "expected UTF-8 text in the prompt file" in done.stderr
        assert not list((tmp_path / "runs").iterdir())

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupt_keeps_what_was_measured_and_stops_everything(self, tmp_path: Path, number: signal.Signals) -> None:
        runner, below = self.begin(tmp_path)
        runner.send_signal(number)
        _, said = runner.communicate(timeout=110)
        assert runner.returncode == 130, said
        assert all(gone(process.pid) for process in below)
        (folder,) = tmp_path.glob("*_smoke")
        metadata = json.loads((folder / "smoke" / "run.json").read_text())
        assert metadata["status"] == "aborted"
        assert metadata["workers"]["lost"] == []
        assert (folder / "smoke" / "report.html").is_file()
        told = json.loads((folder / "suite.json").read_text())
        assert told["exit_code"] == 130
        # Nobody had to be killed: the generator drained by itself.
        assert told["runs"][0]["reasons"] == []

    def test_a_killed_runner_leaves_nobody_behind(self, tmp_path: Path) -> None:
        runner, below = self.begin(tmp_path)
        runner.kill()
        runner.communicate()
        assert all(gone(process.pid) for process in below)

    def test_a_server_that_dies_stops_the_run(self, tmp_path: Path) -> None:
        runner, below = self.begin(tmp_path)
        (victim,) = [process for process in below if "server" in process.cmdline()]
        victim.kill()
        _, said = runner.communicate(timeout=110)
        assert runner.returncode == 1
        assert "the reference server was ended by SIGKILL in the middle of the run" in said
        assert all(gone(process.pid) for process in below)
        (folder,) = tmp_path.glob("*_smoke")
        assert (folder / "smoke" / "run.json").is_file()

    def begin(self, out: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
        """Start a run that lasts, wait until load is made; the runner and everything below it."""
        command = [sys.executable, "-m", "benchmarks", "bench", "--suite", "smoke", "--users", "4", "--run-time", "100", "--out", str(out)]
        runner = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            for _ in range(PATIENCE_S * 20):
                found = list(out.glob("*_smoke/smoke/raw/*.frames"))
                if found and found[0].stat().st_size:
                    break
                assert runner.poll() is None, runner.communicate()
                threading.Event().wait(0.05)
            below = children(runner.pid)
            # Server, generator, watcher.
            assert len(below) >= 3
        except BaseException:
            runner.kill()
            runner.communicate()
            raise
        return runner, below


class TestWebPage:
    def test_it_is_served_and_stopped(self) -> None:
        runner = subprocess.Popen(
            [sys.executable, "-m", "benchmarks", "ui"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert runner.stdout is not None
            first, second = runner.stdout.readline(), runner.stdout.readline()
            assert first.startswith("server   ws://127.0.0.1:")
            url = second.split()[1]
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as page:
                assert page.status == 200
            below = children(runner.pid)
            runner.send_signal(signal.SIGINT)
            _, said = runner.communicate(timeout=110)
        finally:
            if runner.poll() is None:
                runner.kill()
                runner.communicate()
        assert runner.returncode == 0, said
        assert all(gone(process.pid) for process in below)

    def test_a_port_that_is_taken(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            done = bench("ui", "--web-port", str(port))
        assert done.returncode == 2
        assert f"port {port} for the web page is not free" in done.stderr


def test_the_catalogue_is_shown() -> None:
    done = bench("list")
    assert done.returncode == 0
    for name in ("smoke", "ladder", "stop", "connections", "pingpong"):
        assert name in done.stdout
