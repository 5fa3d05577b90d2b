"""The short way answers exactly as the long one, and is not taken where anything could tell them apart."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Blueprint, g, has_app_context, has_request_context, request, signals

from backend import hooks
from backend.asgi import GatewayFlask
from backend.cors import Cors
from backend.errors import NotAuthenticated
from backend.responses import GatewayResponse, answer
from backend.shortcut import Shortcut, direct
from tests.support.bridge import Bridged, Client, bridged, call

Add = Callable[[GatewayFlask], None]
pytestmark = pytest.mark.asyncio


def application(add: Add = lambda app: None) -> Bridged:
    """One that says of each call whether it came by the short way: without a context."""

    def routes(app: GatewayFlask) -> None:
        @app.route("/way/<name>", methods=["GET", "POST"])
        @direct
        async def way(name: str) -> GatewayResponse:
            await asyncio.sleep(0)
            return answer({"short": int(not (has_request_context() or has_app_context())), "name": name})

        @app.get("/refuses")
        @direct
        async def refuses() -> GatewayResponse:
            raise NotAuthenticated

        @app.get("/breaks")
        @direct
        async def breaks() -> GatewayResponse:
            raise KeyError("a secret detail")

        hooks.register(app, Cors(()))
        add(app)

    return bridged(routes)


async def twice(app: Bridged, path: str = "/way/x", **how: Any) -> tuple[Client, Client]:
    """The first call is matched by Flask, the second knows its way."""
    return await call(app.asgi, path=path, **how), await call(app.asgi, path=path, **how)


def is_short(client: Client) -> bool:
    return bool(client.json["short"])


async def test_the_second_call_of_a_path_takes_the_short_way() -> None:
    app = application()
    first, second = await twice(app)
    assert (is_short(first), is_short(second)) == (False, True)
    assert second.json["name"] == "x"
    other = await call(app.asgi, path="/way/y")
    assert (is_short(other), other.json["name"]) == (False, "y")


@pytest.mark.parametrize("path", ["/refuses", "/breaks", "/nowhere", "/way/x"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "HEAD", "OPTIONS", "get"])
async def test_both_ways_answer_alike(path: str, method: str) -> None:
    origin = {"origin": "http://test.local:5173", "x-request-id": "the-same-for-both"}
    first, second = await twice(application(), path, method=method, headers=origin)
    assert (first.status, first.headers) == (second.status, second.headers)
    if path != "/way/x":
        assert first.body == second.body
    assert b"secret" not in second.body


async def test_refusals_of_hooks_are_answered_with_the_hooks_after() -> None:
    app = application()
    await call(app.asgi)
    await twice(app)
    refused = await call(app.asgi, path="/way/x", headers={"host": "a/b"})
    assert refused.status == 400
    assert refused.json["code"] == "bad_target"
    assert refused.headers["x-request-id"]
    asked = {"origin": "http://test.local", "access-control-request-method": "POST"}
    preflight = await call(app.asgi, method="OPTIONS", path="/way/x", headers=asked)
    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.headers["access-control-allow-origin"] == "http://test.local"


def a_hook_before(app: GatewayFlask) -> None:
    @app.before_request
    def look() -> None:
        g.seen = request.path


def a_hook_after(app: GatewayFlask) -> None:
    @app.after_request
    def look(response: GatewayResponse) -> GatewayResponse:
        response.headers["X-Path"] = request.path
        return response


def a_teardown(app: GatewayFlask) -> None:
    app.teardown_request(lambda error: None)


def a_teardown_of_the_application(app: GatewayFlask) -> None:
    app.teardown_appcontext(lambda error: None)


def a_url_preprocessor(app: GatewayFlask) -> None:
    app.url_value_preprocessor(lambda endpoint, values: None)


def a_hook_of_a_blueprint(app: GatewayFlask) -> None:
    blueprint = Blueprint("other", __name__)
    blueprint.before_request(lambda: None)
    app.register_blueprint(blueprint)


@pytest.mark.parametrize(
    "add",
    [
        a_hook_before,
        a_hook_after,
        a_teardown,
        a_teardown_of_the_application,
        a_url_preprocessor,
        a_hook_of_a_blueprint,
    ],
)
async def test_any_hook_that_is_not_marked_keeps_all_on_the_long_way(add: Add) -> None:
    app = application(add)
    assert [is_short(client) for client in await twice(app)] == [False, False]


@pytest.mark.parametrize("signal", [signals.request_started, signals.request_finished])
async def test_while_somebody_listens_to_a_signal_he_hears_of_every_request(signal: Any) -> None:
    app = application()
    await twice(app)
    heard: list[Any] = []

    def listen(sender: Any, **_: Any) -> None:
        heard.append(sender)

    with signal.connected_to(listen, app.flask):
        assert not is_short(await call(app.asgi, path="/way/x"))
    assert heard == [app.flask]
    assert is_short(await call(app.asgi, path="/way/x"))


async def test_views_that_are_not_marked_find_their_context() -> None:
    def add(app: GatewayFlask) -> None:
        @app.get("/usual")
        async def usual() -> dict[str, Any]:
            return {"path": request.path}

        @app.get("/plain")
        def plain() -> dict[str, Any]:
            return {"path": request.path}

    app = application(add)
    for path in ("/usual", "/plain"):
        assert [client.json for client in await twice(app, path)] == [{"path": path}] * 2


async def test_error_handlers_of_the_application_run_in_a_context() -> None:
    def add(app: GatewayFlask) -> None:
        @app.errorhandler(KeyError)
        def handled(error: KeyError) -> GatewayResponse:
            return answer({"path": request.path, "endpoint": request.endpoint}, 418)

    first, second = await twice(application(add), "/breaks")
    assert (first.status, first.json) == (second.status, second.json)
    assert (second.status, second.json) == (418, {"path": "/breaks", "endpoint": "breaks"})


async def test_a_hook_after_the_view_that_fails_is_an_error_of_the_gateway_on_both_ways() -> None:
    def add(app: GatewayFlask) -> None:
        @app.after_request
        @direct
        def fails(response: GatewayResponse) -> GatewayResponse:
            raise RuntimeError("a secret detail")

    first, second = await twice(application(add))
    assert (first.status, first.json["code"]) == (second.status, second.json["code"]) == (500, "internal")
    assert b"secret" not in second.body


async def test_hooks_run_in_the_order_of_flask() -> None:
    order: list[str] = []

    def add(app: GatewayFlask) -> None:
        for name in ("one", "two"):

            @direct
            def before(name: str = name) -> None:
                order.append(f"before {name}")

            @direct
            def after(response: GatewayResponse, name: str = name) -> GatewayResponse:
                order.append(f"after {name}")
                return response

            app.before_request(before)
            app.after_request(after)

    app = application(add)
    await call(app.asgi, path="/way/x")
    by_the_long_way = order.copy()
    order.clear()
    assert is_short(await call(app.asgi, path="/way/x"))
    assert order == by_the_long_way == ["before one", "before two", "after two", "after one"]


async def test_a_client_that_leaves_ends_the_view() -> None:
    ended = asyncio.Event()

    def add(app: GatewayFlask) -> None:
        @app.get("/slow/<how>")
        @direct
        async def slow(how: str) -> GatewayResponse:
            try:
                await asyncio.sleep(0 if how == "quick" else 30)
            finally:
                ended.set()
            return answer("done")

    app = application(add)
    await call(app.asgi, path="/slow/quick")
    await call(app.asgi, path="/slow/quick")
    first = Client(app.asgi, path="/slow/long")
    await asyncio.sleep(0.3)
    first.leave()
    await first.answered()
    ended.clear()
    second = Client(app.asgi, path="/slow/long")
    await asyncio.sleep(0.3)
    second.leave()
    await second.answered()
    assert ended.is_set()
    assert [exchange.client_gone for exchange in app.ended] == [False, False, True, True]


async def test_under_a_root_path_or_with_other_letters_flask_decides() -> None:
    app = application()
    await twice(app)
    shortcut = Shortcut(app.flask, app.flask.matches)
    scope: dict[str, Any] = {"method": "GET", "path": "/way/x", "root_path": ""}

    def takes(**other: str) -> bool:
        exchange: Any = SimpleNamespace(scope=scope | other, trail=SimpleNamespace(route=None))
        return shortcut.view_for(exchange) is not None

    assert takes()
    assert not takes(root_path="/r")
    assert not takes(path="/way/é")
    assert not takes(method="OPTIONS")
