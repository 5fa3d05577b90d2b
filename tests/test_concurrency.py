"""Requests that run together on one loop: none waits for another, none sees anything of another."""

import asyncio
import contextvars
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
from asgiref.wsgi import WsgiToAsgi
from flask import Flask, Response, g, request

from backend.asgi import GatewayFlask
from tests.support.bridge import Client, bridged, on_hypercorn, one_view
from tests.support.peer import until

AsyncView = Callable[[], Awaitable[str]]

user: contextvars.ContextVar[str] = contextvars.ContextVar("user")


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


async def most_at_once(app_of: Callable[[AsyncView], Any], calls: int, seconds: float) -> int:
    """Return how many of `calls` were in one view together; each waits there for all, or for `seconds`."""
    inside, most, all_here = 0, 0, asyncio.Event()

    async def view() -> str:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == calls:
            all_here.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(all_here.wait(), seconds)
        inside -= 1
        return "done"

    async with on_hypercorn(app_of(view)) as port, httpx.AsyncClient(trust_env=False, timeout=60) as http:
        url = f"http://127.0.0.1:{port}/"
        answers = await asyncio.gather(*(http.get(url) for _ in range(calls)))
    assert [answer.text for answer in answers] == ["done"] * calls
    return most


def plainly_adapted(view: AsyncView) -> Any:
    """Serve a view as Flask and asgiref do by themselves."""
    plain = Flask("plain")
    plain.add_url_rule("/", "view", view)
    return WsgiToAsgi(plain)


@pytest.mark.asyncio
async def test_the_bridge_serves_together_what_the_plain_adapter_serves_in_turn() -> None:
    assert await most_at_once(lambda view: one_view(view).asgi, 5, seconds=30) == 5
    assert await most_at_once(plainly_adapted, 5, seconds=0.2) == 1
