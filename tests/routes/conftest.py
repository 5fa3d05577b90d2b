"""A gateway on Hypercorn with a small demo world behind it, all on the test's own loop."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from backend.config import Settings
from backend.demo.settings import Settings as DemoSettings
from backend.demo.world import World
from tests.support.chat_model import Cast, cast
from tests.support.frontend import Frontend
from tests.support.gateway import Served, serving, settings_for
from tests.support.shelves import Shelves, shelves

LATENCY_SECONDS = 0.02
CAPACITY = 2


def leading_to(world: World, folder: Path, **over: Any) -> Settings:
    """Settings of a gateway in front of the world, with changes."""
    to_the_world = {
        "avatar_service_url": world.catalogue_url,
        "avatar_manager_url": world.manager_url,
        "llm_url": world.model_url,
        "rag_url": world.retrieval_url,
        # The world takes free ports, which may be any.
        "avatar_instance_ports": "1024-65535",
        "gateway_revocation_seconds": 0.05,
    }
    return settings_for(folder, **(to_the_world | over))


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World(DemoSettings.free(latency_seconds=LATENCY_SECONDS, capacity=CAPACITY)) as opened:
        yield opened


@pytest.fixture
def settings(tmp_path: Path, world: World) -> Callable[..., Settings]:
    return lambda **over: leading_to(world, tmp_path, **over)


@pytest_asyncio.fixture
async def served(settings: Callable[..., Settings]) -> AsyncIterator[Served]:
    async with serving(settings()) as gateway:
        yield gateway


@pytest_asyncio.fixture
async def student(served: Served) -> Frontend:
    return Frontend(served.http, await served.token("student"))


@pytest_asyncio.fixture
async def tutor(served: Served) -> Frontend:
    return Frontend(served.http, await served.token("tutor"))


@pytest.fixture
def visitor(served: Served) -> Frontend:
    return Frontend(served.http)


@dataclass(frozen=True)
class Stage:
    """A gateway and its world for a whole table of cases, both users signed in."""

    served: Served
    world: World
    student: Frontend
    tutor: Frontend


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened_stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with (
        World(DemoSettings.free(latency_seconds=LATENCY_SECONDS, capacity=CAPACITY)) as world,
        serving(leading_to(world, tmp_path_factory.mktemp("stage"))) as served,
    ):
        users = [Frontend(served.http, await served.token(role)) for role in ("student", "tutor")]
        yield Stage(served, world, *users)


@pytest_asyncio.fixture(loop_scope="module")
async def stage(opened_stage: Stage) -> AsyncIterator[Stage]:
    """Tests that use it run on the loop of their module."""
    yield opened_stage
    await opened_stage.world.control.clear()


@pytest_asyncio.fixture
async def behind() -> AsyncIterator[Cast]:
    """Scripted services of a gateway that chats."""
    async with cast() as opened:
        yield opened


@pytest_asyncio.fixture
async def chatting(behind: Cast, tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(settings_for(tmp_path, **behind.settings)) as gateway:
        yield gateway


@pytest_asyncio.fixture
async def pupil(chatting: Served) -> Frontend:
    """A signed-in student of that gateway."""
    return Frontend(chatting.http, await chatting.token("student"))


@pytest_asyncio.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Shelves]:
    """A gateway whose files a test looks into."""
    async with shelves(tmp_path) as opened:
        yield opened
