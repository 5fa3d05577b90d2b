"""Answers on their way out, and the end of each: `close` exactly once."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Response

from backend.asgi import GatewayFlask
from backend.errors import GatewayError, UpstreamBroken
from backend.responses import GatewayResponse, StreamedResponse
from tests.support.bridge import Body, Client, bridged, call, one_view, streaming
from tests.support.peer import until

# Bodies on their way out


@pytest.mark.asyncio
async def test_each_chunk_is_sent_as_soon_as_it_is_there() -> None:
    second = asyncio.Event()
    body = Body(b"one", second, b"two")
    client = Client(streaming(body, (b"content-type", b"text/event-stream")).asgi)
    await until(lambda: client.body == b"one")
    assert not client.whole
    second.set()
    await client.answered()
    assert (client.body, client.whole, body.closed) == (b"onetwo", True, 1)


@pytest.mark.asyncio
async def test_a_client_that_takes_nothing_stops_the_reading() -> None:
    body = Body(*[b"x"] * 1000)
    client = Client(streaming(body).asgi)
    client.accepts.clear()
    await asyncio.sleep(0.05)
    assert body.reads == 0  # not even the head is through
    client.accepts.set()
    await until(lambda: body.reads > 0)
    client.accepts.clear()
    at = body.reads
    for _ in range(20):
        await asyncio.sleep(0)
    assert body.reads <= at + 1
    client.accepts.set()
    assert len((await client.answered()).body) == 1000


@pytest.mark.asyncio
async def test_the_last_chunk_of_a_known_length_ends_the_answer_without_an_empty_one() -> None:
    client = await call(streaming(Body(b"ab", b"cd"), (b"content-length", b"4")).asgi)
    assert [(m["body"], m["more_body"]) for m in client.messages[1:]] == [(b"ab", True), (b"cd", False)]


def generator(log: list[str], *, fails: bool = False) -> Iterator[bytes]:
    try:
        for chunk in (b"a", b"b", b"c"):
            log.append(threading.current_thread().name)
            yield chunk
            if fails:
                raise OSError("disk")
    finally:
        log.append("closed")


@pytest.mark.asyncio
async def test_a_generator_of_flasks_kind_is_streamed_from_threads_and_closed() -> None:
    log: list[str] = []

    async def view() -> Response:
        return GatewayResponse(generator(log), mimetype="text/plain")

    client = await call(one_view(view).asgi)
    assert [m["body"] for m in client.messages[1:]] == [b"a", b"b", b"c", b""]
    assert log.count("closed") == 1
    assert threading.current_thread().name not in log


@pytest.mark.asyncio
async def test_a_blocking_generator_keeps_nobody_waiting() -> None:
    go = threading.Event()

    def slowly() -> Iterator[str]:
        yield "first"
        go.wait(10)
        yield "last"

    def routes(app: GatewayFlask) -> None:
        app.add_url_rule("/slow", "slow", lambda: GatewayResponse(slowly()))
        app.add_url_rule("/", "quick", lambda: "quick")

    app = bridged(routes).asgi
    slow = Client(app, path="/slow")
    await until(lambda: slow.body == b"first")
    assert (await call(app)).text == "quick"
    go.set()
    assert (await slow.answered()).body == b"firstlast"


@pytest.mark.asyncio
async def test_text_bytes_and_lists_are_sent_whole_with_their_length() -> None:
    for content in ("añb", "añb".encode(), ["a", "ñ", "b"]):
        client = await call(one_view(lambda content=content: GatewayResponse(content)).asgi)
        assert client.text == "añb"
        assert client.headers["content-length"] == "4"
        assert client.whole


# `close` exactly once


class Closing:
    """A response of each kind that counts how often it is closed."""

    def __init__(self, kind: str, steps: tuple[Any, ...], status: int) -> None:
        self.count = 0
        self.body = Body(*steps)
        self.log: list[str] = []
        if kind == "streamed":
            self.response: GatewayResponse = StreamedResponse(status, [], self.body)
        elif kind == "generator":
            self.response = GatewayResponse(generator(self.log), status=status)
        else:
            self.response = GatewayResponse(b"abc", status=status)
        self.response.call_on_close(self._closed)

    def _closed(self) -> None:
        self.count += 1


@pytest.mark.parametrize("kind", ["streamed", "generator", "whole"])
@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 200), ("GET", 304), ("GET", 204)])
@pytest.mark.asyncio
async def test_a_response_is_closed_once_and_bodyless_ones_send_nothing(
    kind: str, method: str, status: int
) -> None:
    made = Closing(kind, (b"abc",), status)

    async def view() -> GatewayResponse:
        return made.response

    client = await call(one_view(view).asgi, method)
    assert made.count == 1
    assert made.body.closed == (kind == "streamed")
    assert (client.status, client.whole) == (status, True)
    assert client.body == (b"abc" if (method, status) == ("GET", 200) else b"")
    if method == "HEAD" or status != 200:
        assert made.body.reads == 0
        assert made.log == []  # never started
        assert len(client.messages) == 2


@pytest.mark.asyncio
async def test_head_keeps_the_length_that_get_would_have() -> None:
    client = await call(streaming(Body(b"abc"), (b"content-length", b"3")).asgi, "HEAD")
    assert (client.headers["content-length"], client.body) == ("3", b"")


@pytest.mark.parametrize("error", [UpstreamBroken(), RuntimeError("bug")])
@pytest.mark.asyncio
async def test_a_body_that_breaks_leaves_the_answer_unfinished_and_is_closed_once(error: Exception) -> None:
    body = Body(b"first", error)
    app = streaming(body)
    client = Client(app.asgi)
    # What is no GatewayError is a bug: the server breaks the connection and logs it.
    with contextlib.suppress(RuntimeError):
        await client.answered()
    assert client.body == b"first"
    assert not client.whole
    assert body.closed == 1
    assert len(app.ended) == 1
    assert app.ended[0].broken is (error if isinstance(error, GatewayError) else None)


@pytest.mark.asyncio
async def test_a_generator_that_breaks_leaves_the_answer_unfinished_and_is_closed() -> None:
    log: list[str] = []
    client = Client(one_view(lambda: GatewayResponse(generator(log, fails=True))).asgi)
    with pytest.raises(OSError, match="disk"):
        await client.answered()
    assert client.body == b"a"
    assert not client.whole
    assert log.count("closed") == 1


@pytest.mark.asyncio
async def test_a_client_that_leaves_midway_closes_the_body_once() -> None:
    body = Body(b"first", asyncio.Event())
    app = streaming(body)
    client = Client(app.asgi)
    await until(lambda: client.body == b"first")
    client.leave()
    await client.answered()
    assert body.closed == 1
    assert app.ended[0].client_gone


@pytest.mark.asyncio
async def test_a_client_that_left_before_the_answer_began_closes_the_body_once() -> None:
    body = Body(b"never sent")
    client = Client(streaming(body).asgi)
    client.accepts.clear()
    client.leave()
    await client.answered()
    assert (client.messages, body.reads, body.closed) == ([], 0, 1)


@pytest.mark.asyncio
async def test_a_response_that_a_hook_throws_away_is_closed() -> None:
    """A hook that fails after the view must not leak the view's upstream call."""
    body = Body(b"x")

    def routes(app: GatewayFlask) -> None:
        @app.get("/")
        async def view() -> GatewayResponse:
            return StreamedResponse(200, [], body)

        @app.teardown_request
        def fails(error: BaseException | None) -> None:
            raise LookupError("teardown")

    client = Client(bridged(routes).asgi)
    with contextlib.suppress(LookupError):
        await client.answered()
    assert body.closed == 1
