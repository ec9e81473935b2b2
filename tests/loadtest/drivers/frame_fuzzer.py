"""Feeds byte streams, cut at drawn places, to a connection of the engine and to the websockets library: same messages, same end.

    python tests/loadtest/drivers/frame_fuzzer.py --cases 1000000 --seed 1      drawn from a grammar of frames, then spoilt
    python tests/loadtest/drivers/frame_fuzzer.py --guided -runs=1000000 CORPUS coverage-guided, where atheris is installed

Ends with 0 and a line that says how many cases were the same, or with 1 and the first case that was not, as Python that repeats it.
"""

from gevent import monkey

monkey.patch_all()

# ruff: noqa: E402 - patching comes first
import argparse
import base64
import logging
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from websockets.client import ClientProtocol
from websockets.exceptions import PayloadTooBig
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol
from websockets.uri import parse_uri

from loadtest.clock import Clock
from loadtest.engine import Engine
from loadtest.frames import Frames
from loadtest.opening import Target
from loadtest.recorder import Recorder
from loadtest.stream import Stream
from loadtest.typewriter import Typewriter

URI = parse_uri("ws://127.0.0.1/")
LIMITS = (1 << 20, 1 << 20, 1 << 20, 300, 126, 125, 124, 5, 1)
PAYLOADS = (b"", b"a", b"_end_", b"stop", "ä€𝄞".encode(), b"\xff", b"\xc3", b"\xa4", b"\xed\xa0\x80", b"x" * 20, b"x" * 123, b"x" * 124,
            b"x" * 125, b"x" * 126, b"x" * 127, b"x" * 128, b"x" * 300, b"x" * 65_535, b"x" * 65_536, b"x" * 70_000)  # fmt: skip
LIKELY = PAYLOADS[:17]
CODES = (1000, 1001, 1002, 1005, 1006, 1011, 1015, 999, 2999, 3000, 4000, 4999, 5000, 65_535)


class Sink:
    def append(self, table, columns):
        pass


class Listener(Typewriter):
    def __init__(self):
        super().__init__({"window": 0})
        self.messages = []

    def receive(self, message):
        self.messages.append(message)
        return super().receive(message)


class Wire:
    """A socket as far as a connection needs one: gives a piece at every reading, takes whatever is sent."""

    def __init__(self, pieces):
        self.pieces = pieces

    def recvmsg_into(self, buffers, _size):
        piece = self.pieces.pop(0) if self.pieces else b""
        buffer = buffers[0]
        if len(piece) > len(buffer):
            self.pieces.insert(0, piece[len(buffer) :])
            piece = piece[: len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece), (), 0, None

    def send(self, data):
        return len(data)

    def close(self):
        pass


ENGINE = Engine(Recorder("w0", time.monotonic_ns(), Sink()), Clock(), 60.0)
TARGETS = {limit: Target(uri=URI, max_message_bytes=limit) for limit in LIMITS}


def told_by_the_engine(pieces, limit, deflate):
    adapter = Listener()
    stream = Stream(ENGINE, TARGETS[limit], adapter)
    stream.adopt(Wire([piece for piece in pieces if piece]))
    if deflate:
        stream._frames.extensions = [PerMessageDeflate(False, False, 15, 15)]
    stream.settle()
    while stream.closed is None:
        stream._readable()
    closed = stream.closed
    return adapter.messages, f"close {closed.code}" if closed.error in (None, "closed") else closed.error


def told_by_the_library(data, limit, deflate):
    protocol = ClientProtocol(URI, state=OPEN, max_size=limit)
    if deflate:
        protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]
    protocol.receive_data(data)
    messages, parts = [], []
    for event in protocol.events_received():
        if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            parts.append(event)
            if event.fin:
                whole = b"".join(bytes(part.data) for part in parts)
                try:
                    messages.append(whole if parts[0].opcode is Opcode.BINARY else whole.decode())
                except UnicodeDecodeError:
                    return messages, "protocol_error"
                parts.clear()
    if isinstance(protocol.parser_exc, PayloadTooBig):
        return messages, "message_too_big"
    if protocol.parser_exc is not None:
        return messages, "protocol_error"
    return messages, "eof" if protocol.close_rcvd is None else f"close {protocol.close_rcvd.code}"


def check(data, cuts, limit, deflate):
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    engine, library = told_by_the_engine(pieces, limit, deflate), told_by_the_library(data, limit, deflate)
    if engine != library:
        sys.stdout.write(
            f"NOT THE SAME\n  data = base64.b64decode({base64.b64encode(data)!r})\n  check(data, {cuts}, {limit}, {deflate})\n"
            f"  engine:  {str(engine)[:300]}\n  library: {str(library)[:300]}\n"
        )
        raise SystemExit(1)


def frame(opcode, payload, fin=True, rsv=0, masked=False, length=None):
    length = len(payload) if length is None else length
    head = bytes((fin << 7 | rsv << 4 | opcode,))
    mask = 0x80 if masked else 0
    if length < 126:
        head += bytes((mask | length,))
    elif length < 65_536:
        head += bytes((mask | 126,)) + length.to_bytes(2, "big")
    else:
        head += bytes((mask | 127,)) + length.to_bytes(8, "big")
    return head + (b"\0\0\0\0" if masked else b"") + payload


class Grammar:
    """Draws frames that are mostly right, in messages that are mostly whole."""

    def __init__(self, seed):
        self.draw = random.Random(seed)
        self.sender = None

    def payload(self):
        draw = self.draw
        kind = draw.random()
        if kind < 0.6:
            return draw.choice(LIKELY)
        if kind < 0.62:
            return draw.choice(PAYLOADS)
        return draw.randbytes(draw.randrange(8)) if kind < 0.7 else bytes(draw.choices(b"abc \xc3\xa4", k=draw.randrange(12)))

    def message(self):
        draw = self.draw
        opcode, payload, rsv = draw.choice((1, 1, 1, 1, 2)), self.payload(), 0
        if self.sender is not None and draw.random() < 0.5:
            payload, rsv = bytes(self.sender.encode(Frame(Opcode.TEXT, payload)).data), 4
        if draw.random() < 0.7:
            return frame(opcode, payload, rsv=rsv)
        places = sorted(draw.randrange(len(payload) + 1) for _ in range(draw.randrange(1, 4)))
        parts = [payload[a:b] for a, b in zip([0, *places], [*places, len(payload)], strict=True)]
        between = draw.choice((b"", b"", frame(9, b"p"), frame(10, b""), frame(9, b"")))
        last = len(parts) - 1
        return between.join(frame(0 if i else opcode, part, fin=i == last, rsv=0 if i else rsv) for i, part in enumerate(parts))

    def control(self):
        draw = self.draw
        kind = draw.randrange(3)
        if kind == 0:
            return frame(9, draw.randbytes(draw.choice((0, 1, 4, 125))))
        if kind == 1:
            return frame(10, b"pong")
        return frame(8, draw.choice((b"", draw.choice(CODES).to_bytes(2, "big") + draw.choice((b"", b"bye", b"\xff")))))

    def broken(self):
        draw = self.draw
        return draw.choice((
            frame(1, b"x", masked=True), frame(draw.randrange(16), b"x"), frame(1, b"x", rsv=draw.randrange(8)), frame(0, b"x"),
            frame(9, b"", fin=False), frame(9, b"x" * 126), frame(8, b"x"), frame(1, b"", length=1 << 63), frame(1, b"", length=1 << 40),
            frame(1, b"short", length=9), b"\x81", b"\x81\x7e", b"\x81\x7e\x00\x05short", b"\x81\x7f\x00",
            draw.randbytes(draw.randrange(1, 13)),
        ))  # fmt: skip

    def case(self):
        draw = self.draw
        deflate = draw.random() < 0.15
        self.sender = PerMessageDeflate(False, False, 15, 15) if deflate else None
        frames = [self.message() if draw.random() < 0.8 else self.control() for _ in range(draw.randrange(6))]
        if draw.random() < 0.4:
            frames.insert(draw.randrange(len(frames) + 1), self.broken())
        data = b"".join(frames)
        if data and draw.random() < 0.2:
            data = data[: draw.randrange(len(data) + 1)]
        if data and draw.random() < 0.2:
            at = draw.randrange(len(data))
            data = data[:at] + bytes((data[at] ^ 1 << draw.randrange(8),)) + data[at + 1 :]
        return data, self.cuts(data), draw.choice(LIMITS), deflate

    def cuts(self, data):
        draw, size = self.draw, len(data)
        if size < 2 or draw.random() < 0.2:
            return []
        if size <= 60 and draw.random() < 0.2:
            return list(range(1, size))
        return sorted({draw.randrange(1, size) for _ in range(draw.randrange(1, 6))})


def run_drawn(cases, seed):
    grammar = Grammar(seed)
    begin = time.monotonic()
    for done in range(1, cases + 1):
        check(*grammar.case())
        if done % 100_000 == 0:
            sys.stderr.write(f"{done} cases, {done / (time.monotonic() - begin):.0f}/s\n")
    return cases


def run_guided(arguments):
    import atheris

    def one(data):
        if len(data) < 2:
            return
        head, count, rest = data[0], data[1] % 8, data[2:]
        cuts = sorted({1 + byte % max(1, len(rest) - count - 1) for byte in rest[:count]}) if len(rest) > count + 1 else []
        check(rest[count:], [at for at in cuts if at < len(rest) - count], LIMITS[head % len(LIMITS)], bool(head & 0x80))

    for owner, name in (
        (Stream, "_readable"), (Stream, "_read_slowly"), (Stream, "_digest"), (Stream, "settle"), (Frames, "messages"), (Frames, "settle"),
        (Protocol, "parse"), (Protocol, "recv_frame"), (ClientProtocol, "parse"),
    ):  # fmt: skip
        setattr(owner, name, atheris.instrument_func(getattr(owner, name)))
    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def main():
    # A library that says what it found wrong with every case would be most of the work.
    logging.disable(logging.CRITICAL)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guided", action="store_true")
    given, rest = parser.parse_known_args()
    if given.guided:
        run_guided(rest)
        return
    sys.stdout.write(f"{run_drawn(given.cases, given.seed)} cases, all the same\n")


main()
