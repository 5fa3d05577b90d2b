"""RFC 9113, section 8, and RFC 7541: requests, their fields, and how those are packed."""

from collections.abc import Iterator

import hpack

from backend.http2 import frames
from backend.http2.frames import END_HEADERS, END_STREAM, Code, Setting
from tests.conformance.client import Client
from tests.conformance.expectations import (
    COMPRESSION,
    STREAM_PROTOCOL,
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
    Step,
    answer_of,
    block,
    continuation,
    data,
    goaway,
    headers,
    literal,
    padded,
    ping,
    prioritised,
    priority,
    rst_stream,
    setting,
    string,
    tiny_windows,
    whole,
    window_update,
)

MALFORMED = STREAM_PROTOCOL
# A server may also answer what is malformed before it ends the stream (section 8.1.1).
MALFORMED_OR_400 = either(STREAM_PROTOCOL, answered(400))


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


def packing(head: Head) -> Iterator[Case]:
    """HPACK that must be understood."""
    pseudo = (
        b"\x82"
        + (b"\x87" if head.scheme == b"https" else b"\x86")
        + b"\x04"
        + string(head.path)
        + b"\x01"
        + string(head.authority)
    )
    test, value = b"x-test", b"value"
    for section, title, field in [
        ("6.1", "an indexed field", b"\x90"),  # accept-encoding: gzip, deflate
        ("6.2.1", "a literal that enters the table, indexed name", b"\x7a" + string(value)),  # user-agent
        ("6.2.1", "a literal that enters the table, new name", b"\x40" + string(test) + string(value)),
        (
            "6.2.1",
            "a literal that enters the table, by Huffman",
            b"\x40" + string(test, huffman=True) + string(value, huffman=True),
        ),
        (
            "6.2.1",
            "a field of the table that was just entered",
            b"\x40" + string(test) + string(value) + b"\xbe",
        ),
        ("6.2.2", "a literal outside the table, indexed name", b"\x0f\x2b" + string(value)),
        ("6.2.2", "a literal outside the table, new name", b"\x00" + string(test) + string(value)),
        (
            "6.2.2",
            "a literal outside the table, by Huffman",
            b"\x00" + string(test, huffman=True) + string(value, huffman=True),
        ),
        ("6.2.3", "a literal never to be indexed, indexed name", b"\x1f\x2b" + string(value)),
        ("6.2.3", "a literal never to be indexed, new name", b"\x10" + string(test) + string(value)),
        (
            "6.2.3",
            "a literal never to be indexed, by Huffman",
            b"\x10" + string(test, huffman=True) + string(value, huffman=True),
        ),
        ("4.4", "an entry larger than the whole table", b"\x40" + string(test) + string(b"x" * 4096)),
    ]:
        yield Case(f"hpack {section}", title, answered(), (whole(pseudo + field),))
    yield Case("hpack 6.3", "a table size update in front", answered(), (whole(b"\x20" + pseudo),))
    yield Case(
        "hpack 6.3", "two table size updates in front", answered(), (whole(b"\x20\x3f\xe1\x1f" + pseudo),)
    )
    yield Case(
        "hpack 4.2",
        "an update in front of the second head",
        answered(stream=3),
        (whole(pseudo), whole(b"\x20" + pseudo, 3)),
    )
    yield Case(
        "hpack 2.2",
        "a field of an earlier stream's table",
        answered(stream=3),
        (whole(pseudo + b"\x40" + string(test) + string(value)), whole(pseudo + b"\xbe", 3)),
    )
    yield Case(
        "hpack 2.2",
        "the table is kept over a refused stream",
        answered(stream=3),
        (
            whole(
                pseudo + b"\x40" + string(b"Upper") + string(value) + b"\x40" + string(test) + string(value)
            ),
            whole(pseudo + b"\xbe", 3),
        ),
    )
    small: tuple[Step, ...] = (
        setting(Setting.HEADER_TABLE_SIZE, 0),
        _decodes_without_table,
        head.get(),
        answer_of(),
        head.get(3),
    )
    yield Case("hpack 4.2", "a client without a table is told so and understood", answered(stream=3), small)


async def _decodes_without_table(client: Client) -> None:
    """From the acknowledgement on the decoder insists on an update, and on a table of 0."""
    await client.until(lambda: client.acks == 2)
    client.decoder = hpack.Decoder()
    client.decoder.max_allowed_table_size = 0


def unpacking_errors(head: Head) -> Iterator[Case]:
    good = head.fields()
    for section, title, octets in [
        ("2.3.3", "an index beyond both tables", b"\xff\x80\x01"),
        ("2.3.3", "a name's index beyond both tables", b"\x7f\x80\x01" + string(b"x")),
        ("6.1", "index 0", b"\x80"),
        ("4.2", "a table size update at the end", b"\x20"),
        ("6.3", "a table size beyond SETTINGS_HEADER_TABLE_SIZE", b"\x3f\xe2\x1f"),
        ("5.1", "an integer that does not end", b"\xff" + b"\x80" * 20 + b"\x01"),
        ("5.1", "an integer cut off", b"\xff\x80"),
        (
            "5.2",
            "Huffman padding longer than 7 bits",
            b"\x00\x85\xf2\xb2\x4a\x84\xff" + b"\x84\x49\x50\x9f\xff",
        ),
        ("5.2", "Huffman padding of zeros", b"\x00\x01x" + b"\x83\x49\x50\x90"),
        ("5.2", "Huffman with EOS", b"\x00\x01x" + b"\x88\xf2\xb2\x4a\x84\xff\xff\xff\xff"),
        ("5.2", "a string longer than its block", b"\x00\x01x\x7e12"),
        ("6.2.2", "a literal without its value", b"\x00\x01x"),
    ]:
        fragment = octets + good if section == "6.3" else good + octets
        yield Case(f"hpack {section}", title, COMPRESSION, (whole(fragment),))
    yield Case(
        "hpack 4.2",
        "a table size update between fields",
        COMPRESSION,
        (whole(good + b"\x20" + literal(b"x", b"y")),),
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
    for part in (ordinary, lengths, fields, pseudo_fields, packing, unpacking_errors, limits):
        yield from part(head)
