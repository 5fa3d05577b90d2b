import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from flask import Flask
from sqlalchemy import event

from backend.config import load
from backend.services import readiness
from backend.services.balancing import Load
from backend.services.database import Database, attach, upgrade
from backend.services.forwarding import Forwarder, Upstream
from backend.services.loop_lag import LoopLag
from backend.services.policies import Timeouts
from backend.services.readiness import Readiness, Report, files_check, loop_check, places_check
from tests.support.peer import Exchange, Peer, until
from tests.support.ports import free_port
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


@pytest.mark.asyncio
async def test_a_check_that_hangs_is_late_in_time_and_under_way_once(database: Database) -> None:
    begun, release = 0, asyncio.Event()

    async def hanging() -> str:
        nonlocal begun
        begun += 1
        await release.wait()
        return "ok"

    async with client_of("reqwest") as client:
        probed = Readiness(database, Forwarder(client), {}, {"slow": hanging})
        for _ in range(3):
            began = time.monotonic()
            report = await probed.report()
            assert time.monotonic() - began < readiness.PROBE_SECONDS + 1.5
            assert report.checks == {"database": "ok", "slow": readiness.LATE}
            assert report.status == "degraded"
            probed._fresh.expire()
        assert begun == 1
        release.set()
        await asyncio.sleep(0)
        assert (await probed.report()).checks["slow"] == "ok"
        await probed.aclose()


@pytest.mark.asyncio
async def test_a_database_that_hangs_takes_one_thread_and_no_more(database: Database) -> None:
    release = threading.Event()
    seen = []

    def hang(*_: object) -> None:
        seen.append(1)
        release.wait(20)

    event.listen(database._engine, "before_cursor_execute", hang)
    async with client_of("reqwest") as client:
        probed = Readiness(database, Forwarder(client), {})
        for _ in range(3):
            assert (await probed.report()).checks["database"] == readiness.LATE
            probed._fresh.expire()
        assert len(seen) == 1
        release.set()
        await until(
            lambda: probed._probes["database"]._task is None or probed._probes["database"]._task.done()
        )
        assert (await probed.report()).status == "healthy"
        await probed.aclose()
    event.remove(database._engine, "before_cursor_execute", hang)


@pytest.mark.asyncio
async def test_what_still_hangs_at_the_end_is_given_up(database: Database) -> None:
    async with client_of("reqwest") as client:
        probed = Readiness(database, Forwarder(client), {}, {"slow": asyncio.Event().wait})  # type: ignore[dict-item]
        await probed.report()
        await probed.aclose()
        assert {task for task in asyncio.all_tasks() if "_outcome" in repr(task)} == set()


@pytest.mark.asyncio
async def test_room_for_files_is_looked_at_where_they_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = files_check(tmp_path / "not" / "yet")
    assert await check() == "ok"
    monkeypatch.setattr(readiness, "LEAST_FREE_BYTES", 1 << 62)
    assert await check() == "nearly full"
    (tmp_path / "file").write_text("in the way")
    assert await files_check(Path("/proc/self/mem/x"))() in ("nearly full", "cannot be reached")


@pytest.mark.asyncio
async def test_a_loop_that_is_late_is_told() -> None:
    lag = LoopLag()
    check = loop_check(lag)
    assert await check() == "ok"
    lag._late.append(1.25)
    assert await check() == "late by 1.2 s"


@pytest.mark.asyncio
async def test_full_places_are_told_by_whom_calls_wait_for() -> None:
    async with Peer(script) as peer, client_of("direct", upstream_max_connections=1) as client:
        forwarder = Forwarder(client)
        check = places_check(forwarder)
        assert await check() == "ok"
        upstream = Upstream.at("model", peer.url)
        timeouts = Timeouts(first_byte=20)
        calls = [asyncio.create_task(forwarder.ask("POST", upstream, "/silent", timeouts)) for _ in range(2)]
        await until(lambda: forwarder.loads().get("model", Load()).waiting == 1)
        assert await check() == "calls wait for model"
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert await check() == "ok"
