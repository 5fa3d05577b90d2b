"""Errors before an answer began: one form for all, and nothing internal in it."""

import logging
from typing import Any

import pytest
from flask import Response, abort

from backend import hooks
from backend.asgi import GatewayFlask
from backend.cors import Cors
from backend.errors import Overloaded, UpstreamBroken
from backend.responses import GatewayResponse, StreamedResponse
from tests.support.bridge import Body, bridged, call, one_view


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RuntimeError("secret /srv/path"), 500, "internal"),
        (UpstreamBroken(), 502, "upstream_broken"),
        (Overloaded(), 503, "overloaded"),
    ],
)
@pytest.mark.parametrize("kind", ["async", "plain", "hook"])
@pytest.mark.asyncio
async def test_an_error_before_the_answer_is_json_and_tells_nothing_internal(
    error: Exception, status: int, code: str, kind: str
) -> None:
    def fail() -> None:
        raise error

    async def in_async() -> str:
        fail()
        return ""

    def routes(app: GatewayFlask) -> None:
        if kind == "hook":
            app.before_request(fail)
        app.add_url_rule("/", "view", in_async if kind == "async" else fail)
        hooks.register(app, Cors(()))

    client = await call(bridged(routes).asgi, headers={"X-Request-ID": "abcdefgh"})
    assert client.status == status
    assert set(client.json) == {"msg", "code", "request_id", "retryable"}
    assert (client.json["code"], client.json["request_id"]) == (code, "abcdefgh")
    assert client.headers["x-request-id"] == "abcdefgh"
    assert "secret" not in client.text
    assert "Traceback" not in client.text


@pytest.mark.asyncio
async def test_an_after_hook_that_fails_gives_500_and_releases_what_the_view_opened() -> None:
    body = Body(b"x")

    def routes(app: GatewayFlask) -> None:
        hooks.register(app, Cors(()))

        @app.get("/")
        async def view() -> GatewayResponse:
            return StreamedResponse(200, [], body)

        @app.after_request
        def fails(response: Response) -> Response:
            raise LookupError("after")

    client = await call(bridged(routes).asgi)
    assert (client.status, client.json["code"]) == (500, "internal")
    assert body.closed == 1


@pytest.mark.parametrize(
    ("status", "code"), [(404, "not_found"), (413, "too_large"), (405, "method_not_allowed")]
)
@pytest.mark.asyncio
async def test_what_flask_refuses_has_the_gateways_form(status: int, code: str) -> None:
    client = await call(one_view(lambda: abort(status), drawn=True).asgi)
    assert (client.status, client.json["code"]) == (status, code)


@pytest.mark.asyncio
async def test_a_method_that_is_not_answered_names_those_that_are() -> None:
    client = await call(one_view(lambda: "ok", drawn=True, methods=["GET"]).asgi, "DELETE")
    assert (client.status, client.json["code"]) == (405, "method_not_allowed")
    assert set(client.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


@pytest.mark.asyncio
async def test_a_view_that_fails_is_logged_with_its_traceback(caplog: Any) -> None:
    async def view() -> str:
        raise LookupError("where it went wrong")

    await call(one_view(view, drawn=True).asgi)
    assert "where it went wrong" in caplog.text
    assert [r.exc_info is not None for r in caplog.records if r.levelno == logging.ERROR] == [True]
