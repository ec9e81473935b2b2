"""Every mishap once, with real processes, beside each other; and that the judge sees what is silently wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import reliability
from benchmarks.mishaps import MISHAPS, Harm, Mishap
from benchmarks.namespaces import unavailable
from benchmarks.reliability import Case, summarise, try_all, write_section

PARALLEL = 4


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    why = unavailable()
    mishaps = [mishap for mishap in MISHAPS if why is None or not mishap.hosts]
    said: list[str] = []
    found = try_all(mishaps, 1, 0, tmp_path_factory.mktemp("faults"), PARALLEL, said.append)
    assert len(said) == len(mishaps)
    return {case.mishap: case for case in found}


@pytest.mark.parametrize("mishap", MISHAPS, ids=lambda mishap: mishap.name)
def test_no_run_is_silently_wrong(cases: dict[str, Case], mishap: Mishap) -> None:
    if mishap.name not in cases:
        pytest.skip(str(unavailable()))
    case = cases[mishap.name]
    assert case.wrong == []
    assert not case.silent
    assert case.sent == case.ok + case.error + case.unknown
    assert case.sent > 100 or not mishap.directory


def test_a_tampered_record_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge itself: a run that says it is complete, and whose record lacks conversations."""
    whole = next(mishap for mishap in MISHAPS if mishap.name == "none")
    original = reliability.account

    def short(run: Path, history: Path) -> Any:
        import pyarrow.parquet as pq

        for name in ("conversations", "tokens"):
            table = pq.read_table(run / f"{name}.parquet")
            pq.write_table(table.slice(0, table.num_rows - table.num_rows // 10), run / f"{name}.parquet")
        return original(run, history)

    monkeypatch.setattr(reliability, "account", short)
    (case,) = try_all([whole], 1, 0, tmp_path, 1, lambda line: None)
    assert case.silent
    assert any("differ" in sentence for sentence in case.wrong)


def test_a_row_a_fault(tmp_path: Path) -> None:
    mishap = Mishap("m", "how it goes", lambda cluster, draw: Harm(), (0,), ("complete",))
    cases = [
        Case("m", 1, 0, "complete", 10, 9, 0, 1, unknown_s=0.5),
        Case("m", 2, 12, "degraded", 5, 5, 0, 0, unknown_s=0.7, silent=True, wrong=["x"]),
    ]  # fmt: skip
    (row,) = summarise(cases, [mishap])
    assert (row["runs"], row["as_expected"], row["silently_wrong"], row["sent"], row["unknown"]) == (2, 1, 1, 15, 1)
    assert row["unknown_s"] == 0.7
    text = write_section([row], "1 to 2", {"cpu_model": "c", "cpu_count": 2, "os": "o", "kernel": "k"})
    assert text.startswith("**Runs that were silently wrong: 1 of 2.**")
    assert "| how it goes | 2 | 1 | 1 | complete (0), degraded (12) | 15 | 14 | 0 | 1 | 0.70 s |  |" in text
    json.dumps(row)


@pytest.mark.parametrize("words", [["--seeds", "0"], ["--only", "nonsense"], ["--parallel", "0"]])
def test_wrong_options_are_said(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        reliability.main(words)
    assert ended.value.code == 2
    assert "expected" in capsys.readouterr().err
