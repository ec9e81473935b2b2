"""What comparisons share: what is kept, what is shown, and what reaches a page of the documentation."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import server_result
from benchmarks.comparison import Comparison, add_common, compare, publish, replace_parts
from benchmarks.processes import Interrupted, ProcessError
from benchmarks.runner import BenchError

READING = {
    "server": "websockets", "load": "ladder", "conversations": 100, "valid": True, "reasons": [], "state": "met", "missed": [],
    "gap_p50_ms": 20.0, "gap_p99_ms": 21.0, "ttft_p99_ms": 23.0, "tokens_per_s": 4990.0, "cpu_us_per_token": 32.0,
    "resident_bytes": 2**25,
}  # fmt: skip


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_common(parser)
    return parser.parse_args(words)


def test_what_was_measured_is_kept_when_it_is_interrupted(tmp_path: Path) -> None:
    def work(comparison: Comparison) -> None:
        comparison.figures.append(dict(READING))
        raise Interrupted

    assert compare("servers", options("--out", str(tmp_path)), server_result, work) == 130
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "servers.json").read_text())["figures"] == [READING]
    assert "| websockets | ≥ 100 |" in (folder / "servers.md").read_text()


def test_a_program_that_fails_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def work(comparison: Comparison) -> None:
        raise ProcessError("the server did not come")

    assert compare("servers", options("--out", str(tmp_path)), server_result, work) == 1
    assert "the server did not come" in capsys.readouterr().err


def test_an_earlier_measurement_is_shown_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def work(comparison: Comparison) -> None:
        comparison.figures.append(dict(READING))

    assert compare("servers", options("--out", str(tmp_path)), server_result, work) == 0
    (folder,) = tmp_path.iterdir()
    first = (folder / "servers.md").read_text()
    capsys.readouterr()

    def nothing(comparison: Comparison) -> None:
        raise AssertionError("measured again")

    assert compare("servers", options("--read", str(folder), "--json"), server_result, nothing) == 0
    assert json.loads(capsys.readouterr().out)["figures"] == [READING]
    assert (folder / "servers.md").read_text() == first


def test_what_is_no_measurement_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def nothing(comparison: Comparison) -> None:
        raise AssertionError

    assert compare("servers", options("--read", str(tmp_path)), server_result, nothing) == 2
    assert "earlier measurement" in capsys.readouterr().err


def test_a_page_keeps_what_stands_around_its_parts(tmp_path: Path) -> None:
    page = "before\n<!-- servers:begin -->\nold\n<!-- servers:end -->\nafter\n"
    assert replace_parts(page, {"servers": "new"}) == page.replace("old", "new")
    for broken in ("no marks", page + page, page.replace("begin", "x").replace("end", "begin").replace("x", "end")):
        with pytest.raises(BenchError, match="servers:begin"):
            replace_parts(broken, {"servers": "new"})
    (tmp_path / "servers.md").write_text(page)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/servers.png").write_bytes(b"chart")
    publish("servers", tmp_path / "run", {"servers": "new"}, tmp_path)
    assert "new" in (tmp_path / "servers.md").read_text()
    assert (tmp_path / "servers.png").read_bytes() == b"chart"


@pytest.mark.parametrize(("name", "names"), [("servers", ["servers"]), ("transports", ["transports", "claims"])])
def test_the_pages_have_the_marks(name: str, names: list[str]) -> None:
    text = (Path(__file__).resolve().parents[2] / f"docs/{name}.md").read_text()
    parts: dict[str, Any] = dict.fromkeys(names, "x")
    assert replace_parts(text, parts).count("\nx\n") == len(names)
