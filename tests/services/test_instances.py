import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from flask import Flask

from backend.config import load
from backend.errors import Conflict, UpstreamBusy, UpstreamGarbage
from backend.models import User
from backend.services.database import Database, attach, upgrade
from backend.services.forwarding import Forwarder, Upstream
from backend.services.http_client import HttpClient
from backend.services.instances import Instances, Ports
from tests.support.peer import Exchange, Peer, until
from tests.support.upstream import client_of

PORTS = Ports("127.0.0.1", 8615, 8714)


class Manager:
    """Counts as the real one does: one instance a name, one connection more for each start."""

    def __init__(self, capacity: int = 5) -> None:
        self.capacity = capacity
        self.running: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, exchange: Exchange) -> None:
        path = exchange.head.target.decode()
        self.calls.append(path)
        fields = json.loads(await exchange.body() or b"{}")
        await self.go.wait()
        data = self._done(path, fields)
        status = b"200 OK" if data is not None else b"400 Bad Request"
        await exchange.reply(json.dumps({"status": "success", "data": data}).encode(), status=status)

    def _done(self, path: str, fields: dict[str, Any]) -> dict[str, Any] | None:
        if path == "/avatar/start":
            return self._start(fields["avatar_id"], fields["avatar_name"])
        wanted = fields.get("avatar_id") or path.rpartition("/")[2].replace("%20", " ")
        info = next((info for info in self.running.values() if info["avatar_id"] == wanted), None)
        if info is not None and path == "/avatar/disconnect":
            info["connections"] -= 1
            if not info["connections"]:
                del self.running[info["real_avatar_name"]]
        return info

    def _start(self, instance_id: str, name: str) -> dict[str, Any] | None:
        if name not in self.running and len(self.running) >= self.capacity:
            return None
        info = self.running.setdefault(
            name,
            {"avatar_id": instance_id, "real_avatar_name": name, "port": 8615 + len(self.running)}
            | {"running": True, "gpu": 0, "connections": 0},
        )
        info["connections"] += 1
        return dict(info)

    @property
    def connections(self) -> dict[str, int]:
        return {name: info["connections"] for name, info in self.running.items()}


@pytest_asyncio.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    app = Flask("test")
    engine = attach(app, load({}, None, database_url=f"sqlite:///{tmp_path}/gateway.db"))
    await asyncio.to_thread(upgrade, app)
    database = Database(engine, threads=4)
    with database.transaction() as session:
        session.add_all([User(email=f"{n}@b.co", password_hash="x", role="student") for n in range(3)])
    yield database
    await database.aclose()


@pytest_asyncio.fixture
async def client() -> AsyncIterator[HttpClient]:
    async with client_of("reqwest") as opened:
        yield opened


@asynccontextmanager
async def managed_by(
    manager: Manager, database: Database, client: HttpClient, processes: int = 1
) -> AsyncIterator[list[Instances]]:
    """As many gateways as asked for, with one manager and one database."""
    async with Peer(manager) as peer:
        upstream = Upstream.at("manager", peer.url)
        opened = [Instances(Forwarder(client), upstream, database, PORTS) for _ in range(processes)]
        yield opened
        for instances in opened:
            await instances.aclose()


@pytest.mark.asyncio
async def test_start_remembers_where_the_avatar_runs(database: Database, client: HttpClient) -> None:
    async with managed_by(Manager(), database, client) as (instances,):
        started = await instances.start(1, "Ada")
        assert (started["port"], started["is_new_instance"]) == (8615, True)
        assert (await instances.upstream_of(1)).origins == ("http://127.0.0.1:8615",)
        with pytest.raises(Conflict):
            await instances.upstream_of(2)


@pytest.mark.asyncio
async def test_same_start_at_the_same_time_is_one(database: Database, client: HttpClient) -> None:
    manager = Manager()
    async with managed_by(manager, database, client) as (instances,):
        first, *others = await asyncio.gather(*(instances.start(1, "Ada") for _ in range(5)))
        assert others == [first] * 4
        assert manager.calls == ["/avatar/start"]
        assert manager.connections == {"Ada": 1}


@pytest.mark.asyncio
async def test_same_start_in_two_processes_counts_once(database: Database, client: HttpClient) -> None:
    manager = Manager()
    manager.go.clear()
    async with managed_by(manager, database, client, processes=2) as (one, other):
        starts = [asyncio.create_task(instances.start(1, "Ada")) for instances in (one, other)]
        await until(lambda: len(manager.calls) == 2)
        manager.go.set()
        await asyncio.gather(*starts)
        assert manager.connections == {"Ada": 1}
        assert await one.release(1)
        assert manager.connections == {}


@pytest.mark.asyncio
async def test_different_starts_at_the_same_time_leave_the_last_one_running(
    database: Database, client: HttpClient
) -> None:
    manager = Manager()
    async with managed_by(manager, database, client) as (instances,):
        await asyncio.gather(*(instances.start(1, name) for name in ("Ada", "Bo", "Cy")))
        assert manager.connections == {"Cy": 1}


@pytest.mark.asyncio
async def test_start_goes_on_without_the_one_who_asked(database: Database, client: HttpClient) -> None:
    manager = Manager()
    manager.go.clear()
    async with managed_by(manager, database, client) as (instances,):
        leaver = asyncio.create_task(instances.start(1, "Ada"))
        await until(lambda: len(manager.calls) == 1)
        leaver.cancel()
        await asyncio.wait([leaver])
        manager.go.set()
        assert (await instances.start(1, "Ada"))["port"] == 8615
        assert manager.connections == {"Ada": 1}


@pytest.mark.asyncio
async def test_release_waits_for_a_start_under_way(database: Database, client: HttpClient) -> None:
    manager = Manager()
    manager.go.clear()
    async with managed_by(manager, database, client) as (instances,):
        start = asyncio.create_task(instances.start(1, "Ada"))
        await until(lambda: len(manager.calls) == 1)
        release = asyncio.create_task(instances.release(1))
        manager.go.set()
        await start
        assert await release is True
        assert manager.connections == {}


@pytest.mark.asyncio
async def test_closing_ends_a_start_that_hangs(database: Database, client: HttpClient) -> None:
    manager = Manager()
    manager.go.clear()
    async with managed_by(manager, database, client) as (instances,):
        start = asyncio.create_task(instances.start(1, "Ada"))
        await until(lambda: len(manager.calls) == 1)
        await instances.aclose()
        with pytest.raises(asyncio.CancelledError):
            await start


@pytest.mark.asyncio
async def test_users_do_not_wait_for_each_other(database: Database, client: HttpClient) -> None:
    manager = Manager()
    manager.go.clear()
    async with managed_by(manager, database, client) as (instances,):
        starts = [asyncio.create_task(instances.start(user, "Ada")) for user in (1, 2, 3)]
        await until(lambda: len(manager.calls) == 3)
        manager.go.set()
        started = await asyncio.gather(*starts)
        assert sorted(each["connections"] for each in started) == [1, 2, 3]
        assert sum(each["is_new_instance"] for each in started) == 1


@pytest.mark.asyncio
async def test_failed_start_keeps_the_former_instance(database: Database, client: HttpClient) -> None:
    manager = Manager(capacity=1)
    async with managed_by(manager, database, client) as (instances,):
        await instances.start(1, "Ada")
        with pytest.raises(UpstreamBusy):
            await instances.start(1, "Bo")
        assert manager.connections == {"Ada": 1}
        assert (await instances.upstream_of(1)).origins == ("http://127.0.0.1:8615",)


@pytest.mark.asyncio
async def test_instance_that_moved_is_found_again(database: Database, client: HttpClient) -> None:
    manager = Manager()
    async with managed_by(manager, database, client) as (instances,):
        await instances.start(1, "Ada")
        manager.running["Ada"]["port"] = 8700
        assert (await instances.start(1, "Ada"))["port"] == 8700
        assert (await instances.upstream_of(1)).origins == ("http://127.0.0.1:8700",)


@pytest.mark.asyncio
async def test_release_without_an_instance_asks_nobody(database: Database, client: HttpClient) -> None:
    manager = Manager()
    async with managed_by(manager, database, client) as (instances,):
        assert await instances.release(1) is False
        assert manager.calls == []


@pytest.mark.parametrize("port", [1, 22, 8614, 8715, 65536, -1])
def test_ports_outside_the_range_lead_nowhere(port: int) -> None:
    with pytest.raises(UpstreamGarbage):
        PORTS.upstream(port)


@pytest.mark.parametrize("port", [8615, 8700, 8714])
def test_ports_inside_the_range_lead_to_the_one_host(port: int) -> None:
    assert PORTS.upstream(port).origins == (f"http://127.0.0.1:{port}",)
