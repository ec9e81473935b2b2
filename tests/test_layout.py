"""The house rules that a machine can hold: who may import whom, how long a file may be, and what no file may contain."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("server", "loadtest", "reports", "benchmarks")
LONGEST_LINES = 450  # the aim is 350: a file answers one question

# Files of loadtest/ that know no socket, no clock, no gevent and no Locust.
PURE_HALF = (
    "metrics", "objectives", "yardsticks", "fairness", "histogram", "tables", "raw_file", "own_files", "run_directory", "salvage",
    "shipping", "adapter", "typewriter", "conversation",
    "arrivals", "rates", "trace", "workload", "schedule", "recorder", "environment",
    "calibration_record", "programs",
    "adapter_table", "redaction", "json_stream", "openai_realtime", "openai_chat", "plain_sse", "event_lines",
)  # fmt: skip
# What reports/ and benchmarks/ may take from there.
CONTRACTS = frozenset(f"loadtest.{name}" for name in PURE_HALF)
WITHOUT_SOCKETS = ("socket", "ssl", "select", "selectors", "asyncio", "gevent", "locust", "websockets", "http", "urllib.request")

# Third-party packages that a package may import, for every one of its files ...
ALLOWED = {
    "server": {"websockets", "prometheus_client"},
    "loadtest": {
        "numpy",
        "locust",
        "gevent",
        "greenlet",
        "websockets",
        "httptools",
        "psutil",
        "prometheus_client",
        "flask",
        "werkzeug",
        "jinja2",
    },
    "reports": {"numpy", "pandas", "matplotlib", "jinja2", "markupsafe", "rich", "pyarrow"},
    "benchmarks": {"numpy", "pandas", "matplotlib", "jinja2", "markupsafe", "rich", "psutil", "websockets", "pyarrow"},
}
# ... and what only the named file may: an extra that it is about, or a program that Locust loads in a process of its own.
ALSO_ALLOWED = {
    "server/processes.py": {"uvloop"},
    "server/__main__.py": {"uvloop"},
    "server/fastapi_app.py": {"fastapi", "uvicorn"},
    "server/fastapi_events.py": {"fastapi"},
    "server/fastapi_requests.py": {"fastapi"},
    "server/upstream.py": {"aiohttp"},
    "server/aiohttp_app.py": {"aiohttp"},
    "server/picows_app.py": {"picows"},
    "benchmarks/transport_client.py": {"aiohttp"},
    "loadtest/run_directory.py": {"pyarrow"},
    "loadtest/raw_file.py": {"pyarrow"},
    "loadtest/tables.py": {"pyarrow"},
    "loadtest/salvage.py": {"pyarrow"},
    "loadtest/environment.py": {"psutil"},
    "loadtest/gate.py": {"zmq"},  # Locust's channel
    "loadtest/telemetry.py": {"opentelemetry"},
    "benchmarks/obvious_user.py": {"locust", "gevent", "greenlet"},
    "benchmarks/set_clock.py": {"locust"},
    "benchmarks/scaling.py": {"msgpack"},
    "benchmarks/hostile_peer.py": {"zmq", "msgpack"},  # speaks as Locust's workers do, without Locust
}
# Locustfiles: Locust loads them by path in a process of its own, and nothing imports them (held below).
LOCUSTFILES = {f"benchmarks/{name}.py" for name in ("obvious_user", "other_machine", "other_version", "set_clock")}
# First-party packages to the left of each, as far as they may be seen.
MAY_SEE = {
    "server": frozenset[str](),
    "loadtest": frozenset({"server.protocol", "server.workloads"}),
    "reports": CONTRACTS,
    "benchmarks": CONTRACTS | {"reports", "loadtest.ports", "loadtest.waiting"},
}


class Import(NamedTuple):
    """One imported name: `module` is absolute, `line` where."""

    module: str
    line: int


def sources(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(path: Path, tree: ast.AST | None = None) -> Iterator[Import]:
    """Yield what a file imports, wherever in the file; a relative import is made absolute, a name of a package its module."""
    inside = list(path.relative_to(ROOT).with_suffix("").parts)
    package = inside[:-1]
    for node in ast.walk(tree or ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                assert node.level <= len(package), f"{path}:{node.lineno}: a relative import leaves its package"
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield Import(whole if base.split(".")[0] in PACKAGES and is_module(whole) else base, node.lineno)


def breaches(path: Path, tree: ast.AST | None = None) -> Iterator[str]:
    """Yield a sentence for each import that the table does not allow."""
    name = name_of(path)
    package = name.split("/")[0]
    pure = package == "loadtest" and path.stem in PURE_HALF
    third_party = ({"numpy"} if pure else ALLOWED[package]) | ALSO_ALLOWED.get(name, set())
    for module, line in imports(path, tree):
        top = module.split(".")[0]
        if top == package:
            own = ".".join(module.split(".")[:2])
            if pure and own not in CONTRACTS | {"loadtest"}:
                yield f"{name}:{line}: the pure half imports {module}, of the Locust half"
        elif top in PACKAGES:
            if name in LOCUSTFILES and top == "loadtest":
                continue
            if module not in MAY_SEE[package] and top not in MAY_SEE[package]:
                yield f"{name}:{line}: {package}/ may not see {module}"
        elif top in sys.stdlib_module_names:
            if pure and any(module == banned or module.startswith(banned + ".") for banned in WITHOUT_SOCKETS):
                yield f"{name}:{line}: the pure half imports {module}"
        elif top not in third_party:
            yield f"{name}:{line}: {module} is not on the list of what {package}/ may import"


def test_nothing_imports_a_locustfile() -> None:
    modules = {name.removesuffix(".py").replace("/", ".") for name in LOCUSTFILES | {"loadtest/locustfile.py"}}
    importers = {name_of(path): module for path in sources(*PACKAGES) for module, _ in imports(path) if module in modules}
    assert {name: module for name, module in importers.items() if name not in LOCUSTFILES} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_imports_only_to_its_left(package: str) -> None:
    paths = sources(package)
    assert paths
    assert [breach for path in paths for breach in breaches(path)] == []


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("server/app.py", "import loadtest.metrics"),
        ("server/app.py", "import requests"),
        ("server/app.py", "import uvloop"),
        ("loadtest/metrics.py", "import socket"),
        ("loadtest/metrics.py", "from gevent import sleep"),
        ("loadtest/metrics.py", "import pyarrow"),
        ("loadtest/metrics.py", "from . import stream"),
        ("loadtest/recorder.py", "def f():\n    from .stream import anything"),
        ("loadtest/stream.py", "from server.app import anything"),
        ("loadtest/stream.py", "from reports import load"),
        ("reports/load.py", "import server.protocol"),
        ("reports/load.py", "from loadtest.stream import anything"),
        ("reports/load.py", "from loadtest import stream"),
        ("reports/load.py", "import locust"),
        ("reports/load.py", "import gevent.monkey"),
        ("benchmarks/runner.py", "from server import protocol"),
        ("benchmarks/runner.py", "import locust"),
        ("benchmarks/runner.py", "from loadtest import users"),
    ],
)
def test_the_walk_sees_a_breach(name: str, code: str) -> None:
    assert len(list(breaches(ROOT / name, ast.parse(code)))) == 1


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("loadtest/typewriter.py", "from server.protocol import ACK"),
        ("loadtest/typewriter.py", "from server import protocol"),
        ("loadtest/run_directory.py", "import pyarrow.parquet as pq\nfrom . import histogram\nfrom .metrics import METRICS"),
        ("loadtest/stream.py", "import gevent, socket\nfrom .recorder import Recorder"),
        ("reports/load.py", "import pandas as pd\nfrom loadtest import metrics, run_directory"),
        ("benchmarks/runner.py", "from reports.summary import summarise\nfrom . import limits"),
        ("benchmarks/obvious_user.py", "import locust"),
    ],
)
def test_the_walk_lets_pass_what_is_allowed(name: str, code: str) -> None:
    assert list(breaches(ROOT / name, ast.parse(code))) == []


def test_a_relative_import_cannot_leave_its_package() -> None:
    with pytest.raises(AssertionError, match="leaves its package"):
        list(imports(ROOT / "server/app.py", ast.parse("from ..loadtest import metrics")))


def test_nothing_is_named_for_having_no_name() -> None:
    nameless = {"utils", "util", "common", "helpers", "helper", "misc", "base", "manager", "factory", "handler", "handlers"}
    assert [name_of(path) for path in sources(*PACKAGES, "tests") if path.stem in nameless] == []


def test_tests_mirror_modules_and_are_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_no_file_is_too_long_to_answer_one_question() -> None:
    lengths = {name_of(path): path.read_text(encoding="utf-8").count("\n") for path in sources(*PACKAGES)}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_LINES} == {}


@functools.cache
def project_files() -> tuple[Path, ...]:
    """Return every file that git knows or would add; without git, the files of the packages, the tests and the root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=False
    )
    names = listed.stdout.decode().split("\0") if listed.returncode == 0 else []
    paths = [ROOT / name for name in names if name]
    if not paths:
        folders = (*PACKAGES, "tests", "docs", "deploy", ".ci")
        paths = [*ROOT.glob("*"), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    return tuple(path for path in paths if path.is_file() and "__pycache__" not in path.parts)


# Put together here, so that this file does not contain what it looks for.
MACHINE_PATHS = re.compile(r"(?<![\w.<>{}*~-])/(?:" + "|".join(["wo" + "rk", "ro" + "ot", "fa" + "rm", "ho" + "me"]) + r")/(?=\w)")
REGISTRIES = re.compile("|".join(["py" + r"pi\.org", "python" + r"hosted\.org", "npm" + r"js\.(?:org|com)", "debian" + r"\.org/debian"]))


def test_the_table_of_files_names_every_file_and_no_other() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+\.py)`", "\n".join(line for line in page.splitlines() if line.startswith("| `"))))
    there = {path.name for path in sources(*PACKAGES)} - {"__init__.py"}
    assert (there - named, named - there) == (set(), set())


def test_no_file_names_a_machine_or_a_registry() -> None:
    paths = project_files()
    assert ROOT / "pyproject.toml" in paths
    found = []
    for path in paths:
        text = path.read_bytes().decode("utf-8", errors="replace")
        found += [f"{name_of(path)}: {match[0]}" for pattern in (MACHINE_PATHS, REGISTRIES) for match in pattern.finditer(text)]
    assert found == []


def test_every_locked_package_has_a_hash_and_nothing_says_where_from() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text(encoding="utf-8")
        requirements = re.split(r"\n(?=\S)", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")).strip())
        assert len(requirements) > 20
        assert [line for line in requirements if "--hash=sha256:" not in line or "==" not in line.split()[0]] == []
        assert "://" not in text
        assert "--index" not in text
        assert "--find-links" not in text


def locked(name: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for package, version in re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE):
        found.setdefault(package, set()).add(version)
    return found


def declared() -> tuple[set[str], set[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runtime, dev = project["dependencies"], project["optional-dependencies"]["dev"]
    return tuple({re.split(r"[<>=!~;\[ ]", line)[0] for line in lines} for lines in (runtime, dev))  # type: ignore[return-value]


def test_the_locks_agree_with_the_declaration_and_with_each_other() -> None:
    runtime, dev = declared()
    locked_runtime, locked_dev = locked("requirements.lock"), locked("requirements-dev.lock")
    assert runtime <= set(locked_runtime)
    assert runtime | dev <= set(locked_dev)
    assert {name: versions for name, versions in locked_runtime.items() if locked_dev.get(name) != versions} == {}


def test_every_direct_dependency_is_explained() -> None:
    runtime, dev = declared()
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    assert {name for name in runtime | dev if f"| `{name}` |" not in text} == set()


def test_what_is_imported_is_declared() -> None:
    runtime, _ = declared()
    brought_along = {"flask", "werkzeug", "greenlet", "markupsafe"}  # by Locust, gevent and Jinja
    distributions = {name.replace("-", "_") for name in runtime} | brought_along
    extras = {extra for allowed in ALSO_ALLOWED.values() for extra in allowed}
    tops = {found.module.split(".")[0] for path in sources(*PACKAGES) for found in imports(path)}
    assert tops - set(sys.stdlib_module_names) - set(PACKAGES) - distributions - extras - {"__future__"} == set()
