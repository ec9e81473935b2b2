"""The comparison of servers: its table, its chart, and the proxy's configuration without TLS."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.server_result import draw, median, rows, write_markdown
from benchmarks.servers import SERVERS, main, nginx_program, proxy_configuration

ROOT = Path(__file__).resolve().parents[2]


def figures() -> list[dict[str, Any]]:
    made = []
    for index, server in enumerate(SERVERS):
        for value in (10.0 + index, 20.0 + index, 12.0 + index):
            for name, users in (
                ("itl_p99_ms", 20),
                ("itl_p99_ms", 100),
                ("ttft_p50_ms", 20),
                ("tokens_per_s", 64),
                ("cpu_us_per_token", 64),
            ):
                made.append({"server": server, "name": name, "value": value, "users": users, "valid": value < 20})
    return made


def test_medians_over_the_rounds() -> None:
    assert median(figures(), "websockets", "itl_p99_ms", 20) == 12.0
    assert median(figures(), "websockets", "resident_mib") is None
    head, made = rows(figures())
    assert head[4:] == ["gap p99, 20 users (ms)", "gap p99, 100 users (ms)", "valid"]
    assert made[0] == ["websockets", "12.0", "12.0", "–", "12.0", "12.0", "4 of 6"]
    assert write_markdown(figures()).count("\n") == len(SERVERS) + 2


def test_the_chart_is_drawn(tmp_path: Path) -> None:
    draw(figures(), tmp_path)
    assert (tmp_path / "servers.png").stat().st_size > 10_000


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
