"""What is left in memory of answers that say no: nothing that only the garbage collector could clear."""

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest

from backend import hooks
from backend.asgi import GatewayFlask
from backend.config import load
from backend.cors import Cors
from backend.errors import UpstreamUnavailable
from backend.request_body import Message, Scope
from backend.services.forwarding import Forwarder, Upstream
from backend.services.http_client import HttpClient
from backend.services.policies import Timeouts
from backend.shortcut import direct
from tests.support.bridge import bridged
from tests.support.gateway import KEY
from tests.support.ports import free_port

CALLS = 20
# What werkzeug's matcher leaves of a path that leads nowhere, with room for a line more.
MOST_OBJECTS_A_CALL = 10


def scope_of(path: str) -> Scope:
    return {
        "type": "http",
        "http_version": "1.1",
        "asgi": {"version": "3.0"},
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"test.local")],
        "client": ("192.0.2.7", 50000),
        "server": ("test.local", 80),
        "extensions": {"departure": lambda _: None},
    }


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("path", "status"),
    [("/refuses", 503), ("/flask", 503), ("/dead", 503), ("/refused", 502), ("/nowhere", 404)],
)
async def test_a_thousand_refusals_leave_no_knots_that_stop_the_loop_when_they_are_undone(
    path: str, status: int
) -> None:
    settings = load({}, None, jwt_secret_key=KEY)
    async with HttpClient(settings) as client:
        forwarder = Forwarder(client)
        dead, refusing = (Upstream.at(name, f"http://127.0.0.1:{free_port()}") for name in ("d", "r"))

        async def ask(upstream: Upstream) -> str:
            return str(await forwarder.ask("POST", upstream, "/", Timeouts(1, 1, 1)))

        @direct
        async def refuses() -> str:
            raise UpstreamUnavailable

        async def flask() -> str:
            raise UpstreamUnavailable

        @direct
        async def by_breaker() -> str:
            return await ask(dead)

        @direct
        async def by_connection() -> str:
            forwarder.readmit(refusing)
            return await ask(refusing)

        def routes(app: GatewayFlask) -> None:
            views: dict[str, Callable[[], Awaitable[str]]] = {
                "refuses": refuses,
                "flask": flask,
                "dead": by_breaker,
                "refused": by_connection,
            }
            for name, view in views.items():
                app.add_url_rule(f"/{name}", name, view)
            hooks.register(app, Cors(()))

        app = bridged(routes).asgi

        async def call() -> int:
            status = 0

            async def receive() -> Message:
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(message: Message) -> None:
                nonlocal status
                status = message.get("status", status)

            await asyncio.create_task(app(scope_of(path), receive, send))
            return status

        for _ in range(8):  # until the breaker is open and every cache is filled
            last = await call()
        assert last == status
        gc.disable()
        try:
            # What else ends in this process meanwhile is found once, knots of these calls in every round.
            assert min([await _knots(call) for _ in range(3)]) <= MOST_OBJECTS_A_CALL * CALLS
        finally:
            gc.enable()


async def _knots(call: Callable[[], Awaitable[int]]) -> int:
    gc.collect()
    for _ in range(CALLS):
        await call()
    return gc.collect()
