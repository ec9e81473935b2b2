"""What the way does to the bytes, told by a clock that is given (no test waits for a time and calls it a proof), and over real sockets."""

from __future__ import annotations

import asyncio
import io
import json
import random
from typing import Any

import pytest

from benchmarks.fault_proxy import FaultProxy, Faults, Way


def arrivals(faults: Faults, *puts: tuple[float, bytes]) -> list[tuple[float, bytes]]:
    way = Way(faults, random.Random(1))
    for now_s, data in puts:
        way.put(data, now_s)
    return [(round(due, 9), piece) for due, piece in way._pieces]


def test_half_the_round_trip_each_way() -> None:
    assert arrivals(Faults(rtt_ms=200), (1.0, b"a"), (1.5, b"b")) == [(1.1, b"a"), (1.6, b"b")]


def test_bandwidth_makes_what_follows_wait() -> None:
    assert arrivals(Faults(bandwidth_bytes_per_s=100), (0.0, b"x" * 50), (0.1, b"y" * 10)) == [(0.5, b"x" * 50), (0.6, b"y" * 10)]


def test_slices() -> None:
    assert arrivals(Faults(slice_bytes=2, bandwidth_bytes_per_s=2), (0.0, b"abcde")) == [(1.0, b"ab"), (2.0, b"cd"), (2.5, b"e")]


def test_jitter_never_changes_the_order_and_stays_within_its_bound() -> None:
    sent = [(index * 0.001, bytes([index])) for index in range(200)]
    came = arrivals(Faults(rtt_ms=20, jitter_ms=50), *sent)
    assert [piece for _, piece in came] == [piece for _, piece in sent]
    assert [due for due, _ in came] == sorted(due for due, _ in came)
    late = [due - at for (due, _), (at, _) in zip(came, sent, strict=True)]
    assert min(late) >= 0.01 - 1e-9
    assert 0.03 < max(late) <= 0.06 + 1e-9


def test_a_slow_close_is_late_and_bytes_are_not() -> None:
    assert arrivals(Faults(rtt_ms=20, slow_close_ms=500), (0.0, b"a"), (0.0, b"")) == [(0.01, b"a"), (0.51, b"")]


def through(faults: Faults, said: bytes) -> tuple[bytes, bool, list[dict[str, Any]]]:
    """Send ``said`` through a proxy to a server that sends everything back; returns what came, whether it was reset, and the log."""

    async def talk() -> tuple[bytes, bool, list[dict[str, Any]]]:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while data := await reader.read(1000):
                    writer.write(data)
                    await writer.drain()
            except ConnectionError:
                pass
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        log = io.StringIO()
        proxy = FaultProxy("127.0.0.1", server.sockets[0].getsockname()[1], faults, log)
        reader, writer = await asyncio.open_connection("127.0.0.1", await proxy.start())
        writer.write(said)
        writer.write_eof()
        came, reset = b"", False
        try:
            while data := await asyncio.wait_for(reader.read(1000), 20):
                came += data
        except ConnectionError:
            reset = True
        writer.close()
        while not log.getvalue():
            await asyncio.sleep(0.001)
        proxy.close()
        server.close()
        return came, reset, [json.loads(line) for line in log.getvalue().splitlines()]

    return asyncio.run(talk())


def test_what_goes_in_comes_out() -> None:
    said = bytes(range(256)) * 400
    came, reset, (line,) = through(Faults(rtt_ms=2, jitter_ms=1, slice_bytes=777), said)
    assert came == said
    assert not reset
    assert (line["up_bytes"], line["down_bytes"], line["reset"]) == (len(said), len(said), False)
    assert line["opened_ns"] < line["client_ended_ns"] <= line["server_ended_ns"]


def test_a_reset_is_one() -> None:
    came, reset, (line,) = through(Faults(slice_bytes=100, reset_after_bytes=500), b"x" * 5000)
    assert reset
    assert len(came) <= 500
    assert line["reset"] is True
    assert line["down_bytes"] == 500


def test_nobody_there_is_a_connection_that_ends() -> None:
    async def talk() -> bytes:
        proxy = FaultProxy("127.0.0.1", 1, Faults())
        reader, writer = await asyncio.open_connection("127.0.0.1", await proxy.start())
        try:
            return await asyncio.wait_for(reader.read(), 20)
        except ConnectionError:
            return b""
        finally:
            writer.close()
            proxy.close()

    assert asyncio.run(talk()) == b""


def test_a_negative_delay_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.fault_proxy import main

    with pytest.raises(SystemExit):
        main(["--to", "127.0.0.1:1", "--rtt-ms", "-5"])
    assert "0 or more" in capsys.readouterr().err
