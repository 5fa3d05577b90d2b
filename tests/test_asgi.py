"""Flask's own dispatch, as it goes on behind the bridge to ASGI."""

import asyncio
import io
from typing import Any

import pytest
from flask import Blueprint, Response, g, request, url_for

from backend.asgi import GatewayFlask
from tests.support.bridge import bridged, call, nothing, one_view


@pytest.mark.asyncio
async def test_hooks_of_both_kinds_run_around_the_view_in_flasks_order() -> None:
    order: list[str] = []

    def routes(app: GatewayFlask) -> None:
        @app.before_request
        def before_sync() -> None:
            order.append("before sync")

        @app.before_request
        async def before_async() -> None:
            await asyncio.sleep(0)
            order.append("before async")

        @app.get("/")
        async def view() -> str:
            await asyncio.sleep(0)
            order.append("view")
            return "ok"

        @app.after_request
        async def after_async(response: Response) -> Response:
            await asyncio.sleep(0)
            order.append("after async")
            response.headers["X-After"] = "async"
            return response

        @app.after_request
        def after_sync(response: Response) -> Response:
            order.append("after sync")
            return response

        @app.teardown_request
        async def teardown_async(error: BaseException | None) -> None:
            await asyncio.sleep(0)
            order.append(f"teardown {error}")

    client = await call(bridged(routes).asgi)
    assert (client.text, client.headers["x-after"]) == ("ok", "async")
    assert order == ["before sync", "before async", "view", "after sync", "after async", "teardown None"]


@pytest.mark.asyncio
async def test_a_before_hook_that_answers_keeps_the_view_from_running() -> None:
    def routes(app: GatewayFlask) -> None:
        @app.before_request
        async def refuse() -> tuple[str, int]:
            return "no", 418

        @app.get("/")
        async def view() -> str:
            raise AssertionError("the view ran")

    client = await call(bridged(routes).asgi)
    assert (client.status, client.text) == (418, "no")


@pytest.mark.asyncio
async def test_error_handlers_of_both_kinds_answer() -> None:
    def routes(app: GatewayFlask) -> None:
        @app.get("/key")
        async def key() -> str:
            raise KeyError("k")

        @app.get("/value")
        def value() -> str:
            raise ValueError("v")

        @app.errorhandler(KeyError)
        def no_key(error: KeyError) -> tuple[str, int]:
            return f"sync {error}", 409

        @app.errorhandler(ValueError)
        async def no_value(error: ValueError) -> tuple[str, int]:
            await asyncio.sleep(0)
            return f"async {error}", 410

        @app.errorhandler(404)
        async def not_there(error: Exception) -> tuple[str, int]:
            return f"nothing at {request.path}", 404

    app = bridged(routes).asgi
    answers = [await call(app, path=path) for path in ("/key", "/value", "/other")]
    assert [(a.status, a.text) for a in answers] == [
        (409, "sync 'k'"),
        (410, "async v"),
        (404, "nothing at /other"),
    ]


@pytest.mark.asyncio
async def test_blueprints_converters_and_url_building_work_in_async_views() -> None:
    shop = Blueprint("shop", __name__, url_prefix="/shop")

    @shop.before_request
    async def note() -> None:
        g.seen = "by the blueprint's hook"

    @shop.get("/<int:number>/<path:rest>")
    async def item(number: int, rest: str) -> dict[str, Any]:
        async def inner() -> str:
            await asyncio.sleep(0)
            return url_for("shop.item", number=number + 1, rest=rest)

        there, seen = await asyncio.gather(inner(), asyncio.sleep(0, g.seen))
        return {"number": number, "rest": rest, "next": there, "seen": seen}

    client = await call(bridged(lambda app: app.register_blueprint(shop)).asgi, path="/shop/7/a/b")
    assert client.json == {
        "number": 7,
        "rest": "a/b",
        "next": "/shop/8/a/b",
        "seen": "by the blueprint's hook",
    }


@pytest.mark.asyncio
async def test_paths_outside_ascii_and_queries_reach_the_view_decoded() -> None:
    def routes(app: GatewayFlask) -> None:
        @app.get("/<name>")
        async def view(name: str) -> list[str]:
            return [name, request.args["q"]]

    client = await call(bridged(routes).asgi, path="/数字人", query="q=a%20b%2Bc")
    assert client.json == ["数字人", "a b+c"]


@pytest.mark.asyncio
async def test_headers_sent_twice_are_joined_and_the_client_is_known() -> None:
    async def view() -> list[Any]:
        return [request.headers["x-one"], request.remote_addr, request.host, request.scheme]

    client = await call(one_view(view).asgi, headers={"X-One": "1", "x-one": "2"})
    assert client.json == ["1,2", "192.0.2.7", "test.local", "http"]


@pytest.mark.asyncio
async def test_wsgi_errors_go_to_the_log(caplog: Any) -> None:
    def view() -> str:
        request.environ["wsgi.errors"].write("old library says hello\n")
        return "ok"

    await call(one_view(view).asgi)
    assert "old library says hello" in caplog.text


def test_a_body_read_in_pieces_is_read_whole() -> None:
    """`BufferedReader` over the body, as file-like code of libraries makes it."""

    def view() -> bytes:
        return io.BufferedReader(request.environ["wsgi.input"], 8).read()

    async def main() -> bytes:
        content = bytes(range(256)) * 40
        app = one_view(view, methods=["POST"]).asgi
        assert (await call(app, "POST", body=content)).body == content
        return content

    asyncio.run(main())


@pytest.mark.asyncio
async def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown ASGI scope quic"):
        await bridged(nothing).asgi({"type": "quic"}, None, None)  # type: ignore[arg-type]
