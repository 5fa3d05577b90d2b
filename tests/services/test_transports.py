"""What the gateway relies on in its client, on both transports and through both doors."""

import asyncio
import gzip
import inspect
from collections.abc import Callable
from types import ModuleType

import httpx
import pytest
from pyreqwest import exceptions as pyreqwest

from backend import errors
from backend.errors import GatewayError, UpstreamGarbage, UpstreamRefused
from backend.services.http_client import TIMEOUTS
from backend.services.transports import MEANING, meaning_of
from tests.support.peer import Exchange, echo
from tests.support.transports import MEGABYTE, OK, door, saying, start, transport
from tests.support.upstream import HTTP2, Door, client_of

__all__ = ["door", "start", "transport"]

pytestmark = pytest.mark.asyncio

# What arrives


@pytest.mark.parametrize(
    "framed",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"Connection: close\r\n\r\nhello",
    ],
)
async def test_body_arrives_in_every_framing(door: Door, start: Callable, framed: bytes) -> None:
    peer = await start(saying(OK + framed))
    status, _, body = await door.fetch(peer.url)
    assert (status, body) == (200, b"hello")


async def test_answer_headers_keep_order_and_duplicates(door: Door, start: Callable) -> None:
    lines = [(b"b", b"2"), (b"a", b"1"), (b"set-cookie", b"x=1"), (b"set-cookie", b"y=2"), (b"z", b"")]
    raw = b"".join(name + b": " + value + b"\r\n" for name, value in lines)
    peer = await start(saying(OK + raw + b"Content-Length: 0\r\n\r\n"))
    _, headers, _ = await door.fetch(peer.url)
    assert headers == [*lines, (b"content-length", b"0")]


async def test_first_event_arrives_before_the_second_is_sent(door: Door, start: Callable) -> None:
    arrived = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + b"Transfer-Encoding: chunked\r\n\r\n6\r\ndata:1\r\n")
        await arrived.wait()
        await exchange.send(b"6\r\ndata:2\r\n0\r\n\r\n")

    peer = await start(script)
    got = await door.call(peer.url)
    assert await got.read() == b"data:1"
    arrived.set()
    assert await got.whole() == b"data:2"
    await got.aclose()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirect_is_handed_over_not_followed(door: Door, start: Callable, status: int) -> None:
    peer = await start(
        saying(b"HTTP/1.1 %d Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n" % status)
    )
    got, headers, _ = await door.fetch(peer.url)
    assert (got, dict(headers)[b"location"]) == (status, b"/elsewhere")
    assert len(peer.heads) == 1


async def test_interim_answers_are_passed_over(door: Door, start: Callable) -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    peer = await start(saying(early + OK + b"Content-Length: 2\r\n\r\nok"))
    status, headers, body = await door.fetch(peer.url)
    assert (status, body) == (200, b"ok")
    assert b"link" not in dict(headers)


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b'HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\nETag: "x"\r\n\r\n'),
    ],
)
async def test_answer_without_a_body_ends_with_its_head(
    door: Door, start: Callable, method: str, head: bytes
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(head)

    peer = await start(script)
    for _ in range(2):
        async with asyncio.timeout(5):
            _, headers, body = await door.fetch(peer.url, method=method)
        assert body == b""
        assert dict(headers).get(b"content-length") == (b"100" if b"100" in head else None)
    assert peer.connections == 1


async def test_packed_body_is_handed_over_as_it_came(door: Door, start: Callable) -> None:
    packed = gzip.compress(b"hello" * 100)

    async def script(exchange: Exchange) -> None:
        await exchange.reply(packed, (b"Content-Encoding", b"gzip"))

    peer = await start(script)
    _, headers, body = await door.fetch(peer.url)
    assert body == packed
    assert dict(headers)[b"content-encoding"] == b"gzip"


@pytest.mark.parametrize("size", [0, 1, 65_536, 3 * MEGABYTE])
async def test_body_goes_up_and_comes_back_whole(door: Door, start: Callable, size: int) -> None:
    peer = await start(echo)
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    _, _, body = await door.fetch(peer.url, method="POST", body=content)
    assert body == content


# What is said


async def test_forwarded_call_says_nothing_of_its_own(transport: str, start: Callable) -> None:
    peer = await start(echo)
    headers = (
        (b"x-b", b"2"),
        (b"accept", b"*/*"),
        (b"user-agent", b"browser"),
        (b"x-a", b"1"),
        (b"content-type", b"text/plain"),
    )
    async with client_of(transport) as client:
        await Door("open", client).fetch(peer.url, headers=headers)
    said = [(name.lower(), value) for name, value in peer.heads[0].headers]
    assert [pair for pair in said if pair[0] != b"host"] == list(headers)
    assert peer.heads[0].all(b"host") == [f"127.0.0.1:{peer.port}".encode()]


async def test_repeated_header_goes_up_as_several_lines(transport: str, start: Callable) -> None:
    peer = await start(echo)
    headers = ((b"x-b", b"2"), (b"x-a", b"1"), (b"x-b", b"3"), (b"x-b", b"2"))
    async with client_of(transport) as client:
        await Door("open", client).fetch(peer.url, headers=headers)
    assert peer.heads[0].all(b"x-b") == [b"2", b"3", b"2"]


async def test_own_call_names_the_gateway_and_asks_for_plain_bytes(transport: str, start: Callable) -> None:
    peer = await start(echo)
    async with client_of(transport) as client:
        await Door("http", client).fetch(peer.url)
    said = {name.lower(): value for name, value in peer.heads[0].headers}
    assert said == {
        b"host": f"127.0.0.1:{peer.port}".encode(),
        b"accept": b"*/*",
        b"accept-encoding": b"identity",
        b"user-agent": b"avatar-gateway",
    }


TARGETS = [
    b"/",
    b"//a//b/",
    b"/a%2fb%2Fc%7e~%41",
    b"/caf%c3%a9/%E4%b8%ad",
    b"/a?b=c&&=&b=%20+%27",
    b"/a?q='single'",
    b"/it's",
    b'/a|b{c}`^"<>',
    b'/a?x={"k":[1|2]}&y=`^\\',
    b"/a?",
    b"/a??b?",
    b"/a;v=1/(x)!$*,:@&=+",
    b"/100%/%zz?%",
    b"/[::1]/a",
    b"/x@127.0.0.1:1/",
    b"/...",
    b"/a/.hidden/b..",
]


@pytest.mark.parametrize("target", TARGETS)
async def test_target_travels_byte_for_byte(transport: str, start: Callable, target: bytes) -> None:
    peer = await start(echo)
    async with client_of(transport) as client:
        await Door("open", client).fetch(peer.url, target)
    assert peer.heads[0].target == target


@pytest.mark.parametrize("value", [b"caf\xe9", b"caf\xc3\xa9", b"\xff\xfe", "化身".encode(), b"a\tb"])
async def test_header_value_travels_byte_for_byte(transport: str, start: Callable, value: bytes) -> None:
    peer = await start(echo)
    async with client_of(transport) as client:
        await Door("open", client).fetch(peer.url, headers=((b"x-name", value),))
    assert peer.heads[0].all(b"x-name") == [value]


async def test_known_length_goes_up_as_content_length_and_once(door: Door, start: Callable) -> None:
    peer = await start(echo)
    headers = ((b"content-length", b"3"),) if door.name == "open" else ()
    await door.fetch(peer.url, method="POST", headers=headers, body=b"abc")
    assert peer.heads[0].all(b"content-length") == [b"3"]
    assert peer.heads[0].all(b"transfer-encoding") == []


class Chunks:
    """A body of given chunks."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = list(chunks)

    async def read(self) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""

    async def aclose(self) -> None:
        return None


@pytest.mark.parametrize("declared", [True, False])
async def test_streamed_body_keeps_its_framing(transport: str, start: Callable, declared: bool) -> None:
    peer = await start(echo)
    headers = ((b"content-length", b"6"),) if declared else ()
    async with client_of(transport) as client:
        _, _, body = await Door("open", client).fetch(
            peer.url, method="PUT", headers=headers, body=Chunks(b"abc", b"d", b"ef")
        )
    assert body == b"abcdef"
    assert peer.heads[0].all(b"content-length") == ([b"6"] if declared else [])
    assert peer.heads[0].all(b"transfer-encoding") == ([] if declared or transport == HTTP2 else [b"chunked"])


async def test_no_proxy_of_the_environment_is_used(
    transport: str, start: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, peer = await start(echo), await start(echo)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with client_of(transport) as client:
        for name in ("open", "http"):
            await Door(name, client).fetch(peer.url)
        # The few calls that take the other way out of the Rust client.
        await Door("open", client).fetch(peer.url, b"/?q='")
    assert (proxy.heads, len(peer.heads)) == ([], 3)


async def test_cookie_of_one_answer_is_not_sent_with_the_next_call(door: Door, start: Callable) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.reply(b"ok", (b"Set-Cookie", b"visitor=a; Path=/"), (b"Set-Cookie", b"b=2"))

    peer = await start(script)
    for _ in range(2):
        await door.fetch(peer.url)
    assert [head.get(b"cookie") for head in peer.heads] == [None, None]


# The table of meanings


def exceptions_of(module: ModuleType) -> list[type[Exception]]:
    return [
        kind
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__.split(".")[0] == module.__name__.split(".")[0]
    ]


FOREIGN = [*exceptions_of(httpx), *exceptions_of(pyreqwest)]


@pytest.mark.parametrize("kind", FOREIGN, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
async def test_every_exception_of_the_client_libraries_has_a_meaning(kind: type[Exception]) -> None:
    assert issubclass(MEANING[kind], GatewayError)


async def test_the_libraries_exceptions_are_found_at_all() -> None:
    assert {httpx.ConnectError, httpx.CookieConflict, pyreqwest.ConnectError} <= set(FOREIGN)
    assert len(FOREIGN) > 40


async def test_class_that_is_newer_than_the_table_means_what_its_parent_means() -> None:
    class NewConnectError(httpx.ConnectError):
        pass

    assert type(meaning_of(NewConnectError("x"))) is UpstreamRefused


@pytest.mark.parametrize("kind", [kind for kind in MEANING if not MEANING[kind].__dict__.get("sent", True)])
async def test_only_failures_to_connect_count_as_never_sent(kind: type[Exception]) -> None:
    assert "Connect" in kind.__name__


@pytest.mark.parametrize(
    "kind", sorted(set(MEANING.values()), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__
)
async def test_timeouts_are_called_so(kind: type[GatewayError]) -> None:
    assert ("timeout" in kind().msg) == (kind.status == 504)


async def test_every_gateway_timeout_has_its_own_code() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and getattr(k, "status", 0) == 504]
    assert len({kind.code for kind in kinds}) == len(kinds) == 4
    assert UpstreamGarbage not in kinds


async def test_front_door_without_limits_of_its_own_has_some(transport: str, start: Callable) -> None:
    peer = await start(echo)
    async with client_of(transport) as client:
        answer = await client.http.get(peer.url)
        assert answer.status_code == 200
        assert TIMEOUTS not in answer.request.extensions
