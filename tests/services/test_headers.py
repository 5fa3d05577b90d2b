from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backend.errors import BadTarget
from backend.services.headers import (
    HOP_BY_HOP,
    Origin,
    Pair,
    Passage,
    check_host,
    check_target,
    content_length,
    first,
    request_id_or_none,
    to_client,
    to_upstream,
)

ORIGIN = Origin("192.0.2.7", "https", b"gateway.test", "1.1", "0123456789abcdef")
OWNED = (
    b"host",
    b"expect",
    b"forwarded",
    b"via",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-prefix",
    b"x-forwarded-proto",
    b"x-forwarded-server",
    b"x-original-url",
    b"x-real-ip",
    b"x-request-id",
    b"x-rewrite-url",
)
SET_BY_GATEWAY = [
    (b"x-forwarded-for", b"192.0.2.7"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-host", b"gateway.test"),
    (b"x-request-id", b"0123456789abcdef"),
    (b"via", b"1.1 avatar-gateway"),
]

names = st.sampled_from([b"x-a", b"x-b", b"accept", b"user-agent", b"cookie", b"authorization", *HOP_BY_HOP])
values = st.binary(max_size=8)
heads = st.lists(st.tuples(names, values), max_size=12)


def encoded(text: str, times: int) -> bytes:
    """Percent-encode every character, several times over."""
    raw = "".join(f"%{byte:02x}" for byte in text.encode("latin-1"))
    for _ in range(times - 1):
        raw = quote(raw, safe="")
    return raw.encode("ascii")


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"/a/b",
        b"//a///b",
        b"/a.b/.c/..d/d../...",
        b"/a/~b/%7e/%2f/%2F",
        b"/a%25b",
        b"/caf%c3%a9/%ff",
        b"/x;v=1/y,z/(1)!$&'*+=:@",
        b'/odd"<>|{}^`[]',
        b"/100%",
        b"/%zz",
    ],
)
def test_ordinary_and_odd_paths_pass(path: bytes) -> None:
    check_target(path)


@pytest.mark.parametrize("query", [b"", b"a=../..&b=%00", b"u=http://x/\\y", b"'|{}\"%7e%2F??", b"a/./b"])
def test_query_may_say_what_a_path_may_not(query: bytes) -> None:
    check_target(b"/a", query)


@pytest.mark.parametrize(
    "target",
    [b"", b"*", b"a", b"example.test:80", b"http://example.test/", b"?a=1", b"%2fa"],
)
def test_targets_that_are_not_origin_form_are_refused(target: bytes) -> None:
    with pytest.raises(BadTarget):
        check_target(target)


@pytest.mark.parametrize("dots", [".", ".."])
@pytest.mark.parametrize("after", ["", "/", "/b", ";v=1", "\\b"])
@pytest.mark.parametrize("times", [0, 1, 2, 3, 4, 9])
def test_dot_segment_is_refused_in_every_encoding(dots: str, after: str, times: int) -> None:
    tail = after.encode("ascii") if times == 0 else encoded(after, times)
    raw = dots.encode("ascii") if times == 0 else encoded(dots, times)
    for path in (b"/" + raw + tail, b"/a/" + raw + tail):
        with pytest.raises(BadTarget):
            check_target(path)


@pytest.mark.parametrize(
    "path",
    [
        b"/a/.%2e/b",
        b"/a/%2e./b",
        b"/a/%2E%2e",
        b"/a%2f..%2fb",
        b"/a%2F%2e%2E",
        b"/a/..%2f",
        b"/a/..%5cb",
        b"/a/%252e%252e/b",
        b"/a/%2%65%2e/b",
        b"/a/%c0%ae%c0%ae/b",
        b"/a%c0%afb",
        b"/a%C1%9cb",
    ],
)
def test_mixed_and_overlong_spellings_of_a_dot_segment_are_refused(path: bytes) -> None:
    with pytest.raises(BadTarget):
        check_target(path)


@pytest.mark.parametrize("byte", [*range(0x20), 0x7F])
@pytest.mark.parametrize("times", [0, 1, 2])
def test_control_character_is_refused_in_every_encoding(byte: int, times: int) -> None:
    raw = bytes([byte]) if times == 0 else encoded(chr(byte), times)
    with pytest.raises(BadTarget):
        check_target(b"/a" + raw + b"b")


@pytest.mark.parametrize("raw", [b"\\", b"%5c", b"%5C", b"%255c", b"%25255C"])
def test_backslash_is_refused_in_every_encoding(raw: bytes) -> None:
    with pytest.raises(BadTarget):
        check_target(b"/a" + raw + b"b")


@pytest.mark.parametrize("byte", [0x00, 0x0A, 0x0D, 0x20, 0x23, 0x7F, 0x80, 0xFF])
def test_raw_bytes_that_no_target_may_hold_are_refused_in_the_query_too(byte: int) -> None:
    with pytest.raises(BadTarget):
        check_target(b"/a", b"q=" + bytes([byte]))


def decoded_fully(path: bytes) -> bytes:
    for _ in range(50):
        once_more = unquote_to_bytes(path)
        if once_more == path:
            return path
        path = once_more
    raise AssertionError("no end")


pieces = st.sampled_from(
    [
        ".",
        "..",
        "/",
        "\\",
        "%2e",
        "%2E",
        "%2f",
        "%5c",
        "%25",
        "2e",
        "2f",
        "a",
        ";",
        "%00",
        "%0a",
        "~",
        "%7e",
        "é",
    ]
)


@given(st.lists(pieces, max_size=10).map("".join))
@example("a%252e%252e/")
@example("%2525252e.")
def test_no_accepted_path_means_a_dot_segment_after_any_number_of_decodings(text: str) -> None:
    path = b"/" + text.encode("latin-1")
    try:
        check_target(path)
    except BadTarget:
        return
    final = decoded_fully(path).replace(b"\\", b"/")
    assert not any(segment.split(b";")[0] in (b".", b"..") for segment in final.split(b"/"))
    assert all(0x20 <= byte != 0x7F for byte in final)
    assert b"\\" not in decoded_fully(path)


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_any_bytes_are_either_accepted_or_refused_and_nothing_else(path: bytes, query: bytes) -> None:
    try:
        check_target(b"/" + path, query)
    except BadTarget:
        return
    assert all(0x21 <= byte <= 0x7E for byte in path + query)


@given(heads)
def test_what_goes_upstream_keeps_order_and_duplicates(head: list[Pair]) -> None:
    sent = to_upstream(head, ORIGIN, Passage(authorization=True, cookies=True))
    named = {t.strip().lower() for n, v in head if n == b"connection" for t in v.split(b",")}
    kept = [pair for pair in head if pair[0] not in HOP_BY_HOP and pair[0] not in named]
    assert sent[: len(kept)] == kept


@given(heads)
def test_what_goes_back_keeps_order_and_duplicates(head: list[Pair]) -> None:
    named = {t.strip().lower() for n, v in head if n == b"connection" for t in v.split(b",")}
    kept = [pair for pair in head if pair[0] not in HOP_BY_HOP and pair[0] not in named]
    assert to_client(head, Passage(cookies=True)) == kept


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_hop_by_hop_header_ends_here_both_ways(name: bytes) -> None:
    head = [(name, b"x-whatever"), (b"x-kept", b"1")]
    assert name not in dict(to_upstream(head, ORIGIN))
    assert to_client(head) == [(b"x-kept", b"1")]


@pytest.mark.parametrize("value", [b"x-a", b"X-A", b" x-a ,x-b", b"close, X-a", b",,x-a"])
def test_header_named_by_connection_ends_here_both_ways(value: bytes) -> None:
    head = [(b"connection", value), (b"x-a", b"1"), (b"x-kept", b"2")]
    assert b"x-a" not in dict(to_upstream(head, ORIGIN))
    assert to_client(head) == [(b"x-kept", b"2")]


def test_every_connection_line_is_looked_at() -> None:
    head = [(b"connection", b"x-a"), (b"x-a", b"1"), (b"connection", b"x-b"), (b"x-b", b"2")]
    assert to_client(head) == []


@pytest.mark.parametrize("name", [name for name, _ in SET_BY_GATEWAY])
def test_connection_cannot_strike_out_what_the_gateway_says(name: bytes) -> None:
    sent = to_upstream([(b"connection", name)], ORIGIN)
    assert [pair for pair in sent if pair[0] == name] == [pair for pair in SET_BY_GATEWAY if pair[0] == name]


@pytest.mark.parametrize("name", OWNED)
def test_header_of_the_gateway_is_never_taken_from_outside(name: bytes) -> None:
    sent = to_upstream([(name, b"forged"), (name, b"forged")], ORIGIN)
    assert b"forged" not in [value for _, value in sent]


@given(heads)
def test_gateway_says_once_who_asked(head: list[Pair]) -> None:
    sent = to_upstream(head, ORIGIN)
    assert [pair for pair in sent if pair in SET_BY_GATEWAY] == SET_BY_GATEWAY
    assert all(first(sent, name) == value for name, value in SET_BY_GATEWAY)


@pytest.mark.parametrize(
    ("passage", "kept"),
    [
        (Passage(), []),
        (Passage(authorization=True), [b"authorization"]),
        (Passage(cookies=True), [b"cookie"]),
        (Passage(authorization=True, cookies=True), [b"authorization", b"cookie"]),
    ],
)
def test_credentials_pass_only_where_the_route_says_so(passage: Passage, kept: list[bytes]) -> None:
    head = [(b"authorization", b"Bearer t"), (b"cookie", b"a=1")]
    sent = to_upstream(head, ORIGIN, passage)
    assert [name for name, _ in sent if name in (b"authorization", b"cookie")] == kept


def test_silent_client_gets_the_gateways_own_words_and_no_others() -> None:
    assert to_upstream([], ORIGIN) == [
        (b"accept", b"*/*"),
        (b"user-agent", b"avatar-gateway"),
        *SET_BY_GATEWAY,
    ]


def test_what_the_client_says_of_itself_stays() -> None:
    head = [(b"accept", b"text/html"), (b"user-agent", b"browser")]
    assert to_upstream(head, ORIGIN) == [*head, *SET_BY_GATEWAY]


def test_each_set_cookie_stays_a_line_where_cookies_pass() -> None:
    head = [(b"set-cookie", b"a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT"), (b"set-cookie", b"b=2")]
    assert to_client(head, Passage(cookies=True)) == head
    assert to_client(head) == []


@pytest.mark.parametrize(
    "name", [b"server", b"x-powered-by", b"via", b"x-request-id", b"access-control-allow-origin"]
)
def test_upstream_tells_the_client_nothing_of_what_runs_behind(name: bytes) -> None:
    assert to_client([(name, b"1"), (b"etag", b'"x"')]) == [(b"etag", b'"x"')]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"0", 0), (b"12", 12), (b"", None), (b"-1", None), (b"1, 1", None), (b"0x1", None), (b"\xb2", None)],
)
def test_content_length_is_a_number_or_nothing(value: bytes, expected: int | None) -> None:
    assert content_length([(b"content-length", value)]) == expected
    assert content_length([]) is None


@pytest.mark.parametrize("value", [b"abcdefgh", b"A-b_c.9876", b"x" * 64])
def test_plain_request_id_is_taken_over(value: bytes) -> None:
    assert request_id_or_none(value) == value.decode("ascii")


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"short",
        b"x" * 65,
        b"with space here",
        b"line\nbreak",
        b"abcdefgh\n",
        b"<script>1",
        b"\xe9" * 9,
    ],
)
def test_hostile_request_id_is_not_taken_over(value: bytes | None) -> None:
    assert request_id_or_none(value) is None


def test_first_value_of_a_repeated_header_is_found() -> None:
    head = [(b"a", b"1"), (b"b", b"2"), (b"b", b"3")]
    assert first(head, b"b") == b"2"
    assert first(head, b"c") is None


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"localhost",
        b"localhost:8203",
        b"gateway.example.org:",
        b"[::1]:8203",
        b"127.0.0.1",
        b"a_b-c.d~e:1",
    ],
)
def test_names_and_addresses_with_a_port_are_hosts(host: bytes) -> None:
    check_host(host)


@pytest.mark.parametrize(
    "host",
    [
        b"a b",
        b"a/b",
        b"user@host",
        b"a:b",
        b"a:1:2",
        b"a\tb",
        b"a\x00b",
        b"a,b c",
        b"[::1",
        b"::1]",
        b"\xff",
        b"a?b",
        b"a#b",
        b"a\\b",
        b"a:123456",
        b"x" * 256,
    ],
)
def test_what_is_no_host_is_refused(host: bytes) -> None:
    with pytest.raises(BadTarget):
        check_host(host)
