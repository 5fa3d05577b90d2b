import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from flask import Flask

from backend.config import load
from backend.services import readiness
from backend.services.database import Database, attach, upgrade
from backend.services.forwarding import Forwarder, Upstream
from backend.services.readiness import Readiness, Report
from tests.support.gateway import free_port
from tests.support.peer import Exchange, Peer
from tests.support.upstream import client_of


@pytest.mark.parametrize(
    ("checks", "store_is_up", "status"),
    [
        ({"database": "ok"}, True, "healthy"),
        ({"database": "ok", "manager": "ok"}, True, "healthy"),
        ({"database": "ok", "manager": "upstream_refused"}, True, "degraded"),
        ({"database": "unreachable", "manager": "ok"}, False, "unhealthy"),
    ],
)
def test_status_follows_from_the_checks(checks: dict[str, str], store_is_up: bool, status: str) -> None:
    assert Report(checks, store_is_up).status == status


@pytest_asyncio.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    app = Flask("test")
    engine = attach(app, load({}, None, database_url=f"sqlite:///{tmp_path}/gateway.db"))
    await asyncio.to_thread(upgrade, app)
    database = Database(engine, threads=2)
    yield database
    await database.aclose()


async def script(exchange: Exchange) -> None:
    match exchange.head.target:
        case b"/ok":
            await exchange.reply(b"{}")
        case b"/404":
            await exchange.reply(b"{}", status=b"404 Not Found")
        case b"/500":
            await exchange.reply(b"{}", status=b"500 No")
        case _:
            await exchange.client_left()


@pytest.mark.asyncio
async def test_each_dependency_is_told_by_its_own_word(database: Database) -> None:
    async with Peer(script) as peer, client_of("reqwest") as client:
        here, nowhere = Upstream.at("x", peer.url), Upstream.at("y", f"http://127.0.0.1:{free_port()}")
        probes = {"good": (here, "/ok"), "bare": (here, "/404"), "bad": (here, "/500")}
        probes |= {"none": (nowhere, "/ok"), "silent": (here, "/silent")}
        report = await Readiness(database, Forwarder(client), probes).report()
        assert report.checks["silent"] in (readiness.LATE, "upstream_total_timeout")
        assert {name: said for name, said in report.checks.items() if name != "silent"} == {
            "database": "ok",
            "good": "ok",
            # It answers, and that is all that health asks: services need not have this path.
            "bare": "ok",
            "bad": "answers 500",
            "none": "upstream_refused",
        }
        assert (report.status, report.store_is_up) == ("degraded", True)


@pytest.mark.asyncio
async def test_those_who_ask_at_the_same_time_get_one_report(database: Database) -> None:
    async with Peer(script) as peer, client_of("reqwest") as client:
        probed = Readiness(database, Forwarder(client), {"x": (Upstream.at("x", peer.url), "/ok")})
        reports = await asyncio.gather(*(probed.report() for _ in range(20)))
        assert all(report is reports[0] for report in reports)
        assert len(peer.heads) == 1


@pytest.mark.asyncio
async def test_one_who_leaves_while_it_is_probed_holds_up_nobody(database: Database) -> None:
    async with Peer(script) as peer, client_of("reqwest") as client:
        probed = Readiness(database, Forwarder(client), {"x": (Upstream.at("x", peer.url), "/ok")})
        leaver = asyncio.create_task(probed.report())
        await asyncio.sleep(0)
        leaver.cancel()
        await asyncio.wait([leaver])
        assert (await probed.report()).status == "healthy"


@pytest.mark.asyncio
async def test_lost_database_is_what_makes_it_unhealthy(database: Database) -> None:
    async with client_of("reqwest") as client:
        await database.aclose()
        report = await Readiness(database, Forwarder(client), {}).report()
        assert report == Report({"database": "unreachable"}, store_is_up=False)
        assert report.status == "unhealthy"
