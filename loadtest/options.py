"""The options of a load test: their names, defaults and help."""

from __future__ import annotations

import os
from typing import Any

from server.workloads import WORKLOADS

from .adapter import SHIPPED
from .schedule import PROFILES, SPACINGS
from .trace import SPREADS, UNITS
from .yardsticks import add_options as add_yardsticks

SHAPE_NAMES = ("none", "steps", "ramp", "spike", "soak", "sawtooth", "storm")
DRAIN_S = 5.0
"""How long conversations in flight may go on after the end of a run before they are cut, unless --stop-timeout says otherwise."""


def add_options(parser: Any) -> None:
    """Add every option to Locust's parser. No digit in a name and no list: Locust's web form would lose them."""
    add = parser.add_argument
    add("--adapter", default="typewriter", help=f"the target's protocol: {', '.join(SHIPPED)}, module:Class or path/to/file.py:Class")
    add("--adapter-file", default="", help="TOML or JSON with the adapter's own options, and perhaps its name, in a table [adapter]")
    add("--tokens", type=int, default=0, help="tokens an answer, asked of a reference server by query; 0 = the server's own default")
    add("--gap-ms", type=float, default=-1.0, help="gap between tokens asked of a reference server; 0 = unpaced, -1 = its default")
    add("--ttft-ms", type=float, default=-1.0, help="time to first token asked of a reference server; -1 = its default")
    add("--window", type=int, default=1, help="tokens the server sends ahead of acknowledgements; 0 = no acknowledgements")
    add("--server-query", default="", help="further query of the reference server, as name=value&name=value")
    add("--loop", choices=["closed", "open"], default="closed", help="closed: users go on when answered; open: starts are due")
    add("--rate", type=float, default=10.0, help="open loop: conversations per second in all")
    add("--arrivals", choices=list(SPACINGS), default="constant", help="open loop: how arrivals are spaced")
    add("--burstiness", type=float, default=1.0, help="gamma: the shape; 1 = poisson, below 1 arrivals come in bursts, above 1 more evenly")
    add("--free-count", action="store_true", default=False, help="drawn arrivals: leave to chance also how many come in all")
    add("--workload", choices=["none", *WORKLOADS], default="none", help="lengths of prompts and answers, and gaps, of real conversations")
    add("--trace-file", default="", help="arrivals trace: a recorded trace, CSV or JSON lines (docs/scenarios.md)")
    add("--trace-speed", type=float, default=1.0, help="replay the trace so many times as fast; below 1 slower")
    add("--trace-start", type=float, default=0.0, help="begin so many seconds into the trace")
    add("--trace-repeat", action="store_true", default=False, help="begin the trace again when it has ended")
    add("--trace-unit", choices=["auto", *UNITS], default="auto", help="unit of the trace's times; auto: by the column's name")
    add("--trace-spread", choices=list(SPREADS), default="random", help="where in its tick an arrival of a coarsely timed trace comes")
    add("--trace-tick-ms", type=float, default=-1.0, help="the trace's tick; -1: found out, 0: it has none")
    add("--bytes-per-token", type=float, default=4.0, help="length of generated prompts, where a workload or a trace says their tokens")
    add(
        "--answer-lengths",
        choices=["asked", "server"],
        default="asked",
        help="workload or trace: ask the target for that many tokens, or not",
    )
    add("--rate-profile", choices=list(PROFILES), default="flat", help="open loop: how the rate changes; from --rate to --peak-rate")
    add("--peak-rate", type=float, default=0.0, help="conversations per second at the end of a ramp, in a spike, at a sine's crest")
    add("--profile-start", type=float, default=0.0, help="seconds until a ramp or spike begins")
    add("--profile-length", type=float, default=60.0, help="seconds of a ramp or spike; the period (the day) of a sine")
    add("--when-full", choices=["late", "drop"], default="late", help="open loop: what becomes of an arrival that finds no free user")
    add("--patience", type=float, default=0.0, help="open loop: seconds after which a late arrival gives up, and is dropped; 0 = never")
    add("--think-time", type=float, default=0.0, help="closed loop: seconds between an answer and the next prompt")
    add("--conversations-per-connection", type=int, default=0, help="close and reconnect after so many; 0 = stay connected")
    add("--stop-share", type=float, default=0.0, help="share of the conversations that are stopped, 0 to 1")
    add("--stop-after-tokens", default="2-8", help="stop after a number of tokens drawn from A-B, and a drawn part of the gap after it")
    add("--stop-after-ms", default="", help="stop a time drawn from A-B milliseconds after the prompt, instead")
    add("--idle-share", type=float, default=0.0, help="share of the users that only hold a connection, 0 to 1")
    add("--withhold-share", type=float, default=0.0, help="share of the users that stop to acknowledge in every answer, 0 to 1")
    add("--withhold-after", type=int, default=0, help="so many tokens are acknowledged before that")
    add("--slow-share", type=float, default=0.0, help="share of the users that read slowly, so that the server has to wait, 0 to 1")
    add("--slow-rate", type=float, default=100.0, help="bytes a second that a slow reader reads")
    add("--connect-rate", type=float, default=0.0, help="connects per second in all, evenly paced; 0 = the spawn rate")
    add("--reconnect-backoff", type=float, default=0.5, help="seconds before another try after a failed connect, doubling")
    add("--prompts", default="", help="file of prompts, one a line; empty = generated ones")
    add("--prompt-bytes", type=int, default=32, help="length of generated prompts")
    add("--users-file", default="", help="CSV with a row a user: columns url, token, header:NAME")
    add("--header", default="", is_secret=True, help="extra headers of the handshake, as Name: value, several separated by |")
    add("--bearer-token", default="", is_secret=True, help="sent as Authorization: Bearer ...")
    add("--origin", default="", help="Origin header of the handshake")
    add("--subprotocol", default="", help="subprotocols to offer, separated by commas")
    add("--compression", action="store_true", default=False, help="offer permessage-deflate")
    add("--insecure", action="store_true", default=False, help="wss: do not verify the server's certificate")
    add("--ca-file", default="", help="wss: trust the authorities in this PEM file")
    add("--connect-timeout", type=float, default=10.0, help="seconds for TCP, TLS and the upgrade together")
    add("--stall-timeout", type=float, default=30.0, help="seconds without a message after which a conversation has failed")
    add("--max-message-bytes", type=int, default=1 << 20, help="longest message accepted")
    add("--fresh-masks", action="store_true", default=False, help="mask every frame afresh, which is slower")
    add("--source-address", default="", help="local addresses to connect from, separated by commas")
    add("--record-tokens", action="store_true", default=False, help="write a row for every token, with its text when the server traces")
    add("--trace", action="store_true", default=False, help="have a reference server name every token and record them all")
    add("--no-scrape", action="store_true", default=False, help="do not read the target's /metrics")
    add("--warm-up", type=float, default=2.0, help="seconds after the users are there that are left out of the figures")
    add("--steps", default="", help="ladder of users:seconds, separated by commas, such as 10:8,50:8")
    add_yardsticks(parser)
    add(
        "--load-shape",
        choices=list(SHAPE_NAMES),
        default="none",
        include_in_web_ui=False,
        help="users over time; at most -u, within -t",
    )
    add("--shape-base", type=int, default=0, help="load shape: users at the beginning, around a spike, between the teeth")
    add("--shape-start", type=float, default=0.0, help="load shape: seconds until a ramp or a spike begins")
    add("--shape-length", type=float, default=10.0, help="load shape: seconds of a ramp, of a spike, of a tooth")
    add("--seed", type=int, default=1, help="seed of everything that is drawn")
    add("--scenario-file", default="", include_in_web_ui=False, help="JSON that describes the scenario, kept in run.json")
    add("--runs-folder", default="runs", help="where run directories are made")
    add("--run-dir", default="", include_in_web_ui=False, help="this run's directory, which must not exist; empty = a new one by time")
    add("--channel-key", default=os.environ.get("STREAMGAUGE_CHANNEL_KEY", ""), is_secret=True, include_in_web_ui=False,
        help="a word that master and workers must share; better said in the environment, where no list of processes shows it")  # fmt: skip
    add("--worker-folder", default="", include_in_web_ui=False, help="where a worker keeps its record until the master has it")
    add("--metrics-port", type=int, default=0, include_in_web_ui=False, help="serve live figures for Prometheus on this port; 0 = no")
    add("--metrics-host", default="127.0.0.1", include_in_web_ui=False, help="address for --metrics-port")
