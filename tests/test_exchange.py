import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Response, request, stream_with_context

from backend.asgi import GatewayFlask
from backend.context import inbound
from backend.errors import GatewayError, UpstreamBroken
from backend.patrol import LOOK_SECONDS
from backend.request_body import AHEAD_BYTES
from backend.responses import GatewayResponse, StreamedResponse
from tests.support.bridge import (
    Body,
    Client,
    Waiting,
    bridged,
    call,
    one_view,
    streaming,
    waiting_view,
)
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


# The client leaves


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
