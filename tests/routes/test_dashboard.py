import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from backend.config import Settings
from backend.demo.faults import Switch
from backend.demo.world import World
from backend.models import User
from backend.routes.console import DASHBOARD
from backend.services.viewers import MOST_VIEWERS
from tests.support.frontend import Frontend, good, refused
from tests.support.gateway import Served, serving
from tests.support.peer import until

AWAY = {"X-Forwarded-For": "203.0.113.9"}
SCRIPTS = [file.name for file in sorted(DASHBOARD.glob("*.js"))]
Event = tuple[str, dict[str, Any]]


class Stream:
    """An open stream of events, as a page reads it."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines

    async def event(self, wanted: str | None = None) -> Event:
        """Return the next event, or the next of this name."""
        async with asyncio.timeout(20):
            async for line in self._lines:
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: ") and name == (wanted or name):
                    return name, json.loads(line.removeprefix("data: "))
        raise EOFError

    async def end(self) -> None:
        async with asyncio.timeout(20):
            async for _ in self._lines:
                pass


@asynccontextmanager
async def watching(served: Served, **headers: str) -> AsyncIterator[Stream]:
    async with served.http.stream("GET", "/api/stats/stream", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        yield Stream(answer.aiter_lines())


@pytest.mark.asyncio
async def test_a_page_has_the_whole_picture_at_once_and_then_the_news(
    served: Served, student: Frontend
) -> None:
    for _ in range(3):
        good(await student.get("/api/avatar/list"))
    await student.urlencoded("/api/avatar/start", avatar_name="Ada Demo")
    async with watching(served) as stream:
        names, contents = zip(*[await stream.event() for _ in range(3)], strict=True)
        assert names == ("points", "state", "now")
        points, state, now = contents
        assert (points["seconds"], points["kept"]) == (5.0, 180)
        wrong = {name for name, told in state["checks"].items() if told != "ok"}
        assert wrong <= {"loop"}  # on a busy machine, it waits for its turn
        assert state["status"] == ("degraded" if wrong else "healthy")
        assert state["checks"]["catalogue"] == "ok"
        assert state["signed_in"] == 1
        assert [(one["avatar"], one["users"]) for one in state["instances"]] == [("Ada Demo", 1)]
        assert "/api/avatar/list" in {route["route"] for route in state["routes"]}
        assert now["workers"][0]["server"] == "hypercorn"
        assert (now["in_flight"], now["viewers"]) == (0, 1)
        _, later = await stream.event("now")
        assert later["total_requests"] == now["total_requests"]


@pytest.mark.asyncio
async def test_points_come_with_what_was_done(served: Served, student: Frontend) -> None:
    async with watching(served) as stream:
        for _ in range(4):
            good(await student.get("/api/avatar/list"))
        found: dict[int, dict[str, Any]] = {}
        async with asyncio.timeout(30):
            while sum(point["rate"] for point in found.values()) * 5 < 3.99:
                _, told = await stream.event("points")
                found |= {point["number"]: point for point in told["points"]}
        # Told twice, and the same both times.
        assert all(point["number"] < told["now"] for point in found.values())


@pytest.mark.asyncio
async def test_looking_is_neither_counted_nor_slow_nor_in_flight(
    settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(settings(slow_request_seconds=0.1)) as served:
        async with watching(served) as stream:
            await stream.event("now")
            _, now = await stream.event("now")
            document = (await served.http.get("/api/stats")).json()
            assert document["in_flight"] == 1  # the call that asks
            assert now["in_flight"] == 0
        await until(lambda: len(served.gateway.viewers) == 0)
        routes = {one["route"] for one in (await served.http.get("/api/stats")).json()["routes"]}
    assert "/api/stats/stream" not in routes
    assert "/api/stats/stream" not in caplog.text


@pytest.mark.asyncio
async def test_the_stream_is_for_this_machine_and_for_tutors(
    served: Served, student: Frontend, tutor: Frontend
) -> None:
    path = "/api/stats/stream"
    refused(await served.http.get(path, headers=AWAY), 401)
    refused(await served.http.get(path, headers={"Authorization": "Bearer nonsense"}), 401)
    assert (await served.http.get(path, headers=student.headers | AWAY)).status_code == 403
    assert (await served.http.get(path, headers=student.headers)).status_code == 403
    async with watching(served, **tutor.headers, **AWAY) as stream:
        await stream.event()


@pytest.mark.parametrize("how", ["signed out", "no tutor any more"])
@pytest.mark.asyncio
async def test_the_stream_ends_with_the_right_to_it(served: Served, tutor: Frontend, how: str) -> None:
    async with watching(served, **tutor.headers, **AWAY) as stream:
        await stream.event("now")
        if how == "signed out":
            good(await tutor.json("/api/logout"))
        else:
            await served.gateway.database.run(demoted)
            await served.gateway.tokens.refresh()
        await stream.end()


def demoted(session: Session) -> None:
    session.execute(update(User).where(User.email == "tutor@test.local").values(role="student"))


@pytest.mark.asyncio
async def test_who_leaves_is_forgotten_at_once(served: Served) -> None:
    for _ in range(3):
        async with watching(served) as stream:
            await stream.event()
            assert len(served.gateway.viewers) == 1
        await until(lambda: len(served.gateway.viewers) == 0)


@pytest.mark.asyncio
async def test_head_leaves_no_viewer(served: Served) -> None:
    assert (await served.http.head("/api/stats/stream")).status_code == 200
    await until(lambda: len(served.gateway.viewers) == 0)


@pytest.mark.asyncio
async def test_there_is_room_for_so_many(served: Served) -> None:
    crowd = [served.gateway.viewers.join() for _ in range(MOST_VIEWERS)]
    answer = await served.http.get("/api/stats/stream")
    refused(answer, 503, "overloaded")
    assert int(answer.headers["retry-after"]) > 0
    for viewer in crowd:
        await viewer.aclose()
    async with watching(served) as stream:
        await stream.event()


@pytest.mark.asyncio
async def test_a_stop_does_not_wait_for_those_who_look(settings: Callable[..., Settings]) -> None:
    loop = asyncio.get_running_loop()
    async with serving(settings(gateway_drain_seconds=60.0)) as served:
        looking = asyncio.ensure_future(look_to_the_end(served))
        await until(lambda: len(served.gateway.viewers) == 1)
        await asyncio.sleep(0.1)
        began = loop.time()
    assert loop.time() - began < 30
    await looking


async def look_to_the_end(served: Served) -> None:
    async with (
        httpx.AsyncClient(trust_env=False) as http,
        http.stream("GET", f"{served.url}/api/stats/stream", timeout=30) as answer,
    ):
        await Stream(answer.aiter_lines()).end()


@pytest.mark.asyncio
async def test_an_upstream_that_is_away_is_seen_and_so_is_the_database(served: Served, world: World) -> None:
    await world.control.put(Switch("manager", "refuse"))
    await served.gateway.database.aclose()
    async with watching(served) as stream:
        _, state = await stream.event("state")
    assert state["status"] == "unhealthy"
    assert state["checks"]["manager"] == "upstream_refused"
    assert state["instances"] is None


@pytest.mark.asyncio
async def test_no_address_and_no_token_is_in_the_stream(
    served: Served, student: Frontend, world: World
) -> None:
    await world.control.put(Switch("manager", "refuse"))
    await student.urlencoded("/api/avatar/start", avatar_name="Ada")
    await served.http.get("/api/avatar/list?token=q-secret")
    async with watching(served) as stream:
        text = json.dumps([await stream.event() for _ in range(3)])
    assert not re.search(r"127\.0\.0\.1|localhost|q-secret|test\.local|eyJ", text)


@pytest.mark.asyncio
async def test_switched_off_there_is_nothing_to_see(settings: Callable[..., Settings]) -> None:
    async with serving(settings(gateway_figures=False)) as served:
        refused(await served.http.get("/api/stats/stream"), 404)


# The page itself.


@pytest.mark.asyncio
async def test_the_page_is_public_and_may_run_nothing_but_its_own_files(visitor: Frontend) -> None:
    for name in ("", *(f"/{file.name}" for file in DASHBOARD.iterdir())):
        answer = await visitor.get(f"/dashboard{name}")
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert (await visitor.get("/dashboard/nothing.js")).status_code == 404


def test_the_page_asks_nothing_of_other_places_and_has_no_script_inside() -> None:
    for file in DASHBOARD.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"(?:https?:)?//[\w.-]+\.\w", text) == [], file.name
    page = (DASHBOARD / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]*\bsrc=)[^>]*>", page) == []
    assert re.findall(r"\son\w+=|\sstyle=", page) == []
    scripts = "".join((DASHBOARD / name).read_text(encoding="utf-8") for name in SCRIPTS)
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|eval\(", scripts) == []


def test_modules_import_files_that_exist() -> None:
    for script in SCRIPTS:
        for path in re.findall(r'from "/dashboard/([\w.]+)"', (DASHBOARD / script).read_text("utf-8")):
            assert Path(DASHBOARD / path).is_file()


def test_both_languages_have_every_text() -> None:
    english, chinese = (DASHBOARD / "words.js").read_text(encoding="utf-8").split("  zh: {")
    keys = [{key.strip() for key in re.findall(r'"?(\w[\w ]*)"?: "', text)} for text in (english, chinese)]
    assert len(keys[0]) > 80
    assert keys[0] == keys[1]
    page = (DASHBOARD / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'data-(?:text|label)="(\w+)"', page)) <= keys[0]
    used = "".join((DASHBOARD / name).read_text(encoding="utf-8") for name in SCRIPTS)
    assert set(re.findall(r'say\("(\w+)"', used)) <= keys[0]
