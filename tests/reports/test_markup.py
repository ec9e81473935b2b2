"""Every page in a real browser with markup wherever foreign text may stand: nothing is executed, nothing loaded, the text is shown."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from benchmarks import overview
from benchmarks.capacity_page import write_page as write_capacity
from benchmarks.history import draw_history, read_history, render_history
from benchmarks.scenario import find, read
from benchmarks.suite import Outcome, Suite
from benchmarks.synthetic import Plan, SyntheticRun, build
from benchmarks.verdict_files import append_history
from reports.build import build as build_report
from reports.compare import compare_runs
from tests.benchmarks.test_capacity import searched
from tests.benchmarks.test_history import a_row
from tests.browser import expect

ROOT = Path(__file__).resolve().parents[2]
MARKUP = (
    "</script></style></title></textarea><script>window.pwned=1</script><img src=x onerror=window.pwned=1>"
    "<svg onload=window.pwned=1><a href=javascript:window.pwned=1>x</a><base href=//x.example>\"'&{{7*7}}"
)
WATCH = "addEventListener('securitypolicyviolation', e => console.error('policy: ' + e.violatedDirective + ' ' + e.blockedURI))"


# Elements that the markup would have made, and all text, in the page and in whatever its own elements hide from it.
LOOK = """() => {
    const hidden = root => [...root.querySelectorAll('*')].flatMap(e => e.shadowRoot ? [e.shadowRoot, ...hidden(e.shadowRoot)] : []);
    const roots = [document.documentElement, ...hidden(document)];
    const hostile = "img[src='x'], svg[onload], a[href^='javascript:'], base, script:not([src])";
    const made = roots.flatMap(root => [...root.querySelectorAll(hostile)].map(e => e.outerHTML));
    return [made, roots.map(root => root.textContent).join(' ')];
}"""


class Visit:
    """A page of the browser, with what it complained of and what it asked the network for."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.add_init_script(WATCH)
        page.on("dialog", lambda dialog: (self.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("pageerror", lambda error: self.complaints.append(f"error {error}"))
        page.on("console", lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self, url: str, shown: int) -> None:
        """Go there; the markup has to stand there as text at least ``shown`` times, and to have done nothing."""
        self.page.goto(url)
        self.check(shown)

    def check(self, shown: int) -> None:
        """Nothing has happened that the markup asked for, and it can be read."""
        assert self.page.evaluate("window.pwned") is None
        found, text = self.page.evaluate(LOOK)
        assert found == []
        assert text.count(MARKUP) >= shown, f"shown {text.count(MARKUP)} times"
        assert self.complaints == []


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    context = browser.new_context()
    context.set_default_timeout(30_000)
    yield Visit(context.new_page())
    context.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in whose every text somebody has put markup, and its report."""
    model: SyntheticRun = build(Plan(fail_share=0.2, seconds=8, warm_up_s=1))
    rows = model.tables["w0"]["conversations"]
    rows["error_detail"][rows["error"] == "connection_lost"] = MARKUP
    metadata = model.metadata
    metadata["name"] = MARKUP
    metadata["scenario"] |= {"name": MARKUP, "title": MARKUP, "question": MARKUP}
    metadata["target"] |= {"url": f"ws://{MARKUP}", "adapter": MARKUP, "adapter_options": {MARKUP: MARKUP}}
    metadata["options"] = {"header": MARKUP, MARKUP: "x"}
    metadata["status"], metadata["status_reasons"] = "degraded", [MARKUP]
    metadata["environment"] |= {"cpu_model": MARKUP, "kernel": MARKUP}
    metadata["versions"] = {"streamgauge": MARKUP}
    metadata["git"] = {"revision": MARKUP, "dirty": False}
    for one in metadata["workers"]["seen"]:
        one |= {"host": MARKUP, "clock": MARKUP}
    path = model.write(tmp_path_factory.mktemp("markup") / "run")
    build_report(path)
    return path


def test_the_report(visit: Visit, run: Path) -> None:
    visit.open((run / "report.html").as_uri(), shown=6)
    assert visit.requests == [(run / "report.html").as_uri()]


def test_a_comparison(visit: Visit, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other")
    compare_runs([run, tmp_path / "other"], tmp_path / "compared")
    visit.open((tmp_path / "compared" / "compare.html").as_uri(), shown=1)


def test_the_page_of_a_suite(visit: Visit, run: Path, tmp_path: Path) -> None:
    (one,) = read(find("smoke")).runs
    object.__setattr__(one, "title", MARKUP)
    object.__setattr__(one, "question", MARKUP)
    summary = json.loads((run / "summary.json").read_text())
    outcome = Outcome(one, run, messages=[MARKUP], summary=summary)
    path = overview.write_page(Suite(MARKUP, tmp_path, ["smoke"], [outcome]))
    visit.open(path.as_uri(), shown=4)
    assert "unsafe" not in path.read_text()


def test_the_page_of_a_capacity(visit: Visit, tmp_path: Path) -> None:
    result = searched(tmp_path, 50)
    for made in result.made:
        object.__setattr__(made, "reason", MARKUP)
        object.__setattr__(made.step, "why", MARKUP)
    visit.open(write_capacity(result).as_uri(), shown=2)


def test_the_page_of_the_checks(visit: Visit, tmp_path: Path) -> None:
    history, page = tmp_path / "history.csv", tmp_path / "history.html"
    for number, verdict in enumerate(("pass", "regressed", MARKUP), start=1):
        append_history(history, a_row(number, verdict, revision=MARKUP, base=MARKUP, head=MARKUP, machine=MARKUP, ended_utc=MARKUP))
    table = read_history(history)
    page.write_text(render_history(table, draw_history(table)))
    visit.open(page.as_uri(), shown=1)


@pytest.fixture
def streaming(visit: Visit) -> Visit:
    """The Streaming page and its files as Locust's page gives them out, without Locust, and with markup for data."""
    found = re.search(r"_POLICY = \((.*?)\)", (ROOT / "loadtest/web.py").read_text(), re.DOTALL)
    assert found is not None
    policy = "".join(re.findall(r'"(.*?)"', found[1]))
    columns, ended = ["second", "users"], {"valid": False, "reasons": [MARKUP], "findings": [MARKUP]}
    row = {"metric": "ttft", "title": MARKUP, "definition": MARKUP, "n": 1, "max_ms": 1}
    data = {
        "part": MARKUP, "run": MARKUP, "phase": "ended", "target": MARKUP, "users": 1, "seconds": 1, "table": [row], "tokens": 1,
        "rows": [],
        "conversations": {MARKUP: 1}, "connections": {MARKUP: 1, "failed": 1}, "errors": [{"kind": MARKUP, "count": 1, "meaning": MARKUP}],
        "verdict": {"state": "invalid", "sentences": [MARKUP], **ended},
        "final": {"run": MARKUP, "status": MARKUP, "tokens_per_s": 1, "table": [row], **ended},
        "runs": [{"name": MARKUP, "state": "failed", "sentence": MARKUP, "files": [{"name": MARKUP, "size_bytes": 1}]}],
        "columns": columns, "window_s": 10, "kept_s": 600, "samples_needed": {},
    }  # fmt: skip

    def answer(route: Any) -> None:
        path = route.request.url.partition("/streaming/")[2].partition("?")[0]
        if path == "data":
            route.fulfill(body=json.dumps(data), content_type="application/json")
            return
        file = ROOT / "loadtest/pages" / (path.removeprefix("assets/") or "streaming.html")
        kind = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}[file.suffix]
        route.fulfill(body=file.read_text(), content_type=f"{kind}; charset=utf-8", headers={"Content-Security-Policy": policy})

    visit.page.route("http://streaming.test/**", answer)
    return visit


def test_the_streaming_page(streaming: Visit) -> None:
    streaming.page.goto("http://streaming.test/streaming/")
    expect(streaming.page.locator(".runs b")).to_have_text(MARKUP)
    streaming.check(shown=4)
    assert {urlsplit(url).netloc for url in streaming.requests if not url.startswith("data:")} == {"streaming.test"}


def test_the_typing_page(visit: Visit, start_server: Callable[..., Any], tmp_path: Path) -> None:
    text = tmp_path / "answer.txt"
    text.write_text(MARKUP.replace(" ", "\u00a0"))
    server = start_server("--text-file", str(text), "--gap-ms", "0")
    visit.page.goto(server.http_url + "/?window=0#<img src=x onerror=window.pwned=1>")
    visit.page.fill(".prompt", MARKUP)
    visit.page.click(".generate")
    visit.page.wait_for_selector("[data-ended=complete]")
    assert visit.page.locator(".asked").text_content() == MARKUP
    assert MARKUP.split(" ", maxsplit=1)[0] in visit.page.locator(".turn").last.text_content()
    assert visit.page.evaluate("window.pwned") is None
    assert visit.page.locator(".turn script, .turn img, .turn svg, .turn a").count() == 0
    assert visit.complaints == []
