"""The page in a real browser: ours, one with the article's message behaviour, and the article's own where it is at hand."""

from __future__ import annotations

import functools
import http.server
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.browser import expect

pytestmark = pytest.mark.browser

PAGES = Path(__file__).with_name("pages")
ALL_TWELVE = " ".join(str(number) for number in range(12))
Start = Callable[..., Any]


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails its test for anything on its console."""
    context = browser.new_context()
    opened = context.new_page()
    complaints: list[str] = []
    opened.complaints = complaints
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    context.close()
    assert complaints == []


def open_page(page: Any, url: str) -> None:
    page.goto(url)
    expect(page.locator(".state")).to_have_attribute("data-state", "open")


def last_answer(page: Any) -> Any:
    return page.locator(".turn").last.locator(".answer")


def test_generate_stop_generate_three_times(page: Any, start_server: Start) -> None:
    server = start_server("--gap-ms", "200", "--tokens", "12")
    open_page(page, server.http_url + "/")
    for round_ in range(1, 4):
        page.click(".generate")
        expect(last_answer(page)).to_have_text(re.compile("^0 1"))
        expect(page.locator(".generate")).to_be_disabled()
        page.click(".stop")
        expect(page.locator("[data-ended=stopped]")).to_have_count(round_)
        expect(page.locator(".stopped")).to_have_text(re.compile(r"^[0-9.]+ ms$"))
        stopped_at = last_answer(page).text_content()
        assert ALL_TWELVE.startswith(stopped_at)
        page.click(".generate")
        expect(page.locator("[data-ended=complete]")).to_have_count(round_)
        expect(last_answer(page)).to_have_text(ALL_TWELVE)
    expect(page.locator(".first")).to_have_text(re.compile(r"^[0-9.]+ ms$"))
    expect(page.locator(".gap")).to_have_text(re.compile(r"^[0-9.]+ ms / [0-9.]+ ms$"))
    expect(page.locator(".tokens")).to_have_text("12")
    metrics = server.metrics()
    assert metrics["streamgauge_prompts_total"] == 6, "no ghosts"
    assert metrics["streamgauge_stops_total"] == 3
    assert metrics['streamgauge_answers_total{outcome="superseded"}'] == 0


def test_keyboard_alone(page: Any, start_server: Start) -> None:
    server = start_server("--gap-ms", "20", "--tokens", "100000")
    open_page(page, server.http_url + "/")
    page.focus(".prompt")
    page.keyboard.press("Enter")
    expect(last_answer(page)).to_have_text(re.compile("^0 1"))
    page.keyboard.press("Escape")
    expect(page.locator("[data-ended=stopped]")).to_have_count(1)
    assert page.locator(".asked").text_content() == "Count for me"


def test_what_cannot_be_a_prompt_cannot_be_sent(page: Any, start_server: Start) -> None:
    server = start_server()
    open_page(page, server.http_url + "/")
    for text in ("", "   ", "stop", " stop "):
        page.fill(".prompt", text)
        expect(page.locator(".generate")).to_be_disabled()
        page.keyboard.press("Enter")
    page.fill(".prompt", "_end_")
    expect(page.locator(".generate")).to_be_enabled()
    assert server.metrics()["streamgauge_prompts_total"] == 0


def test_markup_and_every_script_are_shown_as_text(page: Any, start_server: Start) -> None:
    server = start_server("--text", "awkward", "--tokens", "14", "--gap-ms", "0")
    open_page(page, server.http_url + "/")
    page.fill(".prompt", "<img src=x onerror=alert(1)> 你好 שלום")
    page.click(".generate")
    expect(page.locator("[data-ended=complete]")).to_have_count(1)
    text = last_answer(page).text_content()
    for part in ("<script>alert(1)</script>", "&amp;", "你好", "שלום", "\\_end_", "stop"):
        assert part in text
    assert page.locator(".turn script, .turn img").count() == 0
    assert page.locator(".asked").text_content() == "<img src=x onerror=alert(1)> 你好 שלום"


def test_the_query_of_the_page_chooses_the_answers(page: Any, start_server: Start) -> None:
    server = start_server()
    open_page(page, server.http_url + "/?tokens=40&gap_ms=0&window=0")
    page.click(".generate")
    expect(page.locator("[data-ended=complete]")).to_have_count(1)
    expect(last_answer(page)).to_have_text(" ".join(map(str, range(40))))
    assert server.metrics()["streamgauge_acks_total"] + server.metrics()["streamgauge_stale_acks_total"] == 0


def test_the_server_goes_and_comes_back(page: Any, start_server: Start) -> None:
    server = start_server("--gap-ms", "20", "--tokens", "100000", "--drain", "5")
    open_page(page, server.http_url + "/")
    page.click(".generate")
    expect(last_answer(page)).to_have_text(re.compile("^0 1"))
    assert server.stop() == 0
    expect(page.locator(".state")).not_to_have_attribute("data-state", "open")
    expect(page.locator("[data-ended=complete]")).to_have_count(1)  # its end came before the close
    expect(page.locator(".generate")).to_be_disabled()
    again = start_server("--gap-ms", "5", "--tokens", "12", port=server.port)
    expect(page.locator(".state")).to_have_attribute("data-state", "open")
    page.click(".generate")
    expect(last_answer(page)).to_have_text(ALL_TWELVE)
    assert again.metrics()["streamgauge_prompts_total"] == 1
    page.complaints[:] = [text for text in page.complaints if "ERR_CONNECTION_REFUSED" not in text]


def test_a_connection_lost_in_mid_answer_is_said(page: Any, start_server: Start) -> None:
    server = start_server("--gap-ms", "20", "--tokens", "100000")
    open_page(page, server.http_url + "/")
    page.click(".generate")
    expect(last_answer(page)).to_have_text(re.compile("^0 1"))
    server.process.kill()
    expect(page.locator("[data-ended='connection lost']")).to_have_count(1)
    expect(page.locator(".state-text")).to_contain_text("trying again")
    page.complaints[:] = [text for text in page.complaints if "ERR_CONNECTION_REFUSED" not in text]


@pytest.mark.parametrize("width", [320, 375, 1200])
def test_nothing_is_wider_than_the_window(page: Any, start_server: Start, width: int) -> None:
    server = start_server("--gap-ms", "0", "--tokens", "200", "--token-bytes", "60")
    page.set_viewport_size({"width": width, "height": 640})
    open_page(page, server.http_url + "/")
    page.click(".generate")
    expect(page.locator("[data-ended=complete]")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in (".prompt", ".generate", ".stop"):
        box = page.locator(name).bounding_box()
        assert box["y"] + box["height"] <= 640, "always in reach"


def test_several_conversations_at_once(page: Any, start_server: Start) -> None:
    server = start_server("--gap-ms", "20", "--tokens", "100000")
    open_page(page, server.http_url + "/")
    for _ in range(2):
        page.click("#add")
    places = page.locator(".conversation")
    expect(places).to_have_count(3)
    expect(page.locator(".state[data-state=open]")).to_have_count(3)
    page.click("#generate-all")
    for number in range(3):
        expect(places.nth(number).locator(".answer")).to_have_text(re.compile("^0 1 2"))
    assert server.wait_for("streamgauge_connections_streaming", 3)["streamgauge_connections_open"] == 3
    # Each is stopped alone, by its own button or by Escape inside it.
    places.nth(1).locator(".stop").click()
    expect(page.locator("[data-ended=stopped]")).to_have_count(1)
    places.nth(2).locator(".prompt").focus()
    page.keyboard.press("Escape")
    expect(page.locator("[data-ended=stopped]")).to_have_count(2)
    assert places.nth(0).locator("[data-ended]").count() == 0
    places.nth(1).locator(".close").click()
    expect(places).to_have_count(2)
    server.wait_for("streamgauge_connections_open", 2)
    page.click("#stop-all")
    expect(page.locator("[data-ended=stopped]")).to_have_count(2)
    assert server.metrics()["streamgauge_prompts_total"] == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("words", "the stream carries one small word"),
        ("german", "große Füße über Kopfsteinpflaster: Grüße."),
        ("chinese", "字一个接一个地流出来，像河水一样"),
    ],
)
def test_languages_chosen_in_the_page(page: Any, start_server: Start, text: str, said: str) -> None:
    server = start_server("--gap-ms", "5")
    open_page(page, server.http_url + "/")
    page.select_option("select[name=text]", text)
    page.fill("input[name=tokens]", "40")
    page.fill("input[name=gap_ms]", "1")
    page.press("input[name=gap_ms]", "Tab")
    assert f"text={text}" in page.url
    assert "gap_ms=1" in page.url
    expect(page.locator(".state")).to_have_attribute("data-state", "open")
    page.fill(".prompt", "Grüße 你好 hello")
    page.click(".generate")
    expect(page.locator("[data-ended=complete]")).to_have_count(1)
    expect(last_answer(page)).to_contain_text(said)
    expect(page.locator(".tokens")).to_have_text("40")
    assert page.locator(".asked").text_content() == "Grüße 你好 hello"


@pytest.fixture
def site() -> Iterator[Callable[[Path], str]]:
    """Serve a folder from an origin of its own."""
    running: list[tuple[http.server.ThreadingHTTPServer, threading.Thread]] = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_arguments: Any) -> None:
            pass

    def serve(folder: Path) -> str:
        made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        running.append((made, thread))
        return f"http://127.0.0.1:{made.server_address[1]}"

    yield serve
    for made, thread in running:
        made.shutdown()
        thread.join()
        made.server_close()


def converse_three_times(page: Any, generate: str, stop: str, shown: str, done: str) -> None:
    """Generate, stop, generate: each answer starts at 0 and a stop is final."""
    for _ in range(3):
        page.click(generate)
        expect(page.locator(shown)).to_have_text(re.compile(r"^\s*0 1"))
        page.click(stop)
        expect(page.locator(shown)).to_have_text(re.compile(done + r"\s*$"))
        text = page.locator(shown).text_content().strip()
        assert ALL_TWELVE.startswith(re.sub(rf"\s*{done}$", "", text)), text
        page.click(generate)
        expect(page.locator(shown)).to_have_text(re.compile(rf"^\s*{ALL_TWELVE}\s+{done}\s*$"))


def test_a_page_with_the_articles_behaviour(page: Any, start_server: Start, site: Callable[[Path], str]) -> None:
    origin = site(PAGES)
    server = start_server("--gap-ms", "200", "--origin", origin)
    page.goto(f"{origin}/acknowledging.html?at={quote(server.url)}")
    expect(page.locator("body")).to_have_attribute("data-state", "open")
    converse_three_times(page, "#generate", "#stop", "#shown", "done")
    metrics = server.metrics()
    assert metrics["streamgauge_prompts_total"] == 6
    assert metrics["streamgauge_stops_total"] == 3
    # A double click on stop, a stop after the end, and a prompt before the end has come.
    page.click("#stop")
    page.click("#generate")
    page.click("#generate")
    expect(page.locator("#shown")).to_have_text(f"{ALL_TWELVE} done")
    page.click("#stop")
    assert server.wait_for("streamgauge_stale_stops_total", 2)["streamgauge_prompts_total"] == 8


def test_a_foreign_origin_is_refused(page: Any, start_server: Start, site: Callable[[Path], str]) -> None:
    server = start_server()
    page.goto(f"{site(PAGES)}/acknowledging.html?at={quote(server.url)}")
    assert server.wait_for('streamgauge_connections_refused_total{reason="origin"}', 1)["streamgauge_connections_accepted_total"] == 0
    page.wait_for_event("console", predicate=lambda _: True) if not page.complaints else None
    assert "403" in page.complaints.pop()


def test_the_articles_own_page_unchanged(page: Any, start_server: Start, site: Callable[[Path], str]) -> None:
    seed = os.environ.get("STREAMGAUGE_SEED")
    if not seed or not Path(seed, "index.html").is_file():
        pytest.skip("STREAMGAUGE_SEED names no folder with the article's index.html")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 8001))
        except OSError:
            pytest.skip("port 8001, which the article's page is wired to, is taken")
    origin = site(Path(seed))
    server = start_server("--gap-ms", "200", "--origin", origin, port=8001)
    page.goto(f"{origin}/index.html")
    server.wait_for("streamgauge_connections_open", 1)
    converse_three_times(page, "button >> nth=0", "button >> nth=1", "#message", "已完成")
    assert server.metrics()["streamgauge_prompts_total"] == 6
    page.complaints[:] = [text for text in page.complaints if "favicon" not in text and "404" not in text]
