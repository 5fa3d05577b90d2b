"""Every way in which a service fails, on every route that asks it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import httpx
import pytest

from backend.config import Settings
from backend.demo.faults import FAULTS, Switch
from backend.demo.world import World
from tests.routes.conftest import Stage
from tests.support.frontend import FILM, Frontend, form_of, good, hidden, refused
from tests.support.gateway import Served, mount, serving
from tests.support.peer import until


@dataclass(frozen=True)
class Route:
    """A call of the frontend, and the call of a service that it leads to."""

    call: Callable[[Frontend], Awaitable[httpx.Response]]
    service: str
    path: str


ROUTES: Mapping[str, Route] = {
    "list": Route(lambda f: f.get("/api/avatar/list"), "catalogue", "/avatar/get_avatars"),
    "preview": Route(
        lambda f: f.multipart("/api/avatar/preview", avatar_name="New One"), "catalogue", "/avatar/preview"
    ),
    "delete": Route(
        lambda f: f.multipart("/api/avatar/delete", name="New One"), "catalogue", "/avatar/delete"
    ),
    "start": Route(
        lambda f: f.urlencoded("/api/avatar/start", avatar_name="New One"), "manager", "/avatar/start"
    ),
    "add": Route(lambda f: f.add(form_of(), prompt_face=("a.mp4", FILM)), "catalogue", "/avatar/add"),
}

MEANING: Mapping[str, tuple[int, str]] = {
    "refuse": (502, "upstream_refused"),
    "reset": (502, "upstream_broken"),
    "reset-after-head": (502, "upstream_broken"),
    "cut-body": (502, "upstream_broken"),
    "cut-chunked": (502, "upstream_broken"),
    "code-1": (503, "upstream_busy"),
    "status-error": (502, "upstream_rejected"),
    "500": (502, "upstream_rejected"),
    "garbage": (502, "upstream_garbage"),
    "not-http": (502, "upstream_garbage"),
    "redirect": (502, "upstream_garbage"),
    "huge": (502, "upstream_garbage"),
    "wrong-length": (502, "upstream_garbage"),
}
# The preview streams: its head has gone out when these show.
BROKEN_MIDWAY = ("reset-after-head", "cut-body", "cut-chunked")
# These need time to show, and the routes' limits are long: a mount stands in for them.
SLOW = {"hang", "slow-body"}


def test_every_fault_of_the_demo_is_tried() -> None:
    assert set(MEANING) | SLOW == set(FAULTS)


async def broken(stage: Stage, route: Route, fault: str) -> None:
    """Turn a fault on for one call, after the catalogue has been asked once and has the avatar."""
    for asked in (ROUTES["add"], ROUTES["list"]):
        good(await asked.call(stage.tutor))
    good(await stage.student.json("/api/avatar/disconnect"))
    everywhere = fault == "refuse"
    await stage.world.control.put(Switch(route.service, fault, "*" if everywhere else route.path))


async def nothing_is_left(served: Served) -> None:
    slots = served.gateway.client.slots
    await until(lambda: slots.in_use == 0 and slots.waiting == 0)


CASES = [
    (name, fault)
    for name in ROUTES
    for fault in MEANING
    if name != "list" and not (name == "preview" and fault in BROKEN_MIDWAY)
]


def checked(answer: httpx.Response, fault: str, world: World) -> None:
    status, code = MEANING[fault]
    shown = refused(answer, status, code)
    assert shown["retryable"] is (code in ("upstream_refused", "upstream_busy"))
    assert ("retry-after" in answer.headers) is (status == 503)
    hidden(answer, world.catalogue_url[-5:], world.manager_url[-5:])


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", MEANING)
async def test_failing_list_is_told_in_the_gateways_words(
    served: Served, student: Frontend, world: World, fault: str
) -> None:
    await world.control.put(Switch("catalogue", fault))
    checked(await student.get("/api/avatar/list"), fault, world)
    await nothing_is_left(served)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("name", "fault"), CASES)
async def test_failure_behind_is_told_in_the_gateways_words(stage: Stage, name: str, fault: str) -> None:
    route = ROUTES[name]
    await broken(stage, route, fault)
    checked(await route.call(stage.tutor), fault, stage.world)
    await nothing_is_left(stage.served)
    await stage.world.control.clear()
    # 404: the service had done it before it failed.
    assert (await route.call(stage.tutor)).status_code in ((200, 404) if name == "delete" else (200,))
    good(await stage.tutor.json("/api/avatar/disconnect"))


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("fault", BROKEN_MIDWAY)
async def test_picture_that_breaks_off_never_looks_whole(stage: Stage, fault: str) -> None:
    await broken(stage, ROUTES["preview"], fault)
    with pytest.raises(httpx.RemoteProtocolError):
        await ROUTES["preview"].call(stage.tutor)
    await nothing_is_left(stage.served)
    await stage.world.control.clear()
    assert (await ROUTES["preview"].call(stage.tutor)).status_code == 200


@pytest.mark.asyncio
async def test_silent_service_is_504(settings: Callable[..., Settings], world: World) -> None:
    mounts = [mount("/m", world.catalogue_url, timeout=0.3)]
    async with serving(settings(gateway_mounts=mounts)) as served:
        await world.control.put(Switch("catalogue", "hang"))
        refused(await served.http.get("/m/avatar/get_avatars"), 504, "upstream_first_byte_timeout")
        await nothing_is_left(served)


@pytest.mark.asyncio(loop_scope="module")
async def test_dripping_answer_is_waited_for(stage: Stage) -> None:
    await broken(stage, ROUTES["delete"], "slow-body")
    good(await ROUTES["delete"].call(stage.tutor))
    await nothing_is_left(stage.served)


@pytest.mark.asyncio
async def test_list_is_asked_for_once_more_when_the_connection_broke(student: Frontend, world: World) -> None:
    await world.control.put(Switch("catalogue", "reset", times=1))
    good(await student.get("/api/avatar/list"))
    assert world.ledger("catalogue").calls == 2


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", ["delete", "start", "add"])
async def test_work_that_may_have_been_done_is_never_asked_for_twice(stage: Stage, name: str) -> None:
    route = ROUTES[name]
    await broken(stage, route, "reset-after-head")
    before = stage.world.ledger(route.service).by_path[route.path]
    refused(await route.call(stage.tutor), 502)
    assert stage.world.ledger(route.service).by_path[route.path] == before + 1
