"""The command line of ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from loadtest.adapter import AdapterError
from loadtest.adapter_table import read_adapter_file, resolved

from .keys import ScenarioError, keys, near
from .reachability import Access
from .scenario import SUITES, check
from .server_command import ServerCommand, read_command
from .workload import Load

OVERRIDES: Final = (
    "users", "run_time_s", "spawn_rate", "warm_up_s", "tokens", "gap_ms", "ttft_ms", "window", "idle_share", "think_time_s",
    "connect_rate_per_s", "conversations_per_connection", "prompts", "users_file", "source_addresses", "processes",
    "record_tokens", "rate_per_s", "workload", "trace_file", "trace_speed",
)  # fmt: skip
"""Keys of ``[load]`` that an option of the same meaning lays over every scenario of the suite."""
FOREIGN: Final = "how the server of --host lets us in"
DURATION: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without all its options before it."""

    def __init__(self, **arguments: Any) -> None:
        # Abbreviations would break scripts whenever an option is added.
        super().__init__(**{**arguments, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        words = [word.partition("=")[0] for word in message.partition("unrecognized arguments: ")[2].split()[:1]]
        hint = near(words[0], self._option_string_actions) if words else ""
        self.exit(2, f"{self.prog}: {message}{hint}; --help shows what there is\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = Parser(prog="python -m benchmarks", description="Scenarios, and what runs them.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_bench(commands.add_parser("bench", help="run a suite or a scenario, draw the report", description=BENCH_TEXT))
    listing = commands.add_parser("list", help="show the catalogue of scenarios")
    listing.add_argument("--json", action="store_true", help="every run of the catalogue with the generator's options for it")
    ui = commands.add_parser("ui", help="start the reference server and Locust's web page", description=UI_TEXT)
    ui.add_argument("--host", metavar="URL", help="drive this server instead of starting the reference server")
    ui.add_argument("--web-port", type=_port, metavar="PORT", help="port of the web page (default: 8089, or a free one when that is taken)")
    ui.add_argument("--processes", type=_key_value("processes"), default=1, metavar="N", help="processes of the generator")
    _add_engine(commands.add_parser("engine", help="the load engine beside the obvious way to write it", description=ENGINE_TEXT))
    commands.add_parser("calibrate", help="does the instrument read true on this machine?", add_help=False)
    commands.add_parser("omission", help="coordinated omission shown: a stopped server, a stopped generator", add_help=False)
    commands.add_parser("scaling", help="what does one more worker bring, and what do a hundred cost the master?", add_help=False)
    commands.add_parser("faults", help="runs with workers, killed, cut off, forged: is any silently wrong?", add_help=False)
    commands.add_parser("servers", help="the same conversation on several servers: ladder and ceiling", add_help=False)
    commands.add_parser("abort", help="how soon does an upstream see that its answer is not wanted any more?", add_help=False)
    commands.add_parser("transports", help="one stream of tokens by WebSocket, server-sent events and polls, near and far", add_help=False)
    commands.add_parser("sabotage", help="does every rule of validity refuse a run with its fault, and none a healthy one?", add_help=False)
    commands.add_parser("viewer", help="what does it cost the generator that somebody looks on?", add_help=False)
    commands.add_parser("capacity", help="how many conversations keep every objective?", add_help=False)
    commands.add_parser("account", help="every token that the server sent, held against what a run received", add_help=False)
    commands.add_parser("check", help="is one server slower than another, by an amount that matters? for CI", add_help=False)
    commands.add_parser("history", help="the checks so far over time, as a page with charts", add_help=False)
    commands.add_parser("prove", help="is the check's verdict worth anything? simulated jobs, and real ones", add_help=False)
    return top


BENCH_TEXT: Final = (
    "Runs each scenario with Locust against a freshly started reference server (or the server of --host), writes a folder with a report "
    "for each run and a page for all. Options after -- go to Locust as they are. Exit code: the worst of the runs; 0 done, 1 our own "
    "failure, 2 wrong option, scenario, host or limits, 10 a threshold failed, 12 a run is not valid, 130 interrupted."
)
UI_TEXT: Final = "Starts the reference server on a free port and Locust with its web page, prints the page's address, ends both on Ctrl-C."
ENGINE_TEXT: Final = (
    "The engine of the load generator beside a Locust user written the obvious way: same null server, same work, own CPUs, interleaved, "
    "medians."
)


def _add_bench(bench: argparse.ArgumentParser) -> None:
    what = bench.add_argument_group("what to run")
    what.add_argument("--suite", default="standard", metavar="NAME", help=f"{' or '.join(SUITES)} (default: standard)")
    what.add_argument("--scenario", action="append", metavar="NAME|FILE", help="one scenario of the catalogue, or a file; may be repeated")
    add_target(what)
    load = bench.add_argument_group("what differs from the scenario files (see docs/scenarios.md)")
    add_overrides(load)
    load.add_argument(
        "--slo", action="append", dest="limits", metavar="LIMIT", help="a limit of one conversation, such as ttft=500ms; may be repeated"
    )
    load.add_argument(
        "--threshold", action="append", default=[], metavar="OBJECTIVE", help="what every run has to keep, such as 'token_p99 < 50ms'"
    )
    load.add_argument("--seed", type=int, metavar="N", help="what is drawn depends on this")
    add_access(bench.add_argument_group(FOREIGN))
    out = bench.add_argument_group("where the results go")
    out.add_argument("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="folder of all runs (default: runs)")
    out.add_argument("--name", metavar="NAME", help="ends the name of the folder instead of the suite's")
    out.add_argument("--json", action="store_true", help="the summary on standard output, everything else on standard error")
    out.add_argument("--metrics-port", type=_port, default=0, metavar="PORT", help="serve the live figures for Prometheus meanwhile")


def add_target(group: argparse._ActionsContainer) -> None:
    """Whose server is driven, where it is not the reference server."""
    group.add_argument(
        "--host", metavar="URL", help="drive somebody else's server, ws[s]:// or http[s]://host[:port]/path; none is started then"
    )
    group.add_argument(
        "--server", metavar="COMMAND", help="or start one of your own for each run: {port} in it, or $PORT, is the port to listen on"
    )
    group.add_argument("--server-dir", type=Path, default=Path(), metavar="FOLDER", help="where that command runs (default: here)")
    group.add_argument(
        "--server-path",
        default="/ws",
        metavar="PATH|URL",
        help="where its WebSocket is (default: /ws), or its whole URL, with {port} in it",
    )
    group.add_argument("--adapter", metavar="NAME", help="what its messages mean: a shipped adapter, module:Class or path/to/file.py:Class")
    group.add_argument("--adapter-file", type=Path, metavar="FILE", help="the adapter's own options, TOML or JSON (docs/adapters.md)")


def server(options: argparse.Namespace) -> ServerCommand | None:
    """The command that starts a server, or None; ScenarioError when it is none, or stands beside a host."""
    if options.server is None:
        return None
    if options.host is not None:
        raise ScenarioError("--host and --server: expected one of them, for the first names a server that runs and the second starts one")
    try:
        return read_command(options.server, options.server_path, options.server_dir)
    except ValueError as error:
        raise ScenarioError(f"--server: {error}") from None


def add_overrides(group: argparse._ActionsContainer, without: Collection[str] = ()) -> None:
    """An option for each key of ``OVERRIDES`` but those in ``without``."""
    for name in OVERRIDES:
        if name in without:
            continue
        key = keys(Load)[name]
        assert key.option is not None
        if key.kind == "flag":
            group.add_argument(key.option, dest=name, action="store_const", const=True, help=key.meaning)
        else:
            reading = duration if name == "run_time_s" else _key_value(name)
            metavar = {"file": "FILE", "addresses": "A,A"}.get(key.kind, "N")
            group.add_argument(key.option, dest=name, type=reading, metavar=metavar, help=key.meaning.replace("`", ""))


def add_access(access: argparse._ActionsContainer) -> None:
    """How a foreign server lets us in."""
    access.add_argument("--header", action="append", default=[], metavar="'Name: value'", help="may be repeated")
    access.add_argument("--subprotocol", action="append", default=[], metavar="NAME", help="may be repeated")
    access.add_argument("--origin", metavar="ORIGIN")
    access.add_argument("--bearer-token", metavar="TOKEN")
    access.add_argument("--insecure", action="store_true", help="do not check the certificate")
    access.add_argument("--ca-file", type=Path, metavar="FILE", help="certificates to trust (PEM)")


def _add_engine(engine: argparse.ArgumentParser) -> None:
    engine.add_argument("--connections", type=_counts, default=(1, 100, 1000, 5000), metavar="N,N", help="default: 1,100,1000,5000")
    engine.add_argument("--rounds", type=_whole(1, 99), default=3, metavar="N", help="medians are taken over these (default: 3)")
    engine.add_argument("--seconds", type=_whole(2, 600), default=5, metavar="S", help="measured seconds of each (default: 5)")
    engine.add_argument("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="folder of all runs (default: runs)")
    engine.add_argument("--json", action="store_true", help="the figures on standard output, everything else on standard error")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command and its options; ends the process with 2 and one sentence when they are wrong."""
    top = parser()
    given, unknown = top.parse_known_args(words)
    if unknown:
        command = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction)).choices[given.command]
        command.error(f"unrecognized arguments: {' '.join(unknown)}")
    return given


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our words, and those behind ``--``, which are Locust's."""
    words = list(words)
    return (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """The keys of ``[load]`` that were given on the command line."""
    changes = {name: getattr(options, name) for name in OVERRIDES if getattr(options, name, None) is not None}
    limits = getattr(options, "limits", None)
    return changes | ({"slo": check("slo", limits)} if limits else {})


def access(options: argparse.Namespace) -> Access:
    """How a foreign server lets us in."""
    return Access(
        tuple(options.header), tuple(options.subprotocol), options.origin, options.bearer_token, options.insecure,
        options.ca_file.resolve() if options.ca_file else None,
    )  # fmt: skip


def adapter(options: argparse.Namespace) -> tuple[str | None, dict[str, Any] | None]:
    """The adapter's name and the table of its options, each None where the command line has none; ScenarioError when they are wrong."""
    name = None if options.adapter is None else resolved(options.adapter, Path.cwd())
    if options.adapter_file is None:
        return name, None
    try:
        named, table = read_adapter_file(options.adapter_file)
    except AdapterError as error:
        raise ScenarioError(str(error)) from None
    return name or named, table


def duration(text: str) -> int:
    """Whole seconds of ``90``, ``90s``, ``1m30s``, ``1h``; at least one."""
    match = DURATION.fullmatch(text)
    if not text or match is None:
        raise argparse.ArgumentTypeError(f"expected a time such as 90, 90s or 1m30s, found {text!r}")
    hours, minutes, seconds = match.groups()
    return int(_checked("run_time_s", int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0)))


def _key_value(name: str) -> Callable[[str], Any]:
    kind = keys(Load)[name].kind

    def read(text: str) -> Any:
        try:
            value: Any = int(text) if kind == "integer" else float(text) if kind == "number" else text
        except ValueError:
            value = text
        return _checked(name, value)

    return read


def _checked(name: str, value: Any) -> Any:
    try:
        return check(name, value)
    except ScenarioError as error:
        raise argparse.ArgumentTypeError(str(error).partition(": ")[2]) from None


def _whole(lowest: int, highest: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f"expected a whole number from {lowest} to {highest}, found {text!r}")
        return int(text)

    return read


_port = _whole(1, 65535)


def _counts(text: str) -> tuple[int, ...]:
    read = _whole(1, 20_000)
    return tuple(sorted({read(part.strip()) for part in text.split(",")}))
