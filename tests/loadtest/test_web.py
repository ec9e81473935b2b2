"""The Streaming page over HTTP: figures in step with the run, a form that answers in sentences, no secrets, login, base path, workers."""

from __future__ import annotations

import html
import json
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.live_history import COLUMNS
from loadtest.ports import free_port
from tests.loadtest.locust_run import ROOT, assert_plain, wait_until
from tests.loadtest.web_page import WebPage

SECRET, PASSWORD = "hush-8731", "pass-5512"
MASK = "***"


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any]) -> Any:
    return serve("--gap-ms", "20", "--tokens", "10")


@pytest.fixture(scope="module")
def page(start_locust: Callable[..., Any], server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebPage]:
    """One page for most tests: each leaves it without a run."""
    started = WebPage(start_locust, tmp_path_factory.mktemp("page"), "-H", server.url, "--bearer-token", SECRET, "--stop-share", "0.3")
    # The catalogue of scenarios is read beside everything else: what the tests ask for may come before it.
    wait_until(lambda: "stop-window-8" in started.get("/")[1], "the catalogue", started.run, timeout_s=60)
    yield started
    assert_plain(started.run.log)


@pytest.fixture
def idle(page: WebPage) -> Iterator[WebPage]:
    yield page
    page.post("/stop")
    wait_until(lambda: page.data()["phase"] in ("ready", "ended"), "the end", page.run)


def template_arguments(text: str) -> dict[str, Any]:
    found = re.search(r"window.templateArgs = (\{.*\})", text)
    assert found is not None
    parsed: dict[str, Any] = json.loads(found[1])
    return parsed


def test_the_form_offers_what_a_test_needs(page: WebPage, server: Any) -> None:
    status, text, _ = page.get("/")
    assert status == 200
    given = template_arguments(text)
    assert (given["host"], given["num_users"], given["spawn_rate"]) == (server.url, 10, 10)
    names = list(given["extra_options"])
    assert names[:6] == ["scenario", "tokens", "gap_ms", "ttft_ms", "stop_share", "stop_after_tokens"]
    assert {"loop", "rate", "compression", "adapter", "window"} <= set(names)
    assert {"as in this form", "smoke", "ladder", "stop-window-8"} <= set(given["extra_options"]["scenario"]["choices"])
    assert {"scenario_file", "run_dir", "metrics_port"}.isdisjoint(names)
    assert not any(re.search(r"\d", name) for name in names), "Locust's page would lose it"
    assert [tab["key"] for tab in given["extended_tabs"]] == ["streaming", "streaming-table"]


def test_user_classes_and_shapes_are_there_to_choose(page: WebPage) -> None:
    given = template_arguments(page.get("/")[1])
    assert given["show_userclass_picker"]
    assert "ConversationUser" in given["available_user_classes"]
    assert given["available_shape_classes"][0] == "Default"


def test_a_run_is_followed_from_start_to_report(idle: WebPage) -> None:
    answer = idle.start(tokens=12, gap_ms=15)
    assert (answer["success"], answer["message"]) == (True, "Swarming started")
    data = idle.wait_for("figures", lambda data: data["phase"] == "steady" and len(data["rows"]) >= 4 and data["table"])
    assert data["columns"] == list(COLUMNS)
    assert all(len(row) == len(COLUMNS) for row in data["rows"])
    seconds = [row[0] for row in data["rows"]]
    assert seconds == sorted(set(seconds))
    assert data["users"] == 2
    assert "tokens=12" in data["target"]
    assert data["verdict"]["rules"]
    newest = idle.data(data["part"], seconds[-1])
    assert "columns" not in newest
    assert all(row[0] > seconds[-1] for row in newest["rows"])
    assert json.loads(idle.get("/stats/requests")[1])["extended_stats"][0]["data"]
    status, text, headers = idle.get("/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert re.search(r"^streamgauge_run_tokens_total [1-9]", text, re.MULTILINE)
    idle.post("/stop")
    over = idle.wait_for("the report", lambda data: data["runs"] and data["runs"][0]["state"] == "ready" and data["final"])
    run = over["runs"][0]
    assert over["phase"] == "ended"
    assert over["run"] == run["name"] == over["final"]["run"]
    assert (over["connections"]["open"], over["connections"]["streaming"]) == (0, 0)
    assert {"report.html", "summary.json", "conversations.parquet", "run.json"} <= {file["name"] for file in run["files"]}
    for file in run["files"]:
        status, _, headers = idle.get(f"/streaming/runs/{run['name']}/{file['name']}?download")
        assert status == 200
        assert int(headers["Content-Length"]) == file["size_bytes"]
        assert "attachment" in headers["Content-Disposition"]
    summary = json.loads(idle.get(f"/streaming/runs/{run['name']}/summary.json")[1])
    itl = next(row for row in over["final"]["table"] if row["metric"] == "itl")
    assert itl["n"] == summary["metrics"]["itl"]["n"]
    assert over["final"]["valid"] == summary["validity"]["valid"]
    assert "sandbox" in idle.get(f"/streaming/runs/{run['name']}/report.html")[2]["Content-Security-Policy"]


def test_stop_new_test_and_reset_begin_anew(idle: WebPage) -> None:
    idle.start()
    first = idle.wait_for("rows", lambda data: len(data["rows"]) >= 2)
    assert idle.post("/stats/reset")[0] == 200
    second = idle.wait_for("rows after a reset", lambda data: data["part"] != first["part"] and data["rows"])
    assert second["run"] == first["run"]
    assert second["rows"][0][0] > first["rows"][-1][0]
    idle.post("/stop")
    idle.start()
    third = idle.wait_for("rows of the next run", lambda data: data["run"] != first["run"] and data["rows"])
    assert third["rows"][0][0] <= 2
    assert third["final"] is None
    idle.post("/stop")
    both = idle.wait_for("both reports", lambda data: [run["state"] for run in data["runs"][:2]] == ["ready", "ready"])
    assert [run["name"] for run in both["runs"][:2]] == [third["run"], first["run"]]


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"tokens": "many"}, "expected a whole number for --tokens, got 'many'"),
        ({"tokens": "1.5"}, "expected a whole number for --tokens, got '1.5'"),
        ({"gap_ms": ""}, "expected a number for --gap-ms, got ''"),
        ({"gap_ms": "nan"}, "expected --gap-ms"),
        ({"stop_share": "2"}, "expected --stop-share to be a share from 0 to 1, got 2"),
        ({"stop_after_tokens": "9-2"}, "expected --stop-after-tokens with the smaller number first"),
        ({"loop": "ajar"}, "expected --loop to be one of closed, open, got 'ajar'"),
        ({"loop": "open", "rate": "0"}, "expected --rate above 0, got 0"),
        ({"adapter": "nowhere:Nothing"}, "nowhere"),
        ({"host": "http://127.0.0.1:1/ws"}, "try ws://127.0.0.1:1/ws"),
        ({"host": "ws://127.0.0.1:1/ws"}, "refused"),
        ({"host": ""}, "expected a target"),
        ({"prompts": "/nonexistent/prompts.txt"}, "/nonexistent/prompts.txt"),
        ({"scenario": "none such"}, "expected one of the scenarios smoke"),
        ({"user_classes": "Nobody"}, "expected a user class of ConversationUser"),
        ({"shape_class": "Egg"}, "expected a shape of Default"),
        ({"user_count": "few"}, "Invalid user_count value: 'few'"),
        ({"spawn_rate": "0"}, "spawn_rate"),
        ({"run_time": "soon"}, "Valid run_time formats"),
        ({"header": "no colon"}, "expected --header as 'Name: value'"),
    ],
)
def test_a_wrong_value_gives_a_sentence(page: WebPage, form: dict[str, str], sentence: str) -> None:
    answer = page.start(**form)
    assert not answer["success"]
    assert sentence in answer["message"]
    assert page.data()["phase"] in ("ready", "ended")


def test_a_wrong_value_leaves_no_trace(idle: WebPage, server: Any) -> None:
    assert not idle.start(tokens="7", stop_share="2", host="ws://127.0.0.1:1/ws")["success"]
    assert template_arguments(idle.get("/")[1])["host"] == server.url
    assert idle.start()["success"]
    assert "tokens=7" not in idle.wait_for("the run", lambda data: data["users"] == 2 and data["target"])["target"]


def test_secrets_stay_out_of_the_page_and_in_force(start_locust: Callable[..., Any], server: Any, tmp_path: Path, page: WebPage) -> None:
    target = server.url.replace("ws://", f"ws://someone:{PASSWORD}@")
    other = WebPage(start_locust, tmp_path, "-H", target, "--header", f"X-Secret: {SECRET}", "--bearer-token", SECRET)
    shown = template_arguments(other.get("/")[1])
    assert (shown["extra_options"]["bearer_token"]["default_value"], shown["extra_options"]["header"]["default_value"]) == (MASK, MASK)
    # As a browser posts it: the masks come back.
    answer = other.start(host=shown["host"], bearer_token=MASK, header=MASK)
    assert answer["success"], answer
    texts = [json.dumps(answer)]
    other.wait_for("rows", lambda data: data["rows"])
    for path in (
        "/",
        "/streaming/",
        "/streaming/data",
        "/stats/requests",
        "/stats/report",
        "/stats/report?download=1",
        "/logs",
        "/metrics",
    ):
        status, text, headers = other.get(path)
        assert status == 200, path
        texts.append(text + str(headers))
    other.post("/stop")
    other.wait_for("the report", lambda data: data["runs"] and data["runs"][0]["state"] == "ready")
    texts.append((next(other.runs.iterdir()) / "run.json").read_text())
    for text in texts:
        for secret in (SECRET, PASSWORD):
            assert secret not in html.unescape(text)
    options = json.loads(texts[-1])["options"]
    assert (options["bearer_token"], options["header"]) == ("***", "***"), "there was one, and it was sent"
    assert other.start(bearer_token="")["success"], "an emptied field clears it"
    other.post("/stop")
    assert MASK not in json.dumps(template_arguments(other.get("/")[1])["extra_options"]["bearer_token"])


def test_a_scenario_of_the_catalogue_sets_what_it_names(idle: WebPage) -> None:
    assert idle.start(scenario="stop-window-8", run_time="")["success"]
    data = idle.wait_for("its users", lambda data: data["users"] == 100)
    assert "tokens=100" in data["target"]
    assert "window=8" in data["target"]
    assert data["run"].endswith("_stop")


def test_pages_of_other_sites_may_not_start_a_test(page: WebPage) -> None:
    status, text, _ = page.post("/swarm", {"user_count": 1, "spawn_rate": 1}, {"Sec-Fetch-Site": "cross-site"})
    assert status == 403
    assert "other sites" in text
    assert "Access-Control-Allow-Origin" not in page.get("/streaming/data")[2]


def test_nothing_else_of_the_disk_is_given_out(page: WebPage) -> None:
    for path in (
        "/streaming/runs/none/run.json",
        "/streaming/runs/../run.json",
        "/streaming/assets/../web.py",
        "/streaming/assets/%2e%2e/web.py",
    ):
        assert page.get(path)[0] == 404, path


def test_the_page_has_a_policy_and_nothing_inline() -> None:
    for path in (ROOT / "loadtest/pages").iterdir():
        text = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), path
        assert not re.search(r"https?://", text), path
        if path.suffix == ".html":
            assert not re.search(r"\son[a-z]+=|<script>|<style|style=", text)


@pytest.fixture
def locustfile_with_login(tmp_path: Path) -> Path:
    """What docs.locust.io asks for with --web-login: a user, and a way to log in."""
    path = tmp_path / "with_login.py"
    path.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(ROOT)!r})
            from flask import redirect, request, session, url_for
            from flask_login import UserMixin, login_user
            from locust import events
            from loadtest.installation import install
            from loadtest.users import ConversationUser

            class Person(UserMixin):
                def get_id(self):
                    return "somebody"

            install(events)

            @events.init.add_listener
            def login(environment, web_ui=None, **_):
                web_ui.login_manager.user_loader(lambda _: Person())
                web_ui.app.config["SECRET_KEY"] = "only a test"
                web_ui.auth_args["username_password_callback"] = "/lo/in"

                @web_ui.app.route("/lo/in", methods=["POST"])
                def enter():
                    login_user(Person())
                    return redirect(url_for("locust.index"))
            """
        )
    )
    return path


def test_behind_a_login_and_under_a_base_path(
    start_locust: Callable[..., Any], server: Any, tmp_path: Path, locustfile_with_login: Path
) -> None:
    page = WebPage(start_locust, tmp_path, "-f", str(locustfile_with_login), "-H", server.url, "--web-login", base="/lo")
    for path in ("/streaming/", "/streaming/data", "/streaming/assets/streaming.js", "/metrics"):
        status, text, _ = page.get(path)
        assert status == 200
        assert "authArgs" in text, path
    assert "authArgs" in page.post("/swarm", {"tokens": "many"})[1], "no sentence for strangers"
    page.post("/in")
    assert "locust-streaming" in page.get("/streaming/")[1]
    index = page.get("/")[1]
    assert 'src="/lo/streaming/assets/streaming.js"' in index
    assert page.start()["success"]
    assert page.wait_for("rows", lambda data: data["rows"])["users"] == 2
    page.post("/stop")


def test_the_master_shows_what_its_workers_see(start_locust: Callable[..., Any], server: Any, tmp_path: Path) -> None:
    options = ("--processes", "2", "--master-bind-host", "127.0.0.1", "--master-bind-port", str(free_port()))
    port = options[-1]
    page = WebPage(start_locust, tmp_path, "-H", server.url, *options, "--master-port", port)
    page.wait_for("workers", lambda _: json.loads(page.get("/worker-count")[1])["worker_count"] == 2)
    assert page.start(user_count=4, spawn_rate=4)["success"]
    data = page.wait_for("rows", lambda data: len(data["rows"]) >= 3 and data["connections"]["open"] == 4)
    assert data["rows"][-1][COLUMNS.index("streaming")] <= 4
    assert sum(row[COLUMNS.index("tokens_per_s")] for row in data["rows"]) > 0
    page.post("/stop")
    over = page.wait_for("the report", lambda data: data["final"])
    assert over["final"]["status"] == "complete"
    summary = json.loads(page.get(f"/streaming/runs/{over['run']}/summary.json")[1])
    assert len(summary["instrument"]["workers"]) == 2
