"""``python -m benchmarks account RUN HISTORY``: every token that the server says it sent, held against every token that the run received.

Both sides name a token ``run:connection:conversation:sequence:sent_ns`` (locust with --trace, server with --history). A token that was
sent is in exactly one place: received once (ok), not received although its conversation went on to its end (error), or unknown, which
is for conversations that were cut. On the receiving side nothing may be twice, out of order, after the end, misplaced, or never sent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from loadtest.run_directory import RunDirectory, RunDirectoryError
from reports.units import count, plural

from .options import Parser
from .terminal import complain, consoles

CLOCK_SLACK_NS: Final = 1_000_000
"""Stamps of one machine's clock, read in two processes and carried over to another clock and back, may disagree by what the generator
takes for reading error (``loadtest.clock.STEP_NS``)."""
EXAMPLES: Final = 3
NAME: Final = r"^(?P<run>[^:]*):(?P<connection>[^:]*):(?P<number>\d{1,18}):(?P<position>\d{1,18}):(?P<sent_ns>\d{1,19})$"

WRONG: Final = {
    "lost": "sent, not received, although their conversation went on to its end",
    "doubled": "received more than once",
    "out_of_order": "received after a later token of the same conversation",
    "after_end": "received after the end of their conversation, or with none running",
    "misplaced": "received on another connection, or in another conversation, than they were sent on",
    "never_sent": "received, but the server's history does not have them",
    "early": "received before the server sent them",
    "unreadable": "received without a name that can be read",
    "sent_twice": "the server's history has them more than once",
    "sent_out_of_order": "the server's history has them out of order, or leaves one out",
}
"""What must not be, each with its meaning."""


class AccountError(Exception):
    """The two sides cannot be compared; the message says what was expected."""


@dataclass(slots=True)
class Account:
    """What the comparison came to. ``sent`` = ``ok`` + ``error`` + ``unknown``; everything in ``wrong`` must be 0."""

    run: str
    sent: int = 0
    ok: int = 0
    unknown: int = 0
    received: int = 0
    wrong: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WRONG, 0))
    examples: dict[str, list[str]] = field(default_factory=dict)
    conversations: dict[str, int] = field(default_factory=dict)
    disagreements: list[str] = field(default_factory=list)
    other_lines: int = 0

    @property
    def error(self) -> int:
        """Tokens that were sent and are neither received nor excused."""
        return self.wrong["lost"]

    @property
    def balanced(self) -> bool:
        """Whether every token and every conversation is where it belongs."""
        return not any(self.wrong.values()) and not self.disagreements

    def as_dict(self) -> dict[str, Any]:
        """The account for JSON."""
        return {**asdict(self), "error": self.error, "balanced": self.balanced}

    def found(self, kind: str, texts: pd.Series[Any]) -> None:
        """Count what is wrong, and keep examples."""
        if len(texts):
            self.wrong[kind] += len(texts)
            self.examples.setdefault(kind, []).extend(texts.astype(str).head(EXAMPLES - len(self.examples.get(kind, []))).tolist())


def account(run_path: Path, history_path: Path) -> Account:
    """Compare a traced run with the server's history; AccountError or RunDirectoryError when that is not possible."""
    run = RunDirectory.open(run_path)
    metadata = run.metadata()
    conversations = run.table("conversations").to_pandas()
    tokens = run.table("tokens").to_pandas()
    intervals = run.table("intervals").to_pandas()
    name = str(metadata.get("name") or run_path.name)
    history = read_history(history_path)
    ours = history[history["run"] == name]
    if not len(ours) and not len(tokens):
        raise AccountError(f"neither {run_path} nor {history_path} has a token of the run {name!r}; trace it: --trace and --history")
    if len(tokens) and tokens["text"].isna().all():
        raise AccountError(f"the tokens of {run_path} have no texts; record them with --trace")
    result = Account(name, sent=len(ours), received=len(tokens), other_lines=len(history) - len(ours))
    whole = metadata.get("status") == "complete"
    read = name_tokens(tokens, conversations)
    _check_received(result, read, ours, int(metadata.get("origin_wall_ns") or 0), int(intervals["ghost_tokens"].sum()))
    _check_history(result, ours)
    _place_sent(result, read, ours, conversations, whole)
    _check_books(result, metadata, conversations, tokens, intervals)
    return result


def read_history(path: Path) -> pd.DataFrame:
    """The server's history: one row a line, in its order; AccountError when it cannot be read or a line is no traced token."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AccountError(f"cannot read the history {path}: {error}") from None
    parts = split_names(pd.Series(lines, dtype=object))
    if (bad := parts["run"].isna()).any():
        number = int(np.flatnonzero(bad.to_numpy())[0])
        what = "expected run:connection:conversation:sequence:sent_ns"
        raise AccountError(f"{what} in line {number + 1} of {path}, got {lines[number][:80]!r}")
    return parts


def split_names(texts: pd.Series[Any]) -> pd.DataFrame:
    """Traced tokens taken apart: ``text``, ``run``, ``connection`` (NaN where it is none), ``number`` of the conversation, ``position``,
    ``sent_ns`` (-1 where it is none)."""
    text = texts.astype(object).fillna("").astype(str).str.rstrip(" ").astype(object)
    parts = text.astype(str).str.extract(NAME)
    for column in ("number", "position", "sent_ns"):
        parts[column] = pd.to_numeric(parts[column].fillna("-1")).astype(np.int64)
    parts.insert(0, "text", text)
    return parts


def name_tokens(tokens: pd.DataFrame, conversations: pd.DataFrame) -> pd.DataFrame:
    """The run's tokens in the order of their conversations, with their names and with what the generator itself calls them.

    Added: ``own_connection`` as the server was told it, ``own_number``: which conversation of its connection it is, and the instant
    at which the conversation ended.
    """
    keys = ["worker", "connection", "conversation"]
    known = pd.concat([conversations[keys], tokens[keys]]).drop_duplicates().sort_values(keys)
    known["own_number"] = known.groupby(["worker", "connection"]).cumcount()
    known = known.merge(conversations[[*keys, "outcome", "end_at_ns"]], on=keys, how="left")
    ordered = tokens.sort_values([*keys, "sequence"], kind="stable").reset_index(drop=True)
    parts = split_names(ordered["text"]).drop(columns="connection").assign(told=split_names(ordered["text"])["connection"])
    read = pd.concat([ordered.drop(columns="text"), parts], axis=1).merge(known, on=keys, how="left")
    read["own_connection"] = read["worker"].astype(str) + "-" + read["connection"].astype(str)
    return read


def _check_received(result: Account, read: pd.DataFrame, ours: pd.DataFrame, origin_ns: int, ghosts: int) -> None:
    legible = read["run"].notna()
    result.found("unreadable", read.loc[~legible, "text"])
    read = read[legible]
    result.found("doubled", read.loc[read["text"].duplicated(), "text"])
    first = read[~read["text"].duplicated()]
    result.found("never_sent", first.loc[~first["text"].isin(ours["text"]), "text"])
    elsewhere = (first["told"] != first["own_connection"]) | (first["number"] != first["own_number"])
    result.found("misplaced", first.loc[elsewhere, "text"])
    highest = first.groupby(["own_connection", "own_number"])["position"].cummax()
    result.found("out_of_order", first.loc[first["position"] < highest, "text"])
    result.found("after_end", first.loc[first["arrival_at_ns"] > first["end_at_ns"], "text"])
    result.wrong["after_end"] += ghosts
    result.found("early", first.loc[first["arrival_at_ns"] + origin_ns < first["sent_ns"] - CLOCK_SLACK_NS, "text"])


def _check_history(result: Account, ours: pd.DataFrame) -> None:
    keys = ["connection", "number"]
    result.found("sent_twice", ours.loc[ours.duplicated([*keys, "position"]), "text"])
    once = ours[~ours.duplicated([*keys, "position"])]
    result.found("sent_out_of_order", once.loc[once["position"] != once.groupby(keys).cumcount(), "text"])


def _place_sent(result: Account, read: pd.DataFrame, ours: pd.DataFrame, conversations: pd.DataFrame, whole: bool) -> None:
    """Every token of the history is ok, lost or unknown.

    Unknown is what came after the last token received of a conversation that was cut: abandoned, failed, or without a row in a run
    that lost data. Between two received tokens nothing can be under way: a hole is a loss in any conversation.
    """
    received = ours["text"].isin(read["text"])
    result.ok = int(received.sum())
    missing = ours[~received]
    numbered = conversations.sort_values("conversation")
    numbered = numbered.assign(
        number=numbered.groupby(["worker", "connection"]).cumcount(),
        connection=numbered["worker"].astype(str) + "-" + numbered["connection"].astype(str),
    )[["connection", "number", "outcome"]]
    last = read.groupby(["told", "number"])["position"].max().rename("last").reset_index().rename(columns={"told": "connection"})
    placed = missing.merge(numbered, on=["connection", "number"], how="left").merge(last, on=["connection", "number"], how="left")
    cut = placed["outcome"].isin(["abandoned", "failed"]) | (placed["outcome"].isna() & (not whole))
    excused = cut & (placed["position"] > placed["last"].fillna(-1))
    result.unknown = int(excused.sum())
    result.found("lost", placed.loc[~excused, "text"])


def _check_books(
    result: Account, metadata: dict[str, Any], conversations: pd.DataFrame, tokens: pd.DataFrame, intervals: pd.DataFrame
) -> None:
    """The run's own books: started = ok + error + unknown, and the same tokens in counters, rows and server's counters."""
    outcomes = conversations["outcome"].value_counts()

    def number(*names: str) -> int:
        return int(sum(int(outcomes.get(name, 0)) for name in names))

    started = int(intervals["conversations_started"].sum())
    rowless = started - len(conversations)
    books = {"started": started, "ok": number("completed", "stopped"), "error": number("failed", "empty")}
    result.conversations = {**books, "unknown": number("abandoned") + max(0, rowless)}
    whole = metadata.get("status") == "complete"
    # Rows of the last second of a record that was cut may stand before their counters.
    if rowless and whole:
        result.disagreements.append(f"{count(started)} conversations were started, and {count(len(conversations))} have a row")
    if not whole:
        return
    for where, found in (("in the rows of conversations", conversations["tokens"].sum()), ("in the counters", intervals["tokens"].sum())):
        if int(found) != len(tokens):
            result.disagreements.append(f"{count(int(found))} tokens stand {where}, and {count(len(tokens))} were recorded one by one")
    server = metadata.get("server") or {}
    grown = {name: int(value - (server.get("first") or {}).get(name, 0)) for name, value in (server.get("last") or {}).items()}
    accepted = grown.get("streamgauge_connections_accepted_total")
    if accepted is None or accepted != int(intervals["connects_succeeded"].sum()):
        return  # not scraped, or somebody else used the server too: its counts say nothing of ours
    for name, expected, what in (
        ("streamgauge_tokens_total", result.sent, "tokens, and its history has"),
        ("streamgauge_prompts_total", started, "prompts, and we started"),
    ):
        # Tokens that were under way when a connection was cut may have been sent after the last look at the counters.
        if name in grown and not expected - result.unknown <= grown[name] <= expected:
            result.disagreements.append(f"the server counted {count(grown[name])} {what} {count(expected)}")


def print_account(result: Account, console: Console) -> None:
    """The account as a table for people."""
    verdict = "balanced" if result.balanced else "NOT BALANCED"
    table = Table(title=f"{result.run}: {verdict}", title_justify="left", box=None, pad_edge=False)
    for title in ("", "Sent", "Ok", "Error", "Unknown"):
        table.add_column(title, justify="left" if not title else "right")
    books = result.conversations
    table.add_row("conversations", *(count(books[name]) for name in ("started", "ok", "error", "unknown")))
    table.add_row("tokens", count(result.sent), count(result.ok), count(result.error), count(result.unknown))
    console.print(table)
    for kind, number in result.wrong.items():
        if number:
            example = ", ".join(result.examples.get(kind, []))
            complain(console, f"{count(number)} {kind.replace('_', ' ')}: {WRONG[kind]}{f' (such as {example})' if example else ''}")
    for sentence in result.disagreements:
        complain(console, sentence)
    if result.other_lines:
        console.print(f"{plural(result.other_lines, 'line')} of the history belong to other runs", style="dim", highlight=False)


def main(words: Sequence[str]) -> int:
    """The command; returns 0 balanced, 12 not, 2 nothing to compare."""
    parser = Parser(prog="python -m benchmarks account", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory made with --trace")
    parser.add_argument("history", type=Path, metavar="HISTORY", help="the file that the server was given as --history")
    parser.add_argument("--json", action="store_true", help="the account as JSON on standard output, the table on standard error")
    given = parser.parse_args(words)
    console, errors = consoles(given.json)
    try:
        result = account(given.run, given.history)
    except (AccountError, RunDirectoryError) as error:
        complain(errors, error)
        return 2
    print_account(result, console)
    if given.json:
        sys.stdout.write(json.dumps(result.as_dict(), ensure_ascii=False) + "\n")
    return 0 if result.balanced else 12
