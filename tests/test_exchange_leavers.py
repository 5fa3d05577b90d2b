"""What becomes of a view and of its answer when the client leaves, or the server stops."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Response, request, stream_with_context

from backend.asgi import GatewayFlask
from backend.context import inbound
from backend.errors import GatewayError
from backend.patrol import LOOK_SECONDS
from backend.request_body import AHEAD_BYTES
from backend.responses import GatewayResponse
from tests.support.bridge import Body, Client, Waiting, bridged, call, one_view, streaming, waiting_view
from tests.support.peer import until


@pytest.mark.asyncio
async def test_a_client_that_leaves_cancels_its_view_and_the_clean_up_runs(caplog: Any) -> None:
    waiting = Waiting()
    app = waiting_view(waiting)
    client = Client(app.asgi)
    await waiting.began.wait()
    client.leave()
    await client.answered()
    assert waiting.ended == ["cancelled", "cleaned up"]
    assert client.messages == []
    assert app.ended[0].client_gone
    assert caplog.records == []


@pytest.mark.parametrize("chunks", [[], [b"unread"]])
@pytest.mark.asyncio
async def test_a_client_that_leaves_with_its_upload_unread_cancels_its_view(chunks: list[bytes]) -> None:
    waiting = Waiting()
    client = Client(waiting_view(waiting, methods=["POST"]).asgi, "POST", body=None)
    for chunk in chunks:
        client.push(chunk)
    if chunks:
        client.push(b"", more=False)
    await waiting.began.wait()
    client.leave()
    await client.answered()
    assert waiting.ended == ["cancelled", "cleaned up"]


@pytest.mark.parametrize("kind", ["async", "plain"])
@pytest.mark.asyncio
async def test_a_client_that_leaves_while_its_upload_is_read_is_noticed(kind: str, caplog: Any) -> None:
    seen: list[Any] = []
    reading = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def in_async() -> str:
        stream = inbound().body
        assert stream is not None
        try:
            while chunk := await stream.read():
                seen.append(chunk)
                reading.set()
        except GatewayError as error:
            seen.append(error.code)
            raise
        return "whole"

    def in_thread() -> str:
        while chunk := request.stream.read(3):
            seen.append(chunk)
            loop.call_soon_threadsafe(reading.set)
        return "whole"

    app = one_view(in_async if kind == "async" else in_thread, drawn=True, methods=["POST"])
    headers = {"transfer-encoding": "chunked"}
    client = Client(app.asgi, "POST", headers=headers, body=None)
    client.push(b"abc")
    await reading.wait()
    client.leave()
    await client.answered()
    assert seen[0] == b"abc"
    assert app.ended[0].client_gone
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.asyncio
async def test_a_client_that_leaves_with_its_whole_answer_cancels_nothing() -> None:
    after: list[str] = []

    def routes(app: GatewayFlask) -> None:
        @app.get("/")
        async def view() -> GatewayResponse:
            response = GatewayResponse(b"all")
            response.call_on_close(lambda: after.append("closed"))
            return response

    app = bridged(routes)
    client = Client(app.asgi)
    await until(lambda: client.whole)
    client.leave()
    await client.answered()
    assert after == ["closed"]
    assert not app.ended[0].client_gone


@pytest.mark.asyncio
async def test_a_departure_while_a_complete_body_is_being_released_does_not_stop_the_release() -> None:
    slow = asyncio.Event()
    released: list[bool] = []

    class SlowToClose(Body):
        async def aclose(self) -> None:
            await slow.wait()
            released.append(True)

    app = streaming(SlowToClose(b"abc"), (b"content-length", b"3"))
    client = Client(app.asgi)
    await until(lambda: client.whole)
    await asyncio.sleep(3 * LOOK_SECONDS)  # the watcher looks by now
    client.leave()
    await until(lambda: client.undelivered == 1)
    slow.set()
    await client.answered()
    assert released == [True]
    assert not app.ended[0].client_gone


@pytest.mark.asyncio
async def test_a_server_that_stops_cancels_the_view_and_is_told_so() -> None:
    waiting = Waiting()
    client = Client(waiting_view(waiting).asgi)
    await waiting.began.wait()
    client.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client.task
    assert waiting.ended == ["cancelled", "cleaned up"]


@pytest.mark.asyncio
async def test_no_task_outlives_its_request() -> None:
    waiting = Waiting()
    body = Body(b"first", asyncio.Event())
    before = asyncio.all_tasks()
    for app in (waiting_view(waiting).asgi, streaming(body).asgi):
        client = Client(app)
        await asyncio.sleep(3 * LOOK_SECONDS)  # a watcher is at work
        client.leave()
        await client.answered()
    await call(one_view(lambda: "ok").asgi)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


def greeting(log: list[str]) -> Response:
    def steps() -> Iterator[str]:
        try:
            for number in range(3):
                yield f"{request.args['who']}{number} "
        finally:
            log.append(f"closed {request.args['who']}")

    return GatewayResponse(stream_with_context(steps()))


@pytest.mark.parametrize("kind", ["async", "plain"])
@pytest.mark.asyncio
async def test_stream_with_context_keeps_its_request_to_the_end(kind: str) -> None:
    log: list[str] = []

    async def in_async() -> Response:
        return greeting(log)

    app = one_view(in_async if kind == "async" else lambda: greeting(log)).asgi
    client = await call(app, query="who=anna")
    assert client.text == "anna0 anna1 anna2 "
    assert log == ["closed anna"]


@pytest.mark.asyncio
async def test_stream_with_context_is_closed_in_its_request_when_the_client_leaves() -> None:
    log: list[str] = []
    client = Client(one_view(lambda: greeting(log)).asgi, query="who=anna", takes=2)
    await until(lambda: client.text == "anna0 ")
    client.leave()
    await client.answered()
    assert log == ["closed anna"]


@pytest.mark.asyncio
async def test_a_client_that_leaves_while_a_generator_works_closes_it_when_it_is_done() -> None:
    go, log = threading.Event(), []

    def slowly() -> Iterator[str]:
        try:
            yield "first"
            log.append("working")
            go.wait(10)
            yield "second"
        finally:
            log.append("closed")

    app = one_view(lambda: GatewayResponse(slowly()))
    client = Client(app.asgi)
    await until(lambda: log == ["working"])
    client.leave()
    await asyncio.sleep(3 * LOOK_SECONDS)  # the watcher has seen it
    go.set()
    await client.answered()
    assert log == ["working", "closed"]
    assert app.ended[0].client_gone


@pytest.mark.asyncio
async def test_an_upload_that_nobody_takes_is_watched_again() -> None:
    """Its reader stops, as an upstream makes it do that takes nothing; the client leaves meanwhile."""
    ended: list[str] = []
    took = asyncio.Event()

    async def view() -> str:
        stream = inbound().body
        assert stream is not None
        await asyncio.sleep(3 * LOOK_SECONDS)  # the first watch is over
        await stream.read()
        took.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")
        return "never"

    app = one_view(view, methods=["POST"])
    client = Client(app.asgi, "POST", headers={"transfer-encoding": "chunked"}, body=None)
    client.push(b"x" * AHEAD_BYTES)
    await took.wait()
    client.leave()
    await client.answered()
    assert ended == ["cancelled"]
    assert app.ended[0].client_gone


@pytest.mark.asyncio
async def test_a_client_that_takes_nothing_for_long_is_given_up() -> None:
    body = Body(b"one", b"two", b"three")
    app = streaming(body)
    app.asgi.stall_seconds = 0.1
    client = Client(app.asgi, takes=2)
    await client.answered()
    assert (client.body, client.whole, body.closed) == (b"one", False, 1)
    assert app.ended[0].client_gone
