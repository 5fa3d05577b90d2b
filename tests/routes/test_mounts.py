from collections.abc import Callable
from pathlib import Path

import pytest

from backend.app import create_app
from backend.config import Settings, SettingsError
from backend.demo.world import World
from tests.support.frontend import Frontend, refused
from tests.support.gateway import mount, serving, settings_for
from tests.support.peer import Exchange, Peer


async def echo(exchange: Exchange) -> None:
    await exchange.body()
    await exchange.reply(b"hello", (b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2"))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("auth", "authorization", "status"),
    [
        ("required", None, 401),
        ("required", "Bearer null", 401),
        ("required", "right", 200),
        ("optional", None, 200),
        ("optional", "Bearer null", 401),
        ("optional", "right", 200),
        ("none", None, 200),
        ("none", "Bearer null", 200),
    ],
)
async def test_mount_asks_for_a_token_as_it_says(
    settings: Callable[..., Settings], auth: str, authorization: str | None, status: int
) -> None:
    async with Peer(echo) as peer:
        mounts = [mount("/m", peer.url, auth=auth)]
        async with serving(settings(gateway_mounts=mounts)) as served:
            right = await served.bearer()
            wrong = {} if authorization is None else {"Authorization": authorization}
            answer = await served.http.get("/m/x", headers=right if authorization == "right" else wrong)
            assert answer.status_code == status
            assert len(peer.heads) == (status == 200)
            # Where the gateway looked at the token, the token ends; elsewhere it is not the gateway's.
            for head in peer.heads:
                passed = head.get(b"authorization")
                assert passed == (authorization.encode() if auth == "none" and authorization else None)


@pytest.mark.asyncio
@pytest.mark.parametrize("cookies", [True, False])
async def test_cookies_pass_only_where_the_mount_says_so(
    settings: Callable[..., Settings], cookies: bool
) -> None:
    async with Peer(echo) as peer:
        mounts = [mount("/m", peer.url, cookies=cookies)]
        async with serving(settings(gateway_mounts=mounts)) as served:
            answer = await served.http.get("/m/x", headers={"Cookie": "session=1"})
            assert peer.heads[0].get(b"cookie") == (b"session=1" if cookies else None)
            assert answer.headers.get_list("set-cookie") == (["a=1", "b=2"] if cookies else [])


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("asked", "target"),
    [
        ("/m", b"/"),
        ("/m/", b"/"),
        ("/m?x=1", b"/?x=1"),
        ("/m/a//b/", b"/a//b/"),
        ("/m/a%2Fb%20c?q=%31&q", b"/a%2Fb%20c?q=%31&q"),
        ("/m/api/login", b"/api/login"),
    ],
)
async def test_rest_of_the_path_arrives_as_it_was_sent(
    settings: Callable[..., Settings], asked: str, target: bytes
) -> None:
    async with Peer(echo) as peer, serving(settings(gateway_mounts=[mount("/m", peer.url)])) as served:
        assert (await served.http.get(asked)).text == "hello"
        assert peer.heads[0].target == target


@pytest.mark.asyncio
async def test_mount_goes_under_the_base_path_of_its_upstream(settings: Callable[..., Settings]) -> None:
    async with (
        Peer(echo) as peer,
        serving(settings(gateway_mounts=[mount("/m", peer.url + "/base")])) as served,
    ):
        await served.http.get("/m/x")
        assert peer.heads[0].target == b"/base/x"


@pytest.mark.asyncio
async def test_mount_answers_its_own_methods_only(settings: Callable[..., Settings]) -> None:
    mounts = [mount("/m", "http://127.0.0.1:9", methods=["POST"])]
    async with serving(settings(gateway_mounts=mounts)) as served:
        answer = await served.http.get("/m/x")
        refused(answer, 405, "method_not_allowed")
        assert "POST" in answer.headers["allow"]
        refused(await served.http.get("/mx"), 404)


@pytest.mark.asyncio
async def test_mount_keeps_to_its_own_body_limit(settings: Callable[..., Settings], world: World) -> None:
    mounts = [mount("/m", world.catalogue_url, methods=["POST"], max_body_mb=0.001)]
    async with serving(settings(gateway_mounts=mounts)) as served:
        assert (await served.http.post("/m/sink", content=bytes(1048))).json()["bytes"] == 1048
        refused(await served.http.post("/m/sink", content=bytes(1049)), 413, "too_large")


@pytest.mark.asyncio
async def test_answer_of_a_mount_is_not_judged(settings: Callable[..., Settings]) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.reply(b'{"code": -1}', status=b"418 I'm a teapot")

    async with Peer(script) as peer, serving(settings(gateway_mounts=[mount("/m", peer.url)])) as served:
        answer = await Frontend(served.http).get("/m/x")
        assert (answer.status_code, answer.json()) == (418, {"code": -1})


@pytest.mark.parametrize(
    "prefix", ["/api", "/api/login", "/api/login/x", "/api/avatar", "/api/webrtc", "/api/webrtc/offer"]
)
def test_mount_over_a_route_of_the_gateway_stops_the_start(tmp_path: Path, prefix: str) -> None:
    settings = settings_for(tmp_path, gateway_mounts=[mount(prefix, "http://127.0.0.1:9")])
    with pytest.raises(SettingsError, match=f"GATEWAY_MOUNTS: {prefix} would shadow"):
        create_app(settings)
