"""Upstreams that lie, stall and break off: one table, for every way into the gateway.

Each attack answers one call. What must come of it: an error of the gateway, a body that is seen to be cut, or
an answer that is whole after all.
"""

import asyncio
import gzip
from collections.abc import Mapping
from dataclasses import dataclass

from .peer import Exchange, Script

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
GARBAGE = frozenset({"upstream_garbage"})
BROKEN = frozenset({"upstream_broken"})
EITHER = GARBAGE | BROKEN
LATE = frozenset({"upstream_first_byte_timeout"})
STREAM_SECONDS = 5.0


@dataclass(frozen=True)
class Attack:
    """A script, and what must come of it: one of these error codes, a cut body, or a whole one.

    `poisons`: what it says beyond the answer must end the connection. `hangs`: only a limit of time ends it.
    """

    script: Script
    codes: frozenset[str] = frozenset()
    cut: bool = False
    whole: bytes | None = None
    method: str = "GET"
    poisons: bool = False
    hangs: bool = False


def says(*parts: bytes, then: str = "close", pause: float = 0.0) -> Script:
    """Answer with these bytes, then close, reset or hold the connection."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        for part in parts:
            await exchange.send(part)
            if pause:
                await asyncio.sleep(pause)
        if then == "close":
            exchange.writer.close()
        elif then == "reset":
            await asyncio.sleep(0.02)  # a reset overtakes what was sent
            exchange.reset()
        elif then == "hold":
            await exchange.client_left()

    return script


def endless(start: bytes, more: bytes) -> Script:
    """Say `more` again and again until the other side has enough of it."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.send(start)
        async with asyncio.timeout(STREAM_SECONDS):
            while not exchange.writer.is_closing():
                await exchange.send(more)
                await asyncio.sleep(0)
        raise AssertionError("it was listened to")

    return script


def nonsense(raw: bytes) -> Attack:
    """An answer that must not be understood, with the connection held so that nothing else ends it."""
    return Attack(says(raw, then="hold"), GARBAGE)


def with_head(lines: bytes, body: bytes = b"hello") -> Attack:
    return nonsense(OK + lines + b"\r\n" + body)


def chunks(raw: bytes) -> Attack:
    """A body whose framing breaks after its head."""
    return Attack(says(CHUNKED + raw, then="hold"), EITHER, cut=True)


def hanging(*parts: bytes, pause: float = 0.0, cut: bool = False) -> Attack:
    """An answer that stops and holds the connection."""
    return Attack(says(*parts, then="hold", pause=pause), LATE, cut=cut, hangs=True)


FRAMING: Mapping[str, Attack] = {
    "two lengths": with_head(b"Content-Length: 5\r\nContent-Length: 6\r\n"),
    "two lengths in one line": with_head(b"Content-Length: 5, 6\r\n"),
    "both framings": with_head(
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"
    ),
    "both framings, other order": with_head(
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"5\r\nhello\r\n0\r\n\r\n"
    ),
    "negative length": with_head(b"Content-Length: -5\r\n"),
    "length of 20 digits": with_head(b"Content-Length: 99999999999999999999\r\n"),
    "hexadecimal length": with_head(b"Content-Length: 0x5\r\n"),
    "length with a sign": with_head(b"Content-Length: +5\r\n"),
    "empty length": with_head(b"Content-Length: \r\n"),
    "length in two words": with_head(b"Content-Length: 5 5\r\n"),
    "unknown coding": with_head(b"Transfer-Encoding: gzip\r\n"),
    "chunked not last": with_head(b"Transfer-Encoding: chunked, gzip\r\n"),
    "packed below the chunks": with_head(b"Transfer-Encoding: gzip, chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    "chunked twice": with_head(
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"
    ),
    "nearly chunked": with_head(b"Transfer-Encoding: xchunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    "chunked in HTTP/1.0": nonsense(
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    ),
    "chunk size of a letter": chunks(b"5\r\nhello\r\ng\r\nhello\r\n"),
    "negative chunk size": chunks(b"5\r\nhello\r\n-1\r\n"),
    "chunk size with 0x": chunks(b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk size over 64 bits": chunks(b"fffffffffffffffff\r\nhello\r\n"),
    "chunk longer than it says": chunks(b"4\r\nhello\r\n0\r\n\r\n"),
    "chunk without its end": chunks(b"5\r\nhello0\r\n\r\n"),
    "chunk size with a bare LF": chunks(b"5\nhello\n0\n\n"),
    "empty chunk size": chunks(b"\r\n"),
    "trailer without a colon": chunks(b"5\r\nhello\r\n0\r\nno colon\r\n\r\n"),
    "trailer that names a length": chunks(b"5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n"),
    "trailer that sets a cookie": Attack(
        says(CHUNKED + b"5\r\nhello\r\n0\r\nX-Evil: 1\r\nSet-Cookie: a=b\r\n\r\n"), whole=b"hello"
    ),
    "length too long": Attack(says(OK + b"Content-Length: 10\r\n\r\nhello"), cut=True),
    "length too short": Attack(
        says(OK + b"Content-Length: 3\r\n\r\nhello", then="wait"), whole=b"hel", poisons=True
    ),
    "chunked without its last": Attack(says(CHUNKED + b"5\r\nhello\r\n"), cut=True),
    "body to the end, reset": Attack(says(OK + b"\r\nhello", then="reset"), cut=True),
}

HEADS: Mapping[str, Attack] = {
    "header without a colon": with_head(b"nonsense\r\nContent-Length: 5\r\n"),
    "space before the colon": with_head(b"X : a\r\nContent-Length: 5\r\n"),
    "folded header": with_head(b"X: a\r\n b\r\nContent-Length: 5\r\n"),
    "folded first header": with_head(b" X: a\r\nContent-Length: 5\r\n"),
    "NUL in a value": with_head(b"X: a\0b\r\nContent-Length: 5\r\n"),
    "NUL in a name": with_head(b"X\0: a\r\nContent-Length: 5\r\n"),
    "bare CR in a value": with_head(b"X: a\rSet-Cookie: b\r\nContent-Length: 5\r\n"),
    "control character in a value": with_head(b"X: a\x01b\r\nContent-Length: 5\r\n"),
    "header without a name": with_head(b": a\r\nContent-Length: 5\r\n"),
    "bare LF ends lines": nonsense(b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"),
    "status 000": nonsense(b"HTTP/1.1 000 None\r\nContent-Length: 5\r\n\r\nhello"),
    "status 99": nonsense(b"HTTP/1.1 99 Low\r\nContent-Length: 5\r\n\r\nhello"),
    "status 099": nonsense(b"HTTP/1.1 099 Low\r\nContent-Length: 5\r\n\r\nhello"),
    "status 600": nonsense(b"HTTP/1.1 600 High\r\nContent-Length: 5\r\n\r\nhello"),
    "status 1000": nonsense(b"HTTP/1.1 1000 High\r\nContent-Length: 5\r\n\r\nhello"),
    "status 2O0": nonsense(b"HTTP/1.1 2O0 OK\r\nContent-Length: 5\r\n\r\nhello"),
    "status -20": nonsense(b"HTTP/1.1 -20 OK\r\nContent-Length: 5\r\n\r\nhello"),
    "no status": nonsense(b"HTTP/1.1 \r\nContent-Length: 5\r\n\r\nhello"),
    "HTTP/3.0 in words": nonsense(b"HTTP/3.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    "HTTP/0.9": Attack(says(b"<html>hello</html>"), GARBAGE),
    "HTTP/2 preface": nonsense(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/2 settings": nonsense(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
    "TLS alert": nonsense(b"\x15\x03\x01\x00\x02\x02\x0a"),
    "mail server": nonsense(b"220 mail.test ESMTP ready\r\n"),
    "random bytes": nonsense(bytes(range(128, 256)) * 4),
    "a request instead": nonsense(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"),
    "unasked switch of protocol": nonsense(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nhello"
    ),
    "endless headers": Attack(endless(OK, b"X-More: " + b"a" * 1000 + b"\r\n"), GARBAGE),
    "endless header line": Attack(endless(OK + b"X: ", b"a" * 4000), GARBAGE),
    "endless status line": Attack(endless(b"HTTP/1.1 200 ", b"a" * 4000), GARBAGE),
    "endless interim answers": Attack(endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 40), GARBAGE),
    "endless early hints": Attack(
        endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </" + b"a" * 900 + b">\r\n\r\n"), GARBAGE
    ),
    "endless trailers": Attack(
        endless(CHUNKED + b"5\r\nhello\r\n0\r\n", b"X: " + b"a" * 1000 + b"\r\n"), EITHER, cut=True
    ),
    "endless chunk extension": Attack(endless(CHUNKED + b"5\r\nhello\r\n5;", b"a" * 4000), EITHER, cut=True),
}

SILENCE: Mapping[str, Attack] = {
    "closed at once": Attack(says(b""), BROKEN),
    "reset at once": Attack(says(b"", then="reset"), BROKEN),
    "hangs before the head": hanging(b""),
    "hangs in the status line": hanging(b"HTTP/1.1 2"),
    "hangs in the head": hanging(OK + b"Content-Le"),
    "hangs after an interim answer": hanging(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "head byte by byte": hanging(*[bytes([byte]) for byte in OK + b"X: " + b"a" * 400], pause=0.02),
    "hangs after the head": hanging(OK + b"Content-Length: 5\r\n\r\n", cut=True),
    "hangs in the body": hanging(OK + b"Content-Length: 5\r\n\r\nhel", cut=True),
    "hangs before the last chunk": hanging(CHUNKED + b"5\r\nhello\r\n", cut=True),
    "hangs amid a body to the end": hanging(OK + b"\r\nhello", cut=True),
    "reset after the head": Attack(says(OK + b"Content-Length: 5\r\n\r\n", then="reset"), cut=True),
    "whole, byte by byte": Attack(
        says(*[bytes([b]) for b in OK + b"Content-Length: 5\r\n\r\nhello"], then="wait", pause=0.002),
        whole=b"hello",
    ),
}

# What comes after an answer is nobody's.
AFTERWARDS: Mapping[str, Attack] = {
    "bytes after the answer": Attack(
        says(OK + b"Content-Length: 2\r\n\r\nok", b"and more", then="wait"), whole=b"ok", poisons=True
    ),
    "bytes after it, a moment later": Attack(
        says(OK + b"Content-Length: 2\r\n\r\nok", b"", b"and more", then="wait", pause=0.01),
        whole=b"ok",
        poisons=True,
    ),
    "second answer in one piece": Attack(
        says((OK + b"Content-Length: 2\r\n\r\nok") + (OK + b"Content-Length: 4\r\n\r\nevil"), then="wait"),
        whole=b"ok",
        poisons=True,
    ),
    "second answer on the kept connection": Attack(
        says(
            OK + b"Content-Length: 2\r\n\r\nok",
            OK + b"Content-Length: 4\r\n\r\nevil",
            then="wait",
            pause=0.01,
        ),
        whole=b"ok",
        poisons=True,
    ),
    "bytes after the last chunk": Attack(
        says(CHUNKED + b"2\r\nok\r\n0\r\n\r\n", OK + b"Content-Length: 4\r\n\r\nevil", then="wait"),
        whole=b"ok",
        poisons=True,
    ),
    "HEAD with a body": Attack(
        says(OK + b"Content-Length: 5\r\n\r\n", b"hello", then="wait"), whole=b"", method="HEAD", poisons=True
    ),
    "204 with a body": Attack(
        says(b"HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\n", b"hello", then="wait"),
        whole=b"",
        poisons=True,
    ),
    "304 with a body": Attack(
        says(b"HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n", b"hello", then="wait"),
        whole=b"",
        poisons=True,
    ),
    "204 with chunks": Attack(
        says(b"HTTP/1.1 204 None\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n", then="wait"),
        whole=b"",
        poisons=True,
    ),
    "gzip that is none": Attack(
        says(OK + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", then="wait"), whole=b"hello"
    ),
    "gzip cut short, told whole": Attack(
        says(OK + b"Content-Encoding: gzip\r\nContent-Length: 20\r\n\r\n" + gzip.compress(b"hello" * 9)[:20]),
        whole=gzip.compress(b"hello" * 9)[:20],
    ),
    "line ends in a value, encoded": Attack(
        says(OK + b"X: a%0d%0aSet-Cookie: evil=1\r\nContent-Length: 2\r\n\r\nok", then="wait"), whole=b"ok"
    ),
}

ATTACKS: Mapping[str, Attack] = {**FRAMING, **HEADS, **SILENCE, **AFTERWARDS}

# One answer in each framing, to be cut at every byte; the last is cut unseen by its nature, unless reset.
SAMPLES: Mapping[str, bytes] = {
    "length": OK + b"X-A: b\r\nContent-Length: 12\r\n\r\nhello, world",
    "chunks": CHUNKED + b"5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\nX-T: u\r\n\r\n",
    "end": OK + b"X-A: b\r\n\r\nhello, world",
}
SAMPLE_BODY = b"hello, world"
