"""The Flask application behind plain WSGI servers: no bridge, one background loop."""

import asyncio
import contextlib
import gc
import logging
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import request
from werkzeug.serving import make_server

from backend.app import create_app
from backend.asgi import GatewayFlask
from backend.context import EXTENSION, Gateway
from backend.responses import GatewayResponse, StreamedResponse
from backend.wsgi import BackgroundLoop, raw_headers, raw_target
from tests.support.bridge import Body, no_life, on_hypercorn
from tests.support.gateway import ROOT, clean_environment, mount, settings_for
from tests.support.peer import Exchange, Peer, until


@contextlib.contextmanager
def threaded(app: GatewayFlask) -> Iterator[str]:
    """Serve by werkzeug's threaded server, in a thread, and close the background loop at the end."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
        app.background.close()


@contextlib.asynccontextmanager
async def gateway_over(tmp_path: Path, peer: Peer) -> AsyncIterator[tuple[str, Gateway]]:
    settings = settings_for(tmp_path, gateway_mounts=[mount("/m", peer.url, methods=["GET", "HEAD", "POST"])])
    app = create_app(settings).flask
    with threaded(app) as url:
        try:
            yield url, app.extensions[EXTENSION]
        finally:
            # Closing is blocking work, and the peer lives on this loop.
            await asyncio.to_thread(app.background.close)


@pytest.mark.parametrize("transport", ["direct", "reqwest", "httpx"])
@pytest.mark.asyncio
async def test_ten_calls_at_once_are_all_answered_and_wait_together(tmp_path: Path, transport: str) -> None:
    all_here = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if len(peer.heads) == 10:
            all_here.set()
        await all_here.wait()
        await exchange.reply(exchange.head.target)

    async with Peer(script) as peer:
        settings = settings_for(
            tmp_path, upstream_transport=transport, gateway_mounts=[mount("/m", peer.url)]
        )
        app = create_app(settings).flask
        with threaded(app) as url:
            async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
                for _ in range(2):  # the second round finds the same loop and client
                    answers = await asyncio.gather(*(http.get(f"{url}/m/{n}?q=%2F") for n in range(10)))
                    assert [a.text for a in answers] == [f"/{n}?q=%2F" for n in range(10)]
            await asyncio.to_thread(app.background.close)
            assert app.extensions[EXTENSION].client.slots.in_use == 0


@pytest.mark.asyncio
async def test_an_answer_is_streamed_as_it_arrives(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await go.wait()
        await exchange.send(b"4\r\nlast\r\n0\r\n\r\n")

    async with Peer(script) as peer, gateway_over(tmp_path, peer) as (url, gateway):
        async with (
            httpx.AsyncClient(trust_env=False, timeout=20) as http,
            http.stream("GET", f"{url}/m/x") as answer,
        ):
            chunks = answer.aiter_raw()
            assert await anext(chunks) == b"first"
            go.set()
            assert b"".join([chunk async for chunk in chunks]) == b"last"
        await until(lambda: gateway.client.slots.in_use == 0)


@pytest.mark.parametrize("size", [5, 300_000])
@pytest.mark.asyncio
async def test_an_upload_arrives_whole(tmp_path: Path, size: int) -> None:
    got: list[bytes] = []

    async def script(exchange: Exchange) -> None:
        got.append(await exchange.body())
        await exchange.reply(b"ok")

    async with (
        Peer(script) as peer,
        gateway_over(tmp_path, peer) as (url, _),
        httpx.AsyncClient(trust_env=False, timeout=20) as http,
    ):
        assert (await http.post(f"{url}/m/x", content=b"x" * size)).text == "ok"
    assert got == [b"x" * size]


@pytest.mark.asyncio
async def test_head_and_a_client_that_leaves_give_the_upstream_back(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        if exchange.head.method == b"GET":
            with contextlib.suppress(ConnectionError):
                while True:
                    await exchange.send(b"x" * 65536)

    async with Peer(script) as peer, gateway_over(tmp_path, peer) as (url, gateway):
        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            assert (await http.head(f"{url}/m/x")).headers["content-length"] == "100000000"
            await until(lambda: gateway.client.slots.in_use == 0)
            async with http.stream("GET", f"{url}/m/x") as answer:
                await anext(answer.aiter_raw())
        await until(lambda: gateway.client.slots.in_use == 0)


@pytest.mark.asyncio
async def test_a_plain_server_is_warned_about_once(tmp_path: Path, caplog: Any) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.reply(b"ok")

    async with (
        Peer(script) as peer,
        gateway_over(tmp_path, peer) as (url, _),
        httpx.AsyncClient(trust_env=False, timeout=20) as http,
    ):
        answers = await asyncio.gather(*(http.get(f"{url}/m/x") for _ in range(5)))
        assert {a.status_code for a in answers} == {200}
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "plain WSGI server" in warnings[0]
    assert "run.py" in warnings[0]


@pytest.mark.asyncio
async def test_hypercorns_wsgi_mode_works(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.reply(exchange.head.target)

    async with Peer(script) as peer:
        app = create_app(settings_for(tmp_path, gateway_mounts=[mount("/m", peer.url)])).flask
        async with on_hypercorn(app, "wsgi") as port, httpx.AsyncClient(trust_env=False, timeout=20) as http:
            url = f"http://127.0.0.1:{port}"
            answers = await asyncio.gather(*(http.get(f"{url}/m/{n}") for n in range(5)))
            assert [answer.text for answer in answers] == [f"/{n}" for n in range(5)]
        await asyncio.to_thread(app.background.close)


def test_the_test_client_works(tmp_path: Path) -> None:
    app = create_app(settings_for(tmp_path)).flask
    try:
        client = app.test_client()
        assert client.get("/api/ping").data == b"pong"
        answer = client.post("/api/login", json={"email": "nobody@test.local", "password": "wrong-pass"})
        assert (answer.status_code, answer.get_json()["code"]) == (401, "not_authenticated")
        assert client.get("/api/avatar/list").status_code == 401
        assert client.post("/api/login", data=b"x" * (1 << 21)).status_code == 413
    finally:
        app.background.close()


def small(**life: Any) -> GatewayFlask:
    app = GatewayFlask("t", life=life.get("life", no_life))

    @app.get("/loop")
    async def loop() -> list[Any]:
        return [id(asyncio.get_running_loop()), threading.current_thread().name]

    return app


def test_every_async_view_of_the_process_runs_on_one_loop() -> None:
    app = small()
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda _: app.test_client().get("/loop").get_json(), range(40)))
    app.background.close()
    assert len({loop for loop, _ in seen}) == 1
    assert {name for _, name in seen} == {"gateway-loop"}


def test_hooks_views_and_bodies_are_those_of_the_request() -> None:
    app = small()
    body = Body(b"one", b"two")

    @app.post("/echo/<name>")
    async def echo(name: str) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"name": name, "sent": request.get_json()}

    @app.get("/streamed")
    async def streamed() -> GatewayResponse:
        return StreamedResponse(200, [(b"x-kind", b"streamed")], body)

    client = app.test_client()
    assert client.post("/echo/a", json=[1]).get_json() == {"name": "a", "sent": [1]}
    answer = client.get("/streamed")
    assert (answer.data, answer.headers["x-kind"]) == (b"onetwo", "streamed")
    answer.close()
    assert body.closed == 1
    app.background.close()


def test_services_that_cannot_open_fail_the_call_and_are_tried_again() -> None:
    tries: list[int] = []

    @contextlib.asynccontextmanager
    async def life() -> AsyncIterator[None]:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("no disk")
        yield

    background = BackgroundLoop(life)

    async def work() -> str:
        return "done"

    with pytest.raises(OSError, match="no disk"):
        background.call(work)
    assert background.call(work) == "done"
    background.close()


def test_closing_ends_the_services_and_the_thread_and_may_be_repeated() -> None:
    state: list[str] = []

    @contextlib.asynccontextmanager
    async def life() -> AsyncIterator[None]:
        state.append("open")
        yield
        state.append("closed")

    before = {*threading.enumerate()}
    background = BackgroundLoop(life)
    background.close()

    async def work() -> None:
        state.append("work")

    background.call(work)
    background.close()
    background.close()
    assert state == ["open", "work", "closed"]
    assert {*threading.enumerate()} <= before


def test_a_call_that_is_running_when_the_loop_closes_ends() -> None:
    began = threading.Event()
    background = BackgroundLoop(no_life)

    async def work() -> None:
        began.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(background.call, work)
        assert began.wait(10)
        background.close()
        with pytest.raises(CancelledError):
            call.result(10)


def test_a_call_that_only_waits_for_itself_is_not_collected_as_garbage() -> None:
    """Nobody but the loop knew its task, and a loop holds tasks weakly: the caller waited for ever."""
    events: list[weakref.ref[asyncio.Event]] = []
    background = BackgroundLoop(no_life)
    began = threading.Event()

    async def work() -> None:
        event = asyncio.Event()
        events.append(weakref.ref(event))
        began.set()
        await event.wait()

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(background.call, work)
        assert began.wait(10)
        background.call(asyncio.sleep, 0)  # so that the work has come to its wait
        gc.collect()
        alive = events[0]() is not None
        background.close()
        with pytest.raises(CancelledError):
            call.result(10)
    assert alive


def test_a_process_that_used_it_ends_by_itself(tmp_path: Path) -> None:
    """Nothing hangs at exit, and what was open is closed."""
    program = (
        "from run import flask_app\n"
        "print(flask_app.test_client().get('/api/avatar/list').status_code)\n"
        "print(flask_app.test_client().get('/api/ping').data)\n"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=clean_environment(GATEWAY_INSTANCE_DIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "401\nb'pong'\n"), done.stderr
    assert time.monotonic() - began < 30
    assert "Traceback" not in done.stderr
    assert "ResourceWarning" not in done.stderr


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"RAW_URI": "/a%2Fb?x=1", "QUERY_STRING": "x=1", "PATH_INFO": "/a/b"}, (b"/a%2Fb", b"x=1")),
        ({"REQUEST_URI": "/a%2Fb", "PATH_INFO": "/a/b"}, (b"/a%2Fb", b"")),
        ({"PATH_INFO": "/a b/ä".encode().decode("latin-1")}, (b"/a%20b/%C3%A4", b"")),
        ({"SCRIPT_NAME": "/root", "PATH_INFO": "/x"}, (b"/root/x", b"")),
        ({"PATH_INFO": "/a%"}, (b"/a%25", b"")),
    ],
)
def test_the_raw_target_is_taken_or_made_again(
    environ: dict[str, str], expected: tuple[bytes, bytes]
) -> None:
    assert raw_target(environ) == expected


def test_header_lines_are_found_in_an_environ() -> None:
    environ = {"HTTP_X_ONE": "1", "CONTENT_TYPE": "a/b", "CONTENT_LENGTH": "", "wsgi.version": (1, 0)}
    assert raw_headers(environ) == [(b"x-one", b"1"), (b"content-type", b"a/b")]
