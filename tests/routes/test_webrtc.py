"""Offers and conversations with the user's own instance, and all that is refused before it."""

import json
from collections.abc import Callable

import httpx
import pytest

from backend.config import Settings
from backend.demo.faults import Switch
from backend.demo.world import World
from tests.routes.conftest import Stage
from tests.support.frontend import Frontend, good, refused
from tests.support.gateway import Served
from tests.support.instance import JSON, OFFER, one_instance, started
from tests.support.peer import Exchange, until

POSTS = ["offer", "human", "humanaudio", "interrupt_talk", "is_speaking", "record", "set_audiotype"]


@pytest.mark.asyncio
async def test_offer_is_answered_by_the_users_own_instance(student: Frontend) -> None:
    await started(student)
    answer = await student.json("/api/webrtc/offer", OFFER)
    content = good(answer)
    assert set(content) == {"sdp", "type", "sessionid"}
    assert content["type"] == "answer"
    assert type(content["sessionid"]) is int
    # The instance says these for a gateway that it does not know of.
    assert "access-control-allow-credentials" not in answer.headers
    assert answer.headers.get_list("server") == ["avatar-gateway"]


@pytest.mark.asyncio
async def test_whole_conversation_goes_through(student: Frontend, world: World) -> None:
    await started(student)
    session = good(await student.json("/api/webrtc/offer", OFFER))["sessionid"]
    said = {"sessionid": session, "type": "echo", "text": "你好, " * 20}
    assert good(await student.json("/api/webrtc/human", said)) == {"code": 0, "msg": "ok"}
    speaking = await student.json("/api/webrtc/is_speaking", {"sessionid": session})
    assert good(speaking) == {"code": 0, "data": True}
    good(await student.json("/api/webrtc/interrupt_talk", {"sessionid": session}))
    silent = await student.json("/api/webrtc/is_speaking", {"sessionid": session})
    assert good(silent) == {"code": 0, "data": False}
    good(await student.json("/api/webrtc/record", {"sessionid": session, "type": "start_record"}))
    audiotype = {"sessionid": session, "audiotype": 1, "reinit": False}
    good(await student.json("/api/webrtc/set_audiotype", audiotype))
    health = await student.get("/api/webrtc/health")
    assert good(health)["sessions"] == 1
    assert set(world.ledger("instance").by_path) == {f"/{path}" for path in POSTS if path != "humanaudio"} | {
        "/health"
    }


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
async def test_other_methods_than_post_are_405(stage: Stage, path: str, method: str) -> None:
    await started(stage.student)
    answer = await stage.student.http.request(method, f"/api/webrtc/{path}", headers=stage.student.headers)
    refused(answer, 405, "method_not_allowed")
    assert stage.world.ledger("instance").by_path[f"/{path}"] == 0


@pytest.mark.asyncio
async def test_other_paths_are_404_whoever_asks(student: Frontend, world: World) -> None:
    await started(student)
    paths = ["", "index.html", "offer/", "offer/x", "//offer", "Offer", "offer%00", "offer%2f", "static/a.js"]
    for path in [*paths, "health/", "echo", "%6fffer2", "offer;x", "avatar/list", "é"]:
        for method in ("GET", "POST"):
            answer = await student.http.request(method, f"/api/webrtc/{path}", headers=student.headers)
            assert (path, answer.status_code in (404, 400)) == (path, True)
            refused(answer, answer.status_code)
    refused(await student.json("/api/webrtc/health"), 405)
    assert world.ledger("instance").calls == 0


@pytest.mark.asyncio
async def test_path_that_climbs_out_is_refused(served: Served, student: Frontend, world: World) -> None:
    await started(student)
    for path in ("/api/webrtc/%2e%2e/echo", "/api/webrtc/offer/..%2fecho", "/api/webrtc/..%5cecho"):
        request = httpx.Request("POST", served.url, headers=student.headers, json=OFFER)
        request.extensions["target"] = path.encode()
        refused(await served.http.send(request), 400, "bad_target")
    assert world.ledger("instance").calls == 0


@pytest.mark.asyncio
async def test_user_without_an_avatar_is_409(student: Frontend, world: World) -> None:
    for path in POSTS:
        refused(await student.json(f"/api/webrtc/{path}", OFFER), 409, "conflict")
    refused(await student.get("/api/webrtc/health"), 409, "conflict")
    assert world.ledger("instance").calls + world.ledger("manager").calls == 0


@pytest.mark.asyncio
async def test_full_instance_is_503(student: Frontend, world: World) -> None:
    await started(student)
    await world.control.put(Switch("instance", "code-1"))
    answer = await student.json("/api/webrtc/offer", OFFER)
    refused(answer, 503, "upstream_busy")
    assert "retry-after" in answer.headers


@pytest.mark.asyncio
@pytest.mark.parametrize("session", [1, "123456", None])
async def test_unknown_session_is_404(student: Frontend, session: object) -> None:
    await started(student)
    said = {"sessionid": session, "type": "echo", "text": "hello"}
    refused(await student.json("/api/webrtc/human", said), 404, "not_found")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("fault", "status"),
    [("reset", 502), ("500", 502), ("garbage", 502), ("cut-body", 502), ("huge", 502), ("redirect", 502)],
)
async def test_failing_instance_is_told_in_the_gateways_words(
    served: Served, student: Frontend, world: World, fault: str, status: int
) -> None:
    port = await started(student)
    await world.control.put(Switch("instance", fault))
    answer = await student.json("/api/webrtc/offer", OFFER)
    refused(answer, status)
    assert str(port) not in answer.text
    await until(lambda: served.gateway.client.slots.in_use == 0)


@pytest.mark.asyncio
async def test_dead_instance_says_to_start_again_and_starting_again_helps(
    student: Frontend, world: World
) -> None:
    port = await started(student)
    await student.http.post(f"{world.manager_url}/avatar/stop", json={"avatar_id": "Ada Demo_user_1"})
    answer = await student.json("/api/webrtc/offer", OFFER)
    shown = refused(answer, 503, "avatar_gone")
    assert "start it again" in shown["msg"]
    assert str(port) not in answer.text
    refused(await student.json("/api/webrtc/offer", OFFER), 409)
    await started(student)
    good(await student.json("/api/webrtc/offer", OFFER))


@pytest.mark.asyncio
async def test_credentials_end_at_the_gateway(settings: Callable[..., Settings]) -> None:
    async def script(exchange: Exchange) -> None:
        exchange.head.headers.append((b"body", await exchange.body()))
        await exchange.reply(b'{"code":0}', JSON, (b"Set-Cookie", b"a=b"), (b"X-Powered-By", b"aiohttp"))

    async with one_instance(settings, script) as (student, instance):
        headers = student.headers | {"Cookie": "session=1", "sessionid": "123456"}
        answer = await student.http.post("/api/webrtc/human", json={"text": "hi"}, headers=headers)
        assert good(answer) == {"code": 0}
        assert {"set-cookie", "x-powered-by"}.isdisjoint(answer.headers)
        (head,) = instance.heads
        assert head.target == b"/human"
        assert (head.get(b"authorization"), head.get(b"cookie")) == (None, None)
        assert head.get(b"content-type") == b"application/json"
        assert json.loads(head.get(b"body") or b"") == {"text": "hi"}


BAD_OFFERS: list[object] = [
    {},
    {"type": "offer"},
    {"sdp": "", "type": "offer"},
    {"sdp": 5, "type": "offer"},
    {"sdp": None, "type": "offer"},
    {"sdp": "hello", "type": "offer"},
    {"sdp": "v=0\r\n"},
    {"sdp": "v=0\r\n", "type": "answer"},
    [],
    "v=0",
]
GARBAGE = [
    b"",
    b"{",
    b"\xff\xfe\x00",
    bytes(1000),
    b"[" * 100_000,
    b'{"sdp":"v=0\xff","type":"offer"}',
    b'{"sdp":' + b"9" * 5000 + b',"type":"offer"}',
    b'{"sdp":"v=0","type":"offer","sdp":[]}',
]


@pytest.mark.asyncio
async def test_offer_that_no_instance_could_answer_is_refused_here(student: Frontend, world: World) -> None:
    await started(student)
    for offer in BAD_OFFERS:
        refused(await student.json("/api/webrtc/offer", offer or {"x": 1}), 400)
    for content in GARBAGE:
        headers = student.headers | {"Content-Type": "application/json"}
        refused(await student.http.post("/api/webrtc/offer", content=content, headers=headers), 400)
    refused(await student.json("/api/webrtc/offer", {"sdp": "v=0" + "x" * (1 << 20), "type": "offer"}), 413)
    assert world.ledger("instance").by_path["/offer"] == 0
    said = {"sessionid": 1, "type": "echo", "text": "hello"}
    refused(await student.json("/api/webrtc/human", said), 404)  # nothing was learnt from them
    good(await student.json("/api/webrtc/offer", OFFER))


@pytest.mark.asyncio
async def test_session_of_another_user_is_not_spoken_to(
    student: Frontend, tutor: Frontend, world: World
) -> None:
    """Both are on the same instance, which would take the number from either."""
    await started(student)
    await started(tutor)
    own = good(await student.json("/api/webrtc/offer", OFFER))["sessionid"]
    foreign = good(await tutor.json("/api/webrtc/offer", OFFER))["sessionid"]
    before = world.ledger("instance").calls
    for session in (
        foreign,
        str(foreign),
        own + 1,
        -own,
        own * 10**20,
        "9" * 40,
        True,
        None,
        [own],
        {"a": 1},
        "",
    ):
        said = {"sessionid": session, "type": "echo", "text": "boo"}
        refused(await student.json("/api/webrtc/human", said), 404)
    assert world.ledger("instance").calls == before


@pytest.mark.asyncio
@pytest.mark.parametrize(("path", "megabytes"), [("offer", 1), ("human", 1), ("humanaudio", 101)])
async def test_body_over_its_limit_is_413(student: Frontend, world: World, path: str, megabytes: int) -> None:
    await started(student)
    content = bytes(megabytes * (1 << 20) + 1)
    refused(await student.http.post(f"/api/webrtc/{path}", content=content, headers=student.headers), 413)
    assert world.ledger("instance").by_path[f"/{path}"] == 0


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"sdp":"v=0","type":"answer","sessionid":123456,"token":"evil"}', 200),
        (b'{"code":0}', 502),
        (b'{"sdp":"","type":"answer","sessionid":123456}', 502),
        (b'{"sdp":7,"type":"answer"}', 502),
        (b"null", 502),
        (b"[]", 502),
        (b"", 502),
        (b'{"code":NaN}', 502),
        (b'{"code":-1,"msg":"full"}', 503),
    ],
)
async def test_instance_cannot_trip_the_frontend(
    settings: Callable[..., Settings], content: bytes, status: int
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.reply(content, JSON)

    async with one_instance(settings, script) as (student, _):
        answer = await student.json("/api/webrtc/offer", OFFER)
        if status == 200:
            assert good(answer) == {"sdp": "v=0", "type": "answer", "sessionid": 123456}
        else:
            refused(answer, status)
