"""What is remembered of routing must be what Flask would have found anew."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from flask import after_this_request, g, request, session
from werkzeug.exceptions import MethodNotAllowed, NotFound
from werkzeug.routing import Map, Rule
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from backend.asgi import GatewayFlask
from backend.routing import LONGEST_KEPT_PATH, MATCHES, Matches


@asynccontextmanager
async def no_life() -> AsyncIterator[None]:
    yield


@pytest.fixture
def app() -> GatewayFlask:
    flask = GatewayFlask("routes", life=no_life)

    @flask.get("/things/<int:number>")
    def thing(number: int) -> dict[str, Any]:
        assert request.view_args is not None
        request.view_args["number"] = -1  # a hook may do this: the next request must not see it
        return {"number": number, "endpoint": request.endpoint}

    @flask.post("/things/<int:number>")
    def change(number: int) -> dict[str, Any]:
        return {"changed": number}

    return flask


def requested(path: str, method: str = "GET", **more: Any) -> Request:
    return Request(EnvironBuilder(path, method=method, **more).get_environ())


def matches() -> Matches:
    return Matches(Map([Rule("/a/<name>", endpoint="a", methods=["GET"]), Rule("/b", endpoint="b")]))


def test_a_path_is_looked_up_once_and_answered_alike(app: GatewayFlask) -> None:
    client = app.test_client()
    for _ in range(3):
        assert client.get("/things/7").json == {"number": 7, "endpoint": "thing"}
        assert client.post("/things/7").json == {"changed": 7}
    assert client.get("/things/8").json == {"number": 8, "endpoint": "thing"}
    assert len(app.matches._known) == 3


def test_paths_that_lead_nowhere_are_not_kept() -> None:
    known = matches()
    for _ in range(2):
        with pytest.raises(NotFound):
            known.adapter(requested("/nowhere")).match(return_rule=True)
        with pytest.raises(MethodNotAllowed):
            known.adapter(requested("/a/x", "POST")).match(return_rule=True)
    assert len(known._known) == 0


def test_what_is_kept_is_bounded_in_number_and_length() -> None:
    known = matches()
    for number in range(MATCHES + 100):
        known.adapter(requested(f"/a/{number}")).match(return_rule=True)
    assert len(known._known) == MATCHES
    before = len(known._known)
    long = "/a/" + "x" * LONGEST_KEPT_PATH
    rule, arguments = known.adapter(requested(long)).match(return_rule=True)
    assert (rule.endpoint, arguments) == ("a", {"name": "x" * LONGEST_KEPT_PATH})
    assert len(known._known) == before


def test_arguments_of_one_request_are_not_those_of_the_next() -> None:
    known = matches()
    _, first = known.adapter(requested("/a/x")).match(return_rule=True)
    first["name"] = "changed"
    _, second = known.adapter(requested("/a/x")).match(return_rule=True)
    assert second == {"name": "x"}


def test_a_route_that_was_added_later_is_found() -> None:
    known = matches()
    with pytest.raises(NotFound):
        known.adapter(requested("/late")).match(return_rule=True)
    known._map.add(Rule("/late", endpoint="late"))
    rule, _ = known.adapter(requested("/late")).match(return_rule=True)
    assert rule.endpoint == "late"


def test_allowed_methods_are_still_known() -> None:
    adapter = matches().adapter(requested("/a/x", "POST"))
    assert set(adapter.allowed_methods()) == {"GET", "HEAD"}
    assert adapter.match("/b", "GET") == ("b", {})


def test_nothing_is_kept_in_a_session(app: GatewayFlask) -> None:
    @app.get("/write")
    def write() -> str:
        session["name"] = "value"
        return "written"

    app.testing = True  # lets the view's own error through
    with pytest.raises(RuntimeError, match="session is unavailable"):
        app.test_client().get("/write")
    assert "Set-Cookie" not in app.test_client().get("/things/1").headers


def test_hooks_signals_and_error_handlers_run_as_they_always_did(app: GatewayFlask) -> None:
    told: list[str] = []
    app.before_request(lambda: told.append("before"))
    app.teardown_request(lambda exc: told.append("teardown"))
    app.teardown_appcontext(lambda exc: told.append("app teardown"))

    @app.after_request
    def after(response: Any) -> Any:
        told.append("after")
        return response

    @app.errorhandler(KeyError)
    def handled(error: KeyError) -> tuple[str, int]:
        told.append("handled")
        return "no such key", 418

    @app.get("/fails")
    def fails() -> str:
        @after_this_request
        def once(response: Any) -> Any:
            told.append("after this")
            return response

        g.seen = True
        raise KeyError("x")

    for _ in range(2):
        told.clear()
        assert app.test_client().get("/fails").status_code == 418
        assert told == ["before", "handled", "after this", "after", "teardown", "app teardown"]


def test_functions_made_for_one_request_do_not_pile_up(app: GatewayFlask) -> None:
    @app.get("/once")
    def view() -> str:
        after_this_request(lambda response: response)
        return "ok"

    client = app.test_client()
    for _ in range(400):
        client.get("/once")
    assert app._made_sync.cache_info().currsize <= 256


def test_one_function_is_made_synchronous_once_and_waits_each_time(app: GatewayFlask) -> None:
    async def work(number: int) -> int:
        await asyncio.sleep(0)
        return number * 2

    run = app.ensure_sync(work)
    assert run is app.ensure_sync(work)
    try:
        assert [run(number) for number in range(3)] == [0, 2, 4]
    finally:
        app.background.close()
