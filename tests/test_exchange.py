import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Response, request, stream_with_context

from backend.asgi import GatewayFlask
from backend.context import inbound
from backend.errors import ClientGone, GatewayError, UpstreamBroken
from backend.patrol import LOOK_SECONDS
from backend.request_body import AHEAD_BYTES, RequestBody
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


# The request body on its own


POST = {"http_version": "1.1", "method": "POST", "headers": []}
POST_OF_FIVE = POST | {"headers": [(b"content-length", b"5")]}
HTTP2_POST = POST | {"http_version": "2"}


class Wire:
    """What a server would deliver; counts who waits for it."""

    def __init__(self) -> None:
        self.coming: asyncio.Queue[Any] = asyncio.Queue()
        self.readers = self.most_readers = 0

    async def receive(self) -> Any:
        self.readers += 1
        self.most_readers = max(self.most_readers, self.readers)
        try:
            return await self.coming.get()
        finally:
            self.readers -= 1

    def push(self, chunk: bytes, *, more: bool = True) -> None:
        self.coming.put_nowait({"type": "http.request", "body": chunk, "more_body": more})

    def leave(self) -> None:
        self.coming.put_nowait({"type": "http.disconnect"})


@pytest.mark.asyncio
async def test_a_body_gives_its_chunks_and_then_its_end_for_ever() -> None:
    wire = Wire()
    body = RequestBody(POST, wire.receive, lambda: None)
    for chunk in (b"a", b"", b"b"):
        wire.push(chunk)
    wire.push(b"c", more=False)
    assert [await body.read() for _ in range(5)] == [b"a", b"b", b"c", b"", b""]
    assert body.ended


@pytest.mark.asyncio
async def test_the_watcher_takes_in_a_bounded_part_of_an_unread_body() -> None:
    wire = Wire()
    body = RequestBody(POST, wire.receive, lambda: None)
    for _ in range(100):
        wire.push(b"x" * 10_000)
    body.watch()
    await until(lambda: wire.readers == 0 and wire.coming.qsize() < 100)
    for _ in range(20):
        await asyncio.sleep(0)
    assert wire.coming.qsize() == 100 - AHEAD_BYTES // 10_000 - 1
    body.close()


@pytest.mark.asyncio
async def test_the_watcher_sees_the_departure_behind_a_small_unread_body() -> None:
    wire, left = Wire(), asyncio.Event()
    body = RequestBody(POST, wire.receive, left.set)
    wire.push(b"unread")
    wire.push(b"", more=False)
    wire.leave()
    body.watch()
    await asyncio.wait_for(left.wait(), 5)
    assert body.gone


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.asyncio
async def test_reader_and_watcher_take_turns_and_lose_nothing(seed: int) -> None:
    dice = random.Random(seed)
    wire = Wire()
    body = RequestBody(POST, wire.receive, lambda: None)
    sent = [bytes([number]) * dice.randrange(30_000) for number in range(60)]

    async def watch_now_and_then() -> None:
        while True:
            body.watch()
            for _ in range(dice.randrange(5)):
                await asyncio.sleep(0)

    async def write() -> None:
        for chunk in sent:
            for _ in range(dice.randrange(5)):
                await asyncio.sleep(0)
            wire.push(chunk)
        wire.push(b"", more=False)

    watching, writing = asyncio.create_task(watch_now_and_then()), asyncio.create_task(write())
    got = []
    async with asyncio.timeout(10):
        while chunk := await body.read():
            got.append(chunk)
            for _ in range(dice.randrange(5)):
                await asyncio.sleep(0)
        await writing
    watching.cancel()
    body.close()
    assert got == [chunk for chunk in sent if chunk]
    assert wire.most_readers == 1


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.asyncio
async def test_a_reader_is_told_when_the_client_left_before_the_end(watched: bool) -> None:
    wire = Wire()
    body = RequestBody(POST, wire.receive, lambda: None)
    if watched:
        body.watch()
        await until(lambda: wire.readers == 1)
    reading = asyncio.create_task(body.read())
    await until(lambda: wire.readers == 1)
    wire.leave()
    with pytest.raises(ClientGone):
        await reading
    with pytest.raises(ClientGone):
        await body.read()


@pytest.mark.asyncio
async def test_a_body_shorter_than_it_was_declared_is_no_whole_one() -> None:
    wire = Wire()
    body = RequestBody(POST_OF_FIVE, wire.receive, lambda: None)
    wire.push(b"four")
    wire.push(b"", more=False)
    assert await body.read() == b"four"
    with pytest.raises(ClientGone):
        await body.read()


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.asyncio
async def test_an_upload_reset_over_http2_is_no_whole_one(watched: bool) -> None:
    """Granian 2.8 tells of it by the very message of an upload that has ended, and then of the departure."""
    wire = Wire()
    body = RequestBody(HTTP2_POST, wire.receive, lambda: None)
    wire.push(b"half")
    wire.push(b"", more=False)
    if watched:
        body.watch()
    assert await body.read() == b"half"
    asyncio.get_running_loop().call_later(0.001, wire.leave)
    with pytest.raises(ClientGone):
        await body.read()
    body.close()


@pytest.mark.asyncio
async def test_an_upload_over_http2_ends_and_its_client_is_still_watched() -> None:
    wire, left = Wire(), asyncio.Event()
    body = RequestBody(HTTP2_POST, wire.receive, left.set)
    wire.push(b"whole")
    wire.push(b"", more=False)
    assert [await body.read(), await body.read(), await body.read()] == [b"whole", b"", b""]
    body.watch()
    wire.leave()
    await asyncio.wait_for(left.wait(), 5)
    assert wire.most_readers == 1
    body.close()


@pytest.mark.asyncio
async def test_what_arrived_before_the_client_left_can_still_be_read() -> None:
    wire, left = Wire(), asyncio.Event()
    body = RequestBody(POST, wire.receive, left.set)
    wire.push(b"a")
    wire.push(b"b", more=False)
    wire.leave()
    body.watch()
    await left.wait()
    assert [await body.read(), await body.read(), await body.read()] == [b"a", b"b", b""]


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
