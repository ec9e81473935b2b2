"""The Streaming page in Locust's web page: live charts and figures, the verdict as it stands, the report when the run has ended.

A Flask Blueprint of our own under ``/streaming``, a tab with a custom element in Locust's page and a plain table as its fallback; Locust
itself is not changed. docs/web.md says what ``/streaming/data`` holds.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, abort, jsonify, redirect, request, send_from_directory, url_for
from locust.env import Environment
from locust.runners import MasterRunner
from locust.web import WebUI
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from .lifecycle import Lifecycle
from .live_history import COLUMNS, KEPT_S, QUANTILES, TABLED, WINDOW_S, History, milliseconds
from .live_verdict import Standing, judge
from .metrics import BY_NAME, CONNECT_ERRORS, ERRORS, MINIMUM_SAMPLES
from .opening import KERNEL_STAMPS
from .redaction import redact_url
from .web_form import Form
from .web_report import Reports, is_offered

logger = logging.getLogger("streamgauge")

HERE = Path(__file__).resolve().parent / "pages"
TAB, TABLE = "streaming", "streaming-table"
_SHARED_S = 0.5
"""Several viewers within so long see the same answer: what it says changes once a second."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A report is a document of its own, with its own inline parts: it runs without this page's origin.
_REPORT_POLICY = "sandbox allow-downloads allow-popups"


class StreamingPage:
    """What the page shows of one process's runs."""

    def __init__(self, environment: Environment, lifecycle: Lifecycle) -> None:
        self._environment = environment
        self._lifecycle = lifecycle
        self._history = lifecycle.live.history = History()
        self.reports = Reports()
        self._path: Path | None = None
        self._draining = False
        self._workers: set[str] = set()
        self._shared: tuple[float, str, str] = (0.0, "", "")
        # After the lifecycle's own: a run that it refused never reaches us, and one that it ended is whole.
        events: Any = environment.events
        events.test_start.add_listener(self._on_start)
        events.spawning_complete.add_listener(self._on_spawned)
        events.test_stopping.add_listener(self._on_stopping)
        events.test_stop.add_listener(self._on_stop)
        events.reset_stats.add_listener(self._history.reset)
        events.quit.add_listener(lambda **_: self.reports.close())

    @property
    def _runner(self) -> Any:
        return self._environment.runner

    def _on_start(self, **_: Any) -> None:
        directory = self._lifecycle.books.directory
        self._path = None if directory is None else directory.path
        self._draining = False
        self._workers = set(self._runner.clients) if isinstance(self._runner, MasterRunner) else set()
        self.reports.run_begins()

    def _on_spawned(self, **_: Any) -> None:
        settings = self._lifecycle.books.settings
        if settings is not None:
            self._history.steady_from(math.ceil(self._lifecycle.books.since_origin() / 1e9 + settings.warm_up_s))

    def _on_stopping(self, **_: Any) -> None:
        self._draining = self._path is not None

    def _on_stop(self, **_: Any) -> None:
        self._draining = False
        if self._path is not None:
            self.reports.run_ended(self._path)
        self._path = None

    # What is shown.

    def data(self, part: str, second: int) -> str:
        """The JSON of ``/streaming/data`` for somebody who has the rows of ``part`` up to ``second``."""
        history = self._history
        now = time.monotonic()
        if now - self._shared[0] > _SHARED_S or self._shared[1] != history.part:
            self._shared = (now, history.part, json.dumps(self._state(), ensure_ascii=False)[1:-1])
        texts = [self._shared[2], f'"rows":{history.rows_since(part, second)}']
        if part != history.part:
            texts.append(json.dumps(_LEGEND, ensure_ascii=False)[1:-1])
        return "{" + ",".join(texts) + "}"

    def _state(self) -> dict[str, Any]:
        live, history, settings = self._lifecycle.live, self._history, self._lifecycle.books.settings
        latest = self.reports.latest
        over = self._path is None
        return {
            "part": history.part,
            "run": history.run or None,
            "phase": self._phase(),
            "target": redact_url(settings.url) if settings is not None else None,
            "users": int(getattr(self._runner, "user_count", 0)),
            "seconds": history.seconds,
            "table": [{**row, **_about(row["metric"])} for row in history.table()],
            "conversations": {
                outcome: live.counts["conversations_" + outcome] for outcome in ("completed", "stopped", "empty", "failed", "abandoned")
            },
            "tokens": live.counts["tokens"],
            "connections": {**live.gauges, "failed": live.counts["connects_failed"], **history.server},
            "errors": [
                {"kind": kind, "count": count, "meaning": {**ERRORS, **CONNECT_ERRORS}.get(kind, "")}
                for kind, count in live.errors.most_common()
            ],
            "verdict": judge(self._standing()) if history.seconds else None,
            "final": _final(latest.summary) if over and latest is not None and latest.summary is not None else None,
            "runs": [
                {"name": name, "state": one.state, "sentence": one.sentence, "files": one.files()}
                for name, one in reversed(self.reports.finished.items())
            ],
        }  # fmt: skip

    def _phase(self) -> str:
        if self._draining:
            return "draining"
        if self._path is None:
            return "ended" if self.reports.latest is not None else "ready"
        return "warm-up" if self._history.warming_up else "steady"

    def _standing(self) -> Standing:
        settings = self._lifecycle.books.settings
        return Standing(
            self._history, dict(self._lifecycle.live.errors), [self._name(worker) for worker in self._lost()], self._name,
            acknowledged=settings is None or settings.window > 0, stamped=KERNEL_STAMPS,
        )  # fmt: skip

    def _lost(self) -> set[str]:
        if not isinstance(self._runner, MasterRunner) or self._path is None:
            return set()
        return {worker for worker in self._workers if worker not in self._runner.clients} | {
            node.id for node in self._runner.clients.missing if node.id in self._workers
        }

    def _name(self, worker: str) -> str:
        return f"Worker w{self._runner.get_worker_index(worker)}" if worker else "The generator"

    def plain_rows(self) -> list[dict[str, Any]]:
        """The table for Locust's own plain tab."""
        return [
            {"name": BY_NAME[row["metric"]].title, **{key: value for key, value in row.items() if key != "metric"}}
            for row in self._history.table()
        ]


def _about(metric: str) -> dict[str, str]:
    return {"title": BY_NAME[metric].title, "definition": BY_NAME[metric].definition}


_LEGEND = {
    "columns": COLUMNS, "window_s": WINDOW_S, "kept_s": KEPT_S,
    "samples_needed": {f"p{100 * q:.0f}": MINIMUM_SAMPLES[q] for q in QUANTILES},
}  # fmt: skip


def _final(summary: dict[str, Any]) -> dict[str, Any]:
    """The figures of the finished run in the form of the live ones."""
    rows = []
    for metric in TABLED:
        found = summary["metrics"].get(metric)
        if found and found.get("n"):
            values = {f"{name}_ms": milliseconds(found["percentiles"].get(name, {}).get("value")) for name in ("p50", "p90", "p99")}
            rows.append({"metric": metric, "n": found["n"], "max_ms": milliseconds(found.get("max")), **values, **_about(metric)})
    return {
        "run": summary["run"]["name"],
        "status": summary["run"]["status"],
        "valid": summary["validity"]["valid"],
        "reasons": [reason["sentence"] for reason in summary["validity"]["reasons"]],
        "findings": [finding["sentence"] for finding in summary["validity"]["findings"]],
        "tokens_per_s": summary["rates"]["throughput_tokens"],
        "table": rows,
    }


def install_web(environment: Environment, web_ui: WebUI, lifecycle: Lifecycle, names: list[str]) -> None:
    """Add the page, its data and the tab to Locust's web page; ``names`` are the options that its form shows."""
    page, form = StreamingPage(environment, lifecycle), Form(environment, lifecycle, names)
    base = str(getattr(environment.parsed_options, "web_base_path", None) or "").rstrip("/")
    guard: Callable[[], Any] = web_ui.auth_required_if_enabled(lambda: None)  # type: ignore[no-untyped-call]
    app = web_ui.app
    assert app is not None
    # The form keeps the order of its options.
    app.jinja_env.policies["json.dumps_kwargs"] = {"sort_keys": False}
    app.register_blueprint(_blueprint(page, base, guard))

    @app.before_request
    def before() -> Any:
        # A page of another site may not start a test, though Locust's answers are open to all origins.
        if request.method == "POST" and request.headers.get("Sec-Fetch-Site") == "cross-site":
            return jsonify({"success": False, "message": "pages of other sites may not use this one"}), 403
        if request.endpoint == "locust.swarm" and request.method == "POST":
            return guard() or form.receive()
        return None

    @app.after_request
    def after(response: Response) -> Response:
        if request.endpoint == "locust.index" and response.mimetype == "text/html" and response.status_code == 200:
            script = f'<script type="module" src="{url_for("streaming.asset", name="streaming.js")}"></script></body>'
            response.set_data(form.redact(response.get_data(as_text=True)).replace("</body>", script, 1))
        elif request.endpoint == "locust.request_stats" and response.is_json:
            _add_rows(response, page)
        elif request.endpoint in ("locust.swarm", "locust.stats_report"):
            response.set_data(form.redact(response.get_data(as_text=True)))
        if "Content-Disposition" in response.headers:
            response.headers["Content-Disposition"] = form.redact(response.headers["Content-Disposition"])
        return response

    plain: Callable[[], None] = web_ui.update_template_args

    def update_template_args() -> None:
        plain()
        web_ui.template_args = form.adapt(web_ui.template_args)

    web_ui.update_template_args = update_template_args  # type: ignore[method-assign]
    web_ui.template_args["extended_tabs"] = [
        # A string is taken for the name of an element; should a version of Locust not, the table beside it shows the same figures.
        {"title": "Streaming", "key": TAB, "component": "locust-streaming"},
        {"title": "Streaming table", "key": TABLE},
    ]
    web_ui.template_args["extended_tables"] = [{"key": TABLE, "structure": [{"key": key, "title": title} for key, title in _STRUCTURE]}]
    web_ui.template_args["extended_csv_files"] = [{"href": "./streaming/", "title": "Streaming: figures, report and data of the runs"}]


_STRUCTURE = (
    ("name", "Metric, ms"),
    ("n", "Values"),
    *((f"p{100 * q:.0f}_ms", f"p{100 * q:.0f}") for q in QUANTILES),
    ("max_ms", "Max"),
    *((f"recent_p{100 * q:.0f}_ms", f"p{100 * q:.0f}, last {WINDOW_S} s") for q in QUANTILES),
)


def _add_rows(response: Response, page: StreamingPage) -> None:
    """Put our rows into what Locust's page polls, without reading all of it again; Locust gives the same answer out for two seconds."""
    text = response.get_data(as_text=True).rstrip()
    if text.endswith("}") and '"extended_stats"' not in text:
        rows = json.dumps([{"key": TABLE, "data": page.plain_rows()}])
        response.set_data(f'{text[:-1]},"extended_stats":{rows}}}\n')


def _blueprint(page: StreamingPage, base: str, guard: Callable[[], Any]) -> Blueprint:
    blueprint = Blueprint("streaming", __name__, url_prefix=base or None)
    blueprint.before_request(guard)
    registry = CollectorRegistry()
    registry.register(page._lifecycle.live)

    @blueprint.after_request
    def harden(response: Response) -> Response:
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Referrer-Policy", "no-referrer")
        response.headers.setdefault("Content-Security-Policy", _POLICY)
        response.headers["Cache-Control"] = "no-store"
        # Locust opens all its answers to pages of any origin.
        response._FLASK_CORS_EVALUATED = True  # type: ignore[attr-defined]
        return response

    @blueprint.route("/streaming")
    def short() -> Any:
        return redirect(url_for("streaming.show"))

    @blueprint.route("/streaming/")
    def show() -> Response:
        return send_from_directory(HERE, "streaming.html")

    @blueprint.route("/streaming/assets/<name>")
    def asset(name: str) -> Response:
        return send_from_directory(HERE, name)

    @blueprint.route("/streaming/data")
    def data() -> Response:
        since = request.args.get("since", -1, type=int)
        return Response(page.data(request.args.get("part", ""), since), mimetype="application/json")

    @blueprint.route("/streaming/runs/<run>/<path:name>")
    def file(run: str, name: str) -> Response:
        one = page.reports.finished.get(run)
        if one is None or not is_offered(one, name):
            abort(404)
        response = send_from_directory(one.path.resolve(), name, as_attachment="download" in request.args)
        if name.endswith(".html"):
            response.headers["Content-Security-Policy"] = _REPORT_POLICY
        return response

    @blueprint.route("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return blueprint
