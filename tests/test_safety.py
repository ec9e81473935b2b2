"""What no file of ours may do, found by walking the source; and that every entry in the table of faults names tests that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("server", "loadtest", "reports", "benchmarks")
# Reading bytes with these may run code that the bytes name.
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "code", "codeop"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_METHODS = {
    ("os", "system"), ("os", "popen"), ("subprocess", "getoutput"), ("subprocess", "getstatusoutput"), ("pd", "read_pickle"),
    ("pd", "eval"), ("tempfile", "mktemp"), ("yaml", "load"), ("yaml", "unsafe_load"), ("ssl", "_create_unverified_context"),
    ("asyncio", "create_subprocess_shell"),
}  # fmt: skip
UNSAFE_OPTIONS = {"shell": True, "allow_pickle": True, "autoescape": False}


def breaches(tree: ast.AST) -> Iterator[str]:
    """A word for each thing that is not allowed, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"{node.lineno}: import {one.name}" for one in node.names if one.name.split(".")[0] in UNSAFE_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNSAFE_MODULES and not node.level:
            yield f"{node.lineno}: from {node.module}"
        elif isinstance(node, ast.Call):
            name = node.func
            if isinstance(name, ast.Name) and name.id in UNSAFE_CALLS:
                yield f"{node.lineno}: {name.id}()"
            elif isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name) and (name.value.id, name.attr) in UNSAFE_METHODS:
                yield f"{node.lineno}: {name.value.id}.{name.attr}()"
            for option in node.keywords:
                if isinstance(option.value, ast.Constant) and option.value.value is UNSAFE_OPTIONS.get(option.arg or "", breaches):
                    yield f"{node.lineno}: {option.arg}={option.value.value}"


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_runs_a_shell_evaluates_text_or_unpickles(package: str) -> None:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    found = {path.relative_to(ROOT).as_posix(): list(breaches(ast.parse(path.read_text(encoding="utf-8")))) for path in paths}
    assert {name: words for name, words in found.items() if words} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from pickle import loads", "import marshal as m", "eval('1')", "exec(text)", "compile(text, '', 'exec')",
        "subprocess.run(line, shell=True)", "os.system(line)", "os.popen(line)", "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)", "yaml.load(text)", "Environment(autoescape=False)", "ssl._create_unverified_context()",
    ],
)  # fmt: skip
def test_the_walk_sees_a_breach(code: str) -> None:
    assert len(list(breaches(ast.parse(code)))) == 1


def pages() -> list[Path]:
    return sorted(path for package in PACKAGES for pattern in ("*.html", "*.j2") for path in (ROOT / package).rglob(pattern))


def scripts() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.js"))


def test_there_are_pages() -> None:
    assert len(pages()) >= 7
    assert scripts()


HANDLER = re.compile(r"<[^>]*\son[a-z]+\s*=", re.IGNORECASE)
WRITES_MARKUP = re.compile(r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|new Function|setTimeout\(\s*['\"])")


@pytest.mark.parametrize("path", [*pages(), *scripts()], ids=lambda path: path.name)
def test_no_page_has_inline_handlers_or_writes_markup(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # What stands for values in a template is no attribute of it.
    plain = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", text, flags=re.DOTALL)
    assert not HANDLER.search(plain)
    assert not WRITES_MARKUP.search(plain)
    assert "javascript:" not in plain
    # Our own style sheet, in which no foreign text stands.
    assert not re.search(r"\|\s*safe\b", text.replace("<style>{{ css|safe }}</style>", "")), "a value that is not escaped"


@pytest.mark.parametrize("path", [path for path in pages() if "<head>" in path.read_text(encoding="utf-8")], ids=lambda path: path.name)
def test_every_page_has_a_policy_without_holes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.parts[-2:] in (("server", "page.html"), ("pages", "streaming.html")):
        return  # theirs are headers; tests ask the servers for them
    assert re.search(r'http-equiv="Content-Security-Policy" content="\{\{ policy \}\}"', text)
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_no_policy_allows_what_is_unsafe() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".py", ".html", ".j2", ".js"):
                assert not re.search(r"'unsafe-(inline|eval|hashes)'", path.read_text(encoding="utf-8")), path


def test_locusts_page_and_the_masters_port_listen_on_loopback_by_default() -> None:
    assert 'set_defaults(master_bind_host="127.0.0.1", web_host="127.0.0.1")' in (ROOT / "loadtest/installation.py").read_text()
    assert '"--web-host", "127.0.0.1"' in (ROOT / "benchmarks/ui.py").read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert "web-host" not in makefile
    assert "0.0.0.0" not in makefile
    # Where a container has to listen to all, what is published of it is loopback.
    compose = (ROOT / "deploy/compose.yaml").read_text()
    published = re.findall(r"ports: \[(.*?)\]", compose)
    assert published
    assert all(one.strip().startswith('"127.0.0.1:') for ports in published for one in ports.split(","))


# -- the table of faults -----------------------------------------------------------------------------------------------

NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
ROW = re.compile(r"^\| (?!fault|---)(.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def table() -> list[tuple[str, str, str]]:
    """Fault, outcome, and its test or decision: the rows of ``docs/faults.md``."""
    return ROW.findall((ROOT / "docs/faults.md").read_text(encoding="utf-8"))


def test_every_fault_names_a_test_or_a_decision() -> None:
    rows = table()
    assert len(rows) > 90
    assert [fault for fault, _, proof in rows if not NAMED.search(proof) and not proof.startswith("decided: ")] == []
    assert len({fault for fault, _, _ in rows}) == len(rows), "a fault stands twice"


def test_every_test_that_the_table_of_faults_names_exists() -> None:
    missing = []
    for _, _, proof in table():
        for file, test in NAMED.findall(proof):
            path = ROOT / file
            if not path.is_file() or (test and not re.search(rf"^ *(async )?def {test}\(", path.read_text(encoding="utf-8"), re.MULTILINE)):
                missing.append(f"{file}::{test}")
    assert missing == []
