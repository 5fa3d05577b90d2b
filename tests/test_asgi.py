import asyncio
import contextlib
import contextvars
import io
import logging
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from asgiref.wsgi import WsgiToAsgi
from flask import Blueprint, Flask, Response, abort, g, request, url_for

from backend import hooks
from backend.asgi import GatewayFlask
from backend.cors import Cors
from backend.errors import Overloaded, UpstreamBroken
from backend.responses import GatewayResponse, StreamedResponse
from tests.support.bridge import (
    Body,
    Client,
    bridged,
    call,
    nothing,
    on_hypercorn,
    one_view,
)
from tests.support.peer import until

user: contextvars.ContextVar[str] = contextvars.ContextVar("user")


# Flask's own dispatch


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


# Concurrency


@pytest.mark.asyncio
async def test_async_views_wait_for_one_event_together() -> None:
    event, inside = asyncio.Event(), []

    async def view() -> str:
        inside.append(request.args["n"])
        await event.wait()
        return request.args["n"]

    app = one_view(view).asgi
    clients = [Client(app, query=f"n={n}") for n in range(500)]
    await until(lambda: len(inside) == 500)
    event.set()
    assert [(await client.answered()).text for client in clients] == [str(n) for n in range(500)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.asyncio
async def test_no_request_sees_anything_of_another(seed: int) -> None:
    """Async and plain views, hooks and helpers, all changing hands at random."""
    dice = random.Random(seed)

    async def pause() -> None:
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)

    def all_known() -> list[str]:
        return [request.args["who"], request.headers["x-who"], g.who, user.get()]

    def routes(app: GatewayFlask) -> None:
        @app.before_request
        async def note() -> None:
            await pause()
            g.who = request.args["who"]
            user.set(g.who)
            await pause()

        @app.post("/async")
        async def in_async() -> list[str]:
            await pause()
            seen = all_known()
            seen += (await asyncio.gather(helper(), helper()))[1]
            await pause()
            return seen + all_known()

        async def helper() -> list[str]:
            await pause()
            return all_known()

        @app.post("/plain")
        def in_thread() -> list[str]:
            seen = [*all_known(), request.get_json()["who"]]
            time.sleep(dice.random() / 1000)
            return seen + all_known()

        @app.after_request
        async def after(response: Response) -> Response:
            await pause()
            response.headers["x-who"] = "-".join({*all_known()})
            return response

    app = bridged(routes, threads=4, waiting=1000).asgi
    clients = {}
    for number in range(200):
        who = f"v{number}"
        path = dice.choice(["/async", "/plain"])
        headers = {"x-who": who, "content-type": "application/json"}
        body = f'{{"who": "{who}"}}'.encode()
        clients[who] = Client(app, "POST", path, query=f"who={who}", headers=headers, body=body)
        await pause()
    for who, client in clients.items():
        await client.answered()
        assert set(client.json) == {who}
        assert client.headers["x-who"] == who


async def finish_together(app: Any, calls: int) -> float:
    """Return how long `calls` calls at once take."""
    async with on_hypercorn(app) as port, httpx.AsyncClient(trust_env=False, timeout=20) as http:
        url = f"http://127.0.0.1:{port}/"
        began = time.perf_counter()
        answers = await asyncio.gather(*(http.get(url) for _ in range(calls)))
        assert [answer.text for answer in answers] == ["done"] * calls
        return time.perf_counter() - began


@pytest.mark.asyncio
async def test_the_bridge_serves_together_what_the_plain_adapter_serves_in_turn() -> None:
    async def view() -> str:
        await asyncio.sleep(0.3)
        return "done"

    plain = Flask("plain")
    plain.add_url_rule("/", "view", view)
    one_after_another = 5 * 0.3
    assert await finish_together(one_view(view).asgi, 5) < one_after_another / 2
    assert await finish_together(WsgiToAsgi(plain), 5) >= one_after_another


# Lifespan


class Phases:
    """The server's side of a lifespan."""

    def __init__(self, app: Any) -> None:
        self.sent: list[Any] = []
        self._next: asyncio.Queue[Any] = asyncio.Queue()
        self.task = asyncio.create_task(app({"type": "lifespan"}, self._next.get, self._send))

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    async def enter(self, phase: str) -> Any:
        self._next.put_nowait({"type": f"lifespan.{phase}"})
        before = len(self.sent)
        await until(lambda: len(self.sent) > before)
        return self.sent[-1]


@pytest.mark.asyncio
async def test_startup_opens_and_shutdown_closes() -> None:
    state = ["closed"]

    @contextlib.asynccontextmanager
    async def life() -> AsyncIterator[None]:
        state.append("open")
        yield
        state.append("closed")

    phases = Phases(bridged(nothing, life=life).asgi)
    assert (await phases.enter("startup"))["type"] == "lifespan.startup.complete"
    assert state == ["closed", "open"]
    assert (await phases.enter("shutdown"))["type"] == "lifespan.shutdown.complete"
    assert state == ["closed", "open", "closed"]
    await phases.task


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
@pytest.mark.asyncio
async def test_a_lifespan_that_fails_is_told_to_the_server(phase: str, caplog: Any) -> None:
    @contextlib.asynccontextmanager
    async def life() -> AsyncIterator[None]:
        if phase == "startup":
            raise OSError("no disk")
        yield
        raise OSError("no disk")

    phases = Phases(bridged(nothing, life=life).asgi)
    last = await phases.enter("startup")
    if phase == "shutdown":
        last = await phases.enter("shutdown")
    assert last == {"type": f"lifespan.{phase}.failed", "message": "no disk"}
    await phases.task
    assert f"{phase} failed" in caplog.text


# Errors before the answer began


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
