"""The account: what was sent against what was received, whole and tampered with in every way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accounting import WRONG, Account, AccountError, account, main
from loadtest.run_directory import RunDirectory
from loadtest.tables import COUNTERS, TABLES

ORIGIN = 1_700_000_000_000_000_000
MS = 1_000_000
TOKENS = 4


@dataclass
class Books:
    """A run of two connections with two conversations each, and the server's history of it; tests tamper with either."""

    tokens: list[dict[str, Any]] = field(default_factory=list)
    conversations: list[dict[str, Any]] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)

    def token(self, connection: int, number: int, position: int) -> dict[str, Any]:
        """The row of one token."""
        name = f"r:w0-{connection}:{number}:{position}:"
        return next(row for row in self.tokens if row["text"].startswith(name))

    def cut(self, connection: int, number: int, received: int, outcome: str = "abandoned") -> None:
        """One conversation is cut after so many tokens have come."""
        name = f"r:w0-{connection}:{number}:"
        gone = [row for row in self.tokens if row["text"].startswith(name)][received:]
        self.tokens = [row for row in self.tokens if row not in gone]
        row = next(row for row in self.conversations if row["connection"] == connection and row["conversation"] == connection + 2 * number)
        row |= {"outcome": outcome, "tokens": received, "end_at_ns": None}
        self.counters["tokens"] -= len(gone)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Both as files."""
        run = RunDirectory.create(folder / "r", {"name": "r", "origin_wall_ns": ORIGIN, **self.metadata})
        writer = run.writer("w0")
        for table, rows in (("tokens", self.tokens), ("conversations", self.conversations)):
            filled = [{**_blank(table), **row} for row in rows]
            writer.append(table, {name: [row[name] for row in filled] for name in TABLES[table].names})
        none = dict.fromkeys(COUNTERS, 0)
        writer.append("intervals", {"worker": ["w0"], "second": [0], **{name: [n] for name, n in {**none, **self.counters}.items()}})
        writer.end()
        run.compact()
        history = folder / "history.txt"
        history.write_text("\n".join(self.history) + "\n")
        return folder / "r", history

    def check(self, folder: Path) -> Account:
        """What the account says of them."""
        return account(*self.write(folder))


def _blank(table: str) -> dict[str, Any]:
    kinds: dict[str, Any] = {"int64": 0, "string": "", "bool": False}
    return {column.name: None if column.nullable else kinds.get(str(column.type), []) for column in TABLES[table]}


@pytest.fixture
def books() -> Books:
    books = Books(metadata={"status": "complete"})
    for connection in (0, 1):
        for number in (0, 1):
            conversation = connection + 2 * number  # numbered over all connections, as the generator does
            for position in range(TOKENS):
                sent = ORIGIN + (100 * number + 10 * position + connection) * MS
                text = f"r:w0-{connection}:{number}:{position}:{sent}"
                books.history.append(text)
                books.tokens.append(
                    {"worker": "w0", "connection": connection, "conversation": conversation, "sequence": position,
                     "arrival_at_ns": sent - ORIGIN + 30_000, "read_at_ns": sent - ORIGIN + 60_000, "text": text}
                )  # fmt: skip
            books.conversations.append(
                {"worker": "w0", "connection": connection, "conversation": conversation, "tokens": TOKENS, "messages": TOKENS,
                 "outcome": "completed", "end_at_ns": (100 * number + 50) * MS, "sent_at_ns": 100 * number * MS}
            )  # fmt: skip
    books.counters = {"conversations_started": 4, "tokens": 16, "connects_succeeded": 2}
    return books


def test_a_sound_run_is_balanced(books: Books, tmp_path: Path) -> None:
    books.history.insert(3, "another:w0-0:0:0:1700000000000000000")
    found = books.check(tmp_path)
    assert (found.sent, found.ok, found.error, found.unknown, found.received) == (16, 16, 0, 0, 16)
    assert found.conversations == {"started": 4, "ok": 4, "error": 0, "unknown": 0}
    assert found.other_lines == 1
    assert found.balanced


def test_lines_of_several_processes_may_be_mixed(books: Books, tmp_path: Path) -> None:
    books.history.sort(key=lambda line: line.rpartition(":")[2])
    assert books.check(tmp_path).balanced


def test_tokens_filled_up_with_blanks_are_the_same(books: Books, tmp_path: Path) -> None:
    for row in books.tokens:
        row["text"] += " " * 7
    assert books.check(tmp_path).balanced


def _lose(books: Books) -> None:
    books.tokens.remove(books.token(1, 0, 3))
    books.conversations[2]["tokens"] -= 1
    books.counters["tokens"] -= 1


def _double(books: Books) -> None:
    row = books.token(0, 1, 2)
    books.tokens.append({**row, "sequence": TOKENS})
    books.conversations[1]["tokens"] += 1
    books.counters["tokens"] += 1


def _swap(books: Books) -> None:
    one, two = books.token(0, 0, 1), books.token(0, 0, 2)
    one["text"], two["text"] = two["text"], one["text"]
    one["arrival_at_ns"] = two["arrival_at_ns"]


def _after_end(books: Books) -> None:
    books.token(1, 1, 3)["arrival_at_ns"] = 151 * MS


def _ghost(books: Books) -> None:
    books.counters["ghost_tokens"] = 1


def _misplace(books: Books) -> None:
    one, two = books.token(0, 0, 1), books.token(1, 0, 1)
    one["text"], two["text"] = two["text"], one["text"]


def _invent(books: Books) -> None:
    row = books.token(0, 0, 3)
    row["text"] = row["text"][:-1] + "7"


def _early(books: Books) -> None:
    books.token(0, 0, 0)["arrival_at_ns"] = -2 * MS


def _garble(books: Books) -> None:
    books.token(0, 0, 3)["text"] = "hello"


def _send_twice(books: Books) -> None:
    books.history.append(books.history[5])


def _skip(books: Books) -> None:
    books.history.remove(books.token(0, 0, 1)["text"])


TAMPERED: dict[str, tuple[Callable[[Books], None], dict[str, int]]] = {
    "lost": (_lose, {"lost": 1}),
    "doubled": (_double, {"doubled": 1}),
    "out of order": (_swap, {"out_of_order": 1}),
    "after the end": (_after_end, {"after_end": 1}),
    "with no conversation running": (_ghost, {"after_end": 1}),
    "misplaced": (_misplace, {"misplaced": 2}),
    "never sent": (_invent, {"never_sent": 1, "lost": 1}),
    "early": (_early, {"early": 1}),
    "unreadable": (_garble, {"unreadable": 1, "lost": 1}),
    "sent twice": (_send_twice, {"sent_twice": 1}),
    "a hole in the history": (_skip, {"never_sent": 1, "sent_out_of_order": 2}),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_whatever_is_wrong_is_found_and_counted(books: Books, tmp_path: Path, what: str) -> None:
    tamper, expected = TAMPERED[what]
    tamper(books)
    found = books.check(tmp_path)
    assert {kind: number for kind, number in found.wrong.items() if number} == expected
    assert not found.balanced
    assert found.sent == found.ok + found.error + found.unknown
    assert set(expected) <= set(WRONG)


@pytest.mark.parametrize("outcome", ["abandoned", "failed"])
def test_what_was_under_way_to_a_conversation_that_was_cut_is_unknown(books: Books, tmp_path: Path, outcome: str) -> None:
    books.cut(1, 1, received=1, outcome=outcome)
    found = books.check(tmp_path)
    assert (found.ok, found.error, found.unknown) == (13, 0, 3)
    assert found.conversations["unknown" if outcome == "abandoned" else "error"] == 1
    assert found.balanced


def test_a_hole_in_a_conversation_that_was_cut_is_a_loss(books: Books, tmp_path: Path) -> None:
    books.cut(1, 1, received=3)
    books.tokens.remove(books.token(1, 1, 1))
    books.counters["tokens"] -= 1
    books.conversations[-1]["tokens"] -= 1
    found = books.check(tmp_path)
    assert (found.ok, found.error, found.unknown) == (14, 1, 1)
    assert not found.balanced


@pytest.mark.parametrize(("status", "balanced"), [("complete", False), ("degraded", True)])
def test_a_conversation_without_a_row_is_unknown_only_where_data_were_lost(
    books: Books, tmp_path: Path, status: str, balanced: bool
) -> None:
    books.metadata["status"] = status
    books.conversations.pop()
    books.tokens = [row for row in books.tokens if not row["text"].startswith("r:w0-1:1:")]
    found = books.check(tmp_path)
    assert (found.ok, found.error, found.unknown) == ((12, 0, 4) if balanced else (12, 4, 0))
    assert found.conversations["unknown"] == 1
    assert found.balanced is balanced


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokens": 15}, "in the counters"),
        ({"conversations_started": 5}, "have a row"),
    ],
)
def test_counters_that_disagree_are_told(books: Books, tmp_path: Path, change: dict[str, int], says: str) -> None:
    books.counters |= change
    found = books.check(tmp_path)
    assert [says in sentence for sentence in found.disagreements] == [True]
    assert not found.balanced


@pytest.mark.parametrize(("tokens", "accepted", "balanced"), [(116, 12, True), (115, 12, False), (115, 13, True)])
def test_the_servers_own_counters_must_agree_where_nobody_else_used_it(
    books: Books, tmp_path: Path, tokens: int, accepted: int, balanced: bool
) -> None:
    def samples(connections: int, tokens: int, prompts: int) -> dict[str, float]:
        names = ("connections_accepted", "tokens", "prompts")
        return {f"streamgauge_{name}_total": n for name, n in zip(names, (connections, tokens, prompts), strict=True)}

    books.metadata["server"] = {"scraped": True, "first": samples(10, 100, 30), "last": samples(accepted, tokens, 34)}
    assert books.check(tmp_path).balanced is balanced


def test_what_cannot_be_compared_is_refused(books: Books, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, history = books.write(tmp_path)
    history.write_text("r:w0-0:0:0:5\nnonsense\n")
    with pytest.raises(AccountError, match="line 2"):
        account(run, history)
    assert main([str(run), str(history)]) == 2
    history.write_text("")
    for row in books.tokens:
        row["text"] = None
    (tmp_path / "other").mkdir()
    with pytest.raises(AccountError, match="--trace"):
        books.check(tmp_path / "other")
    assert main([str(tmp_path / "nothing"), str(history)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_command(books: Books, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, history = books.write(tmp_path)
    assert main([str(run), str(history), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["ok"] == 16
    assert "balanced" in told.err
    history.write_text(history.read_text().replace("r:w0-0:0:2", "r:w0-0:0:9"))
    assert main([str(run), str(history)]) == 12
    assert "1 lost" in capsys.readouterr().out
