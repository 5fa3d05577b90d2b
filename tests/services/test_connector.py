"""A thousand calls that need a connection at once do not flood the upstream's listening queue."""

import asyncio

import pytest

from backend.errors import UpstreamConnectTimeout, UpstreamRefused
from backend.services.connector import MOST_HANDSHAKES, Handshakes
from tests.support.peer import until


class Gate:
    """Connections that come about when the test says so."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.at_once = self.most = self.made = 0
        self.failure: Exception | None = None

    async def connect(self) -> str:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await self.open.wait()
            if self.failure is not None:
                raise self.failure
            self.made += 1
            return "connected"
        finally:
            self.at_once -= 1


@pytest.mark.asyncio
async def test_so_many_connect_at_once_and_the_others_in_turn() -> None:
    gate, handshakes = Gate(), Handshakes()
    calls = [asyncio.create_task(handshakes.turn(gate.connect)) for _ in range(MOST_HANDSHAKES * 5)]
    await until(lambda: gate.at_once == MOST_HANDSHAKES)
    gate.open.set()
    assert await asyncio.gather(*calls) == ["connected"] * len(calls)
    assert gate.most == MOST_HANDSHAKES
    assert await handshakes.turn(gate.connect) == "connected"


@pytest.mark.asyncio
async def test_one_failure_is_told_to_all_who_wait_and_to_nobody_later() -> None:
    gate, handshakes = Gate(), Handshakes()
    calls = [asyncio.create_task(handshakes.turn(gate.connect)) for _ in range(MOST_HANDSHAKES + 50)]
    await until(lambda: gate.at_once == MOST_HANDSHAKES)
    gate.failure = UpstreamConnectTimeout()
    gate.open.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(answer, UpstreamConnectTimeout) for answer in answers)
    assert gate.made == 0
    gate.failure = None
    assert await handshakes.turn(gate.connect) == "connected"


@pytest.mark.asyncio
async def test_a_refusal_is_told_as_a_refusal() -> None:
    gate, handshakes = Gate(), Handshakes()
    gate.failure = UpstreamRefused()
    gate.open.set()
    with pytest.raises(UpstreamRefused):
        await handshakes.turn(gate.connect)


@pytest.mark.asyncio
async def test_who_gives_up_waiting_takes_no_turn_from_the_others() -> None:
    gate, handshakes = Gate(), Handshakes()
    calls = [asyncio.create_task(handshakes.turn(gate.connect)) for _ in range(MOST_HANDSHAKES * 2)]
    await until(lambda: gate.at_once == MOST_HANDSHAKES)
    for call in calls[::2]:
        call.cancel()
    gate.open.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert answers.count("connected") == MOST_HANDSHAKES
    more = [asyncio.create_task(handshakes.turn(gate.connect)) for _ in range(MOST_HANDSHAKES)]
    assert await asyncio.gather(*more) == ["connected"] * MOST_HANDSHAKES
