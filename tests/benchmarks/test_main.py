"""Every command of ``python -m benchmarks`` says what it takes."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import OWN_OPTIONS, main


@pytest.mark.parametrize("command", [*OWN_OPTIONS, "bench", "ui", "engine", "list"])
def test_help_is_printed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"benchmarks {command}" in capsys.readouterr().out
