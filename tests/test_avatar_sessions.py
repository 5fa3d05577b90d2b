"""Avatar sessions of real worker processes before the demo world: counted right whatever happens."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.demo.settings import Settings as DemoSettings
from backend.demo.world import World
from benchmarks.people import signed_in
from tests.support.frontend import Frontend, good, refused
from tests.support.gateway import KEY, Served, Spawned, serving, settings_for, spawned
from tests.support.instance import OFFER
from tests.support.own_stores import own_redis
from tests.support.peer import until
from tests.support.processes import workers_of

# Ten seconds are promised; a busy machine gets some more.
FREED_SECONDS = 20.0


@dataclass
class Stage:
    """Two workers and their world; `http` speaks for whoever's token it is given."""

    gateway: Spawned
    world: World
    http: httpx.AsyncClient
    tokens: dict[int, str]

    async def post(self, user: int, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.tokens[user]}"}
        return await self.http.post(path, headers=headers, **more)

    async def start(self, user: int, name: str = "Ada Demo") -> httpx.Response:
        return await self.post(user, "/api/avatar/start", data={"avatar_name": name})

    async def offer(self, user: int) -> int:
        answer = await self.post(user, "/api/webrtc/offer", json=OFFER)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["sessionid"])

    async def connections(self) -> dict[str, int]:
        """What the manager counts."""
        answer = await self.http.get(f"{self.world.manager_url}/avatar/list")
        return {each["real_avatar_name"]: each["connections"] for each in answer.json()["data"]}

    async def until_counted(self, wanted: dict[str, int], seconds: float = FREED_SECONDS) -> float:
        """Wait until the manager counts so; return how long it took."""
        began = time.monotonic()
        async with asyncio.timeout(seconds):
            while await self.connections() != wanted:  # noqa: ASYNC110 - another process counts
                await asyncio.sleep(0.05)
        return time.monotonic() - began

    @property
    def starts(self) -> int:
        return self.world.ledger("manager").by_path["/avatar/start"]


@asynccontextmanager
async def stage(folder: Path, users: int, *, latency: float = 0.0, **over: str) -> AsyncIterator[Stage]:
    url = f"sqlite:///{folder / 'gateway.db'}"
    tokens = await asyncio.to_thread(signed_in, folder, url, KEY, users)
    async with World(DemoSettings.free(latency_seconds=latency)) as world:
        environment = {
            "AVATAR_SERVICE_URL": world.catalogue_url,
            "AVATAR_MANAGER_URL": world.manager_url,
            "AVATAR_INSTANCE_PORTS": "1024-65535",
            "DATABASE_URL": url,
        }
        with contextlib.ExitStack() as stack:
            opening = spawned(folder, "--workers=2", **environment, **over)
            gateway = await asyncio.to_thread(stack.enter_context, opening)
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(
                base_url=gateway.url, trust_env=False, timeout=60, limits=limits
            ) as http:
                yield Stage(gateway, world, http, tokens)


@pytest.mark.asyncio
async def test_fifty_clicks_and_fifty_users_on_two_workers_count_right_and_leave_nothing(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path, 51, latency=2.0) as on:
        one, *others = on.tokens
        answers = await asyncio.gather(*(on.start(one) for _ in range(50)))
        assert {answer.status_code for answer in answers} == {200}
        assert (on.starts, await on.connections()) == (1, {"Ada Demo": 1})

        starting = asyncio.gather(*(on.start(user, "Mei Lin") for user in others))
        async with asyncio.timeout(20):
            while on.starts < 2:  # noqa: ASYNC110 - another process calls
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)
        assert on.starts == 2  # forty-nine wait for the cold start of one
        answers = await starting
        assert {answer.status_code for answer in answers} == {200}
        assert sum(answer.json()["is_new_instance"] for answer in answers) == 1
        assert await on.connections() == {"Ada Demo": 1, "Mei Lin": 50}

        await asyncio.gather(*(on.post(user, "/api/avatar/disconnect") for user in others[:25]))
        await on.until_counted({"Ada Demo": 1, "Mei Lin": 25})
        await asyncio.gather(*(on.post(user, "/api/logout") for user in [one, *others[25:]]))
        await on.until_counted({})


@pytest.mark.asyncio
async def test_closed_tab_frees_its_place_and_no_other(tmp_path: Path) -> None:
    async with stage(tmp_path, 3) as on:
        leaver, stayer, alone = on.tokens
        for user in (leaver, stayer):
            await on.start(user)
        await on.start(alone, "Mei Lin")
        sessions = {user: await on.offer(user) for user in on.tokens}
        assert on.world.hang_up(sessions[leaver]) + on.world.hang_up(sessions[alone]) == 2
        await on.until_counted({"Ada Demo": 1})
        said = {"sessionid": sessions[stayer], "type": "echo", "text": "still here"}
        assert (await on.post(stayer, "/api/webrtc/human", json=said)).status_code == 200
        assert (await on.post(leaver, "/api/webrtc/offer", json=OFFER)).status_code == 409


@pytest.mark.asyncio
async def test_workers_killed_amid_a_start_leave_nothing_that_nobody_owns(tmp_path: Path) -> None:
    async with stage(tmp_path, 2, latency=2.0, GATEWAY_OFFER_SECONDS="5") as on:
        lost, again = on.tokens
        starts = [asyncio.create_task(on.start(user)) for user in on.tokens]
        async with asyncio.timeout(20):
            while not on.starts:  # noqa: ASYNC110 - another process calls
                await asyncio.sleep(0.02)
        victims = {worker.pid for worker in workers_of(on.gateway)}
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        await asyncio.gather(*starts, return_exceptions=True)
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await on.start(again)).status_code == 200:
                        break
                await asyncio.sleep(0.1)
        await on.offer(again)
        # What the dead ones started is found, offered to its user for some seconds, and let go of.
        await on.until_counted({"Ada Demo": 1}, seconds=90)
        await on.post(again, "/api/avatar/disconnect")
        await on.until_counted({})
        assert (await on.start(lost)).status_code == 200


class Talkers:
    """Users who go on speaking to their avatars through both of two gateways until told to stop.

    An instance that a call was not meant for knows no such session: whatever goes astray is no 200.
    """

    def __init__(self, gateways: list[Served], tokens: dict[int, str]) -> None:
        self.statuses: list[int] = []
        self.sessions: dict[int, int] = {}
        self._tabs = [
            {user: Frontend(each.http, token) for user, token in tokens.items()} for each in gateways
        ]

    async def __aenter__(self) -> "Talkers":
        self._task = asyncio.create_task(self._talk())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    def tab(self, user: int) -> Frontend:
        return self._tabs[0][user]

    async def sit(self, user: int, name: str) -> None:
        """Start an avatar at one gateway, connect at the other."""
        self.sessions.pop(user, None)
        good(await self._tabs[0][user].urlencoded("/api/avatar/start", avatar_name=name))
        offer = good(await self._tabs[1][user].json("/api/webrtc/offer", OFFER))
        assert f"s=demo avatar {name}" in offer["sdp"]
        self.sessions[user] = offer["sessionid"]

    async def leave(self, user: int) -> None:
        del self.sessions[user]
        good(await self._tabs[1][user].json("/api/avatar/disconnect"))

    async def _talk(self) -> None:
        while True:
            for user, session in list(self.sessions.items()):
                for tabs in self._tabs:
                    said = {"sessionid": session, "type": "echo", "text": "x"}
                    answer = await tabs[user].json("/api/webrtc/human", said)
                    # Whoever switches or leaves meanwhile is told so.
                    if self.sessions.get(user) == session:
                        self.statuses.append(answer.status_code)
            await asyncio.sleep(0.01)

    async def more(self, count: int = 12) -> None:
        have = len(self.statuses)
        await until(lambda: len(self.statuses) >= have + count, FREED_SECONDS)


@pytest.mark.asyncio
async def test_redis_that_comes_and_goes_loses_no_session_and_leads_nobody_astray(tmp_path: Path) -> None:
    """Two gateways with one database and one Redis, which is killed, started, held and resumed."""
    async with contextlib.AsyncExitStack() as stack:
        redis = stack.enter_context(own_redis())
        world = await stack.enter_async_context(World(DemoSettings.free(latency_seconds=0.02)))
        settings = settings_for(
            tmp_path,
            redis_url=redis.url,
            avatar_service_url=world.catalogue_url,
            avatar_manager_url=world.manager_url,
            avatar_instance_ports="1024-65535",
        )
        gateways = [await stack.enter_async_context(serving(settings, accounts=new)) for new in (True, False)]
        url = settings.database_url.get_secret_value()
        tokens = await asyncio.to_thread(signed_in, tmp_path, url, KEY, 4)
        stayer, switcher, leaver, late = tokens
        talkers = await stack.enter_async_context(Talkers(gateways, tokens))
        for user, name in ((stayer, "Ada Demo"), (switcher, "Mei Lin"), (leaver, "Ada Demo")):
            await talkers.sit(user, name)
        await talkers.more()

        for change, use in (
            (redis.kill, lambda: talkers.sit(switcher, "Prof Chen")),
            (redis.start, lambda: talkers.leave(leaver)),
            (redis.hold, lambda: talkers.sit(late, "Mei Lin")),
            (redis.resume, lambda: talkers.sit(leaver, "Prof Chen")),
        ):
            await asyncio.to_thread(change)
            await talkers.more()
            await use()
            await talkers.more()

        assert set(talkers.statuses) == {200}
        standing = talkers.tab(stayer).http
        listed = (await standing.get(f"{world.manager_url}/avatar/list")).json()["data"]
        counts = {each["real_avatar_name"]: each["connections"] for each in listed}
        assert counts == {"Ada Demo": 1, "Mei Lin": 1, "Prof Chen": 2}
        foreign = {"sessionid": talkers.sessions[late], "type": "echo", "text": "boo"}
        refused(await talkers.tab(stayer).json("/api/webrtc/human", foreign), 404)
