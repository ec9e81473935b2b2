"""The command line: exit codes, output, and what it does not import."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.synthetic import SyntheticRun
from loadtest.run_directory import RunDirectory
from reports.__main__ import main

Models = Callable[[str], SyntheticRun]


def test_build_writes_and_prints(models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = models("plain").write(tmp_path / "run")
    assert main(["build", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Valid run: Synthetic run")
    assert f"report   {path}/report.html" in out
    assert (path / "charts" / "throughput.png").exists()


def test_build_without_charts_keeps_the_old_ones(models: Models, tmp_path: Path) -> None:
    path = models("plain").write(tmp_path / "run")
    assert main(["build", str(path), "--no-charts"]) == 0
    assert (path / "report.html").exists()
    assert not (path / "charts").exists()


def test_json_alone_stands_on_standard_output(models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = models("plain").write(tmp_path / "run")
    assert main(["build", str(path), "--no-charts", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == json.loads((path / "summary.json").read_text())
    assert "Valid run" in captured.err


def test_invalid_run_exits_12(models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = models("plain")
    model.metadata |= {"status": "degraded", "status_reasons": ["worker w1 was lost"]}
    path = model.write(tmp_path / "run")
    assert main(["show", str(path)]) == 12
    assert capsys.readouterr().out.splitlines()[:2] == [
        "INVALID RUN (DEGRADED): Synthetic run, ws://127.0.0.1:8001/ws",
        "  ! The run is degraded: worker w1 was lost.",
    ]
    assert main(["build", str(path), "--no-charts"]) == 12


def test_show_writes_nothing(models: Models, tmp_path: Path) -> None:
    path = models("plain").write(tmp_path / "run")
    before = sorted(path.iterdir())
    assert main(["show", str(path)]) == 0
    assert sorted(path.iterdir()) == before


@pytest.mark.parametrize("command", ["build", "show", "recover"])
def test_a_wrong_path_is_one_sentence_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    (tmp_path / "file").touch()
    for name in ("nowhere", "file", "."):
        assert main([command, str(tmp_path / name)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("reports: expected a run directory")


def test_the_newest_run_is_meant_when_none_is_named(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["show"]) == 2
    models("plain").write(tmp_path / "runs" / "old")
    models("open").write(tmp_path / "runs" / "new")
    capsys.readouterr()
    assert main(["show"]) == 0
    newest = capsys.readouterr().out
    assert "Time to first token from due" in newest
    assert main(["show", "old"]) == 0
    assert "from due" not in capsys.readouterr().out


def test_compare_prints_a_table(run_path: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", str(run_path("plain")), str(run_path("paced")), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "Token latency" in out
    assert "worse" in out
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["name"] == "plain"


def test_recover_builds_a_report_and_exits_12(models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = models("two_workers")
    model.metadata |= {"status": "running", "window": None}
    path = model.write(tmp_path / "run", compact=False)
    raw = path / "raw" / "w1.frames"
    raw.write_bytes(raw.read_bytes()[:-40])
    assert main(["recover", str(path)]) == 12
    assert "status aborted" in capsys.readouterr().out
    assert RunDirectory.open(path).metadata()["status"] == "aborted"
    assert (path / "report.html").exists()


def test_unwritable_directory_is_one_sentence(models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = models("plain").write(tmp_path / "run")
    # A directory in the place of a file cannot be replaced by one, whoever runs this.
    (path / "report.html").mkdir()
    assert main(["build", str(path), "--no-charts"]) == 2
    assert "cannot write the report" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["reports.build", "reports.summary", "reports.compare", "reports.text", "reports.__main__"])
def test_reports_never_import_locust_and_draw_only_when_asked(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'locust', 'gevent', 'server', 'matplotlib'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missed_threshold_ends_with_ten_and_validity_comes_first(
    models: Callable[[str], SyntheticRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(models("plain").write(tmp_path / "run"))
    assert main(["show", path, "--threshold", "token_p99 < 50ms", "--threshold", "errors < 5%"]) == 0
    assert "2 thresholds met" in capsys.readouterr().out
    assert main(["show", path, "--threshold", "token_p99 < 5ms, errors < 5%"]) == 10
    assert "1 missed of 2 thresholds" in capsys.readouterr().out
    # A figure that is not known makes it a run that cannot be judged; so does a broken run, whatever its figures say.
    assert main(["show", path, "--threshold", "token_p99 < 5ms", "--threshold", "ttft_p99.9 < 5s"]) == 12
    assert main(["build", path, "--no-charts", "--threshold", "token_p99 < 5ms"]) == 10
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["thresholds"]["state"] == "missed"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "1 missed of 1 threshold" in page
    assert "token_latency_p99 &lt; 5ms" in page
    model = models("plain")
    model.metadata["status"] = "degraded"
    broken = str(model.write(tmp_path / "broken"))
    assert main(["show", broken, "--threshold", "token_p99 < 5ms"]) == 12
    capsys.readouterr()
    assert main(["show", path, "--threshold", "token_p98 < 5ms"]) == 2
    assert capsys.readouterr().err.startswith("reports: expected one of p50")
    assert main(["show", path, "--slo", "itl=5ms"]) == 2
    assert main(["show", path, "--slo", "ttft=1s", "--threshold", "goodput >= 99%"]) == 0


def test_thresholds_of_the_scenario_stand_and_may_be_replaced(
    models: Callable[[str], SyntheticRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = models("plain")
    model.metadata["scenario"]["thresholds"] = ["token_latency_p99 < 5ms"]
    path = str(model.write(tmp_path / "run"))
    assert main(["show", path]) == 10
    assert main(["show", path, "--threshold", "token_p99 < 5s"]) == 0
