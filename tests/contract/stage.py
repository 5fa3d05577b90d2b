"""A gateway with everything behind it: the demo world for avatars, scripted peers for the rest."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    model_peer: Peer
    index_peer: Peer

    def page(self) -> Page:
        return Page(self.served.http)

    async def signed_in(self, role: str) -> Page:
        """A tab of the user of this role; it ends the user's other tabs."""
        page = self.page()
        await page.login(f"{role}@test.local", PASSWORD)
        return page


@asynccontextmanager
async def opened_scene(folder: Path, **over: Any) -> AsyncIterator[Scene]:
    model, index = Model(), Index()
    async with AsyncExitStack() as stack:
        demo = DemoSettings.free(latency_seconds=LATENCY_SECONDS, capacity=4)
        world = await stack.enter_async_context(World(demo))
        model_peer = await stack.enter_async_context(Peer(model.script))
        index_peer = await stack.enter_async_context(Peer(index.script))
        settings = leading_to(world, folder, llm_url=model_peer.url, rag_url=index_peer.url, **over)
        served = await stack.enter_async_context(serving(settings))
        yield Scene(served, world, model, index, model_peer, index_peer)
