"""The check's generator against real servers: turns, counts that agree with the servers' own, times, errors, both arms treated alike."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
QUERY = "?tokens=20&gap_ms=0&ttft_ms=0&window=1"


def a_job(base: dict[str, Any], head: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "block": 3, "order": ["base", "head", "head", "base"], "starts": ["head", "base"], "slice_s": 0.1, "warm_up_s": 0.05, "users": 3,
        "seed": 7, "prompt_bytes": 12, "prompts": None, "adapter": "loadtest.typewriter:Typewriter", "window": 1, "stop_share": 0.3,
        "stop_after_tokens": [2, 9], "stall_timeout_s": 5, "targets": {"base": base, "head": head},
    } | changes  # fmt: skip


def drive(tmp_path: Path, job: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    path, out = tmp_path / "block.job", tmp_path / "block"
    path.write_text(json.dumps(job))
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.alternation", str(path), str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(out.with_suffix(".npz")) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(out.with_suffix(".json").read_text()), arrays, done.stdout


def test_two_servers_in_turns(start_server: Callable[..., Any], tmp_path: Path) -> None:
    base, head = start_server(), start_server()
    slices, arrays, said = drive(
        tmp_path, a_job({"url": base.url + QUERY, "pid": base.pid}, {"url": head.url + QUERY, "pid": head.pid})
    )  # fmt: skip
    assert [row["arm"] for row in slices] == ["base", "head", "head", "base"]
    assert said.splitlines() == ["block 3", "slice 1 base", "slice 2 head", "slice 3 head", "slice 4 base", "slices done"]
    for row in slices:
        assert row["duration_ns"] >= 100_000_000
        assert row["conversations"] == row["completed"] + row["stopped"] > 0
        assert row["stopped"] > 0
        assert row["failed"] == row["failed_connects"] == 0
        assert 0 < row["cpu_ns"] < row["duration_ns"]
        mine = arrays["token_slice"] == row["slice"]
        assert mine.sum() == row["tokens"]
        latency = arrays["token_latency_ns"][mine]
        # Each token but the first of a conversation answers an acknowledgement.
        assert (latency >= 0).sum() == row["tokens"] - row["conversations"]
    # Warm-up is in no slice, but the servers counted it: never fewer than we.
    assert base.metrics()["streamgauge_tokens_total"] >= sum(row["tokens"] for row in slices if row["arm"] == "base")
    assert len(arrays["connect_time_ns_base"]) == len(arrays["connect_time_ns_head"]) == 3
    completed = arrays["conversation_outcome"] == 0
    assert (arrays["conversation_tpot_ns"][completed] > 0).all()
    assert (arrays["conversation_stop_latency_ns"][~completed] >= 0).all()


def test_both_arms_are_asked_for_the_same(start_server: Callable[..., Any], tmp_path: Path) -> None:
    server = start_server()
    one = {"url": server.url + QUERY}
    slices, arrays, _ = drive(tmp_path, a_job(one, one, users=1, stop_share=1.0))
    # One user, every conversation stopped after a drawn number of tokens: the draws of both arms are the same row of numbers.
    lengths: dict[str, list[int]] = {"base": [], "head": []}
    for row in slices:
        assert row["cpu_ns"] is None
        for number in arrays["conversation_number"][arrays["conversation_slice"] == row["slice"]]:
            lengths[row["arm"]].append(int((arrays["token_conversation"] == number).sum()))
    common = min(map(len, lengths.values()))
    assert common > 5
    close = [abs(base - head) <= 1 for base, head in zip(lengths["base"][:common], lengths["head"][:common], strict=True)]
    # A token may be under way when the stop is sent.
    assert all(close)


def test_a_target_that_is_not_there_is_counted_and_waited_for(start_server: Callable[..., Any], tmp_path: Path) -> None:
    server, gone = start_server(), start_server()
    gone.stop()
    slices, arrays, _ = drive(tmp_path, a_job({"url": server.url + QUERY, "pid": server.pid}, {"url": gone.url + QUERY, "pid": gone.pid}))
    for row in slices:
        if row["arm"] == "head":
            assert row["tokens"] == row["conversations"] == 0
            assert row["failed_connects"] >= 3
            assert row["cpu_ns"] is None
        else:
            assert row["conversations"] > 0
            assert row["failed_connects"] == 0
    assert len(arrays["connect_time_ns_head"]) == 0


def test_an_adapter_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "block.job"
    path.write_text(json.dumps(a_job({"url": "ws://127.0.0.1:1/ws"}, {"url": "ws://127.0.0.1:1/ws"}, adapter="nowhere:Nothing")))
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.alternation", str(path), str(tmp_path / "block")], cwd=ROOT, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("streamgauge: cannot load the adapter")
    assert "Traceback" not in done.stderr


def test_nothing_of_locust_is_loaded() -> None:
    code = "import sys, loadtest.alternation; sys.exit('locust' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("order", [["base"], ["head", "base"]])
def test_any_order_is_kept(start_server: Callable[..., Any], tmp_path: Path, order: list[str]) -> None:
    server = start_server()
    one = {"url": server.url + QUERY}
    slices, _, _ = drive(tmp_path, a_job(one, one, order=order))
    assert [row["arm"] for row in slices] == order
