"""The form of Locust's web page: what it offers, and what becomes of the values that come back from it.

Locust takes a posted value by the type of the option's current one and answers a wrong one with an HTTP 500; it writes secrets in clear
into the page. So what is posted is read here first: a wrong value is answered with a sentence, and where the page was shown a mask the
value behind it is put back.
"""

from __future__ import annotations

import argparse
import html
import json
import logging
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gevent
from flask import Response, jsonify, request
from jinja2.utils import htmlsafe_json_dumps
from locust.env import Environment
from locust.runners import STATE_RUNNING, STATE_SPAWNING, MasterRunner
from werkzeug.datastructures import ImmutableMultiDict

from .adapter import AdapterError, load_adapter, make_adapter
from .lifecycle import Lifecycle
from .probe import probe
from .programs import own_command, read_output
from .redaction import MASK, SECRETS, redact_url
from .settings import SettingsError, check_settings

logger = logging.getLogger("streamgauge")

DEFAULT_HOST = "ws://127.0.0.1:8001/ws"
"""Where ``python -m server`` listens unless told otherwise."""
DEFAULT_USERS, DEFAULT_SPAWN_RATE = 10, 10.0
AS_IN_THE_FORM = "as in this form"
_FIRST = (
    "scenario", "tokens", "gap_ms", "ttft_ms", "stop_share", "stop_after_tokens", "stop_after_ms", "loop", "rate", "arrivals", "when_full",
    "window", "compression", "adapter", "think_time", "warm_up", "steps", "conversations_per_connection", "idle_share",
)  # fmt: skip
"""What most tests are about stands above what few ever change."""
_OF_LOCUST = {"users": "user_count", "spawn_rate": "spawn_rate", "run_time": "run_time"}
"""Options of Locust's own that a scenario may name, and what the page calls them."""
_CATALOGUE_S = 60.0


class FormError(Exception):
    """A posted value is wrong; the message says what was expected, what came and what to do."""


class Form:
    """Adapts what the page is given and what it posts; one for a process with a web page."""

    def __init__(self, environment: Environment, lifecycle: Lifecycle, names: list[str]) -> None:
        self._environment = environment
        self._lifecycle = lifecycle
        self._names = names
        self._scenarios: dict[str, dict[str, Any]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="streamgauge-")
        self._scenario_file = getattr(environment.parsed_options, "scenario_file", "")
        self._reading = gevent.spawn(self._read_catalogue)

    def _read_catalogue(self) -> None:
        command, where = own_command(sys.executable, "benchmarks", "list", "--json")
        try:
            self._scenarios = {run["name"]: run for run in json.loads(read_output(command, _CATALOGUE_S, where))}
        except (OSError, ValueError) as error:
            logger.warning("cannot read the catalogue of scenarios, the form offers none: %s", error)

    # What the page is given.

    def adapt(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Locust's arguments of its page with secrets masked, options in order, and values that make Start work."""
        self._reading.join()
        if not self._scenarios:
            self._reading = gevent.spawn(self._read_catalogue)
        options = {name: dict(option) for name, option in (arguments.get("extra_options") or {}).items()}
        for name in SECRETS:
            if name in options and self._current(name):
                options[name]["default_value"] = MASK
        if self._scenarios:
            options["scenario"] = {
                "default_value": AS_IN_THE_FORM, "choices": [AS_IN_THE_FORM, *self._scenarios], "is_secret": False, "is_required": False,
                "is_multiple": False, "help_text": "one of the catalogue sets users, time, tokens, gap, stops and all else that it names",
            }  # fmt: skip
        ordered = {name: options[name] for name in (*_FIRST, *options) if name in options}
        return {
            **arguments,
            "extra_options": ordered,
            "host": redact_url(self._environment.host) if self._environment.host else DEFAULT_HOST,
            "num_users": arguments.get("num_users") or DEFAULT_USERS,
            "spawn_rate": arguments.get("spawn_rate") or DEFAULT_SPAWN_RATE,
        }

    def _current(self, name: str) -> Any:
        return getattr(self._environment.parsed_options, name, None)

    def redact(self, text: str) -> str:
        """The text without the secrets of the target's URL: as it is, as HTML has it, as a script in a page has it."""
        host = self._environment.host or ""
        if host and redact_url(host) != host:
            for write in (str, html.escape, lambda url: htmlsafe_json_dumps(url)[1:-1]):
                text = text.replace(write(host), write(redact_url(host)))
        return text

    # What the page posts.

    def receive(self) -> Response | None:
        """Look at a posted start, before Locust does: None lets it go on, with what was masked put back."""
        try:
            request.form = self._complete(request.form.to_dict(flat=False))
        except FormError as error:
            logger.error("not started: %s", error)
            return jsonify({"success": False, "message": str(error), "host": redact_url(self._environment.host or "")})
        return None

    def _complete(self, form: dict[str, list[str]]) -> ImmutableMultiDict[str, str]:
        if self._lifecycle.is_ending:
            raise FormError("the run before is still ending: its conversations may finish and its record is written; try again in a moment")
        for name in SECRETS:
            if form.get(name) == [MASK]:
                form[name] = [str(self._current(name) or "")]
        if "host" in form and form["host"][0] == redact_url(self._environment.host or ""):
            form["host"] = [self._environment.host or ""]
        runner = self._environment.runner
        running = runner is not None and runner.state in (STATE_RUNNING, STATE_SPAWNING)
        if not running:
            if isinstance(runner, MasterRunner) and not runner.clients.ready:
                raise FormError(
                    "expected a worker that is ready, and there is none; start one with --worker --master-host and this master's address, "
                    "or try again in a moment: those of the run before are ready when their stop timeout is over"
                )
            self._lay_scenario_over(form)
        self._check_classes(form)
        options = self._read_options(form)
        if not running:
            self._check_run(form, options)
        return ImmutableMultiDict((name, value) for name, values in form.items() for value in values)

    def _lay_scenario_over(self, form: dict[str, list[str]]) -> None:
        options: Any = self._environment.parsed_options
        chosen = form.pop("scenario", [AS_IN_THE_FORM])[0]
        options.scenario_file = self._scenario_file
        if chosen == AS_IN_THE_FORM:
            return
        if chosen not in self._scenarios:
            raise FormError(f"expected one of the scenarios {', '.join(self._scenarios)}, got {chosen!r}")
        scenario = self._scenarios[chosen]
        for word in scenario["options"]:
            name, separator, value = word.removeprefix("--").partition("=")
            name = name.replace("-", "_")
            if name in (*self._names, *_OF_LOCUST):
                form[_OF_LOCUST.get(name, name)] = [value if separator else "true"]
        path = Path(self._folder.name) / f"{chosen}.json"
        path.write_text(json.dumps(scenario["scenario"], ensure_ascii=False), encoding="utf-8")
        options.scenario_file = str(path)

    def _check_classes(self, form: Mapping[str, list[str]]) -> None:
        for name, what, known in (
            ("user_classes", "user class", self._environment.available_user_classes or {}),
            ("shape_class", "shape", {"Default": None, **(self._environment.available_shape_classes or {})}),
        ):
            for value in form.get(name, []):
                if value not in known:
                    raise FormError(f"expected a {what} of {', '.join(known)}, got {value!r}")

    def _read_options(self, form: Mapping[str, list[str]]) -> argparse.Namespace:
        """The options as they will be, by the types that Locust will give them."""
        options = argparse.Namespace(**vars(self._environment.parsed_options or argparse.Namespace()))
        for name in self._names:
            if name not in form:
                continue
            current, text = self._current(name), form[name][-1]
            if isinstance(current, bool):
                setattr(options, name, text == "true")
                continue
            try:
                setattr(options, name, text if current is None else type(current)(text))
            except ValueError:
                what = "a whole number" if isinstance(current, int) else "a number"
                raise FormError(f"expected {what} for --{name.replace('_', '-')}, got {text!r}") from None
        return options

    def _check_run(self, form: dict[str, list[str]], options: argparse.Namespace) -> None:
        host = form.get("host", [self._environment.host or ""])[0]
        try:
            settings = check_settings(options, host)
            make_adapter(load_adapter(settings.adapter), {"window": settings.window})
            probe(settings, self._lifecycle.books.clock)
        except (SettingsError, AdapterError) as error:
            raise FormError(self.redact(str(error))) from None
        if settings.steps:
            form["user_count"] = [str(settings.steps[0].users)]
            form.setdefault("spawn_rate", [str(settings.steps[0].users)])
