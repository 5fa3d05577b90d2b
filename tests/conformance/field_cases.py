"""RFC 9113, sections 8.2, 8.3 and 8.5: the fields of a request, and those that make it malformed."""

from collections.abc import Iterator

from tests.conformance.expectations import MALFORMED, answered, either
from tests.conformance.pieces import Case, Head, block, data, whole

# A server may also answer what is malformed before it ends the stream (section 8.1.1).
MALFORMED_OR_400 = either(MALFORMED, answered(400))


def fields(head: Head) -> Iterator[Case]:
    for title, name in [
        ("upper case", b"X-Test"),
        ("a blank", b"x test"),
        ("a control character", b"x-\x01"),
        ("DEL", b"x-\x7f"),
        ("an octet above ASCII", b"x-\xe9"),
        ("a colon within", b"x:test"),
        ("a line end", b"x\r\n"),
        ("no character at all", b""),
    ]:
        yield Case("8.2.1", f"a field name with {title}", MALFORMED, (head.get(1, (name, b"1")),))
    for title, value in [
        ("NUL", b"a\x00b"),
        ("LF", b"a\nb"),
        ("CR", b"a\rb"),
        ("a blank in front", b" a"),
        ("a blank behind", b"a "),
        ("a tab in front", b"\ta"),
        ("a tab behind", b"a\t"),
    ]:
        yield Case("8.2.1", f"a field value with {title}", MALFORMED, (head.get(1, (b"x-test", value)),))
    for name, value in [
        (b"connection", b"keep-alive"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"websocket"),
        (b"te", b"trailers, deflate"),
        (b"te", b"gzip"),
    ]:
        yield Case("8.2.2", f"{name.decode()}: {value.decode()}", MALFORMED, (head.get(1, (name, value)),))
    yield Case(
        "8.2.2",
        "a connection-specific field in trailers",
        MALFORMED,
        (head.post(), data(1, b"{}"), whole(block((b"connection", b"close")))),
    )


def pseudo_fields(head: Head) -> Iterator[Case]:
    yield Case(
        "8.3", "an unknown pseudo-header field", MALFORMED, (whole(block(*head.pseudo(), (b":test", b"1"))),)
    )
    yield Case(
        "8.3",
        "a pseudo-header field of responses",
        MALFORMED,
        (whole(block(*head.pseudo(), (b":status", b"200"))),),
    )
    yield Case(
        "8.3",
        "a pseudo-header field in trailers",
        MALFORMED,
        (head.post(), data(1, b"{}"), whole(block((b":method", b"POST")))),
    )
    yield Case(
        "8.3",
        "a pseudo-header field after a regular one",
        MALFORMED,
        (whole(block(*head.pseudo()[:3], (b"x-test", b"1"), head.pseudo()[3])),),
    )
    for pair in head.pseudo():
        name = pair[0].decode()
        yield Case("8.3.1", f"{name} twice", MALFORMED, (whole(block(*head.pseudo(), pair)),))
        if name != ":authority":
            yield Case("8.3.1", f"no {name}", MALFORMED, (head.without(pair[0]),))
            yield Case("8.3.1", f"an empty {name}", MALFORMED, (head.with_instead(pair[0], b""),))
    yield Case("8.3.1", "neither authority nor host", MALFORMED_OR_400, (head.without(b":authority"),))
    yield Case("8.3.1", "an empty authority", MALFORMED_OR_400, (head.with_instead(b":authority", b""),))
    yield Case(
        "8.3.1",
        "an authority with a user",
        MALFORMED_OR_400,
        (head.with_instead(b":authority", b"me@" + head.authority),),
    )
    yield Case(
        "8.3.1", "a host unlike the authority", MALFORMED_OR_400, (head.get(1, (b"host", b"elsewhere.test")),)
    )
    yield Case(
        "8.3.1", "a path without its slash", MALFORMED_OR_400, (head.with_instead(b":path", head.path[1:]),)
    )
    yield Case(
        "8.3.1",
        "a path with a blank",
        MALFORMED_OR_400,
        (head.with_instead(b":path", head.path + b" HTTP/1.1"),),
    )
    yield Case("8.3.1", "* for anything but OPTIONS", MALFORMED_OR_400, (head.with_instead(b":path", b"*"),))
    connect = (b":method", b"CONNECT")
    yield Case(
        "8.5", "CONNECT with a scheme and a path", MALFORMED, (whole(block(connect, *head.pseudo()[1:])),)
    )
    yield Case("8.5", "CONNECT without an authority", MALFORMED, (whole(block(connect)),))
    yield Case(
        "8.5",
        ":protocol that was not offered",
        MALFORMED,
        (whole(block(connect, *head.pseudo()[1:], (b":protocol", b"websocket"))),),
    )


def cases(head: Head) -> Iterator[Case]:
    for part in (fields, pseudo_fields):
        yield from part(head)
