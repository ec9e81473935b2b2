"""The Autobahn suite's cases, run by kosoku's fuzzing server against the engine's connections."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

kosoku = pytest.importorskip("kosoku")

ROOT = Path(__file__).resolve().parents[2]

# What fails, and why it stays so.
KNOWN = {"7.1.5": "a close in mid-message is answered with 1002 by the websockets library; the case wants 1000"}


async def visited() -> list[Any]:
    """Every case's result, passed or not."""
    async with kosoku.run_fuzzingserver(exclude_cases=["12.*", "13.*"], port=0) as server:
        client = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__).with_name("drivers") / "echo_client.py"), f"ws://{server.address}:{server.port}",
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE,
        )  # fmt: skip
        _, said = await client.communicate()
        assert client.returncode == 0, said.decode()
        try:
            return list(await server.get_result())
        except kosoku.FailureError as failures:
            return list(failures.results)


def test_every_case_but_those_named_above_passes() -> None:
    results = asyncio.run(visited())
    assert len(results) == 301
    failed = {each.case_id: f"{each.behavior.value}, {each.behavior_close.value}: {each.result}" for each in results if not each.passed}
    assert {case: why for case, why in failed.items() if case not in KNOWN} == {}
    assert set(failed) == set(KNOWN), "a case that is named as known passes now: take it out"
