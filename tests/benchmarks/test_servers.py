"""The comparison of servers: its table, its chart, and the proxy's configuration without TLS."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.server_ladder import at_rung, climbing, common_rung, drift, find, judge, most_tokens, tokens_per_cpu_s
from benchmarks.server_peers import SERVERS, nginx_program, proxy_configuration
from benchmarks.server_result import draw, tables
from benchmarks.servers import LADDER, main, parse

ROOT = Path(__file__).resolve().parents[2]


def reading(server: str, conversations: int, state: str = "met", **changes: Any) -> dict[str, Any]:
    return {
        "server": server, "load": "ladder", "conversations": conversations, "valid": True, "reasons": [], "state": state,
        "missed": [] if state == "met" else [f"gap: {state}."], "gap_p50_ms": 20.0, "gap_p99_ms": 21.0 if state == "met" else 80.0,
        "ttft_p99_ms": 25.0, "tokens_per_s": 50.0 * conversations, "cpu_us_per_token": 40.0, "resident_bytes": 2**25, **changes,
    }  # fmt: skip


def unpaced(server: str, cpu_us: float, tokens_per_s: float, *, valid: bool = True) -> dict[str, Any]:
    changes = {"load": "ceiling", "cpu_us_per_token": cpu_us, "tokens_per_s": tokens_per_s, "valid": valid}
    return reading(server, 64, "missed", **changes)


def whole() -> list[dict[str, Any]]:
    made = []
    for index, server in enumerate(SERVERS):
        made += [unpaced(server, 20.0 + index, 40_000.0 - index), unpaced(server, 22.0 + 1.1 * index, 41_000.0)]
        made += [reading(server, rung, gap_p99_ms=21.0 + index) for rung in (100, 200)]
        made += [reading(server, 400, "missed")] * 2 if index else [reading(server, 400)]
    return made


def test_a_rung_is_held_when_one_of_two_runs_held_it() -> None:
    invalid = reading("a", 100, valid=False, reasons=["busy"])
    missed, unknown = reading("a", 100, "missed"), reading("a", 100, "unknown")
    assert judge([]) == judge([missed]) == judge([invalid]) == "again"
    assert judge([reading("a", 100)]) == judge([missed, reading("a", 100)]) == "held"
    assert judge([missed, missed]) == judge([invalid, missed]) == "missed"
    # What is not valid, or has too few samples, says nothing of the server.
    assert judge([invalid, invalid]) == judge([unknown, unknown]) == "unjudged"


def test_who_holds_climbs_and_who_misses_is_tried_once_more() -> None:
    names, ladder = ["a", "b", "c"], (100, 200)
    assert climbing([], names, 100, ladder) == names
    first = [reading("a", 100), reading("b", 100, "missed"), reading("c", 100, "missed")]
    assert climbing(first, names, 100, ladder) == ["b", "c"]
    second = [*first, reading("b", 100), reading("c", 100, "missed")]
    assert climbing(second, names, 100, ladder) == []
    assert climbing(second, names, 200, ladder) == ["a", "b"]


def test_the_ceiling_is_the_highest_rung_that_was_held() -> None:
    up = [reading("a", 100), reading("a", 200), reading("a", 400, "missed"), reading("a", 400, "missed")]
    found = find(up, "a")
    assert (found.held, found.above, found.why, found.limit) == (200, 400, "gap: missed.", "server")
    assert find(up[:2], "a").limit == "ladder"
    noisy = [*up[:2], *[reading("a", 400, valid=False, reasons=["the generator is busy"])] * 2]
    assert (find(noisy, "a").held, find(noisy, "a").limit) == (200, "measurement")
    assert "busy" in find(noisy, "a").why
    assert find([reading("a", 100, "missed")] * 2, "a").held is None


def test_figures_are_compared_where_all_hold() -> None:
    made = whole()
    assert common_rung(made) == 200
    assert at_rung(made, "websockets", 200, "gap_p99_ms") == 21.0
    assert at_rung(made, "websockets", 999, "gap_p99_ms") is None
    assert most_tokens(made, "websockets") == (41_000.0, True)
    assert most_tokens([unpaced("a", 20, 10.0), unpaced("a", 20, 30.0, valid=False)], "a") == (30.0, False)
    assert tokens_per_cpu_s(made, "websockets") == pytest.approx(1e6 / 21)
    assert drift(made) == pytest.approx(0.1)
    assert drift(made[:1]) is None


def test_the_tables_say_whose_limit_it_is() -> None:
    ceiling, same, ladder = (rows for _, _, rows in tables(whole()))
    assert ceiling[0][1] == "≥ 400"
    assert ceiling[1][1] == "200"
    assert ceiling[1][-1] == "at 400: gap: missed."
    assert same[1][:4] == ["websockets, uvloop", "40.0", "20.0", "22.0"]
    assert ladder[1][-1] == "80.0 *"


def test_the_chart_is_drawn(tmp_path: Path) -> None:
    draw(whole(), tmp_path)
    assert (tmp_path / "servers.png").stat().st_size > 10_000


def test_quick_changes_what_was_not_asked_for() -> None:
    assert parse([]).users == LADDER
    quick = parse(["--quick", "--step-s", "9"])
    assert (quick.step_s, quick.passes) == (9, 1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--users", "0"], "whole number from 1"),
        (["--slo", "gaps=2"], "expected"),
        (["--ws-module", "/nowhere"], "npm package ws"),
    ],
)
def test_wrong_options_are_refused(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_an_unknown_server_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--only", "websockets;apache"])
    assert ended.value.code == 2
    assert "'apache'" in capsys.readouterr().err


@pytest.mark.skipif(not nginx_program(), reason="no nginx on this machine")
def test_the_proxy_without_tls_is_a_sound_configuration(tmp_path: Path) -> None:
    text = proxy_configuration((ROOT / "deploy/nginx.conf").read_text(encoding="utf-8"), 18_443, 18_001, tmp_path)
    assert "ssl" not in text
    assert "listen 127.0.0.1:18443;" in text
    assert text.count("listen ") == 1
    assert "server 127.0.0.1:18001;" in text
    assert "proxy_http_version 1.1;" in text
    (tmp_path / "nginx.conf").write_text(text)
    checked = subprocess.run(
        [nginx_program(), "-t", "-p", str(tmp_path), "-e", "stderr", "-c", str(tmp_path / "nginx.conf")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine")
def test_the_peer_of_node_is_sound_javascript() -> None:
    subprocess.run(["node", "--check", str(ROOT / "benchmarks/peers/ws_server.cjs")], check=True)
