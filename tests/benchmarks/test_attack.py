"""Attacks in small: raw clients against a real server, and claims that can fail."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import attack
from benchmarks.attack_page import split_page, write_experiment
from benchmarks.client_wire import ACK_FRAME, masked, read_frames, upgrade
from benchmarks.connect_cycles import Opened, cycles, storm
from benchmarks.null_wire import read_frames as read_client_frames
from benchmarks.omission import Claim
from benchmarks.stop_race import race

ROOT = Path(__file__).resolve().parents[2]


def frame(body: bytes) -> bytes:
    size = len(body)
    if size < 126:
        return bytes((0x81, size)) + body
    return (b"\x81\x7e" + size.to_bytes(2) if size < 65536 else b"\x81\x7f" + size.to_bytes(8)) + body


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_frames_of_a_server_are_read_at_every_length_and_cut(size: int) -> None:
    data = frame(b"x" * size) + frame(b"end")
    assert read_frames(data) == ([(0x81, b"x" * size), (0x81, b"end")], len(data))
    for cut in {0, 1, 2, len(data) - 6, len(data) - 1}:
        assert len(read_frames(data[:cut])[0]) == (cut >= len(data) - 5)


def test_frames_of_a_client_are_masked() -> None:
    frames, taken, code = read_client_frames(masked(b"a" * 300) + ACK_FRAME)
    assert ([body for _, body in frames], code) == ([b"a" * 300, b""], 0)
    assert taken == len(masked(b"a" * 300) + ACK_FRAME)
    assert upgrade("h:1", "/ws?a=1", "X: y\r\n").startswith(b"GET /ws?a=1 HTTP/1.1\r\nHost: h:1\r\n")


def test_a_storm_is_counted_whole(start_server: Callable[..., Any]) -> None:
    server = start_server("--max-connections", "30")
    opened = storm(("127.0.0.1", server.port), 40, per_s=10_000)
    assert (opened.asked, opened.upgraded, opened.refused, opened.broken) == (40, 30, 10, 0)
    assert opened.messages == {"HTTP/1.1 503 Service Unavailable"}


def test_cycles_leave_nothing_behind(start_server: Callable[..., Any]) -> None:
    server = start_server()
    opened = cycles(("127.0.0.1", server.port), 300)
    assert (opened.asked, opened.upgraded, opened.refused, opened.broken) == (300, 300, 0, 0)
    server.wait_for("streamgauge_connections_open", 0)
    assert server.metrics()["streamgauge_connections_accepted_total"] == 300


def test_connects_to_nobody_are_broken_not_lost() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        opened = cycles(("127.0.0.1", free.getsockname()[1]), 5)
    assert (opened.asked, opened.upgraded, opened.broken) == (5, 0, 5)
    assert opened.messages == {"ECONNREFUSED"} or opened.messages == {"Connection refused"}


def test_every_stopped_conversation_ends_once(start_server: Callable[..., Any]) -> None:
    server = start_server()
    raced = race(("127.0.0.1", server.port), 500, connections=7)
    assert (raced.conversations, raced.stops, raced.ends, raced.doubled, raced.missing, raced.strays) == (500, 500, 500, 0, 0, 0)
    assert 150 < raced.with_ack < 350
    assert server.metrics()['streamgauge_answers_total{outcome="stopped"}'] == 500


def test_a_server_that_ends_twice_or_goes_on_is_found_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection = listener.accept()[0]
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                data, ended = b"", 0
                while ended < 2:
                    data += connection.recv(4096)
                    frames, taken, _ = read_client_frames(data)
                    data = data[taken:]
                    for _, body in frames:
                        if body == b"stop":
                            ended += 1
                            token = frame(b"t:c:%d:9:0" % (ended - 1))
                            connection.sendall(frame(b"_end_") * 2 + token if ended == 2 else frame(b"_end_"))
                        elif body == b"race":
                            connection.sendall(b"".join(frame(b"t:c:%d:%d:0" % (ended, n)) for n in range(5)))
                connection.sendall(b"\x8a\x00")
                connection.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        raced = race(listener.getsockname(), 2, connections=1)
        thread.join()
    assert (raced.ends, raced.doubled, raced.strays) == (2, 1, 1)


def wait_for_some(server: Any, metric: str, least: float) -> None:
    """Scrape until a metric has grown to ``least``, 60 s at most."""
    pause = threading.Event()
    for _ in range(1200):
        if server.metrics().get(metric, 0) >= least:
            return
        pause.wait(0.05)
    raise AssertionError(f"{metric} never grew to {least}: {server.metrics().get(metric)}")


def test_the_hostile_do_all_they_can_and_say_how_often(start_server: Callable[..., Any]) -> None:
    server = start_server("--open-timeout", "3", "--ack-timeout", "0.2")
    command = [sys.executable, "-m", "benchmarks.hostile_clients", server.url, "--connections", "40"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as hostile:
        try:
            assert hostile.stdout is not None
            assert hostile.stdout.readline().startswith("attacking ws://")
            wait_for_some(server, "streamgauge_stops_total", 200)
            wait_for_some(server, 'streamgauge_connections_refused_total{reason="malformed"}', 1)
            wait_for_some(server, 'streamgauge_connections_closed_total{code="1002"}', 1)
        finally:
            hostile.send_signal(signal.SIGTERM)
            said, wrong = hostile.communicate()
    assert wrong == ""
    assert len(json.loads(said)) >= 5
    server.wait_for("streamgauge_connections_open", 0)
    assert "Traceback" not in server.log()


def test_the_command_says_what_was_so(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "attack",
        "--only",
        "storm",
        "--only",
        "stops",
        "--storm",
        "100",
        "--stops",
        "200",
        "--json",
    ]
    page = tmp_path / "page.md"
    page.write_text("".join(f"{name}\n<!-- attack-{name}:begin -->\nold\n<!-- attack-{name}:end -->\n" for name in attack.EXPERIMENTS))
    ended = subprocess.run([*command, "--out", str(tmp_path), "--page", str(page)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert set(found) == {"storm", "stops"}
    assert all(claim["holds"] for each in found.values() for claim in each["claims"])
    filled = page.read_text()
    assert filled.count("\nold\n") == 2
    assert "storm\n<!-- attack-storm:begin -->\n100 connects; seed 1; " in filled
    assert "| upgraded | 100 | 100 | yes |" in filled
    assert "| ends | 200 | 200 | yes |" in filled
    (folder,) = tmp_path.glob("*_attack")
    assert json.loads((folder / "attack.json").read_text()) == found
    assert (folder / "attack.md").read_text().startswith("### storm\n")


def test_sizes_are_those_that_the_pages_promise() -> None:
    sizes = attack.Sizes()
    assert (sizes.conversations, sizes.hostile, sizes.storm, sizes.stops, sizes.cycles) == (2000, 20, 5000, 100_000, 1_000_000)
    assert attack.MOST_RATIO == 2


@pytest.mark.parametrize("name", attack.EXPERIMENTS)
def test_the_page_has_a_place_for_each_experiment(name: str) -> None:
    before, after = split_page(ROOT / "docs" / "reliability.md", name)
    assert before.endswith(f"<!-- attack-{name}:begin -->\n")
    assert after.startswith(f"<!-- attack-{name}:end -->\n")


def test_a_table_says_what_was_not_so() -> None:
    figures = {"attacks": {"garbage": 1200}, "calm_late_p99_ns": [5e6, 6e6], "attacked_late_p99_ns": [7e6]}
    claims = [Claim("m", "ratio", 2.5, 0, 2, "because"), Claim("m", "attacks", 1200, 20, float("inf"), "because")]
    text = write_experiment("mixed", figures, claims, "Somewhere")
    assert text.startswith("Somewhere. 1 of 2 as it must be.\n")
    assert "| ratio | 2.5 | 0 to 2 | **no** |\n| attacks | 1\u202f200 | at least 20 | yes |" in text
    assert "calm 5.00 ms, 6.00 ms; attacked 7.00 ms. Attacks: garbage 1\u202f200." in text


@pytest.mark.parametrize("text", [None, "no place", "<!-- attack-storm:begin -->\nbut no end"])
def test_a_page_without_a_place_is_a_sentence_before_anything_is_measured(text: str | None, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    if text is not None:
        page.write_text(text)
    assert attack.main(["--only", "storm", "--page", str(page), "--out", str(tmp_path / "runs")]) == 2
    assert not (tmp_path / "runs").exists()


def test_too_few_descriptors_are_a_sentence_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.limits.raise_file_limit", lambda wanted: 1024)
    assert attack.main(["--only", "storm", "--out", str(tmp_path / "runs")]) == 2
    assert "5000 users in 1 process need 5256 open files a process and 1024 are allowed" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_slow_storm_and_an_invalid_run_are_not_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = Opened(asked=10, upgraded=10, offered_s=1.2)
    monkeypatch.setattr(attack, "storm", lambda address, count, per_s: slow)
    finding = attack.raise_storm(Counted(), attack.Sizes(storm=10), 1, lambda line: None)  # type: ignore[arg-type]
    assert [claim.what for claim in finding.claims if not claim.holds] == ["seconds in which they were asked for"]

    p99 = {"percentiles": {"p99": {"value": 505e6}}}
    summary = {
        "metrics": {"token_latency": p99},
        "errors": {"connections": [{"count": 2}], "conversations": []},
        "validity": {"valid": False},
    }
    monkeypatch.setattr(attack, "load_run", lambda directory: directory)
    monkeypatch.setattr(attack, "summarise_run", lambda directory: summary)
    finding = attack.mix(Counted(tmp_path), attack.Sizes(hostile=1), 1, lambda line: None)  # type: ignore[arg-type]
    assert {claim.what: claim.found for claim in finding.claims if not claim.holds} == {
        "runs that the rules of validity refuse": 4,
        "honest conversations, connects or closes that failed": 8,
    }


class Counted:
    """Stands for an experiment, its server and its processes: everything may be asked of it."""

    url = "ws://127.0.0.1:1/ws"
    pid = 0
    name = "run"

    def __init__(self, folder: Path = Path(), memory: Iterator[float] | None = None) -> None:
        self.folder = folder
        self._memory = memory

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *arguments: Any) -> Any:
        return self

    def text(self) -> str:
        return '{"garbage": 3}'

    def counts(self) -> dict[str, float]:
        names = ("streamgauge_connections_open", "streamgauge_connections_streaming")
        return dict.fromkeys(names, 0.0) | {"process_resident_memory_bytes": next(self._memory) if self._memory else 1.0}


def test_memory_that_grows_is_not_so(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = iter(float(size) for size in range(100, 300, 10))
    monkeypatch.setattr(attack, "PART", 10)
    monkeypatch.setattr(attack, "cycles", lambda address, part, progress: Opened(asked=part, upgraded=part, seconds=1.0))
    finding = attack.come_and_go(Counted(memory=grown), attack.Sizes(cycles=100), 1, lambda line: None)  # type: ignore[arg-type]
    assert {claim.what.partition(",")[0]: claim.holds for claim in finding.claims}["memory"] is False


@pytest.mark.parametrize("arguments", [["--stops", "0"], ["--only", "nothing"]])
def test_a_wrong_option_is_a_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        attack.main(arguments)
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
