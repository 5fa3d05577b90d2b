"""RFC 9113, sections 3, 4, 6.1, 6.2 and 6.10: starting, framing, and frames that carry a message."""

from collections.abc import Iterator

from backend.http2 import frames
from backend.http2.frames import END_HEADERS, END_STREAM, PADDED, PREFACE, WITH_PRIORITY, Code, frame
from tests.conformance.expectations import (
    COMPRESSION,
    PROTOCOL,
    SIZE,
    Expectation,
    answered,
    connection_error,
    either,
    goes_on,
    shows,
    stream_error,
)
from tests.conformance.pieces import (
    EMPTY_SETTINGS,
    UNKNOWN,
    Case,
    Head,
    continuation,
    data,
    headers,
    padded,
    ping,
    priority,
    rst_stream,
    window_update,
)


def starting(head: Head) -> Iterator[Case]:
    def raw(title: str, expects: Expectation, *octets: bytes) -> Case:
        return Case("3.4", title, expects, octets, handshake=False)

    yield raw(
        "the preface is answered by SETTINGS first",
        shows("SETTINGS", lambda c: c.first == frames.SETTINGS),
        PREFACE,
        EMPTY_SETTINGS,
    )
    yield raw(
        "the client's SETTINGS are acknowledged",
        shows("SETTINGS with ACK", lambda c: c.acks == 1),
        PREFACE,
        EMPTY_SETTINGS,
    )
    yield raw("a request right behind the preface", answered(), PREFACE, EMPTY_SETTINGS, head.get())
    yield raw("PING in place of SETTINGS", PROTOCOL, PREFACE, ping())
    yield raw("HEADERS in place of SETTINGS", PROTOCOL, PREFACE, head.get())
    yield raw(
        "SETTINGS with ACK in place of SETTINGS", PROTOCOL, PREFACE, frame(frames.SETTINGS, frames.ACK, 0)
    )
    # What is no preface may also be read as HTTP/1.1 where HTTP/2 was not agreed on before.
    no_http2 = either(PROTOCOL, shows("closed", lambda c: c.closed))
    yield raw("a preface with a wrong version", no_http2, PREFACE.replace(b"2.0", b"2.1"), EMPTY_SETTINGS)
    yield raw("octets that are no preface", no_http2, b"INVALID CONNECTION PREFACE\r\n\r\n")


def framing(head: Head) -> Iterator[Case]:
    yield Case("4.1", "an unknown type is ignored", goes_on(), (frame(UNKNOWN, 0, 0, b"x" * 8),))
    yield Case(
        "4.1",
        "an unknown type on an open stream is ignored",
        answered(),
        (head.post(), frame(UNKNOWN, 0xFF, 1, b"x"), data(1, b"{}", END_STREAM)),
    )
    yield Case(
        "4.1", "undefined flags are ignored", shows("PING", lambda c: bool(c.pings)), (ping(flags=0x16),)
    )
    yield Case(
        "4.1",
        "the reserved bit is ignored",
        shows("PING", lambda c: bool(c.pings)),
        (b"\x00\x00\x08\x06\x00\x80\x00\x00\x00" + b"reserved",),
    )
    yield Case(
        "4.2",
        "DATA of 2^14 octets",
        answered(),
        (head.post(), data(1, b" " * 2**14), data(1, b"{}", END_STREAM)),
    )
    yield Case(
        "4.2",
        "DATA larger than SETTINGS_MAX_FRAME_SIZE",
        either(SIZE, stream_error(Code.FRAME_SIZE_ERROR)),
        (head.post(), data(1, bytes(2**14 + 1), END_STREAM)),
    )
    yield Case(
        "4.2",
        "HEADERS larger than SETTINGS_MAX_FRAME_SIZE",
        SIZE,
        (headers(1, head.fields((b"x-long", b"x" * 2**14)), END_HEADERS | END_STREAM),),
    )
    yield Case(
        "4.2",
        "SETTINGS larger than SETTINGS_MAX_FRAME_SIZE",
        SIZE,
        (frame(frames.SETTINGS, 0, 0, bytes(6 * 2731)),),
    )
    yield Case(
        "4.2",
        "an unknown type larger than SETTINGS_MAX_FRAME_SIZE",
        SIZE,
        (frame(UNKNOWN, 0, 0, bytes(2**14 + 1)),),
    )
    yield Case(
        "4.3",
        "a field block that cannot be decoded",
        COMPRESSION,
        (headers(1, b"\x40\xff\xff\xff", END_HEADERS | END_STREAM),),
    )
    yield Case(
        "4.3",
        "trailers that cannot be decoded",
        COMPRESSION,
        (head.post(), headers(1, b"\x40\xff\xff\xff", END_HEADERS | END_STREAM)),
    )
    begun = headers(1, head.fields(), END_STREAM)
    for title, amid in [
        ("PRIORITY", priority(1)),
        ("HEADERS of another stream", head.get(3)),
        ("DATA", data(1, b"x")),
        ("PING", ping()),
        ("SETTINGS", EMPTY_SETTINGS),
        ("WINDOW_UPDATE", window_update(0, 1)),
        ("RST_STREAM of its stream", rst_stream(1)),
        ("an unknown type", frame(UNKNOWN, 0, 0)),
    ]:
        yield Case("4.3", f"{title} amid a field block", PROTOCOL, (begun, amid))


def data_and_headers(head: Head) -> Iterator[Case]:
    more = head.fields()
    yield Case("6.1", "DATA on stream 0", PROTOCOL, (data(0, b"x"),))
    yield Case(
        "6.1",
        "DATA with padding as long as its payload",
        PROTOCOL,
        (head.post(), frame(frames.DATA, PADDED | END_STREAM, 1, b"\x06{}123")),
    )
    yield Case(
        "6.1",
        "DATA with padding longer than its payload",
        PROTOCOL,
        (head.post(), frame(frames.DATA, PADDED, 1, b"\xff{}")),
    )
    yield Case(
        "6.1",
        "padded DATA without a padding length",
        either(SIZE, PROTOCOL),
        (head.post(), frame(frames.DATA, PADDED, 1)),
    )
    yield Case(
        "6.1",
        "DATA that is all padding",
        answered(),
        (head.post(), padded(frames.DATA, 1, b"", 255), data(1, b"{}", END_STREAM)),
    )
    yield Case(
        "6.1",
        "padding counts against the window and is given back",
        shows("WINDOW_UPDATE", lambda c: 1 in c.windows),
        (head.post(), *[padded(frames.DATA, 1, b" ", 255)] * 200),
    )
    yield Case("6.2", "HEADERS on stream 0", PROTOCOL, (headers(0, more, END_HEADERS | END_STREAM),))
    yield Case(
        "6.2",
        "HEADERS with padding longer than its payload",
        PROTOCOL,
        (frame(frames.HEADERS, END_HEADERS | END_STREAM | PADDED, 1, b"\xff" + more[:20]),),
    )
    yield Case(
        "6.2",
        "padded HEADERS without a padding length",
        either(SIZE, PROTOCOL),
        (frame(frames.HEADERS, END_HEADERS | PADDED, 1),),
    )
    yield Case(
        "6.2",
        "HEADERS too short for its priority",
        either(SIZE, PROTOCOL),
        (frame(frames.HEADERS, END_HEADERS | END_STREAM | WITH_PRIORITY, 1, b"\x00\x00"),),
    )
    yield Case(
        "6.2",
        "HEADERS without END_HEADERS, then another stream's",
        PROTOCOL,
        (headers(1, more, END_STREAM), head.get(3)),
    )


def continuations(head: Head) -> Iterator[Case]:
    more = head.fields()
    cut = [more[:10], more[10:20], more[20:]]
    yield Case(
        "6.10",
        "two CONTINUATION",
        answered(),
        (headers(1, cut[0], END_STREAM), continuation(1, cut[1], 0), continuation(1, cut[2])),
    )
    yield Case(
        "6.10", "an empty CONTINUATION", answered(), (headers(1, more, END_STREAM), continuation(1, b""))
    )
    yield Case(
        "6.10",
        "CONTINUATION, then DATA without END_HEADERS",
        PROTOCOL,
        (headers(1, cut[0], END_STREAM), continuation(1, cut[1], 0), data(1, b"x")),
    )
    yield Case(
        "6.10",
        "CONTINUATION on stream 0",
        PROTOCOL,
        (headers(1, cut[0], END_STREAM), continuation(0, more[10:])),
    )
    yield Case(
        "6.10",
        "CONTINUATION of another stream",
        PROTOCOL,
        (headers(1, cut[0], END_STREAM), continuation(3, more[10:])),
    )
    yield Case(
        "6.10",
        "CONTINUATION after END_HEADERS",
        connection_error(Code.PROTOCOL_ERROR, Code.STREAM_CLOSED),
        (head.post(), continuation(1, b"")),
    )
    yield Case(
        "6.10",
        "CONTINUATION after a CONTINUATION with END_HEADERS",
        connection_error(Code.PROTOCOL_ERROR, Code.STREAM_CLOSED),
        (headers(1, cut[0], 0), continuation(1, more[10:]), continuation(1, b"")),
    )
    yield Case(
        "6.10", "CONTINUATION after DATA", PROTOCOL, (head.post(), data(1, b"{"), continuation(1, more))
    )


def cases(head: Head) -> Iterator[Case]:
    for section in (starting, framing, data_and_headers, continuations):
        yield from section(head)
