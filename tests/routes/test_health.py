import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import event

from backend.config import Settings
from backend.demo.faults import Switch
from backend.demo.world import World
from backend.server import listen
from backend.services import readiness
from tests.support.disk import fill, small_disk
from tests.support.frontend import Frontend, hidden
from tests.support.gateway import Served, mount, serving
from tests.support.peer import Peer, silent, until

# Each dependency has less than a second; the rest is for a busy machine.
DETAILED_SECONDS = 2.5
CHECKED = {"database", "catalogue", "manager", "model", "retrieval", "loop", "places", "files"}


async def once_all_is_well(served: Served) -> httpx.Response:
    """Ask until everything is: where others use the machine, a probe or the loop may be late for a moment."""
    for _ in range(20):
        answer = await served.http.get("/api/health/detailed")
        if answer.json()["status"] == "healthy":
            return answer
        await asyncio.sleep(1)
    raise AssertionError(answer.text)


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", ["refuse", "hang"])
async def test_liveness_depends_on_nothing(
    served: Served, visitor: Frontend, world: World, fault: str
) -> None:
    for service in ("catalogue", "manager", "instance"):
        await world.control.put(Switch(service, fault))
    await served.gateway.database.aclose()
    ping = await visitor.get("/api/ping")
    assert (ping.status_code, ping.text) == (200, "pong")
    assert ping.headers["content-type"].startswith("text/plain")
    live = await visitor.get("/api/health")
    assert live.json() == {"status": "ok", "service": "avatar-gateway"}


@pytest.mark.asyncio
async def test_detailed_health_names_what_it_checked(served: Served) -> None:
    answer = await once_all_is_well(served)
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "healthy",
        "service": "avatar-gateway",
        "checks": dict.fromkeys(CHECKED, "ok"),
    }


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("service", "fault", "reason"),
    [
        ("catalogue", "refuse", "upstream_refused"),
        ("manager", "refuse", "upstream_refused"),
        ("catalogue", "500", "answers 500"),
        ("manager", "reset", "upstream_broken"),
    ],
)
async def test_failing_service_degrades_and_says_why(
    visitor: Frontend, world: World, service: str, fault: str, reason: str
) -> None:
    await world.control.put(Switch(service, fault))
    answer = await visitor.get("/api/health/detailed")
    assert answer.status_code == 200
    report = answer.json()
    assert report["status"] == "degraded"
    others = {"model", "retrieval"}  # which the test's world plays by its catalogue
    checks = {name: state for name, state in report["checks"].items() if name not in others}
    assert checks == dict.fromkeys(CHECKED - others, "ok") | {service: reason}
    hidden(answer)


@pytest.mark.asyncio
async def test_detailed_health_answers_in_time_while_everything_hangs(
    visitor: Frontend, world: World
) -> None:
    for service in ("catalogue", "manager"):
        await world.control.put(Switch(service, "hang"))
    began = time.monotonic()
    answers = await asyncio.gather(*(visitor.get("/api/health/detailed") for _ in range(10)))
    assert time.monotonic() - began < DETAILED_SECONDS
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["status"] for answer in answers} == {"degraded"}
    # Those who ask at the same time share the probes.
    assert world.ledger("manager").calls == 1


@pytest.mark.asyncio
async def test_detailed_health_answers_in_time_while_every_place_is_taken(
    settings: Callable[..., Settings], world: World
) -> None:
    mounts = [mount("/m", world.catalogue_url)]
    async with serving(settings(gateway_mounts=mounts, upstream_max_connections=1)) as served:
        await world.control.put(Switch("catalogue", "hang", "/held"))
        holding = asyncio.ensure_future(served.http.get("/m/held"))
        await until(lambda: served.gateway.client.slots.in_use == 1)
        began = time.monotonic()
        answer = await served.http.get("/api/health/detailed")
        assert time.monotonic() - began < DETAILED_SECONDS
        assert answer.status_code == 200
        # The mount's upstream fills its own share only.
        await once_all_is_well(served)
        holding.cancel()
        await asyncio.wait([holding])


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of a megabyte, where root may mount one; else one that is full as soon as it holds a file."""
    monkeypatch.setattr(readiness, "LEAST_FREE_BYTES", 1 << 16)
    place = tmp_path / "disk"
    with small_disk(place, "1m") as mounted:
        if not mounted:
            monkeypatch.setattr(readiness, "_free_bytes", lambda at: 0 if any(at.iterdir()) else 1 << 20)
        yield place


async def told_within_a_second(served: Served, status: int, **wrong: str) -> None:
    """Ask until what is wrong is told, and in time; where others use the machine, not every answer is."""
    seen = []
    for _ in range(10):
        served.gateway.readiness._fresh.expire()
        began = time.monotonic()
        detailed = await served.http.get("/api/health/detailed")
        lives = await served.http.get("/api/health")
        seconds = time.monotonic() - began
        assert lives.status_code == 200
        hidden(detailed)
        checks = detailed.json()["checks"]
        told = {name: said for name, said in checks.items() if said != "ok" and name != "loop"}
        if seconds < 1 and detailed.status_code == status and told == wrong:
            return
        seen.append((round(seconds, 2), detailed.status_code, told))
    raise AssertionError(seen)


@pytest.mark.asyncio
async def test_overload_hung_service_full_disk_and_dead_database_are_named_within_a_second(
    settings: Callable[..., Settings], world: World, disk: Path
) -> None:
    """One after the other, until all are there at once."""
    release = threading.Event()
    async with Peer(silent) as busy:
        mounts = [mount("/busy", busy.url, max_calls=1)]
        over = {"gateway_mounts": mounts, "gateway_files_dir": disk, "gateway_pool_wait_seconds": 60}
        async with serving(settings(**over)) as served:
            await told_within_a_second(served, 200)
            calls = [asyncio.ensure_future(served.http.get("/busy/x", timeout=60)) for _ in range(2)]
            wrong = {"places": "calls wait for mount /busy"}
            await told_within_a_second(served, 200, **wrong)
            await world.control.put(Switch("manager", "hang"))
            wrong["manager"] = "upstream_total_timeout"
            await told_within_a_second(served, 200, **wrong)
            await asyncio.to_thread(fill, disk)
            wrong["files"] = "nearly full"
            await told_within_a_second(served, 200, **wrong)
            engine = served.gateway.database._engine
            event.listen(engine, "before_cursor_execute", lambda *_: release.wait(20))
            await told_within_a_second(served, 503, **wrong, database=readiness.LATE)
            release.set()
            await served.gateway.database.aclose()
            await told_within_a_second(served, 503, **wrong, database="unreachable")
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)


@pytest.mark.asyncio
async def test_gateway_without_its_database_is_503_and_says_so(served: Served, visitor: Frontend) -> None:
    await served.gateway.database.aclose()
    answer = await visitor.get("/api/health/detailed")
    assert answer.status_code == 503
    assert answer.json()["status"] == "unhealthy"
    assert answer.json()["checks"]["database"] == "unreachable"
    hidden(answer)


@pytest.mark.asyncio
async def test_health_is_probed_once_a_second_however_often_it_is_asked(
    visitor: Frontend, world: World
) -> None:
    began = time.monotonic()
    for _ in range(10):
        await visitor.get("/api/health/detailed")
    assert world.ledger("manager").calls <= 2 + time.monotonic() - began


def test_answers_do_not_wait_for_acknowledgements(settings: Callable[..., Settings]) -> None:
    """asyncio sets TCP_NODELAY by the protocol number, which accepted sockets take from this one."""
    with listen(settings()) as sock:
        assert sock.proto == socket.IPPROTO_TCP
