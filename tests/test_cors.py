"""Preflights and simple calls as browsers send them, against the rules alone and against a gateway."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from backend.cors import Cors, is_preflight
from tests.support.gateway import Served, mount, serving, settings_for
from tests.support.peer import Exchange, Peer

PAGE = b"http://gateway.local:5173"
HOST = b"gateway.local:8203"


def asked(origin: bytes | None, host: bytes = HOST) -> list[tuple[bytes, bytes]]:
    return [(b"host", host)] + ([] if origin is None else [(b"origin", origin)])


def allowed(cors: Cors, origin: bytes | None, host: bytes = HOST) -> bool:
    headers = dict(cors.headers(asked(origin, host)))
    assert headers.get(b"access-control-allow-origin") in (None, origin)
    return b"access-control-allow-origin" in headers


@pytest.mark.parametrize(
    ("origin", "host", "expected"),
    [
        (PAGE, HOST, True),
        (b"https://gateway.local", HOST, True),
        (b"http://GATEWAY.local:1", HOST, True),
        (b"http://127.0.0.1:5173", b"127.0.0.1:8203", True),
        (b"http://[::1]:5173", b"[::1]:8203", True),
        (b"http://localhost:5173", b"127.0.0.1:8203", False),
        (b"http://evil.example", HOST, False),
        (b"http://gateway.local.evil.example", HOST, False),
        (b"http://evil.example/gateway.local", HOST, False),
        (b"http://gateway.local@evil.example", HOST, False),
        (b"null", HOST, False),
        (b"", HOST, False),
        (b"null", b"", False),
        (b"http://[", HOST, False),
        (b"\xff\xfe", HOST, False),
    ],
)
def test_without_a_list_pages_of_the_same_host_may_call_on_any_port(
    origin: bytes, host: bytes, expected: bool
) -> None:
    assert allowed(Cors(()), origin, host) is expected


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (b"https://app.example", True),
        (b"https://app.example:8443", False),
        (b"http://app.example", False),
        (b"https://app.example.evil.example", False),
        (b"null", False),
        (PAGE, False),  # a list replaces the default
    ],
)
def test_a_list_allows_exactly_its_origins(origin: bytes, expected: bool) -> None:
    assert allowed(Cors(("https://app.example", "https://other.example")), origin) is expected


def test_every_answer_to_an_origin_says_that_it_varies_and_others_say_nothing() -> None:
    for origin in (PAGE, b"http://evil.example"):
        assert (b"vary", b"Origin") in Cors(()).headers(asked(origin))
    assert Cors(()).headers(asked(None)) == []


def test_credentials_are_never_allowed_and_no_star_is_sent() -> None:
    lines = Cors(()).headers(asked(PAGE)) + Cors(()).preflight(asked(PAGE))
    assert b"access-control-allow-credentials" not in dict(lines)
    assert b"*" not in [value for _, value in lines]


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        (b"authorization,content-type,x-request-time,sessionid", True),
        (b"authorization, content-type", True),
        (b"x-a\r\nset-cookie: a=b", False),
        (b"*", False),
        (b"a" * 65, False),
        (b",".join([b"x"] * 33), False),
        (b"", False),
    ],
)
def test_a_preflight_names_back_the_headers_that_are_header_names(wanted: bytes, named: bool) -> None:
    lines = dict(Cors(()).preflight([*asked(PAGE), (b"access-control-request-headers", wanted)]))
    assert lines.get(b"access-control-allow-headers") == (wanted if named else None)


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("OPTIONS", {b"origin": PAGE, b"access-control-request-method": b"POST"}, True),
        ("POST", {b"origin": PAGE, b"access-control-request-method": b"POST"}, False),
        ("OPTIONS", {b"access-control-request-method": b"POST"}, False),
        ("OPTIONS", {b"origin": PAGE}, False),
    ],
)
def test_what_is_a_preflight(method: str, headers: dict[bytes, bytes], expected: bool) -> None:
    assert is_preflight(method, list(headers.items())) is expected


# Against a gateway


async def refuse(exchange: Exchange) -> None:
    await exchange.reply(
        b"upstream",
        (b"Access-Control-Allow-Origin", b"*"),
        (b"Vary", b"Accept-Encoding"),
        status=b"418 Teapot",
    )


@pytest_asyncio.fixture
async def served(tmp_path) -> AsyncIterator[Served]:
    async with Peer(refuse) as peer:
        settings = settings_for(
            tmp_path,
            gateway_mounts=[mount("/m", peer.url), mount("/options", peer.url, methods=["OPTIONS"])],
        )
        async with serving(settings) as gateway:
            yield gateway


def chromium(url: str, method: str, names: str) -> dict[str, str]:
    """A preflight's headers as Chromium sends them."""
    return {
        "Accept": "*/*",
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": names,
        "Origin": url.rpartition(":")[0] + ":5173",
        "Sec-Fetch-Mode": "cors",
        "Sec-Fetch-Site": "same-site",
        "Sec-Fetch-Dest": "empty",
        "Referer": url + "/",
    }


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/api/login", "POST"),
        ("/api/avatar/list", "GET"),
        ("/api/avatar/start", "POST"),
        ("/api/webrtc/offer", "POST"),
        ("/api/unknown/path", "DELETE"),
        ("/", "PUT"),
        ("/m/below/a/mount", "GET"),
        ("/options/below/a/mount", "GET"),
    ],
)
@pytest.mark.asyncio
async def test_a_preflight_needs_no_token_and_no_route(served: Served, path: str, method: str) -> None:
    names = "authorization,content-type,sessionid,x-request-time"
    headers = chromium(served.url, method, names)
    answer = await served.http.options(path, headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == headers["Origin"]
    assert answer.headers["access-control-allow-headers"] == names
    assert method in answer.headers["access-control-allow-methods"].split(", ")
    assert int(answer.headers["access-control-max-age"]) > 0
    assert answer.headers["vary"] == "Origin"


@pytest.mark.asyncio
async def test_a_foreign_page_gets_no_permission(served: Served) -> None:
    headers = chromium(served.url, "POST", "authorization") | {"Origin": "https://evil.example"}
    answer = await served.http.options("/api/login", headers=headers)
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/api/ping", 200), ("/api/avatar/list", 401), ("/nowhere", 404), ("/m/x", 418), ("/api/%2e%2e/x", 400)],
)
@pytest.mark.asyncio
async def test_errors_can_be_read_by_the_page_too(served: Served, path: str, status: int) -> None:
    origin = served.url.rpartition(":")[0] + ":5173"
    answer = await served.http.get(path, headers={"Origin": origin})
    assert answer.status_code == status
    assert answer.headers.get_list("access-control-allow-origin") == [origin]
    assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
    assert "origin" in answer.headers["vary"].lower()


@pytest.mark.asyncio
async def test_what_an_upstream_says_about_caches_is_kept(served: Served) -> None:
    for headers in ({}, {"Origin": "https://evil.example"}):
        answer = await served.http.get("/m/x", headers=headers)
        assert "access-control-allow-origin" not in answer.headers
        assert "accept-encoding" in answer.headers["vary"].lower()


@pytest.mark.asyncio
async def test_options_that_are_no_preflight_reach_their_route(served: Served) -> None:
    assert (await served.http.options("/options/x")).content == b"upstream"
    assert set((await served.http.options("/api/login")).headers["allow"].split(", ")) == {"POST", "OPTIONS"}
