"""Looks at peer connections of scripted instances."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from backend.models import AvatarSession
from backend.services import session_store as store
from backend.services.database import Database
from backend.services.forwarding import Forwarder, Upstream
from backend.services.http_client import HttpClient
from backend.services.managed_fleet import ManagedFleet
from backend.services.peer_watch import PeerWatch
from backend.services.seats import Ports
from backend.services.sessions import Sessions
from tests.support.manager import Manager
from tests.support.peer import JSON, Exchange, Peer, until
from tests.support.stores import store as store_of
from tests.support.upstream import client_of

PORTS = Ports("127.0.0.1", 1024, 65535)


@dataclass
class Instance:
    """Knows sessions; `mood` is another status that it answers with."""

    sessions: set[int] = field(default_factory=set)
    mood: bytes | None = None
    asked: list[int] = field(default_factory=list)

    async def __call__(self, exchange: Exchange) -> None:
        session = json.loads(await exchange.body())["sessionid"]
        self.asked.append(session)
        if self.mood is not None:
            await exchange.reply(b"{}", JSON, status=self.mood)
        elif session in self.sessions:
            await exchange.reply(b'{"code":0,"data":false}', JSON)
        else:
            await exchange.reply(b'{"code":-1}', JSON, status=b"404 Not Found")


@dataclass
class Stage:
    database: Database
    sessions: Sessions
    watch: PeerWatch
    instance: Instance
    peer: Peer
    manager: Manager
    now: float = 0.0

    async def add(self, user: int, peer_session: int | None) -> None:
        info = {"avatar_id": "Ada_user_1", "real_avatar_name": "Ada", "port": self.peer.port, "running": True}
        self.manager.running.setdefault("Ada", info | {"connections": 0})["connections"] += 1
        row = AvatarSession(user_id=user, avatar="Ada", instance_id="Ada_user_1", port=self.peer.port)
        row.state, row.peer_session = store.READY, peer_session
        await self.database.run(lambda session: session.add(row))
        if peer_session is not None:
            self.instance.sessions.add(peer_session)

    async def look(self, seconds: float = 3.0) -> None:
        self.now += seconds
        await self.watch.round()

    async def users(self) -> list[int]:
        ready = await self.database.run(store.rows(store.with_state(store.READY)))
        return [row.user_id for row in ready]


@asynccontextmanager
async def opened(database: Database, client: HttpClient) -> AsyncIterator[Stage]:
    instance, manager = Instance(), Manager()
    async with Peer(instance) as peer, Peer(manager) as managing:
        forwarder = Forwarder(client)
        fleet = ManagedFleet(forwarder, Upstream.at("manager", managing.url), PORTS)
        sessions = Sessions(fleet, database, PORTS)
        watch = PeerWatch(sessions, forwarder, PORTS, clock=lambda: on.now)
        on = Stage(database, sessions, watch, instance, peer, manager)
        yield on
        await sessions.aclose()


@pytest_asyncio.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with (
        store_of("sqlite", tmp_path) as database,
        client_of("direct") as client,
        opened(database, client) as on,
    ):
        yield on


@pytest.mark.asyncio
async def test_connection_that_is_missing_twice_is_let_go_of_and_no_other(stage: Stage) -> None:
    for user in (1, 2, 3):
        await stage.add(user, user * 111_111)
    stage.instance.sessions.remove(222_222)
    await stage.look()
    assert await stage.users() == [1, 2, 3]
    await stage.look()
    assert await stage.users() == [1, 3]
    await until(lambda: stage.manager.connections == {"Ada": 2})
    assert sorted(stage.instance.asked) == sorted([111_111, 222_222, 333_333] * 2)


@pytest.mark.asyncio
async def test_connection_that_was_missing_once_is_kept(stage: Stage) -> None:
    await stage.add(1, 111_111)
    stage.instance.sessions.clear()
    await stage.look()
    stage.instance.sessions.add(111_111)
    await stage.look()
    stage.instance.sessions.clear()
    await stage.look()
    assert await stage.users() == [1]


@pytest.mark.asyncio
async def test_user_who_connected_anew_meanwhile_is_kept(stage: Stage) -> None:
    await stage.add(1, 111_111)
    stage.instance.sessions.clear()
    await stage.look()
    seat = await stage.sessions.seat_of(1)
    assert seat is not None
    await stage.sessions.seated(seat, 999_999)
    await stage.look()
    await stage.look(1.0)
    assert await stage.users() == [1]


@pytest.mark.asyncio
async def test_user_without_an_offer_is_not_asked_for(stage: Stage) -> None:
    await stage.add(1, None)
    await stage.look()
    await stage.look()
    assert stage.instance.asked == []
    assert await stage.users() == [1]


@pytest.mark.asyncio
@pytest.mark.parametrize("mood", [b"500 Internal Server Error", b"503 Service Unavailable", b"302 Found"])
async def test_instance_that_does_not_say_loses_nobody(stage: Stage, mood: bytes) -> None:
    await stage.add(1, 111_111)
    stage.instance.mood = mood
    for _ in range(3):
        await stage.look()
    assert await stage.users() == [1]


@pytest.mark.asyncio
async def test_instance_that_refuses_connections_is_forgotten(stage: Stage) -> None:
    await stage.add(1, 111_111)
    await stage.peer.__aexit__()
    await stage.look()
    assert await stage.users() == []


@pytest.mark.asyncio
async def test_watch_that_runs_finds_out_by_itself(stage: Stage) -> None:
    await stage.add(1, 111_111)
    watch = PeerWatch(stage.sessions, Forwarder(stage.watch._forwarder._client), PORTS, round_seconds=0.2)
    stage.instance.sessions.clear()
    watch.start()
    await until(lambda: stage.manager.connections == {}, 20)
    await watch.aclose()
