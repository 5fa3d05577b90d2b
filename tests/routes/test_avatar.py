"""Starting an avatar, switching to another, and letting go of it."""

import asyncio

import pytest

from backend.demo.catalogue import AVATARS
from backend.demo.faults import Switch
from backend.demo.world import World
from tests.support.frontend import Frontend, Send, good, hidden, refused
from tests.support.gateway import Served
from tests.support.peer import until


@pytest.mark.asyncio
@pytest.mark.parametrize("send", [Frontend.multipart, Frontend.urlencoded])
async def test_start_tells_what_the_frontend_reads(student: Frontend, send: Send, world: World) -> None:
    answer = await send(student, "/api/avatar/start", avatar_name="Ada Demo")
    started = good(answer)
    assert started == {
        "status": "success",
        "avatar_id": "Ada Demo_user_1",
        "port": started["port"],
        "webrtc_url": "/api/webrtc",
        "gpu": 0,
        "connections": 1,
        "is_new_instance": True,
        "message": "Ada Demo is ready.",
    }
    assert type(started["port"]) is int
    hidden(answer, world.manager_url)


@pytest.mark.asyncio
async def test_name_of_the_video_button_means_the_first_avatar(student: Frontend) -> None:
    started = good(await student.urlencoded("/api/avatar/start", avatar_name="test_yongen"))
    assert started["avatar_id"] == f"{AVATARS[0][0]}_user_1"


@pytest.mark.asyncio
async def test_unknown_avatar_is_not_started(student: Frontend, world: World) -> None:
    refused(await student.urlencoded("/api/avatar/start", avatar_name="Nobody"), 404, "not_found")
    assert world.ledger("manager").calls == 0


@pytest.mark.asyncio
async def test_same_avatar_again_is_the_same_instance_without_a_second_start(
    student: Frontend, world: World
) -> None:
    first = good(await student.multipart("/api/avatar/start", avatar_name="Ada Demo"))
    second = good(await student.urlencoded("/api/avatar/start", avatar_name="Ada Demo"))
    assert second == first | {"is_new_instance": False}
    assert world.ledger("manager").by_path["/avatar/start"] == 1


@pytest.mark.asyncio
async def test_two_starts_at_the_same_time_are_one(student: Frontend, world: World) -> None:
    answers = await asyncio.gather(
        student.multipart("/api/avatar/start", avatar_name="Ada Demo"),
        student.urlencoded("/api/avatar/start", avatar_name="Ada Demo"),
    )
    first, second = (good(answer) for answer in answers)
    assert (first["port"], first["connections"]) == (second["port"], second["connections"])
    assert world.ledger("manager").by_path["/avatar/start"] == 1
    good(await student.json("/api/avatar/disconnect"))
    await counted(world, student, {})


async def counted(world: World, frontend: Frontend, wanted: dict[str, int]) -> None:
    """Wait until the manager counts so: it is told beside the answers."""
    async with asyncio.timeout(10):
        while await running(world, frontend) != wanted:  # noqa: ASYNC110 - the manager knows of no event
            await asyncio.sleep(0.01)


async def running(world: World, frontend: Frontend) -> dict[str, int]:
    """Ask the manager itself: connections of each avatar that runs."""
    answer = await frontend.http.get(f"{world.manager_url}/avatar/list")
    return {each["real_avatar_name"]: each["connections"] for each in answer.json()["data"]}


@pytest.mark.asyncio
async def test_instance_of_a_visitor_who_left_while_it_started_is_not_lost(
    served: Served, student: Frontend, world: World
) -> None:
    world.latency.seconds = 0.3
    body = b"avatar_name=Ada+Demo"
    head = (
        f"POST /api/avatar/start HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {student.token}\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(head.encode() + body)
    await until(lambda: world.ledger("manager").by_path["/avatar/start"] == 1)
    writer.close()
    await until(lambda: world.ledger("manager").open == 0)
    good(await student.urlencoded("/api/avatar/start", avatar_name="Ada Demo"))
    await counted(world, student, {"Ada Demo": 1})
    assert world.ledger("manager").by_path["/avatar/start"] == 1


@pytest.mark.asyncio
async def test_switching_lets_go_of_the_old_instance(student: Frontend, world: World) -> None:
    for name in ("Ada Demo", "Mei Lin", "Prof Chen"):
        started = good(await student.multipart("/api/avatar/start", avatar_name=name))
        assert started["is_new_instance"] is True
        await counted(world, student, {name: 1})


@pytest.mark.asyncio
async def test_instance_that_died_is_started_anew(student: Frontend, world: World) -> None:
    first = good(await student.multipart("/api/avatar/start", avatar_name="Ada Demo"))
    await student.http.post(f"{world.manager_url}/avatar/stop", json={"avatar_id": first["avatar_id"]})
    second = good(await student.multipart("/api/avatar/start", avatar_name="Ada Demo"))
    assert second["is_new_instance"] is True
    good(await student.json("/api/webrtc/offer", {"sdp": "v=0", "type": "offer"}))


@pytest.mark.asyncio
async def test_full_manager_is_503_with_a_time_to_come_back(
    student: Frontend, tutor: Frontend, world: World
) -> None:
    for number, name in enumerate(("Mei Lin", "Prof Chen")):
        start = {"avatar_id": f"{name}_user_{number + 10}", "avatar_name": name}
        await student.http.post(f"{world.manager_url}/avatar/start", json=start)
    answer = await student.urlencoded("/api/avatar/start", avatar_name="Ada Demo")
    shown = refused(answer, 503, "no_free_place")
    assert (shown["retryable"], shown["position"]) == (True, 1)
    assert int(answer.headers["retry-after"]) > 0
    second = await tutor.urlencoded("/api/avatar/start", avatar_name="Ada Demo")
    assert refused(second, 503, "no_free_place")["position"] == 2
    refused(await student.json("/api/webrtc/offer", {"sdp": "v=0", "type": "offer"}), 409)


@pytest.mark.asyncio
async def test_disconnect_can_be_repeated(student: Frontend, world: World) -> None:
    started = await student.multipart("/api/avatar/start", avatar_name="Ada Demo")
    good(started)
    released = good(await student.json("/api/avatar/disconnect"))
    assert released["status"] == "success"
    await counted(world, student, {})
    again = good(await student.http.post("/api/avatar/disconnect", headers=student.headers))
    assert again["status"] == "success"
    assert again["msg"] != released["msg"]
    assert world.ledger("manager").by_path["/avatar/disconnect"] == 1
    refused(await student.json("/api/webrtc/offer", {"sdp": "v=0", "type": "offer"}), 409, "conflict")


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", ["refuse", "500", "garbage"])
async def test_disconnect_succeeds_when_the_manager_fails(
    student: Frontend, world: World, fault: str
) -> None:
    good(await student.multipart("/api/avatar/start", avatar_name="Ada Demo"))
    await world.control.put(Switch("manager", fault))
    good(await student.json("/api/avatar/disconnect"))


@pytest.mark.asyncio
async def test_two_users_have_instances_of_their_own(
    student: Frontend, tutor: Frontend, world: World
) -> None:
    one = good(await student.multipart("/api/avatar/start", avatar_name="Ada Demo"))
    other = good(await tutor.multipart("/api/avatar/start", avatar_name="Mei Lin"))
    assert one["port"] != other["port"]
    for frontend, name in ((student, "Ada Demo"), (tutor, "Mei Lin")):
        offer = good(await frontend.json("/api/webrtc/offer", {"sdp": "v=0", "type": "offer"}))
        assert f"s=demo avatar {name}" in offer["sdp"]
    good(await student.json("/api/avatar/disconnect"))
    await counted(world, student, {"Mei Lin": 1})
    good(await tutor.json("/api/webrtc/offer", {"sdp": "v=0", "type": "offer"}))


@pytest.mark.asyncio
async def test_shared_instance_stays_for_the_second_user(
    student: Frontend, tutor: Frontend, world: World
) -> None:
    one = good(await student.multipart("/api/avatar/start", avatar_name="Ada Demo"))
    other = good(await tutor.multipart("/api/avatar/start", avatar_name="Ada Demo"))
    assert (one["port"], other["connections"], other["is_new_instance"]) == (other["port"], 2, False)
    good(await student.json("/api/avatar/disconnect"))
    await counted(world, student, {"Ada Demo": 1})
    good(await tutor.json("/api/webrtc/offer", {"sdp": "v=0", "type": "offer"}))
