"""Whatever an upstream does, work that must not be done twice is sent once."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import UpstreamError
from backend.services.forwarding import Forwarder, Inbound, Rules, Upstream
from backend.services.headers import Origin
from backend.services.streams import read_whole

from ..support.bridge import Body
from ..support.peer import Exchange, Peer
from ..support.upstream import GENEROUS, client_of

ORIGIN = Origin("192.0.2.7", "http", b"gateway.test", "1.1", "0123456789abcdef")
WITH_BODY = ("POST", "PUT", "PATCH")


def request(method: str, number: int) -> Inbound:
    body = Body(b"abc") if method in WITH_BODY else None
    lines = [(b"content-length", b"3")] if body else []
    return Inbound(method, b"/", b"", lines, body, replace(ORIGIN, request_id=f"call-{number}-of-{method}"))


@settings(deadline=None, max_examples=25)
@given(
    calls=st.lists(st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"]), min_size=1, max_size=12),
    fate=st.lists(st.sampled_from(["ok", "reset", "close", "cut", "503", "late reset"]), max_size=30),
    two=st.booleans(),
)
def test_random_failures_never_repeat_a_post(calls: list[str], fate: list[str], two: bool) -> None:
    async def unlucky(exchange: Exchange) -> None:
        await exchange.body()
        match fate.pop(0) if fate else "ok":
            case "reset":
                exchange.reset()
            case "late reset":
                await asyncio.sleep(0.001)
                exchange.reset()
            case "close":
                exchange.writer.close()
            case "cut":
                await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Le")
                exchange.writer.close()
            case "503":
                await exchange.reply(b"no", status=b"503 Busy")
            case _:
                await exchange.reply(b"yes")

    async def story() -> None:
        async with client_of("direct") as client, Peer(unlucky) as one, Peer(unlucky) as other:
            forwarder = Forwarder(client)
            upstream = Upstream.at("x", *([one.url, other.url] if two else [one.url]))
            for number, method in enumerate(calls):
                with contextlib.suppress(UpstreamError):
                    answer = await forwarder.forward(request(method, number), upstream, b"/", Rules(GENEROUS))
                    await read_whole(answer.body, 100)
            seen = Counter(head.get(b"x-request-id") for head in one.heads + other.heads)
            for request_id, times in seen.items():
                once = request_id is not None and request_id.endswith((b"POST", b"PATCH"))
                assert times <= (1 if once else 2), request_id

    asyncio.run(story())
