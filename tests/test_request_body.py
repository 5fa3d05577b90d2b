import asyncio
import random
from typing import Any

import pytest

from backend.errors import ClientGone
from backend.request_body import AHEAD_BYTES, RequestBody
from tests.support.peer import until

POST = {"http_version": "1.1", "method": "POST", "headers": []}
POST_OF_FIVE = POST | {"headers": [(b"content-length", b"5")]}
HTTP2_POST = POST | {"http_version": "2"}


class Wire:
    """What a server would deliver; counts who waits for it, and tells when its client was seen to leave."""

    def __init__(self) -> None:
        self.coming: asyncio.Queue[Any] = asyncio.Queue()
        self.readers = self.most_readers = 0
        self.left = asyncio.Event()

    def body(self, request: dict[str, Any] = POST) -> RequestBody:
        return RequestBody(request, self.receive, self.left.set)

    async def receive(self) -> Any:
        self.readers += 1
        self.most_readers = max(self.most_readers, self.readers)
        try:
            return await self.coming.get()
        finally:
            self.readers -= 1

    def push(self, chunk: bytes, *, more: bool = True) -> None:
        self.coming.put_nowait({"type": "http.request", "body": chunk, "more_body": more})

    def push_whole(self, *chunks: bytes) -> None:
        """Deliver chunks, and the end with the last of them."""
        for chunk in chunks[:-1]:
            self.push(chunk)
        self.push(chunks[-1], more=False)

    def leave(self) -> None:
        self.coming.put_nowait({"type": "http.disconnect"})


@pytest.mark.asyncio
async def test_a_body_gives_its_chunks_and_then_its_end_for_ever() -> None:
    wire = Wire()
    body = wire.body()
    wire.push_whole(b"a", b"", b"b", b"c")
    assert [await body.read() for _ in range(5)] == [b"a", b"b", b"c", b"", b""]
    assert body.ended


@pytest.mark.asyncio
async def test_the_watcher_takes_in_a_bounded_part_of_an_unread_body() -> None:
    wire = Wire()
    body = wire.body()
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
    wire = Wire()
    body = wire.body()
    wire.push_whole(b"unread", b"")
    wire.leave()
    body.watch()
    await asyncio.wait_for(wire.left.wait(), 5)
    assert body.gone


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.asyncio
async def test_reader_and_watcher_take_turns_and_lose_nothing(seed: int) -> None:
    dice = random.Random(seed)
    wire = Wire()
    body = wire.body()
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
    body = wire.body()
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
    body = wire.body(POST_OF_FIVE)
    wire.push_whole(b"four", b"")
    assert await body.read() == b"four"
    with pytest.raises(ClientGone):
        await body.read()


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.asyncio
async def test_an_upload_reset_over_http2_is_no_whole_one(watched: bool) -> None:
    """Granian 2.8 tells of it by the very message of an upload that has ended, and then of the departure."""
    wire = Wire()
    body = wire.body(HTTP2_POST)
    wire.push_whole(b"half", b"")
    if watched:
        body.watch()
    assert await body.read() == b"half"
    asyncio.get_running_loop().call_later(0.001, wire.leave)
    with pytest.raises(ClientGone):
        await body.read()
    body.close()


@pytest.mark.asyncio
async def test_an_upload_over_http2_ends_and_its_client_is_still_watched() -> None:
    wire = Wire()
    body = wire.body(HTTP2_POST)
    wire.push_whole(b"whole", b"")
    assert [await body.read(), await body.read(), await body.read()] == [b"whole", b"", b""]
    body.watch()
    wire.leave()
    await asyncio.wait_for(wire.left.wait(), 5)
    assert wire.most_readers == 1
    body.close()


@pytest.mark.asyncio
async def test_what_arrived_before_the_client_left_can_still_be_read() -> None:
    wire = Wire()
    body = wire.body()
    wire.push_whole(b"a", b"b")
    wire.leave()
    body.watch()
    await wire.left.wait()
    assert [await body.read(), await body.read(), await body.read()] == [b"a", b"b", b""]
