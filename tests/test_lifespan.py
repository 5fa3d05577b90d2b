"""What an ASGI server is told of the application's start and end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.bridge import bridged, nothing
from tests.support.peer import until


class Phases:
    """The server's side of a lifespan."""

    def __init__(self, app: Any) -> None:
        self.sent: list[Any] = []
        self._next: asyncio.Queue[Any] = asyncio.Queue()
        self.task = asyncio.create_task(app({"type": "lifespan"}, self._next.get, self._send))

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    async def enter(self, phase: str) -> Any:
        self._next.put_nowait({"type": f"lifespan.{phase}"})
        before = len(self.sent)
        await until(lambda: len(self.sent) > before)
        return self.sent[-1]


@pytest.mark.asyncio
async def test_startup_opens_and_shutdown_closes() -> None:
    state = ["closed"]

    @contextlib.asynccontextmanager
    async def life() -> AsyncIterator[None]:
        state.append("open")
        yield
        state.append("closed")

    phases = Phases(bridged(nothing, life=life).asgi)
    assert (await phases.enter("startup"))["type"] == "lifespan.startup.complete"
    assert state == ["closed", "open"]
    assert (await phases.enter("shutdown"))["type"] == "lifespan.shutdown.complete"
    assert state == ["closed", "open", "closed"]
    await phases.task


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
@pytest.mark.asyncio
async def test_a_lifespan_that_fails_is_told_to_the_server(phase: str, caplog: Any) -> None:
    @contextlib.asynccontextmanager
    async def life() -> AsyncIterator[None]:
        if phase == "startup":
            raise OSError("no disk")
        yield
        raise OSError("no disk")

    phases = Phases(bridged(nothing, life=life).asgi)
    last = await phases.enter("startup")
    if phase == "shutdown":
        last = await phases.enter("shutdown")
    assert last == {"type": f"lifespan.{phase}.failed", "message": "no disk"}
    await phases.task
    assert f"{phase} failed" in caplog.text
