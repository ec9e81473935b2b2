"""Locust's page and the Streaming page in a real browser: start from the form, charts that move, stop, the report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import expect
from tests.loadtest.web_page import WebPage

pytestmark = pytest.mark.browser

MOVED = "(chart) => chart.querySelector('canvas').toDataURL()"
"""A text that changes with any pixel of a chart."""


@pytest.fixture(scope="module")
def locust(start_locust: Callable[..., Any], serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> WebPage:
    server = serve("--gap-ms", "20", "--tokens", "20")
    return WebPage(start_locust, tmp_path_factory.mktemp("page"), "-H", server.url, "--stop-share", "0.4", "--users", "5")


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails its test for any error on its console."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(30_000)
    opened = context.new_page()
    complaints: list[str] = []
    opened.complaints = complaints
    opened.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    context.close()
    assert complaints == []


def chart(page: Any, title: str) -> Any:
    return page.locator("locust-streaming figure").filter(has_text=title).first


def wait_for_change(page: Any, place: Any, before: str) -> str:
    expect(place).to_be_visible()
    handle = place.element_handle()
    page.wait_for_function(f"([chart, before]) => ({MOVED})(chart) !== before", arg=[handle, before])
    return str(place.evaluate(MOVED))


def test_from_the_form_to_the_report(page: Any, locust: WebPage, tmp_path: Path) -> None:
    page.goto(locust.url + "/")
    expect(page.locator("input[name=tokens]")).to_be_visible()  # the parameters lie open
    page.fill("input[name=tokens]", "many")
    page.click("button[type=submit]")
    expect(page.get_by_text("expected a whole number for --tokens, got 'many'")).to_be_visible()
    page.fill("input[name=tokens]", "25")
    page.select_option("select[name=loop]", "open")
    page.fill("input[name=rate]", "20")
    page.click("button[type=submit]")
    page.get_by_role("tab", name="Streaming", exact=True).click()
    element = page.locator("locust-streaming")
    expect(element.locator(".phase")).to_have_text("running")
    expect(element.locator(".target")).to_contain_text("tokens=25")
    for title in ("Tokens per second", "Time to first token", "Inter-token latency", "Token latency", "Stop latency", "Receive lag"):
        expect(chart(page, title).locator(".legend b").first).not_to_have_text("–")
    moving = chart(page, "Tokens per second")
    first = str(moving.evaluate(MOVED))
    second = wait_for_change(page, moving, first)
    wait_for_change(page, moving, second)
    moving.locator("canvas").hover(position={"x": 60, "y": 40})
    expect(moving.locator("canvas")).to_have_attribute("aria-label", re.compile("at 0:0"))
    expect(element.locator("td.definition").first).to_contain_text("prompt sent")
    expect(element.locator(".verdict")).to_contain_text("as it stands")
    page.get_by_role("tab", name="Streaming table").click()
    expect(page.get_by_role("cell", name="Time to first token", exact=True)).to_be_visible()
    page.get_by_role("tab", name="Streaming", exact=True).click()
    page.get_by_role("button", name="Stop").click()
    report = element.get_by_role("link", name="download it")
    expect(report).to_be_visible()
    expect(element.locator(".verdict")).to_contain_text("Final figures")
    with page.expect_download() as waiting:
        report.click()
    waiting.value.save_as(tmp_path / "report.html")
    assert "Streamgauge" in (tmp_path / "report.html").read_text()
    with page.context.expect_page() as opening:
        element.get_by_role("link", name="Report", exact=True).click()
    expect(opening.value.locator("h1")).to_be_visible()


def test_the_page_of_its_own_lives_through_runs(page: Any, locust: WebPage) -> None:
    page.goto(locust.url + "/streaming")
    assert page.url.endswith("/streaming/")
    expect(page.locator(".facts")).to_be_visible()
    locust.start(tokens=20)
    expect(page.locator(".phase")).to_have_text("running")
    first = page.locator(".facts b").text_content()
    locust.post("/stats/reset")
    expect(page.locator(".phase")).to_have_text("running")
    expect(chart(page, "Tokens per second").locator(".legend b").first).not_to_have_text("–")
    locust.post("/stop")
    expect(page.locator(".verdict")).to_contain_text("Final figures")
    locust.start(tokens=20)
    expect(page.locator(".facts b")).not_to_have_text(first)
    expect(page.locator(".phase")).to_have_text("running")
    expect(page.locator(".verdict")).to_contain_text("as it stands")
    locust.post("/stop")
    expect(page.locator(".verdict")).to_contain_text("Final figures")


@pytest.mark.parametrize("width", [360, 768, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window_and_colours_follow(page: Any, locust: WebPage, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(locust.url + "/streaming/")
    expect(page.locator("locust-streaming")).to_have_attribute("data-theme", scheme)
    expect(page.locator(".tiles")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


HOSTILE = "<img src=x onerror=alert(1)>"


def test_whatever_the_data_say_is_shown_as_text(page: Any, locust: WebPage) -> None:
    def answer(route: Any) -> None:
        data = {**locust.data(), "run": HOSTILE, "target": HOSTILE, "errors": [{"kind": HOSTILE, "count": 1, "meaning": HOSTILE}]}
        data["runs"] = [{"name": HOSTILE, "state": "failed", "sentence": HOSTILE, "files": [{"name": HOSTILE, "size_bytes": 1}]}]
        route.fulfill(body=json.dumps(data), content_type="application/json")

    page.route("**/streaming/data*", answer)
    page.goto(locust.url + "/streaming/")
    expect(page.locator(".facts b")).to_have_text(HOSTILE)
    expect(page.locator(".runs b")).to_have_text(HOSTILE)
    assert page.locator("locust-streaming img").count() == 0
    assert "%3Cimg" in page.locator(".files a").get_attribute("href")


def test_a_master_that_is_gone_is_told_of(page: Any, start_locust: Callable[..., Any], locust: WebPage, tmp_path: Path) -> None:
    page.goto(locust.url + "/streaming/")
    expect(page.locator(".facts")).to_be_visible()
    page.route("**/streaming/data*", lambda route: route.abort())
    expect(page.locator(".trouble")).to_contain_text("does not answer")
    page.unroute("**/streaming/data*")
    expect(page.locator(".trouble")).to_be_hidden()
    page.complaints[:] = [text for text in page.complaints if "ERR_FAILED" not in text]
