"""Which WebSockets a mount does not open, and what whoever asked for one is told."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from backend.config import SettingsError
from tests.support.gateway import mount, serving, settings_for
from tests.support.peer import Exchange, Peer, silent, until
from tests.support.ports import free_port
from tests.support.sockets import gateway_over, refused
from tests.support.steering import TARGETS
from tests.support.websocket import TEXT, Frame, accepted, asked, dialled, echo
from tests.support.wire import Pair, unanswering


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "target",
    [
        b"/m/../x",
        b"/m/%2e%2e/x",
        b"/m/%252e%252e/x",
        b"/m/..;/x",
        b"/m/a\\b",
        b"/m/a%5cb",
        b"/m/a%00b",
        b"/m/a%0d%0ab",
        b"/m/%c0%ae%c0%ae/x",
    ],
)
async def test_target_that_could_lead_elsewhere_is_refused(tmp_path: Path, target: bytes) -> None:
    async with gateway_over(tmp_path, echo) as (peer, served):
        refused(await asked(served.port, target), 400, "bad_target")
        assert peer.connections == 0


@pytest.mark.asyncio
async def test_no_target_makes_the_gateway_dial_anything_but_its_upstream(tmp_path: Path) -> None:
    async with Peer(echo) as decoy, gateway_over(tmp_path, echo) as (peer, served):
        for target in TARGETS.values():
            filled = target.replace(b"{decoy}", b"127.0.0.1:%d" % decoy.port)
            filled = filled.replace(b"{gate}", b"127.0.0.1:%d" % served.port)
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await asked(served.port, filled)
        assert decoy.connections == 0
        assert all(head.target.startswith(b"/base/") for head in peer.heads)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ([(b"Sec-WebSocket-Version", b"8")], 426, "websocket_version"),
        ([(b"Sec-WebSocket-Key", b"short")], 400, "bad_request"),
        ([(b"Sec-WebSocket-Key", b"not base64, not at all!!")], 400, "bad_request"),
        ([(b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ==")] * 2, 400, "bad_request"),
        ([(b"Sec-WebSocket-Protocol", b"a b")], 400, "bad_request"),
        ([(b"Sec-WebSocket-Protocol", b"a,,b")], 400, "bad_request"),
        ([(b"Sec-WebSocket-Protocol", b"a, a")], 400, "bad_request"),
    ],
)
async def test_malformed_handshake_is_refused(
    tmp_path: Path, headers: list[Pair], status: int, code: str
) -> None:
    async with gateway_over(tmp_path, echo) as (peer, served):
        reply = await asked(served.port, b"/m/x", *headers)
        refused(reply, status, code)
        assert reply.get(b"sec-websocket-version") == (b"13" if status == 426 else None)
        assert peer.connections == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("target", [b"/api/ping", b"/api/login", b"/nowhere", b"/plain/x", b"/mx"])
async def test_no_websocket_is_spoken_beside_the_mounts_that_say_so(tmp_path: Path, target: bytes) -> None:
    async with Peer(echo) as peer:
        mounts = [mount("/m", peer.url, websocket=True), mount("/plain", peer.url)]
        async with serving(settings_for(tmp_path, gateway_mounts=mounts)) as served:
            refused(await asked(served.port, target), 403, "not_allowed")
            assert peer.connections == 0


@pytest.mark.asyncio
async def test_http_goes_on_beside_websockets(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        await (echo(exchange) if exchange.head.get(b"upgrade") else exchange.reply(b"plain"))

    async with gateway_over(tmp_path, script) as (_, served), dialled(served.port) as socket:
        assert (await served.http.get("/m/x")).text == "plain"
        await socket.send(TEXT, b"hello")
        assert await socket.frame() == Frame(TEXT, b"hello")


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [b"401 Unauthorized", b"404 Not Found", b"503 Busy", b"200 OK"])
async def test_refusal_of_the_upstream_comes_back_as_it_is(tmp_path: Path, status: bytes) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.reply(b"no", (b"X-Reason", b"full"), (b"Retry-After", b"9"), status=status)

    async with gateway_over(tmp_path, script) as (_, served):
        reply = await asked(served.port)
        assert (reply.status, reply.body) == (int(status[:3]), b"no")
        assert reply.get(b"x-reason") == b"full"
        assert served.gateway.sockets.count == 0


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "raw",
    [
        b"Sec-WebSocket-Accept: wrong\r\n",
        b"",
        b"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: unasked\r\n",
        b"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Extensions: permessage-deflate\r\n",
    ],
)
async def test_answer_that_is_no_handshake_is_502(tmp_path: Path, raw: bytes) -> None:
    async def script(exchange: Exchange) -> None:
        if b"{accept}" in raw:
            more = raw.split(b"\r\n")[1].split(b": ")
            await accepted(exchange, (more[0], more[1]))
        else:
            await exchange.send(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                + raw
                + b"\r\n"
            )
        await exchange.client_left()

    async with gateway_over(tmp_path, script) as (peer, served):
        refused(await asked(served.port), 502, "upstream_garbage")
        await until(lambda: peer.open == 0)


@pytest.mark.asyncio
async def test_upstream_that_is_not_there_is_502_before_the_upgrade(tmp_path: Path) -> None:
    mounts = [mount("/m", f"http://127.0.0.1:{free_port()}", websocket=True)]
    async with serving(settings_for(tmp_path, gateway_mounts=mounts)) as served:
        refused(await asked(served.port), 502, "upstream_refused")


@pytest.mark.asyncio
async def test_upstream_that_says_nothing_is_504_in_time(tmp_path: Path) -> None:
    async with gateway_over(tmp_path, silent, timeout=0.3) as (peer, served):
        refused(await asked(served.port), 504, "upstream_first_byte_timeout")
        await until(lambda: peer.open == 0)


@pytest.mark.asyncio
async def test_upstream_that_cannot_be_reached_is_504_in_time(tmp_path: Path) -> None:
    with unanswering() as port:
        mounts = [mount("/m", f"http://127.0.0.1:{port}", websocket=True)]
        settings = settings_for(tmp_path, gateway_mounts=mounts, gateway_connect_seconds=0.2)
        async with serving(settings) as served:
            refused(await asked(served.port), 504, "upstream_connect_timeout")


@pytest.mark.asyncio
async def test_client_that_leaves_during_the_handshake_leaves_nothing_behind(tmp_path: Path) -> None:
    async with gateway_over(tmp_path, silent) as (peer, served):
        task = asyncio.ensure_future(asked(served.port))
        await until(lambda: len(peer.heads) == 1)
        task.cancel()
        await until(lambda: peer.open == 0, 2)
        assert served.gateway.sockets.count == 0


@pytest.mark.asyncio
async def test_more_sockets_than_a_mount_may_have_are_503_until_one_is_free(tmp_path: Path) -> None:
    async with (
        gateway_over(tmp_path, echo, max_sockets=2) as (_, served),
        dialled(served.port),
        dialled(served.port) as second,
    ):
        reply = await asked(served.port)
        refused(reply, 503, "overloaded")
        assert reply.get(b"retry-after") == b"1"
        await second.close(1000)
        await second.gone()
        await until(lambda: served.gateway.sockets.count == 1)
        assert (await asked(served.port)).status == 101


@pytest.mark.asyncio
async def test_open_sockets_take_no_places_of_calls(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        await (echo(exchange) if exchange.head.get(b"upgrade") else exchange.reply(b"plain"))

    async with (
        gateway_over(tmp_path, script, upstream_max_connections=1, max_calls=1) as (_, served),
        dialled(served.port),
        dialled(served.port),
    ):
        assert (await served.http.get("/m/x")).text == "plain"
        assert served.gateway.client.slots.in_use == 0


@pytest.mark.parametrize("methods", [["POST"], ["POST", "PUT"]])
def test_mount_without_get_takes_no_websockets(tmp_path: Path, methods: list[str]) -> None:
    with pytest.raises(SettingsError, match="websocket: needs GET"):
        settings_for(
            tmp_path, gateway_mounts=[mount("/m", "http://127.0.0.1:9", websocket=True, methods=methods)]
        )
