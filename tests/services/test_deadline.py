"""One timer for many waits: it fires in time, moves with its hour, and forgives a busy loop."""

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from backend.services.deadline import Deadline

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    def on_loop(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(work)

    return on_loop


def test_a_wait_that_is_too_long_ends(run: Run) -> None:
    async def work() -> None:
        deadline = Deadline()
        with pytest.raises(TimeoutError):
            await deadline.within(asyncio.sleep(30), deadline.now() + 0.02)
        assert await deadline.within(asyncio.sleep(0, "next"), deadline.now() + 5) == "next"
        deadline.close()

    run(work())


def test_an_hour_that_is_pushed_on_lets_the_wait_go_on(run: Run) -> None:
    async def work() -> None:
        deadline = Deadline()

        async def slow() -> str:
            for _ in range(4):
                await asyncio.sleep(0.05)
                deadline.push(deadline.now() + 5)
            return "done"

        assert await deadline.within(slow(), deadline.now() + 0.1) == "done"
        deadline.close()

    run(work())


def test_what_arrived_while_the_loop_was_busy_is_in_time(run: Run) -> None:
    """A loop that a thousand calls keep busy must not take answers for missing that lie there unread."""

    async def work() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        deadline = Deadline()
        waiting = asyncio.create_task(deadline.within(reader.readexactly(4), deadline.now() + 0.1))
        await asyncio.sleep(0)
        theirs.send(b"here")
        time.sleep(0.3)  # busy past the hour
        assert await waiting == b"here"
        deadline.close()
        writer.close()
        await writer.wait_closed()
        theirs.close()

    run(work())


def test_a_busy_loop_does_not_spare_what_never_comes(run: Run) -> None:
    async def work() -> None:
        deadline = Deadline()
        waiting = asyncio.create_task(deadline.within(asyncio.Event().wait(), deadline.now() + 0.05))
        await asyncio.sleep(0)
        time.sleep(0.2)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await waiting
        assert time.monotonic() - began < 5
        deadline.close()

    run(work())


def test_a_cancellation_from_outside_stays_one(run: Run) -> None:
    async def work() -> None:
        deadline = Deadline()
        waiting = asyncio.create_task(deadline.within(asyncio.sleep(30), deadline.now() + 30))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        deadline.close()

    run(work())
