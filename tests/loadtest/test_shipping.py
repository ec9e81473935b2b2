"""A record shipped over a channel that loses, repeats and reorders; and what is refused because no worker of this run can have sent it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadtest import shipping
from loadtest.raw_file import RawWriter
from loadtest.run_directory import RunDirectory
from loadtest.shipping import Intake, Refused, Shipment

RUN, TOKEN = "abc", "secret"


def connections(*numbers: int) -> dict[str, Any]:
    n = len(numbers)
    return {
        "worker": ["w0"] * n, "connection": list(numbers), "user": [0] * n, "opened_at_ns": [5] * n, "attempt": [0] * n,
        "conversations": [1] * n, "outcome": ["clean"] * n, "syn_retransmitted": [False] * n,
    }  # fmt: skip


class Ways:
    """A worker's file, its shipment, and the master's intake, in folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.own = RunDirectory.create(folder / "own", {"name": "own"})
        self.run = RunDirectory.create(folder / "run", {"name": "run"})
        self.writer: RawWriter = self.own.writer("w0")
        self.shipment = Shipment(self.writer.path, RUN, TOKEN, "w0", {"pid": 7})
        self.intake = Intake(self.run, RUN, TOKEN)
        self.now_s = 100.0

    def close(self) -> None:
        self.writer.end()
        self.shipment.close()
        self.intake.close()

    def due(self, later_s: float = 0.0) -> list[dict[str, Any]]:
        self.now_s += later_s
        return list(self.shipment.due(self.writer.bytes_written, self.now_s))

    def carry(self, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            self.shipment.acknowledged(self.intake.take("w0", message))

    @property
    def copied(self) -> bytes:
        path = self.run.path / "raw" / "w0.frames"
        return path.read_bytes() if path.exists() else b""


@pytest.fixture
def ways(tmp_path: Path) -> Iterator[Ways]:
    made = Ways(tmp_path)
    yield made
    made.close()


def test_a_record_arrives_whole_and_says_who_wrote_it(ways: Ways) -> None:
    ways.carry(ways.due())
    assert ways.intake.copies["w0"].information == {"pid": 7, "worker": "w0"}
    for number in range(5):
        ways.writer.append("connections", connections(number))
        ways.carry(ways.due())
        # Readable at any instant.
        assert ways.run.table("connections").num_rows == number + 1
    ways.writer.end()
    ways.shipment.complete({"ended_at_ns": 9})
    assert not ways.shipment.done
    ways.carry(ways.due())
    assert ways.shipment.done
    assert ways.intake.copies["w0"].whole
    assert ways.intake.copies["w0"].information == {"pid": 7, "worker": "w0", "ended_at_ns": 9}
    assert ways.copied == ways.writer.path.read_bytes()
    assert ways.run.workers_ended() == {"w0": True}
    assert ways.due(60) == []


def test_chunks_end_with_frames_and_are_bounded(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "CHUNK_BYTES", 3000)
    sizes = []
    for number in range(20):
        before = ways.writer.bytes_written
        ways.writer.append("connections", connections(*range(number * 30)))
        sizes.append(ways.writer.bytes_written - before)
    assert max(sizes) > 3000, "a frame larger than a chunk goes alone"
    seen = []
    while messages := ways.due(60):
        assert ways.shipment.under_way <= shipping.WINDOW
        seen += [len(message["data"]) for message in messages]
        ways.carry(messages)
    assert sum(seen) == ways.writer.bytes_written
    assert all(size <= 3000 or size in sizes for size in seen)
    assert ways.copied == ways.writer.path.read_bytes()


def test_nothing_is_resent_before_its_time_and_then_the_oldest_alone(ways: Ways) -> None:
    ways.carry(ways.due())
    for number in range(shipping.WINDOW + 3):
        ways.writer.append("connections", connections(number))
        ways.due()
    assert ways.shipment.under_way == shipping.WINDOW
    assert ways.due(shipping.RESEND_S * 0.9) == []
    waits = []
    for _ in range(6):
        at = ways.now_s
        while not (again := ways.due(0.25)):
            pass
        assert [message["number"] for message in again] == [1]
        waits.append(ways.now_s - at)
    assert waits[:5] == sorted(waits[:5])
    assert waits[-1] == pytest.approx(shipping.RESEND_LIMIT_S, abs=0.5)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_channel_does_each_frame_arrives_once(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Messages and answers are lost, doubled and reordered; what stands in the copy is always a prefix, and in the end the whole."""
    with closing(Ways(tmp_path_factory.mktemp("ways"))) as ways:
        disturb(ways, data)


def disturb(ways: Ways, data: st.DataObject) -> None:
    channel: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    written = 0
    for _ in range(data.draw(st.integers(3, 40))):
        action = data.draw(st.sampled_from(["write", "send", "deliver", "lose", "double", "reorder", "answer", "lose answer"]))
        if action == "write":
            ways.writer.append("connections", connections(written))
            written += 1
        elif action == "send":
            channel += ways.due(data.draw(st.sampled_from([0.0, 2.0, 20.0])))
        elif action == "deliver" and channel:
            answers.append(ways.intake.take("w0", channel.pop(0)))
        elif action == "lose" and channel:
            channel.pop(0)
        elif action == "double" and channel:
            channel.append(channel[0])
        elif action == "reorder":
            channel.reverse()
        elif action == "answer" and answers:
            ways.shipment.acknowledged(answers.pop())
        elif action == "lose answer" and answers:
            answers.pop()
        if "w0" in ways.intake.copies:
            assert ways.writer.path.read_bytes().startswith(ways.copied)
    ways.writer.end()
    ways.shipment.complete({})
    for _ in range(200):
        if ways.shipment.done:
            break
        ways.carry(ways.due(10))
    assert ways.shipment.done
    assert ways.copied == ways.writer.path.read_bytes()
    assert ways.run.table("connections")["connection"].to_pylist() == list(range(written))


def corrupt(message: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**message, **changes}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda m: None, "no chunk"),
        (lambda m: [m], "no chunk"),
        (lambda m: {}, "no chunk"),
        (lambda m: corrupt(m, number="0"), "no chunk"),
        (lambda m: corrupt(m, number=True), "no chunk"),
        (lambda m: corrupt(m, data="text"), "no chunk"),
        (lambda m: corrupt(m, last=1), "no chunk"),
        (lambda m: corrupt(m, information="me"), "no chunk"),
        (lambda m: corrupt(m, run="other"), "another run's token"),
        (lambda m: corrupt(m, token="guessed"), "another run's token"),
        (lambda m: corrupt(m, token="gücht"), "another run's token"),
        (lambda m: corrupt(m, worker="w1"), "another worker's name"),
        (lambda m: corrupt(m, data=m["data"][:-1]), "damaged"),
        (lambda m: corrupt(m, data=b"rubbish", checksum=zlib.crc32(b"rubbish")), "damaged"),
        (lambda m: corrupt(m, data=m["data"][:-1], checksum=zlib.crc32(m["data"][:-1])), "damaged"),
        (lambda m: corrupt(m, data=m["data"] + b"x", checksum=zlib.crc32(m["data"] + b"x")), "damaged"),
        (lambda m: corrupt(m, offset=17), "wrong offset"),
    ],
)
def test_what_no_worker_of_this_run_can_have_sent_is_refused(ways: Ways, make: Callable[[Any], Any], reason: str) -> None:
    ways.carry(ways.due())
    ways.writer.append("connections", connections(1))
    (message,) = ways.due()
    with pytest.raises(Refused, match=reason):
        ways.intake.take("w0", make(message))
    assert ways.copied == b""
    ways.carry([message])
    assert ways.copied == ways.writer.path.read_bytes()


def test_a_master_that_cannot_write_says_so_and_keeps_what_it_has(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    ways.carry(ways.due())
    ways.writer.append("connections", connections(1))
    ways.carry(ways.due())
    before = ways.copied

    class Full:
        """A disk with room for ten more bytes."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            if self.file.tell() > len(before):
                raise OSError(28, "No space left on device")
            return int(self.file.write(bytes(data)[:10]))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    ways.intake.copies["w0"].file = Full(ways.intake.copies["w0"].file)  # type: ignore[assignment]
    ways.writer.append("connections", connections(2))
    ways.carry(ways.due())
    assert ways.intake.failed == "No space left on device"
    assert ways.shipment.refused == "No space left on device"
    assert not ways.shipment.done
    assert ways.copied == before
    assert ways.run.table("connections")["connection"].to_pylist() == [1]


def test_answers_of_other_runs_and_rubbish_change_nothing(ways: Ways) -> None:
    ways.due()
    for answer in ({}, {"run": "other", "next": 5}, {"run": RUN, "next": "5"}, {"run": RUN}):
        assert not ways.shipment.acknowledged(answer)
    assert ways.shipment.under_way == 1
