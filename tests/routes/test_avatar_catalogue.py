"""The list of avatars, their previews and their end, and the forms that name one."""

import asyncio
import json
from collections.abc import Callable

import pytest

from backend.config import Settings
from backend.demo.catalogue import AVATARS
from backend.demo.faults import Switch
from backend.demo.portrait import portrait
from backend.demo.settings import Settings as DemoSettings
from backend.demo.world import World
from tests.routes.conftest import Stage
from tests.support.frontend import FILM, Frontend, Send, form_of, good, refused
from tests.support.gateway import Served, raw, serving
from tests.support.peer import Exchange, Peer, Script

NAMES = [name for name, *_ in AVATARS]
STALE = '110 - "Response is Stale"'

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


@pytest.mark.asyncio
async def test_list_answers_head_like_get_without_a_body(served: Served, student: Frontend) -> None:
    request = f"HEAD /api/avatar/list HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {student.token}\r\n"
    answer = await raw(served.port, (request + "Connection: close\r\n\r\n").encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b""


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
