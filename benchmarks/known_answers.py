"""The parts of a calibration: what is asked of a server, and the figures that the harness must then read. Pure: no process, no clock.

What is true is what the server did, by its own send stamps and counters, not what it was asked to do: on a busy machine its timers
are late, and a harness that reads 23 ms then is right. Three kinds of doubt are in the bounds, and nothing else:
the server may be interrupted between reading its clock and the kernel's stamp (``SEND_NS``, and ``DISTURBED`` of all tokens more than
that); histograms have a relative error (``HISTOGRAM``); two clocks are read one after the other (``CLOCKS_NS``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .figure import Figure, exact
from .reading import Floats, Reading, quantile, spread

SEND_NS: Final = 150_000
"""From the server's clock read to the kernel's stamp the reference server builds a frame and makes a system call: about 10 us (p50) on
two shared cores, up to 76 us (p99) with two busy loops beside it; the rest is room for a slower machine."""
DISTURBED: Final = 0.003
"""Share of the tokens whose send the scheduler may have interrupted, so that a percentile of the readings may be one of the true values
that far from it in rank. In twelve calibrations on two shared cores, four of them with two busy loops, it was 0.12 % at most."""
MOVED: Final = 0.0005
"""Share of the gaps that such a send may have moved across a threshold: seen were none above it, and one in 12 000 below."""
HISTOGRAM: Final = 0.001
"""Relative error of the histograms (``loadtest.histogram``)."""
CLOCKS_NS: Final = 20_000
"""Reading two clocks one after the other, twice: well below a microsecond; a slow machine may need a few."""
WAKE_NS: Final = 2_000_000
"""The promptest of some hundred wake-ups comes within this even on a machine with other work."""
ROUND_NS: Final = 3_000_000
"""Within this the reference server comes round its loop in at least half of the cases, also when it shares its processor: a turn takes
it 0.2 to 0.8 ms, and another program that is let in between takes a time slice, about 3 ms."""
BURST_NS: Final = 10_000_000
"""Half of the gap that is asked for: a shorter gap belongs to a burst."""
STALL_NS: Final = 70_000_000
"""Half-way between the gap that is asked for and a gap with a stall: a longer gap is a stall."""
SIGMAS: Final = 4.0
"""A share that is drawn lies within this many standard deviations of what was asked for, but for once in 16 000 calibrations."""

GAP_MS: Final = 20
FIRST_MS: Final = 50
STALL_SHARE: Final = 0.02
STALL_MS: Final = 100
BUSY_US: Final = 10_000
STEPS: Final = (12, 18)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about the server from outside the harness: how far its counters grew over the run, and what else was seen."""

    grown: Mapping[str, int]
    seen: Mapping[str, float]
    gauges: Sequence[tuple[str, float, float]] = ()
    """(name, as the generator has it, as the server and the kernel have it) of every second in which the truth did not change."""


@dataclass(frozen=True, slots=True)
class Part:
    """One run with known answers. ``options`` are the generator's; ``server`` is reference or null."""

    name: str
    title: str
    asked: str
    server: str
    users: int
    seconds: float
    options: tuple[str, ...]
    judge: Callable[[Part, Reading, Evidence], list[Figure]]

    @property
    def traced(self) -> bool:
        """Whether the server keeps a history of it."""
        return "--trace" in self.options


def _percentile(
    part: Part, name: str, title: str, read: float | None, populations: Sequence[Floats], q: float, truth: str, room_ns: float = SEND_NS
) -> Figure:
    true, low, high = spread(populations, q, DISTURBED)
    why = (
        f"±{room_ns / 1e6:g} ms for the server's own way from its clock to the kernel, {HISTOGRAM:.1%} for the histogram, "
        f"{DISTURBED:.1%} in rank for sends that were interrupted"
    )
    bounds = (low * (1 - HISTOGRAM) - room_ns, high * (1 + HISTOGRAM) + room_ns)
    return Figure(part.name, name, title, "ns", read, true, *bounds, truth, why)


def _gaps(part: Part, reading: Reading, q: float, title: str) -> Figure:
    gaps = reading.read_tokens("itl")
    truth = "gaps between the server's send stamps, same seconds"
    return _percentile(part, f"gap_p{q * 100:g}", title, gaps.quantile(q), reading.true_gaps(), q, truth)


def _lateness(part: Part, reading: Reading) -> list[Figure]:
    """How long after the server's stamp a token arrived, by our stamp."""
    late = (reading.tokens["arrival_ns"] - reading.tokens["sent_ns"]).to_numpy(dtype=np.float64)
    truth = "a token is in the receiver's kernel within the server's own send call"
    least = float(late.min()) if len(late) else None
    rows = (
        ("stamp_least", "Stamp after sending, least", least, SEND_NS, "no token arrives before it is sent"),
        ("stamp_p50", "Stamp after sending, p50", quantile(late, 0.5), SEND_NS, "what the server needs to make and send a frame"),
        ("stamp_p99", "Stamp after sending, p99", quantile(late, 0.99), 10 * SEND_NS, "the same when other work comes between"),
    )  # fmt: skip
    return [
        Figure(part.name, name, title, "ns", read, 0.0, -CLOCKS_NS, high, truth, f"{why}; clocks within {CLOCKS_NS / 1e3:g} us")
        for name, title, read, high, why in rows
    ]


def judge_paced(part: Part, reading: Reading, evidence: Evidence) -> list[Figure]:
    """Time to first token, gaps, stamps."""
    first = reading.read_conversations("ttft")
    rows = reading.clean_conversations()
    rows = rows[rows["first_sent_ns"].notna()]
    true = (rows["first_sent_ns"] - rows["sent_at_ns"]).to_numpy(dtype=np.float64)
    truth = "the server's stamp of the first token, less the instant the prompt was sent"
    figures = [
        _percentile(part, f"ttft_p{q * 100:g}", f"Time to first token, p{q * 100:g}", first.quantile(q), (true,), q, truth)
        for q in (0.5, 0.9)
    ]
    asked = FIRST_MS * 1e6
    figures.append(
        Figure(
            part.name,
            "ttft_least",
            "Time to first token, least",
            "ns",
            first.minimum if first.n else None,
            asked,
            asked - CLOCKS_NS,
            asked + WAKE_NS,
            f"the server waits {FIRST_MS} ms from when it has the prompt",
            "less: the prompt was stamped after it had been sent; more: long before; the server's most punctual timer is not so late",
        )
    )
    return [*figures, _gaps(part, reading, 0.5, "Gap, p50"), _gaps(part, reading, 0.99, "Gap, p99"), *_lateness(part, reading)]


def _count_gaps(part: Part, reading: Reading, name: str, title: str, above: bool, threshold_ns: float) -> Figure:
    """How many gaps of the whole run lie above (or below) a threshold, in the histograms and between the server's stamps."""
    sample = reading.read_all_tokens("itl")
    inside = sample.values > threshold_ns if above else sample.values < threshold_ns
    true_gaps = reading.tokens["sent_gap_ns"].dropna().to_numpy(dtype=np.float64)
    true = int((true_gaps > threshold_ns if above else true_gaps < threshold_ns).sum())
    doubtful = int((np.abs(true_gaps - threshold_ns) <= SEND_NS + HISTOGRAM * threshold_ns).sum())
    slack = doubtful + math.ceil(MOVED * len(true_gaps))
    why = f"{doubtful} true gaps lie at the threshold itself; a gap elsewhere is moved across it by an interrupted send once in 2 000"
    truth = f"gaps between the server's stamps {'above' if above else 'below'} {threshold_ns / 1e6:g} ms"
    return exact(part.name, name, title, int(sample.counts[inside].sum()), true, truth, why, slack)


def judge_stalls(part: Part, reading: Reading, evidence: Evidence) -> list[Figure]:
    """Injected stalls: how many, how long, and what follows them."""
    stalls = _count_gaps(part, reading, "stalls", "Stalls", above=True, threshold_ns=STALL_NS)
    bursts = _count_gaps(part, reading, "burst_gaps", "Gaps within a burst", above=False, threshold_ns=BURST_NS)
    drawn = int(reading.tokens["sent_gap_ns"].notna().sum())
    doubt = SIGMAS * math.sqrt(STALL_SHARE * (1 - STALL_SHARE) / max(1, drawn))
    if "catchup" in part.name:
        # Tokens that fall due during a stall wait with it, and one of them that is itself drawn to stall waits from when it was due:
        # its own gap is then shorter than a whole stall and may not be seen as one.
        doubt += STALL_SHARE * STALL_SHARE * STALL_MS / GAP_MS
    # A server that the machine holds up stalls by itself too: what its stamps show is no error of the reading.
    found, true, least, most = ((value or 0) / max(1, drawn) for value in (stalls.read, stalls.true, stalls.low, stalls.high))
    share = Figure(
        part.name, "stall_share", f"Share of tokens that stall ({STALL_SHARE:.0%} asked for)", "share", found, true,
        max(least, STALL_SHARE - doubt), most, "the server's stamps; its own stalls, where the machine held it up, are among them",
        f"as for their number, and no less than was injected, but for {SIGMAS:g} standard deviations of {drawn} draws",
    )  # fmt: skip
    return [_gaps(part, reading, 0.5, "Gap, p50"), _gaps(part, reading, 0.99, "Gap, p99"), stalls, share, bursts]


def judge_stop(part: Part, reading: Reading, evidence: Evidence) -> list[Figure]:
    """Stop latency and tokens that still came."""
    rows = reading.conversations[reading.conversations["outcome"] == "stopped"]
    keys = ["worker", "conversation"]
    after = reading.tokens.merge(rows[[*keys, "stop_sent_at_ns"]], on=keys)
    late = after[after["sent_ns"] > after["stop_sent_at_ns"]]
    between = int(((after["sent_ns"] <= after["stop_sent_at_ns"]) & (after["arrival_ns"] > after["stop_sent_at_ns"])).sum())
    met = rows[rows["last_sent_ns"] > rows["stop_sent_at_ns"]]
    true = (met["last_sent_ns"] - met["stop_sent_at_ns"]).to_numpy(dtype=np.float64)
    read = met["stop_latency_ns"].to_numpy(dtype=np.float64)
    cut = int((reading.conversations["outcome"] == "abandoned").sum())
    busy = f"stops that met a server at work on a token ({len(met)} of {len(rows)}): its stamp of that token; its end follows at once"
    middle, low, high = spread((true,), 0.5, 0.02)
    after_stamp = "the end bears no stamp: after that of its last token the server sends the token, comes round its loop, reads our stop"
    excess = read - true
    return [
        Figure(
            part.name, "stop_p50", "Stop latency, p50", "ns", quantile(read, 0.5), middle, low - CLOCKS_NS, high + ROUND_NS, busy,
            after_stamp,
        ),
        Figure(
            part.name, "stop_least", "Stop latency beyond that, least", "ns", float(excess.min()) if len(excess) else None, 0.0, -CLOCKS_NS,
            WAKE_NS / 2, busy, after_stamp + "; at best in much less than a millisecond",
        ),
        exact(
            part.name, "overrun_tokens", "Tokens after a stop", float(rows["overrun_tokens"].fillna(0).sum()), len(late),
            "tokens that the server stamped after stop had been sent", f"{between} tokens were under way at the very instant", between,
        ),
        exact(
            part.name, "stops", "Stops that took effect", len(rows), evidence.grown.get("streamgauge_stops_total"), "the server's counter",
            f"{cut} conversations were cut by the end of the run", cut,
        ),
    ]  # fmt: skip


def judge_connections(part: Part, reading: Reading, evidence: Evidence) -> list[Figure]:
    """Connections opening, open, streaming, second by second."""
    figures = []
    sources = {
        "opening": "the kernel's connections of the generator, less those that the server has accepted",
        "open": "the server's own count",
        "streaming": "the server's own count",
    }
    for name, truth in sources.items():
        seconds = [(read, true) for gauge, read, true in evidence.gauges if gauge == name and (true or name != "opening")]
        read, true = max(seconds, key=lambda pair: abs(pair[0] - pair[1]), default=(None, None))
        title = f"Connections {name}"
        why = f"the worst of {len(seconds)} seconds in which the truth stood still; a count is right or wrong"
        figures.append(exact(part.name, name, title, read, true, truth, why))
    return figures


def judge_pack(part: Part, reading: Reading, evidence: Evidence) -> list[Figure]:
    """Two tokens in one segment share a stamp: reported as coalesced."""
    sent = evidence.grown.get("streamgauge_tokens_total")
    counts = reading.summary["counts"]["tokens"]
    named = any(finding["finding"] == "coalesced" for finding in reading.summary["validity"]["findings"])
    whole = "both frames are in one write, so in one segment and one read; the next pair waits for our acknowledgements"
    return [
        exact(part.name, "tokens", "Tokens received", counts["tokens"], sent, "the server's counter", "nothing may be lost"),
        exact(part.name, "coalesced", "Tokens that share a stamp", counts["coalesced"], None if sent is None else sent // 2,
              "every second frame comes with the one before", whole),
        exact(part.name, "coalesced_named", "Named in the report", float(named), 1.0, "half of the messages are coalesced", "said, or not"),
    ]  # fmt: skip


def judge_join(part: Part, reading: Reading, evidence: Evidence) -> list[Figure]:
    """Two tokens in one frame: two tokens, one gap; and the null server's stamps."""
    frames = evidence.grown.get("streamgauge_tokens_total")
    counts = reading.summary["counts"]["tokens"]
    tpot = reading.read_conversations("tpot")
    rows = reading.clean_conversations()
    rows = rows[rows["tokens"] >= 2]
    true = ((rows["last_sent_ns"] - rows["first_sent_ns"]) / (rows["tokens"] - 1)).to_numpy(dtype=np.float64)
    lost = "nothing may be lost"
    return [
        exact(part.name, "messages", "Messages received", counts["messages"], frames, "the server's count of frames", lost),
        exact(part.name, "tokens", "Tokens in them", counts["tokens"], None if frames is None else 2 * frames, "two in each frame", lost),
        exact(part.name, "coalesced", "Tokens that share a stamp", counts["coalesced"], 0, "every frame comes alone",
              "a frame is one message, however many tokens it has, and the next waits for our acknowledgement"),
        _gaps(part, reading, 0.5, "Gap between messages, p50"),
        _percentile(part, "tpot_p50", "Time per token, p50", tpot.quantile(0.5), (true,), 0.5,
                    "from the server's first to its last stamp, over all tokens but one"),
        *_lateness(part, reading),
    ]  # fmt: skip


def judge_leak(part: Part, reading: Reading, evidence: Evidence) -> list[Figure]:
    """Connections that the server keeps when the client has gone."""
    read = reading.summary["server"]["leaked_connections"]
    truth = "descriptors that the server holds more than at its start, less the generator's trial connection before the run"
    named = any(finding["finding"] == "leaked" for finding in reading.summary["validity"]["findings"])
    return [
        exact(part.name, "leaked", "Connections leaked", read, evidence.seen.get("descriptors"), truth, "a count is right or wrong"),
        exact(part.name, "leaked_named", "Named in the report", float(named), 1.0, "the server leaks", "said, or not"),
    ]


def _reference(tokens: int, users: int, *more: str) -> tuple[str, ...]:
    return (
        "--trace", "--tokens", str(tokens), "--gap-ms", str(GAP_MS), "--ttft-ms", str(FIRST_MS), "--users", str(users),
        "--spawn-rate", str(users), "--warm-up", "1", "--stop-timeout", "5", *more,
    )  # fmt: skip


def _null(tokens: int, users: int, query: str, *more: str) -> tuple[str, ...]:
    return (
        "--tokens", str(tokens), "--server-query", query, "--users", str(users), "--spawn-rate", str(users), "--warm-up", "0",
        "--stop-timeout", "5", "--record-tokens", *more,
    )  # fmt: skip


def _stalls(mode: str) -> str:
    return f"stall_share={STALL_SHARE:g}&stall_ms={STALL_MS}&stall_mode={mode}"


_PACED = f"{FIRST_MS} ms to the first token, then one every {GAP_MS} ms"
_STALLS = f"a token every {GAP_MS} ms, {STALL_SHARE:.0%} of them {STALL_MS} ms late"

PARTS: Final[tuple[Part, ...]] = (
    Part("paced", "First token and gaps", f"{_PACED}, on 24 connections", "reference", 24, 6, _reference(25, 24), judge_paced),
    Part("shift", "Stalls that move what follows", f"{_STALLS}; what follows is late too", "reference", 40, 7,
         _reference(30, 40, "--server-query", _stalls("shift")), judge_stalls),
    Part("catchup", "Stalls that are caught up", f"{_STALLS}; what was due meanwhile follows in a burst", "reference", 40, 7,
         _reference(30, 40, "--server-query", _stalls("catchup")), judge_stalls),
    Part("stop", "Stop", f"each token takes {BUSY_US / 1000:g} ms of work; a stop that falls into it has to wait",
         "reference", 1, 7,
         _reference(100, 1, "--server-query", f"cpu_us={BUSY_US}", "--stop-share", "1", "--stop-after-tokens", "1-3"), judge_stop),
    Part("connections", "Connection counts", f"{STEPS[0]} connections, a quarter idle, then {STEPS[1] - STEPS[0]} more that "
         "a stopped server leaves opening", "reference", STEPS[1], 20,
         _reference(100_000, STEPS[0], "--idle-share", "0.25", "--steps", f"{STEPS[0]}:4,{STEPS[1]}:6.5", "--no-scrape"),
         judge_connections),
    Part("pack", "Two tokens in a segment", f"a pair of frames in one write, every {GAP_MS} ms", "null", 10, 4,
         _null(20, 10, f"pack=2&stamp=1&gap_ms={GAP_MS}&ttft_ms={GAP_MS}", "--window", "2"), judge_pack),
    Part("join", "Two tokens in a frame", f"two tokens in one frame, every {GAP_MS} ms", "null", 20, 4,
         _null(20, 20, f"join=2&stamp=1&gap_ms={GAP_MS}&ttft_ms={GAP_MS}", "--adapter", "benchmarks.calibration_adapter:Words",
               "--no-scrape"), judge_join),
    Part("leak", "A server that leaks", "a new connection for each conversation, none of which the server lets go", "null", 20, 4,
         _null(5, 20, "leak=1&stamp=1&gap_ms=10", "--conversations-per-connection", "1", "--connect-rate", "60"), judge_leak),
)  # fmt: skip
"""In the order in which they are run; the leak comes last, for it stays with its server."""
