"""Targets that send without end: what the generator's process holds does not grow with it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.loadtest.hostile import HostileServer, Peer, after_prompt, frame, text
from tests.loadtest.test_stream import OPTIONS, bomb, endless_fragments, endless_header, never_read

MOST_BYTES = 20_000_000


def send_a_giant(peer: Peer) -> None:
    """One message of 80 MB, as far as it is taken."""
    peer.send(peer.upgrade())
    peer.read_frame()
    try:
        peer.send(frame(1, b"", length=80_000_000))
        for _ in range(80):
            peer.send(b"x" * 1_000_000)
    except OSError:
        pass


SCRIPTS = {
    "giant": send_a_giant, "endless_header": endless_header, "endless_fragments": endless_fragments, "bomb": bomb,
    "never_reads": never_read, "good": after_prompt(text("a"), text("_end_")),
}  # fmt: skip


def peak(pid: int) -> int:
    """The most memory that a process has ever had resident, bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_target_that_sends_without_end_costs_no_memory(driver: Any) -> None:
    with HostileServer(SCRIPTS) as server:
        cases = [{"url": server.url(name), "stall_timeout_s": 5.0, **OPTIONS.get(name, {})} for name in SCRIPTS]
        driver.ask(cases[-1:])
        before = peak(driver.process.pid)
        found = dict(zip(SCRIPTS, driver.ask(cases), strict=True))
        grown = peak(driver.process.pid) - before
    assert driver.errors() == ""
    assert grown < MOST_BYTES, f"{grown / 1e6:.0f} MB more"
    assert found["good"]["conversations"][0]["outcome"] == "completed"
    assert [
        name for name in SCRIPTS if name != "good" and [row for row in found[name]["conversations"] if row["outcome"] == "completed"]
    ] == []
    assert found["giant"]["conversations"][0]["error"] == "message_too_big"
