"""Somebody's own adapter: found by module or by file, never mixed up with our packages, refused with a sentence."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import server
from loadtest.adapter import AdapterError, load_adapter, make_adapter
from loadtest.typewriter import Typewriter

MINE = """
class Mine:
    acknowledgement = None
    window = 0

    def __init__(self, options):
        self.options = options

    def start(self, prompt):
        return [prompt, b"go"]

    def receive(self, message):
        return len(message)

    def stop(self):
        return ["halt"]

number = 5
"""


@pytest.fixture(autouse=True)
def forget_modules() -> Iterator[None]:
    """What a test has loaded is gone after it."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def written(path: Path, text: str = MINE) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_by_module() -> None:
    assert load_adapter("loadtest.typewriter:Typewriter") is Typewriter


def test_by_somebodys_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "theirs" / "inner.py")
    monkeypatch.syspath_prepend(tmp_path)
    adapter = make_adapter(load_adapter("theirs.inner:Mine"), {"window": 3})
    assert list(adapter.start("p")) == ["p", b"go"]


def test_by_file_absolute_or_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "deep" / "mine.py")
    assert load_adapter(f"{path}:Mine").__name__ == "Mine"
    monkeypatch.chdir(tmp_path)
    adapter = make_adapter(load_adapter("deep/mine.py:Mine"), {"window": 3})
    assert (adapter.window, adapter.acknowledgement, adapter.receive("abc"), list(adapter.stop())) == (0, None, 3, ["halt"])


def test_two_files_of_one_name_are_two(tmp_path: Path) -> None:
    first, second = (written(tmp_path / folder / "mine.py", MINE + f"folder = {folder!r}") for folder in ("a", "b"))
    modules = [sys.modules[load_adapter(f"{path}:Mine").__module__] for path in (first, second)]
    assert [module.folder for module in modules] == ["a", "b"]


def test_a_folder_with_packages_of_our_names_changes_nothing(tmp_path: Path) -> None:
    for name in ("server", "loadtest", "reports", "benchmarks"):
        written(tmp_path / name / "__init__.py", "raise RuntimeError('theirs was imported in place of ours')")
    path = written(tmp_path / "mine.py", "from server.protocol import END\nimport loadtest.metrics\n" + MINE)
    before = list(sys.path)
    cls = load_adapter(f"{path}:Mine")
    assert sys.path == before
    assert sys.modules["server"] is server
    assert sys.modules[cls.__module__].END == "_end_"


def test_an_adapters_dataclasses_work(tmp_path: Path) -> None:
    # They look their own module up by its name.
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Part:\n    x: int = 1\n" + MINE
    assert load_adapter(written(tmp_path / "mine.py", text) + ":Mine")


@pytest.mark.parametrize("name", ["", "mine", "mine:", ":Mine", "mine.py", "a.py:"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(AdapterError, match=f"module:Class or path/to/file.py:Class, got {re.escape(repr(name))}"):
        load_adapter(name)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def broken(", "cannot load the adapter .*: SyntaxError: "),
        ("1 / 0", "cannot load the adapter .*: ZeroDivisionError: division by zero"),
        ("import no_such_module_of_theirs", "cannot load the adapter .*: ModuleNotFoundError: "),
        ("", "expected a class 'Mine' in .*mine.py, found nothing"),
        ("Mine = 5", "expected a class 'Mine' in .*mine.py, found int"),
        ("Mine = None", "expected a class 'Mine' in .*mine.py, found nothing"),
    ],
)
def test_a_file_without_a_usable_class(tmp_path: Path, text: str, sentence: str) -> None:
    path = written(tmp_path / "mine.py", text)
    loaded = set(sys.modules)
    with pytest.raises(AdapterError, match=f"^{sentence}"):
        load_adapter(f"{path}:Mine")
    if sentence.startswith("cannot"):
        assert not [name for name in set(sys.modules) - loaded if name.startswith("streamgauge_adapter")]


@pytest.mark.parametrize("name", ["no_such_package_of_theirs:Mine", "loadtest.no_such:Mine", ".relative:Mine"])
def test_a_module_that_is_not_there(name: str) -> None:
    with pytest.raises(AdapterError, match=f"^cannot load the adapter '{re.escape(name)}': "):
        load_adapter(name)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"cannot load the adapter .*: FileNotFoundError: "):
        load_adapter(f"{tmp_path}/none.py:Mine")


def changed(**attributes: Any) -> type:
    """An adapter with some of its parts replaced; None in place of a method takes it away."""
    parts = {
        "__init__": lambda self, options: None, "acknowledgement": "", "window": 1,
        "start": lambda self, prompt: [prompt], "receive": lambda self, message: 1, "stop": lambda self: ["stop"],
    }  # fmt: skip
    return type("Theirs", (), {**parts, **attributes})


@pytest.mark.parametrize("part", ["acknowledgement", "window", "start", "receive", "stop"])
def test_an_adapter_that_lacks_a_part(part: str) -> None:
    cls = changed()
    delattr(cls, part)
    with pytest.raises(AdapterError, match=rf"^the adapter Theirs lacks {part}; see loadtest/adapter.py for what each means$"):
        make_adapter(cls, {})


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"__init__": lambda self: None}, "cannot make an adapter from .*Theirs.*: TypeError: "),
        ({"window": -1}, "expected the window of Theirs as a whole number of at least 0, found -1"),
        ({"window": "8"}, "expected the window of Theirs as a whole number of at least 0, found '8'"),
        ({"window": None}, "expected the window of Theirs as a whole number of at least 0, found None"),
        ({"acknowledgement": 5}, "expected the acknowledgement of Theirs as text, bytes or None, found int"),
    ],
)
def test_an_adapter_that_cannot_be_used(attributes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AdapterError, match=f"^{sentence}"):
        make_adapter(changed(**attributes), {})


@pytest.mark.parametrize("acknowledgement", ["", "ok", b"", b"\x01", None])
def test_acknowledgements_of_every_kind(acknowledgement: str | bytes | None) -> None:
    assert make_adapter(changed(acknowledgement=acknowledgement), {}).acknowledgement == acknowledgement
