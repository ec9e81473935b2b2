"""What load is made and against what: the ``[load]`` and ``[target]`` of a scenario, and the command lines they become."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from .keys import ScenarioError, key, key_of, plain


@dataclass(frozen=True, slots=True)
class Stop:
    """Which conversations are stopped by the user, and when (``[load.stop]``)."""

    share: float = field(default=1.0, metadata=key("number", "share of the conversations that are stopped", "--stop-share", maximum=1))
    after_tokens: tuple[int, int] | None = field(
        default=None,
        metadata=key(
            "integers",
            "stop after a number of tokens drawn from here, plus a drawn share of the expected gap: between two tokens",
            "--stop-after-tokens",
            minimum=0,
        ),
    )
    after_ms: tuple[int, int] | None = field(
        default=None, metadata=key("integers", "stop after a time drawn from here, counted from the prompt", "--stop-after-ms", minimum=0)
    )


@dataclass(frozen=True, slots=True)
class Load:
    """What the generator does (``[load]``); an absent key leaves the generator's own default."""

    users: int | None = field(
        default=None, metadata=key("integer", "users in all; absent where `steps` says it", "--users", minimum=1, maximum=1_000_000)
    )
    spawn_rate: float | None = field(
        default=None, metadata=key("number", "users started a second; absent: all at once", "--spawn-rate", minimum=0.01)
    )
    run_time_s: int | None = field(
        default=None, metadata=key("integer", "how long load is made; absent where `steps` says it", "--run-time", minimum=1)
    )
    steps: tuple[tuple[int, float], ...] = field(
        default=(), metadata=key("steps", "a ladder of [users, seconds], instead of `users`, `spawn_rate` and `run_time_s`", "--steps")
    )
    warm_up_s: float = field(
        default=1.0, metadata=key("number", "how long after all users are there the figures begin; at each step of a ladder", "--warm-up")
    )
    loop: str = field(
        default="closed",
        metadata=key("text", "closed: a user waits for its answer; open: starts follow `rate_per_s`", "--loop", choices=("closed", "open")),
    )
    rate_per_s: float | None = field(
        default=None, metadata=key("number", "conversations started a second in all, open loop only", "--rate")
    )
    arrivals: str = field(
        default="constant",
        metadata=key(
            "text",
            "how open-loop starts are spaced",
            "--arrivals",
            choices=("constant", "poisson", "gamma", "workload", "trace"),
        ),
    )
    burstiness: float = field(
        default=1.0, metadata=key("number", "gamma: its shape; 1 is poisson, below 1 starts come in bursts", "--burstiness", minimum=0.001)
    )
    free_count: bool = field(default=False, metadata=key("flag", "drawn starts: leave to chance also how many there are", "--free-count"))
    rate_profile: str = field(
        default="flat",
        metadata=key("text", "how the rate changes with time", "--rate-profile", choices=("flat", "ramp", "spike", "sine")),
    )
    peak_rate_per_s: float | None = field(
        default=None, metadata=key("number", "rate at the end of a ramp, in a spike, at the crest of a sine", "--peak-rate")
    )
    profile_start_s: float = field(default=0.0, metadata=key("number", "when a ramp or a spike of the rate begins", "--profile-start"))
    profile_length_s: float = field(
        default=60.0,
        metadata=key("number", "how long a ramp or spike of the rate lasts; the period of a sine", "--profile-length", minimum=0.001),
    )
    patience_s: float = field(
        default=0.0, metadata=key("number", "how long a late start waits before it is dropped; 0: for ever", "--patience")
    )
    workload: str = field(
        default="none",
        metadata=key(
            "text", "lengths of prompts and answers, and gaps, of real conversations", "--workload", choices=("none", "chat", "code")
        ),
    )
    trace_file: str | None = field(default=None, metadata=key("file", "a recorded trace, CSV or JSON lines", "--trace-file"))
    trace_speed: float = field(
        default=1.0, metadata=key("number", "so many times as fast is the trace replayed", "--trace-speed", minimum=0.0001)
    )
    trace_start_s: float = field(default=0.0, metadata=key("number", "where in the trace the replay begins", "--trace-start"))
    trace_repeat: bool = field(default=False, metadata=key("flag", "begin the trace again when it has ended", "--trace-repeat"))
    trace_unit: str = field(
        default="auto",
        metadata=key("text", "unit of the trace's times; auto: by its column", "--trace-unit", choices=("auto", "s", "ms", "us", "ns")),
    )
    trace_spread: str = field(
        default="random",
        metadata=key("text", "where in its tick a start of a coarse trace comes", "--trace-spread", choices=("random", "even", "none")),
    )
    trace_tick_ms: float | None = field(
        default=None, metadata=key("number", "the trace's tick, 0: none; absent: found out", "--trace-tick-ms")
    )
    bytes_per_token: float = field(
        default=4.0, metadata=key("number", "length of a generated prompt a token that is said", "--bytes-per-token", minimum=0.001)
    )
    answer_lengths: str = field(
        default="asked",
        metadata=key("text", "whether the target is asked for the lengths that are said", "--answer-lengths", choices=("asked", "server")),
    )
    when_full: str = field(
        default="late",
        metadata=key("text", "what becomes of a start that finds no free user", "--when-full", choices=("late", "drop")),
    )
    think_time_s: float = field(default=0.0, metadata=key("number", "pause between two conversations of a user", "--think-time"))
    conversations_per_connection: int = field(
        default=0,
        metadata=key("integer", "conversations before a user reconnects; 0: all on one connection", "--conversations-per-connection"),
    )
    tokens: int = field(default=0, metadata=key("integer", "tokens an answer; 0 leaves it to the server", "--tokens", maximum=10_000_000))
    gap_ms: float | None = field(
        default=None, metadata=key("number", "time between two tokens; 0: none; absent leaves it to the server", "--gap-ms")
    )
    ttft_ms: float | None = field(
        default=None, metadata=key("number", "time to the first token; absent leaves it to the server", "--ttft-ms")
    )

    window: int = field(
        default=1,
        metadata=key("integer", "unacknowledged tokens the server may have under way; 0: no acknowledgements", "--window", maximum=1024),
    )
    query: tuple[tuple[str, str], ...] = field(
        default=(), metadata=key("query", "more query parameters for the server (`[load.query]`)", "--server-query")
    )
    stop: Stop | None = field(default=None, metadata=key("table", "stops by the user (`[load.stop]`)"))
    idle_share: float = field(
        default=0.0, metadata=key("number", "share of the users that only hold a connection", "--idle-share", maximum=1)
    )
    withhold_share: float = field(
        default=0.0, metadata=key("number", "share of the users that stop to acknowledge in every answer", "--withhold-share", maximum=1)
    )
    withhold_after: int = field(default=0, metadata=key("integer", "so many tokens they acknowledge before", "--withhold-after"))
    slow_share: float = field(
        default=0.0, metadata=key("number", "share of the users that read slowly: the server has to wait", "--slow-share", maximum=1)
    )
    slow_bytes_per_s: float = field(default=100.0, metadata=key("number", "what a slow reader reads", "--slow-rate", minimum=0.1))
    shape: str = field(
        default="none",
        metadata=key(
            "text",
            "how many users there are over time, `users` at most",
            "--load-shape",
            choices=("none", "steps", "ramp", "spike", "soak", "sawtooth", "storm"),
        ),
    )
    shape_base: int = field(default=0, metadata=key("integer", "users at the beginning, around a spike, between the teeth", "--shape-base"))
    shape_start_s: float = field(default=0.0, metadata=key("number", "when a ramp or a spike of users begins", "--shape-start"))
    shape_length_s: float = field(
        default=10.0, metadata=key("number", "how long a ramp, a spike, a tooth of users lasts", "--shape-length", minimum=1)
    )
    connect_rate_per_s: float = field(
        default=0.0, metadata=key("number", "connects a second in all, evenly paced; 0: the spawn rate", "--connect-rate")
    )
    prompts: str | None = field(default=None, metadata=key("file", "prompts, one a line", "--prompts"))
    prompt_bytes: int | None = field(
        default=None, metadata=key("integer", "length of a generated prompt", "--prompt-bytes", minimum=1, maximum=1 << 16)
    )
    users_file: str | None = field(default=None, metadata=key("file", "headers, tokens and URLs of single users (CSV)", "--users-file"))
    source_addresses: tuple[str, ...] = field(
        default=(), metadata=key("addresses", "local addresses to connect from in turn; each has its own ports", "--source-address")
    )
    compression: bool = field(default=False, metadata=key("flag", "ask the server for permessage-deflate", "--compression"))
    connect_timeout_s: float | None = field(
        default=None, metadata=key("number", "how long a connect may take", "--connect-timeout", minimum=0.1)
    )
    stall_timeout_s: float | None = field(
        default=None, metadata=key("number", "silence after which a conversation counts as stalled", "--stall-timeout", minimum=0.1)
    )
    slo: tuple[str, ...] = field(
        default=(), metadata=key("limits", "what a conversation has to keep to count for goodput (`[load.slo]`)", "--slo")
    )
    stall_ms: float | None = field(
        default=None, metadata=key("number", "a longer gap between two tokens is a stall; absent: a second, or three gaps", "--stall-ms")
    )
    reconnect_backoff_s: float | None = field(default=None, metadata=key("number", "first pause before a reconnect", "--reconnect-backoff"))
    record_tokens: bool = field(default=False, metadata=key("flag", "write one row a token", "--record-tokens"))
    processes: int = field(default=1, metadata=key("integer", "processes of the generator", "--processes", minimum=1, maximum=1024))
    stop_timeout_s: int = field(
        default=5, metadata=key("integer", "how long conversations in flight may finish at the end", "--stop-timeout")
    )

    @property
    def seconds(self) -> float:
        """How long load is made."""
        return sum(seconds for _, seconds in self.steps) if self.steps else (self.run_time_s or 0.0)

    @property
    def users_max(self) -> int:
        """The largest number of users."""
        return max((users for users, _ in self.steps), default=self.users or 0)

    @property
    def query_pairs(self) -> tuple[tuple[str, str], ...]:
        """What the generator asks of the server by the query of its URL."""
        asked = {"tokens": self.tokens or None, "gap_ms": self.gap_ms, "ttft_ms": self.ttft_ms, "window": self.window}
        return (*((name, plain(value)) for name, value in asked.items() if value is not None), *self.query)

    def options(self) -> list[str]:
        """The generator's command line for this load: every key that has a value, so that its own defaults change nothing."""
        out: list[str] = []
        for one in dataclasses.fields(self):
            held, value = key_of(one), getattr(self, one.name)
            if held.option is None or value is None or value == ():
                continue
            if one.name == "processes" and value == 1:
                # With one Locust would still start a master and a worker beside it.
                continue
            if held.kind == "flag":
                out += [held.option] if value else []
            elif held.kind == "query":
                out.append(f"{held.option}={urlencode(value)}")
            elif held.kind in ("addresses", "limits"):
                out.append(f"{held.option}={','.join(value)}")
            elif held.kind == "steps":
                out.append(f"{held.option}=" + ",".join(f"{users}:{plain(seconds)}" for users, seconds in value))
            else:
                # "=" and not a word of its own: a value may begin with "-".
                out.append(f"{held.option}={plain(value)}" + ("s" if one.name == "run_time_s" else ""))
        if self.spawn_rate is None:
            # A step of a ladder, too, is to be there at once: the connects are paced evenly over a second at most.
            out.append(f"--spawn-rate={self.users_max}")
        if self.stop is not None:
            for one in dataclasses.fields(self.stop):
                held, value = key_of(one), getattr(self.stop, one.name)
                if value is not None:
                    out.append(f"{held.option}=" + ("-".join(map(plain, value)) if isinstance(value, tuple) else plain(value)))
        return out


DOORS: Final[Mapping[str, tuple[str, str]]] = {
    "websocket": ("server", ""),
    "events": ("server.fastapi_app", "/sse?prompt=hello"),
    "completions": ("server.fastapi_app", "/v1/chat/completions"),
}
"""What the reference server is asked by, to the module that is started and where it is asked; the WebSocket's path it says itself."""


@dataclass(frozen=True, slots=True)
class Target:
    """How the reference server is started (``[target]``); not used when somebody else's server is driven."""

    processes: int = field(default=1, metadata=key("integer", "processes of the server on one port", "--processes", minimum=1, maximum=256))
    options: tuple[tuple[str, str], ...] = field(
        default=(), metadata=key("query", "more options of `python -m server` by their names without the dashes")
    )
    speaks: str = field(
        default="websocket",
        metadata=key(
            "text",
            "what it is asked by; events and completions: `server.fastapi_app`, over HTTP, which an `[adapter]` has to speak",
            choices=tuple(DOORS),
        ),
    )

    @property
    def module(self) -> str:
        """What is started: ``python -m MODULE``."""
        return DOORS[self.speaks][0]

    def url(self, listening: str) -> str:
        """The target's URL, made of the WebSocket's, which the server says as it begins to listen."""
        _, path = DOORS[self.speaks]
        return f"http://{urlsplit(listening).netloc}{path}" if path else listening

    def arguments(self) -> list[str]:
        """The server's options for this target."""
        out = [] if self.processes == 1 else [f"--processes={self.processes}"]
        for name, value in self.options:
            out.append(f"--{name.replace('_', '-')}" + ("" if value == "true" else f"={value}"))
        return out


def contradiction(load: Load, given: Collection[str]) -> str | None:
    """What two keys say against each other, or None."""
    both = sorted({"users", "spawn_rate", "run_time_s"} & set(given))
    if load.steps and both:
        return f"load.steps says users and times by itself, so expected no load.{both[0]} beside it"
    if not load.steps and load.users is None:
        return "expected load.users (and load.run_time_s), or load.steps"
    if not load.steps and load.run_time_s is None:
        return "expected load.run_time_s beside load.users: a scenario ends by itself"
    if load.warm_up_s >= load.seconds:
        return f"load.warm_up_s: expected less than the {plain(load.seconds)} s of load, found {plain(load.warm_up_s)}"
    if load.loop == "open" and load.rate_per_s is None and load.arrivals != "trace":
        return "expected load.rate_per_s with the open loop"
    if load.loop == "open" and not load.rate_per_s and not load.peak_rate_per_s and load.arrivals != "trace":
        return "load.rate_per_s: expected a number above 0, found 0"
    if load.rate_profile != "flat" and load.peak_rate_per_s is None:
        return f'expected load.peak_rate_per_s with load.rate_profile = "{load.rate_profile}"'
    if (load.arrivals == "trace") != (load.trace_file is not None):
        return 'expected load.trace_file with load.arrivals = "trace", and only with it'
    if load.arrivals == "trace" and load.loop != "open":
        return 'load.arrivals = "trace" needs load.loop = "open"'
    if load.arrivals == "workload" and load.workload == "none":
        return 'load.arrivals = "workload" needs load.workload'
    if load.shape != "none" and load.steps and load.shape != "steps":
        return 'load.steps: expected only with load.shape = "steps", or without a shape'
    if load.loop == "closed" and load.rate_per_s is not None:
        return 'load.rate_per_s needs load.loop = "open": a closed loop has no rate of its own'
    due = [limit for limit in load.slo if limit.startswith(("ttft_due", "e2e_due", "send_delay"))]
    if load.loop == "closed" and due:
        return f'load.slo: {due[0]} needs load.loop = "open": in a closed loop nothing is due'
    if load.stop is not None and load.stop.share > 0 and (load.stop.after_tokens is None) == (load.stop.after_ms is None):
        return "load.stop: expected either after_tokens or after_ms"
    return None


def override(load: Load, changes: Mapping[str, Any]) -> Load:
    """``load`` with other values from the command line; ScenarioError when they contradict it.

    A ladder keeps its shape: another number of users or another time scales its steps to that highest number and that total.
    """
    changes = dict(changes)
    if load.steps and (users := changes.pop("users", None)) is not None:
        factor = users / load.users_max
        load = dataclasses.replace(load, steps=tuple((max(1, round(step * factor)), seconds) for step, seconds in load.steps))
    if load.steps and (seconds := changes.pop("run_time_s", None)) is not None:
        factor = seconds / load.seconds
        load = dataclasses.replace(load, steps=tuple((step, round(length * factor, 3)) for step, length in load.steps),
                                   warm_up_s=round(load.warm_up_s * factor, 3))  # fmt: skip
    if load.steps:
        changes.pop("spawn_rate", None)
    elif "run_time_s" in changes and "warm_up_s" not in changes and load.warm_up_s >= changes["run_time_s"]:
        changes["warm_up_s"] = round(load.warm_up_s * changes["run_time_s"] / load.seconds, 3)
    changed = dataclasses.replace(load, **changes)
    if message := contradiction(changed, set()):
        raise ScenarioError(message)
    return changed
