import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import werkzeug.exceptions

from backend import errors, hooks
from backend.asgi import GatewayFlask
from backend.config import Settings
from backend.cors import Cors
from backend.errors import GatewayError
from backend.responses import GatewayResponse, StreamedResponse
from tests.support.bridge import Body, Bridged, Client, bridged, call
from tests.support.gateway import mount, serving, settings_for
from tests.support.peer import Exchange, Peer, until


def every_error(kind: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    for child in kind.__subclasses__():
        yield child
        yield from every_error(child)


def failing(error: Exception) -> Bridged:
    def routes(app: GatewayFlask) -> None:
        @app.route("/", methods=["GET", "POST"])
        async def view() -> str:
            raise error

        hooks.register(app, Cors(()))

    return bridged(routes)


@pytest.mark.parametrize("kind", sorted(set(every_error()), key=lambda kind: kind.__name__))
@pytest.mark.asyncio
async def test_every_error_is_answered_with_its_status_code_and_verdict(kind: type[GatewayError]) -> None:
    error = kind()
    client = await call(failing(error).asgi)
    assert client.status == kind.status
    assert client.headers["content-type"] == "application/json"
    assert client.json == {
        "msg": error.msg,
        "code": kind.code,
        "request_id": client.headers["x-request-id"],
        "retryable": kind.retryable,
    }
    after = error.retry_after_seconds
    assert client.headers.get("retry-after") == (None if after is None else str(after))
    # An avatar that has ended does not come back by waiting.
    assert (after is not None) == (kind.status in (429, 503) and kind is not errors.AvatarGone)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (werkzeug.exceptions.BadRequest("internal detail"), 400, "bad_request"),
        (werkzeug.exceptions.NotFound("internal detail"), 404, "not_found"),
        (werkzeug.exceptions.RequestEntityTooLarge("internal detail"), 413, "too_large"),
        (werkzeug.exceptions.UnsupportedMediaType("internal detail"), 415, "unsupported_media"),
        (werkzeug.exceptions.ServiceUnavailable("internal detail"), 500, "internal"),
        (KeyError("internal detail"), 500, "internal"),
        (ValueError("/srv/secret http://10.0.0.1:8606"), 500, "internal"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "internal detail"), 500, "internal"),
    ],
)
@pytest.mark.asyncio
async def test_what_is_not_the_gateways_own_error_gets_its_form_and_loses_its_text(
    error: Exception, status: int, code: str
) -> None:
    client = await call(failing(error).asgi)
    assert (client.status, client.json["code"]) == (status, code)
    for internal in ("internal detail", "/srv", "10.0.0.1", "Error", "Traceback"):
        assert internal not in client.text


@pytest.mark.parametrize(
    "target",
    [
        b"/api/../etc",
        b"/api/%2e%2e/etc",
        b"/api/%252e%252e/etc",
        b"/api/..%2fetc",
        b"/api/./x",
        b"/api/a\\b",
        b"/api/a%5cb",
        b"/api/a%00b",
        b"/api/a%0ab",
        b"/m/%c0%ae%c0%ae/x",
        b"/nowhere/../api/ping",
    ],
)
@pytest.mark.asyncio
async def test_ambiguous_targets_are_refused_before_any_route(target: bytes) -> None:
    seen: list[str] = []

    def routes(app: GatewayFlask) -> None:
        @app.get("/<path:rest>")
        async def view(rest: str) -> str:
            seen.append(rest)
            return "ok"

        hooks.register(app, Cors(()))

    client = await call(bridged(routes).asgi, path=target.decode("latin-1"))
    assert (client.status, client.json["code"], seen) == (400, "bad_target", [])


@pytest.mark.parametrize("sent", ["abcdefgh", "A-1._z" * 4])
@pytest.mark.asyncio
async def test_a_callers_request_id_is_kept_on_answers_of_every_kind(sent: str) -> None:
    def routes(app: GatewayFlask) -> None:
        @app.get("/streamed")
        async def streamed() -> GatewayResponse:
            return StreamedResponse(200, [(b"x-request-id", b"of-the-upstream")], Body(b"x"))

        @app.get("/whole")
        def whole() -> str:
            return "x"

        hooks.register(app, Cors(()))

    app = bridged(routes).asgi
    for path in ("/streamed", "/whole", "/unknown"):
        client = await call(app, path=path, headers={"X-Request-ID": sent})
        lines = [value for name, value in client.messages[0]["headers"] if name == b"x-request-id"]
        assert lines == [sent.encode()]


@pytest.mark.parametrize("sent", ["short", "with space in it", "x" * 65, "line\nbreak12", "ñandú123"])
@pytest.mark.asyncio
async def test_a_request_id_that_is_not_plain_is_replaced(sent: str) -> None:
    client = await call(failing(errors.NotFound()).asgi, headers={"X-Request-ID": sent})
    assert client.headers["x-request-id"] != sent
    assert len(client.headers["x-request-id"]) == 32


@pytest.mark.asyncio
async def test_request_ids_of_the_gateway_never_repeat() -> None:
    app = failing(errors.NotFound()).asgi
    ids = {(await call(app)).headers["x-request-id"] for _ in range(200)}
    assert len(ids) == 200


@pytest.mark.asyncio
async def test_hooks_see_and_change_the_headers_of_a_streamed_answer() -> None:
    def routes(app: GatewayFlask) -> None:
        @app.get("/")
        async def view() -> GatewayResponse:
            lines = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x-old", b"1")]
            return StreamedResponse(206, lines, Body(b"part"))

        @app.after_request
        def change(response: GatewayResponse) -> GatewayResponse:
            assert response.status_code == 206
            assert response.headers.get_all("set-cookie") == ["a=1", "b=2"]
            del response.headers["x-old"]
            response.headers["X-New"] = "2"
            return response

        hooks.register(app, Cors(()))

    client = await call(bridged(routes).asgi)
    lines = client.messages[0]["headers"]
    assert [line for line in lines if line[0] == b"set-cookie"] == [
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
    ]
    assert (b"x-new", b"2") in lines
    assert b"x-old" not in dict(lines)
    assert (client.status, client.body) == (206, b"part")


# What the observer logs


def mounted(folder: Path, peer: Peer) -> Settings:
    return settings_for(folder, gateway_mounts=[mount("/m", peer.url)])


async def hold(exchange: Exchange) -> None:
    if exchange.head.target == b"/broken":
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await asyncio.sleep(0.05)
        exchange.reset()
    elif exchange.head.target == b"/reset":
        exchange.reset()
    else:
        await exchange.client_left()


@pytest.mark.asyncio
async def test_a_client_that_leaves_is_logged_as_499_and_not_as_an_error(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    async with Peer(hold) as peer, serving(mounted(tmp_path, peer)) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET /m/held HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: len(peer.heads) == 1)
        writer.close()
        await until(lambda: any("499 GET /m/<anything:rest>" in r.getMessage() for r in caplog.records))
        await until(lambda: served.gateway.client.slots.in_use == 0)
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.asyncio
async def test_upstream_trouble_is_logged_in_one_line_each(tmp_path: Path, caplog: Any) -> None:
    async with Peer(hold) as peer, serving(mounted(tmp_path, peer)) as served:
        assert (await served.http.get("/m/reset")).status_code == 502
        with pytest.raises(httpx.RemoteProtocolError):
            await served.http.get("/m/broken")
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(lines) == 2
    assert lines[0].startswith("502 GET /m/<anything:rest> after ")
    assert lines[0].endswith(", upstream_broken by upstream, upstream mount /m")
    assert lines[1].startswith("broken off (The avatar service broke the connection.) GET /m/<anything:rest>")


@pytest.mark.asyncio
async def test_hooks_of_a_thousand_quick_calls_leave_nothing_behind() -> None:
    app = failing(errors.NotFound())
    clients = [Client(app.asgi) for _ in range(1000)]
    for client in clients:
        await client.answered()
    assert {client.status for client in clients} == {404}
    assert len(app.ended) == 1000
    assert asyncio.all_tasks() == {asyncio.current_task()}
