import asyncio
import socket
import time
from collections.abc import Callable

import pytest

from backend.config import Settings
from backend.demo.faults import Switch
from backend.demo.world import World
from backend.server import listen
from tests.support.frontend import Frontend, hidden
from tests.support.gateway import Served, mount, serving
from tests.support.peer import until

# Each dependency has a second; the rest is for a busy machine.
DETAILED_SECONDS = 2.5
CHECKED = {"database", "catalogue", "manager", "model", "retrieval", "loop", "places", "files"}


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
async def test_detailed_health_names_what_it_checked(visitor: Frontend) -> None:
    answer = await visitor.get("/api/health/detailed")
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
        assert answer.json()["status"] == "healthy"
        holding.cancel()
        await asyncio.wait([holding])


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
