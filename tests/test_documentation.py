"""The pages for users: every command they show is one that our programs take, and every link leads somewhere."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "SECURITY.md", "CHANGELOG.md", *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").glob("*.md"))))
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
# A block in a fence or by indentation, with its continued lines; or words in a line.
BLOCK_LINE = re.compile(r"^(?: {2,}|)((?:\.venv/bin/)?(?:python|locust|make) (?:[^\n]*\\\n)*[^\n]*)$", re.MULTILINE)
INLINE = re.compile(r"`((?:\.venv/bin/)?(?:python -m|locust -f|make) [^`]*)`")
LOCUST = Path(next(iter(importlib.util.find_spec("locust").submodule_search_locations)))  # type: ignore[union-attr, arg-type]


class Command(NamedTuple):
    """One command of a page: where it stands, and its words without what follows a ``#``."""

    place: str
    words: list[str]


class ParsedError(BaseException):
    """Raised in place of doing what a command line says, once it has been read: with the words that its program does not know."""


def commands(page: str) -> Iterator[Command]:
    text = (ROOT / page).read_text(encoding="utf-8")
    fenced = [block for language, block in FENCE.findall(text) if language in ("", "sh", "text")]
    prose = FENCE.sub("", text)
    indented = "\n".join(re.findall(r"^ {4}.*$", prose, re.MULTILINE))
    found = [line for block in (*fenced, indented) for line in BLOCK_LINE.findall(block)] + INLINE.findall(prose)
    for line in found:
        words = shlex.split(line.replace("\\\n", " "), comments=True)
        if "|" not in words and "..." not in words:
            yield Command(f"{page}: {line.strip()[:100]}", [words[0].rpartition("/")[2], *words[1:]])


EVERY = [command for page in PAGES for command in commands(page)]


@contextlib.contextmanager
def reading_only(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Programs read their command line in here, and do nothing that it says."""
    read, depth = argparse.ArgumentParser.parse_known_args, 0

    def parse(self: argparse.ArgumentParser, *arguments: Any, **named: Any) -> Any:
        nonlocal depth
        depth += 1
        try:
            found = read(self, *arguments, **named)
        finally:
            depth -= 1
        if depth:  # a command of its own inside another's
            return found
        raise ParsedError(*found[1])

    with patch.context() as inside:
        inside.setattr(argparse.ArgumentParser, "parse_known_args", parse)
        yield


def unknown(words: list[str], patch: pytest.MonkeyPatch) -> str | None:
    """What is wrong with the words of ``python -m``, or None."""
    module, given = words[0], ["http://127.0.0.1:8000/v1" if word == "URL" else word for word in words[1:]]
    path = ROOT.joinpath(*module.split("."))
    if not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()):
        return f"there is no {module}"
    if module not in ("benchmarks", "reports", "server"):
        source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else ROOT / "server" / "options.py"
        return missing(given, source.read_text(encoding="utf-8")) if module != "loadtest" else unknown_to_locust(given)
    entry = "server.options:parse_options" if module == "server" else f"{module}.__main__:main"
    name, _, function = entry.partition(":")
    try:
        with reading_only(patch):
            getattr(importlib.import_module(name), function)(given)
    except ParsedError as parsed:
        return f"{module} does not know {parsed.args}" if parsed.args else None
    except SystemExit as ended:
        # Shown as a name, such as `python -m benchmarks account`, or asked for its help.
        whole = ended.code == 0 or len(given) <= 1
        return None if whole and (module != "benchmarks" or not given or is_command(given[0])) else f"{module} ended with {ended.code}"
    return f"{module} read no command line"


def is_command(name: str) -> bool:
    from benchmarks.__main__ import OWN_OPTIONS
    from benchmarks.options import parser

    subcommands = next(action.choices for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return name in OWN_OPTIONS or name in subcommands


def missing(words: list[str], source: str) -> str | None:
    """The first option among the words that stands in no string of the source."""
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("-") and f'"{option}"' not in source:
            return f"unknown option {option}"
    return None


def unknown_to_locust(words: list[str]) -> str | None:
    options = (ROOT / "loadtest" / "options.py", ROOT / "loadtest" / "yardsticks.py", LOCUST / "argument_parser.py")
    return missing(words, "".join(path.read_text(encoding="utf-8") for path in options) + '"--help"')


def wrong_for_make(words: list[str]) -> str | None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, given, _ = word.partition("=")
        if not given and re.search(rf"^{re.escape(name)}:", makefile, re.MULTILINE) is None:
            return f"no target {name}"
        if given and re.search(rf"\b{re.escape(name)}\b", makefile) is None:
            return f"no variable {name}"
    return None


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one_that_our_programs_take(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {}
    for place, (program, *words) in (one for one in EVERY if one.place.startswith(f"{page}:")):
        if program == "python":
            verdict = unknown(words[1:], monkeypatch) if words[0] == "-m" else "expected python -m"
        elif program == "locust":
            verdict = unknown_to_locust(words)
        else:
            verdict = wrong_for_make(words)
        if verdict is not None:
            wrong[place] = verdict
    assert wrong == {}


def test_the_commands_are_found() -> None:
    found = {" ".join(command.words[:3]) for command in EVERY}
    assert len(EVERY) > 100
    assert {"python -m benchmarks", "python -m reports", "python -m server", "make bench SCENARIO=poisson"} <= found
    assert any(command.words[0] == "locust" and "--channel-key" in command.words for command in EVERY)
    assert any("--server-dir" in command.words and "--scenario" in command.words for command in EVERY)


@pytest.mark.parametrize(
    "words",
    [
        ["benchmarks", "bench", "--scenaro", "stop"],
        ["benchmarks", "sabotag"],
        ["benchmarks", "capacity", "--slo", "token_p99=100ms", "--mots", "5"],
        ["benchmarks", "prove", "reel"],
        ["reports", "build", "--no-chart=1"],
        ["server", "--gap", "20"],
        ["server.nothing"],
        ["loadtest.conformance", "--adaptor", "x"],
        ["loadtest", "--gap-s", "1"],
    ],
)
def test_a_wrong_command_is_seen(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert unknown(words, monkeypatch) is not None


@pytest.mark.parametrize("words", [["bensh"], ["bench", "SCENARIOS=stop"]])
def test_a_wrong_target_is_seen(words: list[str]) -> None:
    assert wrong_for_make(words) is not None


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    path = ROOT / page
    prose = FENCE.sub("", path.read_text(encoding="utf-8"))
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", link) is None:
            name, _, anchor = link.partition("#")
            target = path.parent / name if name else path
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(link)
    assert broken == []
