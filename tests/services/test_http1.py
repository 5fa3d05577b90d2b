"""Reading ahead and holding back on one connection, with a transport that only notes what it is told."""

import asyncio
from typing import Any, cast

import pytest

from backend.services.http1 import HIGH_WATER_BYTES, Answer, Connection

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


class Noted:
    """Stands for a transport."""

    def __init__(self) -> None:
        self.reading = True
        self.aborted = False

    def write(self, data: bytes) -> None:
        return None

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


def piece(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


async def begun(kept: list[Connection]) -> tuple[Connection, Noted, Answer]:
    connection, transport = Connection(kept.append), Noted()
    connection.connection_made(cast(Any, transport))
    sending = asyncio.ensure_future(connection.send("GET", b"/", b"t", [], None))
    await asyncio.sleep(0)
    connection.data_received(HEAD)
    return connection, transport, await sending


@pytest.mark.asyncio
async def test_small_pieces_that_wait_are_read_as_one() -> None:
    connection, _, answer = await begun([])
    connection.data_received(b"".join(piece(b"word ") for _ in range(100)))
    assert await answer.read() == b"word " * 100
    connection.data_received(piece(b"x" * 40_000) + piece(b"y") + piece(b"z") + END)
    assert [await answer.read() for _ in range(3)] == [b"x" * 40_000, b"yz", b""]


@pytest.mark.asyncio
async def test_answer_that_is_held_back_is_read_on_when_there_is_nothing_left_to_read() -> None:
    connection, transport, answer = await begun([])
    connection.data_received(piece(b"one"))
    answer.hold()
    answer.hold()
    assert not transport.reading
    assert await answer.read() == b"one"
    assert not transport.reading
    reading = asyncio.ensure_future(answer.read())
    await asyncio.sleep(0)
    assert transport.reading
    connection.data_received(piece(b"two") + END)
    assert await reading == b"two"
    answer.hold()  # nothing comes any more: the connection may serve another call
    assert transport.reading


@pytest.mark.asyncio
@pytest.mark.parametrize("leaves", [False, True])
async def test_connection_that_is_kept_reads_also_when_its_last_answer_was_too_much(leaves: bool) -> None:
    """One that stayed paused would let the next call wait in vain."""
    kept: list[Connection] = []
    connection, transport, answer = await begun(kept)
    connection.data_received(piece(b"x" * (HIGH_WATER_BYTES + 1)) + END)
    assert kept == [connection]
    assert transport.reading
    if leaves:
        await answer.aclose()
    else:
        assert len(await answer.read()) == HIGH_WATER_BYTES + 1
    assert transport.reading
    assert connection.reusable
