"""The table of metrics: name, unit, which direction is better, definition, source. Everything that shows a number reads it here.

``docs/metrics.md`` is generated from this table (``python -m loadtest.metrics``) and a test keeps the two equal.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher", "neither"]
Population = Literal["connection", "conversation", "token", "run"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured quantity; ``unit`` is the stored unit (``ns``, ``1`` for counts and shares, ``1/s`` for rates)."""

    name: str
    title: str
    unit: str
    better: Better
    population: Population
    definition: str
    source: str
    histogram: bool = False


METRICS: tuple[Metric, ...] = (
    Metric(
        "connect_time",
        "Connect",
        "ns",
        "lower",
        "connection",
        "start of the TCP connect to arrival of the complete handshake response (TCP, TLS and upgrade are also stored separately)",
        "connections.parquet",
        True,
    ),
    Metric(
        "send_delay",
        "Send delay",
        "ns",
        "lower",
        "conversation",
        "prompt sent minus due, due being the instant of the arrival schedule; open loop only",
        "conversations.parquet",
        True,
    ),
    Metric(
        "ttft",
        "Time to first token",
        "ns",
        "lower",
        "conversation",
        "prompt sent to arrival of the first non-empty token (service time)",
        "conversations.parquet",
        True,
    ),
    Metric(
        "ttft_due",
        "Time to first token from due",
        "ns",
        "lower",
        "conversation",
        "due to arrival of the first non-empty token (response time: what a user waited, free of coordinated omission); open loop only",
        "conversations.parquet",
        True,
    ),
    Metric(
        "e2e",
        "Conversation",
        "ns",
        "lower",
        "conversation",
        "prompt sent to arrival of the end message, conversations that ran to their own end",
        "conversations.parquet",
        True,
    ),
    Metric(
        "e2e_due",
        "Conversation from due",
        "ns",
        "lower",
        "conversation",
        "due to arrival of the end message, conversations that ran to their own end; open loop only",
        "conversations.parquet",
        True,
    ),
    Metric(
        "tpot",
        "Time per output token",
        "ns",
        "lower",
        "conversation",
        "(arrival of the last token minus arrival of the first) / (tokens - 1), conversations of two tokens or more",
        "conversations.parquet",
        True,
    ),
    Metric(
        "longest_stall",
        "Longest gap",
        "ns",
        "lower",
        "conversation",
        "the longest gap between two arrivals of tokens of a conversation, conversations of two messages or more",
        "conversations.parquet",
        True,
    ),
    Metric(
        "stalls",
        "Stalls",
        "1",
        "lower",
        "conversation",
        "gaps between arrivals of a conversation above the stated threshold (`--stall-ms`)",
        "conversations.parquet",
    ),
    Metric(
        "fluidity",
        "Fluidity",
        "1",
        "higher",
        "conversation",
        "share of a conversation's tokens that came by a reader's deadline: the first token `--reader-first-ms` after the prompt, then one "
        "every `--reader-gap-ms`; tokens that come early bank slack, and a late one puts all later deadlines off by its lateness "
        "(1 - late_tokens / tokens)",
        "conversations.parquet",
    ),
    Metric(
        "stop_latency",
        "Stop latency",
        "ns",
        "lower",
        "conversation",
        "stop sent to arrival of the end message; none when the end had already arrived as stop was sent (stop crossed)",
        "conversations.parquet",
        True,
    ),
    Metric(
        "overrun_tokens",
        "Overrun tokens",
        "1",
        "lower",
        "conversation",
        "tokens that arrived after stop was sent, a conversation",
        "conversations.parquet",
    ),
    Metric(
        "itl",
        "Inter-token latency",
        "ns",
        "lower",
        "token",
        "arrival of a token minus arrival of the one before it, every gap of every conversation of a run in which each message carried "
        "one token at most",
        "histograms.parquet",
        True,
    ),
    Metric(
        "inter_chunk",
        "Gap between messages",
        "ns",
        "lower",
        "token",
        "arrival of a message with tokens minus arrival of the one before it, in a run in which any message carried several tokens; it "
        "stands in place of itl there, which would depend on how the server cuts its answer",
        "histograms.parquet",
        True,
    ),
    Metric(
        "token_latency",
        "Token latency",
        "ns",
        "lower",
        "token",
        "acknowledgement that opened the window (of token k - W) sent to arrival of token k, only where the window was full "
        "(messages are counted, where one carries several tokens); on a server that paces its tokens it contains the pacing",
        "histograms.parquet",
        True,
    ),
    Metric(
        "receive_lag",
        "Receive lag",
        "ns",
        "lower",
        "token",
        "read by the generator minus arrival: the instrument's own lateness, token by token",
        "histograms.parquet",
        True,
    ),
    Metric(
        "coalesced",
        "Coalesced share",
        "1",
        "lower",
        "token",
        "share of messages that came in the same read as the one before; their gaps say nothing about the server",
        "intervals.parquet",
    ),
    Metric(
        "throughput_tokens",
        "Tokens per second",
        "1/s",
        "higher",
        "run",
        "tokens that arrived in the steady window, divided by its length",
        "intervals.parquet",
    ),
    Metric(
        "throughput_conversations",
        "Conversations per second",
        "1/s",
        "higher",
        "run",
        "conversations that ended well (completed or stopped) and started in the steady window, divided by its length",
        "conversations.parquet",
    ),
    Metric(
        "goodput",
        "Goodput",
        "1/s",
        "higher",
        "run",
        "conversations started in the steady window that met every stated objective (`--slo`), divided by its length; failed, empty and "
        "dropped ones never do, tainted ones are not counted; also as the share of those of which it is known",
        "conversations.parquet",
    ),
    Metric(
        "fairness",
        "Fairness",
        "1",
        "higher",
        "run",
        "Jain's index of tokens a second over the conversations that stream through a whole interval, in intervals of ten typical gaps or "
        "more: 1 when all get the same, 1/n when one of n gets all",
        "fairness.parquet",
    ),
    Metric(
        "connections_open",
        "Open connections",
        "1",
        "neither",
        "run",
        "connections open at the end of a second, summed over workers; the server's own count stands beside it",
        "intervals.parquet",
    ),
    Metric(
        "connections_streaming",
        "Streaming connections",
        "1",
        "neither",
        "run",
        "connections with a conversation in flight at the end of a second",
        "intervals.parquet",
    ),
)

BY_NAME = {metric.name: metric for metric in METRICS}
HISTOGRAMS = tuple(metric.name for metric in METRICS if metric.histogram)

OUTCOMES = {
    "completed": "the answer ran to its own end message",
    "stopped": "stop was sent and the end message came after it",
    "empty": "the end message came without a token: never counted as good",
    "failed": "an error ended it; the kind is in `error`",
    "abandoned": "cut by the end of the run: censored, neither good nor bad",
}
"""Every conversation row has exactly one of these. A conversation whose worker died has no row: it is counted as unknown."""

ERRORS = {
    "stalled": "nothing arrived for the stall timeout",
    "connection_lost": "the connection ended in mid-answer",
    "protocol_error": "the server broke the WebSocket protocol",
    "message_too_big": "a message was longer than the limit",
    "send_blocked": "the server stopped reading and our send queue reached its bound",
    "server_error": "the server reported an error in the stream",
}
"""Error kinds of failed conversations."""

WITHHELD, SLOW_READER = "withheld", "slow_reader"
BEHAVIOURS = {
    WITHHELD: "its user stopped to acknowledge, on purpose",
    SLOW_READER: "its user read so many bytes a second and no more, on purpose",
}
"""Conversations that are kept out of the figures because their users misbehaved as they were told: ``taint`` says which."""

CONNECT_ERRORS = {
    "dns_error": "the host name did not resolve",
    "refused": "the TCP connection was refused",
    "connect_timeout": "no complete handshake within the connect timeout",
    "unreachable": "no route to the host",
    "reset": "the peer reset the connection during the handshake",
    "tls_error": "the TLS handshake failed",
    "handshake_status": "the server answered the upgrade with another HTTP status than 101",
    "handshake_invalid": "the answer to the upgrade was no valid WebSocket handshake",
    "generator_limit": "this machine ran out of descriptors or ports: our fault, not the target's",
}
"""Error kinds of failed connects."""

# Smallest number of independent samples for which the percentile's estimate is early-stopping safe at 99 % confidence
# (MLPerf Inference rules, early stopping criterion).
MINIMUM_SAMPLES = {0.5: 11, 0.9: 64, 0.95: 130, 0.99: 662, 0.999: 6636}
MINIMUM_CONVERSATIONS = 30
"""Token percentiles need at least this many conversations: tokens of one conversation are correlated."""

_UNITS = {"ns": "ns", "1": "count or share", "1/s": "per second"}
_BETTER = {"lower": "lower is better", "higher": "higher is better", "neither": "a state, neither good nor bad"}
_POPULATIONS: tuple[tuple[Population, str], ...] = (
    ("connection", "Per connection"),
    ("conversation", "Per conversation"),
    ("token", "Per token"),
    ("run", "Of the whole run"),
)


def describe() -> str:
    """The text of ``docs/metrics.md``, in Markdown."""
    parts = [_INTRODUCTION]
    for population, title in _POPULATIONS:
        parts.append(f"## {title}\n\n| name | what it is | unit | direction | stored in |\n|---|---|---|---|---|\n")
        parts += [
            f"| `{m.name}` | **{m.title}**: {m.definition} | {_UNITS[m.unit]} | {_BETTER[m.better]} | `{m.source}` |\n"
            for m in METRICS
            if m.population == population
        ]
        parts.append("\n")
    for title, sentence, table in (
        ("Outcomes", "Every conversation has exactly one.", OUTCOMES),
        ("Errors of conversations", "The kind of a failed conversation.", ERRORS),
        ("Conversations set apart on purpose", "`taint` of conversations by users that misbehave as they were told.", BEHAVIOURS),
        ("Errors of connects", "The kind of a connect that failed.", CONNECT_ERRORS),
    ):
        parts.append(f"## {title}\n\n{sentence}\n\n| name | meaning |\n|---|---|\n")
        parts += [f"| `{name}` | {meaning} |\n" for name, meaning in table.items()]
        parts.append("\n")
    parts.append(_PERCENTILES + "| percentile | independent samples needed |\n|---|---|\n")
    parts += [f"| p{100 * q:g} | {n} |\n" for q, n in MINIMUM_SAMPLES.items()]
    return "".join(parts)


_INTRODUCTION = """# Metrics

<!-- Written by `python -m loadtest.metrics`; change the table there. -->

Tools disagree on what words like "inter-token latency" mean, so every number is published with its definition. *Arrival* is the
instant at which the kernel had the data, not the one at which the program read it; where the kernel gives no stamp the time of reading
is used, and the run says so (`clock: user`). Durations are stored in nanoseconds; reports show milliseconds.

Names ending in `_due` count from the instant at which the arrival schedule wanted the conversation to start. They are what a user
waited, free of coordinated omission, and exist only in an open loop: in a closed loop they are absent, never a copy.

Acknowledged streams: the server's next token may wait for our acknowledgement, so `itl`, `tpot` and `e2e` contain our own delay.
`receive_lag` says how large it is and stands beside them in every report.

"""

_PERCENTILES = f"""## Percentiles

Nearest rank, on rows or on merged histograms (relative error at most 0.1 %); histograms are merged, percentiles never are. A percentile
is shown only when enough independent samples stand behind it (MLPerf Inference's early-stopping criterion at 99 % confidence), else as
`n/a (120 of 662)`. For metrics of conversations each conversation is a sample. Tokens of one conversation are alike, so token metrics
count the effective number, n divided by the design effect of whole conversations, and need at least {MINIMUM_CONVERSATIONS} conversations.

Conversations that were stopped before their first token, or cut before their end, are *censored* for `ttft` and `e2e`: their share is
shown, and no percentile that they could move by more than 1 %.

"""


if __name__ == "__main__":
    sys.stdout.write(describe())
