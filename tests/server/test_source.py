"""Text from a file, and what an operator may not ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.options import OptionError, parse_options
from server.parameters import Plan
from server.protocol import ACK, END
from server.source import SCHEDULED, find_unfit, read_words, split_text


@given(st.text())
def test_tokens_are_the_text(text: str) -> None:
    assert "".join(split_text(text)) == text
    assert all(split_text(text))


def test_blanks_belong_to_the_word_that_follows() -> None:
    assert split_text("Once upon\n a time. ") == ("Once", " upon", "\n a", " time.", " ")


def test_a_file_is_told_to_its_end(start_server: Any, tmp_path: Path) -> None:
    from websockets.sync.client import connect

    path = tmp_path / "story.txt"
    path.write_text("Es war einmal", encoding="utf-8")
    server = start_server("--text-file", str(path), "--gap-ms", "0")
    for query, told in (("", ["Es", " war", " einmal"]), ("?tokens=4", ["Es", " war", " einmal", "Es"]), ("?text=numbers&tokens=1", ["0"])):
        with connect(server.url + query, compression=None) as client:
            client.send("tell me")
            heard = []
            while (text := client.recv(20)) != END:
                heard.append(text)
                client.send(ACK)
        assert heard == told


def test_a_server_without_a_text_refuses_to_tell_it(start_server: Any) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    server = start_server()
    with pytest.raises(InvalidStatus) as refused, connect(server.url + "?text=file"):
        pass
    assert b"--text-file" in bytes(refused.value.response.body or b"")


@pytest.mark.parametrize(("content", "sentence"), [(b"", "empty"), (b"\xff\xfe\x00", "UTF-8")])
def test_a_file_that_is_no_text(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        read_words(path)
    with pytest.raises(OptionError, match=sentence):
        parse_options(["--text-file", str(path)])


@pytest.mark.parametrize(
    "options",
    [
        ["--text-file", "/nowhere/at/all"],
        ["--text", "file"],
        ["--upstream", "http://127.0.0.1:1/v1", "--text-file", __file__],
        ["--upstream", "http://127.0.0.1:1/v1", "--gap-ms", "5"],
    ],
)
def test_sources_that_cannot_be(options: list[str]) -> None:
    with pytest.raises(OptionError):
        parse_options(options)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x/v1", "http://", "http://x:y/v1", "http://u:p@x/v1", "http://x/v1?a=b"])
def test_an_upstream_that_is_no_url(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_options(["--upstream", url])
    assert ended.value.code == 2
    assert "an upstream is" in capsys.readouterr().err


def test_defaults_with_an_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMGAUGE_UPSTREAM_KEY", "k")
    launch = parse_options(["--upstream", "http://127.0.0.1:8000/v1/"])
    assert launch.settings.upstream is not None
    assert launch.settings.upstream.url == "http://127.0.0.1:8000/v1"
    assert launch.settings.upstream.key == "k"
    assert launch.settings.plan.tokens == 0


def test_every_scheduled_parameter_is_one_of_the_plan() -> None:
    assert set(SCHEDULED) <= set(Plan.__dataclass_fields__)
    assert find_unfit(Plan(gap_ms=3.0), Plan()) == "gap_ms"
    assert find_unfit(Plan(tokens=3, window=0), Plan()) is None
