"""Plain `def` views: in threads, with their request, beside the others."""

import threading
from typing import Any

import pytest
from flask import g, request, url_for

from backend import hooks
from backend.asgi import GatewayFlask
from backend.cors import Cors
from tests.support.bridge import (
    Client,
    bridged,
    call,
    one_view,
)
from tests.support.peer import until


@pytest.mark.asyncio
async def test_a_plain_view_runs_in_a_thread_with_its_request() -> None:
    def view(name: str) -> list[Any]:
        return [
            threading.current_thread().name,
            name,
            request.args["q"],
            request.form["field"],
            url_for("view", name="x"),
        ]

    def routes(app: GatewayFlask) -> None:
        app.add_url_rule("/<name>", "view", view, methods=["POST"])

    headers = {"content-type": "application/x-www-form-urlencoded"}
    client = await call(
        bridged(routes).asgi, "POST", "/anna", query="q=1", headers=headers, body=b"field=a+b"
    )
    thread, *rest = client.json
    assert thread.startswith("view")
    assert rest == ["anna", "1", "a b", "/x"]


@pytest.mark.asyncio
async def test_a_plain_view_reads_an_upload_as_it_arrives() -> None:
    got: list[bytes] = []

    def view() -> str:
        while chunk := request.stream.read(3):
            got.append(chunk)
        return "ok"

    client = Client(one_view(view, methods=["POST"]).asgi, "POST", body=None)
    client.push(b"abc")
    await until(lambda: got == [b"abc"])
    client.push(b"defgh")
    await until(lambda: b"".join(got) == b"abcdefgh" or b"".join(got) == b"abcdef")
    client.push(b"", more=False)
    assert (await client.answered()).text == "ok"
    assert b"".join(got) == b"abcdefgh"


@pytest.mark.asyncio
async def test_a_plain_view_gets_files_of_a_multipart_form() -> None:
    def view() -> list[Any]:
        file = request.files["video"]
        return [request.form["name"], file.filename, len(file.read())]

    content = (
        b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nAnna\r\n'
        b'--x\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
        + b"v" * 100_000
        + b"\r\n--x--\r\n"
    )
    headers = {"content-type": "multipart/form-data; boundary=x"}
    client = await call(one_view(view, methods=["POST"]).asgi, "POST", headers=headers, body=content)
    assert client.json == ["Anna", "a.mp4", 100_000]


@pytest.mark.asyncio
async def test_sync_hooks_read_the_body_while_others_are_served() -> None:
    def routes(app: GatewayFlask) -> None:
        @app.before_request
        def read() -> None:
            g.sent = request.get_data()

        @app.route("/", methods=["GET", "POST"])
        async def view() -> bytes:
            return g.sent + b"."

    app = bridged(routes).asgi
    slow = Client(app, "POST", body=None)
    slow.push(b"one")
    assert (await call(app)).body == b"."
    slow.push(b" two", more=False)
    assert (await slow.answered()).body == b"one two."


@pytest.mark.asyncio
async def test_an_async_view_that_reads_the_body_like_a_plain_one_is_told_how_to_do_it() -> None:
    errors: list[str] = []

    async def view() -> str:
        try:
            request.get_json()
        except RuntimeError as error:
            errors.append(str(error))
        return "ok"

    headers = {"content-type": "application/json"}
    app = one_view(view, methods=["POST"]).asgi
    await call(app, "POST", headers=headers, body=b"{}")
    assert errors == ["an async view awaits the body instead of reading it: see backend.context"]


@pytest.mark.asyncio
async def test_as_many_plain_views_run_at_once_as_there_are_threads_and_those_in_excess_get_503() -> None:
    go, running = threading.Event(), []

    def view() -> str:
        running.append(threading.current_thread().name)
        go.wait(10)
        return "ok"

    def routes(app: GatewayFlask) -> None:
        app.add_url_rule("/", "view", view)
        hooks.register(app, Cors(()))

    app = bridged(routes, threads=2, waiting=3).asgi
    clients = [Client(app) for _ in range(5)]
    await until(lambda: len(running) == 2)
    refused = await call(app)
    assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (503, "overloaded", "1")
    assert len(running) == 2
    go.set()
    assert [(await client.answered()).status for client in clients] == [200] * 5
    assert (await call(app)).status == 200


@pytest.mark.asyncio
async def test_a_plain_view_of_a_client_that_left_gives_its_place_in_line_back() -> None:
    go, running = threading.Event(), []

    def view() -> str:
        running.append(1)
        go.wait(10)
        return "ok"

    def routes(app: GatewayFlask) -> None:
        app.add_url_rule("/", "view", view)

    small = bridged(routes, threads=1, waiting=1)
    clients = [Client(small.asgi), Client(small.asgi)]
    await until(lambda: len(running) == 1)
    clients[1].leave()
    await clients[1].answered()
    clients[1] = Client(small.asgi)
    go.set()
    assert [(await client.answered()).status for client in clients] == [200, 200]
    assert len(running) == 2
