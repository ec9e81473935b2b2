"""Prompts and people from files: what is accepted, and the sentence for each thing that is wrong."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.population import MOST_PROMPT_BYTES, Person, PopulationError, Speech, generate_prompt, read_people, read_prompts


def made(folder: Path, contents: bytes | str) -> Path:
    path = folder / "file"
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return path


# -- prompts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contents", "prompts"),
    [
        ("one\ntwo\n", ("one", "two")),
        ("one\r\ntwo", ("one", "two")),
        ("\n\n  \none\n\n", ("one",)),
        ("  spaces stay \n", ("  spaces stay ",)),
        ("stop it\n stop\nSTOP\n_end_\n", ("stop it", " stop", "STOP", "_end_")),
        ("日本\n", ("日本",)),
        (b"\xef\xbb\xbfone\n", ("one",)),  # as some editors begin a file
    ],
)
def test_one_prompt_a_line(tmp_path: Path, contents: bytes | str, prompts: tuple[str, ...]) -> None:
    assert read_prompts(made(tmp_path, contents)) == prompts


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        ("", "expected at least one prompt, one a line, in {path}, found none"),
        (" \n\t\n", "expected at least one prompt, one a line, in {path}, found none"),
        (b"fine\n\xff\n", "expected UTF-8 text in the prompt file {path}, found a byte that is none at offset 5"),
        ("one\n\nstop\n", "line 3 of {path} is 'stop', which means stop and cannot be a prompt; change it"),
        (None, "cannot read the prompt file {path}: No such file or directory"),
    ],
)
def test_a_prompt_file_that_cannot_be_used(tmp_path: Path, contents: bytes | str | None, sentence: str) -> None:
    path = tmp_path / "file" if contents is None else made(tmp_path, contents)
    with pytest.raises(PopulationError, match=f"^{re.escape(sentence.format(path=path))}$"):
        read_prompts(path)


def test_a_folder_is_no_prompt_file(tmp_path: Path) -> None:
    with pytest.raises(PopulationError, match=f"cannot read the prompt file {tmp_path}: Is a directory"):
        read_prompts(tmp_path)


@given(st.integers(1, 3000), st.integers(0, 10**6))
def test_generated_prompts_have_their_size_and_their_seed(size: int, seed: int) -> None:
    prompt = generate_prompt(random.Random(seed), size)
    assert len(prompt.encode("ascii")) == size
    assert prompt == generate_prompt(random.Random(seed), size)
    assert prompt not in ("", "stop")


def test_generated_prompts_differ() -> None:
    draw = random.Random(1)
    assert len({generate_prompt(draw, 64) for _ in range(100)}) == 100


def test_the_stop_word_is_never_generated() -> None:
    class Stops(random.Random):
        def choice(self, words: object) -> str:  # type: ignore[override]
            return "stop"

    assert generate_prompt(Stops(), 4) == "STOP"


# -- people ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contents", "people"),
    [
        ("url\nws://a/ws\nwss://b/ws\n", (Person("ws://a/ws"), Person("wss://b/ws"))),
        ("token\nabc\n", (Person(None, (("Authorization", "Bearer abc"),)),)),
        ("url,header:X-Team,token\n ,red,t\n", (Person(None, (("X-Team", "red"), ("Authorization", "Bearer t"))),)),
        ("url,header:X-A,header:X-B\nws://a,,2\n", (Person("ws://a", (("X-B", "2"),)),)),
        (b'\xef\xbb\xbfheader:X-A\r\n"a, b"\r\n', (Person(None, (("X-A", "a, b"),)),)),
        ("url\nws://a\n\n", (Person("ws://a"),)),
    ],
)
def test_one_person_a_row(tmp_path: Path, contents: bytes | str, people: tuple[Person, ...]) -> None:
    assert read_people(made(tmp_path, contents)) == people


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        ("", "expected the columns url, token, header:NAME in {path}, found an empty file"),
        ("url\n", "expected at least one user below the header line of {path}, found none"),
        ("url,colour\nws://a,red\n", "expected the columns url, token, header:NAME in {path}, found 'colour'"),
        ("header:\nx\n", "expected the columns url, token, header:NAME in {path}, found 'header:'"),
        ("header:Two Words\nx\n", "expected the columns url, token, header:NAME in {path}, found 'header:Two Words'"),
        ("url,token\nws://a\n", "expected 2 fields in line 2 of {path}, found another number"),
        ("url\nws://a\nws://b,c\n", "expected 1 fields in line 3 of {path}, found another number"),
        ("url\nws://a\n\nhttp://b\n", "expected a ws:// or wss:// URL in line 4 of {path}, found 'http://b'"),
        ('header:X\n"a\nb"\n', "a header in line 3 of {path} contains a line break or a zero byte, which HTTP cannot carry"),
        ('token\n"a\rb"\n', "a header in line 3 of {path} contains a line break or a zero byte, which HTTP cannot carry"),
        (b"url\n\xff\n", "expected UTF-8 text in the users file {path}, found a byte that is none at offset 4"),
        (None, "cannot read the users file {path}: No such file or directory"),
    ],
)
def test_a_users_file_that_cannot_be_used(tmp_path: Path, contents: bytes | str | None, sentence: str) -> None:
    path = tmp_path / "file" if contents is None else made(tmp_path, contents)
    with pytest.raises(PopulationError, match=f"^{re.escape(sentence.format(path=path))}$"):
        read_people(path)


@pytest.mark.parametrize("contents", ['url\n"never closed\n', 'url\n"a"b\n', "token\n" + "x" * 200_000])
def test_a_users_file_that_is_not_csv(tmp_path: Path, contents: str) -> None:
    path = made(tmp_path, contents)
    with pytest.raises(PopulationError, match=rf"^line \d+ of {re.escape(str(path))} is not CSV: "):
        read_people(path)


@given(st.binary(max_size=200))
def test_any_file_is_accepted_or_refused_by_a_sentence(tmp_path_factory: pytest.TempPathFactory, contents: bytes) -> None:
    path = made(tmp_path_factory.getbasetemp(), contents)
    for read in (read_prompts, read_people):
        sentence = ""
        try:
            assert read(path)
        except PopulationError as error:
            sentence = str(error)
        assert not sentence or str(path) in sentence


def test_what_a_trace_or_a_workload_says_makes_the_prompt() -> None:
    draw = random.Random(1)
    said = Speech(bytes_per_token=4).say(draw, 100, 211)
    assert said.startswith("211 ")
    assert len(said) == 400
    assert (said.prompt_tokens, said.answer_tokens) == (100, 211)
    assert len(Speech().say(draw, 10**9, 5)) == MOST_PROMPT_BYTES
    assert Speech().say(draw, 1, 12345) == "12345"
    assert Speech().say(draw, 30, 0).startswith("1 "), "an answer of no token is asked for no more"
    assert Speech(("hello",)).say(draw, 30, 7) == "7 hello"
    left = Speech(asks=False, tells=False).say(draw, 30, 7)
    assert (len(left), left[0].isdigit(), left.answer_tokens) == (120, False, None)
    assert Speech().say(draw).answer_tokens is None
    drawn = Speech(workload="code").say(draw)
    assert drawn.startswith(f"{drawn.answer_tokens} ")
