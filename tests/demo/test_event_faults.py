from __future__ import annotations

import asyncio
import contextlib

import pytest

from backend.demo.event_faults import EVENT_FAULTS, EVENTS_BEFORE, EVENTS_REPEATED, LEAK
from backend.demo.faults import Switch
from backend.demo.settings import Settings
from backend.demo.world import World

from .events import Chat, events, text_of
from .sockets import ask, until

pytestmark = pytest.mark.asyncio


async def chat_with(world: World, fault: str, text: str = "Why is the sky blue?") -> Chat:
    await world.control.put(Switch("model", fault))
    chat = await Chat.asked(world, text)
    assert (await chat.began()).startswith(b"HTTP/1.1 200")
    return chat


async def begin_of(chat: Chat) -> list[bytes]:
    return [await chat.chunk() for _ in range(EVENTS_BEFORE)]


async def test_stalled_stream_is_silent_after_some_events(world: World) -> None:
    chat = await chat_with(world, "stream-stall")
    assert text_of(events(await begin_of(chat))) == "Sunlight holds every colour,"
    with pytest.raises(TimeoutError):
        await chat.chunk(seconds=0.2)
    await chat.leave()
    await until(lambda: world.ledger("model").open == 0)


async def test_error_midway_says_what_must_not_leak(world: World) -> None:
    chat = await chat_with(world, "stream-error")
    *right, error = events(await chat.chunks())
    assert len(right) == EVENTS_BEFORE
    assert error == {"status": "error", "error": LEAK}
    await chat.leave()


async def test_error_can_be_the_first_event(world: World) -> None:
    chat = await chat_with(world, "stream-error-first")
    assert events(await chat.chunks()) == [{"status": "error", "error": LEAK}]
    await chat.leave()


async def test_stream_can_end_without_finished(world: World) -> None:
    chat = await chat_with(world, "stream-ends")
    assert [event["status"] for event in events(await chat.chunks())] == ["streaming"] * EVENTS_BEFORE
    await chat.leave()


async def test_connection_can_be_reset_midway(world: World) -> None:
    chat = await chat_with(world, "stream-reset")
    await begin_of(chat)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await chat.chunk()
    await chat.leave()


async def test_garbage_stands_between_right_events(world: World) -> None:
    chat = await chat_with(world, "stream-garbage")
    chunks = await chat.chunks()
    with pytest.raises(UnicodeDecodeError):
        chunks[EVENTS_BEFORE].decode()
    del chunks[EVENTS_BEFORE]
    assert events(chunks)[-1]["status"] == "finished"
    await chat.leave()


async def test_split_events_come_in_two_writes_and_cut_characters(world: World) -> None:
    chat = await chat_with(world, "stream-split", "天空为什么是蓝色的？")
    chunks = await chat.chunks()
    assert all(not half.endswith(b"\n\n") for half in chunks[0::2])
    assert all(half.endswith(b"\n\n") for half in chunks[1::2])
    assert text_of(events(chunks)).startswith("阳光里有各种颜色")
    await chat.leave()


async def test_blank_lines_can_be_missing(world: World) -> None:
    chat = await chat_with(world, "stream-no-blank")
    body = b"".join(await chat.chunks())
    assert b"\n\n" not in body
    assert events([body.replace(b"\n", b"\n\n")])[-1]["status"] == "finished"
    await chat.leave()


async def test_lines_can_end_with_a_carriage_return(world: World) -> None:
    chat = await chat_with(world, "stream-crlf")
    body = b"".join(await chat.chunks())
    assert body.count(b"\r\n\r\n") == body.count(b"data: ")
    assert events([body.replace(b"\r\n", b"\n")])[-1]["status"] == "finished"
    await chat.leave()


async def test_endless_stream_never_finishes(world: World) -> None:
    world.latency.seconds = 0.0
    chat = await chat_with(world, "stream-endless", "hello")
    chunks = [await chat.chunk() for _ in range(2 * EVENTS_REPEATED)]
    assert {event["status"] for event in events(chunks)} == {"streaming"}
    await chat.leave()
    await until(lambda: world.ledger("model").open == 0)


async def test_stream_can_be_held_open_after_finished(world: World) -> None:
    chat = await chat_with(world, "stream-open")
    assert events(await chat.until_finished())[-1]["status"] == "finished"
    with pytest.raises(TimeoutError):
        await chat.chunk(seconds=0.2)
    await chat.leave()
    await until(lambda: world.ledger("model").open == 0)


@pytest.mark.parametrize("fault", ["cut-body", "cut-chunked"])
@pytest.mark.parametrize("stays_open", [False, True])
async def test_event_stream_is_cut_early_though_it_may_never_end(fault: str, stays_open: bool) -> None:
    async with World(Settings.free(model_stays_open=stays_open)) as world:
        chat = await chat_with(world, fault)
        rest = await asyncio.wait_for(chat.reader.read(), 10)
        assert rest
        assert b"finished" not in rest
        assert not rest.endswith(b"0\r\n\r\n")
        await chat.leave()


@pytest.mark.parametrize("fault", sorted(EVENT_FAULTS))
async def test_fault_ends_with_its_client_and_with_the_world(fault: str) -> None:
    async with World(Settings.free(latency_seconds=1.0)) as world:
        left, kept = await chat_with(world, fault), await chat_with(world, fault)
        await left.leave()
        await until(lambda: world.ledger("model").open <= 1)
    with contextlib.suppress(ConnectionResetError):
        await asyncio.wait_for(kept.reader.read(), 10)
    assert kept.reader.at_eof() or kept.reader.exception()
    await kept.leave()


async def test_other_answers_go_wrong_as_well(world: World) -> None:
    await world.control.put(Switch("catalogue", "stream-ends"))
    seen = await ask(world.catalogue_url, "/stream?events=9&interval=0")
    assert seen.body.count(b"data: ") == EVENTS_BEFORE
