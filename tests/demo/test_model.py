from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import httpx
import pytest

from backend.demo.model import FIRST_PIECE, NEXT_PIECE
from backend.demo.settings import Settings
from backend.demo.world import World

from .conftest import LATENCY_SECONDS
from .events import Chat, events, text_of
from .sockets import until

pytestmark = pytest.mark.asyncio

ASKED = {"user_id": "7", "session_id": "1", "input": "Why is the sky blue?"}


async def test_answer_is_a_stream_of_events_that_ends_with_finished(world: World) -> None:
    chat = await Chat.asked(world)
    head = (await chat.began()).lower()
    assert head.startswith(b"http/1.1 200")
    assert b"content-type: text/event-stream" in head
    *streaming, finished = events(await chat.chunks())
    assert all(event.keys() == {"chunk", "status", "timestamp"} for event in streaming)
    assert all(event["chunk"] and event["status"] == "streaming" for event in streaming)
    assert finished.keys() == {"status", "timestamp", "total_time", "ttft"}
    assert finished["status"] == "finished"
    assert 0 < finished["ttft"] < finished["total_time"]
    assert text_of(streaming).startswith("Sunlight holds every colour")
    await chat.leave()


async def test_every_event_is_one_write(world: World) -> None:
    chat = await Chat.asked(world)
    await chat.began()
    chunks = await chat.chunks()
    assert len(chunks) > 50
    assert all(chunk.startswith(b"data: ") and chunk.endswith(b"\n\n") for chunk in chunks)
    await chat.leave()


async def test_chinese_goes_out_unescaped(world: World) -> None:
    chat = await Chat.asked(world, "天空为什么是蓝色的？")
    await chat.began()
    body = b"".join(await chat.chunks())
    assert "阳光".encode() in body
    assert b"\\u" not in body
    await chat.leave()


async def test_first_piece_and_pace_follow_the_latency(world: World) -> None:
    world.latency.seconds = 0.9
    chat = await Chat.asked(world)
    begun = time.monotonic()
    await chat.began()
    arrived = []
    for _ in range(21):
        await chat.chunk()
        arrived.append(time.monotonic() - begun)
    assert arrived[0] >= 0.9 * FIRST_PIECE
    # Never faster than its pace; how much slower is the machine's affair.
    assert arrived[-1] >= 0.9 * (FIRST_PIECE + 20 * NEXT_PIECE)
    assert all(later >= earlier for earlier, later in pairwise(arrived))
    await chat.leave()


async def test_first_piece_of_the_default_world_comes_after_nine_tenths_of_a_second() -> None:
    latency = Settings().latency_seconds
    assert latency * FIRST_PIECE == pytest.approx(0.9)
    assert 1 / (latency * NEXT_PIECE) == pytest.approx(30)


async def test_conversation_is_remembered_by_its_session_whoever_asks(
    world: World, client: httpx.AsyncClient
) -> None:
    url = f"{world.model_url}/chat/stream"
    await client.post(url, json=ASKED)
    again = await client.post(url, json=ASKED | {"user_id": "another"})
    other = await client.post(url, json=ASKED | {"session_id": "2"})
    assert text_of(events([again.content])).startswith("As I said before")
    assert text_of(events([other.content])).startswith("Sunlight")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"user_id": "7", "session_id": "1"},
        {"user_id": "7", "input": "sky"},
        {"session_id": "1", "input": "sky"},
        ASKED | {"input": "  "},
        ASKED | {"input": 5},
        ASKED | {"model": "no such model"},
        ["not an object"],
    ],
)
async def test_bad_question_is_400_with_error(
    world: World, client: httpx.AsyncClient, fields: object
) -> None:
    answer = await client.post(f"{world.model_url}/chat/stream", json=fields)
    assert answer.status_code == 400
    assert answer.json().keys() == {"error"}


async def test_question_may_name_a_model_it_has(world: World, client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{world.model_url}/chat/stream", json=ASKED | {"model": "tutor-large"})
    assert answer.status_code == 200


async def test_two_models_can_be_activated_and_no_other(world: World, client: httpx.AsyncClient) -> None:
    url = f"{world.model_url}/activate_model"
    begun = time.monotonic()
    good = await client.post(url, json={"model": "tutor-large"})
    assert time.monotonic() - begun >= LATENCY_SECONDS
    assert (good.status_code, good.json().keys()) == (200, {"message"})
    assert (await client.get(f"{world.model_url}/health")).json()["model"] == "tutor-large"
    for body in (b'{"model": "gpt"}', b"{}", b"nonsense", b'{"model": ["tutor-large"]}'):
        bad = await client.post(url, content=body)
        assert (bad.status_code, bad.json().keys()) == (400, {"error"})


async def test_stream_stays_open_after_finished_where_the_world_is_told_so() -> None:
    async with World(Settings.free(model_stays_open=True)) as world:
        chat = await Chat.asked(world)
        await chat.began()
        await chat.until_finished()
        with pytest.raises(TimeoutError):
            await chat.chunk(seconds=0.2)
        assert world.ledger("model").open == 1
        await chat.leave()
        await until(lambda: world.ledger("model").open == 0)


async def test_stream_stops_when_its_reader_leaves(world: World, client: httpx.AsyncClient) -> None:
    world.latency.seconds = 30.0
    chats = await asyncio.gather(*(Chat.asked(world, session=str(number)) for number in range(50)))
    await asyncio.gather(*(chat.began() for chat in chats))
    assert (await client.get(f"{world.model_url}/stats")).json()["active_streams"] == 50
    await asyncio.gather(*(chat.leave() for chat in chats))
    await until(lambda: world.ledger("model").aborted == 50)
    assert (await client.get(f"{world.model_url}/stats")).json() == {"active_streams": 0, "conversations": 50}


async def test_two_hundred_answers_stream_side_by_side() -> None:
    async with World(Settings.free(latency_seconds=0.3)) as world:
        chats = await asyncio.gather(*(Chat.asked(world, session=str(number)) for number in range(200)))
        await asyncio.gather(*(chat.began() for chat in chats))
        assert world.ledger("model").open == 200
        answers = await asyncio.gather(*(chat.until_finished() for chat in chats))
        assert {text_of(events(answer)) for answer in answers} == {text_of(events(answers[0]))}
        await asyncio.gather(*(chat.leave() for chat in chats))


async def test_unknown_route_is_a_page_of_the_framework(world: World, client: httpx.AsyncClient) -> None:
    answer = await client.get(f"{world.model_url}/nowhere")
    assert (answer.status_code, answer.headers["server"]) == (404, "gunicorn")
    assert answer.headers["content-type"].startswith("text/html")
