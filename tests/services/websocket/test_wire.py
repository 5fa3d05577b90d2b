import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from backend.services.websocket.frames import Frame
from backend.services.websocket.reader import MOST_FRAMES
from backend.services.websocket.relay import Limits, Relay
from backend.services.websocket.wire import Wire
from tests.support.peer import until
from tests.support.websocket import BINARY, CLOSE, frame

LIMITS = Limits(message_bytes=1 << 20, idle=30.0)


class Listener:
    """The other side: notes what comes, and when."""

    gone = False
    unsent = 0

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.payloads: list[bytes] = []
        self.told: list[int] = []
        self.relay: Relay | None = None

    def begin(self, relay: Relay) -> None:
        self.relay = relay

    def pass_on(self, passed: Sequence[Frame]) -> None:
        self.batches.append(len(passed))
        self.payloads += [one.payload for one in passed]

    def close(self, code: int, reason: bytes) -> None:
        self.told.append(code)

    def finish(self) -> None:
        self.abort()

    def abort(self) -> None:
        self.gone = True
        if self.relay is not None:
            self.relay.lost(self)

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


@contextlib.asynccontextmanager
async def wired() -> AsyncIterator[tuple[Wire, Listener, asyncio.StreamWriter]]:
    """A client's wire on a real connection, and the socket at its other end."""
    ready: asyncio.Future[Wire] = asyncio.get_running_loop().create_future()

    class First(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            wire = Wire(transport, LIMITS.message_bytes, masks=False)
            wire.take_over(b"", paused=False)
            ready.set_result(wire)

    server = await asyncio.get_running_loop().create_server(First, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    wire, listener = await ready, Listener()
    relay = Relay(listener, LIMITS, lambda _: None)
    running = asyncio.ensure_future(relay.run(wire))
    try:
        await asyncio.sleep(0)
        yield wire, listener, writer
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        writer.close()
        server.close()


@pytest.mark.asyncio
async def test_many_frames_at_once_leave_others_their_turn() -> None:
    async with wired() as (_, listener, writer):
        turns = 0
        many = [frame(BINARY, b"%d" % number) for number in range(10 * MOST_FRAMES + 7)]
        writer.write(b"".join(many))
        async with asyncio.timeout(10):
            while len(listener.payloads) < len(many):
                await asyncio.sleep(0)
                turns += 1
        assert listener.payloads == [b"%d" % number for number in range(len(many))]
        assert max(listener.batches) <= MOST_FRAMES
        assert turns > 10


@pytest.mark.asyncio
async def test_paused_wire_passes_nothing_on_until_it_is_resumed() -> None:
    async with wired() as (wire, listener, writer):
        many = [frame(BINARY, b"x") for _ in range(5 * MOST_FRAMES)]
        passed = listener.pass_on

        def first_then_pause(found: Sequence[Frame]) -> None:
            passed(found)
            if len(listener.batches) == 1:
                wire.pause()

        listener.pass_on = first_then_pause  # type: ignore[method-assign]
        writer.write(b"".join(many))
        await until(lambda: bool(listener.batches))
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(listener.payloads) <= MOST_FRAMES
        wire.resume()
        await until(lambda: len(listener.payloads) == len(many))


@pytest.mark.asyncio
async def test_end_of_the_connection_comes_behind_all_frames() -> None:
    async with wired() as (_, listener, writer):
        many = [frame(BINARY, b"x") for _ in range(4 * MOST_FRAMES)]
        writer.write(b"".join([*many, frame(CLOSE, b"\x0f\xa0")]))
        writer.write_eof()
        await until(lambda: bool(listener.told))
        assert len(listener.payloads) == len(many)
        assert listener.told == [4000]
