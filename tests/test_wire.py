"""The rules of the wire, each through a served gateway between raw sockets, on both transports."""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import pytest
import pytest_asyncio

from backend.services.forwarding import Upstream

from .support.gateway import Served, free_port, mount, serving, settings_for
from .support.peer import Exchange, Head, Peer, Script, until
from .support.wire import Caller, Pair, Reply, call, calling, unanswering

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEGABYTE = 1 << 20
OK = b"HTTP/1.1 200 OK\r\n"
CLOSE = (b"Connection", b"close")
ALL = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


async def echo(exchange: Exchange) -> None:
    await exchange.reply(await exchange.body())


async def silent(exchange: Exchange) -> None:
    await exchange.client_left()


@dataclass
class Wire:
    """A gateway with mounts before one scripted peer."""

    served: Served
    peer: Peer

    @property
    def port(self) -> int:
        return self.served.port

    @property
    def last(self) -> Head:
        return self.peer.heads[-1]

    @property
    def busy(self) -> int:
        return self.served.gateway.client.slots.in_use

    def play(self, script: Script) -> None:
        self.peer.script = script

    def say(self, *raw: bytes, then: str = "stay") -> None:
        """Let the peer answer with these bytes, then keep the connection, close or reset it."""

        async def script(exchange: Exchange) -> None:
            await exchange.body()
            for part in raw:
                await exchange.send(part)
            if then == "close":
                exchange.writer.close()
            elif then == "reset":
                exchange.reset()

        self.play(script)

    async def call(
        self, target: bytes = b"/open/a", *headers: Pair, method: bytes = b"GET", body: bytes | None = None
    ) -> Reply:
        return await call(self.port, target, *headers, method=method, body=body)

    def calling(self, **more: int) -> AbstractAsyncContextManager[Caller]:
        return calling(self.port, **more)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["direct", "reqwest", "httpx"])
async def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Wire]:
    async with Peer(echo) as peer:
        with unanswering() as dead:
            mounts = [
                mount("/open", peer.url, methods=[*ALL, "OPTIONS"]),
                mount("/again", peer.url, methods=ALL),
                mount("/cookies", peer.url, methods=ALL, cookies=True),
                mount("/signed", peer.url, methods=ALL, auth="required"),
                mount("/maybe", peer.url, methods=ALL, auth="optional"),
                mount("/small", peer.url, methods=ALL, max_body_mb=0.125),
                mount("/quick", peer.url, methods=ALL, timeout=0.3),
                mount("/based", peer.url + "/v1/base"),
                mount("/dead", f"http://127.0.0.1:{dead}", methods=ALL),
                mount("/refused", f"http://127.0.0.1:{free_port()}", methods=ALL),
            ]
            settings = settings_for(
                tmp_path_factory.mktemp(request.param),
                upstream_transport=request.param,
                gateway_connect_seconds=0.3,
                gateway_mounts=mounts,
            )
            async with serving(settings) as served:
                yield Wire(served, peer)


@pytest_asyncio.fixture(loop_scope="module")
async def wire(gateway: Wire) -> AsyncIterator[Wire]:
    """The gateway with a peer that echoes; every place is free again after the test."""
    gateway.play(echo)
    gateway.peer.heads.clear()
    # What one test's peer did wrong is not held against the next one's.
    gateway.served.gateway.forwarder.readmit(Upstream.at("peer", gateway.peer.url))
    yield gateway
    await until(lambda: gateway.busy == 0)


@pytest.fixture
def transport(gateway: Wire) -> str:
    return gateway.served.gateway.settings.upstream_transport


def error_of(reply: Reply, status: int, code: str) -> dict[str, object]:
    """Check that an answer is the error it should be, with nothing internal in it."""
    assert reply.status == status, reply
    assert reply.get(b"content-type") == b"application/json"
    shown = json.loads(reply.body)
    assert set(shown) == {"msg", "code", "request_id", "retryable"}
    assert shown["code"] == code
    assert shown["msg"]
    assert ("timeout" in str(shown["msg"])) == (status == 504)
    assert reply.get(b"x-request-id") == str(shown["request_id"]).encode()
    text = reply.body.decode() + repr(reply.headers)
    text = text.replace(str(shown["request_id"]), "")
    for internal in ("127.0.0.1", "localhost", "Error", "Errno", "Traceback", "reqwest", "httpx", "hyper"):
        assert internal not in text
    assert not re.search(r"\b\d{5}\b", text), "a port number"
    return shown


# Headers

HOP_BY_HOP: list[Pair] = [
    (b"Keep-Alive", b"timeout=5"),
    (b"Proxy-Connection", b"keep-alive"),
    (b"TE", b"trailers"),
    (b"Trailer", b"x-sum"),
    (b"Upgrade", b"websocket-not"),
    (b"Proxy-Authorization", b"Basic eA=="),
    (b"Proxy-Authenticate", b"Basic"),
]


async def test_hop_by_hop_headers_do_not_go_up(wire: Wire) -> None:
    await wire.call(
        b"/open/a", *HOP_BY_HOP, (b"Connection", b"close, X-Mine"), (b"X-Mine", b"1"), (b"X-Kept", b"2")
    )
    names = {name.lower() for name, _ in wire.last.headers}
    assert not names & ({name.lower() for name, _ in HOP_BY_HOP} | {b"x-mine", b"connection"})
    assert wire.last.get(b"x-kept") == b"2"


async def test_hop_by_hop_headers_do_not_come_back(wire: Wire) -> None:
    raw = b"".join(b"%b: %b\r\n" % pair for pair in HOP_BY_HOP if pair[0] not in (b"Upgrade",))
    wire.say(OK + raw + b"Connection: X-Mine\r\nX-Mine: 1\r\nX-Kept: 2\r\nContent-Length: 0\r\n\r\n")
    reply = await wire.call()
    names = {name for name, _ in reply.headers}
    assert not names & ({name.lower() for name, _ in HOP_BY_HOP} | {b"x-mine"})
    assert reply.get(b"x-kept") == b"2"


async def test_request_headers_keep_order_and_duplicates(wire: Wire) -> None:
    lines = [(b"X-B", b"2"), (b"X-A", b"1"), (b"X-C", b""), (b"Accept", b"a/b"), (b"User-Agent", b"me")]
    await wire.call(b"/open/a", *lines)
    sent = [(name.lower(), value) for name, value in wire.last.headers]
    assert [p for p in sent if p in [(n.lower(), v) for n, v in lines]] == [(n.lower(), v) for n, v in lines]
    await wire.call(b"/open/a", (b"X-B", b"2"), (b"X-A", b"1"), (b"X-B", b"3"), (b"X-B", b"2"))
    assert wire.last.all(b"x-b") == [b"2", b"3", b"2"]


async def test_answer_headers_keep_order_and_duplicates(wire: Wire) -> None:
    lines = [(b"x-b", b"2"), (b"x-b", b"1"), (b"x-a", b"1"), (b"warning", b"110"), (b"etag", b'"x"')]
    raw = b"".join(b"%b: %b\r\n" % pair for pair in lines)
    wire.say(OK + raw + b"Content-Length: 0\r\n\r\n")
    reply = await wire.call()
    assert [pair for pair in reply.headers if pair in lines] == lines


async def test_silent_client_is_announced_by_the_gateway_and_nothing_else(wire: Wire) -> None:
    await wire.call(b"/open/a")
    said = {name.lower(): value for name, value in wire.last.headers}
    assert len(said) == len(wire.last.headers)
    request_id = said.pop(b"x-request-id")
    assert re.fullmatch(rb"[0-9a-f]{32}", request_id)
    assert said == {
        b"host": f"127.0.0.1:{wire.peer.port}".encode(),
        b"accept": b"*/*",
        b"user-agent": b"avatar-gateway",
        b"x-forwarded-for": b"127.0.0.1",
        b"x-forwarded-proto": b"http",
        b"x-forwarded-host": b"gateway.test",
        b"via": b"1.1 avatar-gateway",
    }


async def test_gateway_adds_only_its_request_id_name_and_times_to_the_answer(wire: Wire) -> None:
    wire.say(OK + b"Content-Type: a/b\r\nDate: now\r\nContent-Length: 2\r\n\r\nok")
    reply = await wire.call()
    names = [name for name, _ in reply.headers]
    ours = [b"x-request-id", b"server-timing", b"server"]
    assert names == [b"content-type", b"date", b"content-length", *ours]


async def test_what_runs_behind_is_told_to_nobody(wire: Wire) -> None:
    hidden = [b"Server", b"X-Powered-By", b"Via", b"X-Request-ID", b"Access-Control-Allow-Origin"]
    raw = b"".join(b"%b: inner\r\n" % name for name in hidden)
    wire.say(OK + raw + b"Content-Length: 0\r\n\r\n")
    reply = await wire.call()
    assert b"inner" not in [value for _, value in reply.headers]


@pytest.mark.parametrize("value", [b"caf\xe9", b"caf\xc3\xa9", b"\xff\xfe\x80", "化身".encode()])
async def test_header_values_of_any_bytes_go_up_as_they_are(wire: Wire, value: bytes) -> None:
    await wire.call(b"/open/a", (b"X-Name", value))
    assert wire.last.all(b"x-name") == [value]


FORGED = [
    b"Forwarded",
    b"Via",
    b"X-Forwarded-For",
    b"X-Forwarded-Host",
    b"X-Forwarded-Port",
    b"X-Forwarded-Prefix",
    b"X-Forwarded-Proto",
    b"X-Forwarded-Server",
    b"X-Original-URL",
    b"X-Real-IP",
    b"X-Rewrite-URL",
]


async def test_word_of_where_a_call_came_from_is_never_taken_from_outside(wire: Wire) -> None:
    await wire.call(b"/open/a", *[(name, b"6.6.6.6") for name in FORGED * 2])
    assert b"6.6.6.6" not in [value for _, value in wire.last.headers]
    assert wire.last.all(b"x-forwarded-for") == [b"127.0.0.1"]
    assert wire.last.all(b"via") == [b"1.1 avatar-gateway"]


async def test_good_request_id_goes_through_and_back(wire: Wire) -> None:
    reply = await wire.call(b"/open/a", (b"X-Request-ID", b"browser-0001"))
    assert wire.last.all(b"x-request-id") == [b"browser-0001"]
    assert reply.all(b"x-request-id") == [b"browser-0001"]


@pytest.mark.parametrize(
    "value", [b"", b"short", b"x" * 200, b"<script>alert(1)</script>", b"a b c d e f", b"\xe9" * 12]
)
async def test_hostile_request_id_is_replaced(wire: Wire, value: bytes) -> None:
    reply = await wire.call(b"/open/a", (b"X-Request-ID", value))
    (made,) = wire.last.all(b"x-request-id")
    assert re.fullmatch(rb"[0-9a-f]{32}", made)
    assert reply.all(b"x-request-id") == [made]


@pytest.mark.parametrize("host", [b"evil.test", b"127.0.0.1:1", b"[::1]:80", b"a-b.test:80"])
async def test_host_header_never_steers(wire: Wire, host: bytes) -> None:
    reply = await wire.call(b"/open/a", (b"Host", host), (b"X-Forwarded-Host", b"evil.test"))
    assert reply.status == 200
    assert wire.last.all(b"host") == [f"127.0.0.1:{wire.peer.port}".encode()]
    assert wire.last.all(b"x-forwarded-host") == [host]


# Targets


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"/",
        b"//",
        b"//a",
        b"/a//b///",
        b"/a%2fb%2Fc%7e~%41%2D",
        b"/caf%c3%a9/%ff",
        b"/it's?q='single'",
        b'/a|b{c}`^"<>[]',
        b'/a?x={"k":[1|2]}&y=`^\\&z=../..',
        b"/a?b=c&&=&b=%20+%27%00",
        b"/a??b?",
        b"/a;v=1/(x)!$*,:@&=+",
        b"/100%/%zz?%",
        b"/x@127.0.0.1:1/",
        b"/...",
        b"/a/.hidden/b..",
        b"/" + b"a" * 8000 + b"?" + b"b" * 8000,
    ],
)
async def test_target_travels_byte_for_byte(wire: Wire, target: bytes) -> None:
    assert (await wire.call(b"/open" + target)).status == 200
    assert wire.last.target == (target or b"/")


async def test_base_path_of_the_upstream_is_kept(wire: Wire) -> None:
    await wire.call(b"/based/a%2fb?c=d")
    await wire.call(b"/based")
    assert [head.target for head in wire.peer.heads] == [b"/v1/base/a%2fb?c=d", b"/v1/base/"]


DOTS = [
    ".",
    "..",
    "%2e",
    "%2E",
    ".%2e",
    "%2e.",
    "%2e%2E",
    "%252e%252e",
    "%25252e.",
    "%2525252e",
    "..%2f",
    "..%5c",
]


@pytest.mark.parametrize("dots", DOTS)
@pytest.mark.parametrize("shape", ["/open/{}", "/open/a/{}/b", "/open/{};x/b", "/{}/open/a", "/open%2f{}/b"])
async def test_dot_segments_are_refused_in_every_encoding(wire: Wire, dots: str, shape: str) -> None:
    error_of(await wire.call(shape.format(dots).encode()), 400, "bad_target")
    assert wire.peer.heads == []


@pytest.mark.parametrize(
    "target",
    [
        b"/open/a\\b",
        b"/open/a%5cb",
        b"/open/a%255cb",
        b"/open/a%00b",
        b"/open/a%2500b",
        b"/open/a%0d%0ab",
        b"/open/a%7fb",
        b"/open/a%1fb",
        b"/open/%c0%ae%c0%ae/b",
        b"/open/a#b",
        b"/open/a?b#c",
        b"http://gateway.test/open/a",
        b"http://127.0.0.1:1/",
        b"gateway.test:80",
        b"*",
        b"open/a",
        b"?a",
    ],
)
async def test_targets_that_could_mean_two_things_are_refused(wire: Wire, target: bytes) -> None:
    error_of(await wire.call(target), 400, "bad_target")
    assert wire.peer.heads == []


@pytest.mark.parametrize("target", [b"/open/a\x00b", b"/open/a\x7fb", b"/open/a\xe9", b"/open/a\tb"])
async def test_raw_bytes_that_no_target_may_hold_are_refused_by_the_server(wire: Wire, target: bytes) -> None:
    async with wire.calling() as caller:
        await caller.ask(target)
        assert (await caller.reply()).status == 400
    assert wire.peer.heads == []


@pytest.mark.parametrize("method", [b"CONNECT", b"OPTIONS"])
async def test_authority_and_asterisk_forms_are_refused(wire: Wire, method: bytes) -> None:
    target = b"127.0.0.1:80" if method == b"CONNECT" else b"*"
    error_of(await wire.call(target, method=method), 400, "bad_target")


async def test_encoded_slash_after_the_prefix_never_names_another_host(wire: Wire) -> None:
    async with Peer(echo) as elsewhere:
        for target in (b"/open%%2fx@127.0.0.1:%d/a", b"/open%%2F@127.0.0.1:%d/"):
            error_of(await wire.call(target % elsewhere.port), 404, "not_found")
        assert (elsewhere.connections, wire.peer.heads) == (0, [])


async def test_prefix_that_only_begins_like_a_mount_is_none(wire: Wire) -> None:
    for target in (b"/opening", b"/%6fpen/a", b"//open/a"):
        error_of(await wire.call(target), 404, "not_found")
    assert wire.peer.heads == []


async def test_mounts_whose_names_differ_in_one_sign_live_side_by_side(wire: Wire, tmp_path) -> None:
    prefixes = ["/a/b", "/a_b", "/a.b", "/a-b"]
    mounts = [mount(prefix, wire.peer.url) for prefix in prefixes]
    async with serving(settings_for(tmp_path, gateway_mounts=mounts)) as served:
        for prefix in prefixes:
            assert (await call(served.port, prefix.encode() + b"/x")).status == 200


# Credentials


@pytest.mark.parametrize("prefix", [b"/signed", b"/maybe"])
async def test_checked_token_ends_at_the_gateway(wire: Wire, prefix: bytes) -> None:
    token = (await wire.served.token()).encode()
    reply = await wire.call(prefix + b"/a", (b"Authorization", b"Bearer " + token))
    assert reply.status == 200
    assert wire.last.get(b"authorization") is None
    assert token not in b"".join(value for _, value in wire.last.headers)


async def test_token_passes_where_nobody_looked_at_it(wire: Wire) -> None:
    await wire.call(b"/open/a", (b"Authorization", b"Basic eA=="))
    assert wire.last.all(b"authorization") == [b"Basic eA=="]


async def test_mount_that_needs_a_token_asks_for_one(wire: Wire) -> None:
    error_of(await wire.call(b"/signed/a"), 401, "not_authenticated")
    error_of(await wire.call(b"/signed/a", (b"Authorization", b"Bearer x")), 401, "not_authenticated")
    error_of(await wire.call(b"/maybe/a", (b"Authorization", b"Bearer x")), 401, "not_authenticated")
    assert wire.peer.heads == []
    assert (await wire.call(b"/maybe/a")).status == 200


COOKIES = OK + (
    b"Set-Cookie: a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n"
)


async def test_cookies_pass_both_ways_on_a_mount_that_says_so(wire: Wire) -> None:
    wire.say(COOKIES)
    reply = await wire.call(b"/cookies/a", (b"Cookie", b"c=3"))
    assert wire.last.all(b"cookie") == [b"c=3"]
    assert reply.all(b"set-cookie") == [b"a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT", b"b=2"]


@pytest.mark.parametrize("prefix", [b"/open", b"/maybe"])
async def test_cookies_pass_neither_way_elsewhere(wire: Wire, prefix: bytes) -> None:
    wire.say(COOKIES)
    reply = await wire.call(prefix + b"/a", (b"Cookie", b"c=3"))
    assert wire.last.all(b"cookie") == []
    assert reply.all(b"set-cookie") == []


async def test_second_visitor_does_not_get_first_visitors_cookie(wire: Wire) -> None:
    wire.say(COOKIES)
    for _ in range(3):
        await wire.call(b"/cookies/a")
    await wire.served.gateway.client.http.get(wire.peer.url)
    await wire.served.gateway.client.http.get(wire.peer.url)
    assert [head.get(b"cookie") for head in wire.peer.heads] == [None] * 5


# Bodies


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3 * MEGABYTE])
@pytest.mark.parametrize("chunked", [False, True])
async def test_body_goes_up_and_comes_back_whole(wire: Wire, size: int, chunked: bool) -> None:
    content = (bytes(range(256)) * (size // 256 + 1))[:size]
    if chunked:
        framed = b"%x\r\n%b\r\n" % (size, content) if size else b""
        line = (b"Transfer-Encoding", b"chunked")
        reply = await wire.call(b"/open/a", line, method=b"POST", body=framed + b"0\r\n\r\n")
    else:
        reply = await wire.call(b"/open/a", method=b"POST", body=content)
    assert reply.body == content
    assert reply.complete
    assert (wire.last.get(b"content-length") is None) == chunked
    assert (wire.last.get(b"transfer-encoding") == b"chunked") == chunked


async def test_length_is_kept_when_known_and_chunked_when_not(wire: Wire) -> None:
    reply = await wire.call(b"/open/a", method=b"POST", body=b"abc")
    assert reply.all(b"content-length") == [b"3"]
    assert reply.all(b"transfer-encoding") == []
    wire.say(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    reply = await wire.call()
    assert (reply.all(b"content-length"), reply.all(b"transfer-encoding")) == ([], [b"chunked"])
    assert reply.body == b"ok"
    wire.say(OK + b"\r\nuntil closed", then="close")
    reply = await wire.call()
    assert (reply.all(b"transfer-encoding"), reply.body) == ([b"chunked"], b"until closed")


async def test_packed_body_and_its_header_pass_untouched(wire: Wire) -> None:
    packed = gzip.compress(b"hello" * 1000)
    wire.say(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed)
    for wanted in ((), ((b"Accept-Encoding", b"gzip, br;q=0.1"),)):
        reply = await wire.call(b"/open/a", *wanted)
        assert reply.body == packed
        assert reply.get(b"content-encoding") == b"gzip"
        assert wire.last.all(b"accept-encoding") == [value for _, value in wanted]


async def test_packed_request_body_passes_untouched(wire: Wire) -> None:
    packed = gzip.compress(b"hello" * 1000)
    reply = await wire.call(b"/open/a", (b"Content-Encoding", b"gzip"), method=b"POST", body=packed)
    assert reply.body == packed
    assert wire.last.get(b"content-encoding") == b"gzip"


@pytest.mark.parametrize(
    ("method", "head"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"POST", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n'),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
    ],
)
async def test_answers_without_a_body_have_none_and_keep_the_connection(
    wire: Wire, method: bytes, head: bytes
) -> None:
    wire.say(head)
    async with wire.calling() as caller:
        for _ in range(2):
            await caller.ask(b"/open/a", method=method, body=b"" if method == b"POST" else None)
            reply = await caller.reply(method)
            assert reply.status == int(head[9:12])
            assert reply.get(b"transfer-encoding") is None
            if method == b"HEAD":
                assert reply.get(b"content-length") == head.split(b": ")[1].split(b"\r\n")[0]
        wire.play(echo)
        await caller.ask(b"/open/a", method=b"POST", body=b"next")
        assert (await caller.reply()).body == b"next"


async def test_ranges_pass(wire: Wire) -> None:
    wire.say(
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-4/10\r\nAccept-Ranges: bytes\r\n"
        b"Content-Length: 3\r\n\r\ncde"
    )
    reply = await wire.call(b"/open/a", (b"Range", b"bytes=2-4"), (b"If-Range", b'"x"'))
    assert (reply.status, reply.body) == (206, b"cde")
    assert (reply.get(b"content-range"), reply.get(b"accept-ranges")) == (b"bytes 2-4/10", b"bytes")
    assert (wire.last.get(b"range"), wire.last.get(b"if-range")) == (b"bytes=2-4", b'"x"')


async def test_client_that_waits_for_leave_to_send_gets_it(wire: Wire) -> None:
    async with wire.calling() as caller:
        await caller.ask(b"/open/a", (b"Expect", b"100-continue"), (b"Content-Length", b"3"), method=b"POST")
        assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 \r\n\r\n"
        await caller.say(b"abc")
        assert (await caller.reply()).body == b"abc"
    assert wire.last.get(b"expect") is None


async def test_interim_answers_of_the_upstream_do_not_confuse_the_final_one(wire: Wire) -> None:
    wire.say(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        OK + b"Content-Length: 2\r\n\r\nok",
    )
    reply = await wire.call()
    assert (reply.status, reply.body, reply.get(b"link")) == (200, b"ok", None)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_redirects_are_relayed(wire: Wire, status: int) -> None:
    wire.say(b"HTTP/1.1 %d Go\r\nLocation: http://else.test/a?b\r\nContent-Length: 0\r\n\r\n" % status)
    reply = await wire.call()
    assert (reply.status, reply.get(b"location")) == (status, b"http://else.test/a?b")
    assert len(wire.peer.heads) == 1


@pytest.mark.parametrize("status", [200, 201, 299, 400, 401, 404, 418, 429, 500, 502, 503, 599])
async def test_any_final_status_is_relayed_with_its_body(wire: Wire, status: int) -> None:
    wire.say(b"HTTP/1.1 %d Word\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno" % status)
    reply = await wire.call()
    assert (reply.status, reply.body, reply.get(b"retry-after")) == (status, b"no", b"7")


async def test_first_event_arrives_before_the_second_is_sent(wire: Wire) -> None:
    arrived = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        await exchange.send(b"9\r\ndata: 1\n\n\r\n")
        await arrived.wait()
        await exchange.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    wire.play(script)
    async with wire.calling() as caller:
        await caller.ask(b"/open/events")
        await caller.head()
        assert await caller.chunk() == b"data: 1\n\n"
        arrived.set()
        assert await caller.chunk() == b"data: 2\n\n"
        assert await caller.chunk() == b""


async def test_part_of_an_upload_arrives_before_the_next_is_sent(wire: Wire) -> None:
    first = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        parts = [await exchange.chunk()]
        first.set()
        while chunk := await exchange.chunk():
            parts.append(chunk)
        await exchange.reply(b"|".join(parts))

    wire.play(script)
    async with wire.calling() as caller:
        await caller.ask(b"/open/a", (b"Transfer-Encoding", b"chunked"), method=b"POST")
        await caller.say(b"3\r\nabc\r\n")
        async with asyncio.timeout(5):
            await first.wait()
        await caller.say(b"3\r\ndef\r\n0\r\n\r\n")
        assert (await caller.reply()).body == b"abc|def"


# Backpressure

BIG = 64 * MEGABYTE


async def settled(value: Callable[[], int]) -> int:
    """Wait until a number has not moved for a while, and return it."""
    before, still = value(), 0
    async with asyncio.timeout(15):
        while still < 15:
            await asyncio.sleep(0.02)
            still = still + 1 if value() == before else 0
            before = value()
    return before


async def test_download_waits_for_a_client_that_does_not_read(wire: Wire) -> None:
    sent = 0

    async def script(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(OK + b"Content-Length: %d\r\n\r\n" % BIG)
        while sent < BIG:
            await exchange.send(bytes(MEGABYTE))
            sent += MEGABYTE

    wire.play(script)
    async with wire.calling(receive_buffer=65_536) as caller:
        await caller.ask(b"/open/a")
        await caller.head()
        assert 0 < await settled(lambda: sent) < BIG // 2
        taken = 0
        while taken < BIG:
            taken += len(await caller.reader.read(MEGABYTE))
        assert taken == sent == BIG


async def test_upload_waits_for_an_upstream_that_does_not_read(wire: Wire) -> None:
    go, got, sent = asyncio.Event(), 0, 0

    async def script(exchange: Exchange) -> None:
        nonlocal got
        await go.wait()
        while got < BIG:
            got += len(await exchange.reader.read(MEGABYTE))
        await exchange.reply(b"%d" % got)

    wire.play(script)
    async with wire.calling() as caller:
        await caller.ask(b"/open/a", (b"Content-Length", b"%d" % BIG), method=b"POST")

        async def push() -> None:
            nonlocal sent
            while sent < BIG:
                await caller.say(bytes(MEGABYTE // 4))
                sent += MEGABYTE // 4

        pushing = asyncio.create_task(push())
        assert 0 < await settled(lambda: sent) < BIG // 2
        go.set()
        assert (await caller.reply()).body == b"%d" % BIG
        await pushing


# The client leaves


async def leave(caller: Caller, how: str) -> None:
    if how == "reset":
        caller.reset()
    else:
        await caller.leave()


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_client_that_leaves_while_waiting_frees_its_place(wire: Wire, transport: str, how: str) -> None:
    wire.play(silent)
    before, standing = asyncio.all_tasks(), wire.peer.open
    async with wire.calling() as caller:
        await caller.ask(b"/open/a")
        await until(lambda: len(wire.peer.heads) == 1 and wire.busy == 1)
        await leave(caller, how)
        await until(lambda: wire.busy == 0, 1)
        if transport != "reqwest":  # pyreqwest 0.15 ends the call only when the upstream answers
            await until(lambda: wire.peer.open <= standing, 1)
    if transport != "reqwest":
        await until(lambda: not new_tasks(before))


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_client_that_leaves_midway_ends_the_upstream_call(wire: Wire, how: str) -> None:
    left = asyncio.Event()
    before = asyncio.all_tasks()

    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await exchange.client_left()
        left.set()

    wire.play(script)
    async with wire.calling() as caller:
        await caller.ask(b"/open/a")
        await caller.head()
        assert await caller.chunk() == b"abc"
        await leave(caller, how)
        async with asyncio.timeout(1):
            await left.wait()
        await until(lambda: wire.busy == 0, 1)
    await until(lambda: not new_tasks(before))


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("framing", [(b"Content-Length", b"1000000"), (b"Transfer-Encoding", b"chunked")])
async def test_client_that_leaves_while_uploading_ends_the_upstream_call(
    wire: Wire, how: str, framing: Pair
) -> None:
    arrived, left = asyncio.Event(), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        try:
            await exchange.reader.read(1)
            arrived.set()
            await exchange.client_left()
        finally:
            left.set()

    wire.play(script)
    async with wire.calling() as caller:
        await caller.ask(b"/open/a", framing, method=b"POST")
        await caller.say(b"5\r\nhello\r\n" if framing[1] == b"chunked" else b"hello")
        async with asyncio.timeout(5):
            await arrived.wait()
        await leave(caller, how)
        async with asyncio.timeout(1):
            await left.wait()
        await until(lambda: wire.busy == 0, 1)


async def test_client_that_left_is_logged_as_499_and_not_as_an_error(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    wire.play(silent)
    with caplog.at_level("INFO", "gateway"):
        async with wire.calling() as caller:
            await caller.ask(b"/open/gone")
            await until(lambda: len(wire.peer.heads) == 1 and wire.busy == 1)
            await caller.leave()
        await until(lambda: any("499" in line for line in caplog.messages), 2)
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


def new_tasks(before: set["asyncio.Task[object]"]) -> list["asyncio.Task[object]"]:
    """Tasks of the gateway that were not there; those of open connections are the server's and the peer's."""
    return [
        task
        for task in asyncio.all_tasks() - before
        if not re.search(r"TCPServer|Peer\._connected|_ConnectionWorker|_run_idle|TaskGroup", repr(task))
    ]


# The upstream breaks


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize(
    "begun",
    [
        b"Content-Length: 10\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n9\r\nhello",
    ],
)
async def test_truncated_answer_never_looks_complete(wire: Wire, begun: bytes, then: str) -> None:
    seen = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + begun)
        await seen.wait()
        if then == "reset":
            exchange.reset()
        else:
            exchange.writer.close()

    wire.play(script)
    async with wire.calling() as caller:
        await caller.ask(b"/open/a")
        reply = await caller.head()
        chunked = reply.get(b"transfer-encoding") == b"chunked"
        assert await (caller.chunk() if chunked else caller.reader.readexactly(5)) == b"hello"
        seen.set()
        async with asyncio.timeout(5):
            rest = await caller.reader.read(-1)
    assert rest == b""


async def test_answer_that_stops_breaks_off_in_time(wire: Wire) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + b"Content-Length: 10\r\n\r\nhello")
        await exchange.client_left()

    wire.play(script)
    reply = await wire.call(b"/quick/a")
    assert (reply.status, reply.body, reply.complete) == (200, b"hello", False)


ENDLESS = OK + b"X-Long: " + b"x" * (2 * MEGABYTE)
GARBAGE = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "binary": bytes(range(256)) * 4,
    "HTTP/0.9": b"<html>hello</html>",
    "no status": b"HTTP/1.1\r\n\r\n",
    "two content lengths": OK + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nhello",
    "header without colon": OK + b"no colon here\r\nContent-Length: 0\r\n\r\n",
    "NUL in a header": OK + b"X-Nul: a\0b\r\nContent-Length: 0\r\n\r\n",
    "endless header": ENDLESS,
    "cut head": OK + b"Content-",
    "nothing": b"",
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("then", ["close", "reset"])
async def test_garbage_is_a_502_that_tells_nothing(wire: Wire, answer: bytes, then: str) -> None:
    wire.say(answer, then=then)
    reply = await wire.call(b"/open/a", method=b"POST", body=b"x")
    error_of(reply, 502, str(json.loads(reply.body)["code"]))
    assert len(wire.peer.heads) == 1


async def test_refused_connection_is_a_502_that_may_be_repeated(wire: Wire) -> None:
    shown = error_of(await wire.call(b"/refused/a", method=b"POST", body=b"x"), 502, "upstream_refused")
    assert shown["retryable"] is True


async def test_handshake_that_hangs_is_its_own_504(wire: Wire) -> None:
    error_of(await wire.call(b"/dead/a", method=b"POST", body=b"x"), 504, "upstream_connect_timeout")


async def test_silence_is_its_own_504(wire: Wire) -> None:
    wire.play(silent)
    shown = error_of(await wire.call(b"/quick/a"), 504, "upstream_first_byte_timeout")
    assert shown["retryable"] is False
    assert len(wire.peer.heads) == 1


async def test_head_that_trickles_is_a_504(wire: Wire) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(OK)
        while not exchange.writer.is_closing():
            await exchange.send(b"X-A: 1\r\n")
            await asyncio.sleep(0.05)

    wire.play(script)
    error_of(await wire.call(b"/quick/a"), 504, "upstream_first_byte_timeout")


async def test_body_that_trickles_steadily_is_not_cut(wire: Wire) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + b"Content-Length: 10\r\n\r\n")
        for _ in range(10):
            await exchange.send(b"x")
            await asyncio.sleep(0.06)

    wire.play(script)
    reply = await wire.call(b"/quick/a")
    assert (reply.body, reply.complete) == (b"x" * 10, True)


# Trying again


async def test_get_whose_kept_connection_was_reset_is_tried_once_more(wire: Wire) -> None:
    await wire.call(b"/again/a")
    wire.play(resets_first())
    reply = await wire.call(b"/again/a")
    assert (reply.status, reply.get(b"x-upstream-attempts")) == (200, b"2")
    assert len(wire.peer.heads) == 3


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_post_is_never_sent_twice(wire: Wire, how: str) -> None:
    await wire.call(b"/again/a", method=b"POST", body=b"warm")
    wire.peer.heads.clear()
    wire.say(then=how)
    reply = await wire.call(b"/again/a", method=b"POST", body=b"x")
    error_of(reply, 502, "upstream_broken")
    assert len(wire.peer.heads) == 1


def resets_first() -> Script:
    done: list[bool] = []

    async def script(exchange: Exchange) -> None:
        if done:
            await echo(exchange)
        else:
            done.append(True)
            exchange.reset()

    return script


# Limits of bodies


async def test_declared_length_over_the_limit_is_refused_before_anything_goes_up(wire: Wire) -> None:
    connections = wire.peer.connections
    async with wire.calling() as caller:
        await caller.ask(b"/small/a", (b"Content-Length", b"131073"), method=b"POST")
        shown = error_of(await caller.reply(), 413, "too_large")
    assert "128 KB" in str(shown["msg"])
    assert (wire.peer.heads, wire.peer.connections) == ([], connections)


async def test_chunked_body_over_the_limit_is_refused_while_it_comes(wire: Wire) -> None:
    whole: list[bytes] = []
    ended = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        try:
            whole.append(await exchange.body())
        finally:
            ended.set()

    wire.play(script)
    async with wire.calling() as caller:
        await caller.ask(b"/small/a", (b"Transfer-Encoding", b"chunked"), method=b"POST")
        for _ in range(3):
            await caller.say(b"10000\r\n" + bytes(65_536) + b"\r\n")
        error_of(await caller.reply(), 413, "too_large")
    async with asyncio.timeout(5):
        await ended.wait()
    assert whole == []


async def test_body_of_exactly_the_limit_passes(wire: Wire) -> None:
    reply = await wire.call(b"/small/a", method=b"POST", body=bytes(131_072))
    assert len(reply.body) == 131_072


# Pool


async def test_full_pool_is_a_503_that_says_when_to_come_back(tmp_path, wire: Wire, transport: str) -> None:
    async with Peer(silent) as peer:
        settings = settings_for(
            tmp_path,
            upstream_transport=transport,
            upstream_max_connections=2,
            gateway_pool_waiting=1,
            gateway_pool_wait_seconds=0.3,
            gateway_mounts=[mount("/m", peer.url)],
        )
        async with serving(settings) as served, asyncio.TaskGroup() as group:
            slots = served.gateway.client.slots
            holders = [group.create_task(call(served.port, b"/m/a")) for _ in range(2)]
            await until(lambda: slots.in_use == 2 and len(peer.heads) == 2)
            # One may wait, and waits in vain; the other is refused at once.
            more = [group.create_task(call(served.port, b"/m/a")) for _ in range(2)]
            for reply in await asyncio.gather(*more):
                error_of(reply, 503, "overloaded")
                assert int(reply.get(b"retry-after") or b"0") >= 1
            assert len(peer.heads) == 2
            for holder in holders:
                holder.cancel()
            await until(lambda: slots.in_use == 0)


# Connections


async def test_consecutive_calls_share_one_connection(tmp_path, wire: Wire, transport: str) -> None:
    framed = [
        b"Content-Length: 2\r\n\r\nok",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"Content-Length: 0\r\n\r\n",
    ]

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.send(OK + framed[exchange.number % 3])

    async with Peer(script) as peer:
        mounts = [mount("/m", peer.url, methods=ALL)]
        settings = settings_for(tmp_path, upstream_transport=transport, gateway_mounts=mounts)
        async with serving(settings) as served:
            for number in range(9):
                method, body = (b"POST", b"x" * number * 20_000) if number % 2 else (b"GET", None)
                assert (await call(served.port, b"/m/a", method=method, body=body)).complete
        assert (len(peer.heads), peer.connections) == (9, 1)


async def test_many_calls_run_side_by_side(wire: Wire) -> None:
    async def script(exchange: Exchange) -> None:
        await until(lambda: len(wire.peer.heads) >= 100, 15)
        await exchange.reply(b"ok")

    wire.play(script)
    replies = await asyncio.gather(*(wire.call() for _ in range(100)))
    assert {reply.body for reply in replies} == {b"ok"}


async def test_proxy_of_the_environment_is_ignored(
    tmp_path, wire: Wire, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Peer(echo) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        settings = settings_for(
            tmp_path, upstream_transport=transport, gateway_mounts=[mount("/m", wire.peer.url)]
        )
        async with serving(settings) as served:
            assert (await call(served.port, b"/m/a")).status == 200
            assert (await call(served.port, b"/m/it's?'")).status == 200
        assert proxy.connections == 0
