"""The cases of RFC 6455, by section: what a client sends to an echo, and what has to come back."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.support.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    close,
    frame,
)

# Close codes that a peer may answer with; 1002 is for the protocol, 1007 for what is no UTF-8.
PROTOCOL, TEXT_BROKEN, TOO_BIG = 1002, 1007, 1009
LIMIT_BYTES = 1 << 20


@dataclass(frozen=True)
class Case:
    """`sent` in pieces, each a write of its own; the messages and pongs that come back; the close code.

    Where `code` is None the client closes with 1000 once all has come back.
    """

    name: str
    sent: tuple[bytes, ...]
    back: tuple[Frame, ...] = ()
    code: int | None = None


def echoed(name: str, opcode: int, payload: bytes, *sent: bytes) -> Case:
    return Case(name, sent or (frame(opcode, payload),), (Frame(opcode, payload),))


def chopped(raw: bytes, size: int) -> tuple[bytes, ...]:
    return tuple(raw[at : at + size] for at in range(0, len(raw), size))


def fragments(opcode: int, *parts: bytes) -> tuple[bytes, ...]:
    last = len(parts) - 1
    return tuple(
        frame(CONTINUATION if number else opcode, part, final=number == last)
        for number, part in enumerate(parts)
    )


PINGED = (frame(PING, b"after"),)
SIZES = (0, 1, 125, 126, 127, 128, 65535, 65536, 65537, 200_000, LIMIT_BYTES)

FRAMING = [
    *(
        echoed(f"{kind} of {size} bytes", opcode, fill * size)
        for size in SIZES
        for kind, opcode, fill in (("text", TEXT, b"*"), ("binary", BINARY, b"\xfe"))
    ),
    *(
        echoed(
            f"{size} bytes in chops of {chop}",
            opcode,
            b"x" * size,
            *chopped(frame(opcode, b"x" * size), chop),
        )
        for opcode in (TEXT, BINARY)
        for size, chop in ((125, 1), (300, 7), (66_000, 997), (200_000, 32_768))
    ),
    echoed("a key of zeros", BINARY, b"abc", frame(BINARY, b"abc", mask=bytes(4))),
    Case(
        "many messages in one write",
        (b"".join(frame(TEXT, b"%d" % number) for number in range(500)),),
        tuple(Frame(TEXT, b"%d" % number) for number in range(500)),
    ),
    Case("a frame that is not masked", (frame(TEXT, b"x", mask=None),), code=PROTOCOL),
    Case("a length of two bytes that fits one", (b"\x82\xfe\x00\x7d" + bytes(4 + 125),), code=PROTOCOL),
    Case(
        "a length of eight bytes that fits two",
        (b"\x82\xff" + (65535).to_bytes(8) + bytes(4),),
        code=PROTOCOL,
    ),
    Case("a length with its first bit set", (b"\x82\xff\x80" + bytes(7) + bytes(4),), code=PROTOCOL),
]

PINGS = [
    *(
        Case(f"a ping of {size} bytes", (frame(PING, b"p" * size),), (Frame(PONG, b"p" * size),))
        for size in (0, 1, 8, 124, 125)
    ),
    Case("a binary ping", (frame(PING, b"\x00\xff\xfe\xfd"),), (Frame(PONG, b"\x00\xff\xfe\xfd"),)),
    Case("a ping of 126 bytes", (frame(PING, bytes(126)),), code=PROTOCOL),
    Case("a ping in single bytes", chopped(frame(PING, b"slow"), 1), (Frame(PONG, b"slow"),)),
    Case("an unasked pong", (frame(PONG), *PINGED), (Frame(PONG, b"after"),)),
    Case("an unasked pong with content", (frame(PONG, b"why"), *PINGED), (Frame(PONG, b"after"),)),
    Case(
        "ten pings at once",
        (b"".join(frame(PING, b"%d" % number) for number in range(10)),),
        tuple(Frame(PONG, b"%d" % number) for number in range(10)),
    ),
]

RESERVED = [
    *(
        Case(f"reserved bits {bits} on a text", (frame(TEXT, b"x", reserved=bits),), code=PROTOCOL)
        for bits in range(1, 8)
    ),
    *(
        Case(f"reserved bit {bits} on opcode {opcode}", (frame(opcode, b"", reserved=bits),), code=PROTOCOL)
        for bits in (1, 4)
        for opcode in (PING, PONG, CLOSE, BINARY)
    ),
    *(
        Case(f"opcode {opcode}", (frame(opcode, content),), code=PROTOCOL)
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
        for content in (b"", b"x")
    ),
    Case(
        "a message, then a reserved bit",
        (frame(TEXT, b"good") + frame(TEXT, b"bad", reserved=2) + frame(PING),),
        (Frame(TEXT, b"good"),),
        PROTOCOL,
    ),
]

FRAGMENTS = [
    echoed("two parts", TEXT, b"onetwo", *fragments(TEXT, b"one", b"two")),
    echoed("two parts in one write", BINARY, b"onetwo", b"".join(fragments(BINARY, b"one", b"two"))),
    echoed("empty parts", TEXT, b"", *fragments(TEXT, b"", b"", b"")),
    echoed("an empty first and last part", TEXT, b"middle", *fragments(TEXT, b"", b"middle", b"")),
    echoed(
        "parts beyond a whole frame",
        BINARY,
        b"y" * 300_000,
        *fragments(BINARY, b"y" * 150_000, b"y" * 150_000),
    ),
    echoed("a thousand parts", BINARY, b"z" * 1000, b"".join(fragments(BINARY, *[b"z"] * 1000))),
    Case("a fragmented ping", (frame(PING, b"x", final=False),), code=PROTOCOL),
    Case("a fragmented pong", (frame(PONG, b"x", final=False),), code=PROTOCOL),
    Case("a fragmented close", (frame(CLOSE, b"\x03\xe8", final=False),), code=PROTOCOL),
    Case(
        "a ping between two parts",
        (frame(TEXT, b"one", final=False), frame(PING, b"between"), frame(CONTINUATION, b"two")),
        (Frame(PONG, b"between"), Frame(TEXT, b"onetwo")),
    ),
    Case("a continuation of nothing", (frame(CONTINUATION, b"x"),), code=PROTOCOL),
    Case("a continuation of nothing, not final", (frame(CONTINUATION, b"x", final=False),), code=PROTOCOL),
    Case(
        "a continuation after a whole message",
        (frame(TEXT, b"whole"), frame(CONTINUATION, b"x")),
        (Frame(TEXT, b"whole"),),
        PROTOCOL,
    ),
    Case(
        "a message within a message", (frame(TEXT, b"one", final=False), frame(TEXT, b"two")), code=PROTOCOL
    ),
    Case("a binary within a text", (frame(TEXT, b"one", final=False), frame(BINARY, b"two")), code=PROTOCOL),
]

GOOD_TEXTS = (
    "κόσμε", "héllo wörld", "日本語テキスト", "😀🎉", "\x00", "\u007f", "\u0080", "\u07ff", "\u0800",
    "\ud7ff", "\ue000", "\ufffd", "\uffff", "\U00010000", "\U0010ffff", "\ufeff",
)  # fmt: skip
BAD_TEXTS = (
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",  # a surrogate
    b"\x80", b"\xbf", b"\xc0\xaf", b"\xc1\xbf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x88\x80\x80\x80",
    b"\xfc\x84\x80\x80\x80\x80", b"\xfe", b"\xff", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf4\x90\x80\x80",
    b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"good until here \xe2\x28\xa1", b"\x20\xc3\x20",
)  # fmt: skip

UTF8 = [
    *(echoed(f"text {text!r}", TEXT, text.encode()) for text in GOOD_TEXTS),
    *(
        echoed(
            f"text {text!r} in single bytes",
            TEXT,
            text.encode(),
            *fragments(TEXT, *chopped(text.encode(), 1)),
        )
        for text in GOOD_TEXTS
    ),
    *(Case(f"bad text {bad!r}", (frame(TEXT, bad),), code=TEXT_BROKEN) for bad in BAD_TEXTS),
    *(
        Case(f"bad text {bad!r} in single bytes", fragments(TEXT, *chopped(bad, 1), b""), code=TEXT_BROKEN)
        for bad in BAD_TEXTS
    ),
    *(echoed(f"binary {bad!r}", BINARY, bad) for bad in BAD_TEXTS),
    Case(
        "a bad fragment ends it before the last one comes",
        fragments(TEXT, b"good", b"\xff", b"")[:2],
        code=TEXT_BROKEN,
    ),
    Case(
        "a bad text of many frames' length",
        (frame(TEXT, b"a" * 99_999 + b"\xff" + b"a" * 99_999),),
        code=TEXT_BROKEN,
    ),
    echoed("a character across two pieces of a large frame", TEXT, "é".encode() * 100_000),
]

CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
NO_CODES = (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)

CLOSES = [
    *(Case(f"close code {code}", (close(code),), code=code) for code in CODES),
    *(Case(f"close code {code}, which may not be sent", (close(code),), code=PROTOCOL) for code in NO_CODES),
    Case("no close code", (frame(CLOSE),), code=1005),
    Case("half a close code", (frame(CLOSE, b"\x03"),), code=PROTOCOL),
    Case("a reason of 123 bytes", (close(1000, b"r" * 123),), code=1000),
    Case("a reason of 124 bytes", (close(1000, b"r" * 124),), code=PROTOCOL),
    Case("a reason that is no UTF-8", (close(1000, b"\xce\xba\xff"),), code=TEXT_BROKEN),
    Case("a close twice", (close(1000) + close(1001),), code=1000),
    Case("a message after the close", (close(1000) + frame(TEXT, b"late"),), code=1000),
    Case("a close amid a message", (frame(TEXT, b"half", final=False), close(1000)), code=1000),
    Case("a message, then the close", (frame(TEXT, b"last") + close(1000),), (Frame(TEXT, b"last"),), 1000),
]

LIMITS = [
    Case("a message over the limit", (frame(BINARY, bytes(LIMIT_BYTES + 1))[:14],), code=TOO_BIG),
    Case(
        "fragments over the limit together",
        fragments(BINARY, bytes(LIMIT_BYTES // 2), bytes(LIMIT_BYTES // 2), b"x"),
        code=TOO_BIG,
    ),
    Case("a length that no machine has", (b"\x82\xff\x7f" + b"\xff" * 7 + bytes(4),), code=TOO_BIG),
]


def made_up(seed: int, count: int) -> Sequence[Case]:
    """Return messages of chance, cut anywhere, with control frames in between."""
    chance = random.Random(seed)
    cases = []
    for number in range(count):
        opcode = chance.choice((TEXT, BINARY))
        size = chance.choice((0, 3, 130, 5000, 70_000, 150_000))
        payload = bytes(chance.randrange(32, 127) for _ in range(min(size, 500))) * (size // 500 + 1)
        cuts = sorted(chance.randrange(len(payload) + 1) for _ in range(chance.randrange(5)))
        edges = [0, *cuts, len(payload)]
        raw, pongs = b"", []
        for part in fragments(opcode, *(payload[a:b] for a, b in itertools.pairwise(edges))):
            raw += part
            if chance.random() < 0.3:
                raw += frame(PING, b"%d" % len(pongs), mask=chance.randbytes(4))
                pongs.append(Frame(PONG, b"%d" % len(pongs)))
        pieces = chopped(raw, chance.choice((1000, 4096, 70_000, len(raw) or 1)))
        cases.append(Case(f"made up {seed}/{number}", pieces, (*pongs, Frame(opcode, payload))))
    return cases


SECTIONS: Mapping[str, Sequence[Case]] = {
    "framing": FRAMING,
    "pings": PINGS,
    "reserved": RESERVED,
    "fragments": FRAGMENTS,
    "utf8": UTF8,
    "closes": CLOSES,
    "limits": LIMITS,
    "made up": made_up(6455, 40),
}
