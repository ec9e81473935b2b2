"""Hooks the measuring into Locust: options into its parser, a Lifecycle into its environment."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any

import gevent
import locust.argument_parser
import locust.runners
import psutil
from locust.env import Environment
from locust.exception import RPCError
from locust.rpc import rpc as zmqrpc
from locust.runners import LocalRunner, MasterRunner, WorkerRunner
from locust.web import WebUI

from .feed import refine_locust
from .lifecycle import Lifecycle
from .options import DRAIN_S, add_options
from .ports import free_port
from .raw_file import warm_up
from .settings import SettingsError
from .shapes import shape_of
from .users import ConversationUser
from .web import install_web
from .worker import EXIT_USAGE

_REPORT_S = 1.0


def _forks(words: Sequence[str]) -> bool:
    """Whether the command line asks for a master that starts its own workers."""
    asked = any(word == "--processes" or word.startswith("--processes=") for word in words)
    return asked and "--worker" not in words


def _end_children() -> None:
    """End what ``--processes`` forked: Locust forgets those that have not reached the master yet, and they would try to for minutes."""
    for worker in psutil.Process().children():
        worker.terminate()


def say_when_port_is_taken() -> None:
    """Have a master that cannot listen end with a sentence and exit code 2; Locust's own is 1."""
    plain: Any = zmqrpc.Server

    def listen(host: str, port: int) -> Any:
        # Those that follow replace a broken one in mid-run, where Locust tries again.
        zmqrpc.Server = plain  # type: ignore[misc]
        try:
            return plain(host, port)
        except RPCError as error:
            sys.stderr.write(
                f"streamgauge: expected an address for the master to listen on, but {host}:{port} cannot be had ({error}); is another "
                "master running? End it, or choose another --master-bind-port, and --master-port for its workers\n"
            )
            _end_children()
            sys.exit(EXIT_USAGE)

    zmqrpc.Server = listen  # type: ignore[misc, assignment]


def choose_by_options(environment: Environment, web_ui: WebUI) -> None:
    """Where all user classes are chosen, or none, on the page, let the options alone say what users do: that is the general class."""
    update: Any = web_ui._update_user_classes

    def narrowed(classes: dict[str, Any]) -> None:
        available: dict[str, Any] = dict(environment.available_user_classes or {})
        everybody = len(classes) == len(available) and ConversationUser in available.values()
        update({ConversationUser.__name__: ConversationUser} if everybody else classes)

    chosen: Any = web_ui
    chosen._update_user_classes = narrowed
    classes: Any = environment.user_classes
    if ConversationUser in classes:
        environment.user_classes = [ConversationUser]


def keep_loops_apart() -> None:
    """Give a forked process an event loop of its own before anything else that is told to run after a fork.

    OpenTelemetry, set up before ``--processes`` forks, starts its threads anew at once. Under gevent that turns the loop, which until
    gevent comes to it is the parent's: its descriptors, and what would have woken it.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=gevent.reinit)


def remember_defaults() -> None:
    """Have Locust make the parser of its own options once, not for every option of every message that tells a worker its users.

    For our 132 options that takes a tenth of a second, once a second while users start; on a busy machine it took 2.6 s, in which the
    worker acknowledged no token and sent no heartbeat, and the master gave it up in the end.
    """
    module: Any = locust.argument_parser
    module.default_args_dict = functools.cache(module.default_args_dict)


def install(events: Any) -> None:
    """Hook everything into Locust; called once by the locustfile."""
    names: list[str] = []
    keep_loops_apart()  # first, for such calls come in the order in which they were asked for

    def on_parser(parser: Any, **_: Any) -> None:
        before = {action.dest for action in parser._actions}
        add_options(parser)
        # Locust's own defaults listen to every machine that can reach this one.
        parser.set_defaults(master_bind_host="127.0.0.1", web_host="127.0.0.1")
        if _forks(sys.argv[1:]):
            # Locust's one port for all would let two masters on a machine fight for it, and for each other's workers.
            port = free_port()
            parser.set_defaults(master_bind_port=port, master_port=port)
        # The page offers user classes and shapes to choose from; without a page it means nothing.
        parser.set_defaults(class_picker=True)
        names.extend(action.dest for action in parser._actions if action.dest not in before)

    def on_init(environment: Environment, runner: Any, web_ui: WebUI | None = None, **_: Any) -> None:
        options = environment.parsed_options
        assert options is not None
        # The loop's clock has stood still since its making, a second of imports ago: timers started now would be early by that.
        gevent.get_hub().loop.update_now()
        refine_locust()
        # Locust's own three seconds are too long for somebody who looks on.
        locust.runners.WORKER_REPORT_INTERVAL = _REPORT_S
        lifecycle = Lifecycle(environment, names)
        environment.streamgauge_lifecycle = lifecycle  # type: ignore[attr-defined]
        if not environment.stop_timeout:
            environment.stop_timeout = DRAIN_S
        if isinstance(runner, LocalRunner | MasterRunner) and options.headless:
            try:
                settings = lifecycle.books.check()
                if isinstance(runner, LocalRunner):
                    lifecycle.books.try_target(settings)
            except SettingsError as error:
                sys.stderr.write(f"streamgauge: {error}\n")
                if options.processes:
                    _end_children()
                sys.exit(EXIT_USAGE)
            if settings.steps and settings.shape == "none":
                options.num_users = settings.steps[0].users
                options.spawn_rate = options.spawn_rate or settings.steps[0].users
            environment.shape_class = shape_of(settings)
            if environment.shape_class is not None:
                environment.shape_class.runner = runner
        elif options.headless:
            # A worker finds what is wrong by itself too: the master, gone for the same reason, could not tell it.
            try:
                lifecycle.books.check()
            except SettingsError:
                sys.exit(EXIT_USAGE)
        if not isinstance(runner, WorkerRunner):
            lifecycle.books.describe()
        if web_ui is not None:
            # Locust would begin with the first of the file's shapes, and with users of every class.
            environment.shape_class = None
            choose_by_options(environment, web_ui)
            install_web(environment, web_ui, lifecycle, names)
        if getattr(options, "otel", False) and importlib.util.find_spec("opentelemetry.sdk"):
            # Without the SDK Locust has said so already.
            from .telemetry import install_telemetry

            install_telemetry(lifecycle, runner)
        if not isinstance(runner, MasterRunner):
            warm_up()
        # Locust looks at its own stack when a test is stopped, for a log line; the first look takes a tenth of a second.
        inspect.stack()
        gevent.get_hub().loop.update_now()

    say_when_port_is_taken()
    remember_defaults()
    events.init_command_line_parser.add_listener(on_parser)
    events.init.add_listener(on_init)
