"""Token files: what may stand in them, and that no message repeats what does."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.access import read_tokens
from server.options import OptionError, parse_options


def test_blank_lines_and_comments_are_no_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# who may come\n\n  first-token-0123456789  \nsecond-token-0123456789\n")
    assert read_tokens(file) == ("first-token-0123456789", "second-token-0123456789")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"short-token\n", "line 1: a token is 16 to 4096 ASCII characters without blanks"),
        (b"# nobody\n", "there is no token in it"),
        (b"with-a blank-0123456789\n", "without blanks"),
        (b"not-ascii-0123456789-\xc3\xa4\n", "ASCII"),
        (b"\xff\xfe\n", "no UTF-8"),
        (b"x" * 4097, "16 to 4096"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, data: bytes, sentence: str) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(data)
    with pytest.raises(OptionError, match=sentence) as error:
        parse_options(["--token-file", str(file)])
    assert "0123456789" not in str(error.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="No such file"):
        parse_options(["--token-file", str(tmp_path / "none")])
