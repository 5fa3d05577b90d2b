"""WebSockets through a mount: who may open one, what of the handshake passes, what is told of it."""

import asyncio
import json
import logging
import re
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import Any

import pytest

from tests.support.forgeries import forgeries
from tests.support.gateway import KEY
from tests.support.peer import Exchange, until
from tests.support.sockets import bearer, gateway_over, refused
from tests.support.websocket import TEXT, accepted, asked, dialled, echo, frame
from tests.support.wire import Pair

# Who may


@pytest.mark.asyncio
@pytest.mark.parametrize("auth", ["required", "optional", "none"])
async def test_mount_asks_for_a_token_as_it_says(tmp_path: Path, auth: str) -> None:
    async with gateway_over(tmp_path, echo, auth=auth) as (peer, served):
        without = await asked(served.port)
        assert without.status == (401 if auth == "required" else 101)
        wrong = await asked(served.port, b"/m/x", (b"Authorization", b"Bearer null"))
        assert wrong.status == (101 if auth == "none" else 401)
        if auth != "none":
            refused(wrong, 401, "not_authenticated")
        peer.heads.clear()
        right = await bearer(served)
        assert (await asked(served.port, b"/m/x", right)).status == 101
        # Where the gateway looked at the token, the token ends; elsewhere it is not the gateway's.
        assert peer.heads[0].get(b"authorization") == (right[1] if auth == "none" else None)


@pytest.mark.asyncio
async def test_every_forged_or_stale_token_is_refused_in_either_place(tmp_path: Path) -> None:
    async with gateway_over(tmp_path, echo, auth="required") as (peer, served):
        payload = (await served.token()).split(".")[1]
        claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        for kind, forged in forgeries(claims, KEY).items():
            if re.fullmatch(r"[!-~]{0,8000}", forged):
                by_header = await asked(
                    served.port, b"/m/x", (b"Authorization", b"Bearer " + forged.encode())
                )
                assert (kind, by_header.status) == (kind, 401)
            if re.fullmatch(r"[A-Za-z0-9._-]{1,8000}", forged):
                offered = (b"Sec-WebSocket-Protocol", b"bearer, " + forged.encode())
                assert (kind, (await asked(served.port, b"/m/x", offered)).status) == (kind, 401)
        assert peer.connections == 0


@pytest.mark.asyncio
async def test_browser_offers_its_token_behind_bearer_and_it_goes_no_further(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with gateway_over(tmp_path, echo, auth="required") as (peer, served):
        token = await served.token()
        offered = f"chat.v1, bearer, {token}".encode()
        async with dialled(served.port, b"/m/x", (b"Sec-WebSocket-Protocol", offered)) as socket:
            await socket.send(TEXT, b"hello")
            assert (await socket.frame()).payload == b"hello"
        assert peer.heads[0].all(b"sec-websocket-protocol") == [b"chat.v1"]
        assert token not in repr(peer.heads)
        # The upstream chose none: a browser that offered some would give up without one of its own.
        reply = await asked(served.port, b"/m/x", (b"Sec-WebSocket-Protocol", offered))
        assert reply.all(b"sec-websocket-protocol") == [b"bearer"]
        wrong = await asked(served.port, b"/m/x", (b"Sec-WebSocket-Protocol", b"bearer, null"))
        refused(wrong, 401, "not_authenticated")
        alone = await asked(served.port, b"/m/x", (b"Sec-WebSocket-Protocol", b"bearer"))
        refused(alone, 400, "bad_request")
    assert token not in caplog.text


@pytest.mark.asyncio
async def test_token_in_the_query_counts_for_nothing(tmp_path: Path) -> None:
    async with gateway_over(tmp_path, echo, auth="required") as (_, served):
        token = (await served.token()).encode()
        refused(await asked(served.port, b"/m/x?token=" + token), 401, "not_authenticated")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("listed", "origin", "status"),
    [
        ("", None, 101),
        ("", b"http://gateway.test", 101),
        ("", b"https://gateway.test:8443", 101),
        ("", b"http://evil.test", 403),
        ("", b"null", 403),
        ("", b"http://gateway.test.evil.test", 403),
        ("https://app.test", b"https://app.test", 101),
        ("https://app.test", b"http://app.test", 403),
        ("https://app.test", b"http://gateway.test", 403),
        ("https://app.test", None, 101),
    ],
)
async def test_page_of_a_strange_origin_opens_none(
    tmp_path: Path, listed: str, origin: bytes | None, status: int
) -> None:
    async with gateway_over(tmp_path, echo, cors_origins=listed) as (peer, served):
        headers = () if origin is None else ((b"Origin", origin),)
        reply = await asked(served.port, b"/m/x", *headers)
        assert reply.status == status
        assert len(peer.heads) == (status == 101)
        if status == 403:
            refused(reply, 403, "not_allowed")


@pytest.mark.asyncio
async def test_ended_sign_in_closes_its_sockets_and_no_others(tmp_path: Path) -> None:
    ended: list[tuple[int | None, bytes]] = []

    async def script(exchange: Exchange) -> None:
        socket = await accepted(exchange)
        ended.append(await socket.ended())

    over: dict[str, Any] = {"auth": "required", "gateway_revocation_seconds": 0.05}
    async with gateway_over(tmp_path, script, **over) as (_, served):
        mine, theirs = await bearer(served), await served.token("tutor")
        other = (b"Authorization", b"Bearer " + theirs.encode())
        async with (
            dialled(served.port, b"/m/x", mine) as socket,
            dialled(served.port, b"/m/y", other) as kept,
        ):
            out = {"Authorization": mine[1].decode()}
            assert (await served.http.post("/api/logout", headers=out)).status_code == 200
            async with asyncio.timeout(2):
                assert await socket.ended() == (4401, b"the sign-in has ended")
            await socket.close(4401)
            assert await socket.gone()
            await until(lambda: ended == [(1001, b"")])
            await kept.send(TEXT, b"still here")
            await until(lambda: served.gateway.sockets.count == 1)


@pytest.mark.asyncio
async def test_banned_user_is_out_within_the_time_of_a_poll(tmp_path: Path) -> None:
    over: dict[str, Any] = {"auth": "required", "gateway_revocation_seconds": 0.05}
    async with (
        gateway_over(tmp_path, echo, **over) as (_, served),
        dialled(served.port, b"/m/x", await bearer(served)) as socket,
    ):
        principal = next(iter(served.gateway.sockets._visitors.values()))
        assert principal is not None
        await served.gateway.tokens.revoke_user(principal.user_id)
        async with asyncio.timeout(2):
            assert (await socket.ended())[0] == 4401


# What passes


@pytest.mark.asyncio
async def test_upstream_sees_the_handshake_of_the_gateway(tmp_path: Path) -> None:
    async with gateway_over(tmp_path, echo) as (peer, served):
        sent: tuple[Pair, ...] = (
            (b"Sec-WebSocket-Extensions", b"permessage-deflate"),
            (b"X-Custom", b"one"),
            (b"X-Custom", b"two"),
            (b"Cookie", b"a=1"),
            (b"Forwarded", b"for=evil"),
            (b"X-Forwarded-For", b"9.9.9.9"),
            (b"X-Real-IP", b"9.9.9.9"),
            (b"X-Request-ID", b"request-of-mine"),
            (b"Origin", b"http://gateway.test"),
        )
        reply = await asked(served.port, b"/m/a%20b//c?q=%31&q", *sent)
        head = peer.heads[0]
        assert (head.method, head.target) == (b"GET", b"/base/a%20b//c?q=%31&q")
        assert head.all(b"x-custom") == [b"one", b"two"]
        assert head.all(b"host") == [f"127.0.0.1:{peer.port}".encode()]
        assert head.all(b"connection") == [b"Upgrade"]
        assert head.all(b"upgrade") == [b"websocket"]
        assert head.all(b"x-forwarded-for") == [b"127.0.0.1"]
        assert head.all(b"x-forwarded-host") == [b"gateway.test"]
        assert head.all(b"via") == [b"1.1 avatar-gateway"]
        assert head.all(b"x-request-id") == [b"request-of-mine"] == reply.all(b"x-request-id")
        for name in (b"sec-websocket-extensions", b"cookie", b"forwarded", b"x-real-ip"):
            assert head.all(name) == []
        # A key of the gateway's own, or whoever made the client's could be shown another answer.
        assert head.all(b"sec-websocket-key") != [b"dGhlIHNhbXBsZSBub25jZQ=="]


@pytest.mark.asyncio
@pytest.mark.parametrize("cookies", [True, False])
async def test_answer_of_the_upstream_is_filtered_as_every_other(tmp_path: Path, cookies: bool) -> None:
    async def script(exchange: Exchange) -> None:
        await accepted(
            exchange,
            (b"Set-Cookie", b"a=1"),
            (b"Server", b"secret/1.0"),
            (b"X-Powered-By", b"secret"),
            (b"X-Model", b"fast"),
            (b"Access-Control-Allow-Origin", b"*"),
        )

    async with gateway_over(tmp_path, script, cookies=cookies) as (_, served):
        reply = await asked(served.port)
        assert reply.status == 101
        assert reply.all(b"x-model") == [b"fast"]
        assert reply.all(b"set-cookie") == ([b"a=1"] if cookies else [])
        assert reply.all(b"server") == [b"avatar-gateway"]
        for name in (b"x-powered-by", b"access-control-allow-origin", b"content-length", b"content-type"):
            assert reply.all(name) == []
        assert [reply.all(name) for name in (b"upgrade", b"connection")] == [[b"websocket"], [b"upgrade"]]


@pytest.mark.asyncio
async def test_protocol_that_the_upstream_chose_is_the_clients(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        await accepted(exchange, (b"Sec-WebSocket-Protocol", b"two"))

    async with gateway_over(tmp_path, script) as (peer, served):
        reply = await asked(
            served.port,
            b"/m/x",
            (b"Sec-WebSocket-Protocol", b"one"),
            (b"Sec-WebSocket-Protocol", b"two, three"),
        )
        assert reply.all(b"sec-websocket-protocol") == [b"two"]
        assert peer.heads[0].all(b"sec-websocket-protocol") == [b"one, two, three"]


@pytest.mark.asyncio
async def test_frames_that_come_with_either_handshake_are_not_lost(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        socket = await accepted(exchange, with_it=frame(TEXT, b"first words", mask=None))
        assert (await socket.frame()).payload == b"with it"
        await socket.close(1000)

    async with (
        gateway_over(tmp_path, script) as (_, served),
        dialled(served.port, with_it=frame(TEXT, b"with it")) as socket,
    ):
        assert (await socket.frame()).payload == b"first words"
        assert (await socket.ended())[0] == 1000


# What is told of them


@pytest.mark.asyncio
async def test_socket_is_logged_and_counted_once_at_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway")
    async with gateway_over(tmp_path, echo, slow_request_seconds=0.001) as (_, served):
        async with dialled(served.port, b"/m/secret-path?secret-query") as socket:
            await socket.send(TEXT, b"hello")
            await socket.frame()
            assert not [record for record in caplog.records if "/m/" in record.getMessage()]
            await socket.close(4000, b"secret reason")
            await socket.gone()
        await until(lambda: served.gateway.sockets.count == 0)
        await until(lambda: any("socket closed" in record.getMessage() for record in caplog.records))
        lines = [record for record in caplog.records if "/m/" in record.getMessage()]
        assert [record.levelname for record in lines] == ["INFO"]
        text = lines[0].getMessage()
        assert "closed with 4000" in text
        assert "11 bytes in, 7 out" in text
        assert "secret" not in text
        metrics = served.gateway.watching.figures.taken().series
        assert sum(series.count for key, series in metrics.items() if "/m/" in key[0]) == 1
