import asyncio
import json
from collections.abc import Awaitable, Callable

import httpx
import pytest

from backend.config import Settings
from backend.demo.catalogue import AVATARS
from backend.demo.faults import Switch
from backend.demo.portrait import portrait
from backend.demo.settings import Settings as DemoSettings
from backend.demo.world import World
from tests.routes.conftest import Stage
from tests.support.frontend import FILM, Frontend, form_of, good, hidden, refused
from tests.support.gateway import Served, raw, serving
from tests.support.peer import Exchange, Peer, Script, until

NAMES = [name for name, *_ in AVATARS]
STALE = '110 - "Response is Stale"'

NO_END = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nAda'

Send = Callable[..., Awaitable[httpx.Response]]

TRICKS = [
    "..",
    ".",
    "../..",
    "Ada/Demo",
    "Ada\\Demo",
    "/etc/passwd",
    "Ada;rm -rf x",
    "Ada$(id)",
    "Ada`id`",
    "Ada|id",
    "Ada&id",
    "Ada\nDemo",
    "Ada\x00Demo",
    "Ada\u202eDemo",
    "Ａda Demo",
    "Ada\u00a0Demo",
    "学习",
    "-rf",
    "--help",
    "Ada.Demo",
    "Ada%2fDemo",
    "*",
    "~",
    "'Ada'",
    '"Ada"',
    "A" * 65,
    "token",
]


@pytest.mark.asyncio
async def test_list_is_keyed_by_name_with_clone_added(student: Frontend) -> None:
    avatars = good(await student.get("/api/avatar/list"))
    assert list(avatars) == NAMES
    for avatar in avatars.values():
        assert isinstance(avatar, dict)
        assert {"description", "status", "timbre", "tts_model", "avatar_model", "clone"} <= set(avatar)
        assert avatar["clone"] is avatar["support_clone"]
    assert avatars["Prof Chen"]["clone"] is True
    assert avatars["Ada Demo"]["clone"] is False


@pytest.mark.asyncio
async def test_list_of_names_only_becomes_the_same_form(settings: Callable[..., Settings]) -> None:
    async with (
        World(DemoSettings.free(list_form=True)) as older,
        serving(settings(avatar_service_url=older.catalogue_url)) as served,
    ):
        student = Frontend(served.http, await served.token())
        avatars = good(await student.get("/api/avatar/list"))
        assert list(avatars) == NAMES
        assert {(each["clone"], each["status"]) for each in avatars.values()} == {(False, "active")}


def answering(content: object) -> Script:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.reply(body, (b"Content-Type", b"application/json"))

    return script


@pytest.mark.asyncio
async def test_entries_that_would_crash_the_page_are_left_out(settings: Callable[..., Settings]) -> None:
    listed = {"Ada": {"description": "x"}, "Null": None, "Text": "y", "token": {"description": "z"}}
    script = answering({"status": "success", "avatars": listed})
    async with Peer(script) as peer, serving(settings(avatar_service_url=peer.url)) as served:
        student = Frontend(served.http, await served.token())
        assert list(good(await student.get("/api/avatar/list"))) == ["Ada"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "content",
    [
        {"status": "success"},
        {"status": "success", "avatars": None},
        {"status": "success", "avatars": "Ada"},
        ["Ada"],
        b"null",
        b"",
        b'{"status":"success","avatars":{"Ada":{"size":NaN}}}',
        b'{"status":"success","avatars":{"Ada":{"size":-Infinity}}}',
        b"[" * 5000,
    ],
)
async def test_list_that_makes_no_sense_is_502(settings: Callable[..., Settings], content: object) -> None:
    async with Peer(answering(content)) as peer, serving(settings(avatar_service_url=peer.url)) as served:
        student = Frontend(served.http, await served.token())
        refused(await student.get("/api/avatar/list"), 502, "upstream_garbage")


@pytest.mark.asyncio
async def test_half_a_character_in_the_list_does_not_break_it(settings: Callable[..., Settings]) -> None:
    content = b'{"status":"success","avatars":{"Ada":{"description":"\\ud83d cut"}}}'
    async with Peer(answering(content)) as peer, serving(settings(avatar_service_url=peer.url)) as served:
        student = Frontend(served.http, await served.token())
        assert good(await student.get("/api/avatar/list"))["Ada"]["description"] == "? cut"


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", ["hang", "refuse", "reset", "500", "garbage", "status-error", "huge"])
async def test_last_good_list_is_served_while_the_catalogue_fails(
    settings: Callable[..., Settings], world: World, fault: str
) -> None:
    patience = 0.2 if fault == "hang" else 10
    async with serving(settings(gateway_stale_list_seconds=patience)) as served:
        student = Frontend(served.http, await served.token())
        fresh = await student.get("/api/avatar/list")
        assert "warning" not in fresh.headers
        await world.control.put(Switch("catalogue", fault))
        for _ in range(2):
            stale = await student.get("/api/avatar/list")
            assert good(stale) == fresh.json()
            assert stale.headers["warning"] == STALE
        await world.control.clear()
        # A call that hangs is still waited for, so the next answers may be stale, but not for ever.
        if fault != "hang":
            assert "warning" not in (await student.get("/api/avatar/list")).headers


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("refuse", 502, "upstream_refused"),
        ("500", 502, "upstream_rejected"),
        ("code-1", 503, "upstream_busy"),
    ],
)
async def test_without_a_good_list_the_failure_is_told_until_there_is_one(
    student: Frontend, world: World, fault: str, status: int, code: str
) -> None:
    await world.control.put(Switch("catalogue", fault))
    refused(await student.get("/api/avatar/list"), status, code)
    await world.control.clear()
    assert list(good(await student.get("/api/avatar/list"))) == NAMES


@pytest.mark.asyncio
@pytest.mark.parametrize("send", [Frontend.multipart, Frontend.urlencoded])
async def test_preview_is_the_picture_byte_for_byte(student: Frontend, send: Send) -> None:
    answer = await send(student, "/api/avatar/preview", avatar_name="Ada Demo")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.content == portrait("Ada Demo")
    assert answer.headers.get_list("server") == ["avatar-gateway"]
    hidden_headers = {"x-powered-by", "access-control-allow-credentials"}
    assert hidden_headers.isdisjoint(answer.headers)


@pytest.mark.asyncio
async def test_preview_passes_on_as_it_arrives(settings: Callable[..., Settings]) -> None:
    seen = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.head.method == b"GET":
            await answering({"status": "success", "avatars": ["Ada"]})(exchange)
            return
        await exchange.body()
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 8\r\n\r\n1234")
        await asyncio.wait_for(seen.wait(), 10)
        await exchange.send(b"5678")

    async with Peer(script) as peer, serving(settings(avatar_service_url=peer.url)) as served:
        student = Frontend(served.http, await served.token())
        parts = {"avatar_name": (None, "Ada")}
        async with served.http.stream(
            "POST", "/api/avatar/preview", files=parts, headers=student.headers
        ) as answer:
            chunks = answer.aiter_raw()
            assert await anext(chunks) == b"1234"
            seen.set()
            assert b"".join([chunk async for chunk in chunks]) == b"5678"


@pytest.mark.asyncio
async def test_preview_of_an_unknown_avatar_is_404(student: Frontend, world: World) -> None:
    answer = await student.multipart("/api/avatar/preview", avatar_name="Nobody")
    assert "Nobody" in refused(answer, 404, "not_found")["msg"]
    assert world.ledger("catalogue").by_path["/avatar/preview"] == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["/api/avatar/preview", "/api/avatar/start", "/api/avatar/delete"])
async def test_missing_name_is_400_and_says_which_field(tutor: Frontend, path: str) -> None:
    field = "name" if path.endswith("delete") else "avatar_name"
    for answer in (
        await tutor.multipart(path, other="x"),
        await tutor.multipart(path, **{field: ""}),
        await tutor.urlencoded(path, **{field: "   "}),
        await tutor.urlencoded(path, other="x"),
    ):
        assert field in refused(answer, 400, "bad_request")["msg"]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("path", ["/api/avatar/preview", "/api/avatar/start", "/api/avatar/delete"])
@pytest.mark.parametrize(
    ("content_type", "content", "status"),
    [
        ("application/json", b'{"avatar_name": "Ada Demo", "name": "Ada Demo"}', 415),
        ("text/plain", b"avatar_name=Ada+Demo", 415),
        (None, b"avatar_name=Ada+Demo", 415),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"avatar_name=Ada+Demo", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--\r\n", 400),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nAda',
            400,
        ),
        ("application/x-www-form-urlencoded", b"name=%ff&avatar_name=%ff", 400),
        ("application/x-www-form-urlencoded", b"\xff", 400),
        ("application/x-www-form-urlencoded", b"a=" + b"x" * 300_000, 413),
    ],
)
async def test_body_that_is_no_small_form_is_refused(
    stage: Stage, path: str, content_type: str | None, content: bytes, status: int
) -> None:
    tutor = stage.tutor
    headers = tutor.headers | ({} if content_type is None else {"Content-Type": content_type})
    refused(await tutor.http.post(path, content=content, headers=headers), status)


@pytest.mark.asyncio
async def test_file_where_a_name_belongs_is_415(student: Frontend) -> None:
    files = {"avatar_name": ("a.txt", b"Ada Demo")}
    answer = await student.http.post("/api/avatar/preview", files=files, headers=student.headers)
    refused(answer, 415, "unsupported_media")


@pytest.mark.asyncio
async def test_names_with_tricks_are_400_and_go_nowhere(tutor: Frontend, world: World) -> None:
    for name in TRICKS:
        for path, field in (
            ("/api/avatar/preview", "avatar_name"),
            ("/api/avatar/start", "avatar_name"),
            ("/api/avatar/delete", "name"),
        ):
            assert (name, (await tutor.urlencoded(path, **{field: name})).status_code) == (name, 400)
            refused(await tutor.multipart(path, **{field: name}), 400, "bad_request")
        refused(await tutor.add(form_of(name), prompt_face=("a.mp4", FILM)), 400, "bad_request")
    assert world.ledger("catalogue").calls + world.ledger("manager").calls == 0


@pytest.mark.asyncio
async def test_tutor_deletes_an_avatar(tutor: Frontend) -> None:
    good(await tutor.get("/api/avatar/list"))
    assert good(await tutor.multipart("/api/avatar/delete", name="Leo Park"))["status"] == "success"
    assert "Leo Park" not in good(await tutor.get("/api/avatar/list"))
    refused(await tutor.multipart("/api/avatar/delete", name="Leo Park"), 404)


@pytest.mark.asyncio
async def test_deleted_avatar_is_not_in_the_stale_list_either(tutor: Frontend, world: World) -> None:
    good(await tutor.get("/api/avatar/list"))
    good(await tutor.multipart("/api/avatar/delete", name="Leo Park"))
    await world.control.put(Switch("catalogue", "refuse"))
    stale = await tutor.get("/api/avatar/list")
    assert stale.headers["warning"] == STALE
    assert "Leo Park" not in good(stale)


@pytest.mark.asyncio
async def test_nobody_says_from_a_stale_list_that_an_avatar_does_not_exist(
    student: Frontend, world: World
) -> None:
    good(await student.get("/api/avatar/list"))
    await world.control.put(Switch("catalogue", "refuse"))
    answer = await student.multipart("/api/avatar/preview", avatar_name="Just Added")
    assert refused(answer, 503, "upstream_busy")["retryable"] is True


@pytest.mark.asyncio
async def test_student_may_not_delete(student: Frontend, world: World) -> None:
    refused(await student.multipart("/api/avatar/delete", name="Leo Park"), 403, "not_allowed")
    assert world.ledger("catalogue").calls == 0


@pytest.mark.asyncio
async def test_refusal_that_the_catalogue_calls_200_is_an_error(tutor: Frontend, world: World) -> None:
    await world.control.put(Switch("catalogue", "status-error", "/avatar/delete"))
    refused(await tutor.multipart("/api/avatar/delete", name="Leo Park"), 502, "upstream_rejected")


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
    assert started["avatar_id"] == f"{NAMES[0]}_user_1"


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


@pytest.mark.asyncio
async def test_list_answers_head_like_get_without_a_body(served: Served, student: Frontend) -> None:
    request = f"HEAD /api/avatar/list HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {student.token}\r\n"
    answer = await raw(served.port, (request + "Connection: close\r\n\r\n").encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b""
