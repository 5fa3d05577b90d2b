"""A gateway with everything behind it, and tabs of the frontend in front."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from backend.demo.settings import Settings as DemoSettings
from backend.demo.world import World
from tests.contract.page import Page
from tests.contract.services import Index, Model
from tests.routes.conftest import LATENCY_SECONDS, leading_to
from tests.support.gateway import PASSWORD, Served, serving
from tests.support.peer import Peer


@dataclass
class Scene:
    served: Served
    world: World
    model: Model
    index: Index
    index_peer: Peer
    model_peer: Peer

    def page(self) -> Page:
        return Page(self.served.http)

    async def signed_in(self, role: str) -> Page:
        """A tab of the user of this role; it ends the user's other tabs."""
        page = self.page()
        await page.login(f"{role}@test.local", PASSWORD)
        return page


@pytest_asyncio.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    model, index = Model(), Index()
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(
            World(DemoSettings.free(latency_seconds=LATENCY_SECONDS, capacity=4))
        )
        model_peer = await stack.enter_async_context(Peer(model.script))
        index_peer = await stack.enter_async_context(Peer(index.script))
        settings = leading_to(world, tmp_path, llm_url=model_peer.url, rag_url=index_peer.url)
        served = await stack.enter_async_context(serving(settings))
        yield Scene(served, world, model, index, index_peer, model_peer)


@pytest_asyncio.fixture
async def student(scene: Scene) -> Page:
    return await scene.signed_in("student")


@pytest_asyncio.fixture
async def tutor(scene: Scene) -> Page:
    return await scene.signed_in("tutor")


@pytest.fixture
def visitor(scene: Scene) -> Page:
    return scene.page()
