"""RFC 9113, sections 3 to 7: starting, frames, streams, and each type of frame."""

from collections.abc import Iterator

from backend.http2 import frames
from backend.http2.frames import END_HEADERS, END_STREAM, PADDED, PREFACE, WITH_PRIORITY, Code, Setting, frame
from tests.conformance.client import Client
from tests.conformance.expectations import (
    Expectation,
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
    body_of,
    continuation,
    data,
    goaway,
    headers,
    padded,
    ping,
    priority,
    round_trip,
    rst_stream,
    setting,
    tiny_windows,
    window_update,
)

PROTOCOL = connection_error(Code.PROTOCOL_ERROR)
CLOSED = connection_error(Code.STREAM_CLOSED)
SIZE = connection_error(Code.FRAME_SIZE_ERROR)
FLOW = connection_error(Code.FLOW_CONTROL_ERROR)
COMPRESSION = connection_error(Code.COMPRESSION_ERROR)
STREAM_CLOSED = stream_error(Code.STREAM_CLOSED)
STREAM_PROTOCOL = stream_error(Code.PROTOCOL_ERROR)
EMPTY_SETTINGS = frame(frames.SETTINGS, 0, 0)
UNKNOWN = 0x16


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


def streams(head: Head) -> Iterator[Case]:
    yield from _idle_streams(head)
    yield from _ended_streams(head)
    get, more = head.get(1), head.fields()
    yield Case("5.1.1", "a stream with an even identifier", PROTOCOL, (head.get(2),))
    yield Case(
        "5.1.1", "an identifier below an earlier one", PROTOCOL, (head.get(5), answer_of(5), head.get(3))
    )
    yield Case("5.1.1", "an identifier used again", CLOSED, (get, answer_of(), get))
    yield Case(
        "5.1.1",
        "DATA on a stream that was skipped",
        connection_error(Code.STREAM_CLOSED, Code.PROTOCOL_ERROR),
        (head.get(5), answer_of(5), data(3, b"x")),
    )
    yield Case("5.1.1", "the highest identifier", answered(stream=2**31 - 1), (head.get(2**31 - 1),))
    yield Case(
        "5.1.2",
        "more streams than SETTINGS_MAX_CONCURRENT_STREAMS",
        shows("a stream refused", _one_was_refused),
        (_too_many(head), round_trip),
    )
    yield Case("5.1.2", "the connection outlives them", goes_on(), (_too_many(head),))
    depends = headers(1, b"\x00\x00\x00\x01\x0f" + more, END_HEADERS | END_STREAM | WITH_PRIORITY)
    yield Case("5.3.1", "HEADERS that depend on themselves", either(STREAM_PROTOCOL, PROTOCOL), (depends,))
    yield Case("5.3.1", "PRIORITY that depends on itself, idle", PROTOCOL, (priority(1, on=1),))
    yield Case(
        "5.3.1", "PRIORITY that depends on itself, open", STREAM_PROTOCOL, (head.post(), priority(1, on=1))
    )
    yield Case(
        "5.4.1",
        "GOAWAY names the last stream",
        shows("GOAWAY 5", lambda c: c.goaway is not None and c.goaway[0] == 5),
        (head.get(5), answer_of(5), ping(stream=1)),
    )
    yield Case(
        "5.4.1",
        "the connection is closed after the error",
        shows("closed", lambda c: c.closed),
        (ping(stream=1),),
    )
    yield Case(
        "5.4.2",
        "a stream error leaves other streams alone",
        answered(stream=3),
        (head.post(1, (b"content-length", b"1")), head.get(3), data(1, b"too long", END_STREAM)),
    )
    yield Case(
        "5.5",
        "an unknown type amid a body",
        answered(),
        (head.post(), frame(UNKNOWN, 0, 1, b"x"), data(1, b"{}", END_STREAM)),
    )
    yield Case("5.5", "an unknown setting", goes_on(), (setting(0xFE, 1),))


def _idle_streams(head: Head) -> Iterator[Case]:
    for title, octets in [
        ("DATA", data(1, b"x", END_STREAM)),
        ("RST_STREAM", rst_stream(1)),
        ("WINDOW_UPDATE", window_update(1, 100)),
        ("CONTINUATION", continuation(1, head.fields())),
    ]:
        yield Case("5.1", f"idle: {title}", PROTOCOL, (octets,))
    yield Case("5.1", "idle: PRIORITY", goes_on(), (priority(1),))


def _ended_streams(head: Head) -> Iterator[Case]:
    more = head.fields()
    # A window of 0 holds the answer back: the stream stays half-closed.
    half: tuple[Step, ...] = (tiny_windows(0), head.get(1), round_trip)
    yield Case("5.1", "half-closed (remote): DATA", STREAM_CLOSED, (*half, data(1, b"x", END_STREAM)))
    yield Case(
        "5.1",
        "half-closed (remote): HEADERS",
        STREAM_CLOSED,
        (*half, headers(1, more, END_HEADERS | END_STREAM)),
    )
    yield Case(
        "5.1",
        "half-closed (remote): CONTINUATION",
        connection_error(Code.STREAM_CLOSED, Code.PROTOCOL_ERROR),
        (*half, continuation(1, more)),
    )
    yield Case("5.1", "half-closed (remote): WINDOW_UPDATE", answered(), (*half, window_update(1, 2**20)))
    yield Case(
        "5.1", "half-closed (remote): PRIORITY", answered(), (*half, priority(1), window_update(1, 2**20))
    )
    yield Case("5.1", "half-closed (remote): RST_STREAM", goes_on(), (*half, rst_stream(1)))
    either_closed = either(CLOSED, STREAM_CLOSED)
    ends: list[tuple[str, tuple[Step, ...]]] = [
        ("RST_STREAM", (head.post(1), rst_stream(1), round_trip)),
        ("END_STREAM", (head.get(1), answer_of())),
    ]
    for how, steps in ends:
        yield Case("5.1", f"closed by {how}: DATA", either_closed, (*steps, data(1, b"x", END_STREAM)))
        yield Case(
            "5.1",
            f"closed by {how}: HEADERS",
            either_closed,
            (*steps, headers(1, more, END_HEADERS | END_STREAM)),
        )
        yield Case(
            "5.1",
            f"closed by {how}: CONTINUATION",
            connection_error(Code.STREAM_CLOSED, Code.PROTOCOL_ERROR),
            (*steps, continuation(1, more)),
        )
        yield Case("5.1", f"closed by {how}: PRIORITY", goes_on(), (*steps, priority(1)))
        yield Case("5.1", f"closed by {how}: WINDOW_UPDATE", goes_on(), (*steps, window_update(1, 1)))
        yield Case("5.1", f"closed by {how}: RST_STREAM", goes_on(), (*steps, rst_stream(1)))
    reset_by_server: tuple[Step, ...] = (head.post(1, (b"content-length", b"1")), data(1, b"xx"), round_trip)
    for title, octets in [
        ("DATA", data(1, b"x")),
        ("HEADERS", headers(1, more, END_HEADERS | END_STREAM)),
        ("WINDOW_UPDATE", window_update(1, 1)),
        ("RST_STREAM", rst_stream(1)),
    ]:
        yield Case("5.1", f"reset by the server, {title} under way", goes_on(), (*reset_by_server, octets))


def _too_many(head: Head) -> Step:
    async def open_them(client: Client) -> None:
        most = (client.settings or {}).get(Setting.MAX_CONCURRENT_STREAMS, 0)
        assert 0 < most < 10_000, "no limit was told"
        await client.send(*(head.post(2 * number + 1) for number in range(most + 1)))

    return open_them


def _one_was_refused(client: Client) -> bool:
    codes = {answer.reset for answer in client.answers.values()}
    return bool(codes & {Code.REFUSED_STREAM, Code.PROTOCOL_ERROR})


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


def small_frames(head: Head) -> Iterator[Case]:
    yield Case("6.3", "PRIORITY on stream 0", PROTOCOL, (priority(0),))
    for length in (4, 6):
        wrong = frame(frames.PRIORITY, 0, 1, bytes(length))
        yield Case(
            "6.3", f"PRIORITY of {length} octets", stream_error(Code.FRAME_SIZE_ERROR), (head.post(), wrong)
        )
    yield Case("6.4", "RST_STREAM on stream 0", PROTOCOL, (rst_stream(0),))
    for length in (3, 5):
        wrong = frame(frames.RST_STREAM, 0, 1, bytes(length))
        yield Case("6.4", f"RST_STREAM of {length} octets", SIZE, (head.post(), wrong))
    yield Case("6.4", "RST_STREAM on an even stream", PROTOCOL, (rst_stream(2),))
    yield Case(
        "6.6",
        "PUSH_PROMISE",
        PROTOCOL,
        (head.post(), frame(frames.PUSH_PROMISE, END_HEADERS, 1, frames.long(2) + head.fields())),
    )
    yield Case(
        "6.7",
        "PING comes back as it was",
        shows("the same PING", lambda c: b"abcdefgh" in c.pings),
        (ping(b"abcdefgh"),),
    )
    yield Case(
        "6.7",
        "PING with ACK is not answered",
        shows("one PING only", lambda c: c.pings == [b"second  "]),
        (ping(b"first   ", flags=frames.ACK), ping(b"second  ")),
    )
    yield Case("6.7", "PING on a stream", PROTOCOL, (ping(stream=1),))
    for length in (6, 9):
        yield Case("6.7", f"PING of {length} octets", SIZE, (ping(bytes(length)),))
    yield Case("6.8", "GOAWAY on a stream", PROTOCOL, (goaway(stream=1),))
    yield Case("6.8", "GOAWAY of 7 octets", SIZE, (frame(frames.GOAWAY, 0, 0, bytes(7)),))
    yield Case(
        "6.8",
        "streams that are open go on after the client's GOAWAY",
        answered(),
        (head.post(), goaway(), data(1, b"{}", END_STREAM)),
    )
    yield Case(
        "7",
        "an unknown error code in GOAWAY",
        answered(),
        (head.post(), goaway(0xFF), data(1, b"{}", END_STREAM)),
    )
    yield Case("7", "an unknown error code in RST_STREAM", goes_on(), (head.post(), rst_stream(1, 0xFF)))


def settings(head: Head) -> Iterator[Case]:
    yield Case(
        "6.5", "SETTINGS with ACK and a payload", SIZE, (frame(frames.SETTINGS, frames.ACK, 0, bytes(6)),)
    )
    yield Case("6.5", "SETTINGS on a stream", PROTOCOL, (frame(frames.SETTINGS, 0, 1),))
    yield Case("6.5", "SETTINGS of 3 octets", SIZE, (frame(frames.SETTINGS, 0, 0, bytes(3)),))
    for name, value, expects in [
        (Setting.ENABLE_PUSH, 2, PROTOCOL),
        (Setting.INITIAL_WINDOW_SIZE, 2**31, FLOW),
        (Setting.MAX_FRAME_SIZE, 2**14 - 1, PROTOCOL),
        (Setting.MAX_FRAME_SIZE, 2**24, PROTOCOL),
        (Setting.ENABLE_CONNECT_PROTOCOL, 2, PROTOCOL),
    ]:
        yield Case("6.5.2", f"{name.name} of {value}", expects, (setting(name, value),))
    for name, value in [
        (Setting.ENABLE_PUSH, 0),
        (Setting.ENABLE_PUSH, 1),
        (Setting.INITIAL_WINDOW_SIZE, 2**31 - 1),
        (Setting.MAX_FRAME_SIZE, 2**24 - 1),
        (Setting.MAX_CONCURRENT_STREAMS, 0),
        (Setting.MAX_HEADER_LIST_SIZE, 0),
        (Setting.HEADER_TABLE_SIZE, 2**32 - 1),
    ]:
        yield Case("6.5.2", f"{name.name} of {value}", answered(), (setting(name, value), head.get()))
    twice = setting(Setting.INITIAL_WINDOW_SIZE, 100)[9:] + setting(Setting.INITIAL_WINDOW_SIZE, 1)[9:]
    in_order: tuple[Step, ...] = (frame(frames.SETTINGS, 0, 0, twice), head.get(), body_of(1, 1))
    yield Case("6.5.3", "values are taken in the order they stand", goes_on(), in_order)
    yield Case(
        "6.5.3",
        "each SETTINGS is acknowledged",
        shows("three acknowledgements", lambda c: c.acks == 3),
        (EMPTY_SETTINGS, EMPTY_SETTINGS),
    )


def windows(head: Head) -> Iterator[Case]:
    yield Case("6.9", "WINDOW_UPDATE of 0 on the connection", PROTOCOL, (window_update(0, 0),))
    yield Case("6.9", "WINDOW_UPDATE of 0 on a stream", STREAM_PROTOCOL, (head.post(), window_update(1, 0)))
    for length in (3, 5):
        wrong = frame(frames.WINDOW_UPDATE, 0, 0, b"\x01" * length)
        yield Case("6.9", f"WINDOW_UPDATE of {length} octets", SIZE, (wrong,))
    one = tiny_windows(1)
    yield Case("6.9.1", "no more is sent than the window allows", goes_on(), (one, head.get(), body_of(1, 1)))
    yield Case(
        "6.9.1",
        "more is sent once the window opens",
        goes_on(),
        (one, head.get(), body_of(1, 1), window_update(1, 4), body_of(1, 5)),
    )
    yield Case("6.9.1", "the connection's window beyond 2^31-1", FLOW, (window_update(0, 2**31 - 1),))
    yield Case(
        "6.9.1",
        "a stream's window beyond 2^31-1",
        stream_error(Code.FLOW_CONTROL_ERROR),
        (head.post(), window_update(1, 2**31 - 1)),
    )
    yield Case(
        "6.9.1",
        "a body beyond the stream's window",
        stream_error(Code.FLOW_CONTROL_ERROR),
        (_more_than_allowed(head),),
    )
    yield Case(
        "6.9.1",
        "a body of the whole window",
        answered(),
        (head.post(), *[data(1, b" " * 2**14)] * 3, data(1, b"{}" + b" " * 16381, END_STREAM)),
    )
    yield Case(
        "6.9.1",
        "an empty DATA frame needs no window",
        answered(),
        (
            head.post(),
            data(1, b"{}" + b" " * 16382),
            *[data(1, b" " * 2**14)] * 2,
            data(1, b" " * 16383),
            data(1, b"", END_STREAM),
        ),
    )
    yield Case(
        "6.9.2",
        "SETTINGS change the windows of open streams",
        goes_on(),
        (tiny_windows(0), head.get(), round_trip, setting(Setting.INITIAL_WINDOW_SIZE, 1), body_of(1, 1)),
    )
    negative: tuple[Step, ...] = (
        tiny_windows(3),
        head.get(),
        body_of(1, 3),
        tiny_windows(2),
        window_update(1, 2),
        body_of(1, 4),
    )
    yield Case("6.9.2", "a window below 0 is kept account of", goes_on(), negative)
    too_wide: tuple[Step, ...] = (
        head.post(),
        window_update(1, 2**30),
        setting(Setting.INITIAL_WINDOW_SIZE, 2**31 - 1),
    )
    yield Case("6.9.2", "SETTINGS that widen a window beyond 2^31-1", FLOW, too_wide)
    yield Case(
        "6.9.2",
        "SETTINGS leave the connection's window alone",
        goes_on(),
        (setting(Setting.INITIAL_WINDOW_SIZE, 2**31 - 1), window_update(0, 2**31 - 1 - 65_535)),
    )


def _more_than_allowed(head: Head) -> Step:
    """Send more than both windows together can ever have been opened to, reading nothing between."""

    async def overrun(client: Client) -> None:
        await client.send(head.post(), data(1, b" " * 2**14) * 80)

    return overrun


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
    for section in (
        starting,
        framing,
        streams,
        data_and_headers,
        small_frames,
        settings,
        windows,
        continuations,
    ):
        yield from section(head)
