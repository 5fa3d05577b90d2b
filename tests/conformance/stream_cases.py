"""RFC 9113, section 5: streams, their states, their identifiers, their errors."""

from collections.abc import Iterator

from backend.http2.frames import END_HEADERS, END_STREAM, WITH_PRIORITY, Code, Setting, frame
from tests.conformance.client import Client
from tests.conformance.expectations import (
    CLOSED,
    PROTOCOL,
    STREAM_CLOSED,
    STREAM_PROTOCOL,
    answered,
    connection_error,
    either,
    goes_on,
    shows,
)
from tests.conformance.pieces import (
    UNKNOWN,
    Case,
    Head,
    Step,
    answer_of,
    continuation,
    data,
    headers,
    ping,
    priority,
    round_trip,
    rst_stream,
    setting,
    tiny_windows,
    window_update,
)


def cases(head: Head) -> Iterator[Case]:
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
