"""The page: self-contained, escaped, and honest about validity."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.synthetic import Plan, SyntheticRun, build
from loadtest.run_directory import RunDirectoryError
from reports.build import build as build_report
from reports.inline import StyleSheet

Models = Callable[[str], SyntheticRun]


class Tags(HTMLParser):
    """Collects tags, their attributes and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(models: Models, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = models("ladder").write(tmp_path_factory.mktemp("page") / "run")
    build_report(path)
    return (path / "report.html").read_text()


def test_page_loads_nothing_and_runs_nothing(page: str) -> None:
    parsed = Tags(page)
    assert "script" not in [tag for tag, _ in parsed.tags]
    for tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert "style" not in attributes, tag
        assert attributes.get("src") is None
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_policy_allows_exactly_our_style_sheet(page: str) -> None:
    (policy,) = [a["content"] for tag, a in Tags(page).tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    css = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert css is not None
    digest = base64.b64encode(hashlib.sha256(css.group(1).encode()).digest()).decode()
    assert policy is not None
    assert f"'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    references = set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', page))
    assert {one or other for one, other in references} == set(ids)


def test_charts_follow_the_page_into_the_dark(page: str) -> None:
    css = page[page.index("<style>") : page.index("</style>")]
    assert "prefers-color-scheme:dark" in css
    assert "var(--blue)" in css
    # No chart colour is fixed: after the palette's own definitions none of its values appears again.
    assert page.lower().count("#0072b2") == 1


def test_valid_run_says_so(page: str) -> None:
    assert "Valid run" in page
    assert 'class="banner valid"' in page


def test_every_metric_stands_with_its_definition(page: str) -> None:
    text = Tags(page).text
    for words in ("prompt sent to arrival of the first non-empty token", "Token latency, ms", "n/a (", "None: no conversation"):
        assert words in text


@pytest.mark.parametrize("status", ["degraded", "aborted", "failed", "running"])
def test_every_other_status_has_a_banner(models: Models, tmp_path: Path, status: str) -> None:
    model = models("plain")
    model.metadata |= {"status": status, "status_reasons": ["the disk was full"]}
    path = model.write(tmp_path / "run")
    summary = build_report(path, charts=False)
    text = (path / "report.html").read_text()
    assert not summary["validity"]["valid"]
    assert 'class="banner invalid"' in text
    assert f"Invalid run ({status}): do not use these figures" in text
    assert f"The run is {status}: the disk was full." in text


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


def test_foreign_text_is_escaped(tmp_path: Path) -> None:
    model = build(Plan(fail_share=0.2, seconds=8, warm_up_s=1))
    rows = model.tables["w0"]["conversations"]
    rows["error_detail"][rows["error"] == "connection_lost"] = HOSTILE
    model.metadata["scenario"] |= {"title": HOSTILE, "question": HOSTILE}
    model.metadata["target"]["url"] = f"ws://{HOSTILE}"
    model.metadata["options"] = {"header": HOSTILE}
    model.metadata["status_reasons"] = [HOSTILE]
    path = model.write(tmp_path / "run")
    build_report(path)
    page = (path / "report.html").read_text()
    assert not {"script", "img"} & {tag for tag, _ in Tags(page).tags}
    assert Tags(page).text.count(HOSTILE) >= 4
    assert json.loads((path / "summary.json").read_text())["errors"]["conversations"][0]["examples"] == [HOSTILE]


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_hardly_any_data_still_makes_a_page(models: Models, tmp_path: Path, kept: int) -> None:
    model = models("plain")
    for name, columns in model.tables["w0"].items():
        model.tables["w0"][name] = {key: column[:kept] for key, column in columns.items()}
    path = model.write(tmp_path / "run")
    build_report(path)
    assert (path / "report.html").stat().st_size > 5000


def test_only_errors_still_make_a_page(models: Models, tmp_path: Path) -> None:
    model = models("plain")
    tables = model.tables["w0"]
    tables["connections"] |= {"outcome": ["failed"] * 20, "error": ["refused"] * 20, "error_detail": ["no"] * 20}
    tables["connections"]["connect_time_ns"] = tables["connections"]["connect_time_ns"] * float("nan")
    for name in ("conversations", "histograms"):
        tables[name] = {key: column[:0] for key, column in tables[name].items()}
    intervals = tables["intervals"]
    for name in intervals:
        if name.startswith(("conversations", "tokens", "messages", "stops", "acks", "open", "streaming", "server")):
            intervals[name] = intervals[name] * 0
    intervals["connects_failed"], intervals["connects_succeeded"] = intervals["connects_attempted"], intervals["connects_attempted"] * 0
    path = model.write(tmp_path / "run")
    summary = build_report(path)
    page = Tags((path / "report.html").read_text()).text
    assert "the TCP connection was refused" in page
    assert not summary["validity"]["valid"]
    assert [finding["finding"] for finding in summary["validity"]["findings"]] == ["connect_refused"]


def test_report_is_complete_and_repeatable(models: Models, tmp_path: Path) -> None:
    path = models("plain").write(tmp_path / "run")
    build_report(path)
    files = {file.name: file.read_bytes() for file in [*path.glob("*.html"), *path.glob("*.json"), *(path / "charts").iterdir()]}
    assert {name.rpartition(".")[2] for name in files} == {"html", "json", "svg", "png"}
    build_report(path)
    assert all((path / name).exists() or (path / "charts" / name).read_bytes() == content for name, content in files.items())
    assert (path / "report.html").read_bytes() == files["report.html"]
    assert not [file for file in path.iterdir() if file.name.startswith(".")]


def test_a_failed_report_leaves_the_old_one(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = models("plain").write(tmp_path / "run")
    build_report(path)
    before = {file: file.read_bytes() for file in [path / "report.html", path / "summary.json", *(path / "charts").iterdir()]}

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunDirectoryError, match="No space left on device; the old report stands"):
        build_report(path)
    assert {file: file.read_bytes() for file in before} == before
    assert not [file for file in path.iterdir() if file.name.startswith(".")]


def test_inlining_leaves_no_style_attribute_and_no_foreign_colour() -> None:
    sheet = StyleSheet()
    svg = (
        '<?xml version="1.0"?><svg width="10pt" viewBox="0 0 10 10"><defs><style type="text/css">*{a:b}</style></defs>'
        '<g id="a"><path id="b" style="fill: #0072b2; stroke: #ffffff" clip-path="url(#c)"/>'
        '<use xlink:href="#b" style="fill: #0072B2"/></g></svg>'
    )
    inlined = sheet.inline(svg, "x", 'A "label" & more')
    assert "style" not in inlined
    assert 'id="x-b"' in inlined
    assert 'href="#x-b"' in inlined
    assert "url(#x-c)" in inlined
    assert "&amp; more" in inlined
    assert sheet.rules().count("var(--blue)") == 2
