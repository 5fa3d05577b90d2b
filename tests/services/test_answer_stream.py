import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import Overloaded, UpstreamBroken
from backend.services.answer_stream import (
    EVENT_BYTES,
    FINISHED,
    HEARTBEAT,
    WRITE_BYTES,
    AnswerStream,
    writes_of,
)
from tests.support.chat_model import understood

ANY = st.text(st.characters(exclude_categories=("Cs",)), max_size=3000)


@given(ANY)
def test_text_becomes_whole_small_events(text: str) -> None:
    writes = writes_of(text)
    assert understood(writes)[0] == text
    for write in writes:
        assert len(write) <= WRITE_BYTES
        events = write.split(b"\n\n")
        assert events.pop() == b""
        for event in events:
            assert len(event) + 2 <= EVENT_BYTES
            assert set(json.loads(event.removeprefix(b"data: "))) == {"chunk", "status"}


@pytest.mark.parametrize("character", ["x", "é", "学", "𝔵", "\x01", '"', "\\", "\u2028"])
def test_long_run_of_any_character_is_cut_into_few_events(character: str) -> None:
    text = character * 20_000
    writes = writes_of(text)
    assert understood(writes)[0] == text
    assert len(writes) <= sum(map(len, writes)) / (WRITE_BYTES / 2.5)


@pytest.mark.asyncio
async def test_text_that_came_together_is_sent_together_and_finished_comes_once() -> None:
    stream = AnswerStream()
    for word in ("one ", "two ", "three"):
        stream.say(word)
    stream.finish()
    stream.finish()
    reads = [await stream.read() for _ in range(4)]
    assert understood(reads[:1]) == ("one two three", False)
    assert reads[1:] == [FINISHED, b"", b""]


@pytest.mark.asyncio
async def test_silence_is_filled_with_comments() -> None:
    stream = AnswerStream(heartbeat_seconds=0.02)
    stream.say("word")
    assert understood([await stream.read()]) == ("word", False)
    beats = [await stream.read() for _ in range(3)]
    assert beats == [HEARTBEAT] * 3
    assert understood(beats) == ("", False)
    stream.say("more")
    assert understood([await stream.read()]) == ("more", False)
    await stream.aclose()


@pytest.mark.asyncio
async def test_reader_that_waits_is_woken_by_text_and_by_the_end() -> None:
    stream = AnswerStream()
    reading = asyncio.ensure_future(stream.read())
    await asyncio.sleep(0)
    stream.say("word")
    assert understood([await reading]) == ("word", False)
    reading = asyncio.ensure_future(stream.read())
    await asyncio.sleep(0)
    stream.finish()
    assert await reading == FINISHED


@pytest.mark.asyncio
async def test_stream_begins_with_its_text_or_fails() -> None:
    begun, failed, stopped = AnswerStream(), AnswerStream(), AnswerStream()
    begun.say("x")
    begun.fail(UpstreamBroken())
    await begun.begun
    failed.fail(UpstreamBroken())
    failed.finish()
    with pytest.raises(UpstreamBroken):
        await failed.begun
    stopped.finish()
    with pytest.raises(Overloaded):
        await stopped.begun


@pytest.mark.asyncio
async def test_closing_ends_the_task_that_fills_also_before_its_first_step() -> None:
    async def fill() -> None:
        await asyncio.Event().wait()

    for steps in (0, 1):
        stream = AnswerStream()
        task = asyncio.get_running_loop().create_task(fill())
        stream.owned_by(task)
        for _ in range(steps):
            await asyncio.sleep(0)
        await stream.aclose()
        await stream.aclose()
        assert task.cancelled()
        assert await stream.read() == b""
        assert await stream.text() == ""
