"""Headers, targets and credentials through a served gateway between raw sockets, on each transport."""

import re
from pathlib import Path

import pytest

from tests.support.gateway import mount, serving, settings_for
from tests.support.mounted import OK, Wire, error_of, gateway, transport, wire
from tests.support.peer import Peer, echo
from tests.support.wire import Pair, call

__all__ = ["gateway", "transport", "wire"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

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


async def test_mounts_whose_names_differ_in_one_sign_live_side_by_side(wire: Wire, tmp_path: Path) -> None:
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
