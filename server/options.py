"""The command line: options, their defaults and limits, and the settings they become."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import re
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from .access import read_tokens
from .app import Settings
from .front import parse_origin
from .parameters import DEFAULT_CAPS, PARAMETERS, Parameter, ParameterError, Plan, parse_cap
from .processes import tls_context
from .protocol import DEFAULT_PORT, PATH
from .source import UpstreamSettings, find_unfit, read_words

_DEFAULTS = Settings()
KEY_VARIABLE: Final = "STREAMGAUGE_UPSTREAM_KEY"


class OptionError(Exception):
    """An option that reads well but cannot be used; the message is one sentence."""


@dataclasses.dataclass(frozen=True, slots=True)
class Launch:
    """How to start: where to listen, with how many processes, and how the server behaves."""

    host: str
    port: int
    processes: int
    uvloop: bool
    ready_file: Path | None
    settings: Settings


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def _whole(low: int, high: int, what: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,12}", text, re.ASCII) and low <= int(text) <= high:
            return int(text)
        raise argparse.ArgumentTypeError(f"{what} is a whole number from {low} to {high}, not {text!r}")

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII) and low <= float(text) <= high:
            return float(text)
        raise argparse.ArgumentTypeError(f"expected {low:g} to {high:g} seconds, not {text!r}")

    return parse


def _checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def checked(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:  # ParameterError is one
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m server`."""
    parser = _Parser(
        prog="python -m server",
        description="The reference streaming server: a prompt in, tokens out, each acknowledged, stoppable at once.",
        epilog="Every option under 'answers' can also be chosen by a connection, within the caps: "
        f"ws://HOST:PORT{PATH}?tokens=100&gap_ms=20. The rules of the conversation are in docs/protocol.md.",
        allow_abbrev=False,
    )
    _add_listening(parser)
    _add_answers(parser)
    _add_sources(parser)
    _add_limits(parser)
    return parser


def _add_listening(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("listening")
    add = group.add_argument
    add(
        "--host", default="127.0.0.1", metavar="HOST", help="name or address to listen on; 0.0.0.0 is every IPv4 one (default: %(default)s)"
    )
    add("--port", type=_whole(0, 65535, "a port"), default=DEFAULT_PORT, metavar="N", help="0 picks a free one (default: %(default)s)")
    add(
        "--processes",
        type=_whole(1, 256, "the number of processes"),
        default=1,
        metavar="N",
        help="processes that share the port (default: 1)",
    )
    add("--certfile", type=Path, metavar="FILE", help="serve wss:// and https:// with this certificate chain (PEM)")
    add("--keyfile", type=Path, metavar="FILE", help="its private key, unless that is in the same file")
    add("--origin", action="append", default=[], type=_checked(parse_origin), metavar="ORIGIN",
        help="let pages of this origin connect too: http://localhost:3000, null (a local file) or * (any); may be repeated")  # fmt: skip
    add("--token-file", type=Path, metavar="FILE",
        help="open conversations only for who sends Authorization: Bearer TOKEN with a token of this file, one a line")  # fmt: skip
    add("--compression", action="store_true", help="offer permessage-deflate; it costs processor time and memory")
    add("--uvloop", action="store_true", help="run on uvloop, which has to be installed; its timers are exact to 1 ms only")
    add("--backlog", type=_whole(1, 65535, "the backlog"), default=_DEFAULTS.backlog, metavar="N",
        help="connections the kernel keeps until they are accepted (default: %(default)s)")  # fmt: skip
    add("--ready-file", type=Path, metavar="FILE", help="write the line that says where the server listens here too")
    add("--quiet", action="store_true", help="log what goes wrong only")


def _add_answers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("answers (defaults for connections that do not choose themselves)")
    for parameter in PARAMETERS.values():
        if parameter.name == "connection":
            continue  # the name of one connection is no default for all
        group.add_argument(
            parameter.option,
            dest=f"plan_{parameter.name}",
            type=_checked(parameter.parse),
            metavar=parameter.name.upper() if not parameter.choices else "|".join(parameter.choices),
            help=_help(parameter),
        )
    group.add_argument("--cap", action="append", default=[], type=_checked(parse_cap), metavar="NAME=VALUE",
        help="the largest value a connection may choose, such as tokens=1000 or cpu_us=0; may be repeated")  # fmt: skip
    group.add_argument("--history", type=Path, metavar="FILE", help="append every traced token here, for a checker")


def _add_sources(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("other sources of tokens")
    add = group.add_argument
    add("--text-file", type=Path, metavar="FILE", help="answers say the words of this text, all of them unless --tokens says otherwise")
    add("--upstream", type=_checked(parse_upstream), metavar="URL",
        help="relay the answers of an OpenAI-compatible API, such as http://127.0.0.1:8000/v1; tokens come when they come, and --tokens "
        f"is asked for as max_tokens; its key is read from the environment: {KEY_VARIABLE}")  # fmt: skip
    add("--upstream-model", default="default", metavar="NAME", help="the model to ask for (default: %(default)s)")
    add("--upstream-timeout", type=_seconds(0.05, 86_400), default=60.0, metavar="S",
        help="an answer fails when nothing comes for so long (default: 60 s)")  # fmt: skip


def parse_upstream(text: str) -> str:
    """Read the base URL of an API; raises ValueError with a sentence unless it is one."""
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment or "@" in parts.netloc)
        _ = parts.port  # raises if it is none
    except ValueError:
        sound = False
    if not sound:
        raise ValueError(f"an upstream is http[s]://host[:port]/path, such as http://127.0.0.1:8000/v1, not {text!r}")
    return text.rstrip("/")


def _help(parameter: Parameter) -> str:
    facts = [] if parameter.default is None else [f"default: {parameter.default}"]
    if parameter.cap is not None:
        facts.append(f"cap: {parameter.cap:g}")
    text = f"{parameter.doc} ({', '.join(facts)})" if facts else parameter.doc
    return text.replace("%", "%%").replace("`", "")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    d = _DEFAULTS
    numbers: Sequence[tuple[str, int, int, int, str]] = (
        ("--max-connections", d.max_connections, 1, 10_000_000, "connections in all; more get 503 (lowered to what open files allow)"),
        ("--max-per-address", d.max_per_address, 1, 10_000_000, "connections of one address, in each process; more get 503"),
        ("--max-text-bytes", d.max_text_bytes, 1, 64 * 1024 * 1024, "longest message received; a longer one is closed with 1009"),
        (
            "--write-buffer-bytes",
            d.write_buffer_bytes,
            65_536,
            8 * 1024 * 1024,
            "unsent data at which a peer that does not read is cut off",
        ),
    )
    for name, default, low, high, text in numbers:
        what = name[2:].replace("-", " ")
        group.add_argument(name, type=_whole(low, high, what), default=default, metavar="N", help=f"{text} (default: {default})")
    times: Sequence[tuple[str, float, float, float, str]] = (
        ("--ack-timeout", d.ack_timeout_s, 0.01, 86_400, "an answer that waits so long for an acknowledgement ends"),
        ("--open-timeout", d.open_timeout_s, 0.05, 3_600, "time for the whole handshake"),
        ("--close-timeout", d.close_timeout_s, 0.05, 3_600, "time for the closing handshake"),
        ("--message-timeout", d.message_timeout_s, 0.05, 3_600, "time for all fragments of a message"),
        ("--ping-interval", d.ping_interval_s, 0, 86_400, "from one keepalive ping to the next; 0 sends none"),
        ("--ping-timeout", d.ping_timeout_s, 0, 86_400, "time for the reply to a ping; 0 waits for ever"),
        ("--drain", d.drain_s, 0, 3_600, "time for connections to leave after SIGTERM"),
    )
    for name, seconds, least, most, text in times:
        group.add_argument(name, type=_seconds(least, most), default=seconds, metavar="S", help=f"{text} (default: {seconds:g} s)")


def parse_options(arguments: Sequence[str] | None = None) -> Launch:
    """Read the command line; exits with status 2 and one sentence if it is wrong. Raises `OptionError`."""
    options = build_parser().parse_args(arguments)
    chosen = {name: getattr(options, f"plan_{name}", None) for name in PARAMETERS}
    # As an option the seed is the server's, from which each connection gets its own; only a query pins a connection's.
    seed = chosen.pop("seed")
    words = _words(options.text_file)
    # A text is told to its end, and an upstream decides for itself how much it says.
    source = {"text": "file", "tokens": len(words)} if words else {"tokens": 0} if options.upstream is not None else {}
    plan = dataclasses.replace(Plan(), **{**source, **{name: value for name, value in chosen.items() if value is not None}})
    if plan.text == "file" and not words:
        raise OptionError("--text file needs the text: --text-file FILE")
    if options.upstream is not None and importlib.util.find_spec("aiohttp") is None:
        raise OptionError("--upstream needs the package aiohttp: pip install aiohttp")
    if words and options.upstream is not None:
        raise OptionError("--text-file and --upstream are two sources for one answer; choose one")
    if options.upstream is not None and (unfit := find_unfit(plan, Plan())) is not None:
        raise OptionError(f"{PARAMETERS[unfit].option} belongs to schedules, and with --upstream answers are relayed")
    # The operator's own defaults are within the caps by definition, unless a cap says otherwise.
    caps = dict(DEFAULT_CAPS)
    for name, cap in DEFAULT_CAPS.items():
        caps[name] = max(cap, getattr(plan, name) or 0)
    for name, cap in options.cap:
        caps[name] = cap
        value = getattr(plan, name)
        if value is not None and value > cap:
            raise OptionError(f"{PARAMETERS[name].option} {value:g} is over its own cap, --cap {name}={cap:g}; set both")
    settings = Settings(
        plan=plan,
        caps=caps,
        seed=_DEFAULTS.seed if seed is None else seed,
        max_connections=options.max_connections,
        max_per_address=options.max_per_address,
        max_text_bytes=options.max_text_bytes,
        write_buffer_bytes=options.write_buffer_bytes,
        ack_timeout_s=options.ack_timeout,
        open_timeout_s=options.open_timeout,
        close_timeout_s=options.close_timeout,
        message_timeout_s=options.message_timeout,
        ping_interval_s=options.ping_interval,
        ping_timeout_s=options.ping_timeout,
        drain_s=options.drain,
        backlog=options.backlog,
        origins=tuple(options.origin),
        tokens=_tokens(options.token_file),
        compression=options.compression,
        tls=_tls(options.certfile, options.keyfile),
        history=_writable(options.history),
        words=words,
        upstream=None
        if options.upstream is None
        else UpstreamSettings(options.upstream, options.upstream_model, os.environ.get(KEY_VARIABLE) or None, options.upstream_timeout),
        quiet=options.quiet,
    )
    ready_file: Path | None = options.ready_file
    if ready_file is not None and not os.access(ready_file.parent, os.W_OK | os.X_OK):
        raise OptionError(f"cannot write --ready-file {ready_file}: its folder does not exist or is not writable")
    return Launch(options.host, options.port, options.processes, options.uvloop, ready_file, settings)


def _tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None:
        if key is not None:
            raise OptionError("--keyfile is of no use without --certfile")
        return None
    try:
        return tls_context(certificate, key if key is not None else certificate)
    except ssl.SSLError as error:
        raise OptionError(
            f"{certificate} and {key or certificate} are not a certificate and its key (PEM): {error.reason or error}"
        ) from None
    except OSError as error:
        raise OptionError(f"cannot read {error.filename or certificate}: {error.strerror or error}") from None


def _tokens(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        return read_tokens(path)
    except OSError as error:
        raise OptionError(f"cannot read --token-file {path}: {error.strerror or error}") from None
    except ValueError as error:  # what is no UTF-8 is one
        reason = "it is no UTF-8 text" if isinstance(error, UnicodeError) else error
        raise OptionError(f"--token-file {path}: {reason}") from None


def _words(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        return read_words(path)
    except OSError as error:
        raise OptionError(f"cannot read --text-file {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise OptionError(f"--text-file {path} cannot be used: {error}") from None


def _writable(path: Path | None) -> Path | None:
    if path is not None:
        try:
            path.open("a").close()
        except OSError as error:
            raise OptionError(f"cannot write --history {path}: {error.strerror or error}") from None
    return path


__all__ = ["Launch", "OptionError", "ParameterError", "build_parser", "parse_options"]
