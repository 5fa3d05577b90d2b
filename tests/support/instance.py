"""The instance that a student started: where it runs, and a scripted one with a manager who names it."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from backend.config import Settings
from tests.support.frontend import Frontend, good
from tests.support.gateway import serving
from tests.support.peer import JSON, Exchange, Peer, Script

OFFER: dict[str, object] = {"sdp": "v=0\r\n", "type": "offer"}


async def started(frontend: Frontend, name: str = "Ada Demo") -> int:
    return int(good(await frontend.urlencoded("/api/avatar/start", avatar_name=name))["port"])


@asynccontextmanager
async def one_instance(
    settings: Callable[..., Settings], script: Script, **over: object
) -> AsyncIterator[tuple[Frontend, Peer]]:
    """A gateway whose manager says that every avatar runs at one scripted peer; a student who started it."""
    async with Peer(script) as instance:

        async def manage(exchange: Exchange) -> None:
            await exchange.body()
            info = {"avatar_id": "x_user_1", "real_avatar_name": "Ada Demo", "port": instance.port}
            await exchange.reply(json.dumps({"status": "success", "data": info}).encode(), JSON)

        ports = f"{instance.port}-{instance.port}"
        async with (
            Peer(manage) as manager,
            serving(settings(avatar_manager_url=manager.url, avatar_instance_ports=ports, **over)) as served,
        ):
            student = Frontend(served.http, await served.token())
            await started(student)
            yield student, instance
