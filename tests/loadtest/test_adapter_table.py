"""The file of an adapter's options, and what of it may be shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.adapter import AdapterError
from loadtest.adapter_table import read_adapter_file


def test_a_table_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[adapter]\nname = "json"\nend = "x"\n')
    assert read_adapter_file(tmp_path / "a.toml") == ("json", {"end": "x"})
    (tmp_path / "b.toml").write_text('end = "x"\n')
    assert read_adapter_file(tmp_path / "b.toml") == (None, {"end": "x"})
    (tmp_path / "c.json").write_text('{"adapter": {"name": "sse"}}')
    assert read_adapter_file(tmp_path / "c.json") == ("sse", {})
    (tmp_path / "d.toml").write_text('[adapter]\nname = "sub/mine.py:Mine"\n')
    assert read_adapter_file(tmp_path / "d.toml")[0] == f"{tmp_path.resolve()}/sub/mine.py:Mine"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[adapter", "not valid TOML"),
        ("adapter = 5", "expected a table"),
        ("[adapter]\nname = 5", "expected the name"),
        (None, "cannot read"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str | None, sentence: str) -> None:
    if text is not None:
        (tmp_path / "a.toml").write_text(text)
    with pytest.raises(AdapterError, match=sentence):
        read_adapter_file(tmp_path / "a.toml")
