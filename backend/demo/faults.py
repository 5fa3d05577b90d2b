"""The switchboard of faults: which service fails, on which path, how, and how many times."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Self

from backend.demo.answers import JSON_TYPE, Answer, Headers, as_detail, as_json
from backend.demo.event_faults import EVENT_FAULTS, EVENTS_BEFORE, LEAK, Fault, Right, first_pieces
from backend.demo.wire import Exchange

SLOW_BYTE_SECONDS = 0.05
# Time for a client to take the head off its socket before the reset overtakes it.
HEAD_SECONDS = 0.05
HUGE_BYTES = 100 * 1024 * 1024


class UnknownSwitch(ValueError):
    """The switch names a service or fault there is none of, or a combination without meaning."""


@dataclass(frozen=True)
class Switch:
    """A fault on the calls of a service whose path matches; `times` None lasts until it is cleared."""

    service: str
    fault: str
    path: str = "*"
    times: int | None = None

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> Self:
        """Build a switch from JSON; raise UnknownSwitch."""
        try:
            # A person writes {"fault": 500} as readily as {"fault": "500"}.
            switch = cls(**{**fields, "fault": str(fields["fault"])})
        except (KeyError, TypeError) as error:
            raise UnknownSwitch("expected service, fault, and perhaps path and times") from error
        switch._check()
        return switch

    def _check(self) -> None:
        if self.service not in (*SERVICES, *SECOND):
            raise UnknownSwitch(f"no service {self.service!r}; there are {', '.join(SERVICES)}")
        if self.fault not in EVERY_FAULT:
            raise UnknownSwitch(f"no fault {self.fault!r}; there are {', '.join(EVERY_FAULT)}")
        if not isinstance(self.path, str):
            raise UnknownSwitch("path is a text such as /avatar/preview or *")
        if self.times is not None and (type(self.times) is not int or self.times < 1):
            raise UnknownSwitch("times is a whole number above 0, or null")
        if self.fault == "refuse" and (self.path != "*" or self.times is not None):
            raise UnknownSwitch("refuse closes the port: it has no path and no times")

    def covers(self, service: str, path: str) -> bool:
        return self.service == service and fnmatchcase(path, self.path)


class Switchboard:
    """The switches that are on; the latest that covers a call wins."""

    def __init__(self) -> None:
        self._switches: list[Switch] = []

    def put(self, switch: Switch) -> None:
        """Turn a switch on in place of the one for the same service and path."""
        kept = [each for each in self._switches if (each.service, each.path) != (switch.service, switch.path)]
        self._switches = [switch, *kept]

    def clear(self) -> None:
        self._switches = []

    def refuses(self, service: str) -> bool:
        return any(each.fault == "refuse" and each.service == service for each in self._switches)

    def take(self, service: str, path: str) -> str | None:
        """Return the fault for a call and count it off."""
        for place, switch in enumerate(self._switches):
            if switch.covers(service, path):
                self._count_off(place, switch)
                return switch.fault
        return None

    def listed(self) -> list[dict[str, object]]:
        return [asdict(switch) for switch in self._switches]

    def _count_off(self, place: int, switch: Switch) -> None:
        if switch.times == 1:
            del self._switches[place]
        elif switch.times is not None:
            self._switches[place] = replace(switch, times=switch.times - 1)


def _plain(answer: Answer) -> Fault:
    async def fault(exchange: Exchange, right: Right) -> None:
        await exchange.drain()
        await exchange.send(answer)

    return fault


async def _reset(exchange: Exchange, right: Right) -> None:
    exchange.reset()


async def _reset_after_head(exchange: Exchange, right: Right) -> None:
    answer = await right()
    await exchange.start(answer, answer.size)
    await asyncio.sleep(HEAD_SECONDS)
    exchange.reset()


async def _hang(exchange: Exchange, right: Right) -> None:
    await exchange.drain()
    await asyncio.Event().wait()


async def _slow_body(exchange: Exchange, right: Right) -> None:
    answer = await right()
    await exchange.send(replace(answer, body=_dripping(answer), length=answer.size))


async def _dripping(answer: Answer) -> AsyncGenerator[bytes, None]:
    async with aclosing(answer.pieces()) as chunks:
        async for chunk in chunks:
            for byte in chunk:
                yield bytes([byte])
                await asyncio.sleep(SLOW_BYTE_SECONDS)


async def _cut_body(exchange: Exchange, right: Right) -> None:
    answer = await right()
    body = await _known(answer)
    await exchange.start(answer, len(body))
    await exchange.write(body[: len(body) // 2])
    exchange.close()


async def _known(answer: Answer) -> bytes:
    """The body, or the begin of one that has no length: some of those never end."""
    if answer.size is not None:
        return await answer.whole()
    return b"".join(await first_pieces(answer, EVENTS_BEFORE))


async def _cut_chunked(exchange: Exchange, right: Right) -> None:
    answer = await right()
    body = await _known(answer)
    await exchange.start(answer, size=None)
    quarter = max(1, len(body) // 4)
    await exchange.write(body[:quarter])
    await exchange.write(body[quarter : 2 * quarter])
    exchange.close()


async def _not_http(exchange: Exchange, right: Right) -> None:
    await exchange.drain()
    await exchange.write_raw(b"\x16\x03\x01 220 this port does not speak HTTP\r\n\r\n")
    exchange.close()


async def _wrong_length(exchange: Exchange, right: Right) -> None:
    # Written by hand: h11 rightly refuses to send two lengths that differ (RFC 9112, 6.3).
    await exchange.drain()
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nContent-Length: 7\r\n\r\n"
    )
    await exchange.write_raw(head + b'{"a":1}')
    exchange.close()


async def _huge(exchange: Exchange, right: Right) -> None:
    await exchange.drain()
    await exchange.send(Answer(headers=(JSON_TYPE,), body=_blanks(HUGE_BYTES), length=HUGE_BYTES))


async def _blanks(size: int) -> AsyncGenerator[bytes, None]:
    block = b" " * 65536
    for _ in range(size // len(block)):
        yield block


_LOCATION: Headers = ((b"location", b"http://127.0.0.1:1/"),)

SERVICES = ("catalogue", "manager", "instance", "model", "retrieval")
# In a world with second addresses: their faults are their own.
SECOND = ("catalogue-2", "model-2")

# Of any answer; those of event streams come on top.
FAULTS: dict[str, Fault] = {
    # The closed port is the listener's work; a call that was already inside meets a reset.
    "refuse": _reset,
    "reset": _reset,
    "reset-after-head": _reset_after_head,
    "hang": _hang,
    "slow-body": _slow_body,
    "cut-body": _cut_body,
    "cut-chunked": _cut_chunked,
    "code-1": _plain(as_json({"code": -1, "msg": "the avatar is not ready"})),
    "status-error": _plain(as_json({"status": "error", "message": "内部错误"})),
    "500": _plain(as_detail(LEAK, 500)),
    "garbage": _plain(Answer(headers=(JSON_TYPE,), body=b'{"status": \xff\xfe\x00 "succ')),
    "not-http": _not_http,
    "redirect": _plain(Answer(302, _LOCATION)),
    "huge": _huge,
    "wrong-length": _wrong_length,
}
EVERY_FAULT: dict[str, Fault] = FAULTS | EVENT_FAULTS
