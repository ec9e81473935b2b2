"""The options of a load test, checked: one object made of them."""

from __future__ import annotations

import argparse
import ipaddress
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from websockets.exceptions import InvalidURI
from websockets.uri import WebSocketURI, parse_uri

from .adapter import HTTP, SHIPPED, WEBSOCKET, AdapterError, load_adapter, make_adapter, transport_of
from .adapter_table import read_adapter_file
from .arrivals import StopPlan
from .bounds import Bounds, check_choice
from .bounds import SettingsError as SettingsError  # noqa: PLC0414 - whoever reads settings may be told so
from .metrics import SLOW_READER, WITHHELD
from .options import SHAPE_NAMES
from .population import HEADER_NAME, MOST_PROMPT_BYTES, Person, PopulationError, Speech, read_people, read_prompts
from .schedule import SchedulePlan
from .schedule_settings import check_schedule, workload_of
from .yardsticks import YardstickError, Yardsticks, read_yardsticks

_SCHEMES = {WEBSOCKET: "ws:// or wss://", HTTP: "http:// or https://"}


IDLE = "idle"


@dataclass(frozen=True, slots=True)
class Step:
    """So many users for so many seconds."""

    users: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Settings:
    """The options, checked."""

    uri: WebSocketURI
    url: str
    adapter: str
    adapter_class: Any
    adapter_options: Mapping[str, Any]
    transport: str
    window: int
    open_loop: bool
    schedule: SchedulePlan
    drop_when_full: bool
    patience_s: float
    think_time_s: float
    conversations_per_connection: int
    stop: StopPlan
    expected_gap_s: float
    idle_share: float
    withhold_share: float
    withhold_after: int
    slow_share: float
    slow_bytes_per_s: float
    connect_rate_per_s: float
    reconnect_backoff_s: float
    speech: Speech
    people: tuple[Person, ...]
    headers: tuple[tuple[str, str], ...]
    origin: str | None
    subprotocols: tuple[str, ...]
    compression: bool
    tls: ssl.SSLContext | None
    connect_timeout_s: float
    stall_timeout_s: float
    max_message_bytes: int
    fresh_masks: bool
    source_addresses: tuple[str, ...]
    record_tokens: bool
    trace: bool
    scrape: bool
    warm_up_s: float
    steps: tuple[Step, ...]
    shape: str
    yardsticks: Yardsticks
    seed: int
    runs_folder: Path
    run_dir: Path | None
    scenario_file: Path | None
    metrics_port: int
    metrics_host: str

    @property
    def roles(self) -> tuple[tuple[str, float], ...]:
        """Which shares of the users do not converse as the others do."""
        return ((IDLE, self.idle_share), (WITHHELD, self.withhold_share), (SLOW_READER, self.slow_share))


def check_settings(options: argparse.Namespace, host: str | None) -> Settings:
    """Make ``Settings`` of Locust's parsed options and the host; SettingsError with one sentence for the first thing wrong."""
    low = Bounds(options)
    steps = _steps(options.steps)
    stop_share = low.share("stop_share")
    shares = sum(map(low.share, ("idle_share", "withhold_share", "slow_share")))
    if shares > 1 + 1e-9:
        raise SettingsError(f"expected --idle-share, --withhold-share and --slow-share of at most 1 together, got {shares:g}")
    adapter = _adapter(options, low.whole("window", 0, 1024))
    if options.withhold_share and (adapter.window == 0 or adapter.transport == HTTP):
        raise SettingsError("expected a protocol with acknowledgements (--window of at least 1) with --withhold-share, got one without")
    url = target_url(host, options, adapter.transport)
    people: tuple[Person, ...] = _file(read_people, options.users_file)
    for person in people:
        if person.url is not None:
            parse_target(person.url, adapter.transport)
    return Settings(
        uri=parse_target(url, adapter.transport),
        url=url,
        adapter=adapter.name,
        adapter_class=adapter.cls,
        adapter_options=adapter.options,
        transport=adapter.transport,
        window=adapter.window,
        open_loop=check_choice("loop", options.loop, ("closed", "open")) == "open",
        schedule=check_schedule(options),
        drop_when_full=check_choice("when-full", options.when_full, ("late", "drop")) == "drop",
        patience_s=low.number("patience"),
        think_time_s=low.number("think_time"),
        conversations_per_connection=low.whole("conversations_per_connection", 0),
        stop=StopPlan(
            stop_share,
            tokens=None if options.stop_after_ms else _range("stop-after-tokens", options.stop_after_tokens),
            after_ms=_range("stop-after-ms", options.stop_after_ms) if options.stop_after_ms else None,
        ),
        expected_gap_s=max(0.0, float(options.gap_ms)) / 1e3,
        idle_share=low.share("idle_share"),
        withhold_share=low.share("withhold_share"),
        withhold_after=low.whole("withhold_after", 0),
        slow_share=low.share("slow_share"),
        slow_bytes_per_s=low.number("slow_rate", above=0),
        connect_rate_per_s=low.number("connect_rate"),
        reconnect_backoff_s=low.number("reconnect_backoff"),
        speech=Speech(
            _file(read_prompts, options.prompts),
            low.whole("prompt_bytes", 1, MOST_PROMPT_BYTES),
            workload_of(options),
            low.number("bytes_per_token", above=0),
            _asks_by_prompt(options),
            options.answer_lengths == "asked",
        ),
        people=people,
        headers=_headers(options),
        origin=_one_line("origin", options.origin) or None,
        subprotocols=_words(options.subprotocol),
        compression=bool(options.compression),
        tls=_tls(url, options),
        connect_timeout_s=low.number("connect_timeout", above=0),
        stall_timeout_s=low.number("stall_timeout", above=0),
        max_message_bytes=low.whole("max_message_bytes", 1),
        fresh_masks=bool(options.fresh_masks),
        source_addresses=_addresses(options.source_address),
        record_tokens=bool(options.record_tokens or options.trace),
        trace=bool(options.trace),
        scrape=not options.no_scrape,
        warm_up_s=low.number("warm_up"),
        steps=steps,
        shape=_shape(options, low),
        yardsticks=_yardsticks(options),
        seed=low.whole("seed", 0),
        runs_folder=Path(options.runs_folder),
        run_dir=Path(options.run_dir) if options.run_dir else None,
        scenario_file=Path(options.scenario_file) if options.scenario_file else None,
        metrics_port=low.whole("metrics_port", 0, 65535),
        metrics_host=options.metrics_host,
    )


def target_url(host: str | None, options: argparse.Namespace, transport: str = WEBSOCKET) -> str:
    """The URL with what the options ask of a reference server added to its query; SettingsError without a usable host."""
    like = "http://127.0.0.1:8000/v1/chat/completions" if transport == HTTP else "ws://127.0.0.1:8001/ws"
    if not host:
        raise SettingsError(f"expected a target such as -H {like}, got none")
    try:
        parts = urlsplit(host)
    except ValueError as error:
        raise SettingsError(f"expected a {_SCHEMES[transport]} URL, got {host!r}: {error}") from None
    other = {"http": "ws", "https": "wss"} if transport == WEBSOCKET else {"ws": "http", "wss": "https"}
    if parts.scheme in other:
        meant = parts._replace(scheme=other[parts.scheme])
        speaks = "" if transport == WEBSOCKET else f", which the adapter {options.adapter} speaks"
        raise SettingsError(f"expected a {_SCHEMES[transport]} URL{speaks}, got {host!r}; try {urlunsplit(meant)}")
    query = parse_qsl(parts.query, keep_blank_values=True) + parse_qsl(options.server_query, keep_blank_values=True)
    low = Bounds(options)
    if tokens := low.whole("tokens", 0):
        query.append(("tokens", str(tokens)))
    for name in ("gap_ms", "ttft_ms"):
        if getattr(options, name) != -1:
            # As many digits as the server reads, and no exponent.
            query.append((name, f"{low.number(name):.9f}".rstrip("0").rstrip(".")))
    if options.window != 1 and transport == WEBSOCKET:
        query.append(("window", str(options.window)))
    if _asks_by_prompt(options) and (options.trace_file or workload_of(options)) and not any(name == "lengths" for name, _ in query):
        query.append(("lengths", "prompt"))
    return urlunsplit(parts._replace(path=parts.path or "/", query=urlencode(query), fragment=""))


def _asks_by_prompt(options: argparse.Namespace) -> bool:
    """Whether prompts begin with the number of tokens to answer with: a way of the reference protocol, and of no other."""
    asked = check_choice("answer-lengths", options.answer_lengths, ("asked", "server")) == "asked"
    return asked and options.adapter in ("typewriter", SHIPPED["typewriter"])


def parse_target(url: str, transport: str = WEBSOCKET) -> WebSocketURI:
    """The parts of a target's URL; SettingsError when it is none that the transport can reach."""
    try:
        scheme, separator, rest = url.partition("://")
        if transport == HTTP:
            if scheme.lower() not in ("http", "https") or not separator:
                raise ValueError(f"the scheme is {scheme!r}" if separator else "it has no scheme")
            # The parts of both kinds of URL are the same, and so are their default ports.
            return parse_uri(f"{'wss' if scheme.lower() == 'https' else 'ws'}://{rest}")
        return parse_uri(url)
    except (InvalidURI, ValueError) as error:
        raise SettingsError(f"expected a {_SCHEMES[transport]} URL, got {url!r}: {error}") from None


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The adapter that the options choose."""

    name: str
    cls: Any
    options: Mapping[str, Any]
    transport: str
    window: int


def _adapter(options: argparse.Namespace, window: int) -> _Chosen:
    """The adapter and its own options, tried once; SettingsError says what is wrong with them."""
    name = options.adapter or "typewriter"
    table: dict[str, Any] = {}
    try:
        if options.adapter_file:
            named, table = read_adapter_file(Path(options.adapter_file))
            if named is not None:
                if name not in ("typewriter", named):
                    raise AdapterError(f"expected one adapter, and --adapter says {name} where {options.adapter_file} says {named}")
                name = named
        cls = load_adapter(name)
        adapter = make_adapter(cls, {"window": window, **table})
    except AdapterError as error:
        raise SettingsError(str(error)) from None
    return _Chosen(name, cls, {"window": window, **table}, transport_of(adapter), getattr(adapter, "window", 0))


def _shape(options: argparse.Namespace, low: Bounds) -> str:
    low.whole("shape_base", 0)
    low.number("shape_start")
    low.number("shape_length", above=0)
    return check_choice("load-shape", options.load_shape, SHAPE_NAMES)


def _yardsticks(options: argparse.Namespace) -> Yardsticks:
    try:
        return read_yardsticks(options, open_loop=options.loop == "open")
    except YardstickError as error:
        raise SettingsError(str(error)) from None


def _range(name: str, text: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", text)
    if match is None:
        raise SettingsError(f"expected --{name} as a range such as 2-8, got {text!r}")
    low, high = int(match[1]), int(match[2] or match[1])
    if low > high:
        raise SettingsError(f"expected --{name} with the smaller number first, got {text!r}")
    return low, high


def _steps(text: str) -> tuple[Step, ...]:
    steps = []
    for part in _words(text):
        match = re.fullmatch(r"(\d{1,7}):(\d{1,6}(?:\.\d+)?)", part)
        if match is None or int(match[1]) < 1 or float(match[2]) <= 0:
            raise SettingsError(f"expected --steps as users:seconds such as 10:8,50:8, got {part!r}")
        steps.append(Step(int(match[1]), float(match[2])))
    return tuple(steps)


def _one_line(name: str, value: str) -> str:
    if any(c in value for c in "\r\n\0"):
        raise SettingsError(f"expected --{name} without line breaks, got some")
    return value


def _addresses(text: str) -> tuple[str, ...]:
    for part in _words(text):
        try:
            ipaddress.ip_address(part)
        except ValueError:
            raise SettingsError(f"expected --source-address as local IP addresses separated by commas, got {part!r}") from None
    return _words(text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _headers(options: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    headers = []
    for part in options.header.split("|"):
        if not part.strip():
            continue
        name, separator, value = part.partition(":")
        if not separator or HEADER_NAME.fullmatch(name.strip()) is None:
            raise SettingsError("expected --header as 'Name: value', got one without a name or a colon")
        headers.append((name.strip(), _one_line(f"header {name.strip()}", value.strip())))
    if options.bearer_token:
        _one_line("bearer-token", options.bearer_token)
        headers.append(("Authorization", f"Bearer {options.bearer_token}"))
    return tuple(headers)


def _tls(url: str, options: argparse.Namespace) -> ssl.SSLContext | None:
    if urlsplit(url).scheme not in ("wss", "https"):
        return None
    try:
        context = ssl.create_default_context(cafile=options.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"cannot read the authorities in {options.ca_file}: {error}") from None
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _file(read: Any, path: str) -> Any:
    if not path:
        return ()
    try:
        return read(Path(path))
    except PopulationError as error:
        raise SettingsError(str(error)) from None
