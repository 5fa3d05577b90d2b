"""The grammar of request heads, by hand and beside two other parsers."""

import h11
import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backend.clients.head import MOST_FIELDS, TARGET_BYTES, Refused, RequestHead, check_beginning, parse

HOST = b"Host: x\r\n"


def head(*lines: bytes, line: bytes = b"GET /a HTTP/1.1") -> bytes:
    return b"\r\n".join((line, b"Host: x", *lines, b"", b""))


def test_names_are_lowered_values_trimmed_order_and_duplicates_kept() -> None:
    got = parse(head(b"X-B:  1 2\t ", b"x-a:", b"X-b: \xff"))
    assert got.headers == [(b"host", b"x"), (b"x-b", b"1 2"), (b"x-a", b""), (b"x-b", b"\xff")]


def test_target_and_method_are_taken_as_they_are() -> None:
    got = parse(head(line=b"post /%2F?a=%20&b HTTP/1.0"))
    assert (got.method, got.target, got.http_version) == ("POST", b"/%2F?a=%20&b", "1.0")


@pytest.mark.parametrize(
    ("lines", "length"),
    [([], 0), ([b"Content-Length: 12"], 12), ([b"Transfer-Encoding: Chunked"], None)],
)
def test_length_of_the_body(lines: list[bytes], length: int | None) -> None:
    assert parse(head(*lines)).length == length


@pytest.mark.parametrize(
    ("version", "lines", "stays_open"),
    [
        (b"1.1", [], True),
        (b"1.1", [b"Connection: foo , CLOSE"], False),
        (b"1.1", [b"Connection: foo", b"Connection: close"], False),
        (b"1.0", [], False),
        (b"1.0", [b"Connection: Keep-Alive"], True),
        (b"1.0", [b"Connection: keep-alive, close"], False),
    ],
)
def test_connection_stays_open_as_the_version_and_the_client_say(
    version: bytes, lines: list[bytes], stays_open: bool
) -> None:
    assert parse(head(*lines, line=b"GET / HTTP/" + version)).stays_open is stays_open


def test_connect_ends_its_connection() -> None:
    assert parse(head(line=b"CONNECT x:80 HTTP/1.1")).stays_open is False


@pytest.mark.parametrize(
    ("lines", "expects"),
    [
        ([b"Expect: 100-Continue", b"Content-Length: 1"], True),
        ([b"Expect: 100-continue"], False),
        ([b"Expect: else", b"Content-Length: 1"], False),
    ],
)
def test_client_that_waits_for_leave_to_send(lines: list[bytes], expects: bool) -> None:
    assert parse(head(*lines)).expects_continue is expects


def test_websocket_is_asked_for() -> None:
    assert parse(head(b"Upgrade: WebSocket", b"Connection: keep-alive, Upgrade")).upgrades


def test_websocket_is_not_spoken_over_http_1_0() -> None:
    lines = (b"Upgrade: websocket", b"Connection: upgrade")
    assert not parse(head(*lines, line=b"GET / HTTP/1.0")).upgrades


def test_http2_preface_is_left_to_hypercorn() -> None:
    assert parse(b"PRI * HTTP/2.0\r\n\r\n").foreign


@pytest.mark.parametrize(
    "lines",
    [
        [b"Upgrade: websocket"],
        [b"Upgrade: else", b"Connection: upgrade"],
        [b"Upgrade: h2c", b"Connection: upgrade"],
    ],
)
def test_upgrades_that_nobody_knows_are_ignored(lines: list[bytes]) -> None:
    assert not parse(head(*lines)).upgrades


def test_websocket_handshake_has_no_body() -> None:
    with pytest.raises(Refused):
        parse(head(b"Upgrade: websocket", b"Connection: upgrade", b"Content-Length: 1"))


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (head(*(b"x: 1" for _ in range(MOST_FIELDS))), 431),
        (head(line=b"GET /" + b"a" * TARGET_BYTES + b" HTTP/1.1"), 414),
        (head(line=b"GET / HTTP/2.0"), 505),
        (head(line=b"GET / HTTP/1.2"), 505),
        (head(line=b"GET / HTTP/11"), 400),
        (head(line=b"GET /"), 400),
    ],
)
def test_limits_and_versions_have_statuses_of_their_own(raw: bytes, status: int) -> None:
    with pytest.raises(Refused) as refused:
        parse(raw)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\nx" + b"a" * 100, 431),
        (b"GET /" + b"a" * 100, 414),
        (b"GET / HTTP/1.1\nHost", 400),
        (b"GET / HTTP/1.1\r\nHo\rst", 400),
        (b"\x16\x03", 400),
        (b"\r\n", 400),
    ],
)
def test_beginning_that_can_become_no_head_is_refused_at_once(raw: bytes, status: int) -> None:
    with pytest.raises(Refused) as refused:
        check_beginning(raw, 0, 100)
    assert refused.value.status == status


@pytest.mark.parametrize("raw", [b"", b"G", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_beginning_that_may_become_a_head_is_waited_for(raw: bytes) -> None:
    check_beginning(raw, 0, 100)


# Beside h11 (which served before) and llhttp: what one of them refuses is refused here, too.

PIECES = st.sampled_from(
    [
        b"Content-Length: 3\r\n",
        b"Content-Length: 03\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Connection: keep-alive\r\n",
        b"Expect: 100-continue\r\n",
        b"X: a b\tc \r\n",
        b"X:\xff\r\n",
        b" folded\r\n",
        HOST,
        b"x:\r\n",
    ]
)
LINES = st.sampled_from(
    [
        b"GET / HTTP/1.1",
        b"POST /a?b HTTP/1.1",
        b"GET http://x/ HTTP/1.1",
        b"PUT /\xe9 HTTP/1.0",
        b"GET * HTTP/1.1",
    ]
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A head, most often right, with a few bytes changed."""
    raw = bytearray(draw(LINES) + b"\r\n" + HOST + b"".join(draw(st.lists(PIECES, max_size=4))))
    special = st.sampled_from([bytes([n]) for n in range(256)] + [b"\r\n", b"", b"\r\n ", b": ", b",5"])
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(raw)))
        raw[at : at + draw(st.integers(0, 2))] = draw(special)
    return bytes(raw) + b"\r\n"


def parsed(raw: bytes) -> RequestHead | None:
    try:
        return parse(raw)
    except Refused:
        return None


def by_h11(raw: bytes) -> h11.Request | None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(raw) + 1)
    connection.receive_data(raw)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


class ByLlhttp:
    """What llhttp makes of a head; `whole` when it took all of it."""

    def __init__(self, raw: bytes) -> None:
        self.whole = False
        self.headers: list[tuple[bytes, bytes]] = []
        self.url = b""
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            self.whole = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.whole = True


# The methods that llhttp knows, of those that the mutations make.
KNOWN = {"GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH"}


@settings(max_examples=1000, deadline=None)
@given(heads())
@example(b"GET / HTTP/1.1\r\nHost: x\r\n\tX: 1\r\n\r\n")
@example(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n")
def test_what_h11_refuses_is_refused(raw: bytes) -> None:
    ours = parsed(raw)
    if ours is None or raw.count(b"\r\n\r\n") > 1:
        return
    theirs = by_h11(raw)
    assert theirs is not None
    assert (theirs.method.decode().upper(), theirs.target) == (ours.method, ours.target)
    # h11 reduces a repeated field of one meaning; here it is refused before.
    assert [(name, value) for name, value in theirs.headers] == [
        (name, value.lower() if name == b"transfer-encoding" else value) for name, value in ours.headers
    ]


@settings(max_examples=1000, deadline=None)
@given(heads())
def test_what_llhttp_refuses_is_refused(raw: bytes) -> None:
    ours = parsed(raw)
    if ours is None or ours.method not in KNOWN or raw.split(b" ")[0] != ours.method.encode():
        return  # llhttp knows a list of methods; the gateway answers 405 for the others
    theirs = ByLlhttp(raw)
    if not ours.target.startswith((b"/", b"*")):
        return  # it also checks URLs in absolute form, which the gateway refuses altogether
    assert theirs.whole
    assert (theirs.url, theirs.headers) == (ours.target, ours.headers)
