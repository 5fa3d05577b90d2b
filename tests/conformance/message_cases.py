"""RFC 9113, sections 8.1, 8.4 and 10.5: whole requests, their bodies, and how large they may be."""

from collections.abc import Iterator

from backend.http2 import frames
from backend.http2.frames import END_HEADERS, END_STREAM, Code, Setting
from tests.conformance.client import Client
from tests.conformance.expectations import (
    MALFORMED,
    answered,
    connection_error,
    either,
    goes_on,
    shows,
    stream_error,
)
from tests.conformance.pieces import (
    Case,
    Head,
    answer_of,
    block,
    continuation,
    data,
    goaway,
    headers,
    padded,
    ping,
    prioritised,
    priority,
    rst_stream,
    tiny_windows,
    whole,
    window_update,
)


def ordinary(head: Head) -> Iterator[Case]:
    """What every client does must simply work."""
    more = head.fields()
    for title, octets in [
        ("GET", head.get()),
        ("HEAD", whole(head.fields(method=b"HEAD"))),
        ("HEADERS with padding", padded(frames.HEADERS, 1, more, 200, END_HEADERS | END_STREAM)),
        ("HEADERS with priority", prioritised(1, more, weight=255)),
        ("HEADERS with priority on a stream that never was", prioritised(1, more, on=7)),
        ("HEADERS with exclusive priority", prioritised(1, more, on=0, exclusive=True)),
        ("PRIORITY before its HEADERS", priority(1, weight=0) + head.get()),
        ("HEADERS and CONTINUATION", headers(1, more[:9], END_STREAM) + continuation(1, more[9:])),
        ("POST with one DATA", head.post() + data(1, b"{}", END_STREAM)),
        ("POST with several DATA", head.post() + data(1, b"{") + data(1, b"}") + data(1, b"", END_STREAM)),
        ("POST with padded DATA", head.post() + padded(frames.DATA, 1, b"{}", 99, END_STREAM)),
        (
            "POST with its content-length",
            head.post(1, (b"content-length", b"2")) + data(1, b"{}", END_STREAM),
        ),
        ("POST with trailers", head.post() + data(1, b"{}") + whole(block((b"x-trailer", b"1")))),
        ("POST with a body that ends by an empty DATA", head.post() + data(1, b"", END_STREAM)),
        ("GET with content-length 0", head.get(1, (b"content-length", b"0"))),
        (
            "a request with host in place of authority",
            whole(block(*head.pseudo()[:3], (b"host", head.authority))),
        ),
        ("a request with host and authority alike", head.get(1, (b"host", head.authority))),
        ("te: trailers", head.get(1, (b"te", b"trailers"))),
        ("a cookie in several fields", head.get(1, (b"cookie", b"a=1"), (b"cookie", b"b=2"))),
        ("an empty field value", head.get(1, (b"x-empty", b""))),
        ("a field value above ASCII", head.get(1, (b"x-name", b"caf\xc3\xa9"))),
        (
            "OPTIONS *",
            whole(
                block(
                    (b":method", b"OPTIONS"),
                    (b":scheme", head.scheme),
                    (b":path", b"*"),
                    (b":authority", head.authority),
                )
            ),
        ),
    ]:
        yield Case("generic", title, answered(), (octets,))
    yield Case(
        "generic",
        "HEAD has no body",
        shows("no body", lambda c: c.answer(1).ended and not c.answer(1).body),
        (whole(head.fields(method=b"HEAD")),),
    )
    yield Case(
        "generic",
        "a hundred streams at a time",
        shows("all answered", lambda c: sum(a.status == 200 for a in c.answers.values()) == 100),
        (b"".join(head.get(2 * n + 1) for n in range(100)),),
    )
    yield Case(
        "generic",
        "many streams one after the other",
        answered(stream=99),
        tuple(step for n in range(50) for step in (head.get(2 * n + 1), answer_of(2 * n + 1))),
    )
    yield Case("generic", "RST_STREAM of an open stream", goes_on(), (head.post(), rst_stream(1)))
    yield Case(
        "generic",
        "WINDOW_UPDATE on the connection and a stream",
        answered(),
        (tiny_windows(0), head.get(), window_update(0, 1), window_update(1, 2**20)),
    )
    yield Case("generic", "PING amid a body", answered(), (head.post(), ping(), data(1, b"{}", END_STREAM)))
    yield Case("generic", "GOAWAY without streams", shows("closed", lambda c: c.closed), (goaway(),))


def lengths(head: Head) -> Iterator[Case]:
    def of(length: bytes) -> bytes:
        return head.post(1, (b"content-length", length))

    end = END_STREAM
    yield Case(
        "8.1",
        "a second HEADERS that does not end the request",
        MALFORMED,
        (head.post(), data(1, b"{}"), headers(1, block((b"x-trailer", b"1")))),
    )
    yield Case(
        "8.1",
        "trailers, then DATA",
        stream_error(Code.STREAM_CLOSED, Code.PROTOCOL_ERROR),
        (tiny_windows(0), head.post(), whole(block((b"x-trailer", b"1"))), data(1, b"x", end)),
    )
    yield Case("8.1.1", "a body shorter than content-length", MALFORMED, (of(b"3"), data(1, b"{}", end)))
    yield Case("8.1.1", "a body longer than content-length", MALFORMED, (of(b"1"), data(1, b"{}", end)))
    yield Case(
        "8.1.1",
        "several DATA that are not content-length",
        MALFORMED,
        (of(b"5"), data(1, b"{"), data(1, b"}", end)),
    )
    yield Case(
        "8.1.1", "no body in spite of content-length", MALFORMED, (head.get(1, (b"content-length", b"1")),)
    )
    yield Case(
        "8.1.1",
        "trailers before content-length is reached",
        MALFORMED,
        (of(b"3"), data(1, b"{}"), whole(block((b"x-trailer", b"1")))),
    )
    yield Case(
        "8.1.1",
        "two content-lengths",
        MALFORMED,
        (head.post(1, (b"content-length", b"2"), (b"content-length", b"3")), data(1, b"{}", end)),
    )
    yield Case("8.1.1", "a content-length that is no number", MALFORMED, (of(b"+2"), data(1, b"{}", end)))
    yield Case(
        "8.4",
        "nothing is pushed",
        shows("no even stream", lambda c: c.answer(1).ended and all(n % 2 for n in c.answers)),
        (head.get(),),
    )


def limits(head: Head) -> Iterator[Case]:
    """Not demanded of all servers, but of this one: section 10.5."""

    async def too_large(client: Client) -> None:
        most = (client.settings or {}).get(Setting.MAX_HEADER_LIST_SIZE, 0)
        assert most, "no limit was told"
        fields = head.fields(*[(b"x-%d" % n, b"x" * 4000) for n in range(most // 4000 + 1)])
        rest = [fields[at : at + 2**14] for at in range(0, len(fields), 2**14)]
        await client.send(
            headers(1, rest[0], END_STREAM),
            *(continuation(1, part, 0) for part in rest[1:]),
            continuation(1, b""),
        )

    over = either(
        answered(431),
        stream_error(Code.PROTOCOL_ERROR, Code.ENHANCE_YOUR_CALM),
        connection_error(Code.ENHANCE_YOUR_CALM),
    )
    yield Case("10.5.1", "fields beyond SETTINGS_MAX_HEADER_LIST_SIZE", over, (too_large,))
    yield Case("10.5.1", "and the connection goes on", goes_on(), (too_large, answer_of()))


def cases(head: Head) -> Iterator[Case]:
    for part in (ordinary, lengths, limits):
        yield from part(head)
